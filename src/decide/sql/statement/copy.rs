//! COPY.

use super::{classify_optimizable, query, utility};
use crate::decide::sql::classify::Facts;
use crate::decide::sql::scan::{full_name, is_temporary_schema, left_by_writing};
use crate::decide::sql::tokens::Tokens;
use crate::decide::sql::types::{Depends, Effects, Intent, Reason, Verdict};

pub(super) fn classify(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    let start = if tokens.is(1, "binary") { 2 } else { 1 };
    let (source, direction) = if tokens.is_punctuation(start, b'(') {
        let end = tokens.after_group(start);
        (classify_optimizable(tokens.slice(start + 1..end - 1), facts), end)
    } else {
        table(tokens, start, facts)
    };
    // The grammar takes STDIN and STDOUT for the same thing (`copy_file_name` in gram.y).
    let client = tokens.is_any(direction + 1, &["stdin", "stdout"]);
    match (tokens.is(direction, "to"), tokens.is(direction, "from"), client) {
        (true, _, true) => source,
        // A file of the node, or a program there.
        (true, _, false) => utility::write(Reason::Utility, source.effects | Effects::NODE),
        (_, true, _) => {
            let mut verdict =
                utility::write(Reason::Dml, if client { Effects::WRITES | Effects::COPY_IN } else { Effects::WRITES });
            // COPY .. FROM .. WHERE condition
            if let Some(at) = tokens.find(direction, &["where"]) {
                query::leave_behind(&mut verdict, tokens.from(at + 1), facts);
            }
            let (left, depends) = left_by_writing(tokens, 0, facts);
            verdict.effects |= left;
            verdict.depends |= depends;
            verdict
        }
        _ => Verdict::opaque(Reason::Unparsable),
    }
}

/// A relation and maybe its columns; also the index after them.
fn table(tokens: Tokens<'_>, start: usize, facts: &Facts<'_>) -> (Verdict, usize) {
    let (mut schema, mut at) = (None, start);
    while tokens.is_punctuation(at + 1, b'.') {
        schema = tokens.name(at);
        at += 2;
    }
    let after = if tokens.is_punctuation(at + 1, b'(') { tokens.after_group(at + 1) } else { at + 1 };
    let Some(name) = tokens.name(at) else { return (Verdict::opaque(Reason::Unparsable), after) };
    let temporary = is_temporary_schema(schema.as_deref());
    let verdict = if temporary || facts.catalogue.relation(schema.as_deref(), &name, None).is_some() {
        Verdict::new(Intent::Write, Reason::PrimaryRelation).about(full_name(schema.as_deref(), &name))
    } else if facts.catalogue.is_strange(schema.as_deref(), &name, facts.asker.path) {
        let unknown = Verdict::new(Intent::Write, Reason::UnknownRelation).with(Effects::STRANGE_RELATION);
        Verdict { depends: Depends::STRANGERS, ..unknown }.about(full_name(schema.as_deref(), &name))
    } else {
        Verdict::new(Intent::Read, Reason::PlainRead)
    };
    (verdict, after)
}
