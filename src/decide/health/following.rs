//! Which writable node is this cluster's primary.

use std::collections::BTreeMap;

use crate::decide::position::{Fork, Timeline};
use crate::decide::route::NodeId;

use super::event::Stage;
use super::record::Record;

/// The primary that the cluster follows. A promotion begins a new timeline, so a successor is known by a higher one;
/// but a timeline is no proof (two promotions can share a number), so nobody replaces a primary that still holds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Following {
    /// Nothing was decided yet: not every node has been asked, or several claim to be the primary.
    Undecided,
    Node {
        id: NodeId,
        timeline: Timeline,
    },
    /// The primary stepped down, or was removed, after having written this timeline.
    Vacant {
        was: NodeId,
        timeline: Timeline,
    },
}

/// What the nodes' newest answers make of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    Follow {
        id: NodeId,
        timeline: Timeline,
    },
    StepDown {
        was: NodeId,
        timeline: Timeline,
    },
    /// Any of these may be the primary.
    Contested(Vec<NodeId>),
}

impl Following {
    /// `bound`: the only node that may be followed, if others have decided that. `marked`: the newest epoch that a primary
    /// has had written down: nobody who lacks it replaces a primary, whatever its timeline. `forks`: where timelines began
    /// that pgpilot's own promotions have made: whoever else writes one of these was replaced, or given up.
    pub(super) fn judge(
        self,
        records: &[Record],
        identity: Option<u64>,
        bound: Option<NodeId>,
        marked: u64,
        forks: &[Fork],
    ) -> Verdict {
        let Some(identity) = identity else { return Verdict::Keep };
        let allowed = |id: NodeId| bound.is_none_or(|bound| bound == id);
        let outdated = |id: NodeId| records[usize::from(id.0)].is_outdated(marked);
        // Two promotions, neither of which had seen the other one's timeline, have the same. The later one was meant to
        // replace what the earlier one had made, unless both were seen to take writes at one time.
        let shares = |id: NodeId, claimed: Timeline| {
            let is_ours = forks.iter().any(|fork| fork.timeline == claimed);
            !is_ours && records[usize::from(id.0)].barred_on() != Some(claimed)
        };
        match self {
            Self::Node { id, timeline } => {
                let record = &records[usize::from(id.0)];
                match record.writable_on() {
                    _ if record.is_removed() => Verdict::StepDown { was: id, timeline },
                    _ if record.answer().is_some_and(|answer| answer.system_identifier != identity) => {
                        Verdict::StepDown { was: id, timeline }
                    }
                    None if record.answer().is_some() => Verdict::StepDown { was: id, timeline },
                    Some(now) if record.holds_on() && now > timeline => Verdict::Follow { id, timeline: now },
                    Some(_) if record.holds_on() => Verdict::Keep,
                    _ => elect(records, identity, outdated, |id, claimed| {
                        let follows = record.is_dead() && claimed == timeline && shares(id, claimed);
                        allowed(id) && (claimed > timeline || follows)
                    }),
                }
            }
            // The old primary itself may come back on the timeline that it wrote.
            Self::Vacant { was, timeline } => {
                let gone = records[usize::from(was.0)].is_removed();
                let steps_down = records[usize::from(was.0)].is_recovering();
                // Nor is that one held to what may have been dropped from its database.
                let outdated = |id: NodeId| id != was && outdated(id);
                elect(records, identity, outdated, |id, claimed| {
                    let follows = gone || id == was || (steps_down && shares(id, claimed));
                    allowed(id) && (claimed > timeline || (claimed == timeline && follows))
                })
            }
            Self::Undecided => {
                let asked_all = records.iter().all(Record::is_proven);
                if asked_all { elect(records, identity, outdated, |id, _| allowed(id)) } else { Verdict::Keep }
            }
        }
    }
}

/// The node that is writable on the highest timeline anyone of this cluster has heard of; of two promotions to the same one,
/// that which has the newer epoch written down. What an outdated node says does not count.
fn elect(
    records: &[Record],
    identity: u64,
    outdated: impl Fn(NodeId) -> bool,
    eligible: impl Fn(NodeId, Timeline) -> bool,
) -> Verdict {
    let ours = || {
        numbered(records).filter(|(id, record)| {
            let known = record.answer().is_some_and(|answer| answer.system_identifier == identity);
            !record.is_removed() && known && !outdated(*id)
        })
    };
    let newest = ours().filter_map(|(_, record)| record.answer()).map(|answer| answer.timeline).max();
    let mut claims: Vec<NodeId> = ours()
        .filter(|(id, record)| {
            let claim = record.writable_on().filter(|&claimed| eligible(*id, claimed));
            record.is_answering() && claim.is_some() && claim == newest
        })
        .map(|(id, _)| id)
        .collect();
    let marked = |id: NodeId| records[usize::from(id.0)].marked();
    let epoch = claims.iter().map(|id| marked(*id)).max();
    claims.retain(|id| Some(marked(*id)) == epoch);
    match (claims.as_slice(), newest) {
        (&[id], Some(timeline)) => Verdict::Follow { id, timeline },
        ([], _) | (_, None) => Verdict::Keep,
        (_, Some(_)) => Verdict::Contested(claims),
    }
}

/// Which system identifier is this cluster's: the one that most nodes have; between equals, the one with a writable node.
/// `None`: not every node has been asked yet, or that does not tell either.
pub(super) fn identify(records: &[Record]) -> Option<u64> {
    if !records.iter().all(Record::is_proven) {
        return None;
    }
    let mut votes: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
    for answer in records.iter().filter(|record| !record.is_removed()).filter_map(Record::answer) {
        let (nodes, writable) = votes.entry(answer.system_identifier).or_default();
        *nodes += 1;
        *writable |= matches!(answer.stage, Stage::Writable { .. });
    }
    let best = votes.values().max()?;
    let mut winners = votes.iter().filter(|(_, vote)| *vote == best).map(|(&identifier, _)| identifier);
    match (winners.next(), winners.next()) {
        (Some(identifier), None) => Some(identifier),
        _ => None,
    }
}

/// The nodes that answered, when all were asked and it still cannot be told which cluster this is.
pub(super) fn unidentified(records: &[Record]) -> Vec<NodeId> {
    if !records.iter().all(Record::is_proven) {
        return Vec::new();
    }
    numbered(records)
        .filter(|(_, record)| !record.is_removed() && record.answer().is_some())
        .map(|(id, _)| id)
        .collect()
}

pub(super) fn numbered(records: &[Record]) -> impl Iterator<Item = (NodeId, &Record)> {
    (0..).map(NodeId).zip(records)
}
