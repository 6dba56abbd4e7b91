//! The kinds of statements, by their leading keywords: every kind that PostgreSQL has gets a deliberate verdict, any
//! other goes to the primary.

mod copy;
mod definition;
mod explain;
mod prepared;
mod query;
mod session;
mod transaction;
mod utility;

use super::classify::Facts;
use super::keywords::Lower;
use super::tokens::Tokens;
use super::types::{Effects, Intent, Reason, Verdict};

/// Judges one statement; `tokens` are all of its tokens, at least one.
pub(super) fn classify(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    if tokens.is_punctuation(0, b'(') {
        return query::read(tokens, facts);
    }
    match Lower::new(tokens.word(0)).as_str() {
        "select" | "with" | "values" | "table" => query::read(tokens, facts),
        "insert" | "update" | "delete" | "merge" => query::modification(tokens, facts),
        "truncate" => query::modification(tokens, facts),
        "copy" => copy::classify(tokens, facts),
        "explain" => explain::classify(tokens, facts),

        "begin" | "start" => transaction::begin(tokens),
        "commit" | "end" | "rollback" | "abort" => transaction::end(tokens),
        "savepoint" | "release" => transaction::savepoint(tokens),

        "set" => session::set(tokens),
        "reset" => session::reset(tokens),
        "show" => session::show(tokens),
        "discard" => session::discard(tokens),
        "listen" => utility::write(Reason::SessionState, Effects::PINS),
        "unlisten" => utility::write(Reason::SessionState, Effects::UNPINS),
        // A library stays in its server process.
        "load" => utility::write(Reason::SessionState, Effects::LIBRARY),

        "prepare" => prepared::prepare(tokens, facts),
        "execute" => prepared::execute(tokens, facts),
        "deallocate" => prepared::deallocate(tokens),
        "declare" => prepared::declare(tokens, facts),
        "fetch" | "move" => utility::cursor(Effects::empty()),
        "close" => utility::cursor(Effects::UNPINS),

        "create" | "alter" | "drop" | "grant" | "revoke" | "reassign" | "import" | "comment" | "security" => {
            definition::classify(tokens, facts)
        }

        "do" => utility::anonymous_block(tokens, facts),
        "call" => utility::call(tokens, facts),
        "notify" => utility::write(Reason::Utility, Effects::WRITES),
        "lock" | "analyze" | "analyse" => utility::write(Reason::Utility, Effects::empty()),
        "vacuum" => utility::write(Reason::Utility, Effects::ALONE),
        "checkpoint" => utility::write(Reason::Utility, Effects::NODE),
        "refresh" => query::refresh().with(facts.catalogue.left_by_ddl()),
        "reindex" | "cluster" => utility::rebuild(tokens).with(facts.catalogue.left_by_ddl()),
        _ => Verdict::opaque(Reason::Unparsable).about(tokens.raw(0)),
    }
}

/// What EXPLAIN and COPY may hold: a query or a modification.
fn classify_optimizable(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    let first = tokens.word(0);
    let query = tokens.is_punctuation(0, b'(') || tokens.is_any(0, &["select", "with", "values", "table"]);
    if query {
        query::read(tokens, facts)
    } else if tokens.is_any(0, &["insert", "update", "delete", "merge"]) {
        query::modification(tokens, facts)
    } else {
        Verdict { intent: Intent::Write, ..Verdict::opaque(Reason::Unparsable).about(first) }
    }
}
