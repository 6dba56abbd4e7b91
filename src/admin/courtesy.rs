//! What drivers and tools ask of any server: settings, and a few functions.

use std::collections::BTreeMap;

use super::console::ConsoleUser;
use super::table::{Column, Table, text};
use crate::config::ADMIN_DATABASE;

/// What the console says it is. PostgreSQL clients look at this for what they may use.
pub const SERVER_VERSION: &str = concat!("15.0 (pgpilot ", env!("CARGO_PKG_VERSION"), ")");

/// A session of the console remembers so many settings; more are accepted and forgotten.
const MAX_SETTINGS: usize = 100;

/// The settings of one session. They have no effect: the console speaks UTF-8 and one way only.
#[derive(Debug, Default)]
pub(super) struct Settings(BTreeMap<String, String>);

const DEFAULTS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("extra_float_digits", "1"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("max_identifier_length", "63"),
    ("search_path", "public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "150000"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
];

/// Why a SET is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadSetting {
    /// 22023
    #[error("the console speaks UTF8, not {0:?}")]
    Encoding(String),
}

impl Settings {
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), BadSetting> {
        if name == "client_encoding" {
            let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
            // As pg_char_to_encoding reads them, which ignores case and punctuation.
            return match plain.to_ascii_lowercase().as_str() {
                "utf8" | "unicode" | "sqlascii" | "default" => Ok(()),
                _ => Err(BadSetting::Encoding(value.to_owned())),
            };
        }
        if self.0.len() < MAX_SETTINGS || self.0.contains_key(name) {
            self.0.insert(name.to_owned(), value.to_owned());
        }
        Ok(())
    }

    /// `None`: there is no such setting.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let default = || DEFAULTS.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        self.0.get(name).map(String::as_str).or_else(default)
    }
}

const SETTING: &[Column] = &[text("setting")];
const VALUE: &[Column] = &[text("?column?")];

pub(super) fn setting_columns() -> &'static [Column] {
    SETTING
}

pub(super) fn select_columns() -> &'static [Column] {
    VALUE
}

pub(super) fn show(settings: &Settings, name: &str) -> Option<Table> {
    Some(Table { columns: SETTING, rows: vec![vec![settings.get(name)?.into()]] })
}

/// The answer to a SELECT in its normal form; `None`: the console has no answer to this one.
pub(super) fn select(expression: &str, settings: &Settings, who: &ConsoleUser) -> Option<Table> {
    let value = match expression {
        "version()" => format!("PostgreSQL {SERVER_VERSION}, the admin console of pgpilot"),
        "current_user" | "session_user" | "user" | "current_user()" => who.name.to_string(),
        "current_database()" | "current_catalog" => ADMIN_DATABASE.to_owned(),
        "current_schema" | "current_schema()" => "public".to_owned(),
        "pg_is_in_recovery()" => "f".to_owned(),
        "" => return None,
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => number.to_owned(),
        other => {
            let name = other.strip_prefix("current_setting(")?.strip_suffix(')')?;
            settings.get(name)?.to_owned()
        }
    };
    Some(Table { columns: VALUE, rows: vec![vec![value.into()]] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_remembered_but_not_without_limit() {
        let mut settings = Settings::default();
        assert_eq!(settings.get("datestyle"), Some("ISO, MDY"));
        settings.set("application_name", "x").unwrap();
        assert_eq!(settings.get("application_name"), Some("x"));
        (0..2 * MAX_SETTINGS).for_each(|n| settings.set(&format!("a.b{n}"), "").unwrap());
        assert_eq!(settings.0.len(), MAX_SETTINGS);
        assert_eq!(settings.set("client_encoding", "utf-8"), Ok(()));
        assert!(settings.set("client_encoding", "LATIN1").is_err());
        assert_eq!(settings.get("nonsense"), None);
    }
}
