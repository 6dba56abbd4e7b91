//! Both machines against each other, and each against messages that were cut or changed.

use proptest::prelude::*;

use crate::config::{AuthMethod, Secret};

use super::*;

const USER: &str = "app";
const HASH: &[u8] = b"hash of a certificate";

/// A client's attempt to log in to pgpilot, with our own client role in its place.
struct Attempt {
    method: AuthMethod,
    verifier: Option<Verifier>,
    credential: Credential,
    server_binding: Option<&'static [u8]>,
    client_binding: Option<&'static [u8]>,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    /// What the login is left with: first pgpilot, then its client.
    In(Credential, Credential),
    Refused(AuthError),
    GaveUp(LoginError),
}

/// Something that changes the client's messages on their way; gets the number of the message and its body.
type Meddler<'a> = &'a dyn Fn(usize, &mut Vec<u8>);

impl Attempt {
    fn scram(password: &str) -> Self {
        Self {
            method: AuthMethod::Scram,
            verifier: Some(scram_verifier("secret")),
            credential: Credential::password(Secret::new(password.to_owned())),
            server_binding: None,
            client_binding: None,
        }
    }

    fn run(&self) -> Outcome {
        self.run_with(&|_, _| {})
    }

    fn run_with(&self, meddle: Meddler<'_>) -> Outcome {
        let mock = MockSecret([9; 32]);
        let begin = Begin {
            method: self.method,
            user: USER,
            verifier: self.verifier.as_ref(),
            channel_binding: self.server_binding,
            certificate_name: None,
            mock: &mock,
            random: Random { nonce: [1; 18], md5_salt: [1, 2, 3, 4] },
        };
        let binding = self.client_binding.map(<[u8]>::to_vec);
        let mut login = ServerLogin::new(USER, self.credential.clone(), binding, [2; 18]);
        let mut next = match ClientAuth::begin(begin) {
            Ok(next) => next,
            Err(error) => return Outcome::Refused(error),
        };
        for number in 0.. {
            assert!(number < 5, "the exchange does not end");
            let (auth, request) = match next {
                Next::Ask(auth, request) => (auth, request),
                Next::Done { last, credential } => return finish(login, last, credential),
            };
            let mut reply = match login.on_request(&body_of(&request)) {
                Ok(LoginStep::Reply(after, message)) => {
                    login = after;
                    message[5..].to_vec()
                }
                Ok(_) => panic!("the login is silent although it was asked"),
                Err(error) => return Outcome::GaveUp(error),
            };
            meddle(number, &mut reply);
            next = match auth.on_response(&reply) {
                Ok(next) => next,
                Err(error) => return Outcome::Refused(error),
            };
        }
        unreachable!()
    }
}

fn finish(mut login: ServerLogin, last: Option<AuthRequest>, ours: Credential) -> Outcome {
    for request in last.into_iter().chain([AuthRequest::Ok]) {
        login = match login.on_request(&body_of(&request)) {
            Ok(LoginStep::Expect(after)) => after,
            Ok(LoginStep::Done(theirs)) => return Outcome::In(ours, theirs),
            Ok(LoginStep::Reply(..)) => panic!("the login answers although all is said"),
            Err(error) => return Outcome::GaveUp(error),
        };
    }
    panic!("Ok did not end the login")
}

fn body_of(request: &AuthRequest) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.write(&mut bytes);
    bytes.split_off(5)
}

fn scram_verifier(password: &str) -> Verifier {
    Verifier::Scram(ScramVerifier::derive(password, &[3; 16], 16))
}

fn is_wrong_password(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused(AuthError::Failed { because: FailedBecause::WrongPassword, .. }))
}

#[test]
fn scram_lets_the_right_password_in_alone() {
    let Outcome::In(Credential::Scram(_), Credential::Password { keys: Some(_), .. }) = Attempt::scram("secret").run()
    else {
        panic!("refused")
    };
    assert!(is_wrong_password(&Attempt::scram("Secret").run()));
}

#[test]
fn channel_binding_is_used_where_both_have_it() {
    let bound = |server, client| Attempt { server_binding: server, client_binding: client, ..Attempt::scram("secret") };
    let table = [
        (Some(HASH), Some(HASH), "SCRAM-SHA-256-PLUS", b'p'),
        (Some(HASH), None, "SCRAM-SHA-256", b'n'),
        (None, Some(HASH), "SCRAM-SHA-256", b'y'),
        (None, None, "SCRAM-SHA-256", b'n'),
    ];
    for (server, client, mechanism, flag) in table {
        let outcome = bound(server, client).run_with(&|number, reply| {
            if number == 0 {
                assert_eq!(reply.split(|&b| b == 0).next(), Some(mechanism.as_bytes()));
                assert_eq!(reply[mechanism.len() + 5], flag);
            }
        });
        assert!(matches!(outcome, Outcome::In(..)), "{outcome:?}");
    }
    // Someone in the middle shows the client another certificate.
    let outcome = bound(Some(HASH), Some(b"another")).run();
    assert_eq!(outcome, Outcome::Refused(AuthError::ChannelBinding));
}

#[test]
fn a_hidden_plus_is_noticed() {
    let attempt = Attempt { server_binding: Some(HASH), client_binding: None, ..Attempt::scram("secret") };
    let outcome = attempt.run_with(&|number, reply| {
        if number == 0 {
            let flag = reply.iter().rposition(|&b| b == 0).unwrap() + 2;
            assert_eq!(reply[flag], b'n');
            reply[flag] = b'y';
        }
    });
    assert_eq!(outcome, Outcome::Refused(AuthError::Downgrade));
}

#[test]
fn the_key_of_a_proof_logs_in_where_the_verifier_is_the_same() {
    let Outcome::In(pass_through, _) = Attempt::scram("secret").run() else { panic!("refused") };
    let with = |credential: &Credential, verifier| {
        Attempt { verifier: Some(verifier), credential: credential.clone(), ..Attempt::scram("") }.run()
    };
    let Outcome::In(again, _) = with(&pass_through, scram_verifier("secret")) else { panic!("refused") };
    assert!(again == pass_through);
    let other_salt = Verifier::Scram(ScramVerifier::derive("secret", &[4; 16], 16));
    let other_count = Verifier::Scram(ScramVerifier::derive("secret", &[3; 16], 17));
    assert_eq!(with(&pass_through, other_salt), Outcome::GaveUp(LoginError::OtherVerifier));
    assert_eq!(with(&pass_through, other_count), Outcome::GaveUp(LoginError::OtherVerifier));
    assert!(is_wrong_password(&with(&pass_through, scram_verifier("changed"))));
}

#[test]
fn derived_keys_are_used_again_only_for_their_salt() {
    let Outcome::In(_, learned) = Attempt::scram("secret").run() else { panic!("refused") };
    assert!(matches!(learned, Credential::Password { keys: Some(_), .. }));
    let other_salt = Verifier::Scram(ScramVerifier::derive("secret", &[4; 16], 16));
    for verifier in [scram_verifier("secret"), other_salt] {
        let attempt = Attempt { verifier: Some(verifier), credential: learned.clone(), ..Attempt::scram("") };
        assert!(matches!(attempt.run(), Outcome::In(..)));
    }
}

#[test]
fn a_password_setting_serves_every_method_and_stays_a_password() {
    for method in [AuthMethod::Scram, AuthMethod::Md5, AuthMethod::Trust] {
        let verifier = Verifier::from_password(Secret::new("secret".to_owned()), [5; 16]);
        let attempt = Attempt { method, verifier: Some(verifier), ..Attempt::scram("secret") };
        assert!(matches!(attempt.run(), Outcome::In(Credential::Password { .. }, _)), "{method:?}");
    }
}

#[test]
fn md5_works_from_the_password_and_from_the_hash() {
    let stored = Md5Hash::of("secret", USER);
    let attempt = |credential| Attempt {
        method: AuthMethod::Md5,
        verifier: Some(Verifier::Md5(stored.clone())),
        credential,
        ..Attempt::scram("")
    };
    let password = |text: &str| Credential::password(Secret::new(text.to_owned()));
    let Outcome::In(Credential::Md5(_), _) = attempt(password("secret")).run() else { panic!("refused") };
    let Outcome::In(..) = attempt(Credential::Md5(stored.clone())).run() else { panic!("refused") };
    assert!(is_wrong_password(&attempt(password("Secret")).run()));
    assert!(matches!(attempt(Credential::Absent).run(), Outcome::GaveUp(LoginError::CredentialKind { .. })));
    // A SCRAM verifier makes `md5` a SCRAM exchange, as with PostgreSQL.
    let scram = Attempt { method: AuthMethod::Md5, ..Attempt::scram("secret") };
    assert!(matches!(scram.run(), Outcome::In(Credential::Scram(_), _)));
}

#[test]
fn an_unknown_user_cannot_be_told_from_a_wrong_password() {
    let md5 = Verifier::Md5(Md5Hash::of("secret", USER));
    for (verifier, because) in [(None, FailedBecause::NoVerifier), (Some(md5), FailedBecause::OnlyMd5Known)] {
        let unknown = Attempt { verifier, ..Attempt::scram("secret") }.run();
        assert_eq!(unknown, Outcome::Refused(AuthError::Failed { user: USER.to_owned(), because }));
        let (Outcome::Refused(unknown), Outcome::Refused(wrong)) = (unknown, Attempt::scram("wrong").run()) else {
            panic!("not refused")
        };
        assert_eq!((unknown.to_string(), unknown.sqlstate()), (wrong.to_string(), wrong.sqlstate()));
    }
}

#[test]
fn cert_and_reject_are_decided_at_once() {
    let mock = MockSecret([9; 32]);
    let begin = |method, certificate_name| {
        let random = Random { nonce: [1; 18], md5_salt: [0; 4] };
        let (verifier, channel_binding) = (None, None);
        ClientAuth::begin(Begin {
            method,
            user: USER,
            verifier,
            channel_binding,
            certificate_name,
            mock: &mock,
            random,
        })
    };
    assert!(matches!(
        begin(AuthMethod::Cert, Some(USER)),
        Ok(Next::Done { last: None, credential: Credential::Absent })
    ));
    for name in [None, Some("ap"), Some("App"), Some("")] {
        assert!(matches!(begin(AuthMethod::Cert, name), Err(AuthError::Certificate { .. })));
    }
    assert!(matches!(begin(AuthMethod::Reject, None), Err(AuthError::Rejected(_))));
}

#[test]
fn a_mechanism_without_a_first_message_is_asked_for_it() {
    let mock = MockSecret([9; 32]);
    let verifier = scram_verifier("secret");
    let begin = Begin {
        method: AuthMethod::Scram,
        user: USER,
        verifier: Some(&verifier),
        channel_binding: None,
        certificate_name: None,
        mock: &mock,
        random: Random { nonce: [1; 18], md5_salt: [0; 4] },
    };
    let Ok(Next::Ask(auth, _)) = ClientAuth::begin(begin) else { panic!("not asked") };
    let Ok(Next::Ask(auth, request)) = auth.on_response(b"SCRAM-SHA-256\0\xff\xff\xff\xff") else {
        panic!("not asked")
    };
    assert_eq!(request, AuthRequest::SaslContinue(vec![]));
    let Ok(Next::Ask(_, AuthRequest::SaslContinue(first))) = auth.on_response(b"n,,n=,r=abc") else {
        panic!("not asked")
    };
    assert!(first.starts_with(b"r=abc"));
}

#[test]
fn no_cut_and_no_changed_byte_gets_in() {
    for (number, length) in [(0, 50), (1, 104)] {
        for at in 0..length {
            let cut = Attempt::scram("secret").run_with(&|n, reply| {
                if n == number {
                    assert_eq!(reply.len(), length);
                    reply.truncate(at);
                }
            });
            assert!(matches!(cut, Outcome::Refused(_)), "message {number} cut at {at}");
            for bit in 0..8 {
                let changed = Attempt::scram("secret").run_with(&|n, reply| {
                    if n == number {
                        reply[at] ^= 1 << bit;
                    }
                });
                assert!(!matches!(changed, Outcome::In(..)), "message {number}, byte {at}, bit {bit}");
            }
        }
    }
}

#[test]
fn a_server_that_skips_its_proof_is_not_believed() {
    let start = || ServerLogin::new(USER, Credential::password(Secret::new("secret".to_owned())), None, [2; 18]);
    let sasl = body_of(&AuthRequest::Sasl { mechanisms: vec!["SCRAM-SHA-256".to_owned()] });
    let Ok(LoginStep::Reply(login, _)) = start().on_request(&sasl) else { panic!("no reply") };
    let out_of_order = Some(LoginError::Malformed("out of order"));
    assert_eq!(login.on_request(&body_of(&AuthRequest::Ok)).err(), out_of_order);
    let Ok(LoginStep::Reply(login, _)) = start().on_request(&sasl) else { panic!("no reply") };
    assert_eq!(login.on_request(&body_of(&AuthRequest::CleartextPassword)).err(), out_of_order);
    let gss = start().on_request(&body_of(&AuthRequest::Other(7)));
    assert_eq!(gss.err(), Some(LoginError::UnsupportedMethod(7)));
    let unknown = start().on_request(&body_of(&AuthRequest::Sasl { mechanisms: vec!["OAUTHBEARER".to_owned()] }));
    assert_eq!(unknown.err(), Some(LoginError::NoCommonMechanism));
}

#[test]
fn a_password_in_clear_comes_from_a_password_only() {
    let ask = body_of(&AuthRequest::CleartextPassword);
    let login = |credential| ServerLogin::new(USER, credential, None, [2; 18]).on_request(&ask);
    let Ok(LoginStep::Reply(_, message)) = login(Credential::password(Secret::new("secret".to_owned()))) else {
        panic!("no reply")
    };
    assert_eq!(message, b"p\0\0\0\x0bsecret\0");
    let refused = login(Credential::Md5(Md5Hash::of("secret", USER)));
    assert!(matches!(refused.err(), Some(LoginError::CredentialKind { .. })));
}

proptest! {
    #[test]
    fn arbitrary_responses_neither_panic_nor_get_in(bodies in prop::collection::vec(".{0,80}", 3), raw in prop::collection::vec(any::<u8>(), 0..100)) {
        let outcome = Attempt::scram("secret").run_with(&|number, reply| {
            *reply = if number == 1 { raw.clone() } else { bodies[number.min(2)].clone().into_bytes() };
        });
        prop_assert!(!matches!(outcome, Outcome::In(..)));
        let outcome = Attempt::scram("secret").run_with(&|number, reply| {
            if number == 1 { *reply = raw.clone() }
        });
        prop_assert!(!matches!(outcome, Outcome::In(..)));
    }

    #[test]
    fn an_arbitrary_server_does_not_make_the_login_panic(requests in prop::collection::vec((0..13_i32, prop::collection::vec(any::<u8>(), 0..60)), 1..5)) {
        let mut login = ServerLogin::new(USER, Credential::password(Secret::new("secret".to_owned())), None, [2; 18]);
        for (code, data) in requests {
            let body = [&code.to_be_bytes()[..], &data].concat();
            login = match login.on_request(&body) {
                Ok(LoginStep::Reply(next, _) | LoginStep::Expect(next)) => next,
                Ok(LoginStep::Done(_)) | Err(_) => return Ok(()),
            };
        }
    }

    #[test]
    fn arbitrary_text_is_no_verifier(text in ".{0,60}") {
        prop_assert!(Verifier::parse(&text).is_err());
        let _ = Verifier::parse(&format!("SCRAM-SHA-256${text}"));
    }

    #[test]
    fn any_password_proves_itself(password in ".{1,20}") {
        let attempt = Attempt { verifier: Some(scram_verifier(&password)), ..Attempt::scram(&password) };
        prop_assert!(matches!(attempt.run(), Outcome::In(..)));
    }
}
