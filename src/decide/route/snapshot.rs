//! What routing knows of the cluster: one immutable value, replaced as a whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::NodeName;
use crate::decide::position::{Lsn, Timeline};

/// A node's number while pgpilot runs: stable across reloads for the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// The cluster as the probes last saw it.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Grows with each change of primary.
    pub epoch: u64,
    pub primary: Option<NodeId>,
    /// Indexed by `NodeId`. A node removed by a reload stays, with `State::Removed`.
    pub nodes: Vec<NodeView>,
    /// What the primary of this epoch said of its log, newest last, bounded.
    pub marks: Vec<PrimaryMark>,
}

/// Everything acknowledged by the primary before `asked_at` is at or before `lsn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrimaryMark {
    pub asked_at: Instant,
    pub lsn: Lsn,
}

#[derive(Debug, Clone)]
pub struct NodeView {
    pub id: NodeId,
    pub name: NodeName,
    pub zone: Option<Arc<str>>,
    pub weight: u32,
    pub role: Role,
    pub state: State,
    /// The newest answer to "how far have you replayed" (a replica) or "how far have you written" (a primary).
    pub position: Option<Sample>,
    pub lag: Lag,
    /// Whether hysteresis currently lets reads in; always false for a node that was never measured.
    pub fresh: bool,
    /// Taken out by an operator.
    pub drained: bool,
}

/// A node's position; `asked_at` is when the question was sent, so the position was reached by the time the answer came and not before it was asked in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub asked_at: Instant,
    pub timeline: Timeline,
    pub lsn: Lsn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Not discovered yet, or not this cluster's (another system identifier).
    Unknown,
    Primary,
    Replica,
    /// Writable, but not the primary that this cluster follows: never routed to.
    Stray,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not probed yet.
    Unknown,
    Up,
    /// The last probes failed, fewer than the threshold.
    Suspect,
    Down,
    /// No longer in the topology file.
    Removed,
}

/// How far a replica is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Bytes of log between the primary's newest mark and the replica's replay position; `None`: not measured.
    pub bytes: Option<u64>,
    /// How long ago the primary was where the replica is now; zero when it has caught up. `None`: not measured.
    pub time: Option<Duration>,
}
