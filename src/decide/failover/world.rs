//! The cluster as the failover machine sees it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Synchronous;
use crate::config::NodeName;
use crate::decide::health::{Answer, Applying, Receiver, Stage};
use crate::decide::position::{Lsn, Timeline};
use crate::decide::route::{NodeId, NodeView, Role, Snapshot, State, Trouble};

/// Beyond half of its time-out, for which a receiver is silent before it asks its sender for a sign of life (walreceiver.c,
/// `WALRCV_WAKEUP_PING`), one that hears nothing has no live sender.
pub(super) const HEARING_MARGIN: Duration = Duration::from_millis(300);
/// A node whose last answer is older says nothing of the present.
const ANSWER_AGE: Duration = Duration::from_secs(2);

/// What is known of all nodes at one moment.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub primary: Option<NodeId>,
    /// The history that the primary writes.
    pub timeline: Timeline,
    pub system: Option<u64>,
    /// The clusters that the nodes which have answered say they belong to, by their system identifiers.
    pub systems: BTreeSet<u64>,
    /// Indexed by `NodeId`.
    pub nodes: Vec<Member>,
    /// How far the primary is known to have flushed its log: no commit behind it was acknowledged by then. `None`: it has
    /// not been heard since pgpilot was started.
    pub written: Option<Lsn>,
    /// The primary's rule for commits, by its last answer.
    pub synchronous: Option<String>,
    /// Standbys that are no nodes of the topology file, and count by that rule, as it counts any.
    pub strangers: Option<usize>,
}

/// One node.
#[derive(Debug, Clone)]
pub struct Member {
    pub id: NodeId,
    pub name: NodeName,
    pub zone: Zone,
    /// 0: never promoted.
    pub priority: u32,
    pub contact: Contact,
    pub role: Role,
    pub log: Option<Log>,
    pub hearing: Hearing,
    pub history: History,
    /// When it replays what it receives.
    pub applies: Applies,
    /// Its name in `synchronous_standby_names`.
    pub standby_name: String,
    /// The newest epoch that is written down in its database.
    pub marked: u64,
    /// Operators have taken it out: it is about to be worked upon.
    pub drained: bool,
}

/// What a replica has of the write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Log {
    pub timeline: Timeline,
    /// What it has on disk. The last record may be there in part only.
    pub end: Lsn,
    /// The end of the last record that it has replayed.
    pub replayed: Lsn,
    pub tail: Tail,
}

/// Whether a replica has the last record that it has replayed in the file from which it would read it at its promotion.
///
/// Following a new primary, it receives the segment in which the timeline has changed anew, from its start, into a file
/// of its own, though it has replayed most of that from the file of the old timeline. A promotion begins by reading the
/// last record again, from the newest file: as long as that is not so far, the server ends with a PANIC, "invalid magic
/// number 0000 in log segment" (`FinishWalRecovery` in xlogrecovery.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tail {
    #[default]
    There,
    Missing,
}

/// What pgpilot gets from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// It answers, or is alive and merely cannot be asked.
    Up,
    /// 57P03: it starts, recovers or shuts down.
    Starting,
    /// Time-outs.
    Silent,
    /// Connections are refused or break.
    Refused,
    /// Not asked yet.
    Unknown,
    /// It is not in the topology file any more, and only keeps its number: what it said last counts for nothing.
    Removed,
}

/// Whether a replica hears the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// A receiver got something from it a moment ago.
    Primary,
    /// It has no receiver, or one that hears nothing.
    Nothing,
    /// It streams from another replica: that says nothing of the primary.
    Replica(NodeId),
    /// Nobody can ask it.
    Unknown,
}

/// Whether a replica's log is part of the primary's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    Common,
    /// It never follows the primary again: only pg_rewind or a new copy helps.
    OfItsOwn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    AtOnce,
    Delayed,
    /// `pg_wal_replay_pause()`, which a promotion ends.
    Paused,
}

/// Where a node is, seen from pgpilot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    Own,
    Other,
}

/// What the topology file says of a node, of what a failover needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub priority: u32,
    pub zone: Zone,
    /// Where the other nodes reach it.
    pub host: String,
    pub port: u16,
}

impl World {
    /// Puts together what the probes know. `profile` and `answer` tell of one node each.
    pub fn new(
        snapshot: &Snapshot,
        profile: impl Fn(NodeId) -> Option<Profile>,
        answer: impl Fn(NodeId) -> Option<Answer>,
        now: Instant,
    ) -> Self {
        let profiles: Vec<_> = snapshot.nodes.iter().map(|node| profile(node.id)).collect();
        let is_there = |node: &&NodeView| node.state != State::Removed;
        let answers: Vec<_> =
            snapshot.nodes.iter().map(|node| Some(node).filter(is_there).and_then(|node| answer(node.id))).collect();
        let primary = snapshot.primary.and_then(|id| answers.get(usize::from(id.0))?.as_ref());
        let whose = |host: &str, port: u16| {
            let at = |profile: &Option<Profile>| {
                profile.as_ref().is_some_and(|profile| profile.port == port && profile.host.eq_ignore_ascii_case(host))
            };
            profiles.iter().position(at).and_then(|index| Some(snapshot.nodes.get(index)?.id))
        };
        let member = |view: &NodeView| {
            let index = usize::from(view.id.0);
            let (profile, answer) = (profiles[index].as_ref(), answers[index].as_ref());
            Member {
                id: view.id,
                name: view.name.clone(),
                zone: profile.map_or(Zone::Other, |profile| profile.zone),
                priority: profile.map_or(0, |profile| profile.priority),
                contact: contact(view),
                role: view.role,
                log: answer.and_then(log),
                history: match view.trouble {
                    Some(Trouble::Diverged(_)) => History::OfItsOwn,
                    _ => History::Common,
                },
                hearing: hearing(view, answer, snapshot.primary, whose, now),
                applies: answer.map_or(Applies::AtOnce, applies),
                standby_name: answer.map(|answer| answer.standby_name.clone()).unwrap_or_default(),
                marked: answer.map_or(0, |answer| answer.marked),
                drained: view.drained,
            }
        };
        let others = snapshot.nodes.iter().zip(&answers);
        let others = others.filter(|(node, _)| is_there(node) && snapshot.primary != Some(node.id));
        let names: Vec<&str> = others.map(|(_, it)| it.as_ref().map_or("", |it| it.standby_name.as_str())).collect();
        Self {
            primary: snapshot.primary,
            timeline: snapshot.timeline,
            system: primary.map(|answer| answer.system_identifier),
            systems: answers.iter().flatten().map(|answer| answer.system_identifier).collect(),
            nodes: snapshot.nodes.iter().map(member).collect(),
            written: primary.and_then(|answer| match answer.stage {
                Stage::Writable { flush, .. } => Some(flush),
                Stage::Recovering(_) => None,
            }),
            synchronous: primary
                .filter(|answer| matches!(answer.stage, Stage::Writable { .. }))
                .map(|answer| answer.synchronous.clone()),
            strangers: primary
                .filter(|answer| matches!(answer.stage, Stage::Writable { .. }))
                .map(|answer| strangers(&answer.standbys, &names)),
        }
    }

    pub fn node(&self, id: NodeId) -> Option<&Member> {
        self.nodes.get(usize::from(id.0))
    }

    /// Those of the topology file.
    pub fn present(&self) -> impl Iterator<Item = &Member> {
        self.nodes.iter().filter(|node| node.contact != Contact::Removed)
    }

    pub fn find(&self, name: &NodeName) -> Option<NodeId> {
        self.present().find(|node| node.name == *name).map(|node| node.id)
    }

    pub fn name(&self, id: NodeId) -> &str {
        self.node(id).map_or("?", |node| node.name.as_str())
    }

    /// What pgpilot gets from the primary; `None`: there is none.
    pub fn primary_contact(&self) -> Option<Contact> {
        Some(self.node(self.primary?)?.contact)
    }

    /// The replica that another one streams from.
    pub fn sender(&self, replica: NodeId) -> Option<NodeId> {
        match self.node(replica)?.hearing {
            Hearing::Replica(sender) => Some(sender),
            Hearing::Primary | Hearing::Nothing | Hearing::Unknown => None,
        }
    }

    /// Replicas that answer.
    pub fn replicas(&self) -> impl Iterator<Item = &Member> {
        self.nodes.iter().filter(|node| node.contact == Contact::Up && node.role == Role::Replica)
    }

    pub fn rule(&self) -> Synchronous {
        Synchronous::parse(self.synchronous.as_deref().unwrap_or_default())
    }
}

/// How many of a primary's standbys are none of the other nodes, which follow under these names.
fn strangers(standbys: &[String], others: &[&str]) -> usize {
    let mut others = others.to_vec();
    let mut is_stranger = |standby: &&String| {
        // One whose name is not known may be anybody.
        let same = |other: &&str| standby.is_empty() || other.is_empty() || other.eq_ignore_ascii_case(standby);
        let exact = others.iter().position(|other| other.eq_ignore_ascii_case(standby));
        let found = exact.or_else(|| others.iter().position(same));
        found.map(|index| others.swap_remove(index)).is_none()
    };
    standbys.iter().filter(|standby| is_stranger(standby)).count()
}

fn contact(view: &NodeView) -> Contact {
    match (view.state, view.trouble) {
        (State::Up | State::Quarantined, _) => Contact::Up,
        (State::Unknown, _) => Contact::Unknown,
        (State::Removed, _) => Contact::Removed,
        (_, Some(Trouble::Starting)) => Contact::Starting,
        (_, Some(Trouble::Timeout)) => Contact::Silent,
        (State::Suspect | State::Down, _) => Contact::Refused,
    }
}

fn log(answer: &Answer) -> Option<Log> {
    let timeline = answer.timeline;
    match &answer.stage {
        Stage::Writable { flush, .. } => Some(Log { timeline, end: *flush, replayed: *flush, tail: Tail::There }),
        Stage::Recovering(recovery) => Log::new(timeline, recovery.receive, recovery.replay),
    }
}

impl Log {
    /// After a restart, what was received begins at the start of a log file: the replayed part may be more.
    pub fn new(timeline: Timeline, received: Option<Lsn>, replayed: Option<Lsn>) -> Option<Self> {
        let end = received.max(replayed)?;
        Some(Self { timeline, end, replayed: replayed.unwrap_or_default(), tail: Tail::There })
    }
}

fn applies(answer: &Answer) -> Applies {
    match &answer.stage {
        Stage::Recovering(recovery) if !recovery.apply_delay.is_zero() => Applies::Delayed,
        Stage::Recovering(recovery) if recovery.applying == Applying::Paused => Applies::Paused,
        _ => Applies::AtOnce,
    }
}

fn hearing(
    view: &NodeView,
    answer: Option<&Answer>,
    primary: Option<NodeId>,
    whose: impl Fn(&str, u16) -> Option<NodeId>,
    now: Instant,
) -> Hearing {
    let Some(Answer { stage: Stage::Recovering(recovery), .. }) = answer else { return Hearing::Unknown };
    let asked = view.position.map(|sample| sample.asked_at);
    let stale = asked.is_some_and(|at| now.saturating_duration_since(at) > ANSWER_AGE);
    if view.state != State::Up || view.role != Role::Replica || stale {
        return Hearing::Unknown;
    }
    let Some(Receiver { silent_for, sender, .. }) = &recovery.receiver else { return Hearing::Nothing };
    let limit = recovery.receiver_timeout / 2 + HEARING_MARGIN;
    // Without a time-out, silence means nothing.
    let silent = silent_for.is_some_and(|silent| !recovery.receiver_timeout.is_zero() && silent > limit);
    if silent {
        return Hearing::Nothing;
    }
    match sender.as_ref().and_then(|(host, port)| whose(host, *port)) {
        Some(upstream) if Some(upstream) != primary => Hearing::Replica(upstream),
        // An address that no node has: rather the primary under another name than nobody.
        _ => Hearing::Primary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standbys_that_are_no_nodes_are_counted() {
        for (standbys, others, expected) in [
            (&["pg2", "pg3"][..], ["pg2", "pg3"], 0),
            (&["pg3"], ["pg2", "pg3"], 0),
            (&["pg_receivewal", "pg3"], ["pg2", "pg3"], 1),
            (&["walreceiver", "walreceiver", "walreceiver"], ["walreceiver", "WalReceiver"], 1),
            // A node that has not been asked, and a standby whose name may not be seen.
            (&["pg3", "pg2"], ["", "pg3"], 0),
            (&["", "", ""], ["pg2", "pg3"], 1),
        ] {
            let standbys: Vec<_> = standbys.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(strangers(&standbys, &others), expected, "{standbys:?} {others:?}");
        }
    }
}
