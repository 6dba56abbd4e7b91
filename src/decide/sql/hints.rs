//! Hints in comments before or after a statement: `/* pgpilot: primary */`, `-- pgpilot: replica, consistency=eventual`.

use crate::config::Consistency;

use super::lex::{comment_end, line_end};
use super::types::{Effects, Hint, Hints, Intent, Verdict};

/// What the comments around a statement say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Commented {
    pub(super) hints: Hints,
    pub(super) unknown: Unknown,
}

/// Whether there is something that is meant for pgpilot, and that it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Unknown {
    #[default]
    No,
    Yes,
}

/// The hints in a stretch of white space and comments; of two about one thing the last one counts.
pub(super) fn hints_in(blank: &str) -> Commented {
    let bytes = blank.as_bytes();
    let mut found = Commented::default();
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
                let Some(end) = comment_end(bytes, at) else { return found };
                let body = &blank[at + 2..end - 2];
                at = end;
                body
            }
            _ => {
                at += 1;
                continue;
            }
        };
        found.read(body);
    }
    found
}

impl Commented {
    /// ` pgpilot: replica, consistency=eventual `, in any case.
    fn read(&mut self, comment: &str) {
        let Some((key, items)) = comment.split_once(':') else { return };
        if !key.trim().eq_ignore_ascii_case("pgpilot") {
            return;
        }
        for item in items.split(',') {
            let (key, value) = item.split_once('=').unwrap_or(("route", item));
            let value = value.trim().to_ascii_lowercase();
            let known = match &*key.trim().to_ascii_lowercase() {
                "route" => set(&mut self.hints.route, Hint::named(&value)),
                "consistency" => set(&mut self.hints.consistency, consistency(&value)),
                _ => false,
            };
            if !known {
                self.unknown = Unknown::Yes;
            }
        }
    }

    /// What is said before a statement goes before what is said behind it.
    pub(super) fn or(self, behind: Self) -> Self {
        let unknown = if self.unknown == Unknown::Yes { self.unknown } else { behind.unknown };
        Self { hints: self.hints.or(behind.hints), unknown }
    }

    /// The verdict on the statement that has these comments.
    pub(super) fn on(self, mut verdict: Verdict) -> Verdict {
        if let Intent::Prepare { statement, .. } = &mut verdict.intent {
            // It is said of what will be executed.
            statement.hints = self.hints;
        }
        verdict.hints = self.hints;
        match self.unknown {
            Unknown::No => verdict,
            Unknown::Yes => verdict.with(Effects::HINT_UNKNOWN),
        }
    }
}

/// Returns whether there was a value.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let known = value.is_some();
    *place = value.or(place.take());
    known
}

fn consistency(name: &str) -> Option<Consistency> {
    Consistency::ALL.into_iter().find(|mode| mode.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(route: Option<Hint>, consistency: Option<Consistency>) -> Commented {
        Commented { hints: Hints { route, consistency }, unknown: Unknown::No }
    }

    #[test]
    fn a_hint_is_a_comment_of_its_own() {
        let nothing = Commented::default();
        let route = |hint| hints(Some(hint), None);
        let mode = |consistency| hints(None, Some(consistency));
        for (text, expected) in [
            ("/* pgpilot: primary */", route(Hint::Primary)),
            ("/*PGPILOT:Replica*/", route(Hint::Replica)),
            ("--pgpilot: primary", route(Hint::Primary)),
            ("-- pgpilot : replica\n", route(Hint::Replica)),
            ("/* pgpilot: route=replica */", route(Hint::Replica)),
            ("/* a */ /* pgpilot: primary */ -- b", route(Hint::Primary)),
            ("/* pgpilot: primary *//* pgpilot: replica */", route(Hint::Replica)),
            ("/* pgpilot: consistency=eventual */", mode(Consistency::Eventual)),
            ("-- PgPilot: Consistency = STRONG", mode(Consistency::Strong)),
            ("/* pgpilot: replica, consistency=session */", hints(Some(Hint::Replica), Some(Consistency::Session))),
            (
                "/* pgpilot: replica */ /* pgpilot: consistency=primary */",
                hints(Some(Hint::Replica), Some(Consistency::Primary)),
            ),
            ("/* not pgpilot: primary */", nothing),
            ("/* /* pgpilot: primary */ */", nothing),
            ("/* pgpilot */", nothing),
            ("  \n\t", nothing),
            ("", nothing),
        ] {
            assert_eq!(hints_in(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_noticed_and_spoils_nothing_else() {
        for text in ["elsewhere", "consistency=eventually", "consistency", "lag=1s", "", "primary replica"] {
            let found = hints_in(&format!("/* pgpilot: {text} */"));
            assert_eq!(found, Commented { unknown: Unknown::Yes, ..Commented::default() }, "{text:?}");
        }
        let both = hints_in("/* pgpilot: primary, lag=1s */");
        assert_eq!((both.hints.route, both.unknown), (Some(Hint::Primary), Unknown::Yes));
    }
}
