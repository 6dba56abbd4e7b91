//! Which replica is promoted, and whether it may be.

use std::cmp::Reverse;

use super::world::{Applies, World};
use super::{Guards, History, Log, Member, Synchronous, Tail};
use crate::decide::position::Lsn;
use crate::decide::route::{NodeId, Role};

/// Who may be promoted under which conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// Guards that an operator has waived.
    pub(super) waived: Guards,
    /// Who it has to be; `None`: whoever is best.
    pub(super) to: Option<NodeId>,
    /// Bytes of the primary's last known log that may be missing, with asynchronous replication.
    pub(super) max_data_loss: u64,
}

/// Who is promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) candidate: NodeId,
    pub(super) log: Log,
}

/// Why nobody is promoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unelectable {
    #[error("no replica can be promoted: {0}")]
    Nobody(String),
    #[error("{0} cannot be promoted: {1}")]
    Unfit(String, &'static str),
    #[error(
        "acknowledged commits could be lost: a commit waits for {quorum} of {listed} standbys, and only {sealed} of those can be asked"
    )]
    Quorum { quorum: usize, listed: usize, sealed: usize },
    #[error(
        "acknowledged commits could be lost: the primary has not been heard since pgpilot was started, so nobody knows how far its log goes"
    )]
    Unheard,
    #[error("acknowledged commits could be lost: {name} lacks {missing} bytes of the log ({allowed} allowed)")]
    Behind { name: String, missing: u64, allowed: u64 },
}

/// Chooses among the replicas that have been sealed: cut off from the old primary, with logs that do not grow any more.
///
/// # Errors
/// Nobody fits, or what is known does not rule out that acknowledged commits are lost.
pub(super) fn elect(
    world: &World,
    rule: &Synchronous,
    sealed: &[(NodeId, Log)],
    terms: &Terms,
) -> Result<Choice, Unelectable> {
    let member = |id: NodeId| world.node(id);
    let mut reasons = Vec::new();
    let mut fit: Vec<(&Member, Log)> = Vec::new();
    for &(id, log) in sealed {
        let Some(node) = member(id) else { continue };
        match unfit(node, log, world) {
            Some(why) if terms.to == Some(id) => return Err(Unelectable::Unfit(node.name.to_string(), why)),
            Some(why) => reasons.push(format!("{}: {why}", node.name)),
            None => fit.push((node, log)),
        }
    }
    if let Some(to) = terms.to {
        fit.retain(|(node, _)| node.id == to);
        if world.primary == Some(to) && world.node(to).is_some_and(|node| node.role == Role::Primary) {
            return Err(Unelectable::Unfit(world.name(to).to_owned(), "it is the primary already"));
        }
        if fit.is_empty() {
            return Err(Unelectable::Unfit(world.name(to).to_owned(), "it does not answer, or could not be sealed"));
        }
    }
    // One that operators have drained is about to be worked upon: it is chosen if no other may be, or to lose nothing.
    let stays = fit.iter().copied().filter(|(node, _)| !node.drained);
    if let Some((node, log)) = stays.max_by_key(rank).filter(|&best| guard(world, rule, sealed, best, terms).is_ok()) {
        return Ok(Choice { candidate: node.id, log });
    }
    let Some((best, log)) = fit.into_iter().max_by_key(rank) else {
        let why = if reasons.is_empty() { "none answers".to_owned() } else { reasons.join("; ") };
        return Err(Unelectable::Nobody(why));
    };
    if !terms.waived.contains(Guards::DATA_LOSS) {
        guard(world, rule, sealed, (best, log), terms)?;
    }
    Ok(Choice { candidate: best.id, log })
}

/// Whoever has replayed less would first have to replay the rest, and may be kept from it by somebody who reads there.
fn rank<'a>(&(node, log): &(&'a Member, Log)) -> impl Ord + use<'a> {
    (log.end, log.replayed, !node.drained, node.priority, Reverse(node.zone as u8), Reverse(&node.name))
}

fn unfit(node: &Member, log: Log, world: &World) -> Option<&'static str> {
    if node.role != Role::Replica {
        Some("it is no replica of this cluster")
    } else if node.priority == 0 {
        Some("its priority is 0")
    } else if node.applies == Applies::Delayed {
        Some("it applies the log with a delay")
    } else if log.timeline != world.timeline || node.history == History::OfItsOwn {
        Some("it has another history")
    } else if log.tail == Tail::Missing {
        Some("it has received only a part of the segment in which its timeline began: promoted, it would crash")
    } else {
        None
    }
}

/// With synchronous replication: each acknowledged commit is on `quorum` of the listed standbys, so among `sealed` of them
/// is one that has it if sealed + quorum > listed; and nobody sealed has more than the candidate.
fn guard(
    world: &World,
    rule: &Synchronous,
    sealed: &[(NodeId, Log)],
    (best, log): (&Member, Log),
    terms: &Terms,
) -> Result<(), Unelectable> {
    let behind = |most: Lsn, allowed: u64| {
        let missing = most.since(log.end);
        if missing <= allowed {
            return Ok(());
        }
        Err(Unelectable::Behind { name: best.name.to_string(), missing, allowed })
    };
    let same_history = sealed.iter().filter(|(_, log)| log.timeline == world.timeline);
    let most = same_history.map(|(_, log)| log.end).max().unwrap_or_default();
    if rule.is_asynchronous() {
        return match world.written {
            Some(written) => behind(most.max(written), terms.max_data_loss),
            None if terms.max_data_loss == u64::MAX => Ok(()),
            None => Err(Unelectable::Unheard),
        };
    }
    let primary = world.primary.and_then(|id| world.node(id));
    let others = world.present().filter(|node| Some(node.id) != world.primary);
    let others: Vec<&str> = others.map(|node| node.standby_name.as_str()).collect();
    let listed = rule.candidates(primary.map_or("", |node| &node.standby_name), &others);
    // Of those nobody can be asked what it has.
    let listed = listed + world.strangers.unwrap_or_default();
    let counted = |(id, _): &&(NodeId, Log)| world.node(*id).is_some_and(|node| rule.lists(&node.standby_name));
    let sealed = sealed.iter().filter(counted).count();
    if sealed + rule.quorum <= listed {
        return Err(Unelectable::Quorum { quorum: rule.quorum, listed, sealed });
    }
    behind(most, 0)
}
