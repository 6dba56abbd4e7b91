//! What routing knows of the cluster: one immutable value, replaced as a whole.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{LagLimits, NodeName};
use crate::decide::position::{Fork, Lsn, Timeline, WalGeometry};

/// A node's number while pgpilot runs: stable across reloads for the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// The cluster as the probes last saw it.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Grows with each change of primary.
    pub epoch: u64,
    /// The node that this cluster follows; it may be down. `None`: not discovered yet, or demoted without a successor.
    pub primary: Option<NodeId>,
    pub writes: Writes,
    /// The history that the primary of this epoch writes, and that `marks` belong to.
    pub timeline: Timeline,
    /// What all of the cluster's logs are divided into.
    pub wal: WalGeometry,
    /// Indexed by `NodeId`. A node removed by a reload stays, with `State::Removed`.
    pub nodes: Vec<NodeView>,
    /// What the primary of this epoch said of its log, newest last, bounded.
    pub marks: Vec<PrimaryMark>,
    /// Where the recovery ended of the node that is the primary now: what earlier timelines have behind it was left. For
    /// those who did not see it happen; a primary that has been started again since then does not know any more.
    pub recovered: Option<Lsn>,
    /// Where later timelines began, by the record of those changes of primary that pgpilot has carried out.
    pub forks: Arc<[Fork]>,
    /// Logs of earlier primaries, the last ones, newest last.
    pub ended: Arc<[EndedLog]>,
}

impl Snapshot {
    pub fn node(&self, id: NodeId) -> Option<&NodeView> {
        self.nodes.get(usize::from(id.0))
    }

    /// The primary, if statements may be sent to it now. One that is merely slow to answer is used; one that is
    /// restarting, or that nobody reaches, is waited for.
    pub fn usable_primary(&self) -> Option<&NodeView> {
        if self.writes == Writes::Held {
            return None;
        }
        let node = self.node(self.primary?)?;
        let usable = match node.state {
            State::Up => true,
            State::Suspect => node.trouble == Some(Trouble::Timeout),
            State::Unknown | State::Down | State::Quarantined | State::Removed => false,
        };
        usable.then_some(node)
    }
}

/// Whether the primary gets statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Writes {
    #[default]
    Open,
    /// A change of primary is under way: they wait for its end.
    Held,
}

/// The log of a primary that is followed no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedLog {
    pub epoch: u64,
    pub timeline: Timeline,
    /// What its primary said of it, newest last.
    pub marks: Vec<PrimaryMark>,
    /// Up to where its successor's history has it: what lies behind this switch point is lost. `None`: not known yet.
    pub kept: Option<Lsn>,
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
    /// Why it is not `Up`, or not used though it is.
    pub trouble: Option<Trouble>,
    /// Grows when the node may have gone back in time: its control connection was lost, so its server may have crashed,
    /// and a replica that crashed comes back at an older position than it had shown. A position known of one
    /// incarnation says nothing of another.
    pub incarnation: u32,
    /// The newest answer to "how far have you replayed" (a replica) or "how far have you written" (a primary).
    pub position: Option<Sample>,
    pub lag: Lag,
    /// How far behind it may be.
    pub limits: LagLimits,
    /// Whether hysteresis currently lets reads in; always false for a node that was never measured.
    pub fresh: bool,
    /// Taken out by an operator: gets no reads, and others are rather made the primary. A primary
    /// keeps getting what only it can do.
    pub drained: bool,
}

impl NodeView {
    /// A node that nothing is known of yet.
    pub fn new(id: NodeId, name: NodeName) -> Self {
        Self {
            id,
            name,
            zone: None,
            weight: 1,
            role: Role::Unknown,
            state: State::Unknown,
            trouble: None,
            incarnation: 0,
            position: None,
            lag: Lag::default(),
            limits: LagLimits::by_time(Duration::MAX, Duration::MAX),
            fresh: false,
            drained: false,
        }
    }
}

impl NodeView {
    /// What keeps reads from a replica that lags; `None`: it is let in.
    pub fn excess(&self) -> Option<Excess> {
        if self.fresh {
            return None;
        }
        let late = self.lag.time.is_some_and(|time| time > self.limits.recovery);
        let long = self.lag.bytes.zip(self.limits.bytes).is_some_and(|(bytes, limits)| bytes > limits.recovery.0);
        Some(match (late, long) {
            (true, true) => Excess::Both,
            (true, false) => Excess::Time,
            (false, true) => Excess::Bytes,
            (false, false) => Excess::Unknown,
        })
    }
}

/// By which measure a replica is too far behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    Time,
    Bytes,
    Both,
    /// It was not measured, or not since it was lost.
    Unknown,
}

impl Excess {
    /// Stable, as [`Role::label`].
    pub fn label(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Bytes => "bytes",
            Self::Both => "time and bytes",
            Self::Unknown => "not measured",
        }
    }
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
    /// It answers, and has writes that the primary lacks, or may get some: nothing is sent there.
    Quarantined,
    /// No longer in the topology file.
    Removed,
}

impl Role {
    /// Stable: a metric label, and part of the console's output.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Stray => "stray",
        }
    }
}

impl State {
    /// Stable, as [`Role::label`].
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Quarantined => "quarantined",
            Self::Removed => "removed",
        }
    }
}

/// What is wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody listens there, or the network says so.
    Refused,
    /// A connection to it broke.
    Lost,
    /// No answer in time.
    Timeout,
    /// 57P03: starting up, recovering from a crash, or shutting down.
    Starting,
    /// 53300: no connection is left for the probe. It is alive.
    Crowded,
    /// The probe is refused with this SQLSTATE: a login, a privilege or a database is missing. It is alive.
    Denied(Code),
    /// It answers, but new connections to it are not: its postmaster hangs.
    DoorShut,
    /// It belongs to another cluster: its system identifier differs.
    ForeignSystem { found: u64, expected: u64 },
    /// It is writable, and another node is this cluster's primary.
    SecondPrimary,
    /// It has replayed log behind this fork that is not part of the primary's history.
    Diverged(Fork),
    /// It is writable, and so is another, and nothing says which of them is the primary.
    Contested,
}

/// The five characters of a SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub [u8; 5]);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or("?????"))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Lost => f.write_str("connection lost"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Starting => f.write_str("starting up or shutting down (57P03)"),
            Self::Crowded => f.write_str("alive, but has no connection left for the probe (53300)"),
            Self::Denied(code) => write!(f, "alive, but refuses the probe ({code})"),
            Self::DoorShut => f.write_str("answers, but takes no new connections"),
            Self::ForeignSystem { found, expected } => {
                write!(f, "belongs to another cluster: system identifier {found}, expected {expected}")
            }
            Self::SecondPrimary => f.write_str("writable, but not the primary that this cluster follows"),
            Self::Diverged(Fork { timeline, at }) => {
                write!(f, "has log of its own behind {at}, where timeline {} began: to be copied anew", timeline.0)
            }
            Self::Contested => f.write_str("writable like another node, and nothing says which is the primary"),
        }
    }
}

/// How far a replica is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Bytes of log between the primary's newest mark and the replica's replay position; `None`: not measured.
    pub bytes: Option<u64>,
    /// How long ago the primary was where the replica is now; zero when it has caught up. At least so long, when the
    /// replica is further back than this instance has known the primary. `None`: not measured.
    pub time: Option<Duration>,
}
