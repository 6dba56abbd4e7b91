//! SQLSTATE codes: the documentation's appendix "PostgreSQL Error Codes".

use std::fmt;

/// Five characters that say what went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    pub const SUCCESSFUL_COMPLETION: Self = Self(*b"00000");
    pub const WARNING: Self = Self(*b"01000");
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    pub const TRANSACTION_RESOLUTION_UNKNOWN: Self = Self(*b"08007");
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    pub const CHARACTER_NOT_IN_REPERTOIRE: Self = Self(*b"22021");
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    pub const NO_ACTIVE_SQL_TRANSACTION: Self = Self(*b"25P01");
    pub const IN_FAILED_SQL_TRANSACTION: Self = Self(*b"25P02");
    pub const READ_ONLY_SQL_TRANSACTION: Self = Self(*b"25006");
    pub const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: Self = Self(*b"25P03");
    pub const INVALID_SQL_STATEMENT_NAME: Self = Self(*b"26000");
    pub const INVALID_AUTHORIZATION: Self = Self(*b"28000");
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    pub const INVALID_CURSOR_NAME: Self = Self(*b"34000");
    pub const INVALID_CATALOG_NAME: Self = Self(*b"3D000");
    pub const SERIALIZATION_FAILURE: Self = Self(*b"40001");
    pub const DEADLOCK_DETECTED: Self = Self(*b"40P01");
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");
    pub const SYNTAX_ERROR: Self = Self(*b"42601");
    pub const UNDEFINED_FUNCTION: Self = Self(*b"42883");
    pub const UNDEFINED_TABLE: Self = Self(*b"42P01");
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");
    pub const DUPLICATE_PREPARED_STATEMENT: Self = Self(*b"42P05");
    pub const DISK_FULL: Self = Self(*b"53100");
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    pub const CONFIGURATION_LIMIT_EXCEEDED: Self = Self(*b"53400");
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(*b"54000");
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    pub const CRASH_SHUTDOWN: Self = Self(*b"57P02");
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    pub const IDLE_SESSION_TIMEOUT: Self = Self(*b"57P05");
    pub const CONFIG_FILE_ERROR: Self = Self(*b"F0000");
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");

    /// `None` unless `code` is five upper-case letters or digits.
    pub fn from_bytes(code: &[u8]) -> Option<Self> {
        let code: [u8; 5] = code.try_into().ok()?;
        code.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()).then_some(Self(code))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("?????")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
