//! What a replica refused because it is one: that and its like go to the primary from then on.

use std::sync::Arc;

use super::assess::frames;
use super::client::Client;
use super::judged::Judged;
use super::names::Names;
use super::verdicts::Verdicts;
use crate::decide::route::NodeId;
use crate::decide::session::{Origin, Statement};
use crate::decide::sql::{Classified, Intent};
use crate::telemetry::{Journal, Topic};
use crate::wire::{SqlState, frontend};

/// What is learnt if the primary takes what a replica refused.
#[derive(Debug)]
pub(super) struct Lesson {
    refused: Vec<Refused>,
    /// The error's code and its message.
    why: Box<str>,
}

#[derive(Debug)]
struct Refused {
    text: Box<[u8]>,
    /// What the session calls it, if it was prepared earlier.
    name: Option<Box<[u8]>>,
}

impl Client {
    /// What there is to learn of the batch that a replica works at.
    pub(super) fn lesson(&self, why: String) -> Option<Lesson> {
        let length = self.link.as_ref()?.kept.lengths().next().unwrap_or_default();
        let prepared = |name: &[u8]| {
            let text = text_of(&self.session.names.find(name)?.statement, name)?;
            Some(Refused { text, name: Some(name.into()) })
        };
        let refused = frames(&self.side.input[..length]).filter_map(|frame| match frame.tag {
            frontend::QUERY => {
                let text = frontend::query(frame.body()).ok()?;
                match &*self.verdict_on(text).statements {
                    [only] if let Intent::Execute { name, .. } = &only.intent => prepared(name.as_bytes()),
                    _ => Some(Refused { text: text.into(), name: None }),
                }
            }
            frontend::PARSE => {
                let parse = frontend::Parse::read(frame.body()).ok()?;
                Some(Refused { text: parse.query.into(), name: None })
            }
            frontend::BIND => prepared(frontend::BindHead::parse(frame.body()).ok()?.statement),
            _ => None,
        });
        Some(Lesson { refused: refused.collect(), why: why.into() })
    }
}

/// What prepares the statement, under this name.
pub(super) fn text_of(statement: &Statement, name: &[u8]) -> Option<Box<[u8]>> {
    match &statement.origin {
        Origin::Parse { query, .. } => Some(query.clone()),
        Origin::Sql { before, after } => Some([before.as_bytes(), name, after.as_bytes()].concat().into()),
        Origin::Large => None,
    }
}

impl Lesson {
    /// The primary has taken it.
    pub(super) fn learn(self, node: NodeId, verdicts: &Verdicts, names: &mut Names, journal: &Journal) {
        let why = &*self.why;
        for Refused { text, name } in self.refused {
            let news = verdicts.learn_refused(&text, why);
            if let Some(name) = name {
                names.renew(&name, prepared_by(verdicts.of(&text)), verdicts.stamp());
            }
            let Some(outline) = news else { continue };
            tracing::info!(
                node = node.0,
                why,
                "a replica refused a statement: its like goes to the primary from now on"
            );
            let note =
                format!("a replica refused what runs on the primary ({why}); its like goes there now: {outline}");
            journal.note(Topic::Routing, None, note);
        }
    }
}

/// The verdict on what a PREPARE prepares; that on any other text is its own.
pub(super) fn prepared_by(judged: Arc<Judged>) -> Arc<Judged> {
    match &*judged.statements {
        [only] if let Intent::Prepare { statement, .. } = &only.intent => {
            Arc::new(Classified { statements: Box::new([(**statement).clone()]) }.into())
        }
        _ => judged,
    }
}

/// Whether a server refuses with this because it is a standby, whoever asks (as PostgreSQL 15 answers; newer ones have more
/// with 25006). Other errors with these codes say something of the session, such as that its isolation level is serializable,
/// or of the moment, such as that the replica has not replayed a transaction yet. `routine`: the C function that reported it.
pub(super) fn is_about_recovery(code: SqlState, routine: &str) -> bool {
    match &code.0 {
        b"25006" => true,
        b"55000" => matches!(
            routine,
            "pg_current_wal_lsn"
                | "pg_current_wal_insert_lsn"
                | "pg_current_wal_flush_lsn"
                | "pg_switch_wal"
                | "pg_create_restore_point"
                | "pg_log_standby_snapshot"
                | "pg_walfile_name"
                | "pg_walfile_name_offset"
                | "brin_summarize_range"
                | "brin_desummarize_range"
                | "gin_clean_pending_list"
                | "LockAcquireExtended"
        ),
        b"0A000" => matches!(routine, "get_relation_info" | "CheckLogicalDecodingRequirements"),
        b"XX000" => matches!(routine, "GetNewTransactionId" | "GetNewObjectId" | "XLogBeginInsert"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_standby_refuses_is_told_from_what_it_refuses_a_session() {
        for (code, routine, expected) in [
            (b"25006", "PreventCommandIfReadOnly", true),
            (b"25006", "PreventCommandDuringRecovery", true),
            (b"55000", "pg_walfile_name", true),
            (b"55000", "LockAcquireExtended", true),
            (b"0A000", "get_relation_info", true),
            (b"XX000", "GetNewObjectId", true),
            (b"55000", "lastval", false),
            (b"0A000", "GetSerializableTransactionSnapshot", false),
            (b"0A000", "call_enum_check_hook", false),
            (b"0A000", "RevalidateCachedQuery", false),
            (b"22023", "TransactionIdInRecentPast", false),
            (b"XX000", "elog_finish", false),
        ] {
            assert_eq!(is_about_recovery(SqlState(*code), routine), expected, "{routine}");
        }
    }
}
