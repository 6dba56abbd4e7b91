//! What a client's session holds, apart from its connections.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::undo::{Older, UndoLog};
use crate::decide::route::{Freshness, Policy};
use crate::decide::session::{
    Defaults, Due, Fate, Kind, Needs, Origin, ParameterMap, Pin, Settings, Statement, StatementId,
};
use crate::decide::sql::{Classified, Effects, Hint, TransactionMode};
use crate::wire::backend::{CLOSE_COMPLETE, Report};
use crate::wire::frontend::Parse;

pub(super) struct Session {
    /// From the start-up packet: what RESET goes back to.
    pub startup: Arc<Settings>,
    /// What is in force, the start-up settings included.
    pub settings: Arc<Settings>,
    /// What the client has been told of the server's parameters.
    pub reported: Arc<ParameterMap>,
    pub defaults: Defaults,
    pub texts: Texts,
    pub statements: HashMap<Box<[u8]>, SessionStatement>,
    pub unnamed: Option<SessionStatement>,
    /// What batches that have not been answered yet have changed: servers skip messages after an error.
    undo: UndoLog,
    /// Names that the server has not confirmed yet, with the batch that brought them.
    unconfirmed: VecDeque<(u64, Box<[u8]>)>,
    batches_sent: u64,
    /// The batch of which frames are being forwarded.
    forwarding: u64,
    batches_done: u64,
    /// State of the session's was lost while nothing was due: the next statement gets this error.
    pub untold: Option<Box<Report>>,
    pub freshness: Freshness,
    /// Something of this session's has run on a server.
    pub has_run: bool,
    pub policy: Policy,
    /// As configured, for `SET pgpilot.consistency TO DEFAULT`.
    pub configured: Policy,
    /// From `pgpilot.route`.
    pub hint: Option<Hint>,
    pub pins: Vec<Pin>,
    /// Pins that are the session's own ways, and not something that the server knows of.
    pub standing_pins: Vec<Pin>,
    pub left: Leftovers,
}

/// Something that the client has prepared.
#[derive(Clone)]
pub(super) struct SessionStatement {
    pub statement: Arc<Statement>,
    pub verdict: Arc<Classified>,
    /// As of when the verdict holds.
    pub stamp: u64,
    /// The message that prepares it has been forwarded.
    pub sent: bool,
}

/// Whether a statement's bytes can be taken for what they look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texts {
    Legible,
    /// `standard_conforming_strings` is off, or the client's encoding has quotes and backslashes within characters.
    Opaque,
}

/// Encodings whose characters' later bytes may be ASCII: those that only clients may use (documentation, "Supported Character Sets").
const AMBIGUOUS_ENCODINGS: [&str; 8] =
    ["BIG5", "GB18030", "GBK", "JOHAB", "SJIS", "SHIFT_JIS_2004", "UHC", "MULE_INTERNAL"];

/// What the statements since the last inventory may have left on the server connection.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    pub effects: Effects,
    pub names: Vec<Box<str>>,
    pub forgets_statements: bool,
}

/// The client's transaction, as the client sees it.
#[derive(Debug)]
pub(super) enum Transaction {
    Idle,
    /// BEGIN has been answered and not been sent: the first statement takes it along.
    Deferred(Deferred),
    Open,
    Failed,
    /// Failed because its server was lost, or because there was none: the client has to end it, which needs no server.
    Lost {
        /// The error, if the client has not been told yet.
        untold: Option<Box<Report>>,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Deferred {
    pub text: Box<[u8]>,
    pub mode: TransactionMode,
}

/// No session may hold more prepared statements.
pub(super) const MAX_STATEMENTS: usize = 10_000;

impl Session {
    pub(super) fn new(startup: Settings, reported: Arc<ParameterMap>, policy: Policy) -> Self {
        let startup = Arc::new(startup);
        let mut session = Self {
            settings: startup.clone(),
            startup,
            reported,
            defaults: Defaults::default(),
            texts: Texts::Legible,
            statements: HashMap::new(),
            unnamed: None,
            undo: UndoLog::default(),
            unconfirmed: VecDeque::new(),
            batches_sent: 0,
            forwarding: 0,
            batches_done: 0,
            untold: None,
            freshness: Freshness::default(),
            has_run: false,
            configured: policy.clone(),
            policy,
            hint: None,
            pins: Vec::new(),
            standing_pins: Vec::new(),
            left: Leftovers::default(),
        };
        session.settings_changed();
        session
    }

    /// What the settings mean for routing is read once, not per statement.
    pub(super) fn settings_changed(&mut self) {
        let is = |name: &str, value: &str| self.settings.get(name) == Some(value);
        self.defaults = Defaults {
            read_only: is("default_transaction_read_only", "on"),
            serializable: is("default_transaction_isolation", "serializable"),
        };
        let reported = |name: &str| self.reported.get(name).unwrap_or("");
        let lexed_otherwise = reported("standard_conforming_strings") == "off";
        let encoding = reported("client_encoding");
        let ambiguous = AMBIGUOUS_ENCODINGS.iter().any(|name| name.eq_ignore_ascii_case(encoding));
        self.texts = if lexed_otherwise || ambiguous { Texts::Opaque } else { Texts::Legible };
    }

    /// What the names in a statement mean depends on these: two sessions share a prepared statement only if they agree.
    pub(super) fn naming_context(&self) -> String {
        // Names are looked up, and literals turned into values, when a statement is parsed: by settings of which nobody has the complete list.
        let settings =
            self.settings.iter().filter(|(name, _)| !matches!(*name, "application_name" | "statement_timeout"));
        let mut context = String::new();
        for (name, value) in settings {
            context.extend([name, "=", value, "\0"]);
        }
        context
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<&SessionStatement> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.statements.get(name) }
    }

    /// What the client calls a statement, or called it in a batch that has not been answered yet.
    pub(super) fn name_of(&self, id: StatementId) -> Option<&[u8]> {
        let named = self.statements.iter().find(|(_, known)| known.statement.id == id).map(|(name, _)| &**name);
        named.or_else(|| self.undo.closed_name(id))
    }

    /// The unnamed statement with this text, which another one may have replaced later in its batch.
    pub(super) fn unnamed_as(&self, parse: Parse<'_>) -> Option<StatementId> {
        let is = |known: &&SessionStatement| match &known.statement.origin {
            Origin::Parse { query, types } => (&**query, &**types) == (parse.query, parse.types),
            Origin::Sql { .. } => false,
        };
        let known = self.unnamed.as_ref().filter(is).or_else(|| self.undo.unnamed_before().find(is));
        known.map(|known| known.statement.id)
    }

    /// Enters a statement that is being prepared in the batch that is being gathered.
    pub(super) fn define(&mut self, name: &[u8], statement: SessionStatement) {
        if name.is_empty() {
            self.undo.unnamed(self.batches_sent, self.unnamed.replace(statement));
        } else {
            self.statements.insert(name.into(), statement);
            self.unconfirmed.push_back((self.batches_sent, name.into()));
        }
    }

    /// "A simple Query message also destroys the unnamed statement" (documentation, "Extended Query").
    pub(super) fn drop_unnamed(&mut self) {
        self.undo.unnamed(self.batches_sent, self.unnamed.take());
    }

    /// Whether `name` was entered by a Parse that has not been sent yet; from now on it has. A second Parse of the same name finds it sent.
    pub(super) fn take_unsent(&mut self, name: &[u8]) -> bool {
        self.statements.get_mut(name).is_some_and(|entry| !std::mem::replace(&mut entry.sent, true))
    }

    /// A batch is going to be sent to another server: what it prepares has not been sent there, and what it closes is open again.
    pub(super) fn unsend(&mut self) {
        for (name, statement) in self.undo.take_closed() {
            self.reopen(name, statement);
        }
        for (_, name) in &self.unconfirmed {
            if let Some(entry) = self.statements.get_mut(name) {
                entry.sent = false;
            }
        }
    }

    /// The batch at hand is not going to be sent: what it would have prepared is not.
    pub(super) fn batch_refused(&mut self) {
        let (statements, current) = (&mut self.statements, self.batches_sent);
        self.unconfirmed.retain(|(batch, name)| {
            let undone = *batch == current && statements.get(name).is_some_and(|entry| !entry.sent);
            if undone {
                statements.remove(name);
            }
            !undone
        });
    }

    /// A Close is being forwarded. Returns the statement that it closes.
    pub(super) fn forget(&mut self, name: &[u8]) -> Option<StatementId> {
        let forgotten = if name.is_empty() { self.unnamed.take() } else { self.statements.remove(name) }?;
        let id = forgotten.statement.id;
        self.undo.closed(self.forwarding, name, forgotten);
        Some(id)
    }

    /// Whether batches under way change what names mean.
    pub(super) fn is_in_flux(&self) -> bool {
        !self.unconfirmed.is_empty() || !self.undo.is_empty()
    }

    /// Whether batches under way change what this name means.
    pub(super) fn is_undecided(&self, name: &[u8]) -> bool {
        self.undo.changes(name) || self.unconfirmed.iter().any(|(_, unconfirmed)| **unconfirmed == *name)
    }

    fn reopen(&mut self, name: Box<[u8]>, statement: SessionStatement) {
        match &*name {
            b"" => drop(self.unnamed.get_or_insert(statement)),
            _ => drop(self.statements.entry(name).or_insert(statement)),
        }
    }

    /// The batch that has been assessed is going to be forwarded, or a part of it.
    pub(super) fn batch_begins(&mut self) {
        self.forwarding = self.batches_sent;
    }

    /// A batch has been gathered whole.
    pub(super) fn batch_sent(&mut self) {
        self.batches_sent += 1;
    }

    /// What was taken for the end of a batch has been skipped.
    pub(super) fn batch_goes_on(&mut self) {
        self.batches_sent -= 1;
    }

    /// A batch has been answered: what it prepared and was not skipped is prepared.
    pub(super) fn batch_done(&mut self) {
        while self.unconfirmed.front().is_some_and(|(batch, _)| *batch <= self.batches_done) {
            self.unconfirmed.pop_front();
        }
        self.undo.forget(self.batches_done);
        self.batches_done += 1;
    }

    /// A batch that has been assessed as a whole will be assessed again, frame by frame.
    pub(super) fn unassess(&mut self) {
        self.undo.roll_back(self.batches_sent, &mut self.unnamed);
    }

    /// These messages were skipped, the first one because it failed: what they would have changed is as it was.
    pub(super) fn skipped(&mut self, dues: &[Due]) {
        let clients = dues.iter().enumerate().rev().filter(|(_, due)| due.fate == Fate::Client);
        for (at, due) in clients {
            match &due.kind {
                Kind::Own(bytes, Some(id)) if bytes.first() == Some(&CLOSE_COMPLETE) => {
                    if let Some((name, statement)) = self.undo.closing(*id) {
                        self.reopen(name, statement);
                    }
                }
                Kind::Parse(Some(id)) | Kind::Own(_, Some(id)) => {
                    // A Parse of the unnamed statement destroys the older one even if it fails (`exec_parse_message` in `src/backend/tcop/postgres.c`).
                    let older = if at == 0 { Older::Gone } else { Older::Stays };
                    if !self.undo.parse(self.batches_done, *id, older, &mut self.unnamed) {
                        self.unprepare(*id);
                    }
                }
                Kind::Query => self.undo.query(self.batches_done, &mut self.unnamed),
                _ => {}
            }
        }
    }

    /// A Parse is not forwarded, because the server would skip it.
    pub(super) fn unparse(&mut self, name: &[u8]) {
        match self.find(name).map(|known| known.statement.id) {
            Some(id) if name.is_empty() => {
                self.undo.parse(self.batches_sent, id, Older::Stays, &mut self.unnamed);
            }
            Some(id) => self.unprepare(id),
            None => {}
        }
    }

    /// A Query is not forwarded, because the server would skip it.
    pub(super) fn unquery(&mut self) {
        self.undo.query(self.batches_sent, &mut self.unnamed);
    }

    /// Forgets the newest name of this statement that no server has confirmed.
    fn unprepare(&mut self, id: StatementId) {
        let is = |name: &[u8]| self.statements.get(name).is_some_and(|known| known.statement.id == id);
        if let Some(at) = self.unconfirmed.iter().rposition(|(_, name)| is(name))
            && let Some((_, name)) = self.unconfirmed.remove(at)
        {
            self.statements.remove(&name);
        }
    }

    /// From now on the session keeps its connection.
    pub(super) fn pin_for_good(&mut self, pin: Pin) {
        if !self.standing_pins.contains(&pin) {
            self.standing_pins.push(pin);
            self.pins.push(pin);
        }
    }

    pub(super) fn note_left(&mut self, needs: &mut Needs) {
        self.left.effects |= needs.effects;
        self.left.names.append(&mut needs.names);
        self.left.forgets_statements |= needs.forgets_statements;
    }
}

impl Leftovers {
    /// Whether the server has to be asked what the session has left.
    pub(super) fn need_inventory(&self) -> bool {
        !self.names.is_empty() || self.effects.intersects(Effects::SETTINGS | Effects::PINS | Effects::UNPINS)
    }
}

impl Transaction {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Transaction::Idle)
    }
}
