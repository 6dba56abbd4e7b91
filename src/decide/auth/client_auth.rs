//! The server's part towards a client that wants in.

use crate::config::AuthMethod;

use super::credential::Credential;
use super::error::{AuthError, FailedBecause};
use super::md5::Md5Hash;
use super::request::AuthRequest;
use super::scram::{self, AwaitClientFinal, AwaitClientFirst, Binding, Verdict};
use super::verifier::{MockSecret, ScramVerifier, Verifier};

/// The longest body of a `p` message that a client may send here (PostgreSQL's `PG_MAX_SASL_MESSAGE_LENGTH`; an md5
/// response is shorter). Whoever reads the message refuses a longer one unread.
pub const MAX_RESPONSE: usize = 1024;

/// What an exchange starts from.
pub struct Begin<'a> {
    /// What the rules demand: see [`super::admit`].
    pub method: AuthMethod,
    pub user: &'a str,
    /// `None`: there is no such user, or it has no password. The exchange takes place all the same.
    pub verifier: Option<&'a Verifier>,
    /// The `tls-server-end-point` hash of our certificate if the connection is encrypted with it, and it has one.
    pub channel_binding: Option<&'a [u8]>,
    /// The common name of the client's certificate, if the client has shown one that was verified.
    pub certificate_name: Option<&'a str>,
    pub mock: &'a MockSecret,
    pub random: Random,
}

/// Fresh random bytes for one exchange, in either role. Never use them twice.
pub struct Random {
    pub nonce: [u8; scram::NONCE],
    pub md5_salt: [u8; 4],
}

/// An authentication that waits for the client's next `p` message.
pub struct ClientAuth {
    user: String,
    state: State,
}

/// What to do next.
pub enum Next {
    /// Send the request, wait for a `p` message, give its body to [`ClientAuth::on_response`].
    Ask(ClientAuth, AuthRequest),
    /// The client is who it says. Send `last` if there is one, then [`AuthRequest::Ok`].
    Done { last: Option<AuthRequest>, credential: Credential },
}

enum State {
    Md5 {
        salt: [u8; 4],
        hash: Md5Hash,
        credential: Credential,
    },
    /// SASLInitialResponse is due.
    Mechanism(Sasl),
    /// The client chose a mechanism but has sent no client-first-message yet.
    ClientFirst {
        exchange: AwaitClientFirst,
        source: Source,
    },
    ClientFinal {
        exchange: AwaitClientFinal,
        source: Source,
    },
}

struct Sasl {
    verifier: ScramVerifier,
    source: Source,
    channel_binding: Option<Box<[u8]>>,
    nonce: [u8; scram::NONCE],
}

/// Where the SCRAM verifier of an exchange comes from.
enum Source {
    /// The password is known.
    Password(Credential),
    Verifier,
    /// Made up: whatever the proof, the exchange fails.
    Mock(FailedBecause),
}

impl ClientAuth {
    /// Starts the exchange that `method` demands. `Trust` and `Cert` are done at once.
    ///
    /// # Errors
    /// `Reject`, and `Cert` without the right certificate.
    #[expect(clippy::needless_pass_by_value, reason = "its random bytes must not be used for another exchange")]
    pub fn begin(begin: Begin<'_>) -> Result<Next, AuthError> {
        match (begin.method, begin.verifier) {
            (AuthMethod::Reject, _) => Err(AuthError::Rejected(format!("user \"{}\"", begin.user))),
            (AuthMethod::Trust, verifier) => Ok(Next::Done { last: None, credential: without_proof(verifier) }),
            (AuthMethod::Cert, verifier) => {
                check_certificate(begin.user, begin.certificate_name)?;
                Ok(Next::Done { last: None, credential: without_proof(verifier) })
            }
            (AuthMethod::Md5, Some(Verifier::Md5(hash))) => {
                Ok(ask_md5(&begin, hash.clone(), Credential::Md5(hash.clone())))
            }
            (AuthMethod::Md5, Some(Verifier::Password { password, .. })) => {
                let hash = Md5Hash::of(password.expose(), begin.user);
                Ok(ask_md5(&begin, hash, Credential::password(password.clone())))
            }
            (AuthMethod::Md5 | AuthMethod::Scram, _) => Ok(ask_sasl(&begin)),
        }
    }

    /// Takes the body of a `p` message.
    ///
    /// # Errors
    /// The client is not let in: tell it, and close.
    pub fn on_response(self, body: &[u8]) -> Result<Next, AuthError> {
        if body.len() > MAX_RESPONSE {
            return Err(AuthError::Malformed("too long"));
        }
        match self.state {
            State::Md5 { salt, hash, credential } => {
                let [response @ .., 0] = body else { return Err(AuthError::Malformed("unterminated password")) };
                if !hash.verify(salt, response) {
                    return Err(failed(self.user, FailedBecause::WrongPassword));
                }
                Ok(Next::Done { last: None, credential })
            }
            State::Mechanism(sasl) => sasl.on_initial_response(self.user, body),
            State::ClientFirst { exchange, source } => on_client_first(self.user, exchange, source, body),
            State::ClientFinal { exchange, source } => on_client_final(self.user, exchange, source, body),
        }
    }
}

/// Whether the verified TLS client certificate is the user's: its common name is the user's name.
///
/// # Errors
/// [`AuthError::Certificate`] if there is none, or it is another's.
pub fn check_certificate(user: &str, common_name: Option<&str>) -> Result<(), AuthError> {
    match common_name {
        Some(name) if name == user => Ok(()),
        _ => Err(AuthError::Certificate { user: user.to_owned() }),
    }
}

impl Sasl {
    /// SASLInitialResponse: the mechanism's name, a zero byte, the length of what follows (-1: nothing), and that.
    fn on_initial_response(self, user: String, body: &[u8]) -> Result<Next, AuthError> {
        let malformed = AuthError::Malformed;
        let name_end = memchr::memchr(0, body).ok_or(malformed("unterminated SASL mechanism"))?;
        let (length, initial) = body[name_end + 1..].split_first_chunk().ok_or(malformed("no SASL response length"))?;
        let length = i32::from_be_bytes(*length);
        let binding = match (&body[..name_end], self.channel_binding) {
            (b"SCRAM-SHA-256-PLUS", Some(hash)) => Binding::EndPoint(hash),
            (b"SCRAM-SHA-256", Some(_)) => Binding::Declined,
            (b"SCRAM-SHA-256", None) => Binding::NotOffered,
            _ => return Err(malformed("the client selected an invalid SASL authentication mechanism")),
        };
        let exchange = AwaitClientFirst { verifier: self.verifier, binding, nonce: self.nonce };
        match usize::try_from(length) {
            Ok(length) if length == initial.len() => on_client_first(user, exchange, self.source, initial),
            Err(_) if length == -1 && initial.is_empty() => {
                let state = State::ClientFirst { exchange, source: self.source };
                Ok(Next::Ask(ClientAuth { user, state }, AuthRequest::SaslContinue(Vec::new())))
            }
            _ => Err(malformed("wrong SASL response length")),
        }
    }
}

fn on_client_first(
    user: String,
    exchange: AwaitClientFirst,
    source: Source,
    message: &[u8],
) -> Result<Next, AuthError> {
    let (exchange, server_first) = exchange.on(message)?;
    let state = State::ClientFinal { exchange, source };
    Ok(Next::Ask(ClientAuth { user, state }, AuthRequest::SaslContinue(server_first)))
}

fn on_client_final(
    user: String,
    exchange: AwaitClientFinal,
    source: Source,
    message: &[u8],
) -> Result<Next, AuthError> {
    // A mock goes through every step before it fails: neither an answer nor the time taken tells it from a wrong password.
    let (credential, server_final) = match (exchange.on(message)?, source) {
        (_, Source::Mock(because)) => return Err(failed(user, because)),
        (Verdict::WrongProof, _) => return Err(failed(user, FailedBecause::WrongPassword)),
        (Verdict::Proven { server_final, .. }, Source::Password(credential)) => (credential, server_final),
        (Verdict::Proven { server_final, keys }, Source::Verifier) => (Credential::Scram(keys), server_final),
    };
    Ok(Next::Done { last: Some(AuthRequest::SaslFinal(server_final)), credential })
}

fn ask_md5(begin: &Begin<'_>, hash: Md5Hash, credential: Credential) -> Next {
    let salt = begin.random.md5_salt;
    let state = State::Md5 { salt, hash, credential };
    Next::Ask(ClientAuth { user: begin.user.to_owned(), state }, AuthRequest::Md5Password { salt })
}

fn ask_sasl(begin: &Begin<'_>) -> Next {
    let mock = |because| (ScramVerifier::mock(begin.user, begin.mock), Source::Mock(because));
    let (verifier, source) = match begin.verifier {
        Some(Verifier::Scram(verifier)) => (verifier.clone(), Source::Verifier),
        Some(Verifier::Password { password, scram }) => {
            (scram.clone(), Source::Password(Credential::password(password.clone())))
        }
        Some(Verifier::Md5(_)) => mock(FailedBecause::OnlyMd5Known),
        None => mock(FailedBecause::NoVerifier),
    };
    let channel_binding = begin.channel_binding.map(Box::from);
    let plus = channel_binding.is_some().then(|| scram::MECHANISM_PLUS.to_owned());
    let mechanisms = plus.into_iter().chain([scram::MECHANISM.to_owned()]).collect();
    let sasl = Sasl { verifier, source, channel_binding, nonce: begin.random.nonce };
    let auth = ClientAuth { user: begin.user.to_owned(), state: State::Mechanism(sasl) };
    Next::Ask(auth, AuthRequest::Sasl { mechanisms })
}

/// What is left for the servers when the client had to prove nothing.
fn without_proof(verifier: Option<&Verifier>) -> Credential {
    match verifier {
        Some(Verifier::Password { password, .. }) => Credential::password(password.clone()),
        Some(Verifier::Md5(hash)) => Credential::Md5(hash.clone()),
        // A verifier alone does not log in: the ClientKey comes from a proof only.
        Some(Verifier::Scram(_)) | None => Credential::Absent,
    }
}

fn failed(user: String, because: FailedBecause) -> AuthError {
    AuthError::Failed { user, because }
}
