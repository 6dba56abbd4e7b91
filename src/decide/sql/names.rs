//! What identifiers and string constants mean.

use std::borrow::Cow;

use super::lex::{Kind, Token, dollar_tag};

/// The longest identifier, in bytes (`NAMEDATALEN - 1`): the server cuts what is longer.
const NAME_LENGTH: usize = 63;

/// The identifier that a token spells, as the server understands it: folded to lower case without quotes, cut to 63
/// bytes. `None` for a token that is no identifier, or whose Unicode escapes are wrong or not the default ones.
pub(super) fn identifier<'a>(text: &'a str, token: Token) -> Option<Cow<'a, str>> {
    escaped(text, token, '\\')
}

/// As [`identifier`], where `UESCAPE` has given the escapes of `U&".."` another first character.
pub(super) fn escaped<'a>(text: &'a str, token: Token, escape: char) -> Option<Cow<'a, str>> {
    let raw = &text[token.start as usize..token.end as usize];
    let name = match token.kind {
        Kind::Word if raw.bytes().any(|c| c.is_ascii_uppercase()) => Cow::Owned(raw.to_ascii_lowercase()),
        Kind::Word => Cow::Borrowed(raw),
        Kind::Quoted => undouble(&raw[1..raw.len() - 1], "\""),
        Kind::UnicodeQuoted => Cow::Owned(unicode(&undouble(&raw[3..raw.len() - 1], "\""), escape)?),
        _ => return None,
    };
    Some(cut(name))
}

/// The value of a string constant, where that is simple to tell: plain and dollar-quoted ones, and `E''` without
/// escapes.
pub(super) fn string_value<'a>(text: &'a str, token: Token) -> Option<Cow<'a, str>> {
    let raw = &text[token.start as usize..token.end as usize];
    if token.kind != Kind::Text {
        return None;
    }
    let inside = match raw.as_bytes()[0] {
        b'\'' => &raw[1..raw.len() - 1],
        b'e' | b'E' | b'n' | b'N' if !raw.contains('\\') => &raw[2..raw.len() - 1],
        b'$' => {
            let tag = dollar_tag(raw.as_bytes(), 0)?;
            return Some(Cow::Borrowed(&raw[tag..raw.len() - tag]));
        }
        _ => return None,
    };
    // A quote that is not doubled belongs to a continuation.
    let value = undouble(inside, "'");
    (inside.matches('\'').count() == 2 * value.matches('\'').count()).then_some(value)
}

fn undouble<'a>(inside: &'a str, quote: &str) -> Cow<'a, str> {
    if inside.contains(quote) { Cow::Owned(inside.replace(&quote.repeat(2), quote)) } else { Cow::Borrowed(inside) }
}

/// `\XXXX` and `\+XXXXXX` in place of characters, `\\` for a backslash, or with another character in its place.
fn unicode(escaped: &str, escape: char) -> Option<String> {
    let mut name = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find(escape) {
        name.push_str(&rest[..at]);
        rest = &rest[at + escape.len_utf8()..];
        if let Some(after) = rest.strip_prefix(escape) {
            name.push(escape);
            rest = after;
            continue;
        }
        let (digits, after) = match rest.strip_prefix('+') {
            Some(long) => (long.get(..6)?, long.get(6..)?),
            None => (rest.get(..4)?, rest.get(4..)?),
        };
        name.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
        rest = after;
    }
    name.push_str(rest);
    Some(name)
}

fn cut(name: Cow<'_, str>) -> Cow<'_, str> {
    if name.len() <= NAME_LENGTH {
        return name;
    }
    let end = name.floor_char_boundary(NAME_LENGTH);
    Cow::Owned(name[..end].to_owned())
}
