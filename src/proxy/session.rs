//! What a client's session holds, apart from its connections.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use super::names::{Names, SessionStatement};
use super::own_settings::{Afterwards, OwnSettings};
use super::resets::Beginning;
use super::sequences::Place;
use super::shared::Shared;
use crate::cluster::catalogue::Change;
use crate::config::Consistency;
use crate::decide::route::{Freshness, Policy};
use crate::decide::session::{Defaults, Needs, ParameterMap, Pin, Settings, milliseconds};
use crate::decide::sql::{Effects, Hint, TransactionMode};
use crate::wire::backend::Report;

pub(super) struct Session {
    /// What RESET goes back to.
    pub began_with: Beginning,
    /// What is in force, the start-up settings included.
    pub settings: Arc<Settings>,
    /// What the client has been told of the server's parameters.
    pub reported: Arc<ParameterMap>,
    pub defaults: Defaults,
    /// For how long it may be idle, as far as it has said so itself.
    pub idle_limit: Option<Duration>,
    pub texts: Texts,
    pub names: Names,
    /// What the batch that has been assessed, and not been forwarded yet, prepares: in order.
    pub parsed: VecDeque<SessionStatement>,
    /// State of the session's was lost while nothing was due: the next statement gets this error.
    pub untold: Option<Box<Report>>,
    pub freshness: Freshness,
    /// Something of this session's has run on a server.
    pub has_run: bool,
    pub policy: Policy,
    /// As configured, for `SET pgpilot.consistency TO DEFAULT`.
    pub configured: Policy,
    /// pgpilot's own settings that it was started with, which RESET goes back to.
    pub(super) own_at_start: OwnSettings,
    /// What it has set itself.
    pub own_consistency: Option<Consistency>,
    /// From `pgpilot.route`.
    pub hint: Option<Hint>,
    /// It has sent statements of pgpilot's own, maybe among others.
    pub has_own: bool,
    /// If pgpilot's own settings have been changed in the transaction at hand: what becomes of them.
    pub(super) afterwards: Option<Box<Afterwards>>,
    pub pins: Vec<Pin>,
    /// No other session's: the process number that its client was told.
    pub number: u32,
    /// Pins that are the session's own ways, and not something that the server knows of.
    pub standing_pins: Vec<Pin>,
    /// What it listens to, as the server has told: as long as it is not pinned by that, it is yet to be brought about.
    pub listening: Vec<String>,
    pub left: Leftovers,
    /// What it has changed of the catalogue, and may not be known yet.
    pub changed: Option<Change>,
    /// Where it last wrote.
    pub sequences_at: Option<Place>,
}

/// Which statements' bytes can be taken for what they look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texts {
    Legible,
    /// Those in ASCII: the client's encoding has quotes and backslashes within other characters.
    InAscii,
    /// Those without a backslash: `standard_conforming_strings` is off.
    Unescaped,
    /// Those for which both holds.
    UnescapedInAscii,
}

impl Texts {
    #[inline]
    pub(super) fn reads(self, text: &[u8]) -> bool {
        let (in_ascii, unescaped) = match self {
            Texts::Legible => return true,
            Texts::InAscii => (true, false),
            Texts::Unescaped => (false, true),
            Texts::UnescapedInAscii => (true, true),
        };
        (!in_ascii || text.is_ascii()) && (!unescaped || memchr::memchr(b'\\', text).is_none())
    }
}

/// Encodings whose characters' later bytes may be ASCII: those that only clients may use (documentation, "Supported Character Sets").
const AMBIGUOUS_ENCODINGS: [&str; 8] =
    ["BIG5", "GB18030", "GBK", "JOHAB", "SJIS", "SHIFT_JIS_2004", "UHC", "MULE_INTERNAL"];

/// It ends sessions, and not the server connections that they use in turns.
pub(super) const IDLE_LIMIT: &str = "idle_session_timeout";

/// What the statements since the last inventory may have left on the server connection.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    pub effects: Effects,
    pub names: Vec<Box<str>>,
    /// There is a DISCARD ALL or DEALLOCATE ALL among them.
    pub forgets_statements: bool,
    /// There is a RESET among them: it knows nothing of the session's start-up settings.
    pub resets: bool,
    /// One of these stood in a Query that failed: nobody knows whether before or behind the error.
    pub may_have_forgotten: bool,
}

/// The client's transaction, as the client sees it.
#[derive(Debug)]
pub(super) enum Transaction {
    Idle,
    /// BEGIN has been answered and not been sent: the first statement takes it along.
    Deferred(Deferred),
    Open,
    Failed,
    /// Failed because its server was lost, or before there was one: the client has to end it, which needs no server.
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

impl Session {
    pub(super) fn new(startup: Settings, reported: Arc<ParameterMap>, policy: Policy) -> Self {
        let began_with = Beginning { settings: Arc::new(startup), parameters: reported.clone() };
        let mut session = Self {
            settings: began_with.settings.clone(),
            began_with,
            reported,
            defaults: Defaults::default(),
            idle_limit: None,
            texts: Texts::Legible,
            names: Names::default(),
            parsed: VecDeque::new(),
            untold: None,
            freshness: Freshness::default(),
            has_run: false,
            configured: policy.clone(),
            policy,
            own_at_start: OwnSettings::default(),
            own_consistency: None,
            hint: None,
            has_own: false,
            afterwards: None,
            pins: Vec::new(),
            number: 0,
            standing_pins: Vec::new(),
            listening: Vec::new(),
            left: Leftovers::default(),
            changed: None,
            sequences_at: None,
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
        self.idle_limit = self.settings.get(IDLE_LIMIT).and_then(milliseconds).filter(|limit| !limit.is_zero());
        let reported = |name: &str| self.reported.get(name).unwrap_or("");
        let lexed_otherwise = reported("standard_conforming_strings") == "off";
        let encoding = reported("client_encoding");
        let ambiguous = AMBIGUOUS_ENCODINGS.iter().any(|name| name.eq_ignore_ascii_case(encoding));
        self.texts = match (ambiguous, lexed_otherwise) {
            (false, false) => Texts::Legible,
            (true, false) => Texts::InAscii,
            (false, true) => Texts::Unescaped,
            (true, true) => Texts::UnescapedInAscii,
        };
    }

    /// Who statements run as: `user` has logged in.
    pub(super) fn role<'a>(&'a self, user: &'a str) -> &'a str {
        let taken = self.settings.get("role").filter(|role| *role != "none");
        taken.or_else(|| self.settings.get("session_authorization")).unwrap_or(user)
    }

    /// The `search_path`, if the session has set it, or the server reports it, as PostgreSQL 18 does.
    pub(super) fn search_path(&self) -> Option<&str> {
        self.settings.get("search_path").or_else(|| self.reported.get("search_path"))
    }

    /// What the names in a statement mean depends on this: two sessions share a prepared statement only if they agree.
    /// `effects`: of the statements that are looked at together with it.
    pub(super) fn naming_context(&self, effects: Effects) -> String {
        // Names are looked up, and literals turned into values, when a statement is parsed: by settings of which nobody has the complete list.
        let settings =
            self.settings.iter().filter(|(name, _)| !matches!(*name, "application_name" | "statement_timeout"));
        let mut context = String::new();
        for (name, value) in settings {
            context.extend([name, "=", value, "\0"]);
        }
        // A temporary object comes before all others of its name, and nobody else has it.
        let hides = [Pin::TemporaryObject, Pin::SessionMode].iter().any(|pin| self.pins.contains(pin));
        // What has been made, and not been asked for yet, may be one.
        let made = self.left.effects.intersects(Effects::PINS | Effects::UNPINS)
            || effects.contains(Effects::PINS)
            || effects.contains(Effects::DDL);
        if hides || made {
            let _ = write!(context, "{}", self.number);
        }
        context
    }

    /// Whether what it may have left on its connection stays there, whatever is discarded.
    pub(super) fn marks_its_connection(&self) -> bool {
        self.left.effects.intersects(Effects::LASTS) || self.pins.iter().any(|pin| pin.outlives_discard())
    }

    /// From the next inventory on, this is among the pins.
    pub(super) fn pins_stand(&mut self, pin: Pin) {
        if !self.standing_pins.contains(&pin) {
            self.standing_pins.push(pin);
        }
    }

    /// From now on the session keeps its connection.
    pub(super) fn pin_for_good(&mut self, pin: Pin) {
        if !self.standing_pins.contains(&pin) {
            self.standing_pins.push(pin);
            self.pins.push(pin);
        }
    }

    /// A batch has been answered, and there is no transaction any more.
    pub(super) fn heed_end(&mut self, link: &Link, shared: &Arc<Shared>, database: &str) {
        // Before the client hears of it: whoever is told by the client finds it so.
        self.changed = shared.heed_ddl(self.left.effects, database).or(self.changed);
        if link.dues.is_empty() {
            self.left.effects.remove(Effects::DDL | Effects::DEFAULTS);
        }
        if link.failed {
            self.did_not_commit();
        }
    }

    pub(super) fn note_left(&mut self, needs: &mut Needs) {
        self.left.effects |= needs.effects;
        self.left.names.append(&mut needs.names);
        self.left.forgets_statements |= needs.forgets_statements;
        self.left.resets |= needs.resets;
    }
}

/// Effects after which only the server knows what there is.
const ASKED_FOR: Effects = Effects::SETTINGS.union(Effects::PINS).union(Effects::UNPINS).union(Effects::LASTS);

impl Leftovers {
    /// Whether the server has to be asked what the session has left.
    pub(super) fn need_inventory(&self) -> bool {
        !self.names.is_empty() || self.effects.intersects(ASKED_FOR)
    }

    /// Whether the server is asked only to be sure: a relation was named that nothing is known of, one just made, most
    /// likely; or something was made that may be temporary without being called that.
    pub(super) fn is_suspicion(&self) -> bool {
        let suspected = Effects::STRANGE_RELATION.union(Effects::SETTINGS);
        let is_strange =
            self.effects.contains(suspected) && !self.effects.intersects(Effects::PINS.union(Effects::LASTS));
        let is_new = self.effects & ASKED_FOR == Effects::UNPINS && self.names.is_empty();
        (is_strange || is_new) && !self.resets
    }
}

impl Transaction {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Transaction::Idle)
    }
}
