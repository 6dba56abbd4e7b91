//! What the console and the HTTP endpoint need of the rest of pgpilot.

use std::net::IpAddr;
use std::pin::Pin as Pinned;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::decide::failover::{Maintenance, Order};
use crate::decide::pool::PoolCounts;
use crate::decide::route::{NodeId, Snapshot};
use crate::decide::session::Pin;
use crate::decide::sql::{CatalogueSize, Classified, Reason};
use crate::telemetry::{Journal, Telemetry};
use crate::wire::SqlState;

/// A running pgpilot, as seen by its operators. Everything but [`perform`](Sources::perform) answers at once, from memory.
pub trait Sources: Send + Sync + 'static {
    fn telemetry(&self) -> &Telemetry;

    fn journal(&self) -> &Journal;

    /// The settings in force.
    fn config(&self) -> Arc<Config>;

    fn snapshot(&self) -> Arc<Snapshot>;

    /// What is known of a node besides the snapshot.
    fn node(&self, id: NodeId) -> NodeFacts;

    fn pools(&self) -> Vec<PoolRow>;

    fn clients(&self) -> Vec<ClientRow>;

    /// Clients that wait for a primary.
    fn held(&self) -> usize;

    /// Server connections one by one.
    fn servers(&self) -> Vec<ServerRow>;

    /// The verdict that a statement of `user` in `database` would get now, in a session that has set nothing.
    fn classify(&self, sql: &str, user: &str, database: &str) -> Explained;

    /// What came more than once, and where it went.
    fn shapes(&self) -> Vec<ShapeRow>;

    /// What is known of each database's functions and relations.
    fn catalogues(&self) -> Vec<CatalogueRow>;

    fn service(&self) -> Service;

    fn failover(&self) -> FailoverStatus;

    /// Those before the same nodes that agree with this one, and itself.
    fn instances(&self) -> Vec<InstanceRow>;

    /// For how long this instance may write if it cannot renew its lease; `None`: it needs none.
    fn lease(&self) -> Option<Duration>;

    /// Does what an operator asks for, and returns when it is done: `Pause` when no statement runs any more, `Reload`
    /// when the new settings are in force, `Order` when the new primary is open, or everything is as it was. `Shutdown` only
    /// begins.
    fn perform(&self, action: Action) -> Performed<'_>;
}

/// A verdict, and what it was given by.
#[derive(Debug, Clone)]
pub struct Explained {
    pub classified: Classified,
    /// With which the user's sessions begin; `None`: that is not known, and names may mean anything.
    pub search_path: Option<String>,
}

/// The answer to an [`Action`], to be awaited. Dropped, the action may or may not be carried out; it is never left half-done.
/// An order that has begun goes on when nobody waits for it any more.
pub type Performed<'a> = Pinned<Box<dyn Future<Output = Result<Outcome, Refused>> + Send + 'a>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// No new reads for this node.
    Drain(NodeId),
    Undrain(NodeId),
    /// No statement is sent to any server until `Resume`; clients wait.
    Pause,
    Resume,
    /// Reads the topology file again.
    Reload,
    /// As SIGTERM: clients may finish their transactions within `drain_timeout`.
    Shutdown,
    /// Who shall be the primary. The notices of a dry run say what would be done, a step each.
    Order(Order),
}

/// It is done; what the operator should know of it, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    pub notices: Vec<String>,
}

/// It was not done, and nothing has changed; or it is not done yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// 55000: not in this state: paused already, draining.
    #[error("{0}")]
    State(String),
    /// F0000: the topology file cannot be used; every problem on a line.
    #[error("the topology file cannot be used:\n{0}")]
    Config(String),
    /// 57014: an order has begun, and was waited for long enough. It goes on.
    #[error("still running, epoch {epoch}; SHOW FAILOVER and SHOW EVENTS tell how it goes on")]
    StillRunning { epoch: u64 },
}

impl Refused {
    pub fn sqlstate(&self) -> SqlState {
        match self {
            Self::State(_) => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Config(_) => SqlState::CONFIG_FILE_ERROR,
            Self::StillRunning { .. } => SqlState::QUERY_CANCELED,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Running,
    Paused,
    /// On the way out: no new clients.
    Draining,
}

impl Service {
    pub fn label(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }
}

/// Who decides on the primary, and what is being done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverStatus {
    /// Whether a lost primary is replaced without being asked for.
    pub automatic: bool,
    pub maintenance: Maintenance,
    /// One word, lower-case: a label of metrics.
    pub state: String,
    /// Of the last decision.
    pub epoch: u64,
    /// Which node is, or was last, to be promoted.
    pub candidate: Option<NodeId>,
    /// How long it has been in this state.
    pub since: Option<Duration>,
    /// How the last change of primary ended.
    pub last: Option<String>,
    /// Why it is in this state.
    pub reason: Option<String>,
}

/// One of several instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow {
    /// `None`: it is alone.
    pub number: Option<u16>,
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    pub version: String,
    /// The epoch of the last change of primary that it has acknowledged.
    pub acknowledged: u64,
    pub standing: InstanceStanding,
    pub is_this: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceStanding {
    Alone,
    /// It decides.
    Leader,
    Follower,
}

impl InstanceStanding {
    pub fn label(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Leader => "leader",
            Self::Follower => "follower",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// Host and port.
    pub address: String,
    /// `server_version_num`; `None`: it has not answered yet.
    pub server_version: Option<u32>,
    /// Statements under way.
    pub outstanding: u32,
    /// Connections opened, and attempts that failed, since the start.
    pub dials: u64,
    pub dial_failures: u64,
}

/// Statements of one database that are the same but for their literals, and went one way for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeRow {
    pub database: Arc<str>,
    pub outline: String,
    /// They went to replicas.
    pub offloaded: bool,
    pub reason: Reason,
    pub statements: u64,
    /// In all.
    pub time: Duration,
    /// What keeps them on the primary.
    pub object: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueRow {
    pub database: Arc<str>,
    /// `None`: not loaded yet.
    pub size: Option<CatalogueSize>,
    /// Why the last load failed, if it did.
    pub trouble: Option<Arc<str>>,
}

impl CatalogueRow {
    /// Every [`state`](Self::state) that there is.
    pub const STATES: [&str; 3] = ["loaded", "loading", "failing"];

    pub fn state(&self) -> &'static str {
        match (&self.trouble, self.size) {
            (Some(_), _) => "failing",
            (None, Some(_)) => "loaded",
            (None, None) => "loading",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRow {
    pub node: NodeId,
    pub user: Arc<str>,
    pub database: Arc<str>,
    pub counts: PoolCounts,
}

#[derive(Debug, Clone)]
pub struct ClientRow {
    /// The process id that the client was told.
    pub pid: u32,
    pub user: Arc<str>,
    pub database: Arc<str>,
    /// `None`: a Unix socket.
    pub address: Option<IpAddr>,
    pub application: Arc<str>,
    pub since: Instant,
    /// Where its server connection is, if it has one.
    pub node: Option<NodeId>,
    pub pins: Vec<Pin>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRow {
    pub node: NodeId,
    pub user: Arc<str>,
    pub database: Arc<str>,
    pub state: ServerState,
    /// The server's own process id, as in `pg_stat_activity.pid`, where it is known.
    pub backend: Option<u32>,
    /// Since it was opened, where that is known.
    pub age: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    Idle,
    /// In use by the client with this process id, if it is known.
    Leased(Option<u32>),
}
