//! SCRAM's server role (PostgreSQL `src/backend/libpq/auth-scram.c`), with which pgpilot meets its clients.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::credential::ScramKeys;
use super::super::error::AuthError;
use super::super::verifier::ScramVerifier;
use super::attributes::{Attributes, is_printable};
use super::{GS2_END_POINT, Key, NONCE};

/// What the mechanism that the client chose says of channel binding.
pub(in super::super) enum Binding {
    /// SCRAM-SHA-256, and -PLUS was not in our list.
    NotOffered,
    /// SCRAM-SHA-256, although -PLUS was in our list.
    Declined,
    /// SCRAM-SHA-256-PLUS: the hash of our certificate.
    EndPoint(Box<[u8]>),
}

/// The mechanism is chosen; the client-first-message is due.
pub(in super::super) struct AwaitClientFirst {
    pub(in super::super) verifier: ScramVerifier,
    pub(in super::super) binding: Binding,
    pub(in super::super) nonce: [u8; NONCE],
}

/// Salt and nonce are sent; the client-final-message is due.
pub(in super::super) struct AwaitClientFinal {
    verifier: ScramVerifier,
    /// The gs2 header and the channel's data, as the client has to repeat them.
    binding_input: Vec<u8>,
    nonce: Vec<u8>,
    /// `client-first-message-bare "," server-first-message ","`: the beginning of AuthMessage.
    transcript: Vec<u8>,
}

/// How an exchange without protocol errors ends.
pub(in super::super) enum Verdict {
    /// The server-final-message, and what the proof revealed.
    Proven {
        server_final: Vec<u8>,
        keys: ScramKeys,
    },
    WrongProof,
}

impl AwaitClientFirst {
    /// Takes the client-first-message, gives the server-first-message.
    ///
    /// # Errors
    /// A message that breaks the syntax or contradicts the mechanism, and what PostgreSQL does not support.
    pub(in super::super) fn on(self, message: &[u8]) -> Result<(AwaitClientFinal, Vec<u8>), AuthError> {
        let (gs2, bare) = split_gs2(message, &self.binding)?;
        let client_nonce = client_nonce(bare).map_err(AuthError::Malformed)?;
        let nonce = [client_nonce, STANDARD.encode(self.nonce).as_bytes()].concat();
        let salt = STANDARD.encode(&self.verifier.salt);
        let server_first =
            [b"r=", &nonce[..], b",s=", salt.as_bytes(), format!(",i={}", self.verifier.iterations).as_bytes()]
                .concat();
        let data: &[u8] = if let Binding::EndPoint(hash) = &self.binding { hash } else { &[] };
        let next = AwaitClientFinal {
            binding_input: [gs2, data].concat(),
            transcript: [bare, b",", &server_first, b","].concat(),
            verifier: self.verifier,
            nonce,
        };
        Ok((next, server_first))
    }
}

impl AwaitClientFinal {
    /// Takes the client-final-message.
    ///
    /// # Errors
    /// A message that breaks the syntax, another nonce, or another channel.
    pub(in super::super) fn on(self, message: &[u8]) -> Result<Verdict, AuthError> {
        let response = ClientFinal::parse(message).map_err(AuthError::Malformed)?;
        if response.binding != STANDARD.encode(&self.binding_input).as_bytes() {
            return Err(AuthError::ChannelBinding);
        }
        if response.nonce != self.nonce {
            return Err(AuthError::Malformed("SCRAM nonce mismatch"));
        }
        let auth_message: [&[u8]; 2] = [&self.transcript, response.without_proof];
        let client_key = response.proof.xor(&self.verifier.stored_key.hmac(&auth_message));
        if client_key.hash() != self.verifier.stored_key {
            return Ok(Verdict::WrongProof);
        }
        let signature = self.verifier.server_key.hmac(&auth_message);
        Ok(Verdict::Proven {
            server_final: format!("v={}", STANDARD.encode(signature.as_bytes())).into_bytes(),
            keys: ScramKeys {
                salt: self.verifier.salt,
                iterations: self.verifier.iterations,
                client_key,
                server_key: self.verifier.server_key,
            },
        })
    }
}

/// Splits a client-first-message after its gs2 header, `flag "," [authzid] ","`.
fn split_gs2<'a>(message: &'a [u8], binding: &Binding) -> Result<(&'a [u8], &'a [u8]), AuthError> {
    let malformed = |what| Err(AuthError::Malformed(what));
    let flag = match message {
        [b'p', ..] => {
            let Binding::EndPoint(_) = binding else {
                return malformed("channel binding data with SCRAM-SHA-256");
            };
            &GS2_END_POINT[..GS2_END_POINT.len() - 2]
        }
        [b'n' | b'y', ..] if matches!(binding, Binding::EndPoint(_)) => {
            return malformed("no channel binding data with SCRAM-SHA-256-PLUS");
        }
        [b'y', ..] if matches!(binding, Binding::Declined) => return Err(AuthError::Downgrade),
        [b'y' | b'n', ..] => &message[..1],
        _ => return malformed("unexpected channel binding flag"),
    };
    match message.strip_prefix(flag) {
        None => malformed("unsupported channel binding type"),
        Some([b',', b'a', ..]) => Err(AuthError::Unsupported("authorization identity is not supported")),
        Some([b',', b',', b'm', ..]) => Err(AuthError::Unsupported("unsupported mandatory SCRAM extension")),
        Some([b',', b',', ..]) => Ok(message.split_at(flag.len() + 2)),
        Some(_) => malformed("comma expected after the channel binding flag"),
    }
}

/// The nonce in `n=user,r=nonce[,extensions]`. The name is ignored, as PostgreSQL does: the start-up message has it.
fn client_nonce(bare: &[u8]) -> Result<&[u8], &'static str> {
    let mut attributes = Attributes::new(bare);
    attributes.expect(b'n')?;
    let nonce = attributes.expect(b'r')?;
    while !attributes.is_at_end() {
        attributes.next()?;
    }
    if is_printable(nonce) { Ok(nonce) } else { Err("non-printable characters in SCRAM nonce") }
}

/// `c=binding,r=nonce[,extensions],p=proof`
struct ClientFinal<'a> {
    binding: &'a [u8],
    nonce: &'a [u8],
    without_proof: &'a [u8],
    proof: Key,
}

impl<'a> ClientFinal<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, &'static str> {
        let mut attributes = Attributes::new(message);
        let binding = attributes.expect(b'c')?;
        let nonce = attributes.expect(b'r')?;
        let (end, proof) = loop {
            let start = attributes.position();
            if let (b'p', proof) = attributes.next()? {
                break (start - 1, proof);
            }
        };
        if !attributes.is_at_end() || message.ends_with(b",") {
            return Err("garbage at the end of the SCRAM message");
        }
        let proof = STANDARD.decode(proof).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let proof = proof.map(Key::from).ok_or("malformed SCRAM proof")?;
        Ok(Self { binding, nonce, without_proof: &message[..end], proof })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifier() -> ScramVerifier {
        ScramVerifier::derive("pencil", &STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096)
    }

    const NONCE_OF_EXAMPLE: &str = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

    /// RFC 7677 section 3: the server that expects `nonce` gets the example's proof.
    fn example(nonce: &str) -> Result<Verdict, AuthError> {
        let sent = NONCE_OF_EXAMPLE;
        let transcript = format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={sent},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,");
        let server = AwaitClientFinal {
            verifier: verifier(),
            binding_input: b"n,,".to_vec(),
            nonce: nonce.as_bytes().to_vec(),
            transcript: transcript.into_bytes(),
        };
        let message = format!("c=biws,r={sent},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        server.on(message.as_bytes())
    }

    #[test]
    fn the_example_of_the_rfc() {
        let Verdict::Proven { server_final, keys } = example(NONCE_OF_EXAMPLE).unwrap() else { panic!("not proven") };
        assert_eq!(server_final, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(keys.client_key.hash() == verifier().stored_key);
    }

    #[test]
    fn a_proof_over_another_nonce_is_refused() {
        let replayed = example("rOprNGfwEbeRWgbNEkqOanother").err();
        assert_eq!(replayed, Some(AuthError::Malformed("SCRAM nonce mismatch")));
    }

    /// The binding, the message, the SQLSTATE (`None`: accepted), as PostgreSQL answers.
    #[test]
    fn the_gs2_header_has_to_fit_the_mechanism() {
        let plus = || Binding::EndPoint([1, 2, 3].into());
        let table: [(Binding, &str, Option<&str>); 19] = [
            (Binding::NotOffered, "n,,n=,r=x", None),
            (Binding::NotOffered, "y,,n=,r=x", None),
            (Binding::Declined, "n,,n=,r=x", None),
            (plus(), "p=tls-server-end-point,,n=,r=x", None),
            (Binding::NotOffered, "n,,n=someone else,r=x,e=ignored", None),
            (Binding::Declined, "y,,n=,r=x", Some("28000")),
            (Binding::Declined, "p=tls-server-end-point,,n=,r=x", Some("08P01")),
            (Binding::NotOffered, "p=tls-server-end-point,,n=,r=x", Some("08P01")),
            (plus(), "n,,n=,r=x", Some("08P01")),
            (plus(), "y,,n=,r=x", Some("08P01")),
            (plus(), "p=tls-unique,,n=,r=x", Some("08P01")),
            (plus(), "p=tls-server-end-pointx,,n=,r=x", Some("08P01")),
            (Binding::NotOffered, "n,a=root,n=,r=x", Some("0A000")),
            (Binding::NotOffered, "n,,m=must,n=,r=x", Some("0A000")),
            (Binding::NotOffered, "n,n=,r=x", Some("08P01")),
            (Binding::NotOffered, "z,,n=,r=x", Some("08P01")),
            (Binding::NotOffered, "n,,r=x,n=", Some("08P01")),
            (Binding::NotOffered, "n,,n=,r=x\u{7f}", Some("08P01")),
            (Binding::NotOffered, "n,,n=,r=x,,", Some("08P01")),
        ];
        for (binding, message, expected) in table {
            let server = AwaitClientFirst { verifier: verifier(), binding, nonce: [0; NONCE] };
            assert_eq!(server.on(message.as_bytes()).err().map(|e| e.sqlstate()), expected, "{message}");
        }
    }
}
