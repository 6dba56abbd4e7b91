//! Hints in comments: `/* pgpilot: primary */`, `-- pgpilot: replica`, before or after a statement.

use super::lex::{comment_end, line_end};
use super::types::{Effects, Hint};

/// The hint in a stretch of white space and comments; the last one counts.
pub(super) fn hint_in(blank: &str) -> Option<Hint> {
    let bytes = blank.as_bytes();
    let mut hint = None;
    let mut at = 0;
    while at < bytes.len() {
        let body = match (bytes[at], bytes.get(at + 1)) {
            (b'-', Some(b'-')) => {
                let end = line_end(bytes, at);
                let body = &blank[at + 2..end];
                at = end;
                body
            }
            (b'/', Some(b'*')) => {
                let Some(end) = comment_end(bytes, at) else { return hint };
                let body = &blank[at + 2..end - 2];
                at = end;
                body
            }
            _ => {
                at += 1;
                continue;
            }
        };
        hint = parse(body).or(hint);
    }
    hint
}

/// ` pgpilot: primary `, in any case.
fn parse(comment: &str) -> Option<Hint> {
    let (key, value) = comment.split_once(':')?;
    if !key.trim().eq_ignore_ascii_case("pgpilot") {
        return None;
    }
    match value.trim() {
        v if v.eq_ignore_ascii_case("primary") => Some(Hint::Primary),
        v if v.eq_ignore_ascii_case("replica") => Some(Hint::Replica),
        _ => None,
    }
}

impl From<Hint> for Effects {
    fn from(hint: Hint) -> Effects {
        match hint {
            Hint::Primary => Effects::HINT_PRIMARY,
            Hint::Replica => Effects::HINT_REPLICA,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_a_comment_of_its_own() {
        for (text, expected) in [
            ("/* pgpilot: primary */", Some(Hint::Primary)),
            ("/*PGPILOT:Replica*/", Some(Hint::Replica)),
            ("--pgpilot: primary", Some(Hint::Primary)),
            ("-- pgpilot : replica\n", Some(Hint::Replica)),
            ("/* a */ /* pgpilot: primary */ -- b", Some(Hint::Primary)),
            ("/* pgpilot: primary *//* pgpilot: replica */", Some(Hint::Replica)),
            ("/* not pgpilot: primary */", None),
            ("/* pgpilot: elsewhere */", None),
            ("/* /* pgpilot: primary */ */", None),
            ("  \n\t", None),
            ("", None),
        ] {
            assert_eq!(hint_in(text), expected, "{text:?}");
        }
    }
}
