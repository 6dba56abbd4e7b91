//! What the body of a function, or the query of a view, may do when it runs on a replica.
//!
//! Most functions are volatile only because nobody said otherwise. One in SQL or PL/pgSQL whose body holds nothing but
//! reads, and calls nothing but functions of that kind, runs on a replica as well as on the primary. On the other
//! hand, one that is declared stable or immutable is kept from writing by the server, but may call one that does, take
//! an advisory lock, or tell of the node.

use std::borrow::Cow;

use super::classify::{Facts, classify};
use super::keywords::Lower;
use super::lex::{Lexer, Token, is_word};
use super::scan::{Doubt, Scan, scan_procedure};
use super::tokens::Tokens;
use super::types::{Effects, Intent, Reason, Verdict};

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Sql,
    PlPgSql,
    /// Anything else: cannot be read.
    Other,
}

/// What the function's volatility promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// Volatile.
    Nothing,
    /// Stable, immutable: the server lets it run no statement that writes; what it calls may.
    NoWrites,
}

impl Language {
    pub(super) fn named(name: &str) -> Self {
        match name {
            // An aggregate's, too: its body is a query over what it is made of.
            "sql" | "internal" => Language::Sql,
            "plpgsql" => Language::PlPgSql,
            _ => Language::Other,
        }
    }
}

/// What the query of a view, policy or domain leaves behind, if it needs the primary.
pub(super) fn query_hazard(text: &str, facts: &Facts<'_>) -> Option<Effects> {
    sum(classify(text, facts).statements.iter().filter(|verdict| verdict.intent != Intent::Read))
}

/// What a function leaves behind, if it needs the primary.
pub(super) fn hazard(text: &str, language: Language, promise: Promise, facts: &Facts<'_>) -> Option<Effects> {
    let found = match language {
        Language::Sql => in_sql(text, promise, facts),
        Language::PlPgSql => in_procedure(text, promise, facts),
        // What is set inside is seen by nobody outside.
        Language::Other if promise == Promise::Nothing => Some(Effects::SETTINGS | mentioned(text)),
        Language::Other => None,
    };
    // Dynamic SQL is not looked into; but what is written in it can be seen.
    let writes = || mentioned(text).contains(Effects::WRITES).then(|| mentioned(text) | Effects::SETTINGS);
    let left = found.or_else(writes)?;
    let left = if promise == Promise::Nothing { left | redefined(text, language) } else { left };
    Some(left.difference(Effects::WRITES | Effects::ALONE | Effects::COPY_IN))
}

/// What the body of a DO leaves behind, which is in PL/pgSQL, or else no more than its words are known.
pub(super) fn left_by_block(text: &str, facts: &Facts<'_>) -> Option<Effects> {
    const LEFT: Effects = Effects::ANYTHING.union(Effects::LASTS);
    hazard(text, Language::PlPgSql, Promise::Nothing, facts).map(|effects| effects & LEFT)
}

/// What is left behind by an expression, a rule or a call that a server runs besides a statement; `None`: nothing.
pub(super) fn left_by(text: &str, facts: &Facts<'_>) -> Option<Effects> {
    const LEFT: Effects =
        Effects::ANYTHING.union(Effects::LASTS).union(Effects::STRANGE_RELATION).difference(Effects::CATALOGUE);
    let tokens = (text.len() <= facts.max_parse).then(|| Lexer::new(text).collect::<Result<Vec<Token>, _>>().ok());
    let Some(tokens) = tokens.flatten() else { return Some(Effects::ANYTHING & LEFT) };
    let left = left_by_scan(&scan_procedure(Tokens::new(text, &tokens), facts), facts);
    // What it makes may be temporary, though its text does not say so.
    let made = if left.contains(Effects::CATALOGUE) { Effects::UNPINS } else { Effects::empty() };
    let left = (left | made) & LEFT;
    (!left.is_empty()).then_some(left)
}

/// What is found in a text, and what must be supposed.
fn left_by_scan(found: &Scan, facts: &Facts<'_>) -> Effects {
    let supposed = found.doubts.iter().map(|doubt| match doubt {
        Doubt::Call { .. } => Effects::SETTINGS,
        Doubt::Relation { schema, name } => {
            facts.catalogue.relation(schema.as_deref(), name, None).map_or(Effects::empty(), |hazard| hazard.effects)
        }
        Doubt::Strange { .. } | Doubt::Modification => Effects::empty(),
    });
    // A setting that is changed by name is changed unseen.
    let set = if found.settings.is_empty() { Effects::empty() } else { Effects::SETTINGS };
    supposed.fold(found.effects | set, |all, effects| all | effects)
}

fn in_sql(text: &str, promise: Promise, facts: &Facts<'_>) -> Option<Effects> {
    let classified = classify(&statements(text), facts);
    sum(classified.statements.iter().filter(|verdict| match promise {
        Promise::Nothing => verdict.intent != Intent::Read,
        Promise::NoWrites => is_bound(verdict.reason),
    }))
}

/// The statements of a body: the SQL standard's forms wrap them.
fn statements(text: &str) -> String {
    let word = |text: &str, word: &str| {
        let head = text.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
        head && !text[word.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
    };
    let body = text.trim();
    if word(body, "return") {
        return format!("SELECT {}", &body["return".len()..]);
    }
    if word(body, "begin") {
        let inside = body["begin".len()..].trim_start();
        if word(inside, "atomic") {
            let inside = inside["atomic".len()..].trim_end();
            let end = inside.len().saturating_sub("end".len());
            return inside.get(..end).unwrap_or(inside).to_owned();
        }
    }
    body.to_owned()
}

fn in_procedure(text: &str, promise: Promise, facts: &Facts<'_>) -> Option<Effects> {
    let unknown = || (promise == Promise::Nothing).then_some(Effects::ANYTHING);
    if text.len() > facts.max_parse {
        return unknown();
    }
    let Ok(tokens) = Lexer::new(text).collect::<Result<Vec<Token>, _>>() else { return unknown() };
    let tokens = Tokens::new(text, &tokens);
    let found = scan_procedure(tokens, facts);
    let is_hazard = match promise {
        Promise::Nothing => {
            found.cause.is_some() || !found.doubts.is_empty() || (0..tokens.len()).any(|i| is_action(tokens, i))
        }
        Promise::NoWrites => is_bound_procedure(&found) || runs_what_is_bound(tokens, facts),
    };
    let left = || left_by_scan(&found, facts) | left_by_actions(tokens, facts) | made_by(text, tokens);
    (is_hazard || !found.settings.is_empty()).then(left)
}

/// What statements leave behind that are none of PL/pgSQL's own. What modifies rows has been scanned.
fn left_by_actions(tokens: Tokens<'_>, facts: &Facts<'_>) -> Effects {
    let of = |i: usize| match Lower::new(tokens.word(i)).as_str() {
        "set" if !begins_statement(tokens, i) => Effects::empty(),
        "do" if tokens.is_any(i + 1, &["nothing", "update", "instead", "also"]) => Effects::empty(),
        "create" | "drop" | "alter" | "grant" | "revoke" | "comment" | "security" => facts.catalogue.left_by_ddl(),
        "execute" | "set" | "reset" | "do" | "discard" | "prepare" | "deallocate" | "load" | "listen" | "unlisten"
        | "import" | "reassign" => Effects::SETTINGS,
        _ => Effects::empty(),
    };
    (0..tokens.len()).filter(|&i| is_action(tokens, i)).fold(Effects::empty(), |all, i| all | of(i))
}

/// Whether the word at `i` may be a statement's first: `UPDATE t SET` is no statement of that kind.
fn begins_statement(tokens: Tokens<'_>, i: usize) -> bool {
    let Some(before) = i.checked_sub(1) else { return true };
    tokens.is_punctuation(before, b';')
        || tokens.is_operator(before, ">>")
        || tokens.is_any(before, &["begin", "then", "else", "loop"])
}

/// Whether a body makes, alters or drops what verdicts are given by. Where statements are put together, any word in it
/// counts, be it in a string; and where none of its strings begins one of another kind, the text comes from elsewhere: it may be
/// anything.
fn redefined(text: &str, language: Language) -> Effects {
    const KINDS: [&str; 27] = [
        "access",
        "aggregate",
        "cast",
        "collation",
        "constraint",
        "domain",
        "event",
        "extension",
        "foreign",
        "function",
        "index",
        "materialized",
        "operator",
        "or",
        "owned",
        "policy",
        "procedure",
        "recursive",
        "routine",
        "rule",
        "schema",
        "sequence",
        "table",
        "trigger",
        "type",
        "unlogged",
        "view",
    ];
    const OTHER: [&str; 21] = [
        "analyze", "begin", "call", "close", "copy", "declare", "delete", "fetch", "insert", "listen", "lock", "merge",
        "notify", "refresh", "reset", "select", "set", "truncate", "update", "values", "with",
    ];
    let words: Vec<&str> =
        text.split(|c: char| !c.is_ascii() || !is_word(c as u8)).filter(|word| !word.is_empty()).collect();
    let is_any = |word: Option<&&str>, all: &[&str]| {
        word.is_some_and(|word| all.binary_search(&Lower::new(word).as_str()).is_ok())
    };
    let redefines = |i: usize| {
        is_any(Some(&words[i]), &["alter", "create", "drop"]) && is_any(words.get(i + 1), &KINDS)
            || is_any(Some(&words[i]), &["grant", "revoke"]) && is_any(words.get(i + 2), &["on"])
    };
    let is_dynamic = || language == Language::PlPgSql && words.iter().any(|word| word.eq_ignore_ascii_case("execute"));
    let begins_other = || {
        let tokens: Vec<Token> = Lexer::new(text).map_while(Result::ok).collect();
        let tokens = Tokens::new(text, &tokens);
        let first = |i: usize| {
            let string = tokens.string(i)?;
            let word = string.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty())?;
            Some(is_any(Some(&word), &OTHER))
        };
        (0..tokens.len()).any(|i| first(i) == Some(true))
    };
    let redefined = (0..words.len()).any(redefines) || is_dynamic() && !begins_other();
    if redefined { Effects::CATALOGUE } else { Effects::empty() }
}

/// What of a session's state a body makes by itself: by its statements, or, where those are put together, by any word.
fn made_by(text: &str, tokens: Tokens<'_>) -> Effects {
    if (0..tokens.len()).any(|i| tokens.is(i, "execute")) {
        return mentioned(text);
    }
    let is_made = |i: usize| {
        let before = |words| i > 0 && tokens.is_any(i - 1, words);
        match Lower::new(tokens.word(i)).as_str() {
            "temp" | "temporary" => before(&["create", "local", "global", "replace"]),
            "hold" => before(&["with"]),
            "listen" => begins_statement(tokens, i),
            _ => false,
        }
    };
    let loads = (0..tokens.len()).any(|i| tokens.is(i, "load") && begins_statement(tokens, i));
    let loads = if loads { Effects::LIBRARY } else { Effects::empty() };
    let is_temporary_schema = text.to_ascii_lowercase().contains("pg_temp");
    let makes = is_temporary_schema || (0..tokens.len()).any(is_made);
    loads | if makes { Effects::PINS } else { Effects::empty() }
}

/// What a name means is not looked into: a variable that is called as a sequence is taken for it.
fn is_bound_procedure(found: &Scan) -> bool {
    let relation = |doubt: &Doubt| matches!(doubt, Doubt::Relation { .. });
    found.cause.as_ref().is_some_and(|cause| is_bound(cause.reason)) || found.doubts.iter().any(relation)
}

/// Whether statements are put together, of strings in which such a function or relation stands.
fn runs_what_is_bound(tokens: Tokens<'_>, facts: &Facts<'_>) -> bool {
    let strings = || (0..tokens.len()).filter_map(|i| tokens.string(i));
    let is_bound_string = |string: Cow<'_, str>| {
        let inner: Vec<Token> = Lexer::new(&string).map_while(Result::ok).collect();
        is_bound_procedure(&scan_procedure(Tokens::new(&string, &inner), facts))
    };
    (0..tokens.len()).any(|i| tokens.is(i, "execute")) && strings().any(is_bound_string)
}

/// What PL/pgSQL does besides reading: statements that are none of its own, and statements that are put together.
fn is_action(tokens: Tokens<'_>, i: usize) -> bool {
    let named = i > 0 && tokens.is_punctuation(i - 1, b'.');
    let action = matches!(
        Lower::new(tokens.word(i)).as_str(),
        "insert"
            | "update"
            | "delete"
            | "merge"
            | "truncate"
            | "execute"
            | "create"
            | "drop"
            | "alter"
            | "grant"
            | "revoke"
            | "copy"
            | "lock"
            | "listen"
            | "unlisten"
            | "notify"
            | "call"
            | "do"
            | "set"
            | "reset"
            | "discard"
            | "commit"
            | "rollback"
            | "savepoint"
            | "prepare"
            | "deallocate"
            | "refresh"
            | "vacuum"
            | "analyze"
            | "analyse"
            | "cluster"
            | "reindex"
            | "checkpoint"
            | "security"
            | "comment"
            | "import"
            | "load"
            | "reassign"
            | "explain"
            | "show"
    );
    action && !named
}

/// What the server does not keep a function from that is declared stable or immutable: functions that write all the
/// same, locks, and what tells of the node. Statements that write or lock rows it refuses to run there, and a function
/// that nothing is known of is trusted as the author's promise is.
fn is_bound(reason: Reason) -> bool {
    matches!(reason, Reason::PrimaryFunction | Reason::ListedFunction | Reason::PrimaryRelation | Reason::SessionState)
}

fn sum<'v>(mut hazards: impl Iterator<Item = &'v Verdict>) -> Option<Effects> {
    let first = hazards.next()?;
    // A setting that is changed by name is changed unseen.
    let effects = |verdict: &Verdict| {
        let is_plain = matches!(verdict.intent, Intent::Read | Intent::Write) && verdict.settings.is_empty();
        verdict.effects | if is_plain { Effects::empty() } else { Effects::SETTINGS }
    };
    Some(hazards.fold(effects(first), |all, verdict| all | effects(verdict)))
}

/// What the raw text speaks of, be it in a string: session state, settings, and functions that write.
pub(super) fn mentioned(text: &str) -> Effects {
    const WORDS: [(&str, Effects); 16] = [
        ("temp", Effects::PINS),
        ("temporary", Effects::PINS),
        ("pg_temp", Effects::PINS),
        ("listen", Effects::PINS),
        ("hold", Effects::PINS),
        ("setseed", Effects::SEED),
        ("pg_advisory_lock", Effects::PINS),
        ("pg_advisory_lock_shared", Effects::PINS),
        ("pg_try_advisory_lock", Effects::PINS),
        ("pg_try_advisory_lock_shared", Effects::PINS),
        ("dblink_connect", Effects::CONNECTS),
        ("set_config", Effects::SETTINGS),
        ("nextval", Effects::WRITES),
        ("setval", Effects::WRITES),
        ("txid_current", Effects::WRITES),
        ("pg_notify", Effects::WRITES),
    ];
    let words = text.split(|c: char| !c.is_ascii() || !is_word(c as u8));
    words.fold(Effects::empty(), |all, word| {
        WORDS.iter().filter(|(known, _)| known.eq_ignore_ascii_case(word)).fold(all, |all, (_, effect)| all | *effect)
    })
}
