//! Bringing the other nodes behind the primary, one job a node at a time, again until it is so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::event::{Actions, Job};
use super::machine::Rules;
use super::world::{Contact, Hearing, History, World};
use crate::decide::route::{NodeId, Role};

/// Between two tries, at first; it doubles, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A replica may be without a sender for so long before that is a case for repair: it reconnects by itself as a rule.
const ALONE: Duration = Duration::from_secs(3);

/// What is being done about nodes that do not follow the primary.
#[derive(Debug, Clone, Default)]
pub(super) struct Repairs {
    nodes: BTreeMap<NodeId, Repair>,
    /// Since when replicas have had no sender.
    alone: BTreeMap<NodeId, Instant>,
    /// Nodes with writes of their own that have been told of.
    strays: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, Copy)]
struct Repair {
    way: Way,
    running: Running,
    due: Instant,
    pause: Duration,
}

/// How a node is brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It is a replica, and only has to be told whom to follow.
    Follow,
    /// It was a primary, or has another history: a hook has to make it a replica again.
    Rejoin,
    /// It is the primary, and was left read-only by a switchover that was called off.
    Resume,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    Yes,
    No,
}

impl Repairs {
    /// Nothing of before counts: the primary is another.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) fn want(&mut self, node: NodeId, way: Way, now: Instant) {
        self.nodes.entry(node).or_insert(Repair { way, running: Running::No, due: now, pause: FIRST });
    }

    pub(super) fn wants(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// It is as it should be.
    pub(super) fn done(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Looks who needs help, and who needs it no more.
    pub(super) fn look(&mut self, world: &World, primary: NodeId, rules: &Rules, now: Instant, actions: &mut Actions) {
        for node in world.nodes.iter().filter(|node| node.id != primary) {
            let stray = node.contact == Contact::Up && node.role == Role::Stray;
            let diverged = node.contact == Contact::Up && node.history == History::OfItsOwn;
            if !stray && !diverged {
                self.strays.remove(&node.id);
            }
            let followed = matches!(node.hearing, Hearing::Primary | Hearing::Replica(_));
            if node.contact == Contact::Up && node.role == Role::Replica && followed {
                self.alone.remove(&node.id);
                if self.nodes.get(&node.id).is_some_and(|repair| repair.running == Running::No) {
                    self.nodes.remove(&node.id);
                    actions.inform(Some(node.id), "follows the primary");
                }
            } else if stray && rules.automatic && self.strays.insert(node.id) {
                actions.alarm(
                    Some(node.id),
                    "is writable and not the primary: it is fenced and quarantined, and gets no statement",
                );
                // At once, however often it was tried while it was away.
                self.nodes.retain(|id, repair| *id != node.id || repair.running == Running::Yes);
                self.want(node.id, Way::Rejoin, now);
            } else if diverged {
                if self.strays.insert(node.id) {
                    actions.alarm(Some(node.id), "is quarantined: its log has another history than the primary's");
                }
                let since = *self.alone.entry(node.id).or_insert(now);
                if rules.automatic && now.saturating_duration_since(since) >= ALONE {
                    self.want(node.id, Way::Rejoin, now);
                }
            } else if node.role == Role::Replica && node.hearing == Hearing::Nothing && rules.automatic {
                let since = *self.alone.entry(node.id).or_insert(now);
                if now.saturating_duration_since(since) >= ALONE {
                    self.want(node.id, Way::Follow, now);
                }
            }
        }
    }

    /// Gives out the jobs that are due.
    pub(super) fn begin(&mut self, primary: NodeId, now: Instant, actions: &mut Actions) {
        for (&node, repair) in &mut self.nodes {
            if repair.running == Running::No && repair.due <= now {
                repair.running = Running::Yes;
                actions.jobs.push(match repair.way {
                    Way::Follow => Job::Follow { node, primary },
                    Way::Rejoin => Job::Rejoin { node, primary },
                    Way::Resume => Job::Resume { node },
                });
            }
        }
    }

    /// A job has ended. Whether the node is back, only the probes tell: till they do it is tried again.
    pub(super) fn ended(&mut self, node: NodeId, error: Option<&str>, now: Instant, actions: &mut Actions) {
        let Some(repair) = self.nodes.get_mut(&node) else { return };
        repair.running = Running::No;
        repair.due = now + repair.pause;
        repair.pause = (repair.pause * 2).min(LONGEST);
        if let Some(error) = error {
            actions.inform(Some(node), format!("is not repaired yet: {error}"));
            if repair.way == Way::Follow && repair.pause > FIRST * 4 {
                // Telling it does not help: its history may be another.
                repair.way = Way::Rejoin;
            }
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.nodes.values().filter(|repair| repair.running == Running::No).map(|repair| repair.due).min()
    }
}
