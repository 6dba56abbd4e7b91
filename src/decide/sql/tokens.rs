//! The tokens of one statement, and questions about them.

use std::borrow::Cow;
use std::ops::Range;

use super::lex::{Kind, Token};
use super::names;

/// A run of tokens within a text. Indices are relative to the run; asking beyond its ends is fine and finds nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tokens<'a> {
    pub(super) text: &'a str,
    list: &'a [Token],
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str, list: &'a [Token]) -> Self {
        Tokens { text, list }
    }

    pub(super) fn len(self) -> usize {
        self.list.len()
    }

    pub(super) fn get(self, i: usize) -> Option<Token> {
        self.list.get(i).copied()
    }

    pub(super) fn slice(self, range: Range<usize>) -> Tokens<'a> {
        let end = range.end.min(self.list.len());
        Tokens { text: self.text, list: &self.list[range.start.min(end)..end] }
    }

    pub(super) fn from(self, start: usize) -> Tokens<'a> {
        self.slice(start..self.list.len())
    }

    /// The bytes of the text from the first token to the last.
    pub(super) fn source(self) -> &'a str {
        &self.text[self.extent()]
    }

    /// Where those stand in the text.
    pub(super) fn extent(self) -> Range<usize> {
        match (self.list.first(), self.list.last()) {
            (Some(first), Some(last)) => first.start as usize..last.end as usize,
            _ => 0..0,
        }
    }

    pub(super) fn raw(self, i: usize) -> &'a str {
        self.get(i).map_or("", |t| &self.text[t.start as usize..t.end as usize])
    }

    pub(super) fn span(self, i: usize) -> Range<usize> {
        self.get(i).map_or(0..0, |t| t.start as usize..t.end as usize)
    }

    /// The keyword or plain identifier at `i`, as written; empty for anything else.
    pub(super) fn word(self, i: usize) -> &'a str {
        match self.get(i) {
            Some(Token { kind: Kind::Word, .. }) => self.raw(i),
            _ => "",
        }
    }

    /// Whether token `i` is this keyword.
    pub(super) fn is(self, i: usize, keyword: &str) -> bool {
        self.word(i).eq_ignore_ascii_case(keyword)
    }

    pub(super) fn is_any(self, i: usize, keywords: &[&str]) -> bool {
        let word = self.word(i);
        !word.is_empty() && keywords.iter().any(|k| word.eq_ignore_ascii_case(k))
    }

    pub(super) fn is_punctuation(self, i: usize, c: u8) -> bool {
        self.get(i).is_some_and(|t| t.kind == Kind::Punctuation(c))
    }

    pub(super) fn is_operator(self, i: usize, operator: &str) -> bool {
        self.get(i).is_some_and(|t| t.kind == Kind::Operator) && self.raw(i) == operator
    }

    pub(super) fn is_identifier(self, i: usize) -> bool {
        self.get(i).is_some_and(|t| matches!(t.kind, Kind::Word | Kind::Quoted | Kind::UnicodeQuoted))
    }

    /// The identifier at `i` as the server understands it; none where UESCAPE says how to read it.
    pub(super) fn name(self, i: usize) -> Option<Cow<'a, str>> {
        self.get(i).filter(|_| !self.has_escape(i)).and_then(|t| names::identifier(self.text, t))
    }

    /// The identifier at `i`, which UESCAPE and its character may follow: they belong to it.
    pub(super) fn escaped_name(self, i: usize) -> Option<Cow<'a, str>> {
        if !self.has_escape(i) {
            return self.name(i);
        }
        // Neither a hexadecimal digit nor a sign, quote or white space: the server refuses those.
        let character = self.string(i + 2)?;
        let mut characters = character.chars();
        let escape =
            characters.next().filter(|c| !c.is_ascii_hexdigit() && !"+'\"".contains(*c) && !c.is_whitespace())?;
        characters.next().is_none().then(|| names::escaped(self.text, self.get(i)?, escape))?
    }

    /// The index after the identifier at `i`.
    pub(super) fn after_name(self, i: usize) -> usize {
        if self.has_escape(i) { i + 3 } else { i + 1 }
    }

    fn has_escape(self, i: usize) -> bool {
        self.get(i).is_some_and(|t| t.kind == Kind::UnicodeQuoted) && self.is(i + 1, "uescape")
    }

    /// The value of the string constant at `i`, if it is a simple one.
    pub(super) fn string(self, i: usize) -> Option<Cow<'a, str>> {
        self.get(i).and_then(|t| names::string_value(self.text, t))
    }

    /// A boolean constant at `i`, as a keyword or as any text that the type accepts (`src/backend/utils/adt/bool.c`).
    pub(super) fn truth(self, i: usize) -> Option<bool> {
        let text = match self.word(i) {
            "" => self.string(i)?.trim().to_ascii_lowercase(),
            word => word.to_ascii_lowercase(),
        };
        match text.as_str() {
            "true" | "t" | "on" | "yes" | "1" => Some(true),
            "false" | "f" | "off" | "no" | "0" => Some(false),
            _ => None,
        }
    }

    /// The index after the parenthesis that closes the one at `open`; the end of the run if it is never closed.
    pub(super) fn after_group(self, open: usize) -> usize {
        let mut depth = 0_usize;
        for i in open..self.len() {
            match self.list[i].kind {
                Kind::Punctuation(b'(' | b'[') => depth += 1,
                Kind::Punctuation(b')' | b']') => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return i + 1;
                    }
                }
                _ => {}
            }
        }
        self.len()
    }

    /// The first index from `start` on that holds one of these keywords outside all parentheses.
    pub(super) fn find(self, start: usize, keywords: &[&str]) -> Option<usize> {
        let mut i = start;
        while i < self.len() {
            if self.is_punctuation(i, b'(') {
                i = self.after_group(i);
            } else if self.is_any(i, keywords) {
                return Some(i);
            } else {
                i += 1;
            }
        }
        None
    }
}

/// The statements of a text, as runs of token indices without the semicolons between them; empty statements are left
/// out.
///
/// The server's grammar has semicolons elsewhere in two places only: between the parentheses of a CREATE RULE, and in
/// the body of a function that is written as BEGIN ATOMIC .. END.
pub(super) fn split(text: &str, list: &[Token]) -> Vec<Range<usize>> {
    let tokens = Tokens::new(text, list);
    let mut statements = Vec::with_capacity(1);
    let (mut start, mut parentheses, mut blocks) = (0, 0_usize, 0_usize);
    let mut routine = is_create_routine(tokens);
    for (i, token) in list.iter().enumerate() {
        match token.kind {
            Kind::Punctuation(b'(') => parentheses += 1,
            Kind::Punctuation(b')') => parentheses = parentheses.saturating_sub(1),
            Kind::Word if routine && parentheses == 0 => match tokens.word(i) {
                w if w.eq_ignore_ascii_case("begin") && tokens.is(i + 1, "atomic") => blocks += 1,
                w if blocks > 0 && w.eq_ignore_ascii_case("case") => blocks += 1,
                w if blocks > 0 && w.eq_ignore_ascii_case("end") => blocks -= 1,
                _ => {}
            },
            Kind::Punctuation(b';') if parentheses == 0 && blocks == 0 => {
                if start < i {
                    statements.push(start..i);
                }
                start = i + 1;
                routine = is_create_routine(tokens.from(start));
            }
            _ => {}
        }
    }
    if start < list.len() {
        statements.push(start..list.len());
    }
    statements
}

fn is_create_routine(tokens: Tokens<'_>) -> bool {
    let kind = if tokens.is(1, "or") && tokens.is(2, "replace") { 3 } else { 1 };
    tokens.is(0, "create") && tokens.is_any(kind, &["function", "procedure"])
}
