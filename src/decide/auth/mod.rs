//! SCRAM-SHA-256 in both roles, md5, host-based rules.
