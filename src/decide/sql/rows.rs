//! Where a relation is named and the type of its rows is meant, and what makes such rows: the domains of their columns are
//! checked on the way.

use super::lex::Kind;
use super::tokens::Tokens;

/// Whether the `n`th part of a name means a relation's type: `::name`, `AS name`, `name ''`, `name%ROWTYPE`, or the type of a
/// column of it: `name.column%TYPE`. `parts` are the indices of all its parts.
pub(super) fn is_meant(tokens: Tokens<'_>, parts: &[usize], n: usize) -> bool {
    let (Some(&first), Some(&last)) = (parts.first(), parts.last()) else { return false };
    let next = tokens.after_name(last);
    let is_of = |word| tokens.is_operator(next, "%") && tokens.is(next + 1, word);
    if n + 1 < parts.len() {
        return n + 2 == parts.len() && is_of("type");
    }
    let is_cast = first > 0 && (tokens.is_operator(first - 1, "::") || tokens.is(first - 1, "as"));
    is_cast || is_of("rowtype") || tokens.get(next).is_some_and(|token| token.kind == Kind::Text)
}

/// Whether what stands at `i` makes a row of the type of its argument: `json_populate_record`, hstore's `#=`, and their kin.
pub(super) fn fills(tokens: Tokens<'_>, i: usize) -> bool {
    match tokens.get(i).map(|token| token.kind) {
        Some(Kind::Operator) => tokens.raw(i).contains("#="),
        Some(Kind::Word) => tokens.raw(i).to_ascii_lowercase().contains("populate_record"),
        Some(Kind::Quoted | Kind::UnicodeQuoted) => {
            tokens.escaped_name(i).is_none_or(|name| name.contains("populate_record"))
        }
        _ => false,
    }
}
