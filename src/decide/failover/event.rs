//! What the failover machine hears, and what it asks for.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Log, Order, Record, World};
use crate::decide::position::{Lsn, Timeline};
use crate::decide::route::NodeId;

/// Names an order until it is answered.
pub type Ticket = u64;

#[derive(Debug, Clone)]
pub enum Event {
    /// What was written down last: this instance decides from now on. A single one does so from its start.
    Restored(Record),
    /// Another instance decides, or none: this is what was decided last. To be told at the start, when there is news, and
    /// when this instance decides no longer; jobs that are under way have been given up.
    Followed(Record),
    /// The cluster as it is now. To be told when it changes, and when [`Actions::wake`] has come.
    Seen(World),
    /// A job has ended.
    Ended {
        job: Job,
        outcome: Outcome,
    },
    /// What was to be written down could not be, and why.
    NotRecorded(Writing, String),
    Ordered {
        order: Order,
        ticket: Ticket,
    },
}

/// What a job came to; an error is for operators.
pub type Outcome = Result<Fact, String>;

/// Something to be done, by SQL, by a hook, or inside pgpilot. Each ends in time, may be done again, and does no harm if
/// it was done before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// The hook that may forbid a promotion.
    Approve { old: NodeId, candidate: Option<NodeId> },
    /// Does what makes a switchover short, while all goes on, and finds out whether it would be. `sender`: the replica
    /// that `to` streams from; it is made to stream from `node` first.
    Ready { node: NodeId, to: NodeId, sender: Option<NodeId> },
    /// Closes this instance's connections to a node, also those in use.
    Sever { node: NodeId },
    /// Waits until every other instance has acknowledged that nothing of it writes to the node any more, or is gone.
    Agree { node: NodeId },
    /// Makes sure that a node accepts no commit any more.
    Fence { node: NodeId },
    /// Cuts a replica off from its sender, so that its log does not grow any more.
    Seal { node: NodeId },
    /// Undoes that: it follows whom it followed.
    Unseal { node: NodeId },
    /// Waits until no transaction of a client runs on the node.
    Quiesce { node: NodeId },
    /// Ends the primary's work for good, or until it is resumed: shut down by a hook, or read-only and without sessions.
    Stop { node: NodeId, to: NodeId },
    /// Undoes that.
    Resume { node: NodeId },
    /// Waits until a replica has this much of the log.
    CatchUp { node: NodeId, lsn: Option<Lsn> },
    /// Makes a replica the primary, and waits until it is.
    Promote { node: NodeId },
    /// Makes a replica follow the primary; ends when it streams.
    Follow { node: NodeId, primary: NodeId },
    /// Brings a node that has been a primary back as a replica: fenced first, then by the hook.
    Rejoin { node: NodeId, primary: NodeId },
    /// Tells the hook that there is a new primary.
    Announce { old: NodeId, primary: NodeId },
}

/// What a job that succeeded found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    Done,
    Fenced(Proof),
    /// Its log is complete, or at rest.
    Sealed(Log),
    /// The primary has stopped, and this is the end of its log; `None`: it was shut down, so its replicas have all of it.
    Stopped(Option<Lsn>),
    Promoted {
        system: u64,
        timeline: Timeline,
        /// Where the new timeline begins.
        switched_at: Lsn,
    },
}

/// How sure it is that a node accepts no commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A hook has answered for it.
    Proven,
    /// What could be done was done: it may still accept commits of others.
    Attempted,
}

/// What is to be done, in this order: `record` is written down, then `routing`, `jobs` and the rest are carried out.
#[derive(Debug, Clone, Default)]
pub struct Actions {
    pub record: Option<Writing>,
    pub routing: Option<Routing>,
    pub jobs: Vec<Job>,
    pub notes: Vec<Note>,
    pub answers: Vec<(Ticket, Result<String, String>)>,
    /// A change of primary is over, or was refused.
    pub ended: Option<(Purpose, Ended)>,
    /// The instance that decides is to be told that this one writes nothing any more, as this epoch's change asks.
    pub acknowledge: Option<u64>,
    /// When to report [`Event::Seen`] again, unless something else comes first.
    pub wake: Option<Instant>,
}

/// Something to be written down. If that fails, [`Event::NotRecorded`] is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writing {
    /// It permits what comes with it: without it, nothing of that is done.
    First(Record),
    /// What comes with it is done all the same.
    Also(Record),
}

/// Where statements for the primary go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// Nowhere: they wait.
    Hold,
    /// To the primary, as always.
    Release,
    /// To this node, which is the primary of `epoch`.
    Appoint { node: NodeId, epoch: u64, timeline: Timeline },
    /// .. and to no other, whatever the nodes say: so it was decided elsewhere.
    Follow { node: NodeId, epoch: u64, timeline: Timeline },
}

/// Why the primary is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Purpose {
    /// The old primary is lost.
    #[default]
    Failover,
    /// It hands over.
    Switchover,
    /// Somebody else has promoted a node, and the old primary is lost, or none any more.
    Adoption,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// There is a new primary.
    Done,
    /// The old one stays, as it was before.
    CalledOff,
    /// A guard stood in the way: nothing was begun.
    Refused,
    /// Given up half-way: somebody has to see to it.
    Failed,
}

/// Something that operators should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub severity: Severity,
    pub node: Option<NodeId>,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Info,
    /// Somebody should look at it now.
    Alarm,
}

impl Actions {
    pub(super) fn inform(&mut self, node: Option<NodeId>, text: impl Into<String>) {
        self.notes.push(Note { severity: Severity::Info, node, text: text.into() });
    }

    pub(super) fn alarm(&mut self, node: Option<NodeId>, text: impl Into<String>) {
        self.notes.push(Note { severity: Severity::Alarm, node, text: text.into() });
    }
}
