//! The relations that a query reads, as far as its tokens tell: what stands where FROM, JOIN and TABLE want a relation.
//!
//! A column may stand there that only looks like one (`extract(year FROM a)` is known, a later grammar's is not): whoever
//! asks lets the parser decide in the end.

use std::borrow::Cow;

use super::classify::Facts;
use super::keywords::Lower;
use super::lex::Kind;
use super::scan::{Doubt, is_temporary_schema};
use super::targets::{self, Named};
use super::tokens::Tokens;

/// The relations of a query that nothing is known of.
pub(super) fn strangers(tokens: Tokens<'_>, facts: &Facts<'_>) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    each(tokens, |Named { schema, name }| {
        let schema = schema.as_deref();
        if !is_temporary_schema(schema) && facts.catalogue.is_strange(schema, &name, facts.asker.path) {
            doubts.push(Doubt::Strange { schema: schema.map(Into::into), name: (*name).into() });
        }
    });
    doubts
}

/// Calls `found` for each; names of common table expressions are left out where they are those.
fn each<'a>(tokens: Tokens<'a>, mut found: impl FnMut(Named<'a>)) {
    let mut walk = Walk { tokens, levels: vec![Level::default()], queries: Vec::new() };
    let mut i = 0;
    while let Some(token) = tokens.get(i) {
        i = match token.kind {
            Kind::Punctuation(b'(' | b'[') => walk.open(i),
            Kind::Punctuation(b')' | b']') => walk.close(i),
            Kind::Punctuation(b',') => walk.comma(i),
            Kind::Word | Kind::Quoted | Kind::UnicodeQuoted => walk.word(i, &mut found),
            // `db.schema.name` is read as a whole; anything else is no relation.
            _ => {
                walk.top().wants = false;
                i + 1
            }
        };
    }
}

/// What is between two parentheses.
#[derive(Debug, Default, Clone, Copy)]
struct Level {
    /// It is in a FROM clause: a comma leads to the next relation.
    lists: bool,
    /// A relation may come next.
    wants: bool,
    /// FROM is a word of a function here: `extract(year FROM a)`.
    is_call: bool,
}

struct Walk<'a> {
    tokens: Tokens<'a>,
    levels: Vec<Level>,
    /// Common table expressions: their names, and where they begin to be known.
    queries: Vec<(Cow<'a, str>, usize)>,
}

impl<'a> Walk<'a> {
    fn top(&mut self) -> &mut Level {
        if self.levels.is_empty() {
            self.levels.push(Level::default());
        }
        let last = self.levels.len() - 1;
        &mut self.levels[last]
    }

    fn open(&mut self, i: usize) -> usize {
        let tokens = self.tokens;
        let wants = std::mem::take(&mut self.top().wants);
        let is_query = tokens.is_any(i + 1, &["select", "with", "values", "table"]);
        let joins = wants && !is_query;
        let is_call = i > 0 && tokens.is_any(i - 1, &["extract", "substring", "trim", "overlay", "position"]);
        self.levels.push(Level { lists: joins, wants: joins, is_call });
        i + 1
    }

    fn close(&mut self, i: usize) -> usize {
        self.levels.pop();
        self.top().wants = false;
        i + 1
    }

    fn comma(&mut self, i: usize) -> usize {
        let top = self.top();
        top.wants = top.lists;
        i + 1
    }

    fn word(&mut self, i: usize, found: &mut impl FnMut(Named<'a>)) -> usize {
        let tokens = self.tokens;
        let is_label = i > 0 && (tokens.is_punctuation(i - 1, b'.') || tokens.is(i - 1, "as"));
        if !is_label && self.keyword(i) {
            return i + 1;
        }
        self.note_query(i);
        let wants = std::mem::take(&mut self.top().wants);
        let Some((named, next)) = targets::read(tokens, i).filter(|_| wants) else { return tokens.after_name(i) };
        let is_query = named.schema.is_none() && self.queries.iter().any(|(name, at)| *name == named.name && *at <= i);
        if !is_query && !tokens.is_punctuation(next, b'(') {
            found(named);
        }
        next
    }

    /// Whether the word at `i` is one that decides what comes next.
    fn keyword(&mut self, i: usize) -> bool {
        let tokens = self.tokens;
        let is_first = i == 0 || tokens.is_punctuation(i - 1, b'(');
        let follows_set = i > 0 && tokens.is_any(i - 1, &["union", "intersect", "except", "all", "distinct"]);
        let top = self.top();
        match Lower::new(tokens.word(i)).as_str() {
            "from" if top.is_call || i > 0 && tokens.is(i - 1, "distinct") => {}
            "from" | "join" => (top.lists, top.wants) = (true, true),
            "table" if is_first || follows_set => top.wants = true,
            "only" | "lateral" => {}
            // ROWS FROM (f(), ..)
            "rows" if top.wants && tokens.is(i + 1, "from") => {}
            "where" | "group" | "having" | "window" | "order" | "limit" | "offset" | "fetch" | "union"
            | "intersect" | "except" | "select" | "returning" | "for" => (top.lists, top.wants) = (false, false),
            _ => return false,
        }
        true
    }

    /// `name [(columns)] AS [[NOT] MATERIALIZED] (`: known behind itself, or, if it is recursive, within.
    fn note_query(&mut self, i: usize) {
        let tokens = self.tokens;
        let next = tokens.after_name(i);
        let next = if tokens.is_punctuation(next, b'(') { tokens.after_group(next) } else { next };
        if !tokens.is(next, "as") {
            return;
        }
        let open = match tokens.is(next + 1, "not") {
            true => next + 3,
            false if tokens.is(next + 1, "materialized") => next + 2,
            false => next + 1,
        };
        if tokens.is_punctuation(open, b'(')
            && let Some(name) = tokens.escaped_name(i)
        {
            let recursive = (0..i).any(|i| tokens.is(i, "recursive"));
            self.queries.push((name, if recursive { 0 } else { tokens.after_group(open) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::sql::lex::{Lexer, Token};

    #[test]
    fn relations_are_told_from_what_stands_around_them() {
        for (text, expected) in [
            ("SELECT a FROM t", "t"),
            ("select A from S.T as x, U y(a), only(V), LATERAL f(1) z", "s.t u v"),
            ("TABLE t", "t"),
            ("SELECT 1 UNION TABLE t", "t"),
            (
                "SELECT a FROM t JOIN u ON t.a = u.b LEFT JOIN v USING (a, b), w WHERE a IN (SELECT b, c FROM x), y",
                "t u v w x",
            ),
            ("SELECT a FROM (t CROSS JOIN (u NATURAL JOIN v)), (SELECT b, c FROM w) x, (VALUES (1)) y", "t u v w"),
            ("SELECT extract(year FROM a), trim(both 'x' FROM b), substring(c FROM 1 FOR 2) FROM t", "t"),
            ("SELECT a IS NOT DISTINCT FROM b FROM t ORDER BY a, b LIMIT 1", "t"),
            ("SELECT extract(day FROM (SELECT a FROM t))", "t"),
            ("WITH x AS (SELECT * FROM x), y(a) AS MATERIALIZED (TABLE x) SELECT * FROM y, x, z", "x z"),
            ("WITH RECURSIVE x AS (SELECT 1 UNION SELECT * FROM x) SELECT * FROM x", ""),
            ("WITH x AS (SELECT 1) SELECT * FROM s.x", "s.x"),
            ("SELECT * FROM ROWS FROM (f(1), g(2)) WITH ORDINALITY x, t TABLESAMPLE system (1)", "t"),
            ("SELECT * FROM generate_series(1, 2) g(a), unnest(ARRAY[1, 2]) u, t *", "t"),
            ("SELECT a.from, 1 AS from, \"from\" FROM \"T\" \"x\"", "T"),
            ("SELECT current_date, a FROM current_user, t GROUP BY a, b HAVING x > y", "t"),
            ("SELECT a FROM t WINDOW w AS (PARTITION BY b, c), v AS (w)", "t"),
            ("VALUES (1, 2), (3, 4)", ""),
        ] {
            let list: Vec<Token> = Lexer::new(text).collect::<Result<_, _>>().unwrap();
            let mut names = Vec::new();
            each(Tokens::new(text, &list), |Named { schema, name }| {
                names.push(schema.map_or(name.to_string(), |schema| format!("{schema}.{name}")));
            });
            assert_eq!(names.join(" "), expected, "{text}");
        }
    }
}
