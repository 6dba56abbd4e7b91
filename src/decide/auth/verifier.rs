//! What pgpilot checks a client's proof against.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::Secret;

use super::md5::Md5Hash;
use super::scram::{self, Key};

/// PostgreSQL's default (`scram_iterations`), which RFC 7677 has as the least.
pub const DEFAULT_ITERATIONS: u32 = 4096;

/// What is known of a user's password.
#[derive(Clone, PartialEq, Eq)]
pub enum Verifier {
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`
    Scram(ScramVerifier),
    /// `md5<hex>`
    Md5(Md5Hash),
    /// The password itself, and a SCRAM verifier made from it.
    Password { password: Secret, scram: ScramVerifier },
}

/// Enough to check a proof, and to prove that one knows the verifier; not enough to log in anywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    pub(super) salt: Box<[u8]>,
    pub(super) iterations: u32,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

/// Random bytes that live as long as the process: they make the salts of users that do not exist.
#[derive(Clone)]
pub struct MockSecret(pub [u8; 32]);

/// The text is neither a SCRAM-SHA-256 verifier nor an md5 hash. It is not shown, it may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a verifier: expected SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey> or md5<32 hexadecimal digits>"
)]
pub struct NotAVerifier;

impl Verifier {
    /// Reads what `pg_authid.rolpassword` and `pg_shadow.passwd` hold.
    ///
    /// # Errors
    /// [`NotAVerifier`] for anything but a SCRAM-SHA-256 verifier or an md5 hash.
    pub fn parse(text: &str) -> Result<Self, NotAVerifier> {
        if let Some(hash) = Md5Hash::parse(text) {
            return Ok(Self::Md5(hash));
        }
        ScramVerifier::parse(text).map(Self::Scram).ok_or(NotAVerifier)
    }

    /// From a password in clear. Derives keys, which takes milliseconds: make it once, not for each login.
    /// `salt` is random, and stays with the verifier.
    pub fn from_password(password: Secret, salt: [u8; 16]) -> Self {
        let scram = ScramVerifier::derive(password.expose(), &salt, DEFAULT_ITERATIONS);
        Self::Password { password, scram }
    }

    /// From a password setting, which may hold a verifier in the place of a password, as `CREATE ROLE .. PASSWORD` takes it.
    pub fn from_setting(setting: Secret, salt: [u8; 16]) -> Self {
        Self::parse(setting.expose()).unwrap_or_else(|NotAVerifier| Self::from_password(setting, salt))
    }
}

impl ScramVerifier {
    /// # Panics
    /// If `iterations` is 0.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let keys = scram::derive(password, salt, iterations);
        let stored_key = keys.client_key.hash();
        Self { salt: keys.salt, iterations, stored_key, server_key: keys.server_key }
    }

    /// For a user that does not exist: always the same salt for the same name, or the salt would tell.
    pub(super) fn mock(user: &str, secret: &MockSecret) -> Self {
        let salt = scram::hmac(&secret.0, &[user.as_bytes()]);
        let never = Key::from([0; 32]);
        Self { salt: salt[..16].into(), iterations: DEFAULT_ITERATIONS, stored_key: never.clone(), server_key: never }
    }

    fn parse(text: &str) -> Option<Self> {
        let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |encoded: &str| Some(Key::from(<[u8; 32]>::try_from(STANDARD.decode(encoded).ok()?).ok()?));
        Some(Self {
            iterations: scram::iteration_count(iterations.as_bytes())?,
            salt: STANDARD.decode(salt).ok()?.into(),
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "SCRAM-SHA-256$4096:g6zB5wc/rSRT16h+PEKZug==$GCcnJFGRssoqI3pSmB0BmX1eD5hYrAQx6IRCXjn2Vcs=:XN/tX9tMe1XU45Um2CB2QPiHed0pBLY/Y3kiIbR3U24=";

    #[test]
    fn a_verifier_of_postgresql_is_the_one_derived_from_the_password() {
        let Verifier::Scram(read) = Verifier::parse(SECRET).unwrap() else { panic!("not SCRAM") };
        assert!(read == ScramVerifier::derive("secret", &read.salt, read.iterations));
        assert!(read != ScramVerifier::derive("Secret", &read.salt, read.iterations));
    }

    #[test]
    fn no_cut_of_a_verifier_is_a_verifier() {
        for end in 0..SECRET.len() {
            assert!(Verifier::parse(&SECRET[..end]).is_err(), "{end}");
        }
        for bad in [
            SECRET.replace("$4096:", "$0:"),
            SECRET.replace("$4096:", "$-1:"),
            SECRET.replace("$4096:", "$99999999999:"),
            SECRET.replace("SHA-256", "SHA-512"),
            format!("{SECRET}="),
            format!(" {SECRET}"),
        ] {
            assert!(Verifier::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_setting_may_hold_a_password_or_a_verifier() {
        let make = |text: &str| Verifier::from_setting(Secret::new(text.to_owned()), [7; 16]);
        assert!(matches!(make(SECRET), Verifier::Scram(_)));
        assert!(matches!(make(&format!("md5{}", "0".repeat(32))), Verifier::Md5(_)));
        assert!(matches!(make("md5sum"), Verifier::Password { .. }));
    }

    #[test]
    fn the_mock_salt_depends_on_the_name_and_the_secret_alone() {
        let salt = |user, secret| ScramVerifier::mock(user, &MockSecret([secret; 32])).salt;
        assert_eq!(salt("a", 1), salt("a", 1));
        assert_ne!(salt("a", 1), salt("b", 1));
        assert_ne!(salt("a", 1), salt("a", 2));
        assert_eq!(salt("a", 1).len(), 16);
    }
}
