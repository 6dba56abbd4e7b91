//! The relations that a statement writes to, as its words say it.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::keywords::{self, Lower};
use super::lex::Kind;
use super::tokens::Tokens;

/// A relation's name as it stands in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named<'a> {
    pub(super) schema: Option<Cow<'a, str>>,
    pub(super) name: Cow<'a, str>,
}

pub(super) type Targets<'a> = SmallVec<[Named<'a>; 1]>;

/// What the statement whose keyword is at `i` writes to; nothing, if the word is no such keyword there.
pub(super) fn of<'a>(tokens: Tokens<'a>, i: usize) -> Targets<'a> {
    match Lower::new(tokens.word(i)).as_str() {
        "insert" | "merge" if tokens.is(i + 1, "into") => one(tokens, i + 2),
        "delete" if tokens.is(i + 1, "from") => one(tokens, i + 2),
        // `DO UPDATE SET`, `THEN UPDATE SET`: of what the statement began with.
        "update" if !tokens.is(i + 1, "set") => one(tokens, i + 1),
        "copy" => copied(tokens, i + 1),
        "truncate" => listed(tokens, if tokens.is(i + 1, "table") { i + 2 } else { i + 1 }),
        _ => Targets::new(),
    }
}

/// `[ONLY] name`
fn one<'a>(tokens: Tokens<'a>, start: usize) -> Targets<'a> {
    read(tokens, after_only(tokens, start)).map(|(named, _)| named).into_iter().collect()
}

/// `[BINARY] name [(columns)] FROM`
fn copied<'a>(tokens: Tokens<'a>, start: usize) -> Targets<'a> {
    let start = if tokens.is(start, "binary") { start + 1 } else { start };
    let Some((named, end)) = read(tokens, start) else { return Targets::new() };
    let end = if tokens.is_punctuation(end, b'(') { tokens.after_group(end) } else { end };
    tokens.is(end, "from").then_some(named).into_iter().collect()
}

/// `[ONLY] name [*], ..`
fn listed<'a>(tokens: Tokens<'a>, start: usize) -> Targets<'a> {
    let (mut all, mut at) = (Targets::new(), start);
    while let Some((named, end)) = read(tokens, after_only(tokens, at)) {
        all.push(named);
        let end = if tokens.is_operator(end, "*") { end + 1 } else { end };
        if !tokens.is_punctuation(end, b',') {
            break;
        }
        at = end + 1;
    }
    all
}

/// `DELETE FROM ONLY (name)` is allowed, too.
fn after_only(tokens: Tokens<'_>, i: usize) -> usize {
    match tokens.is(i, "only") {
        true if tokens.is_punctuation(i + 1, b'(') => i + 2,
        true => i + 1,
        false => i,
    }
}

/// The name that begins at `i`, and the index after it; `None`: there is none.
pub(super) fn read(tokens: Tokens<'_>, i: usize) -> Option<(Named<'_>, usize)> {
    let is_name = |i: usize| match tokens.get(i).map(|token| token.kind) {
        Some(Kind::Word) => !keywords::is_never_a_name(Lower::new(tokens.raw(i)).as_str()),
        Some(Kind::Quoted | Kind::UnicodeQuoted) => true,
        _ => false,
    };
    let (mut schema, mut last) = (None, i);
    if !is_name(i) || i > 0 && tokens.is_punctuation(i - 1, b'.') {
        return None;
    }
    let mut next = tokens.after_name(last);
    while tokens.is_punctuation(next, b'.') && tokens.is_identifier(next + 1) {
        schema = Some(tokens.escaped_name(last)?);
        last = next + 1;
        next = tokens.after_name(last);
    }
    Some((Named { schema, name: tokens.escaped_name(last)? }, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::sql::lex::{Lexer, Token};

    #[test]
    fn targets_are_found_whatever_is_around_them() {
        for (text, expected) in [
            ("INSERT INTO t (a) VALUES (1)", "t"),
            ("insert into S.T select 1", "s.t"),
            ("INSERT INTO d.s.\"T\" AS x DEFAULT VALUES", "s.T"),
            ("UPDATE ONLY t SET a = 1", "t"),
            ("UPDATE only(t) SET a = 1", "t"),
            ("UPDATE t * SET a = 1", "t"),
            ("DELETE FROM t USING u", "t"),
            ("MERGE INTO t USING u ON true WHEN MATCHED THEN UPDATE SET a = 1", "t"),
            ("INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 2", "t"),
            ("SELECT a FROM t FOR UPDATE", ""),
            ("TRUNCATE t", "t"),
            ("TRUNCATE TABLE ONLY a, s.b *, c CASCADE", "a s.b c"),
            ("COPY t (a, b) FROM STDIN", "t"),
            ("COPY BINARY t FROM 'x'", "t"),
            ("COPY t TO STDOUT", ""),
            ("CREATE TRIGGER a BEFORE INSERT OR UPDATE OR DELETE ON t", ""),
        ] {
            let list: Vec<Token> = Lexer::new(text).collect::<Result<_, _>>().unwrap();
            let tokens = Tokens::new(text, &list);
            let found = (0..tokens.len()).flat_map(|i| of(tokens, i));
            let names = found.map(|Named { schema, name }| schema.map_or(name.to_string(), |s| format!("{s}.{name}")));
            assert_eq!(names.collect::<Vec<_>>().join(" "), expected, "{text}");
        }
    }
}
