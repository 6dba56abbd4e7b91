//! What an operator asks for: text to [`Command`].

use super::orders::{self, Wish};
use super::views::View;

/// One statement of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Show(View),
    Explain(Question),
    Act(Verb),
    /// SHOW of a setting, lower-case.
    Setting(String),
    /// A SELECT as drivers send it, in its normal form.
    Select(String),
    Set {
        name: String,
        value: String,
    },
    Begin,
    Commit,
    Rollback,
    /// RESET, DISCARD, DEALLOCATE, ..: there is nothing to do; the command tag.
    Nothing(&'static str),
}

/// Something that changes pgpilot's state: for admins only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verb {
    Drain(String),
    Undrain(String),
    Pause,
    Resume,
    Reload,
    Shutdown,
    Order(Wish),
}

/// EXPLAIN ROUTE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) sql: String,
    /// Whose settings count; `None`: who asks.
    pub(super) user: Option<String>,
    /// Whose functions and settings count; `None`: the database of `[health]`.
    pub(super) database: Option<String>,
}

/// The text is no command. Maps to 42601.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotACommand {
    #[error("unknown command {0:?}")]
    Unknown(String),
    #[error("SHOW {0}: there is no such table or setting")]
    NoView(String),
    #[error("expected {0}")]
    Usage(&'static str),
    #[error("FAILOVER promotes a replica whether or not the primary is lost: say FORCE, or DRY RUN")]
    NotForced,
    #[error("a quote or comment is not closed")]
    Unclosed,
}

/// Syntax and purpose of every command, for HELP and for who mistypes one.
pub const COMMANDS: &[(&str, &str)] = &[
    ("SHOW NODES", "every node: role, state, lag, position, connections"),
    ("SHOW POOLS", "server connections of each node, user and database"),
    ("SHOW CLIENTS", "who is logged in, and where their server connections are"),
    ("SHOW SERVERS", "server connections one by one"),
    ("SHOW STATS", "counters since the start"),
    ("SHOW LAG", "how far the replicas are behind"),
    ("SHOW CONFIG", "the settings in force; secrets are not shown"),
    ("SHOW ROUTES", "statements that differ in their literals alone: how often, where they went, why, how long"),
    ("SHOW REASONS", "where statements went, by reason"),
    ("SHOW CATALOGUES", "what is known of each database's functions, and the memory it takes"),
    ("SHOW PINS", "sessions that keep their server connection, and why"),
    ("SHOW FAILOVER", "who is the primary, and what is being done about it"),
    ("SHOW EVENTS", "what happened lately"),
    ("SHOW VERSION", "pgpilot's version and state"),
    ("SHOW HELP", "this list"),
    ("EXPLAIN ROUTE [(USER name, DATABASE name)] sql", "where a statement would go now, and why"),
    ("DRAIN node", "send no more reads to a node, and hand over to another if possible"),
    ("UNDRAIN node", "let it take reads again"),
    (orders::SWITCHOVER, "hand over to a replica, without an error to anybody; undone whole if it takes too long"),
    (orders::FAILOVER, "promote a replica of a lost primary; a guard is waived by name; a dry run needs no FORCE"),
    (orders::MAINTENANCE, "no automatic failover, until it is ended"),
    ("PAUSE", "hold all statements; returns when none runs any more"),
    ("RESUME", "let them go on"),
    ("RELOAD", "read the topology file again"),
    ("SHUTDOWN", "stop as on SIGTERM: transactions may finish within drain_timeout"),
];

/// Reads all statements of a text. `EXPLAIN ROUTE` takes the rest of it, semicolons included.
///
/// # Errors
/// The first statement that is not a command; what stands before it counts.
pub(super) fn parse(text: &str) -> (Vec<Command>, Result<(), NotACommand>) {
    let mut commands = Vec::new();
    let mut rest = text;
    let outcome = loop {
        rest = match skip_blank(rest) {
            Ok(rest) => rest,
            Err(error) => break Err(error),
        };
        if rest.is_empty() {
            break Ok(());
        }
        if let Some(after) = rest.strip_prefix(';') {
            rest = after;
            continue;
        }
        if let Some(question) = keyword(rest, "explain").and_then(|rest| keyword(rest, "route")) {
            match self::question(question) {
                Ok(question) => commands.push(Command::Explain(question)),
                Err(error) => break Err(error),
            }
            break Ok(());
        }
        let statement = match words(rest) {
            Ok((words, after)) => {
                rest = after;
                command(&words)
            }
            Err(error) => break Err(error),
        };
        match statement {
            Ok(command) => commands.push(command),
            Err(error) => break Err(error),
        }
    };
    (commands, outcome)
}

/// One word, operator or quoted piece of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    /// Quotes removed; lower-case unless it was quoted.
    text: String,
    /// As it was written.
    raw: String,
}

fn command(words: &[Word]) -> Result<Command, NotACommand> {
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    if let Some(wish) = Wish::read(&texts) {
        return wish.map(|wish| Command::Act(Verb::Order(wish)));
    }
    let whole = || words.iter().map(|word| word.raw.as_str()).collect::<Vec<_>>().join(" ");
    Ok(match texts[..] {
        ["help"] => Command::Show(View::Help),
        ["show", name] => match View::named(name) {
            Some(view) => Command::Show(view),
            None => Command::Setting(name.to_owned()),
        },
        ["show", "transaction", "isolation", "level"] => Command::Setting("transaction_isolation".to_owned()),
        ["show", "time", "zone"] => Command::Setting("timezone".to_owned()),
        ["show", ..] => return Err(NotACommand::NoView(whole()[4..].trim().to_uppercase())),
        ["drain", node] => Command::Act(Verb::Drain(node.to_owned())),
        ["undrain", node] => Command::Act(Verb::Undrain(node.to_owned())),
        ["drain", ..] => return Err(NotACommand::Usage("DRAIN node")),
        ["undrain", ..] => return Err(NotACommand::Usage("UNDRAIN node")),
        ["pause"] => Command::Act(Verb::Pause),
        ["resume"] => Command::Act(Verb::Resume),
        ["reload"] => Command::Act(Verb::Reload),
        ["shutdown"] => Command::Act(Verb::Shutdown),
        ["select", ..] => Command::Select(normal(&texts)),
        ["set", "session", "characteristics", ..] | ["set", "transaction", ..] => Command::Nothing("SET"),
        ["set", "time", "zone", ref value @ ..] => set("timezone", value),
        ["set", "names", ref value @ ..] => set("client_encoding", value),
        ["set", "session" | "local", name, "=" | "to", ref value @ ..] | ["set", name, "=" | "to", ref value @ ..] => {
            set(name, value)
        }
        ["begin", ..] | ["start", "transaction", ..] => Command::Begin,
        ["commit" | "end", ..] => Command::Commit,
        ["rollback" | "abort", ..] => Command::Rollback,
        ["reset", ..] => Command::Nothing("RESET"),
        ["discard", "all"] => Command::Nothing("DISCARD ALL"),
        ["deallocate", ..] => Command::Nothing("DEALLOCATE"),
        ["close", "all"] => Command::Nothing("CLOSE CURSOR ALL"),
        ["unlisten", ..] => Command::Nothing("UNLISTEN"),
        _ => return Err(NotACommand::Unknown(shortened(&whole()))),
    })
}

fn set(name: &str, value: &[&str]) -> Command {
    Command::Set { name: name.to_owned(), value: value.join(" ").replace(" , ", ", ") }
}

/// A SELECT without what does not matter: `select pg_catalog.version ( )` as `version()`.
fn normal(words: &[&str]) -> String {
    words[1..].concat().replace("pg_catalog.", "")
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    let short: String = text.chars().take(LONGEST).collect();
    if short.len() == text.len() { short } else { short + ".." }
}

/// What follows a keyword at the start of `text`.
fn keyword<'t>(text: &'t str, keyword: &str) -> Option<&'t str> {
    let text = skip_blank(text).ok()?;
    let (head, rest) = text.split_at_checked(keyword.len())?;
    let ends = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    (head.eq_ignore_ascii_case(keyword) && ends).then_some(rest)
}

/// What follows EXPLAIN ROUTE. A query in parentheses is no option: those begin with their names.
fn question(text: &str) -> Result<Question, NotACommand> {
    const USAGE: NotACommand = NotACommand::Usage("EXPLAIN ROUTE [(USER name, DATABASE name)] sql");
    let mut question = Question { sql: skip_blank(text)?.trim_end().to_owned(), user: None, database: None };
    if let Some(inner) = question.sql.strip_prefix('(')
        && (keyword(inner, "user").is_some() || keyword(inner, "database").is_some())
    {
        let (mut words, mut rest) = (Vec::new(), inner);
        loop {
            rest = skip_blank(rest)?;
            let (word, after) = word(rest)?.ok_or(USAGE)?;
            rest = after;
            if word.raw == ")" {
                break;
            }
            words.push(word.text);
        }
        let sql = rest.trim().to_owned();
        for option in words.split(|word| word == ",") {
            match option {
                [key, name] if key == "user" => question.user = Some(name.clone()),
                [key, name] if key == "database" => question.database = Some(name.clone()),
                _ => return Err(USAGE),
            }
        }
        question.sql = sql;
    }
    if question.sql.is_empty() { Err(USAGE) } else { Ok(question) }
}

/// The words up to the next semicolon, and what follows it.
fn words(text: &str) -> Result<(Vec<Word>, &str), NotACommand> {
    let (mut words, mut rest) = (Vec::new(), text);
    loop {
        rest = skip_blank(rest)?;
        match word(rest)? {
            None => return Ok((words, rest)),
            Some((word, after)) if word.raw == ";" => return Ok((words, after)),
            Some((word, after)) => {
                words.push(word);
                rest = after;
            }
        }
    }
}

fn word(text: &str) -> Result<Option<(Word, &str)>, NotACommand> {
    let Some(first) = text.chars().next() else { return Ok(None) };
    if first == '"' || first == '\'' {
        let mut end = 1;
        loop {
            end += text[end..].find(first).ok_or(NotACommand::Unclosed)? + 1;
            if !text[end..].starts_with(first) {
                break;
            }
            end += 1;
        }
        let raw = &text[..end];
        let text_of = raw[1..raw.len() - 1].replace(&format!("{first}{first}"), &first.to_string());
        return Ok(Some((Word { text: text_of, raw: raw.to_owned() }, &text[end..])));
    }
    let in_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '$');
    let end = if in_word(first) { text.find(|c| !in_word(c)).unwrap_or(text.len()) } else { first.len_utf8() };
    let raw = &text[..end];
    Ok(Some((Word { text: raw.to_lowercase(), raw: raw.to_owned() }, &text[end..])))
}

/// Skips white space and comments.
fn skip_blank(mut text: &str) -> Result<&str, NotACommand> {
    loop {
        text = text.trim_start();
        if let Some(comment) = text.strip_prefix("--") {
            text = comment.find('\n').map_or("", |end| &comment[end..]);
        } else if let Some(comment) = text.strip_prefix("/*") {
            let end = comment.find("*/").ok_or(NotACommand::Unclosed)?;
            text = &comment[end + 2..];
        } else {
            return Ok(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Command {
        let (mut commands, outcome) = parse(text);
        assert_eq!((commands.len(), &outcome), (1, &Ok(())), "{text}: {commands:?}");
        commands.remove(0)
    }

    #[test]
    fn every_documented_command_is_understood() {
        for (syntax, _) in COMMANDS {
            let text = syntax.replace("[(USER name, DATABASE name)] sql", "(USER name, DATABASE name) SELECT 1");
            let text = text.replace(['[', ']'], "").replace("ON | OFF", "ON");
            assert!(!matches!(one(&text), Command::Setting(_)), "{syntax}");
        }
        assert_eq!(one("show nodes;"), Command::Show(View::Nodes));
        assert_eq!(one("/* x */ Show -- y\n NODES"), Command::Show(View::Nodes));
        assert_eq!(one("drain \"Pg-2\""), Command::Act(Verb::Drain("Pg-2".into())));
        assert_eq!(one("DRAIN pg-2.a"), Command::Act(Verb::Drain("pg-2.a".into())));
    }

    #[test]
    fn several_statements_count_up_to_the_first_that_is_wrong() {
        let (commands, outcome) = parse(";show nodes; pause ; nonsense here; resume");
        assert_eq!(commands, [Command::Show(View::Nodes), Command::Act(Verb::Pause)]);
        assert_eq!(outcome, Err(NotACommand::Unknown("nonsense here".into())));
        assert_eq!(parse(" ; -- nothing"), (vec![], Ok(())));
        assert_eq!(parse("show 'x").1, Err(NotACommand::Unclosed));
        assert_eq!(parse("pause /* x").1, Err(NotACommand::Unclosed));
        assert_eq!(parse("show a b").1, Err(NotACommand::NoView("A B".into())));
    }

    #[test]
    fn explain_takes_the_rest_of_the_text() {
        let question = |text: &str| match one(text) {
            Command::Explain(question) => (question.sql, question.user, question.database),
            other => panic!("{other:?}"),
        };
        let sql = "SELECT ';', \"A\"; DELETE FROM t";
        assert_eq!(question(&format!("explain route {sql}")), (sql.to_owned(), None, None));
        let (user, database) = (Some("App".to_owned()), Some("db".to_owned()));
        assert_eq!(
            question("EXPLAIN ROUTE (user \"App\", database db) SELECT 1;"),
            ("SELECT 1;".into(), user, database)
        );
        assert_eq!(question("explain route (select 1)").0, "(select 1)");
        for bad in ["explain route", "explain route (user a, x b) select 1", "explain route (user a"] {
            assert!(parse(bad).1.is_err(), "{bad}");
        }
        assert!(matches!(parse("explain routes x").1, Err(NotACommand::Unknown(_))));
    }

    #[test]
    fn what_drivers_send_is_understood() {
        for (text, expected) in [
            ("SET extra_float_digits = 3", Command::Set { name: "extra_float_digits".into(), value: "3".into() }),
            ("set datestyle TO 'ISO', MDY", Command::Set { name: "datestyle".into(), value: "ISO, mdy".into() }),
            ("SELECT pg_catalog.version( )", Command::Select("version()".into())),
            ("SHOW TRANSACTION ISOLATION LEVEL", Command::Setting("transaction_isolation".into())),
            ("BEGIN ISOLATION LEVEL READ COMMITTED", Command::Begin),
            ("DISCARD ALL", Command::Nothing("DISCARD ALL")),
        ] {
            assert_eq!(one(text), expected, "{text}");
        }
    }
}
