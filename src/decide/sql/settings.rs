//! Names of session settings: their canonical spelling, and which of them read the same on every node.

/// The properties of the running transaction, which can be set as if they were settings.
pub(super) fn is_transaction_property(name: &str) -> bool {
    matches!(name, "transaction_isolation" | "transaction_read_only" | "transaction_deferrable")
}

/// Whether reading the setting gives the same value on every node, once the session's own changes have been carried
/// over. Everything not known to do so is the node's own truth: its configuration file, its role in the cluster, its
/// build.
pub(super) fn is_same_everywhere(name: &str) -> bool {
    // A name with a dot is an application's own variable; nothing but the session sets it.
    name.contains('.') || is_session_setting(name) || is_cluster_constant(name)
}

/// Settings that sessions change, and that their drivers ask for.
fn is_session_setting(name: &str) -> bool {
    matches!(
        name,
        "application_name"
            | "backslash_quote"
            | "bytea_output"
            | "check_function_bodies"
            | "client_encoding"
            | "client_min_messages"
            | "datestyle"
            | "default_tablespace"
            | "default_text_search_config"
            | "default_transaction_deferrable"
            | "default_transaction_isolation"
            | "default_transaction_read_only"
            | "escape_string_warning"
            | "extra_float_digits"
            | "idle_in_transaction_session_timeout"
            | "idle_session_timeout"
            | "intervalstyle"
            | "is_superuser"
            | "lc_messages"
            | "lc_monetary"
            | "lc_numeric"
            | "lc_time"
            | "lock_timeout"
            | "quote_all_identifiers"
            | "role"
            | "row_security"
            | "search_path"
            | "session_authorization"
            | "standard_conforming_strings"
            | "statement_timeout"
            | "timezone"
            | "transaction_deferrable"
            | "transaction_isolation"
            | "transaction_timeout"
            | "xmlbinary"
            | "xmloption"
    )
}

/// What initdb or the build fixed; the build's block sizes must agree for replication to work at all.
fn is_cluster_constant(name: &str) -> bool {
    matches!(
        name,
        "block_size"
            | "data_checksums"
            | "integer_datetimes"
            | "lc_collate"
            | "lc_ctype"
            | "max_identifier_length"
            | "segment_size"
            | "server_encoding"
            | "wal_block_size"
            | "wal_segment_size"
            | "max_index_keys"
            | "max_function_args"
    )
}

/// Whether the setting belongs to pgpilot itself: `pgpilot.x` gives `x`.
pub(super) fn own(name: &str) -> Option<&str> {
    name.strip_prefix("pgpilot.")
}
