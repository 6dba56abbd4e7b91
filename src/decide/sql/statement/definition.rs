//! CREATE, ALTER, DROP, and what else event triggers are told of.

use std::borrow::Cow;

use super::{prepared, query, utility};
use crate::decide::sql::classify::Facts;
use crate::decide::sql::keywords::Lower;
use crate::decide::sql::scan::is_temporary_schema;
use crate::decide::sql::tokens::Tokens;
use crate::decide::sql::types::{Effects, Intent, Reason, Verdict};

/// Statements that change definitions.
pub(super) fn classify(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    let verdict = match Lower::new(tokens.word(0)).as_str() {
        "create" => create(tokens, facts),
        "alter" => alter(tokens, facts),
        "drop" => drop(tokens),
        "comment" | "security" => utility::write(Reason::Ddl, Effects::WRITES),
        _ => utility::write(Reason::Ddl, Effects::WRITES | Effects::CATALOGUE),
    };
    verdict.with(facts.catalogue.left_by_ddl())
}

pub(super) fn create(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    let mut at = if tokens.is(1, "or") && tokens.is(2, "replace") { 3 } else { 1 };
    if tokens.is_any(at, &["local", "global"]) {
        at += 1;
    }
    let temporary = tokens.is_any(at, &["temp", "temporary"]) || in_temporary_schema(tokens);
    let alone = tokens.is_any(at, &["database", "tablespace", "subscription"]) || is_concurrent_index(tokens, at);
    // Temporary objects concern nobody else's verdicts.
    let kept = if temporary { Effects::PINS } else { Effects::CATALOGUE };
    let mut verdict = utility::write(Reason::Ddl, Effects::WRITES | kept);
    if alone {
        verdict.effects |= Effects::ALONE;
    }
    if tokens.is(at, "database") {
        let template =
            tokens.find(at, &["template"]).map(|at| if tokens.is_operator(at + 1, "=") { at + 2 } else { at + 1 });
        verdict = vacating(verdict, template.and_then(|at| tokens.escaped_name(at)));
    }
    if let Some(source) = created_from(tokens, at) {
        if tokens.is(source, "execute") {
            let executed = prepared::execute(tokens.from(source), facts);
            return Verdict { reason: Reason::Ddl, ..executed }.with(verdict.effects);
        }
        query::leave_behind(&mut verdict, tokens.from(source), facts);
    }
    verdict
}

/// Where the query of CREATE TABLE .. AS or CREATE MATERIALIZED VIEW .. AS begins: it runs at once, and a view's does
/// not.
fn created_from(tokens: Tokens<'_>, kind: usize) -> Option<usize> {
    let runs = (kind..kind + 3).any(|i| tokens.is_any(i, &["table", "materialized"]));
    tokens.find(kind, &["as"]).filter(|_| runs).map(|at| at + 1)
}

/// While somebody is connected to it, a database is neither dropped nor renamed, moved or copied (`CountOtherDBBackends` in
/// src/backend/storage/ipc/procarray.c).
fn vacating(verdict: Verdict, database: Option<Cow<'_, str>>) -> Verdict {
    match database {
        Some(name) => verdict.with(Effects::VACATES).about(name),
        None => verdict,
    }
}

fn is_concurrent_index(tokens: Tokens<'_>, at: usize) -> bool {
    let index = if tokens.is(at, "unique") { at + 1 } else { at };
    tokens.is(index, "index") && tokens.is(index + 1, "concurrently")
}

/// Whether anything in the statement is made in, or named in, the schema of temporary objects.
fn in_temporary_schema(tokens: Tokens<'_>) -> bool {
    let is_schema = |i: usize| tokens.is_punctuation(tokens.after_name(i), b'.');
    (1..tokens.len()).any(|i| is_schema(i) && is_temporary_schema(tokens.escaped_name(i).as_deref()))
}

fn alter(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    if tokens.is(1, "system") {
        return utility::write(Reason::Utility, Effects::NODE | Effects::ALONE);
    }
    let moves_database = tokens.is(1, "database") && tokens.is(3, "set") && tokens.is(4, "tablespace");
    let detaches = tokens.len() > 4 && tokens.is(tokens.len() - 1, "concurrently");
    let alone = if moves_database || detaches { Effects::ALONE } else { Effects::empty() };
    // ALTER ROLE .. SET, ALTER DATABASE .. RESET
    let begins = tokens.is_any(1, &["role", "user", "database"]) && tokens.find(3, &["set", "reset"]).is_some();
    let begins = if begins && !moves_database { Effects::DEFAULTS } else { Effects::empty() };
    let mut verdict = utility::write(Reason::Ddl, Effects::WRITES | Effects::CATALOGUE | alone | begins);
    // New columns are filled, and constraints checked, by what stands here.
    if let Some(at) = tokens.find(2, &["default", "using", "check", "generated"]).filter(|_| tokens.is(1, "table")) {
        query::leave_behind(&mut verdict, tokens.from(at), facts);
    }
    let vacates = moves_database || (tokens.is(1, "database") && tokens.find(3, &["rename"]).is_some());
    vacating(verdict, tokens.escaped_name(2).filter(|_| vacates))
}

/// DROP: may also take a temporary object away.
fn drop(tokens: Tokens<'_>) -> Verdict {
    let concurrent = tokens.is(1, "index") && tokens.is(2, "concurrently");
    let alone = concurrent || tokens.is_any(1, &["database", "tablespace", "subscription"]);
    let alone = if alone { Effects::ALONE } else { Effects::empty() };
    let verdict =
        Verdict::new(Intent::Write, Reason::Ddl).with(Effects::WRITES | Effects::CATALOGUE | Effects::UNPINS | alone);
    let name = if tokens.is(2, "if") { 4 } else { 2 };
    vacating(verdict, tokens.escaped_name(name).filter(|_| tokens.is(1, "database")))
}
