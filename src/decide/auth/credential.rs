//! With what pgpilot logs in to the servers as a user.

use crate::config::Secret;

use super::md5::Md5Hash;
use super::scram::Key;

/// What an authenticated client leaves for logging in to the servers in its name.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// The client was let in without a secret that could be used: the servers have to let pgpilot in without one, too.
    Absent,
    /// Answers every method. `keys` are those derived in an earlier login: they save the derivation (milliseconds)
    /// as long as the server's salt and iteration count stay the same.
    Password { password: Secret, keys: Option<ScramKeys> },
    /// Answers md5 only.
    Md5(Md5Hash),
    /// Answers SCRAM only, of a server that holds the verifier the keys belong to.
    Scram(ScramKeys),
}

impl Credential {
    pub fn password(password: Secret) -> Self {
        Self::Password { password, keys: None }
    }

    /// Whether both prove the same, whatever keys have been derived so far.
    pub fn is_same_secret(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Password { password, .. }, Self::Password { password: theirs, .. }) => password == theirs,
            _ => self == other,
        }
    }

    /// For messages: "a password", "an md5 hash", ..
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Absent => "a login without a secret",
            Self::Password { .. } => "a password",
            Self::Md5(_) => "an md5 hash",
            Self::Scram(_) => "a SCRAM key",
        }
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())
    }
}

/// What proves a password's knowledge in SCRAM without the password: for one salt and iteration count.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    pub(super) salt: Box<[u8]>,
    pub(super) iterations: u32,
    pub(super) client_key: Key,
    pub(super) server_key: Key,
}
