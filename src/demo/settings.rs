//! The configuration files of a throwaway server.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::builder::{Durability, Passwords, User};

/// Settings by name, unquoted.
pub(super) type Settings = BTreeMap<String, String>;

/// What every server of a throwaway cluster is set to, unless asked otherwise. Small, quick to start, quick to notice
/// a new primary, and with everything that replication, pg_rewind and failover need.
const COMMON: [(&str, &str); 31] = [
    ("listen_addresses", "127.0.0.1"),
    ("max_connections", "200"),
    ("shared_buffers", "32MB"),
    // The default keeps its segments where the end of a killed server leaves them behind.
    ("dynamic_shared_memory_type", "mmap"),
    ("wal_level", "replica"),
    ("max_wal_senders", "16"),
    ("max_replication_slots", "16"),
    ("wal_keep_size", "64MB"),
    ("max_wal_size", "512MB"),
    ("hot_standby", "on"),
    // pg_rewind needs these two.
    ("wal_log_hints", "on"),
    ("full_page_writes", "on"),
    ("wal_receiver_timeout", "10s"),
    ("wal_receiver_status_interval", "1s"),
    ("wal_retrieve_retry_interval", "100ms"),
    ("recovery_target_timeline", "latest"),
    ("password_encryption", "scram-sha-256"),
    ("jit", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("lc_messages", "C"),
    ("datestyle", "iso, mdy"),
    ("default_text_search_config", "pg_catalog.english"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
    ("log_checkpoints", "off"),
    ("log_min_messages", "warning"),
    ("log_min_error_statement", "panic"),
    ("update_process_title", "off"),
    ("ssl", "off"),
];

pub(super) fn common(durability: Durability) -> Settings {
    let mut settings: Settings = COMMON.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let fsync = match durability {
        Durability::None => "off",
        Durability::Full => "on",
    };
    settings.insert("fsync".into(), fsync.into());
    settings
}

/// The text of a `postgresql.conf`, or of a `postgresql.auto.conf`.
pub(super) fn render(settings: &Settings) -> String {
    let mut text = String::new();
    for (key, value) in settings {
        let _ = writeln!(text, "{key} = {}", quote(value));
    }
    text
}

/// A string literal, for SQL with `standard_conforming_strings` and for configuration files alike.
pub(super) fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// An identifier for SQL.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Host-based access: anybody on the private Unix socket, passwords on TCP.
pub(super) fn host_based_access(users: &[User]) -> String {
    let mut text = String::from("local all all trust\nlocal replication all trust\n");
    for user in users.iter().filter(|user| user.passwords == Passwords::Md5) {
        // Only md5 lets a user in whose verifier is an md5 hash; every other user is asked for SCRAM.
        let _ = writeln!(text, "host all {0} 127.0.0.1/32 md5\nhost all {0} ::1/128 md5", identifier(&user.name));
    }
    for database in ["all", "replication"] {
        for address in ["127.0.0.1/32", "::1/128"] {
            let _ = writeln!(text, "host {database} all {address} scram-sha-256");
        }
    }
    text
}

/// A connection string for `primary_conninfo`. Source: libpq's "Keyword/Value Connection Strings".
pub(super) fn conninfo(pairs: &[(&str, &str)]) -> String {
    let pairs =
        pairs.iter().map(|(key, value)| format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")));
    pairs.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes() {
        let settings = Settings::from([("a".into(), "it's".into())]);
        assert_eq!(render(&settings), "a = 'it''s'\n");
        assert_eq!(identifier("o\"k"), "\"o\"\"k\"");
        assert_eq!(conninfo(&[("host", "h"), ("password", "a'b\\")]), r"host='h' password='a\'b\\'");
    }

    #[test]
    fn md5_users_come_before_the_rule_for_all() {
        let text = host_based_access(&[User::md5("old", "x"), User::scram("new", "x")]);
        assert!(text.find("\"old\" 127.0.0.1/32 md5") < text.find("all all 127.0.0.1/32 scram-sha-256"));
        assert!(!text.contains("new"));
    }
}
