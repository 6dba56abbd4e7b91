//! The vocabulary of classification.

use std::ops::Range;

use super::placeholders::placeholders;
use crate::config::Consistency;

/// The verdict on one text as a client sent it: one entry per statement, in order; none for an empty query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classified {
    pub statements: Box<[Verdict]>,
}

/// What one statement asks for, and why pgpilot thinks so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub intent: Intent,
    pub reason: Reason,
    /// The function, relation, setting, ... that decided, where there is one.
    pub object: Option<Box<str>>,
    pub effects: Effects,
    /// What the comments around it ask for.
    pub hints: Hints,
    pub depends: Depends,
    /// Session settings that functions in the statement change by name (`set_config('x', .., false)`); SET names its own in the intent.
    pub settings: Box<[Box<str>]>,
}

impl Verdict {
    pub fn new(intent: Intent, reason: Reason) -> Self {
        Verdict {
            intent,
            reason,
            object: None,
            effects: Effects::empty(),
            hints: Hints::default(),
            depends: Depends::empty(),
            settings: Box::default(),
        }
    }

    /// The verdict on what pgpilot cannot look into: the primary, and whatever a statement could leave behind.
    pub fn opaque(reason: Reason) -> Self {
        Verdict::new(Intent::Write, reason).with(Effects::ANYTHING)
    }

    fn distrust(&mut self) {
        match &mut self.intent {
            Intent::Read if self.reason != Reason::Show => {
                (self.intent, self.reason) = (Intent::Write, Reason::NoCatalogue);
            }
            Intent::Prepare { statement, .. } => return statement.distrust(),
            Intent::Write => {}
            _ => return,
        }
        self.effects |= Effects::STRANGE_RELATION;
    }

    #[must_use]
    pub fn with(mut self, effects: Effects) -> Self {
        self.effects |= effects;
        self
    }

    #[must_use]
    pub fn about(mut self, object: impl Into<Box<str>>) -> Self {
        self.object = Some(object.into());
        self
    }
}

impl Classified {
    /// What is left of it where nothing is known of the database: no read is certain to be one.
    #[must_use]
    pub fn without_catalogue(mut self) -> Self {
        self.statements.iter_mut().for_each(Verdict::distrust);
        self
    }

    /// What any of its verdicts depends on.
    pub fn depends(&self) -> Depends {
        self.statements.iter().fold(Depends::empty(), |all, verdict| all | verdict.depends)
    }

    /// One verdict for a whole text that cannot be classified.
    pub fn opaque(reason: Reason) -> Self {
        Classified { statements: Box::new([Verdict::opaque(reason)]) }
    }

    /// The verdict on a text whose bytes may mean something else than they look like: of what it sets, the names are guessed.
    pub fn illegible(text: &[u8]) -> Self {
        let settings = placeholders(&String::from_utf8_lossy(text)).into();
        Classified { statements: Box::new([Verdict { settings, ..Verdict::opaque(Reason::Encoding) }]) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// May run on any node.
    Read,
    /// Needs the primary.
    Write,
    /// BEGIN, START TRANSACTION.
    Begin(TransactionMode),
    /// COMMIT, END, ROLLBACK, ABORT.
    End(TransactionEnd),
    /// SAVEPOINT, RELEASE, ROLLBACK TO, SET TRANSACTION, SET CONSTRAINTS, FETCH, MOVE, CLOSE, ..: goes where the open transaction is; without one to the primary.
    WithinTransaction,
    Savepoint(Savepoint),
    /// SET, RESET, SET ROLE, SET SESSION AUTHORIZATION, SET SESSION CHARACTERISTICS, DISCARD: the session's state on whichever server it has.
    Session(SessionCommand),
    /// PREPARE name AS ..; `statement` is the verdict on what is prepared; `name_at` is where the name (with its quotes) stands in the text.
    Prepare {
        name: Box<str>,
        name_at: Range<usize>,
        statement: Box<Verdict>,
    },
    /// EXECUTE name (also in EXPLAIN EXECUTE and CREATE TABLE AS EXECUTE, whose own intent the effects carry as `Effects::WRITES`).
    Execute {
        name: Box<str>,
        name_at: Range<usize>,
    },
    /// DEALLOCATE name; `None` is ALL.
    Deallocate {
        name: Option<Box<str>>,
    },
    /// `SHOW pgpilot.x`, `SET pgpilot.x = '..'`: answered by pgpilot itself.
    Own(OwnCommand),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransactionMode {
    pub access: Option<Access>,
    pub isolation: Option<Isolation>,
    pub deferrable: bool,
}

impl TransactionMode {
    /// Whether a standby takes it as well, by default as one that only reads, and each statement sees what is new.
    pub fn is_plain(self) -> bool {
        let isolation = self.isolation.is_none_or(|level| level == Isolation::ReadCommitted);
        isolation && self.access.is_none() && !self.deferrable
    }

    /// The text that begins such a transaction.
    pub fn begin(self) -> String {
        let isolation = match self.isolation {
            Some(Isolation::ReadUncommitted) => " ISOLATION LEVEL READ UNCOMMITTED",
            Some(Isolation::ReadCommitted) => " ISOLATION LEVEL READ COMMITTED",
            Some(Isolation::RepeatableRead) => " ISOLATION LEVEL REPEATABLE READ",
            Some(Isolation::Serializable) => " ISOLATION LEVEL SERIALIZABLE",
            None => "",
        };
        let access = match self.access {
            Some(Access::ReadOnly) => " READ ONLY",
            Some(Access::ReadWrite) => " READ WRITE",
            None => "",
        };
        let deferrable = if self.deferrable { " DEFERRABLE" } else { "" };
        format!("BEGIN{isolation}{access}{deferrable}")
    }

    /// Whether all its statements see the same, as far as it says so itself.
    pub fn sees_one_snapshot(self) -> bool {
        self.isolation.is_some_and(|level| matches!(level, Isolation::RepeatableRead | Isolation::Serializable))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionEnd {
    Commit,
    Rollback,
    /// COMMIT AND CHAIN: another one like it begins at once.
    CommitAndChain,
    RollbackAndChain,
}

impl TransactionEnd {
    pub fn commits(self) -> bool {
        matches!(self, Self::Commit | Self::CommitAndChain)
    }

    pub fn chains(self) -> bool {
        matches!(self, Self::CommitAndChain | Self::RollbackAndChain)
    }
}

/// SAVEPOINT, RELEASE and ROLLBACK TO, with the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Savepoint {
    Set(Box<str>),
    Release(Box<str>),
    RollBackTo(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionCommand {
    /// SET and its relatives. Names are lower-case and canonical: `SET TIME ZONE` is `timezone`, `SET NAMES` is `client_encoding`, `SET ROLE` is `role`,
    /// `SET SESSION AUTHORIZATION` is `session_authorization`, SESSION CHARACTERISTICS are `default_transaction_*`.
    Set {
        names: Box<[Box<str>]>,
        scope: SetScope,
    },
    /// RESET, and SET .. TO DEFAULT, which may be local.
    Reset {
        name: Box<str>,
        scope: SetScope,
    },
    ResetAll,
    DiscardAll,
    /// DISCARD PLANS, SEQUENCES, TEMP.
    DiscardSome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetScope {
    Session,
    /// SET LOCAL: gone at the end of the transaction.
    Local,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnCommand {
    /// `SHOW pgpilot.name`
    Show { name: Box<str> },
    /// `SET [LOCAL] pgpilot.name = value`; `None` is DEFAULT, and RESET. `at`: where a SET stands in the text; a RESET
    /// stands nowhere.
    Set { name: Box<str>, value: Option<Box<str>>, scope: SetScope, at: Range<usize> },
}

/// Where a hint comment or the setting `pgpilot.route` sends a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    Primary,
    Replica,
}

impl Hint {
    /// `primary` or `replica`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "primary" => Some(Self::Primary),
            "replica" => Some(Self::Replica),
            _ => None,
        }
    }
}

/// What comments ask for: `/* pgpilot: replica, consistency=eventual */`. On BEGIN it is for the whole transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints {
    pub route: Option<Hint>,
    /// What a read is promised, in place of what its session is.
    pub consistency: Option<Consistency>,
}

impl Hints {
    /// These, and what they leave open from `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self { route: self.route.or(others.route), consistency: self.consistency.or(others.consistency) }
    }
}

bitflags::bitflags! {
    /// What a statement may leave behind or depend on, besides its result.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Effects: u32 {
        /// May change session settings in a way its text does not name (set_config with computed arguments, DO, CALL, a function of unknown volatility).
        const SETTINGS = 1;
        /// May leave state on the server connection that cannot be replayed: temporary objects, session advisory locks, WITH HOLD cursors, LISTEN.
        const PINS = 1 << 1;
        /// May remove such state, or have made it where the text does not show it: the server has to be asked.
        const UNPINS = 1 << 2;
        /// May change the catalogue: cached verdicts and the catalogue may be stale.
        const CATALOGUE = 1 << 3;
        /// Reads the session's sequence state (currval, lastval).
        const SEQUENCE_STATE = 1 << 4;
        /// Has an effect on the node itself (pg_wal_replay_pause, pg_terminate_backend, ..): never sent twice.
        const NODE = 1 << 5;
        /// Is known to write (as opposed to: must be assumed to).
        const WRITES = 1 << 6;
        /// A comment is meant for pgpilot, and says something that it does not know.
        const HINT_UNKNOWN = 1 << 7;
        /// Reads from, or writes to, a relation of which nothing is known: that may change settings, unless it is a temporary table
        /// of the session's own.
        const STRANGE_RELATION = 1 << 8;
        /// COPY .. FROM STDIN: data follows from the client.
        const COPY_IN = 1 << 9;
        /// Cannot run inside a transaction block (VACUUM, CREATE DATABASE, ..), so it must be the only statement of its message.
        const ALONE = 1 << 10;
        /// Seeds random(), for as long as the server connection lives.
        const SEED = 1 << 11;
        /// Opens connections to other databases, of which no server tells (dblink).
        const CONNECTS = 1 << 12;
        /// Begins a backup, which ends with its server connection.
        const BACKUP = 1 << 13;
        /// Gives the server connection a replication origin.
        const ORIGIN = 1 << 14;
        /// Loads a library into the server process.
        const LIBRARY = 1 << 15;
        /// What only the end of the server connection takes away, and no server tells of.
        const LASTS = Self::SEED.bits() | Self::CONNECTS.bits() | Self::BACKUP.bits() | Self::ORIGIN.bits() | Self::LIBRARY.bits();
        /// Changes what sessions of a role, or in a database, begin with.
        const DEFAULTS = 1 << 16;
        /// Wants nobody to be connected to a database, which its object names.
        const VACATES = 1 << 17;
        /// Leaves nothing, but its result is another one at another moment or elsewhere: now(), random().
        const MOMENT = 1 << 18;
        /// Changes the catalogue for certain. Of a batch; of a single statement its reason says so.
        const DDL = 1 << 19 | Self::CATALOGUE.bits();
        /// After it, nothing is any different.
        const HARMLESS = Self::HINT_UNKNOWN.bits() | Self::MOMENT.bits();
        /// Leaves something on its server connection.
        const STAYS = Self::PINS.bits() | Self::LASTS.bits();
        /// What must be assumed of a statement that pgpilot does not understand.
        const ANYTHING = Self::SETTINGS.bits() | Self::PINS.bits() | Self::UNPINS.bits() | Self::CATALOGUE.bits();
    }
}

bitflags::bitflags! {
    /// What a verdict depends on besides the words of its text and the catalogue: with another of these it may be
    /// another one.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Depends: u8 {
        /// The session's `search_path`, and its role.
        const PATH = 1;
        /// The types that a Parse message gives its parameters.
        const PARAMETERS = 1 << 1;
        /// The types of constants, or what they say: texts of one shape need not share them.
        const LITERALS = 1 << 2;
        /// Which relations, types and operators are known: one that it names is not among them.
        const STRANGERS = 1 << 3;
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)*) => {
        /// Why a statement got its intent, or a batch its route. The label is stable: it is a metric label and part of the console's output.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $variant,)* }
        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];
            pub fn label(self) -> &'static str {
                match self { $(Reason::$variant => $label,)* }
            }
        }
    };
}

reasons! {
    /// A query without anything that needs the primary.
    PlainRead = "plain_read",
    /// INSERT, UPDATE, DELETE, MERGE, TRUNCATE, COPY FROM.
    Dml = "dml",
    /// A data-modifying CTE.
    DmlInCte = "dml_in_cte",
    Ddl = "ddl",
    /// FOR UPDATE and its relatives.
    RowLock = "row_lock",
    SelectInto = "select_into",
    /// A function that the catalogue or pgpilot's list says needs the primary.
    PrimaryFunction = "primary_function",
    /// A function, a type or an operator that the catalogue does not know, or no catalogue is loaded.
    UnknownFunction = "unknown_function",
    /// A relation that the catalogue does not have: a view made elsewhere, or a temporary table.
    UnknownRelation = "unknown_relation",
    /// The database's catalogue has not been loaded yet.
    NoCatalogue = "no_catalogue",
    /// The session has changed the catalogue, which has not been loaded since.
    CatalogueChanged = "catalogue_changed",
    /// A relation that only the primary answers rightly (pg_stat_*, sequences, unlogged and temporary tables, a view over them).
    PrimaryRelation = "primary_relation",
    /// The operators' lists in the topology file.
    ListedFunction = "listed_function",
    Unparsable = "unparsable",
    /// Larger than `routing.max_parse`.
    TooLarge = "too_large",
    /// Not valid UTF-8, or lexed under settings that pgpilot does not follow.
    Encoding = "encoding",
    /// No statement in the text.
    Empty = "empty",
    TransactionControl = "transaction_control",
    SessionState = "session_state",
    /// LISTEN, NOTIFY, LOCK, VACUUM, CHECKPOINT, DO, CALL, two-phase commands, ..
    Utility = "utility",
    /// SHOW of a setting.
    Show = "show",
    Explain = "explain",
    Prepared = "prepared",
    Hint = "hint",

    // Reasons that routing adds.
    /// The transaction's server keeps it.
    InTransaction = "in_transaction",
    /// A transaction that is not READ ONLY.
    ReadWriteTransaction = "read_write_transaction",
    ReadOnlyTransaction = "read_only_transaction",
    /// The session is pinned to a server connection.
    Pinned = "pinned",
    /// A part of an extended batch whose end is not known (Flush).
    OpenBatch = "open_batch",
    /// The session's mode is `primary`, or something that a transaction's replica cannot promise any more.
    Consistency = "consistency",
    /// No replica has reached the session's position yet.
    NotCaughtUp = "not_caught_up",
    /// Every replica is above `max_lag`.
    AllLagging = "all_lagging",
    /// No replica can be reached, or there is none.
    NoReplica = "no_replica",
    /// No primary is known.
    NoPrimary = "no_primary",
    /// In a transaction that may write, and has not: `routing.transactions` is "optimistic".
    Optimistic = "optimistic",
    /// It had been sent before: a replica refused it, or its server was lost.
    Retried = "retried",
    /// A replica refused this text before.
    Learned = "learned",
    FunctionCall = "function_call",
    /// `routing.mode` is "shadow": it would have gone to a replica.
    Shadow = "shadow",
}
