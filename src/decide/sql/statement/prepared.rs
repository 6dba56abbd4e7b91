//! Prepared statements and cursors of SQL.

use super::{classify_optimizable, query, utility};
use crate::decide::sql::classify::Facts;
use crate::decide::sql::scan::{Doubt, Scan, scan};
use crate::decide::sql::tokens::Tokens;
use crate::decide::sql::types::{Effects, Intent, Reason, Verdict};

/// PREPARE name [(types)] AS statement; PREPARE TRANSACTION.
pub(super) fn prepare(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    if tokens.is(1, "transaction") && tokens.len() == 3 && tokens.string(2).is_some() {
        return utility::write(Reason::Utility, Effects::WRITES);
    }
    let after = if tokens.is_punctuation(2, b'(') { tokens.after_group(2) } else { 2 };
    match tokens.name(1) {
        Some(name) if tokens.is(after, "as") => {
            // Where it is executed, names may mean something else.
            let statement = Box::new(classify_optimizable(tokens.from(after + 1), &facts.for_anybody()));
            let intent = Intent::Prepare { name: name.into(), name_at: tokens.span(1), statement };
            Verdict::new(intent, Reason::Prepared)
        }
        _ => Verdict::opaque(Reason::Unparsable),
    }
}

/// EXECUTE name [(arguments)]. The arguments are expressions: they may call anything.
pub(super) fn execute(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    let Some(name) = tokens.name(1) else { return Verdict::opaque(Reason::Unparsable) };
    let Scan { cause, doubts, effects, depends, settings } = scan(tokens.from(2), facts);
    let intent = Intent::Execute { name: name.into(), name_at: tokens.span(1) };
    let mut verdict = Verdict::new(intent, Reason::Prepared).with(effects);
    if cause.is_some() || !doubts.is_empty() {
        verdict.effects |= Effects::WRITES;
    }
    if doubts.iter().any(|doubt| matches!(doubt, Doubt::Call { .. })) {
        verdict.effects |= Effects::SETTINGS;
    }
    verdict.settings = settings.into();
    verdict.depends = depends;
    verdict
}

/// DEALLOCATE [PREPARE] { name | ALL }.
pub(super) fn deallocate(tokens: Tokens<'_>) -> Verdict {
    let at = if tokens.is(1, "prepare") && tokens.len() > 2 { 2 } else { 1 };
    if tokens.is(at, "all") {
        return Verdict::new(Intent::Deallocate { name: None }, Reason::Prepared);
    }
    match tokens.name(at) {
        Some(name) => Verdict::new(Intent::Deallocate { name: Some(name.into()) }, Reason::Prepared),
        None => Verdict::opaque(Reason::Unparsable),
    }
}

/// DECLARE name .. CURSOR [WITH HOLD] FOR query. Without HOLD it lives in its transaction; with, it outlives it on
/// its server connection.
pub(super) fn declare(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    let Some(at) = tokens.find(1, &["for"]) else { return Verdict::opaque(Reason::Unparsable) };
    let held = (2..at).any(|i| tokens.is(i, "hold") && tokens.is(i - 1, "with"));
    let query = query::read(tokens.from(at + 1), facts);
    match (held, &query.intent) {
        (true, _) => Verdict { intent: Intent::Write, reason: Reason::SessionState, ..query }.with(Effects::PINS),
        (false, Intent::Read) => Verdict { intent: Intent::WithinTransaction, ..query },
        (false, _) => query,
    }
}
