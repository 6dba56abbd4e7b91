//! Texts too large to look at closely: one verdict, from a glance at the first word and one pass over the bytes.

use super::keywords::Lower;
use super::lex::{is_word, skip_blank};
use super::types::{Classified, Effects, Intent, Reason, Verdict};

/// The primary; and, if the text is surely one query or modification, only the effects that such a statement can have.
pub(super) fn classify(text: &str) -> Classified {
    let bytes = text.as_bytes();
    let start = skip_blank(bytes, 0).unwrap_or(bytes.len());
    let length = bytes[start..].iter().take_while(|&&c| is_word(c)).count();
    let first = Lower::new(&text[start..start + length]);
    let body = text.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace());
    let single = memchr::memchr(b';', body.as_bytes()).is_none();
    let effects = match first.as_str() {
        "insert" | "update" | "delete" | "merge" if single => {
            Effects::SETTINGS | Effects::WRITES | pins(body, &FUNCTIONS)
        }
        "select" | "with" | "values" if single => Effects::SETTINGS | pins(body, &FUNCTIONS) | pins(body, &[b"into"]),
        _ => Effects::ANYTHING,
    };
    Classified { statements: Box::new([Verdict::new(Intent::Write, Reason::TooLarge).with(effects)]) }
}

/// Parts of the names of functions with session state.
const FUNCTIONS: [&[u8]; 4] = [b"advisory_", b"setseed", b"_replication_", b"backup_start"];

/// What must be supposed if one of these words is anywhere in the text, be it in a literal.
fn pins(text: &str, words: &[&[u8]]) -> Effects {
    let bytes = text.as_bytes();
    let starts = |i: usize| {
        words.iter().any(|word| bytes[i..].get(..word.len()).is_some_and(|part| part.eq_ignore_ascii_case(word)))
    };
    let mentioned =
        (0..bytes.len()).any(|i| words.iter().any(|word| word[0] == bytes[i].to_ascii_lowercase()) && starts(i));
    if mentioned { Effects::PINS | Effects::UNPINS | Effects::CATALOGUE } else { Effects::empty() }
}
