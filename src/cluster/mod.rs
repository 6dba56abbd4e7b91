//! Knowing the cluster: probes the nodes and publishes the [`Snapshot`] that routing reads.
//!
//! - [`Cluster`]: what the rest of pgpilot holds.
//! - `monitor`: one task per node, which asks; `probe`: its connection and the questions; `pursuit`:
//!   when it asks out of turn.
//! - `control`: connections for all other work on the servers.
//! - `board`: where answers meet [`Health`](crate::decide::health::Health), and what it makes of them is published.
//! - [`catalogue`]: what is in the databases.
//! - [`load`]: outstanding statements per node, for balancing; `room`: whose disk is full.

mod board;
pub mod catalogue;
mod chronicle;
mod control;
pub mod failover;
pub mod load;
mod monitor;
mod probe;
mod pursuit;
mod room;
mod settings;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio_util::task::AbortOnDropHandle;

pub use board::{Counters, Reader};
pub use catalogue::{Catalogues, Recipe};
pub use control::{ControlError, connect_control};
pub use load::{Loads, Outstanding};
pub use settings::Settings;

use crate::config;
use crate::decide::health::{Answer, Event, NodeSpec};
use crate::decide::position::{Fork, Timeline};
use crate::decide::route::{NodeId, Snapshot, Writes};
use crate::telemetry::{Journal, Topic};

use board::Board;
use monitor::Monitor;
use room::Room;

/// The nodes of the topology file, watched. Dropping it ends the probes.
#[derive(Debug)]
pub struct Cluster {
    board: Arc<Board>,
    loads: Loads,
    room: Room,
    /// Indexed by `NodeId`; `None`: removed.
    watches: Mutex<Vec<Option<Watch>>>,
}

/// The primary that was followed last, before pgpilot was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    pub primary: config::NodeName,
    pub timeline: Timeline,
    /// The newest epoch that was seen in a primary's database.
    pub marked: u64,
    /// Where timelines began that pgpilot's own promotions have made.
    pub forks: Vec<Fork>,
    /// Held: a change of primary was under way.
    pub writes: Writes,
}

/// A node's monitor, and what it was started with.
#[derive(Debug)]
struct Watch {
    node: config::Node,
    health: config::Health,
    _task: AbortOnDropHandle<()>,
}

impl Cluster {
    /// Starts to probe; returns at once. Needs to be called within a runtime. `memory`: who was the primary before.
    pub fn start(settings: &Settings, memory: Option<&Memory>) -> Arc<Self> {
        let cluster = Self {
            board: Arc::new(Board::new(settings.limits)),
            loads: Loads::default(),
            room: Room::default(),
            watches: Mutex::new(Vec::new()),
        };
        cluster.board.configure(settings.limits, settings.nodes.iter().map(spec).collect());
        if let Some(memory) = memory
            && let Some(node) = cluster.find(memory.primary.as_str())
        {
            cluster.board.report(Event::Marked(memory.marked));
            cluster.board.report(Event::Forked(memory.forks.clone()));
            cluster.board.report(Event::Remembered { node, timeline: memory.timeline });
            if memory.writes == Writes::Held {
                cluster.board.report(Event::Held);
            }
        }
        cluster.reload(settings);
        Arc::new(cluster)
    }

    /// Takes over new settings. A node keeps its number by its name; only the monitors of nodes that changed start anew.
    pub fn reload(&self, settings: &Settings) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        self.board.configure(settings.limits, settings.nodes.iter().map(spec).collect());
        let snapshot = self.board.snapshot();
        self.loads.grow(snapshot.nodes.len());
        watches.resize_with(snapshot.nodes.len(), || None);
        for (view, watch) in snapshot.nodes.iter().zip(watches.iter_mut()) {
            let Some(node) = settings.nodes.iter().find(|node| node.name == view.name) else {
                *watch = None;
                continue;
            };
            if watch.as_ref().is_some_and(|old| asks_alike(&old.node, node) && old.health == settings.health) {
                continue;
            }
            let monitor = Monitor::new(view.id, node.clone(), settings.health.clone(), Arc::clone(&self.board));
            let task = AbortOnDropHandle::new(tokio::spawn(monitor.run()));
            *watch = Some(Watch { node: node.clone(), health: settings.health.clone(), _task: task });
        }
    }

    /// The cluster as the probes last saw it. Cheap; take one per decision.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.board.snapshot()
    }

    /// A statement has failed on a node since a disk is full there: that is no failure of the node, and nothing that passes.
    pub fn has_no_room(&self, node: NodeId) {
        if self.room.is_news(node, Instant::now()) {
            let snapshot = self.snapshot();
            let name = snapshot.node(node).map(|node| node.name.as_str());
            let text = "a disk is full: statements that need room fail (53100)";
            tracing::warn!(node = name, "{text}");
            self.journal().note(Topic::Node, name, text);
        }
    }

    /// A cached view for a task that looks often: no reference count is touched while nothing changes.
    pub fn reader(&self) -> Reader {
        self.board.reader()
    }

    /// Waits until the snapshot is another than `seen`, and returns the newest one, at `until` at the latest.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn wait_change(&self, seen: &Arc<Snapshot>, until: Instant) -> Arc<Snapshot> {
        self.board.wait_change(seen, until).await
    }

    /// Someone's write is not covered by a mark yet, or waits for a replica to have it. The primary is asked at once, one
    /// question for all who call meanwhile, and then the replicas, until they have reached that mark. Cheap, and any
    /// number of callers will do.
    pub fn want_mark(&self) {
        if let Some(primary) = self.board.snapshot().primary {
            self.board.want_mark(primary);
        }
    }

    /// A client met trouble there (connection lost or refused, 25006 from the supposed primary): look now.
    pub fn nudge(&self, node: NodeId) {
        self.board.probe(node);
    }

    /// Counts one statement that is sent to a node, until the guard is dropped.
    pub fn outstanding(&self, node: NodeId) -> Outstanding {
        self.loads.begin(node)
    }

    /// Outstanding statements per node.
    pub fn loads(&self) -> &Loads {
        &self.loads
    }

    /// Takes a node out: it gets no more reads. What runs there goes on.
    pub fn drain(&self, node: NodeId) {
        self.board.report(Event::Drained { node });
    }

    pub fn undrain(&self, node: NodeId) {
        self.board.report(Event::Undrained { node });
    }

    /// The number of a node that the topology file has, or had.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.board.snapshot().nodes.iter().find(|node| node.name.as_str() == name).map(|node| node.id)
    }

    /// What a node said of itself last, for the console and the metrics.
    pub fn answer(&self, node: NodeId) -> Option<Answer> {
        self.board.answer(node)
    }

    /// What happened to the nodes lately.
    pub fn journal(&self) -> &Arc<Journal> {
        self.board.journal()
    }

    /// How to get to a node.
    fn access(&self, node: NodeId) -> Option<(config::Node, config::Health)> {
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = watches.get(usize::from(node.0))?.as_ref()?;
        Some((watch.node.clone(), watch.health.clone()))
    }

    /// What the probes did so far.
    pub fn counters(&self) -> Counters {
        self.board.counters()
    }
}

/// Whether what has changed of a node, if anything, is nothing to its monitor.
fn asks_alike(old: &config::Node, new: &config::Node) -> bool {
    *old == config::Node { lag: old.lag, ..new.clone() }
}

fn spec(node: &config::Node) -> NodeSpec {
    NodeSpec {
        name: node.name.clone(),
        address: Arc::from(format!("{}:{}", node.host, node.port)),
        zone: node.zone.as_deref().map(Arc::from),
        weight: node.weight,
        lag: node.lag,
    }
}
