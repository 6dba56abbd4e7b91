//! SET, RESET, SHOW, DISCARD (`VariableSetStmt`, `VariableResetStmt`, `VariableShowStmt`, `DiscardStmt` in gram.y).

use super::{transaction, utility};
use crate::decide::sql::lex::Kind;
use crate::decide::sql::settings;
use crate::decide::sql::tokens::Tokens;
use crate::decide::sql::types::{Effects, Intent, OwnCommand, Reason, SessionCommand, SetScope, Verdict};

pub(super) fn set(tokens: Tokens<'_>) -> Verdict {
    if tokens.is(1, "constraints") {
        return transaction::within();
    }
    let prefixed = tokens.len() > 2 && !assigns(tokens, 2);
    // `SET SESSION AUTHORIZATION` and `SET SESSION CHARACTERISTICS` are forms of their own: the word is no scope there.
    let own_form = tokens.is_any(2, &["authorization", "characteristics"]);
    let (scope, at) = match prefixed {
        true if tokens.is(1, "local") => (SetScope::Local, 2),
        true if tokens.is(1, "session") && !own_form => (SetScope::Session, 2),
        _ => (SetScope::Session, 1),
    };
    if let Some(verdict) = special(tokens, at, scope) {
        return verdict;
    }
    match variable(tokens, at) {
        Some((name, next)) if assigns(tokens, next) => assign(tokens, &name, next, scope),
        Some((name, next)) if tokens.is(next, "from") && tokens.is(next + 1, "current") => changed(&[&name], scope),
        _ => Verdict::opaque(Reason::Unparsable),
    }
}

/// The forms of SET that have words instead of a name.
fn special(tokens: Tokens<'_>, at: usize, scope: SetScope) -> Option<Verdict> {
    if assigns(tokens, at + 1) {
        return None;
    }
    let words =
        [tokens.word(at), tokens.word(at + 1), tokens.word(at + 2), tokens.word(at + 3)].map(str::to_ascii_lowercase);
    Some(match words.each_ref().map(String::as_str) {
        ["transaction", ..] => transaction::set(tokens, at + 1),
        ["session", "characteristics", "as", "transaction"] => characteristics(tokens, at + 4),
        ["session", "authorization", ..] if tokens.len() > at + 2 => changed(&["session_authorization"], scope),
        ["time", "zone", "default" | "local", ..] if tokens.len() == at + 3 => reset_one("timezone", scope),
        ["time", "zone", ..] if tokens.len() > at + 2 => changed(&["timezone"], scope),
        ["names", "default", ..] if tokens.len() == at + 2 => reset_one("client_encoding", scope),
        ["names", ..] if tokens.len() == at + 1 => reset_one("client_encoding", scope),
        ["names", ..] => changed(&["client_encoding"], scope),
        ["role", ..] if tokens.len() > at + 1 => changed(&["role"], scope),
        ["xml", "option", ..] => changed(&["xmloption"], scope),
        ["schema", ..] if tokens.len() > at + 1 => search_path(tokens, at + 1, scope),
        _ => return None,
    })
}

fn characteristics(tokens: Tokens<'_>, start: usize) -> Verdict {
    let Some(mode) = transaction::modes_at(tokens, start).filter(|_| start < tokens.len()) else {
        return Verdict::opaque(Reason::Unparsable);
    };
    let deferrable = tokens.find(start, &["deferrable"]).map(|_| "default_transaction_deferrable");
    let isolation = mode.isolation.map(|_| "default_transaction_isolation");
    let access = mode.access.map(|_| "default_transaction_read_only");
    let names: Vec<&str> = [isolation, access, deferrable].into_iter().flatten().collect();
    changed(&names, SetScope::Session)
}

/// `SET name = value`, with the `=` at `equals`.
fn assign(tokens: Tokens<'_>, name: &str, equals: usize, scope: SetScope) -> Verdict {
    if equals + 1 >= tokens.len() {
        return Verdict::opaque(Reason::Unparsable);
    }
    if let Some(own) = settings::own(name) {
        return match value(tokens, equals + 1) {
            Some(value) => Verdict::new(
                Intent::Own(OwnCommand::Set {
                    name: own.into(),
                    value: value.map(Into::into),
                    scope,
                    at: tokens.extent(),
                }),
                Reason::SessionState,
            ),
            None => Verdict::opaque(Reason::Unparsable),
        };
    }
    match name {
        // As SET TRANSACTION: what a replica refuses needs the primary.
        _ if settings::is_transaction_property(name) => {
            let text = value(tokens, equals + 1).flatten().unwrap_or_default().to_ascii_lowercase();
            let harmless = match name {
                "transaction_read_only" => matches!(text.as_str(), "on" | "true" | "yes" | "1"),
                "transaction_isolation" => {
                    matches!(text.as_str(), "read committed" | "read uncommitted" | "repeatable read")
                }
                _ => true,
            };
            if harmless { transaction::within() } else { utility::write(Reason::TransactionControl, Effects::empty()) }
        }
        _ if tokens.is(equals + 1, "default") && tokens.len() == equals + 2 => reset_one(name, scope),
        "search_path" => search_path(tokens, equals + 1, scope),
        // The generator's state stays in the server process.
        "seed" => changed(&[name], scope).with(Effects::SEED),
        _ => changed(&[name], scope),
    }
}

/// A search path that begins with the temporary schema makes every new table a temporary one.
fn search_path(tokens: Tokens<'_>, first: usize, scope: SetScope) -> Verdict {
    let schema = tokens.name(first).or_else(|| tokens.string(first));
    let temporary = schema.is_some_and(|s| s.trim_start().to_ascii_lowercase().starts_with("pg_temp"));
    changed(&["search_path"], scope).with(if temporary { Effects::PINS } else { Effects::empty() })
}

fn changed(names: &[&str], scope: SetScope) -> Verdict {
    let names = names.iter().map(|&name| name.into()).collect();
    Verdict::new(Intent::Session(SessionCommand::Set { names, scope }), Reason::SessionState)
}

/// RESET, or a SET to the default.
fn reset_one(name: &str, scope: SetScope) -> Verdict {
    Verdict::new(Intent::Session(SessionCommand::Reset { name: name.into(), scope }), Reason::SessionState)
}

pub(super) fn reset(tokens: Tokens<'_>) -> Verdict {
    let command = |command| Verdict::new(Intent::Session(command), Reason::SessionState);
    match (tokens.len(), named(tokens, 1)) {
        (2, _) if tokens.is(1, "all") => command(SessionCommand::ResetAll),
        (length, Some((name, end))) if length == end => match settings::own(&name) {
            Some(own) => {
                let set = OwnCommand::Set { name: own.into(), value: None, scope: SetScope::Session, at: 0..0 };
                Verdict::new(Intent::Own(set), Reason::SessionState)
            }
            None if settings::is_transaction_property(&name) => transaction::within(),
            None => reset_one(&name, SetScope::Session),
        },
        _ => Verdict::opaque(Reason::Unparsable),
    }
}

/// SHOW: what is the node's own truth, not the session's, is asked of the primary.
pub(super) fn show(tokens: Tokens<'_>) -> Verdict {
    match named(tokens, 1) {
        Some((name, end)) if tokens.len() == end => match settings::own(&name) {
            Some(own) => Verdict::new(Intent::Own(OwnCommand::Show { name: own.into() }), Reason::Show),
            None if settings::is_same_everywhere(&name) => Verdict::new(Intent::Read, Reason::Show).about(name),
            None => Verdict::new(Intent::Write, Reason::Show).about(name),
        },
        _ => Verdict::opaque(Reason::Unparsable),
    }
}

pub(super) fn discard(tokens: Tokens<'_>) -> Verdict {
    let (command, effects) = if tokens.is(1, "all") {
        (SessionCommand::DiscardAll, Effects::UNPINS | Effects::ALONE)
    } else if tokens.is_any(1, &["plans", "sequences", "temp", "temporary"]) {
        (SessionCommand::DiscardSome, Effects::UNPINS)
    } else {
        return Verdict::opaque(Reason::Unparsable);
    };
    Verdict::new(Intent::Session(command), Reason::SessionState).with(effects)
}

/// A setting by its name or by the words that stand for it, and the index after it.
fn named(tokens: Tokens<'_>, at: usize) -> Option<(String, usize)> {
    if tokens.is(at, "time") && tokens.is(at + 1, "zone") {
        Some(("timezone".to_owned(), at + 2))
    } else if tokens.is(at, "session") && tokens.is(at + 1, "authorization") {
        Some(("session_authorization".to_owned(), at + 2))
    } else if tokens.is(at, "transaction") && tokens.is(at + 1, "isolation") && tokens.is(at + 2, "level") {
        Some(("transaction_isolation".to_owned(), at + 3))
    } else {
        variable(tokens, at)
    }
}

/// `name` or `name.name`: names of settings are the same in any case, even quoted.
fn variable(tokens: Tokens<'_>, start: usize) -> Option<(String, usize)> {
    let mut name = tokens.name(start)?.to_ascii_lowercase();
    let mut next = start + 1;
    while tokens.is_punctuation(next, b'.') {
        name.push('.');
        name.push_str(&tokens.name(next + 1)?.to_ascii_lowercase());
        next += 2;
    }
    Some((name, next))
}

fn assigns(tokens: Tokens<'_>, i: usize) -> bool {
    tokens.is(i, "to") || tokens.is_operator(i, "=") || tokens.is_punctuation(i, b'.')
}

/// The value from `start` to the end, as text: outer `None` if it is not understood, inner `None` for DEFAULT.
fn value(tokens: Tokens<'_>, start: usize) -> Option<Option<String>> {
    if tokens.is(start, "default") && tokens.len() == start + 1 {
        return Some(None);
    }
    let mut text = String::new();
    for i in start..tokens.len() {
        let part = tokens.string(i).or_else(|| tokens.name(i));
        match part {
            Some(part) => text.push_str(&part),
            None if tokens.is_punctuation(i, b',') => text.push_str(", "),
            None if tokens
                .get(i)
                .is_some_and(|t| t.kind == Kind::Text || matches!(t.kind, Kind::Punctuation(b'(' | b')'))) =>
            {
                return None;
            }
            None => text.push_str(tokens.raw(i)),
        }
    }
    Some(Some(text))
}
