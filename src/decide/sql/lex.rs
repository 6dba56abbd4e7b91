//! PostgreSQL's own lexical rules (`src/backend/parser/scan.l`), as far as they say where a token begins and ends.
//!
//! Exactness matters more than detail here: what this scanner takes for text cannot hide a statement. It follows the
//! server under `standard_conforming_strings = on`; sessions that turn it off are not classified at all.

/// A token as a byte range of the text. Texts are capped well below 4 GiB before they are scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: u32,
    pub(super) end: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or an identifier without quotes.
    Word,
    /// `"identifier"`
    Quoted,
    /// `U&"identifier"`
    UnicodeQuoted,
    /// A string constant of any form, with all its continuations.
    Text,
    Number,
    /// `$1`
    Parameter,
    /// One or more operator characters; also `::`, `:=`, `=>` and `..`.
    Operator,
    /// One of `( ) [ ] , ; : .`
    Punctuation(u8),
}

/// The text ends inside a string, a quoted identifier or a comment, or holds a byte that begins no token: the server
/// refuses it as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no token begins at byte {at}, or the one that does never ends")]
pub(super) struct LexError {
    pub(super) at: usize,
}

/// Yields the tokens of a text, without white space and comments.
#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// How the inside of a quoted thing is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoting {
    /// A quote is doubled.
    Doubled,
    /// A quote is doubled or follows a backslash.
    Backslash,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Lexer::over(text.as_bytes())
    }

    /// Over bytes in UTF-8 or in any encoding whose multi-byte characters have no ASCII bytes in them.
    pub(super) fn over(bytes: &'a [u8]) -> Self {
        Lexer { bytes, at: 0 }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn token(&mut self) -> Result<Option<Token>, LexError> {
        self.at = skip_blank(self.bytes, self.at)?;
        let start = self.at;
        let Some(&first) = self.bytes.get(start) else { return Ok(None) };
        let kind = match first {
            b'\'' => self.text(start, start, Quoting::Doubled)?,
            b'e' | b'E' if self.peek(1) == b'\'' => self.text(start, start + 1, Quoting::Backslash)?,
            b'b' | b'B' | b'x' | b'X' | b'n' | b'N' if self.peek(1) == b'\'' => {
                self.text(start, start + 1, Quoting::Doubled)?
            }
            b'u' | b'U' if self.peek(1) == b'&' && self.peek(2) == b'\'' => {
                self.text(start, start + 2, Quoting::Doubled)?
            }
            b'u' | b'U' if self.peek(1) == b'&' && self.peek(2) == b'"' => {
                self.at = quoted_end(self.bytes, start + 2, Quoting::Doubled).ok_or(LexError { at: start })?;
                Kind::UnicodeQuoted
            }
            b'"' => {
                self.at = quoted_end(self.bytes, start, Quoting::Doubled).ok_or(LexError { at: start })?;
                Kind::Quoted
            }
            b'$' => self.dollar(start)?,
            b'.' if self.peek(1).is_ascii_digit() => self.number(),
            b'0'..=b'9' => self.number(),
            c if is_word_start(c) => {
                self.at += self.bytes[start..].iter().take_while(|&&c| is_word(c)).count();
                Kind::Word
            }
            b':' if matches!(self.peek(1), b':' | b'=') => {
                self.at += 2;
                Kind::Operator
            }
            b'.' if self.peek(1) == b'.' => {
                self.at += 2;
                Kind::Operator
            }
            b'(' | b')' | b'[' | b']' | b',' | b';' | b':' | b'.' => {
                self.at += 1;
                Kind::Punctuation(first)
            }
            c if is_operator(c) => {
                self.at = operator_end(self.bytes, start);
                Kind::Operator
            }
            _ => return Err(LexError { at: start }),
        };
        Ok(Some(Token { kind, start: offset(start), end: offset(self.at) }))
    }

    /// A string constant and its continuations: `'a'` newline `'b'` is one constant, and what the first part's prefix
    /// says of backslashes holds in all of them.
    fn text(&mut self, start: usize, quote: usize, quoting: Quoting) -> Result<Kind, LexError> {
        let mut quote = quote;
        loop {
            self.at = quoted_end(self.bytes, quote, quoting).ok_or(LexError { at: start })?;
            match continuation(self.bytes, self.at) {
                Some(next) => quote = next,
                None => return Ok(Kind::Text),
            }
        }
    }

    /// `$1`, or a dollar-quoted string.
    fn dollar(&mut self, start: usize) -> Result<Kind, LexError> {
        if self.peek(1).is_ascii_digit() {
            self.at += 1;
            self.at += self.bytes[self.at..].iter().take_while(|c| c.is_ascii_digit()).count();
            return Ok(Kind::Parameter);
        }
        let length = dollar_tag(self.bytes, start).ok_or(LexError { at: start })?;
        let tag = &self.bytes[start..start + length];
        let body = start + length;
        let end = memchr::memmem::find(&self.bytes[body..], tag).ok_or(LexError { at: start })?;
        self.at = body + end + length;
        Ok(Kind::Text)
    }

    /// Integers in any base, decimals, exponents. `1..2` is two numbers around `..`, as in the server.
    fn number(&mut self) -> Kind {
        let digits = |bytes: &[u8]| bytes.iter().take_while(|&&c| c.is_ascii_digit() || c == b'_').count();
        if self.peek(0) == b'0' && matches!(self.peek(1) | 0x20, b'x' | b'o' | b'b') && self.peek(2).is_ascii_hexdigit()
        {
            self.at += 2;
            self.at += self.bytes[self.at..].iter().take_while(|&&c| c.is_ascii_hexdigit() || c == b'_').count();
            return Kind::Number;
        }
        self.at += digits(&self.bytes[self.at..]);
        if self.peek(0) == b'.' && self.peek(1) != b'.' {
            self.at += 1;
            self.at += digits(&self.bytes[self.at..]);
        }
        let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
        if self.peek(0) | 0x20 == b'e' && self.peek(1 + sign).is_ascii_digit() {
            self.at += 1 + sign;
            self.at += digits(&self.bytes[self.at..]);
        }
        Kind::Number
    }
}

impl Iterator for Lexer<'_> {
    type Item = Result<Token, LexError>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        let token = self.token();
        if token.is_err() {
            self.at = self.bytes.len();
        }
        token.transpose()
    }
}

/// The first byte at or after `at` that is neither white space nor comment.
///
/// # Errors
/// A `/*` that is never closed.
pub(super) fn skip_blank(bytes: &[u8], mut at: usize) -> Result<usize, LexError> {
    loop {
        match bytes.get(at) {
            Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) => at += 1,
            Some(b'-') if bytes.get(at + 1) == Some(&b'-') => at = line_end(bytes, at),
            Some(b'/') if bytes.get(at + 1) == Some(&b'*') => at = comment_end(bytes, at).ok_or(LexError { at })?,
            _ => return Ok(at),
        }
    }
}

pub(super) fn line_end(bytes: &[u8], at: usize) -> usize {
    memchr::memchr2(b'\n', b'\r', &bytes[at..]).map_or(bytes.len(), |n| at + n)
}

/// The byte after the comment that begins at `at`; comments nest.
pub(super) fn comment_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut i = at;
    loop {
        i += memchr::memchr2(b'/', b'*', &bytes[i..])?;
        match (bytes[i], bytes.get(i + 1)?) {
            (b'/', b'*') => {
                depth += 1;
                i += 2;
            }
            (b'*', b'/') => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => i += 1,
        }
    }
}

/// The byte after the closing quote of what opens at `open`.
fn quoted_end(bytes: &[u8], open: usize, quoting: Quoting) -> Option<usize> {
    let quote = bytes[open];
    let mut i = open + 1;
    loop {
        i += match quoting {
            Quoting::Doubled => memchr::memchr(quote, bytes.get(i..)?)?,
            Quoting::Backslash => memchr::memchr2(quote, b'\\', bytes.get(i..)?)?,
        };
        let escape = bytes[i] != quote || bytes.get(i + 1) == Some(&quote);
        if !escape {
            return Some(i + 1);
        }
        i += 2;
    }
}

/// Where the next part of a string constant opens: white space with a line break in it (line comments count), then a
/// quote.
fn continuation(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut broken = false;
    loop {
        match bytes.get(at)? {
            b' ' | b'\t' | 0x0b | 0x0c => at += 1,
            b'\n' | b'\r' => {
                broken = true;
                at += 1;
            }
            b'-' if bytes.get(at + 1) == Some(&b'-') => at = line_end(bytes, at),
            b'\'' => return broken.then_some(at),
            _ => return None,
        }
    }
}

/// The length of the `$tag$` that begins at `at`.
pub(super) fn dollar_tag(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at + 1..];
    let length = rest.iter().take_while(|&&c| is_word(c) && c != b'$').count();
    let closed = rest.get(length) == Some(&b'$');
    let named = length == 0 || is_word_start(rest[0]);
    (closed && named).then_some(length + 2)
}

/// The byte after the operator that begins at `at`: as many operator characters as there are up to a comment, without
/// a trailing `+` or `-` unless the operator has one of the characters that no standard operator has.
fn operator_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(&c) = bytes.get(end) {
        let comment = matches!((c, bytes.get(end + 1)), (b'/', Some(b'*')) | (b'-', Some(b'-')));
        if !is_operator(c) || comment {
            break;
        }
        end += 1;
    }
    let special = |c: &u8| matches!(c, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%');
    while end - at > 1 && matches!(bytes[end - 1], b'+' | b'-') && !bytes[at..end - 1].iter().any(special) {
        end -= 1;
    }
    end
}

pub(super) fn is_word_start(c: u8) -> bool {
    CLASSES[usize::from(c)] & WORD_START != 0
}

pub(super) fn is_word(c: u8) -> bool {
    CLASSES[usize::from(c)] & (WORD_START | WORD_MORE) != 0
}

fn is_operator(c: u8) -> bool {
    CLASSES[usize::from(c)] & OPERATOR != 0
}

const WORD_START: u8 = 1;
const WORD_MORE: u8 = 2;
const OPERATOR: u8 = 4;

/// What each byte may be part of: each byte of each statement is looked up here.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut c = 0_u8;
    loop {
        classes[c as usize] = match c {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => WORD_START,
            b'0'..=b'9' | b'$' => WORD_MORE,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*' | b'/' | b'%' | b'<'
            | b'>' | b'=' => OPERATOR,
            _ => 0,
        };
        if c == u8::MAX {
            break classes;
        }
        c += 1;
    }
};

fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<&str> {
        Lexer::new(text).map(|t| t.map(|t| &text[t.start as usize..t.end as usize]).unwrap_or("!")).collect()
    }

    #[test]
    fn tokens_end_where_the_server_ends_them() {
        for (text, expected) in [
            ("a.b", vec!["a", ".", "b"]),
            ("1.5e-3.x", vec!["1.5e-3", ".", "x"]),
            ("1..2", vec!["1", "..", "2"]),
            (".5", vec![".5"]),
            ("1e", vec!["1", "e"]),
            ("0x1F 0b01 1_000", vec!["0x1F", "0b01", "1_000"]),
            ("a$1 $1", vec!["a$1", "$1"]),
            ("$1a", vec!["$1", "a"]),
            ("1+-2", vec!["1", "+", "-", "2"]),
            ("a@-b", vec!["a", "@-", "b"]),
            ("a<>-b", vec!["a", "<>", "-", "b"]),
            ("a*/**/b", vec!["a", "*", "b"]),
            ("a---b\nc", vec!["a", "c"]),
            ("a+--b\nc", vec!["a", "+", "c"]),
            ("a::b:=c", vec!["a", "::", "b", ":=", "c"]),
            ("$a$ $b$ $a$x", vec!["$a$ $b$ $a$", "x"]),
            ("a$b$c", vec!["a$b$c"]),
            ("$é$'$é$", vec!["$é$'$é$"]),
            ("$1$a$1$", vec!["$1", "!"]),
            ("'a''b' E'\\'' U&'x' b'1'", vec!["'a''b'", "E'\\''", "U&'x'", "b'1'"]),
            ("'a' 'b'", vec!["'a'", "'b'"]),
            ("'a' -- c\n 'b'", vec!["'a' -- c\n 'b'"]),
            ("E'a'\n'\\''", vec!["E'a'\n'\\''"]),
            ("'a'\n'\\' ''", vec!["'a'\n'\\'", "''"]),
            ("U&\"a\"\"b\" u & v", vec!["U&\"a\"\"b\"", "u", "&", "v"]),
            ("/* /* */ ' */ x", vec!["x"]),
            ("\\x", vec!["!"]),
        ] {
            assert_eq!(tokens(text), expected, "{text}");
        }
    }
}
