//! What a client's session holds, apart from its connections.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::judged::Judged;
use crate::decide::route::{Freshness, Policy};
use crate::decide::session::{Defaults, Due, Kind, Needs, ParameterMap, Pin, Settings, Statement, StatementId};
use crate::decide::sql::{Effects, Hint, TransactionMode};
use crate::wire::backend::Report;

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
    /// Statements that a batch has closed which has not been answered yet.
    closed: Vec<(Box<[u8]>, SessionStatement)>,
    /// Names that the server has not confirmed yet, with the batch that brought them.
    unconfirmed: VecDeque<(u64, Box<[u8]>)>,
    batches_sent: u64,
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
    pub verdict: Arc<Judged>,
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
            closed: Vec::new(),
            unconfirmed: VecDeque::new(),
            batches_sent: 0,
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

    /// Enters a statement that is being prepared in the batch that is being gathered.
    pub(super) fn define(&mut self, name: &[u8], statement: SessionStatement) {
        if name.is_empty() {
            self.unnamed = Some(statement);
        } else {
            self.statements.insert(name.into(), statement);
            self.unconfirmed.push_back((self.batches_sent, name.into()));
        }
    }

    /// Whether `name` was entered by a Parse that has not been sent yet; from now on it has. A second Parse of the same name finds it sent.
    pub(super) fn take_unsent(&mut self, name: &[u8]) -> bool {
        self.statements.get_mut(name).is_some_and(|entry| !std::mem::replace(&mut entry.sent, true))
    }

    /// A batch is going to be sent to another server: what it prepares has not been sent there, and what it closes is open again.
    pub(super) fn unsend(&mut self) {
        for (name, statement) in self.closed.drain(..).rev() {
            match &*name {
                b"" => self.unnamed = Some(statement),
                _ => drop(self.statements.insert(name, statement)),
            }
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

    pub(super) fn forget(&mut self, name: &[u8]) {
        let forgotten = if name.is_empty() { self.unnamed.take() } else { self.statements.remove(name) };
        self.closed.extend(forgotten.map(|statement| (name.into(), statement)));
    }

    /// A batch has been gathered whole.
    pub(super) fn batch_sent(&mut self) {
        self.batches_sent += 1;
    }

    /// A batch has been answered: what it prepared and was not skipped is prepared.
    pub(super) fn batch_done(&mut self) {
        while self.unconfirmed.front().is_some_and(|(batch, _)| *batch <= self.batches_done) {
            self.unconfirmed.pop_front();
        }
        self.batches_done += 1;
        self.closed.clear();
    }

    /// These messages were skipped: what they would have prepared is not.
    pub(super) fn skipped(&mut self, dues: &[Due]) {
        let ids: Vec<StatementId> = dues
            .iter()
            .filter_map(|due| match due.kind {
                Kind::Parse(id) | Kind::Own(_, id) => id,
                _ => None,
            })
            .collect();
        let (statements, current) = (&mut self.statements, self.batches_done);
        self.unconfirmed.retain(|(batch, name)| {
            let undone = *batch <= current && statements.get(name).is_some_and(|s| ids.contains(&s.statement.id));
            if undone {
                statements.remove(name);
            }
            !undone
        });
        if self.unnamed.as_ref().is_some_and(|unnamed| ids.contains(&unnamed.statement.id)) {
            self.unnamed = None;
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
