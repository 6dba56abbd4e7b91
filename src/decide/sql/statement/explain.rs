//! EXPLAIN: where the statement it explains would run, because that is the plan which is asked for.

use super::{classify_optimizable, definition, prepared, query, utility};
use crate::decide::sql::classify::Facts;
use crate::decide::sql::tokens::Tokens;
use crate::decide::sql::types::{Effects, Intent, Reason, Verdict};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The statement is only planned.
    Plan,
    /// ANALYZE: it runs.
    Run,
}

pub(super) fn classify(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    let (mode, start) = options(tokens);
    let statement = tokens.from(start);
    let inner = if statement.is(0, "execute") {
        prepared::execute(statement, facts)
    } else if statement.is(0, "declare") {
        match statement.find(1, &["for"]) {
            Some(at) => query::read(statement.from(at + 1), facts),
            None => Verdict::opaque(Reason::Unparsable),
        }
    } else if statement.is(0, "create") {
        definition::create(statement, facts)
    } else if statement.is(0, "refresh") {
        utility::write(Reason::Utility, Effects::WRITES)
    } else {
        classify_optimizable(statement, facts)
    };
    let read = matches!(inner.intent, Intent::Read | Intent::Execute { .. });
    let reason = if read { Reason::Explain } else { inner.reason };
    match mode {
        Mode::Run => Verdict { reason, ..inner },
        Mode::Plan => Verdict { reason, effects: Effects::empty(), settings: Box::default(), ..inner },
    }
}

/// The options, and where the statement begins.
fn options(tokens: Tokens<'_>) -> (Mode, usize) {
    // `EXPLAIN (SELECT 1)` has no options.
    let parenthesised = tokens.is_punctuation(2, b'(') || tokens.is_any(2, &["select", "with", "values", "table"]);
    if tokens.is_punctuation(1, b'(') && !parenthesised {
        let end = tokens.after_group(1);
        let runs = |i: usize| {
            let off = tokens.is_any(i + 1, &["false", "off"])
                || matches!(tokens.raw(i + 1), "0" | "'off'" | "'false'" | "'0'");
            let names = tokens.is_punctuation(i - 1, b'(') || tokens.is_punctuation(i - 1, b',');
            // In quotes it is the same option; one whose name cannot be read may be it.
            names && !off && tokens.escaped_name(i).is_none_or(|name| matches!(&*name, "analyze" | "analyse"))
        };
        let mode = if (2..end).any(runs) { Mode::Run } else { Mode::Plan };
        return (mode, end);
    }
    let (mode, next) = if tokens.is_any(1, &["analyze", "analyse"]) { (Mode::Run, 2) } else { (Mode::Plan, 1) };
    (mode, if tokens.is(next, "verbose") { next + 1 } else { next })
}
