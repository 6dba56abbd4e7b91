//! Where the monitors report, and where everyone reads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, Cache};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::decide::health::{Actions, Answer, Change, Event, Health, Limits, NodeSpec};
use crate::decide::position::Lsn;
use crate::decide::route::{NodeId, Snapshot, State};
use crate::telemetry::Journal;

use super::chronicle::write;

/// The state that all monitors share.
#[derive(Debug)]
pub(super) struct Board {
    /// Held for the time of one decision, never over an await.
    health: Mutex<Health>,
    published: Arc<ArcSwap<Snapshot>>,
    /// Counts the published snapshots.
    version: watch::Sender<u64>,
    /// Indexed by `NodeId`.
    bells: ArcSwap<Vec<Arc<Bell>>>,
    chase: watch::Sender<Option<Chase>>,
    tally: Tally,
    journal: Arc<Journal>,
}

/// A mark that sessions wait for the replicas to reach.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chase {
    pub(super) lsn: Lsn,
    pub(super) begun: Instant,
    /// Counts them: replicas take turns in being the first.
    pub(super) turn: usize,
}

/// How others get a monitor to ask out of turn.
#[derive(Debug, Default)]
pub(super) struct Bell {
    wanted: AtomicBool,
    probe: AtomicBool,
    notify: Notify,
}

/// What the monitor has been asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Probe,
    Mark,
}

/// A task's own view of the newest snapshot.
#[derive(Debug, Clone)]
pub struct Reader(Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>);

impl Reader {
    pub fn snapshot(&mut self) -> &Arc<Snapshot> {
        self.0.load()
    }
}

/// What the probes did so far; each only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Whole probes that were answered.
    pub answers: u64,
    /// Short questions that were answered.
    pub samples: u64,
    pub failures: u64,
    /// Changes of primary.
    pub promotions: u64,
}

#[derive(Debug, Default)]
struct Tally {
    answers: AtomicU64,
    samples: AtomicU64,
    failures: AtomicU64,
    promotions: AtomicU64,
}

impl Board {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            health: Mutex::new(Health::new(limits)),
            published: Arc::default(),
            version: watch::Sender::new(0),
            bells: ArcSwap::default(),
            chase: watch::Sender::new(None),
            tally: Tally::default(),
            journal: Arc::default(),
        }
    }

    /// Takes note of what a monitor or an operator says, and publishes what follows.
    pub(super) fn report(&self, event: Event) {
        let tally = match &event {
            Event::Answered { .. } => Some(&self.tally.answers),
            Event::Sampled { .. } => Some(&self.tally.samples),
            Event::Failed { .. } => Some(&self.tally.failures),
            Event::Configured(_)
            | Event::Knocked { .. }
            | Event::Drained { .. }
            | Event::Undrained { .. }
            | Event::Held
            | Event::Released
            | Event::Appointed { .. }
            | Event::Forked(_)
            | Event::Marked(_)
            | Event::Recorded { .. }
            | Event::Bound { .. }
            | Event::Barred
            | Event::Admitted
            | Event::Remembered { .. } => None,
        };
        if let Some(count) = tally {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut health = self.lock();
        let actions = health.on(event, Instant::now());
        self.publish(health, &actions);
    }

    pub(super) fn configure(&self, limits: Limits, nodes: Vec<NodeSpec>) {
        let mut health = self.lock();
        health.set_limits(limits);
        let actions = health.on(Event::Configured(nodes), Instant::now());
        let known = health.snapshot().nodes.len();
        self.bells.rcu(|bells| {
            let mut bells = Vec::clone(bells);
            bells.resize_with(known, Arc::default);
            bells
        });
        self.publish(health, &actions);
    }

    /// In the order of the decisions, so still under the lock.
    fn publish(&self, health: MutexGuard<'_, Health>, actions: &Actions) {
        let snapshot = Arc::new(health.snapshot());
        self.published.store(Arc::clone(&snapshot));
        drop(health);
        self.version.send_modify(|version| *version += 1);
        for change in &actions.changes {
            if let Change::Following { .. } = change {
                self.tally.promotions.fetch_add(1, Ordering::Relaxed);
            }
            log(change, &snapshot);
            write(&self.journal, change, &snapshot);
        }
        actions.probe.iter().for_each(|&node| self.probe(node));
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    pub(super) fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.published)))
    }

    pub(super) fn answer(&self, node: NodeId) -> Option<Answer> {
        self.lock().answer(node).cloned()
    }

    pub(super) fn counters(&self) -> Counters {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counters {
            answers: read(&self.tally.answers),
            samples: read(&self.tally.samples),
            failures: read(&self.tally.failures),
            promotions: read(&self.tally.promotions),
        }
    }

    pub(super) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    pub(super) async fn wait_change(&self, seen: &Arc<Snapshot>, until: Instant) -> Arc<Snapshot> {
        // Subscribed before the look: a change in between is not missed.
        let mut version = self.version.subscribe();
        let current = self.snapshot();
        if !Arc::ptr_eq(&current, seen) {
            return current;
        }
        // The sender is `self`: only the time can end the wait without a change.
        let _ = tokio::time::timeout_at(until.into(), version.changed()).await;
        self.snapshot()
    }

    pub(super) fn bell(&self, node: NodeId) -> Option<Arc<Bell>> {
        self.bells.load().get(usize::from(node.0)).cloned()
    }

    pub(super) fn probe(&self, node: NodeId) {
        if let Some(bell) = self.bells.load().get(usize::from(node.0)) {
            bell.ring(Call::Probe);
        }
    }

    pub(super) fn want_mark(&self, primary: NodeId) {
        if let Some(bell) = self.bells.load().get(usize::from(primary.0)) {
            bell.ring(Call::Mark);
        }
    }

    /// Sets the replicas' monitors on the newest mark.
    pub(super) fn chase_newest_mark(&self) {
        if let Some(mark) = self.published.load().marks.last() {
            let turn = self.chase.borrow().map_or(0, |last| last.turn.wrapping_add(1));
            self.chase.send_replace(Some(Chase { lsn: mark.lsn, begun: Instant::now(), turn }));
        }
    }

    pub(super) fn chases(&self) -> watch::Receiver<Option<Chase>> {
        self.chase.subscribe()
    }
}

impl Bell {
    fn ring(&self, call: Call) {
        let flag = match call {
            Call::Probe => &self.probe,
            Call::Mark => &self.wanted,
        };
        // Only the first of many callers has to wake the monitor.
        if !flag.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    /// Waits until somebody has rung.
    ///
    /// # Cancel safety
    /// A ring that is not taken stays.
    pub(super) async fn rung(&self) -> Call {
        loop {
            // A whole probe of the primary makes a mark, too: it goes first.
            if self.probe.load(Ordering::Acquire) {
                return Call::Probe;
            }
            if self.wanted.load(Ordering::Acquire) {
                return Call::Mark;
            }
            self.notify.notified().await;
        }
    }

    /// To be called before the question is sent: who rings from now on wants another one.
    pub(super) fn answer(&self, call: Call) -> bool {
        let flag = match call {
            Call::Probe => &self.probe,
            Call::Mark => &self.wanted,
        };
        flag.swap(false, Ordering::AcqRel)
    }
}

/// One event a change, with the nodes' names.
fn log(change: &Change, snapshot: &Snapshot) {
    let name = |id: NodeId| snapshot.node(id).map_or("?", |node| node.name.as_str());
    match change {
        Change::Following { node, epoch, timeline } => {
            info!(node = name(*node), epoch, timeline = timeline.0, "following primary");
        }
        Change::Leaderless { was } => warn!(node = name(*was), "primary stepped down, no successor known"),
        Change::LogLost { node, epoch, from, to } => {
            warn!(node = name(*node), epoch, %from, %to, "primary came back without the end of its log");
        }
        Change::LogLeft { node, was, kept, end } => {
            let (node, was) = (name(*node), name(*was));
            warn!(node, was, %kept, %end, "primary was promoted without the end of the log of the one before");
        }
        Change::Contested { nodes } => {
            let nodes: Vec<_> = nodes.iter().map(|&id| name(id)).collect();
            warn!(?nodes, "cannot tell which node is the primary");
        }
        Change::Role { node, from, to } => info!(node = name(*node), ?from, ?to, "node changed its role"),
        Change::State { node, from, to, trouble: None } => {
            info!(node = name(*node), ?from, ?to, "node changed its state")
        }
        Change::State { node, from, to, trouble: Some(trouble) } => match to {
            State::Suspect => info!(node = name(*node), ?from, ?to, %trouble, "node changed its state"),
            _ => warn!(node = name(*node), ?from, ?to, %trouble, "node changed its state"),
        },
        Change::Lagging { node, lag } => {
            warn!(node = name(*node), bytes = lag.bytes, time = ?lag.time, "replica lags: no more reads");
        }
        Change::CaughtUp { node, lag } => {
            info!(node = name(*node), bytes = lag.bytes, time = ?lag.time, "replica caught up: takes reads");
        }
    }
}
