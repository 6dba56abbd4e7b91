//! The shape of a text: what is left when its literals are taken out. Texts of one shape have one verdict, so that a
//! cache can answer for all of them.

use super::keywords::Lower;
use super::lex::{Kind, Lexer, Token};

/// Whether the shape stands for the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Any text of this shape has the same verdict.
    Mergeable,
    /// The verdict depends on the literals, on comments, or on where things stand: only the exact text may be looked
    /// up.
    LiteralMatters,
}

/// Appends the shape of `text` to `out`: tokens with single spaces between them, every string as `'?'`, every number
/// as `0`, runs of literals in a list (of IN, VALUES, ARRAY) as one. One pass over the bytes. What is appended in the case of
/// [`Shape::LiteralMatters`] has no meaning.
///
/// Right under `standard_conforming_strings = on`.
pub fn shape(text: &[u8], out: &mut Vec<u8>) -> Shape {
    let mut previous_end = 0;
    let mut leading = true;
    let mut groups = Groups::default();
    out.reserve(2 * text.len() + 1);
    out.push(b' ');
    for token in Lexer::over(text) {
        let Ok(token) = token else { return Shape::LiteralMatters };
        let (start, end) = (token.start as usize, token.end as usize);
        if has_hint(&text[previous_end..start]) {
            return Shape::LiteralMatters;
        }
        previous_end = end;
        let raw = &text[start..end];
        if leading && !leads_mergeable(raw) || minds_literals(token, raw) {
            return Shape::LiteralMatters;
        }
        leading = token.kind == Kind::Punctuation(b';') || leading && token.kind == Kind::Punctuation(b'(');
        groups.pass(token.kind, raw);
        append(token.kind, raw, groups.innermost(), out);
    }
    if has_hint(&text[previous_end..]) { Shape::LiteralMatters } else { Shape::Mergeable }
}

/// What a parenthesis or bracket holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// Any number of values, of which one is as good as many: `IN (1, 2)`, `VALUES (1, 2)`, `ARRAY[1, 2]`.
    List,
    /// Anything else. The number of a function's arguments may decide which function it is.
    Other,
}

/// The groups that are open, as bits: 1 for a list. Deeper ones than these are taken for others.
#[derive(Debug, Default)]
struct Groups {
    bits: u64,
    depth: u32,
    /// Whether the token before was a word that makes a list of the parenthesis behind it.
    after_list_word: bool,
}

impl Groups {
    fn pass(&mut self, kind: Kind, raw: &[u8]) {
        match kind {
            Kind::Punctuation(open @ (b'(' | b'[')) => {
                let list = open == b'[' || self.after_list_word;
                self.bits = self.bits << 1 | u64::from(list);
                self.depth += 1;
            }
            Kind::Punctuation(b')' | b']') => {
                self.bits >>= 1;
                self.depth = self.depth.saturating_sub(1);
            }
            _ => {}
        }
        self.after_list_word =
            kind == Kind::Word && (raw.eq_ignore_ascii_case(b"in") || raw.eq_ignore_ascii_case(b"values"));
    }

    fn innermost(&self) -> Group {
        if self.bits & 1 == 1 && self.depth <= u64::BITS { Group::List } else { Group::Other }
    }
}

/// The text without its literals, shortened: for people.
pub fn outline(text: &[u8]) -> String {
    const LONGEST: usize = 300;
    let mut out = Vec::new();
    for token in Lexer::over(text) {
        let Ok(token) = token else { break };
        let raw = &text[token.start as usize..token.end as usize];
        let part: &[u8] = match token.kind {
            Kind::Text => b"'?'",
            Kind::Number => b"0",
            _ => raw,
        };
        let joins = matches!(token.kind, Kind::Punctuation(b'.' | b',' | b';' | b')' | b']' | b'['));
        if !joins && out.last().is_some_and(|last| !matches!(last, b'.' | b'(' | b'[')) {
            out.push(b' ');
        }
        out.extend_from_slice(part);
        if out.len() > LONGEST {
            out.extend_from_slice(b" ..");
            break;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What has been appended always ends with a space.
fn append(kind: Kind, raw: &[u8], group: Group, out: &mut Vec<u8>) {
    let literal: &[u8] = match kind {
        Kind::Text => b" '?' ",
        Kind::Number => b" 0 ",
        _ => {
            out.extend_from_slice(raw);
            return out.push(b' ');
        }
    };
    // `1, 2` is as `1`: take the comma back.
    if group == Group::List && out.strip_suffix(b", ").is_some_and(|before| before.ends_with(literal)) {
        out.truncate(out.len() - 2);
    } else {
        out.extend_from_slice(&literal[1..]);
    }
}

/// Statements whose verdict is in their words. All others are rare, or carry names, values and positions in their
/// verdicts.
fn leads_mergeable(raw: &[u8]) -> bool {
    let Ok(word) = std::str::from_utf8(raw) else { return false };
    matches!(
        Lower::new(word).as_str(),
        "select"
            | "with"
            | "values"
            | "table"
            | "insert"
            | "update"
            | "delete"
            | "merge"
            | "begin"
            | "start"
            | "commit"
            | "end"
            | "rollback"
            | "abort"
            | ";"
            | "("
    )
}

/// Functions whose arguments decide; and identifiers whose spelling is not their name.
fn minds_literals(token: Token, raw: &[u8]) -> bool {
    let raw = match token.kind {
        Kind::Word => raw,
        Kind::Quoted => &raw[1..raw.len() - 1],
        Kind::UnicodeQuoted => return true,
        _ => return false,
    };
    raw.eq_ignore_ascii_case(b"set_config") || raw.eq_ignore_ascii_case(b"current_setting")
}

/// Whether the comments in this stretch may be meant for pgpilot.
fn has_hint(blank: &[u8]) -> bool {
    const NAME: &[u8] = b"pgpilot";
    blank.len() > NAME.len() && blank.windows(NAME.len()).any(|part| part.eq_ignore_ascii_case(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape_of(text: &str) -> (Shape, String) {
        let mut out = Vec::new();
        let shape = shape(text.as_bytes(), &mut out);
        (shape, String::from_utf8(out).unwrap())
    }

    #[test]
    fn literals_do_not_count() {
        for (a, b) in [
            ("SELECT * FROM t WHERE a = 1", "SELECT  *\nFROM t WHERE a=23.5e-7 -- c"),
            ("SELECT 'a'", "SELECT 'it''s; DELETE FROM t'"),
            ("SELECT E'a'", r"SELECT E'\'; DELETE FROM t; --'"),
            ("SELECT $$a$$", "SELECT $x$ $$ '; $y$ $x$"),
            ("SELECT 'a'\n'b'", "SELECT 'c'"),
            ("SELECT /* /* 1 */ 2 */ U&'a'", "SELECT B'01'"),
            ("SELECT a IN (1)", "SELECT a IN (1, 2, 3)"),
            ("SELECT a IN ('x', 'y')", "SELECT a IN ('z')"),
            ("SELECT 0x1F", "SELECT 1_000"),
        ] {
            let (shape_a, a) = shape_of(a);
            assert_eq!(shape_a, Shape::Mergeable, "{a}");
            assert_eq!((shape_a, a), shape_of(b));
        }
    }

    #[test]
    fn everything_else_does() {
        for (a, b) in [
            ("SELECT t1", "SELECT t2"),
            ("SELECT \"a\"", "SELECT \"A\""),
            ("SELECT a0, 1", "SELECT a0"),
            ("SELECT $1", "SELECT $2"),
            ("SELECT $1", "SELECT 1"),
            ("SELECT a - 1", "SELECT a --1"),
            ("SELECT 1, 'a'", "SELECT 1"),
            ("SELECT f(1, 2)", "SELECT f(1)"),
            ("SELECT 1, 2", "SELECT 1"),
            ("SELECT 'a' ; DELETE FROM t", "SELECT 'a; DELETE FROM t'"),
            ("SELECT a ? 'b'", "SELECT a '?' 'b'"),
        ] {
            assert_ne!(shape_of(a).1, shape_of(b).1, "{a} / {b}");
        }
    }

    #[test]
    fn some_texts_are_not_merged() {
        for text in [
            "SELECT set_config('a', 'b', false)",
            "SELECT \"current_setting\"('a')",
            "SELECT U&\"s\\0065t_config\"('a')",
            "/* pgpilot: primary */ SELECT 1",
            "SELECT 1 -- PGPILOT: replica",
            "SET a = 'b'",
            "SELECT 1; SET a = 'b'",
            "EXECUTE a(1)",
            "DO 'begin end'",
            "EXPLAIN (ANALYZE 0) SELECT 1",
            "SELECT 'open",
        ] {
            assert_eq!(shape_of(text).0, Shape::LiteralMatters, "{text}");
        }
    }
}
