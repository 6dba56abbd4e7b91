//! Bringing the other nodes behind the primary, one job a node at a time, again until it is so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::event::{Actions, Job};
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
    /// Nodes that have to be told whom to follow as soon as they are seen to be replicas.
    expected: BTreeSet<NodeId>,
    /// Nodes with writes of their own that have been told of.
    strays: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, Copy)]
struct Repair {
    way: Way,
    cause: Cause,
    running: Running,
    due: Instant,
    pause: Duration,
}

/// Why it is to be repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A change of primary takes it.
    Decided,
    /// It was found like that.
    Found,
}

/// What is repaired at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Everything,
    /// What changes of primary take: nothing else is done without an order.
    Decided,
    /// The primary, which was left shut down by a switchover that was called off.
    Primary,
}

impl Repair {
    fn new(way: Way, cause: Cause, now: Instant) -> Self {
        Self { way, cause, running: Running::No, due: now, pause: FIRST }
    }

    fn is_within(&self, scope: Scope) -> bool {
        match scope {
            Scope::Everything => true,
            Scope::Decided => self.cause == Cause::Decided,
            Scope::Primary => self.way == Way::Resume,
        }
    }
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

/// Whom a node was told to follow when that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A primary that answers.
    Sound,
    /// One that is only about to be promoted, or does not answer: why a replica does not stream from it may be its own
    /// fault.
    Doubtful,
}

impl Repairs {
    /// Nothing of before counts: the primary is another.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// As a change of primary takes it.
    pub(super) fn want(&mut self, node: NodeId, way: Way, now: Instant) {
        self.add(node, way, Cause::Decided, now);
    }

    pub(super) fn add(&mut self, node: NodeId, way: Way, cause: Cause, now: Instant) {
        self.nodes.entry(node).or_insert(Repair::new(way, cause, now));
    }

    /// They may have been cut off from the old primary, and nothing is known of them yet.
    pub(super) fn expect(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        self.expected.extend(nodes);
    }

    /// Replicas that have turned up among those that were expected are to be told whom to follow.
    pub(super) fn welcome(&mut self, world: &World, now: Instant) {
        for node in world.replicas().filter(|node| self.expected.contains(&node.id)) {
            self.nodes.entry(node.id).or_insert(Repair::new(Way::Follow, Cause::Decided, now));
        }
        self.expected.retain(|node| !self.nodes.contains_key(node));
    }

    /// What is wrong is told anew.
    pub(super) fn tell_again(&mut self) {
        self.strays.clear();
    }

    pub(super) fn wants(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// It is as it should be.
    pub(super) fn done(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Looks who needs help, and who needs it no more.
    pub(super) fn look(&mut self, world: &World, primary: NodeId, scope: Scope, now: Instant, actions: &mut Actions) {
        let all = scope == Scope::Everything;
        self.welcome(world, now);
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
            } else if stray {
                self.stray(node.id, scope, now, actions);
            } else if diverged {
                if self.strays.insert(node.id) {
                    actions.alarm(Some(node.id), "is quarantined: its log has another history than the primary's");
                }
                let since = *self.alone.entry(node.id).or_insert(now);
                if all && now.saturating_duration_since(since) >= ALONE {
                    self.add(node.id, Way::Rejoin, Cause::Found, now);
                }
            } else if node.role == Role::Replica && node.hearing == Hearing::Nothing {
                let since = *self.alone.entry(node.id).or_insert(now);
                if all && now.saturating_duration_since(since) >= ALONE {
                    self.add(node.id, Way::Follow, Cause::Found, now);
                }
            }
        }
    }

    fn stray(&mut self, node: NodeId, scope: Scope, now: Instant, actions: &mut Actions) {
        let news = self.strays.insert(node);
        if scope == Scope::Everything {
            self.add(node, Way::Rejoin, Cause::Found, now);
        }
        let repair = self.nodes.get_mut(&node).filter(|repair| repair.is_within(scope));
        if news {
            let fenced = if repair.is_some() {
                "fenced and"
            } else {
                "not fenced (nothing is done without an order at present), but"
            };
            let text = format!("is writable and not the primary: it is {fenced} quarantined, and gets no statement");
            actions.alarm(Some(node), text);
        }
        if let Some(repair) = repair.filter(|repair| news && repair.running == Running::No) {
            // At once, however often it was tried while it was away.
            (repair.way, repair.due, repair.pause) = (Way::Rejoin, now, FIRST);
        }
    }

    /// Gives out the jobs that are due.
    pub(super) fn begin(&mut self, primary: NodeId, scope: Scope, now: Instant, actions: &mut Actions) {
        for (&node, repair) in self.nodes.iter_mut().filter(|(_, repair)| repair.is_within(scope)) {
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
    pub(super) fn ended(
        &mut self,
        node: NodeId,
        source: Source,
        error: Option<&str>,
        now: Instant,
        actions: &mut Actions,
    ) {
        let Some(repair) = self.nodes.get_mut(&node) else { return };
        repair.running = Running::No;
        repair.due = now + repair.pause;
        if let Some(error) = error {
            actions.inform(Some(node), format!("is not repaired yet: {error}"));
        }
        if repair.way == Way::Follow && source == Source::Doubtful {
            // It counts as no try: to rejoin means to be stopped, and this one may be the last that is left.
            return;
        }
        repair.pause = (repair.pause * 2).min(LONGEST);
        if error.is_some() && repair.way == Way::Follow && repair.pause > FIRST * 4 {
            // Telling it does not help: its history may be another.
            repair.way = Way::Rejoin;
        }
    }

    pub(super) fn next(&self, scope: Scope) -> Option<Instant> {
        let waiting = |repair: &&Repair| repair.running == Running::No && repair.is_within(scope);
        self.nodes.values().filter(waiting).map(|repair| repair.due).min()
    }
}
