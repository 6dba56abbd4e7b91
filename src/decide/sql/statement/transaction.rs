//! Transaction control.

use super::utility;
use crate::decide::sql::tokens::Tokens;
use crate::decide::sql::types::{
    Access, Effects, Intent, Isolation, Reason, Savepoint, TransactionEnd, TransactionMode, Verdict,
};

/// BEGIN, START TRANSACTION.
pub(super) fn begin(tokens: Tokens<'_>) -> Verdict {
    let modes = match (tokens.is(0, "start"), tokens.is_any(1, &["work", "transaction"])) {
        (true, _) if !tokens.is(1, "transaction") => return malformed(),
        (_, true) => 2,
        (_, false) => 1,
    };
    match modes_at(tokens, modes) {
        Some(mode) => Verdict::new(Intent::Begin(mode), Reason::TransactionControl),
        None => malformed(),
    }
}

/// COMMIT, END, ROLLBACK, ABORT, and what else begins with these words: savepoints and two-phase commit.
pub(super) fn end(tokens: Tokens<'_>) -> Verdict {
    if tokens.is_any(0, &["commit", "rollback"]) && tokens.is(1, "prepared") {
        return utility::write(Reason::Utility, Effects::ALONE | Effects::WRITES);
    }
    let next = if tokens.is_any(1, &["work", "transaction"]) { 2 } else { 1 };
    if tokens.is(0, "rollback") && tokens.is(next, "to") {
        let at = if tokens.is(next + 1, "savepoint") && tokens.len() > next + 2 { next + 2 } else { next + 1 };
        return about(tokens, at, Savepoint::RollBackTo);
    }
    let (plain, chained) = match tokens.is_any(0, &["commit", "end"]) {
        true => (TransactionEnd::Commit, TransactionEnd::CommitAndChain),
        false => (TransactionEnd::Rollback, TransactionEnd::RollbackAndChain),
    };
    let end = match tokens.len() - next.min(tokens.len()) {
        0 => plain,
        2 if tokens.is(next, "and") && tokens.is(next + 1, "chain") => chained,
        3 if tokens.is(next, "and") && tokens.is(next + 1, "no") && tokens.is(next + 2, "chain") => plain,
        _ => return malformed(),
    };
    Verdict::new(Intent::End(end), Reason::TransactionControl)
}

/// SAVEPOINT name, RELEASE [SAVEPOINT] name.
pub(super) fn savepoint(tokens: Tokens<'_>) -> Verdict {
    match tokens.is(0, "release") {
        true => about(tokens, if tokens.is(1, "savepoint") && tokens.len() > 2 { 2 } else { 1 }, Savepoint::Release),
        false => about(tokens, 1, Savepoint::Set),
    }
}

fn about(tokens: Tokens<'_>, at: usize, what: fn(Box<str>) -> Savepoint) -> Verdict {
    match tokens.name(at) {
        Some(name) if tokens.len() == at + 1 => {
            Verdict::new(Intent::Savepoint(what(name.into())), Reason::TransactionControl)
        }
        _ => within(),
    }
}

/// SET CONSTRAINTS, ..
pub(super) fn within() -> Verdict {
    Verdict::new(Intent::WithinTransaction, Reason::TransactionControl)
}

/// SET TRANSACTION, with the modes at `start`. What a replica refuses needs the primary, as do snapshots: they are
/// exported there.
pub(super) fn set(tokens: Tokens<'_>, start: usize) -> Verdict {
    if tokens.is(start, "snapshot") {
        return utility::write(Reason::TransactionControl, Effects::empty());
    }
    match modes_at(tokens, start) {
        Some(
            TransactionMode { access: Some(Access::ReadWrite), .. }
            | TransactionMode { isolation: Some(Isolation::Serializable), .. },
        ) => utility::write(Reason::TransactionControl, Effects::empty()),
        Some(_) if start < tokens.len() => within(),
        _ => malformed(),
    }
}

/// The transaction modes from `start` to the end; `None` if there is anything else.
pub(super) fn modes_at(tokens: Tokens<'_>, start: usize) -> Option<TransactionMode> {
    let mut mode = TransactionMode::default();
    let mut i = start;
    while i < tokens.len() {
        if i > start && tokens.is_punctuation(i, b',') {
            i += 1;
        }
        let words =
            [tokens.word(i), tokens.word(i + 1), tokens.word(i + 2), tokens.word(i + 3)].map(str::to_ascii_lowercase);
        i += match words.each_ref().map(String::as_str) {
            ["isolation", "level", first, second] => {
                let (isolation, length) = isolation(first, second)?;
                mode.isolation = Some(isolation);
                2 + length
            }
            ["read", "only", ..] => {
                mode.access = Some(Access::ReadOnly);
                2
            }
            ["read", "write", ..] => {
                mode.access = Some(Access::ReadWrite);
                2
            }
            ["deferrable", ..] => {
                mode.deferrable = true;
                1
            }
            ["not", "deferrable", ..] => {
                mode.deferrable = false;
                2
            }
            _ => return None,
        };
    }
    Some(mode)
}

/// An isolation level and the number of its words.
fn isolation(first: &str, second: &str) -> Option<(Isolation, usize)> {
    match (first, second) {
        ("serializable", _) => Some((Isolation::Serializable, 1)),
        ("repeatable", "read") => Some((Isolation::RepeatableRead, 2)),
        ("read", "committed") => Some((Isolation::ReadCommitted, 2)),
        ("read", "uncommitted") => Some((Isolation::ReadUncommitted, 2)),
        _ => None,
    }
}

/// The server will refuse it, and must be asked to: its error is the answer.
fn malformed() -> Verdict {
    Verdict::opaque(Reason::Unparsable)
}
