//! What pgpilot answers without a server: BEGIN (until there is something to run), SHOW and SET of its own settings, DEALLOCATE, empty batches.

use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

use super::assess::{Assessed, Frame, frames};
use super::batch::{Batch, BatchEnd};
use super::client::Client;
use super::fault::End;
use super::judged::Judged;
use super::own_settings::unknown;
use super::session::{Deferred, Transaction};
use super::vigil::Denied;
use crate::decide::position::Position;
use crate::decide::sql::{Classified, Hint, Intent, OwnCommand, SetScope, Verdict};
use crate::pool::QueryError;
use crate::wire::SqlState;
use crate::wire::backend::{self, Report, TransactionStatus};
use crate::wire::frontend::{self, BindHead, Parse, Target};

/// A result of pgpilot's own: at most one row of one column.
pub(super) struct Answer {
    column: Option<(&'static str, String)>,
    pub(super) tag: &'static str,
}

impl Answer {
    pub(super) fn shown((name, value): (&'static str, String)) -> Self {
        Self { column: Some((name, value)), tag: "SHOW" }
    }

    pub(super) fn done(tag: &'static str) -> Self {
        Self { column: None, tag }
    }

    /// The row, if there is one, and the end: its description comes before it, if one was asked for.
    pub(super) fn put(&self, out: &mut BytesMut) {
        if let Some((_, value)) = &self.column {
            backend::put_text_row(out, [Some(value.as_str())].into_iter());
        }
        backend::put_command_complete(out, self.tag);
    }
}

const NO_TRANSACTION: &str = "there is no transaction in progress";

impl Client {
    /// Answers the batch if no server is needed for it. Returns whether it did.
    pub(super) async fn answer(&mut self, batch: Batch, assessed: &Assessed) -> Result<bool, End> {
        if let Transaction::Lost { untold } = &mut self.transaction {
            let untold = untold.take();
            self.answer_lost(batch, untold);
            return Ok(true);
        }
        if assessed.own && self.asks_for_position(batch) {
            match self.await_position().await {
                Ok(()) => {}
                Err(Denied::End(end)) => return Err(end),
                Err(Denied::Fault(fault)) => {
                    self.fail_transaction();
                    self.reject(batch, &fault.report());
                    self.fail_on_server().await?;
                    return Ok(true);
                }
            }
        }
        let input = std::mem::take(&mut self.side.input);
        let answered = self.answer_frames(&input[..batch.len], batch, assessed);
        self.side.input = input;
        let answered = answered?;
        if answered {
            self.side.input.advance(batch.len);
            self.fail_on_server().await?;
        }
        Ok(answered)
    }

    /// A statement of pgpilot's own has failed: as with any other, so has its transaction.
    fn fail_transaction(&mut self) {
        match self.transaction {
            Transaction::Deferred(_) => self.transaction = Transaction::Lost { untold: None },
            // Its replica is lost, and no other server knows of it.
            Transaction::Open if self.link.is_none() => self.transaction = Transaction::Lost { untold: None },
            Transaction::Open => self.transaction = Transaction::Failed,
            Transaction::Idle | Transaction::Failed | Transaction::Lost { .. } => {}
        }
    }

    /// If a transaction has failed here, the server is made to agree.
    async fn fail_on_server(&mut self) -> Result<(), End> {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        if !matches!(self.transaction, Transaction::Failed) || link.status == TransactionStatus::Failed {
            return Ok(());
        }
        match link.lease.query("ROLLBACK TO SAVEPOINT pgpilot_does_not_exist").await {
            Ok(_) | Err(QueryError::Server { .. }) => {
                link.lease.unnamed = None;
                link.status = TransactionStatus::Failed;
                Ok(())
            }
            Err(error @ (QueryError::Lost(_) | QueryError::Wire(_))) => self.server_lost(&error.to_string()).await,
        }
    }

    fn asks_for_position(&self, batch: Batch) -> bool {
        let bytes = &self.side.input[..batch.len];
        frames(bytes).any(|frame| {
            let verdict = match frame.tag {
                frontend::QUERY => self.verdict_on(frontend::query(frame.body()).unwrap_or_default()),
                _ => return self.own_of(frame).is_some_and(|verdict| shows_position(&verdict)),
            };
            shows_position(&verdict)
        })
    }

    /// Waits until a position that covers what the session wrote is known, which takes one question to the primary.
    async fn await_position(&mut self) -> Result<(), Denied> {
        let until = Instant::now() + POSITION_WAIT;
        while self.session.has_run {
            let snapshot = self.snapshots.snapshot().clone();
            if self.session.freshness.position(&snapshot).is_some() || Instant::now() >= until {
                break;
            }
            self.shared.cluster.want_mark();
            self.wait_change(&snapshot, until).await?;
        }
        Ok(())
    }

    fn answer_frames(&mut self, bytes: &[u8], batch: Batch, assessed: &Assessed) -> Result<bool, End> {
        // With something under way, or in a failed transaction, the server's answers are the right ones.
        let open = self.link.as_ref().is_some_and(|link| link.batch_open);
        if open || matches!(self.transaction, Transaction::Failed) {
            return Ok(false);
        }
        match batch.end {
            BatchEnd::Simple => self.answer_simple(bytes, assessed),
            BatchEnd::Sync | BatchEnd::Flush => self.answer_extended(bytes, batch.end, assessed),
            BatchEnd::Open => Ok(false),
        }
    }

    fn answer_simple(&mut self, bytes: &[u8], assessed: &Assessed) -> Result<bool, End> {
        let (Some(frame), Some(verdict)) = (frames(bytes).next(), &assessed.query) else { return Ok(false) };
        let text = frontend::query(frame.body())?;
        let result = match &*verdict.statements {
            [] if self.link.is_none() && matches!(self.transaction, Transaction::Idle) => {
                backend::put_empty(&mut self.side.output, backend::EMPTY_QUERY_RESPONSE);
                backend::put_ready(&mut self.side.output, TransactionStatus::Idle);
                self.session.names.set(b"", None);
                return Ok(true);
            }
            [verdict] => self.run_own(text, verdict),
            _ => None,
        };
        let Some(result) = result else { return Ok(false) };
        // As any other Query does.
        self.session.names.set(b"", None);
        match result {
            Ok(answer) => {
                let out = &mut self.side.output;
                if let Some((column, _)) = &answer.column {
                    backend::put_text_columns(out, &[column]);
                }
                answer.put(out);
            }
            Err(report) => {
                self.tell(&report);
                self.fail_transaction();
            }
        }
        let status = self.status();
        backend::put_ready(&mut self.side.output, status);
        Ok(true)
    }

    /// Does what a statement of pgpilot's own says. `None`: it is a server's.
    pub(super) fn run_own(&mut self, text: &[u8], verdict: &Verdict) -> Option<Result<Answer, Report>> {
        let done = |tag| Some(Ok(Answer::done(tag)));
        match (&verdict.intent, &self.transaction) {
            (Intent::Begin(mode), Transaction::Idle) if self.link.is_none() => {
                self.transaction = Transaction::Deferred(Deferred { text: text.into(), mode: *mode });
                self.session.heed(verdict.hints);
                let starts = words(text).get(..5).is_some_and(|word| word.eq_ignore_ascii_case(b"start"));
                done(if starts { "START TRANSACTION" } else { "BEGIN" })
            }
            (Intent::End(end), Transaction::Deferred(_)) => {
                self.session.will_end(*end);
                if !end.chains() {
                    self.transaction = Transaction::Idle;
                }
                done(if end.commits() { "COMMIT" } else { "ROLLBACK" })
            }
            (Intent::End(end), Transaction::Idle) if self.link.is_none() && !end.chains() => {
                Report::warning(SqlState::NO_ACTIVE_SQL_TRANSACTION, NO_TRANSACTION).put(&mut self.side.output);
                done(if end.commits() { "COMMIT" } else { "ROLLBACK" })
            }
            (Intent::Own(command), _) => Some(self.run_command(command)),
            (Intent::Deallocate { name: Some(name) }, _) => {
                self.session.names.set(name.as_bytes(), None)?;
                done("DEALLOCATE")
            }
            (Intent::Deallocate { name: None }, _) if self.session.pins.is_empty() => {
                self.session.names.clear();
                done("DEALLOCATE ALL")
            }
            _ => None,
        }
    }

    fn run_command(&mut self, command: &OwnCommand) -> Result<Answer, Report> {
        match command {
            OwnCommand::Show { name } => Ok(Answer::shown(self.show(name)?)),
            OwnCommand::Set { name, value, scope, .. } => {
                let change = self.session.change(name, value.as_deref())?;
                if self.transaction.is_idle() {
                    if *scope == SetScope::Local {
                        let text = "SET LOCAL can only be used in transaction blocks";
                        Report::warning(SqlState::NO_ACTIVE_SQL_TRANSACTION, text).put(&mut self.side.output);
                        return Ok(Answer::done("SET"));
                    }
                    self.session.change_own_settings(change);
                } else {
                    self.session.change_own_settings_within(*scope, change);
                }
                Ok(Answer::done("SET"))
            }
        }
    }

    pub(super) fn show(&mut self, name: &str) -> Result<(&'static str, String), Report> {
        Ok(match name {
            "lsn" => {
                let snapshot = self.snapshots.snapshot().clone();
                let newest =
                    || snapshot.marks.last().map(|mark| Position { timeline: snapshot.timeline, lsn: mark.lsn });
                let position = match self.session.freshness.position(&snapshot) {
                    None if self.session.has_run => None,
                    known => known.or_else(newest),
                };
                // A token that was handed on is handed on.
                let Some(position) = later(position, self.session.freshness.required()) else {
                    return Err(Report::error(SqlState::CANNOT_CONNECT_NOW, "the primary does not tell its position"));
                };
                ("pgpilot.lsn", position.to_string())
            }
            "min_lsn" => {
                let required = self.session.freshness.required();
                ("pgpilot.min_lsn", required.map(|position| position.to_string()).unwrap_or_default())
            }
            "consistency" => ("pgpilot.consistency", self.session.policy.consistency.name().to_owned()),
            "route" => ("pgpilot.route", hint_name(self.session.hint).to_owned()),
            "pins" => {
                let pins: Vec<_> = self.session.pins.iter().map(|pin| pin.label()).collect();
                ("pgpilot.pins", pins.join(", "))
            }
            "version" => ("pgpilot.version", env!("CARGO_PKG_VERSION").to_owned()),
            _ => return Err(unknown(name)),
        })
    }

    /// Applies one of the client's start-up settings that are pgpilot's own.
    pub(super) fn set_at_startup(&mut self, name: &str, value: &str) -> Result<(), Report> {
        let change = self.session.change(name, Some(value))?;
        self.session.change_own_settings(change);
        self.session.own_at_start = self.session.own_settings();
        Ok(())
    }

    /// An extended batch, or a part of one, of which nothing needs a server: only Close and Sync, or one statement of pgpilot's own.
    fn answer_extended(&mut self, bytes: &[u8], end: BatchEnd, assessed: &Assessed) -> Result<bool, End> {
        if self.answer_begin(bytes, end, assessed)? {
            return Ok(true);
        }
        if assessed.needs.server.is_some() || (!assessed.own && self.link.is_some()) {
            return Ok(false);
        }
        if end == BatchEnd::Flush && !assessed.steps.is_empty() && self.transaction.is_idle() {
            // The batch goes on, and what it sets is undone if it fails.
            return Ok(false);
        }
        let mut current = None;
        for frame in frames(bytes) {
            if let Some(verdict) = self.own_of(frame) {
                current = Some(verdict);
            }
            if let Err(report) = self.answer_frame(frame, current.as_deref().map(|judged| &**judged))? {
                self.tell(&report);
                self.fail_transaction();
                self.skipping = end == BatchEnd::Flush;
                break;
            }
        }
        if end == BatchEnd::Sync {
            let status = self.status();
            backend::put_ready(&mut self.side.output, status);
        }
        Ok(true)
    }

    pub(super) fn answer_frame(
        &mut self,
        frame: Frame<'_>,
        own: Option<&Classified>,
    ) -> Result<Result<(), Report>, End> {
        let command = own.and_then(|classified| match &classified.statements[0].intent {
            Intent::Own(command) => Some(command.clone()),
            _ => None,
        });
        let out = &mut self.side.output;
        match frame.tag {
            frontend::PARSE => {
                let parse = Parse::read(frame.body())?;
                if !parse.name.is_empty() && self.session.names.find(parse.name).is_some() {
                    return Ok(Err(name_taken(parse.name)));
                }
                let prepared = self.take_parsed(parse);
                self.session.names.set(parse.name, Some(prepared));
                backend::put_empty(&mut self.side.output, backend::PARSE_COMPLETE);
            }
            frontend::BIND => backend::put_empty(out, backend::BIND_COMPLETE),
            frontend::CLOSE => {
                if let (Target::Statement, name) = frontend::target(frame.tag, frame.body())? {
                    self.session.names.set(name, None);
                }
                backend::put_empty(&mut self.side.output, backend::CLOSE_COMPLETE);
            }
            frontend::DESCRIBE => {
                if let (Target::Statement, _) = frontend::target(frame.tag, frame.body())? {
                    backend::put_no_parameters(out);
                }
                describe(out, command.as_ref());
            }
            frontend::EXECUTE => {
                if let Some(command) = command {
                    match self.run_command(&command) {
                        Err(report) => return Ok(Err(report)),
                        Ok(answer) => answer.put(&mut self.side.output),
                    }
                }
            }
            _ => {}
        }
        Ok(Ok(()))
    }

    /// The verdict on the statement that a frame is about, if it is one of pgpilot's own.
    fn own_of(&self, frame: Frame<'_>) -> Option<std::sync::Arc<Judged>> {
        let classified = match frame.tag {
            frontend::PARSE => self.verdict_on(Parse::read(frame.body()).ok()?.query),
            frontend::BIND => self.session.names.find(BindHead::parse(frame.body()).ok()?.statement)?.verdict.clone(),
            frontend::DESCRIBE => match frontend::target(frame.tag, frame.body()).ok()? {
                (Target::Statement, name) => self.session.names.find(name)?.verdict.clone(),
                (Target::Portal, _) => return None,
            },
            _ => return None,
        };
        matches!(&*classified.statements, [Verdict { intent: Intent::Own(_), .. }]).then_some(classified)
    }

    /// Whether a batch may have to be answered here, in its turn.
    pub(super) fn may_answer(&self, batch: Batch) -> bool {
        let bytes = &self.side.fresh()[..batch.len];
        match batch.end {
            BatchEnd::Simple => frames(bytes).next().is_some_and(|frame| {
                let text = frontend::query(frame.body()).unwrap_or_default();
                let verdict = self.verdict_on(text);
                verdict.statements.iter().any(|verdict| {
                    matches!(
                        verdict.intent,
                        Intent::Own(_) | Intent::Deallocate { .. } | Intent::Begin(_) | Intent::End(_)
                    )
                })
            }),
            _ => frames(bytes).any(|frame| self.own_of(frame).is_some()),
        }
    }

    /// Whether what the server is working at may change the session's state, so that the next batch has to wait for the inventory.
    pub(super) fn transaction_may_end_lease(&self) -> bool {
        self.session.left.need_inventory() || self.session.left.forgets_statements
    }
}

/// The primary answers in a fraction of this, if it answers.
const POSITION_WAIT: Duration = Duration::from_secs(2);

fn shows_position(classified: &Classified) -> bool {
    classified.statements.iter().any(|verdict| match &verdict.intent {
        Intent::Own(OwnCommand::Show { name }) => &**name == "lsn",
        _ => false,
    })
}

/// A text from its first word on, without the comments before it. (Whoever asks knows already that it is a well-formed statement.)
fn words(text: &[u8]) -> &[u8] {
    let mut text = text.trim_ascii_start();
    loop {
        let end = match text {
            [b'-', b'-', ..] => memchr::memchr(b'\n', text).map(|at| at + 1),
            [b'/', b'*', ..] => comment_end(text),
            _ => return text,
        };
        text = text[end.unwrap_or(text.len())..].trim_ascii_start();
    }
}

/// Comments nest.
fn comment_end(text: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    while let Some(pair) = text.get(at..at + 2) {
        match pair {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" if depth == 1 => return Some(at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    None
}

pub(super) fn describe(out: &mut BytesMut, command: Option<&OwnCommand>) {
    match command {
        Some(OwnCommand::Show { name }) => backend::put_text_columns(out, &[&format!("pgpilot.{name}")]),
        _ => backend::put_empty(out, backend::NO_DATA),
    }
}

/// On a newer timeline, everything is later.
fn later(one: Option<Position>, other: Option<Position>) -> Option<Position> {
    let order = |position: &Position| (position.timeline, position.lsn);
    [one, other].into_iter().flatten().max_by_key(order)
}

fn hint_name(hint: Option<Hint>) -> &'static str {
    match hint {
        None => "auto",
        Some(Hint::Primary) => "primary",
        Some(Hint::Replica) => "replica",
    }
}

pub(super) fn name_taken(name: &[u8]) -> Report {
    let message = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(name));
    Report::error(SqlState::DUPLICATE_PREPARED_STATEMENT, message)
}
