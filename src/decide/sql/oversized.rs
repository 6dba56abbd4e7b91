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
    let modifies = matches!(first.as_str(), "insert" | "update" | "delete" | "merge");
    let effects = match first.as_str() {
        "select" | "with" | "values" | "insert" | "update" | "delete" | "merge" if single => {
            let pins = if mentions_session_state(body.as_bytes()) {
                Effects::PINS | Effects::UNPINS | Effects::CATALOGUE
            } else {
                Effects::empty()
            };
            let writes = if modifies { Effects::WRITES } else { Effects::empty() };
            Effects::SETTINGS | pins | writes
        }
        _ => Effects::ANYTHING,
    };
    Classified { statements: Box::new([Verdict::new(Intent::Write, Reason::TooLarge).with(effects)]) }
}

/// Whether any word of this text could name a function with session state, or make a temporary table.
fn mentions_session_state(bytes: &[u8]) -> bool {
    const WORDS: [&[u8]; 6] = [b"advisory", b"temp", b"setseed", b"_slot", b"backup_start", b"into"];
    let firsts = WORDS.map(|word| word[0]);
    bytes.iter().enumerate().any(|(i, c)| {
        let lower = c.to_ascii_lowercase();
        firsts.contains(&lower)
            && WORDS.iter().any(|word| bytes[i..].get(..word.len()).is_some_and(|s| s.eq_ignore_ascii_case(word)))
    })
}
