//! The protocol of the console: simple queries and the extended messages.

use std::collections::HashMap;

use bytes::BytesMut;

use super::command::{COMMANDS, Command, NotACommand, Question, Verb, parse};
use super::console::{ConsoleUser, Level};
use super::courtesy::{self, Settings};
use super::explain;
use super::orders;
use super::sources::{Action, Outcome, Refused, Sources};
use super::table::{Column, Format, Table, put_heads, put_values};
use crate::telemetry::Topic;
use crate::wire::backend::{self, Report, Severity, TransactionStatus};
use crate::wire::frontend::{self, Target};
use crate::wire::{Body, SqlState, WireError};

/// Prepared statements, and portals, that one session may keep.
const MAX_KEPT: usize = 1000;

/// One operator's session.
pub(super) struct Session<'s> {
    who: ConsoleUser,
    sources: &'s dyn Sources,
    settings: Settings,
    /// The console has no transactions, but drivers open and close them.
    transaction: TransactionStatus,
    statements: HashMap<Vec<u8>, Option<Command>>,
    portals: HashMap<Vec<u8>, Portal>,
    extended: Extended,
}

/// Where an extended conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extended {
    Listening,
    /// After an error, until Sync.
    Skipping,
}

/// Whether the session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    End,
}

struct Portal {
    /// `None`: an empty query.
    command: Option<Command>,
    formats: Formats,
    /// What is left of the result, once it has been executed.
    result: Option<std::vec::IntoIter<Vec<super::table::Value>>>,
}

/// From Bind: none (all text), one for all, or one for each column.
struct Formats(Vec<Format>);

impl Formats {
    fn of(&self, column: usize) -> Format {
        match self.0[..] {
            [] => Format::Text,
            [all] => all,
            ref each => each.get(column).copied().unwrap_or(Format::Text),
        }
    }
}

/// What a command answers.
enum Answer {
    Table(Table, &'static str),
    Done(&'static str, Tone, Outcome),
}

/// What the notices of an outcome are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    /// What was asked for.
    Answer,
    /// What the operator may not have thought of.
    Warning,
}

impl<'s> Session<'s> {
    pub(super) fn new(who: ConsoleUser, sources: &'s dyn Sources) -> Self {
        Self {
            who,
            sources,
            settings: Settings::default(),
            transaction: TransactionStatus::Idle,
            statements: HashMap::new(),
            portals: HashMap::new(),
            extended: Extended::Listening,
        }
    }

    /// Handles one message; what there is to say to it is appended to `out`.
    pub(super) async fn on_message(&mut self, tag: u8, body: &[u8], out: &mut BytesMut) -> Next {
        if self.extended == Extended::Skipping && !matches!(tag, frontend::SYNC | frontend::TERMINATE) {
            return Next::Go;
        }
        let outcome = match tag {
            frontend::TERMINATE => return Next::End,
            frontend::QUERY => self.query(body, out).await,
            frontend::SYNC => {
                self.extended = Extended::Listening;
                if self.transaction == TransactionStatus::Idle {
                    self.portals.clear();
                }
                backend::put_ready(out, self.transaction);
                return Next::Go;
            }
            // Everything is sent as soon as there is nothing more to read.
            frontend::FLUSH => return Next::Go,
            // Left-overs of a COPY are ignored, as PostgreSQL does outside of one.
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => return Next::Go,
            frontend::PARSE => self.parse(body, out),
            frontend::BIND => self.bind(body, out),
            frontend::DESCRIBE => self.describe(body, out),
            frontend::EXECUTE => self.execute(body, out).await,
            frontend::CLOSE => self.close(body, out),
            _ => Err(WireError::Unexpected(char::from(tag)).into()),
        };
        let Err(Failure(report)) = outcome else { return Next::Go };
        report.put(out);
        if report.severity == Severity::Fatal {
            return Next::End;
        }
        self.fail();
        if tag == frontend::QUERY {
            backend::put_ready(out, self.transaction);
        } else {
            self.extended = Extended::Skipping;
        }
        Next::Go
    }

    fn fail(&mut self) {
        if self.transaction == TransactionStatus::InTransaction {
            self.transaction = TransactionStatus::Failed;
        }
    }

    async fn query(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Failure> {
        let text = utf8(frontend::query(body)?)?;
        let (commands, outcome) = parse(text);
        if commands.is_empty() && outcome.is_ok() {
            backend::put_empty(out, backend::EMPTY_QUERY_RESPONSE);
        }
        for command in &commands {
            match self.run(command).await? {
                Answer::Done(tag, tone, outcome) => put_done(out, tag, tone, &outcome),
                Answer::Table(table, tag) => {
                    put_heads(out, table.columns, |_| Format::Text);
                    table.rows.iter().for_each(|row| put_values(out, row, |_| Format::Text));
                    backend::put_command_complete(out, &complete(tag, table.rows.len()));
                }
            }
        }
        outcome?;
        backend::put_ready(out, self.transaction);
        Ok(())
    }

    fn parse(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Failure> {
        let message = frontend::Parse::read(body)?;
        let (mut commands, outcome) = parse(utf8(message.query)?);
        outcome?;
        if commands.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(Report::error(SqlState::SYNTAX_ERROR, text).into());
        }
        if !message.name.is_empty() && self.statements.contains_key(message.name) {
            let name = String::from_utf8_lossy(message.name);
            let text = format!("prepared statement \"{name}\" already exists");
            return Err(Report::error(SqlState::DUPLICATE_PREPARED_STATEMENT, text).into());
        }
        check_room(self.statements.len())?;
        self.statements.insert(message.name.to_vec(), commands.pop());
        backend::put_empty(out, backend::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Failure> {
        let (portal, statement, formats) = read_bind(body)?;
        let command = self.statement(statement)?.clone();
        check_room(self.portals.len())?;
        self.portals.insert(portal.to_vec(), Portal { command, formats, result: None });
        backend::put_empty(out, backend::BIND_COMPLETE);
        Ok(())
    }

    fn describe(&self, body: &[u8], out: &mut BytesMut) -> Result<(), Failure> {
        let all_text = Formats(Vec::new());
        let (command, formats) = match frontend::target(frontend::DESCRIBE, body)? {
            (Target::Statement, name) => {
                let command = self.statement(name)?;
                // No command has parameters.
                crate::wire::frame::put(out, backend::PARAMETER_DESCRIPTION, |out| out.extend_from_slice(&[0, 0]));
                (command, &all_text)
            }
            (Target::Portal, name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (&portal.command, &portal.formats)
            }
        };
        match command.as_ref().and_then(columns) {
            Some(columns) => put_heads(out, columns, |column| formats.of(column)),
            None => backend::put_empty(out, backend::NO_DATA),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Failure> {
        let mut body = Body::new(frontend::EXECUTE, body);
        let name = body.cstr()?;
        let limit = usize::try_from(body.i32()?).unwrap_or(0);
        let (name, mut portal) = self.portals.remove_entry(name).ok_or_else(|| no_portal(name))?;
        let Some(command) = &portal.command else {
            backend::put_empty(out, backend::EMPTY_QUERY_RESPONSE);
            self.portals.insert(name, portal);
            return Ok(());
        };
        let mut rows = match portal.result.take() {
            Some(rest) => rest,
            None => match self.run(command).await? {
                Answer::Table(table, _) => table.rows.into_iter(),
                Answer::Done(tag, tone, outcome) => {
                    put_done(out, tag, tone, &outcome);
                    self.portals.insert(name, portal);
                    return Ok(());
                }
            },
        };
        let wanted = if limit == 0 { rows.len() } else { limit };
        let mut sent = 0;
        for row in rows.by_ref().take(wanted) {
            put_values(out, &row, |column| portal.formats.of(column));
            sent += 1;
        }
        if rows.len() > 0 {
            backend::put_empty(out, backend::PORTAL_SUSPENDED);
        } else {
            backend::put_command_complete(out, &complete(tag_of(command), sent));
        }
        portal.result = Some(rows);
        self.portals.insert(name, portal);
        Ok(())
    }

    fn close(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Failure> {
        // To close what does not exist is no error.
        match frontend::target(frontend::CLOSE, body)? {
            (Target::Statement, name) => drop(self.statements.remove(name)),
            (Target::Portal, name) => drop(self.portals.remove(name)),
        }
        backend::put_empty(out, backend::CLOSE_COMPLETE);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Option<Command>, Failure> {
        self.statements.get(name).ok_or_else(|| {
            let text = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name));
            Report::error(SqlState::INVALID_SQL_STATEMENT_NAME, text).into()
        })
    }

    async fn run(&mut self, command: &Command) -> Result<Answer, Failure> {
        if self.transaction == TransactionStatus::Failed && !matches!(command, Command::Commit | Command::Rollback) {
            let text = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(Report::error(SqlState::IN_FAILED_SQL_TRANSACTION, text).into());
        }
        let done = |tag| Ok(Answer::Done(tag, Tone::Answer, Outcome::default()));
        match command {
            Command::Show(view) => Ok(Answer::Table(view.table(self.sources), tag_of(command))),
            Command::Explain(question) => Ok(Answer::Table(self.explain(question), tag_of(command))),
            Command::Act(verb) => self.act(verb).await,
            Command::Setting(name) => match courtesy::show(&self.settings, name) {
                Some(table) => Ok(Answer::Table(table, tag_of(command))),
                None => Err(NotACommand::NoView(name.to_uppercase()).into()),
            },
            Command::Select(expression) => match courtesy::select(expression, &self.settings, &self.who) {
                Some(table) => Ok(Answer::Table(table, tag_of(command))),
                None => {
                    let text = "this is the admin console of pgpilot: it runs commands, not queries";
                    Err(Report::error(SqlState::FEATURE_NOT_SUPPORTED, text).hint(list_of_commands()).into())
                }
            },
            Command::Set { name, value } => match self.settings.set(name, value) {
                Ok(()) => done("SET"),
                Err(error) => Err(Report::error(SqlState::INVALID_PARAMETER_VALUE, error.to_string()).into()),
            },
            Command::Begin => {
                self.transaction = TransactionStatus::InTransaction;
                done("BEGIN")
            }
            Command::Commit => match std::mem::replace(&mut self.transaction, TransactionStatus::Idle) {
                TransactionStatus::Failed => done("ROLLBACK"),
                _ => done("COMMIT"),
            },
            Command::Rollback => {
                self.transaction = TransactionStatus::Idle;
                done("ROLLBACK")
            }
            Command::Nothing(tag) => done(tag),
        }
    }

    fn explain(&self, question: &Question) -> Table {
        let user = question.user.as_deref().unwrap_or(&self.who.name);
        explain::explain(self.sources, &question.sql, user, question.database.as_deref())
    }

    async fn act(&self, verb: &Verb) -> Result<Answer, Failure> {
        let tag = tag_of_verb(verb);
        if self.who.level == Level::Reader {
            let text = format!("permission denied: {tag} is for those listed in admin.users");
            return Err(Report::error(SqlState::INSUFFICIENT_PRIVILEGE, text).into());
        }
        let (action, node) = match verb {
            Verb::Drain(node) => (Action::Drain(self.node(node)?), Some(node.as_str())),
            Verb::Undrain(node) => (Action::Undrain(self.node(node)?), Some(node.as_str())),
            Verb::Pause => (Action::Pause, None),
            Verb::Resume => (Action::Resume, None),
            Verb::Reload => (Action::Reload, None),
            Verb::Shutdown => (Action::Shutdown, None),
            Verb::Order(wish) => {
                let to = wish.node().map(|node| self.node(node)).transpose()?;
                (Action::Order(wish.order(to)), wish.node())
            }
        };
        let name = &*self.who.name;
        let command = if let Verb::Order(wish) = verb { wish.to_string() } else { tag.to_owned() };
        let tone = if let Action::Order(_) = action { Tone::Answer } else { Tone::Warning };
        let outcome = self.sources.perform(action).await;
        let result = match &outcome {
            Ok(_) => "done",
            Err(Refused::StillRunning { .. }) => "still running",
            Err(_) => "refused",
        };
        tracing::info!(user = name, command, node, result, "admin console");
        self.sources.journal().note(Topic::Operator, node, format!("{command} by {name}: {result}"));
        match outcome {
            Ok(outcome) => Ok(Answer::Done(tag, tone, outcome)),
            Err(refused) => Err(Report::error(refused.sqlstate(), refused.to_string()).into()),
        }
    }

    fn node(&self, name: &str) -> Result<crate::decide::route::NodeId, Failure> {
        let snapshot = self.sources.snapshot();
        let present = || super::views::present(&snapshot);
        present().find(|node| node.name.as_str() == name).map(|node| node.id).ok_or_else(|| {
            let names: Vec<_> = present().map(|node| node.name.as_str()).collect();
            Report::error(SqlState::UNDEFINED_OBJECT, format!("there is no node {name:?}"))
                .hint(format!("Nodes: {}.", names.join(", ")))
                .into()
        })
    }
}

/// Why a message fails; the client is told.
struct Failure(Box<Report>);

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self(Box::new(report))
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()).into()
    }
}

impl From<NotACommand> for Failure {
    fn from(error: NotACommand) -> Self {
        let hint = match &error {
            NotACommand::NotForced => format!("{WITHOUT_FORCE} {}.", orders::FAILOVER),
            _ => list_of_commands(),
        };
        Report::error(SqlState::SYNTAX_ERROR, error.to_string()).hint(hint).into()
    }
}

/// Said to who asks for a failover and may mean something gentler.
const WITHOUT_FORCE: &str = "SWITCHOVER hands over from a primary that is well, and loses nothing. FAILOVER DRY RUN says what \
                             would be done.";

fn list_of_commands() -> String {
    let commands: Vec<_> = COMMANDS.iter().map(|(syntax, _)| *syntax).collect();
    format!("Commands: {}. SHOW HELP explains them.", commands.join("; "))
}

fn no_portal(name: &[u8]) -> Failure {
    let text = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
    Report::error(SqlState::INVALID_CURSOR_NAME, text).into()
}

fn check_room(kept: usize) -> Result<(), Failure> {
    if kept < MAX_KEPT {
        return Ok(());
    }
    Err(Report::error(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many prepared statements or portals").into())
}

fn utf8(text: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(text)
        .map_err(|_| Report::error(SqlState::CHARACTER_NOT_IN_REPERTOIRE, "the text is not valid UTF8").into())
}

/// Portal, statement, and the formats of the result. Parameters are refused: no command has any.
fn read_bind(bytes: &[u8]) -> Result<(&[u8], &[u8], Formats), Failure> {
    let mut body = Body::new(frontend::BIND, bytes);
    let (portal, statement) = (body.cstr()?, body.cstr()?);
    let formats = body.i16()?.cast_unsigned();
    body.take(usize::from(formats) * 2)?;
    let parameters = body.i16()?;
    if parameters != 0 {
        let text = format!("bind message supplies {parameters} parameters, but commands of the console have none");
        return Err(Report::error(SqlState::PROTOCOL_VIOLATION, text).into());
    }
    let count = body.i16()?.cast_unsigned();
    let mut results = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        results.push(match body.i16()? {
            0 => Format::Text,
            1 => Format::Binary,
            other => {
                let text = format!("invalid format code: {other}");
                return Err(Report::error(SqlState::PROTOCOL_VIOLATION, text).into());
            }
        });
    }
    body.end()?;
    Ok((portal, statement, Formats(results)))
}

/// What a command's result looks like; `None`: it has no rows.
fn columns(command: &Command) -> Option<&'static [Column]> {
    match command {
        Command::Show(view) => Some(view.columns()),
        Command::Explain(_) => Some(explain::COLUMNS),
        Command::Setting(_) => Some(courtesy::setting_columns()),
        Command::Select(_) => Some(courtesy::select_columns()),
        _ => None,
    }
}

fn tag_of(command: &Command) -> &'static str {
    match command {
        Command::Select(_) => "SELECT",
        Command::Explain(_) => "EXPLAIN",
        _ => "SHOW",
    }
}

fn tag_of_verb(verb: &Verb) -> &'static str {
    match verb {
        Verb::Drain(_) => "DRAIN",
        Verb::Undrain(_) => "UNDRAIN",
        Verb::Pause => "PAUSE",
        Verb::Resume => "RESUME",
        Verb::Reload => "RELOAD",
        Verb::Shutdown => "SHUTDOWN",
        Verb::Order(wish) => wish.tag(),
    }
}

/// Only SELECT says how many rows there were.
fn complete(tag: &str, rows: usize) -> String {
    if tag == "SELECT" { format!("SELECT {rows}") } else { tag.to_owned() }
}

fn put_done(out: &mut BytesMut, tag: &str, tone: Tone, outcome: &Outcome) {
    let (severity, code) = match tone {
        Tone::Answer => (Severity::Info, SqlState::SUCCESSFUL_COMPLETION),
        Tone::Warning => (Severity::Warning, SqlState::WARNING),
    };
    for notice in &outcome.notices {
        Report { severity, ..Report::error(code, notice) }.put(out);
    }
    backend::put_command_complete(out, tag);
}
