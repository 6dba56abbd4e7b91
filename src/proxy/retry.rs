//! What is done about a replica's errors, so that clients do not see them.

use crate::wire::SqlState;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    OnPrimary,
    OnPrimaryAndLearn,
    /// On any other node.
    Elsewhere,
}

/// What may be done about a replica's error, by its code and the C function that reported it. The primary answers the same
/// error if it was not about being a replica.
pub(super) fn retry_for(code: SqlState, routine: &str) -> Option<Retry> {
    match &code.0 {
        // DDL has overtaken a plan ("cached plan must not change result type"), which says nothing of the statement.
        b"0A000" if routine == "RevalidateCachedQuery" => Some(Retry::OnPrimary),
        // A standby's refusals, with the codes that it refuses with.
        b"25006" | b"55000" | b"XX000" | b"22023" | b"0A000" => Some(Retry::OnPrimaryAndLearn),
        // What the replica may not have replayed yet, or what lives elsewhere.
        b"42P01" | b"42883" | b"42703" | b"42704" | b"3F000" | b"34000" | b"26000" => Some(Retry::OnPrimary),
        // A conflict with recovery.
        b"40001" | b"40P01" => Some(Retry::Elsewhere),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_standby_refuses_is_learned() {
        for code in [*b"25006", *b"55000", *b"0A000"] {
            assert_eq!(retry_for(SqlState(code), "standard_ProcessUtility"), Some(Retry::OnPrimaryAndLearn));
        }
        assert_eq!(retry_for(SqlState(*b"0A000"), "RevalidateCachedQuery"), Some(Retry::OnPrimary));
        assert_eq!(retry_for(SqlState(*b"22012"), "int4div"), None);
    }
}
