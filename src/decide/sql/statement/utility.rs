//! The rest: statements that are neither queries nor definitions, and need the primary.

use super::query;
use crate::decide::sql::body;
use crate::decide::sql::catalogue::{Call, Standing};
use crate::decide::sql::classify::Facts;
use crate::decide::sql::lex::Kind;
use crate::decide::sql::placeholders::placeholders;
use crate::decide::sql::scan::full_name;
use crate::decide::sql::tokens::Tokens;
use crate::decide::sql::types::{Depends, Effects, Intent, Reason, Verdict};

pub(super) fn write(reason: Reason, effects: Effects) -> Verdict {
    Verdict::new(Intent::Write, reason).with(effects)
}

/// FETCH, MOVE, CLOSE: where the cursor is.
pub(super) fn cursor(effects: Effects) -> Verdict {
    Verdict::new(Intent::WithinTransaction, Reason::Utility).with(effects)
}

/// DO: its body may change any setting; what pins the session cannot be made without one of these words in it, or a
/// function that does it.
pub(super) fn anonymous_block(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    const WORDS: [&str; 5] = ["temp", "advisory", "listen", "hold", "execute"];
    const LASTING: [(&str, Effects); 2] = [("setseed", Effects::SEED), ("dblink_connect", Effects::CONNECTS)];
    let mentioned = |i: usize| {
        let body = tokens.raw(i).to_ascii_lowercase();
        let pins = if WORDS.iter().any(|word| body.contains(word)) { Effects::PINS } else { Effects::empty() };
        let lasting = LASTING.iter().filter(|(word, _)| body.contains(word));
        lasting.fold(pins, |all, &(_, effect)| all | effect)
    };
    let left = (1..tokens.len()).fold(Effects::empty(), |all, i| all | mentioned(i));
    let settings = (1..tokens.len()).flat_map(|i| placeholders(tokens.raw(i))).collect();
    let bodies = (1..tokens.len()).filter_map(|i| match tokens.string(i) {
        Some(text) => body::left_by_block(&text, facts),
        // Escapes are not looked behind.
        None => (tokens.get(i)?.kind == Kind::Text).then_some(Effects::ANYTHING),
    });
    let left = bodies.fold(left, |all, effects| all | effects);
    Verdict { settings, ..write(Reason::Utility, Effects::SETTINGS | left | Effects::UNPINS) }
}

/// CALL procedure(..).
pub(super) fn call(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    let (mut schema, mut at) = (None, 1);
    while tokens.is_punctuation(at + 1, b'.') {
        schema = tokens.name(at);
        at += 2;
    }
    let Some(name) = tokens.name(at) else { return Verdict::opaque(Reason::Unparsable) };
    let call = Call { schema: schema.as_deref(), name: &name, arguments: None, typed_by: Depends::empty() };
    let found = facts.catalogue.resolve(&call, facts.asker.path, facts.overrides);
    let known = match found.standing {
        Standing::Primary { effects, .. } => effects,
        Standing::Safe | Standing::Unknown => Effects::empty(),
    };
    let mut verdict = write(Reason::Utility, known).about(full_name(schema.as_deref().or(found.home), &name));
    query::leave_behind(&mut verdict, tokens.from(at + 1), facts);
    verdict.depends |= found.depends;
    verdict.with(Effects::SETTINGS)
}

/// REINDEX, CLUSTER: some forms commit as they go, and so must be alone.
pub(super) fn rebuild(tokens: Tokens<'_>) -> Verdict {
    let many = (1..tokens.len().min(16)).any(|i| tokens.is_any(i, &["schema", "database", "system", "concurrently"]));
    let all = tokens.is(0, "cluster") && (tokens.len() == 1 || tokens.is(1, "verbose") && tokens.len() == 2);
    write(Reason::Utility, if many || all { Effects::ALONE } else { Effects::empty() })
}
