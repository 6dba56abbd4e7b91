//! SCRAM's client role (PostgreSQL `src/interfaces/libpq/fe-auth-scram.c`), with which pgpilot logs in to a server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config;

use super::super::credential::ScramKeys;
use super::super::error::LoginError;
use super::attributes::{Attributes, is_printable, iteration_count};
use super::{GS2_END_POINT, Key, MAX_ITERATIONS, NONCE, derive};

/// What the proof is made from.
pub(in super::super) enum Secret {
    /// The keys are derived, unless those at hand belong to the server's salt and iteration count.
    Password { password: config::Secret, keys: Option<ScramKeys> },
    /// Only for a server with this salt and iteration count.
    Keys(ScramKeys),
}

/// The channel binding flag (RFC 5802 section 6).
pub(in super::super) enum ChannelSupport {
    /// `n`: no TLS, or a certificate that has no end-point hash.
    None,
    /// `y`: we could, but the server did not offer it.
    ServerDoesNot,
    /// `p`: the hash of the server's certificate.
    EndPoint(Vec<u8>),
}

/// The client-first-message is sent; the server-first-message is due.
pub(in super::super) struct AwaitServerFirst {
    secret: Secret,
    nonce: String,
    /// The gs2 header and the channel's data.
    binding_input: Vec<u8>,
    bare: String,
}

/// The proof is sent; the server-final-message is due.
pub(in super::super) struct AwaitServerFinal {
    expected_signature: Key,
    keys: ScramKeys,
}

impl AwaitServerFirst {
    /// Gives the client-first-message. The user's name stays empty, as with libpq: the start-up message has it.
    pub(in super::super) fn begin(secret: Secret, channel: ChannelSupport, nonce: [u8; NONCE]) -> (Self, Vec<u8>) {
        let nonce = STANDARD.encode(nonce);
        let (gs2, data): (&[u8], Vec<u8>) = match channel {
            ChannelSupport::None => (b"n,,", Vec::new()),
            ChannelSupport::ServerDoesNot => (b"y,,", Vec::new()),
            ChannelSupport::EndPoint(hash) => (GS2_END_POINT, hash),
        };
        let bare = format!("n=,r={nonce}");
        let message = [gs2, bare.as_bytes()].concat();
        (Self { secret, nonce, binding_input: [gs2, &data].concat(), bare }, message)
    }

    /// Takes the server-first-message, gives the client-final-message.
    ///
    /// # Errors
    /// A malformed message, a nonce that does not begin with ours, keys that belong to another verifier.
    pub(in super::super) fn on(self, message: &[u8]) -> Result<(AwaitServerFinal, Vec<u8>), LoginError> {
        let first = ServerFirst::parse(message, &self.nonce).map_err(LoginError::Malformed)?;
        let keys = keys_for(self.secret, &first)?;
        let without_proof = [b"c=", STANDARD.encode(&self.binding_input).as_bytes(), b",r=", first.nonce].concat();
        let auth_message = [self.bare.as_bytes(), b",", message, b",", &without_proof];
        let proof = keys.client_key.xor(&keys.client_key.hash().hmac(&auth_message));
        let expected_signature = keys.server_key.hmac(&auth_message);
        let client_final = [&without_proof, &b",p="[..], STANDARD.encode(proof.as_bytes()).as_bytes()].concat();
        Ok((AwaitServerFinal { expected_signature, keys }, client_final))
    }
}

impl AwaitServerFinal {
    /// Takes the server-final-message; gives the keys, now that the server has shown that it knows them, too.
    ///
    /// # Errors
    /// A malformed message, a wrong signature, `e=`.
    pub(in super::super) fn on(self, message: &[u8]) -> Result<ScramKeys, LoginError> {
        match Attributes::new(message).next().map_err(LoginError::Malformed)? {
            (b'v', encoded) => {
                let signature = STANDARD.decode(encoded).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                let signature = Key::from(signature.ok_or(LoginError::Malformed("malformed SCRAM signature"))?);
                if signature == self.expected_signature { Ok(self.keys) } else { Err(LoginError::ServerSignature) }
            }
            (b'e', _) => Err(LoginError::Refused),
            _ => Err(LoginError::Malformed("unexpected SCRAM attribute")),
        }
    }
}

fn keys_for(secret: Secret, first: &ServerFirst<'_>) -> Result<ScramKeys, LoginError> {
    let belongs = |keys: &ScramKeys| *keys.salt == *first.salt && keys.iterations == first.iterations;
    match secret {
        Secret::Keys(keys) | Secret::Password { keys: Some(keys), .. } if belongs(&keys) => Ok(keys),
        Secret::Keys(_) => Err(LoginError::OtherVerifier),
        Secret::Password { .. } if first.iterations > MAX_ITERATIONS => {
            Err(LoginError::TooManyIterations(first.iterations))
        }
        Secret::Password { password, .. } => Ok(derive(password.expose(), &first.salt, first.iterations)),
    }
}

/// `r=nonce,s=salt,i=iterations[,extensions]`
struct ServerFirst<'a> {
    nonce: &'a [u8],
    salt: Vec<u8>,
    iterations: u32,
}

impl<'a> ServerFirst<'a> {
    fn parse(message: &'a [u8], our_nonce: &str) -> Result<Self, &'static str> {
        let mut attributes = Attributes::new(message);
        let nonce = attributes.expect(b'r')?;
        let theirs = nonce.strip_prefix(our_nonce.as_bytes()).ok_or("SCRAM nonce mismatch")?;
        if theirs.is_empty() || !is_printable(theirs) {
            return Err("the server added nothing usable to the SCRAM nonce");
        }
        let salt = STANDARD.decode(attributes.expect(b's')?).map_err(|_| "malformed SCRAM salt")?;
        let iterations = iteration_count(attributes.expect(b'i')?).ok_or("malformed SCRAM iteration count")?;
        Ok(Self { nonce, salt, iterations })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 section 3, up to the proof.
    fn example() -> (AwaitServerFinal, Vec<u8>) {
        let password = config::Secret::new("pencil".to_owned());
        let client = AwaitServerFirst {
            secret: Secret::Password { password, keys: None },
            nonce: "rOprNGfwEbeRWgbNEkqO".to_owned(),
            binding_input: b"n,,".to_vec(),
            bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".to_owned(),
        };
        let first = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        client.on(first).unwrap()
    }

    #[test]
    fn the_example_of_the_rfc() {
        let (client, client_final) = example();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(String::from_utf8(client_final).unwrap(), expected);
        assert!(client.on(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").is_ok());
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_found_out() {
        let on = |message: &[u8]| example().0.on(message).err();
        assert_eq!(on(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Some(LoginError::ServerSignature));
        assert_eq!(on(b"e=invalid-proof"), Some(LoginError::Refused));
        for bad in [&b""[..], b"v=", b"v=6rriTRBi", b"x=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="] {
            assert!(matches!(on(bad), Some(LoginError::Malformed(_))));
        }
    }

    #[test]
    fn a_server_that_breaks_the_protocol_is_refused() {
        let on = |message: &str| {
            let password = config::Secret::new("pencil".to_owned());
            let secret = Secret::Password { password, keys: None };
            let (client, _) = AwaitServerFirst::begin(secret, ChannelSupport::None, [0; NONCE]);
            client.on(message.replace("NONCE", &client_nonce()).as_bytes()).err()
        };
        assert_eq!(on("r=NONCEx,s=AAAA,i=1"), None);
        assert_eq!(on("r=NONCEx,s=AAAA,i=1,z=later"), None);
        assert_eq!(on("r=NONCEx,s=AAAA,i=2000000"), Some(LoginError::TooManyIterations(2_000_000)));
        for bad in [
            "",
            "r=NONCEx",
            "r=NONCEx,s=AAAA",
            "r=NONCE,s=AAAA,i=1",
            "r=AAAAx,s=AAAA,i=1",
            "r=NONCEx,s=A,i=1",
            "r=NONCEx,s=AAAA,i=0",
            "r=NONCEx,s=AAAA,i=",
            "r=NONCEx,s=AAAA,i=+1",
            "r=NONCEx,s=AAAA,i=4294967296",
            "m=x,r=NONCEx,s=AAAA,i=1",
            "s=AAAA,r=NONCEx,i=1",
        ] {
            assert!(matches!(on(bad), Some(LoginError::Malformed(_))), "{bad}");
        }
    }

    fn client_nonce() -> String {
        STANDARD.encode([0; NONCE])
    }
}
