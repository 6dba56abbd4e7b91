//! What the probes report, and what follows from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{LagLimits, NodeName};
use crate::decide::position::{Fork, Lsn, Timeline, WalGeometry};
use crate::decide::route::{Code, Lag, NodeId, Role, State, Trouble};

/// Something that was learnt of the cluster. `asked_at` is when the question was sent.
#[allow(clippy::large_enum_variant, reason = "one at a time, used up at once: nothing is gained by an allocation each")]
#[derive(Debug, Clone)]
pub enum Event {
    /// The nodes as the topology file now lists them.
    Configured(Vec<NodeSpec>),
    /// A node answered the whole probe.
    Answered {
        node: NodeId,
        asked_at: Instant,
        answer: Box<Answer>,
    },
    /// A node answered the short question that is asked in between.
    Sampled {
        node: NodeId,
        asked_at: Instant,
        progress: Progress,
    },
    Failed {
        node: NodeId,
        failure: Failure,
    },
    /// Whether a node that answers on the kept connection takes new ones, too.
    Knocked {
        node: NodeId,
        door: Door,
    },
    /// An operator takes a node out, or puts it back.
    Drained {
        node: NodeId,
    },
    Undrained {
        node: NodeId,
    },
    /// A change of primary begins: whoever writes waits, and nobody is followed until it ends.
    Held,
    /// It ends: the primary stays, or whoever is one by now is found as always.
    Released,
    /// It ends: `node` is the primary of `epoch`, and writes `timeline`.
    Appointed {
        node: NodeId,
        epoch: u64,
        timeline: Timeline,
    },
    /// Where the timelines of this cluster's history began, as far as that is known.
    Forked(Vec<Fork>),
    /// The primary had this epoch written down in its database: who has an older one has left before.
    Marked(u64),
    /// Several instances have decided that `node` is the primary of `epoch`, and writes `timeline`: nobody else is followed
    /// until they decide otherwise. A change that was under way has ended.
    Recorded {
        node: NodeId,
        epoch: u64,
        timeline: Timeline,
    },
    /// Only this node may be followed; `None`: any, as the nodes themselves tell.
    Bound {
        node: Option<NodeId>,
    },
    /// This instance has no lease: it sends nothing to the primary.
    Barred,
    Admitted,
    /// The node that was the primary, and the timeline that it wrote, when this was last written down. Comes before
    /// anybody is followed.
    Remembered {
        node: NodeId,
        timeline: Timeline,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Door {
    #[default]
    Open,
    /// Its postmaster does not answer. Its sessions go on: it is no lost node, but one that somebody should look at.
    Shut,
}

/// A node as the topology file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSpec {
    pub name: NodeName,
    /// Host and port: under another address, the same name is another server.
    pub address: Arc<str>,
    pub zone: Option<Arc<str>>,
    pub weight: u32,
    /// How far behind it may be.
    pub lag: LagLimits,
}

/// The answer to the whole probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub system_identifier: u64,
    /// `server_version_num`: 150004 is 15.4.
    pub server_version: u32,
    pub timeline: Timeline,
    pub wal: WalGeometry,
    pub stage: Stage,
    /// On a primary: where its recovery ended, if it was promoted since it was started, or recovered from a crash then.
    pub recovered: Option<Lsn>,
    /// Under which name it is listed in its primary's `synchronous_standby_names`.
    pub standby_name: String,
    /// Its own `synchronous_standby_names`; counts on a primary.
    pub synchronous: String,
    /// If that counts any standby: what those are called that stream from it; empty, if the probing role may not see it.
    pub standbys: Vec<String>,
    /// The newest epoch that is written down in its database; 0: none.
    pub marked: u64,
}

/// Which side of replication a node is on.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    Writable { insert: Lsn, flush: Lsn },
    Recovering(Recovery),
}

/// What a replica says of itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recovery {
    /// The end of the last record it replayed; `None`: nothing yet since its start.
    pub replay: Option<Lsn>,
    /// The end of what it received and flushed; `None`: it has not streamed since its start.
    pub receive: Option<Lsn>,
    pub applying: Applying,
    /// `None`: no receiver is running.
    pub receiver: Option<Receiver>,
    /// `recovery_min_apply_delay`; zero: none.
    pub apply_delay: Duration,
    /// `wal_receiver_timeout`; zero: never.
    pub receiver_timeout: Duration,
}

/// What a replica's replay is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Applying {
    #[default]
    Busy,
    /// It has replayed every whole record that it received, and waits for more.
    Waiting,
    /// `pg_wal_replay_pause()`, or the end of a recovery target.
    Paused,
}

/// A running WAL receiver.
#[derive(Debug, Clone, PartialEq)]
pub struct Receiver {
    /// As in `pg_stat_wal_receiver.status`; empty when the probing role may not see it.
    pub status: String,
    /// Since the last message of its sender, by the replica's own clock.
    pub silent_for: Option<Duration>,
    /// Host and port from which it streams, as its `primary_conninfo` names them.
    pub sender: Option<(String, u16)>,
}

/// The answer to the short question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Written { insert: Lsn, flush: Lsn },
    Replayed(Lsn),
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens, or the host cannot be reached.
    Refused,
    /// The kept connection broke.
    Lost,
    Timeout,
    /// A server process answered with an error: the node is alive, whatever it cannot do.
    Alive(Code),
}

impl Failure {
    /// What the failure says of the node.
    pub fn trouble(self) -> Trouble {
        match self {
            Self::Refused => Trouble::Refused,
            Self::Lost => Trouble::Lost,
            Self::Timeout => Trouble::Timeout,
            Self::Alive(Code(code)) => match &code {
                b"57P03" => Trouble::Starting,
                b"53300" => Trouble::Crowded,
                _ => Trouble::Denied(Code(code)),
            },
        }
    }
}

/// What to do and to say after an event.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actions {
    /// For the log and for the operator, in order.
    pub changes: Vec<Change>,
    /// Nodes to ask again now, without waiting for the interval.
    pub probe: Vec<NodeId>,
}

/// A change that operators care about.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The cluster follows this primary from now on.
    Following {
        node: NodeId,
        epoch: u64,
        timeline: Timeline,
    },
    /// The primary became a replica or left the topology, and no other is known.
    Leaderless {
        was: NodeId,
    },
    /// The primary came back without the end of its log: what depended on that is void. The epoch has grown.
    LogLost {
        node: NodeId,
        epoch: u64,
        from: Lsn,
        to: Lsn,
    },
    /// The primary was promoted to the same timeline as the one before, without having seen all that one's log.
    LogLeft {
        node: NodeId,
        was: NodeId,
        /// Up to where they share it.
        kept: Lsn,
        end: Lsn,
    },
    /// Several writable nodes, or nodes of several clusters, and nothing says which is the primary.
    Contested {
        nodes: Vec<NodeId>,
    },
    Role {
        node: NodeId,
        from: Role,
        to: Role,
    },
    State {
        node: NodeId,
        from: State,
        to: State,
        trouble: Option<Trouble>,
    },
    /// Reads leave a replica because of its lag, or because its lag is no longer known.
    Lagging {
        node: NodeId,
        lag: Lag,
    },
    /// Reads return to a replica.
    CaughtUp {
        node: NodeId,
        lag: Lag,
    },
}
