//! The `R` message: what a server demands of a client. The same type in both roles.

/// One Authentication message (protocol documentation, "Message Formats").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthRequest {
    Ok,
    CleartextPassword,
    Md5Password {
        salt: [u8; 4],
    },
    /// The names of the mechanisms, the preferred one first.
    Sasl {
        mechanisms: Vec<String>,
    },
    SaslContinue(Vec<u8>),
    SaslFinal(Vec<u8>),
    /// Kerberos, GSSAPI, SSPI, or one that did not exist when this was written.
    Other(i32),
}

/// An Authentication message that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed Authentication message")]
pub struct MalformedRequest;

const OK: i32 = 0;
const CLEARTEXT: i32 = 3;
const MD5: i32 = 5;
const SASL: i32 = 10;
const SASL_CONTINUE: i32 = 11;
const SASL_FINAL: i32 = 12;

impl AuthRequest {
    /// Appends the whole message: `R`, length, code, and what the code needs.
    pub fn write(&self, out: &mut Vec<u8>) {
        message(out, b'R', |out| {
            out.extend_from_slice(&self.code().to_be_bytes());
            match self {
                Self::Ok | Self::CleartextPassword | Self::Other(_) => {}
                Self::Md5Password { salt } => out.extend_from_slice(salt),
                Self::Sasl { mechanisms } => {
                    for name in mechanisms {
                        out.extend_from_slice(name.as_bytes());
                        out.push(0);
                    }
                    out.push(0);
                }
                Self::SaslContinue(data) | Self::SaslFinal(data) => out.extend_from_slice(data),
            }
        });
    }

    /// Reads the body of an `R` message (without type and length).
    ///
    /// # Errors
    /// [`MalformedRequest`] when the body is cut, or longer than its kind can be.
    pub fn parse(body: &[u8]) -> Result<Self, MalformedRequest> {
        let (code, rest) = body.split_first_chunk().ok_or(MalformedRequest)?;
        match (i32::from_be_bytes(*code), rest) {
            (OK, []) => Ok(Self::Ok),
            (CLEARTEXT, []) => Ok(Self::CleartextPassword),
            (MD5, salt) => Ok(Self::Md5Password { salt: salt.try_into().map_err(|_| MalformedRequest)? }),
            (SASL, names) => Ok(Self::Sasl { mechanisms: mechanisms(names)? }),
            (SASL_CONTINUE, data) => Ok(Self::SaslContinue(data.to_vec())),
            (SASL_FINAL, data) => Ok(Self::SaslFinal(data.to_vec())),
            (OK | CLEARTEXT, _) => Err(MalformedRequest),
            (other, _) => Ok(Self::Other(other)),
        }
    }

    fn code(&self) -> i32 {
        match self {
            Self::Ok => OK,
            Self::CleartextPassword => CLEARTEXT,
            Self::Md5Password { .. } => MD5,
            Self::Sasl { .. } => SASL,
            Self::SaslContinue(_) => SASL_CONTINUE,
            Self::SaslFinal(_) => SASL_FINAL,
            Self::Other(code) => *code,
        }
    }
}

/// Names, each ended by a zero byte, the list ended by an empty one.
fn mechanisms(list: &[u8]) -> Result<Vec<String>, MalformedRequest> {
    let names = list.strip_suffix(&[0, 0]).ok_or(MalformedRequest)?;
    names
        .split(|&b| b == 0)
        .map(|name| match std::str::from_utf8(name) {
            Ok(name) if !name.is_empty() => Ok(name.to_owned()),
            _ => Err(MalformedRequest),
        })
        .collect()
}

/// Appends a message of type `kind` whose body `fill` writes, and sets its length.
pub(super) fn message(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let length = u32::try_from(out.len() - at).expect("authentication messages are small");
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_survives_the_wire_and_no_cut_of_it_passes_for_it() {
        let all = [
            AuthRequest::Ok,
            AuthRequest::CleartextPassword,
            AuthRequest::Md5Password { salt: *b"abcd" },
            AuthRequest::Sasl { mechanisms: vec!["SCRAM-SHA-256-PLUS".into(), "SCRAM-SHA-256".into()] },
            AuthRequest::SaslContinue(b"r=1".to_vec()),
            AuthRequest::SaslFinal(b"v=1".to_vec()),
            AuthRequest::Other(7),
        ];
        for request in all {
            let mut bytes = Vec::new();
            request.write(&mut bytes);
            assert_eq!(bytes[0], b'R');
            assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, bytes.len() - 1);
            assert_eq!(AuthRequest::parse(&bytes[5..]), Ok(request.clone()));
            for end in 5..bytes.len() {
                assert_ne!(AuthRequest::parse(&bytes[5..end]), Ok(request.clone()));
            }
        }
        assert_eq!(AuthRequest::parse(b"\0\0\0\0x"), Err(MalformedRequest));
        assert_eq!(AuthRequest::parse(b"\0\0\0\x0a\0"), Err(MalformedRequest));
    }
}
