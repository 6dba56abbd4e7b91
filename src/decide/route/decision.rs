//! The decision itself.

use std::time::{Duration, Instant};

use crate::config::{Consistency, OnAllLagging};
use crate::decide::position::Lsn;
use crate::decide::sql::Reason;

use super::choice::Candidates;
use super::freshness::{Freshness, has_reached, is_in_service, mark_after};
use super::patience::Pull;
use super::policy::Policy;
use super::snapshot::{NodeId, NodeView, Snapshot};

/// A read whose session would stay in the wrong place for good waits for so long at most, also without `replica_wait`.
const SETTLE_WAIT: Duration = Duration::from_millis(20);

/// What a batch asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    pub need: Need,
    /// Why it asks for that.
    pub reason: Reason,
    /// What a hint promises its reads; `None`: what the session is promised.
    pub promise: Option<Consistency>,
    /// When pgpilot got it; waits count from here.
    pub arrived: Instant,
    /// The node that has just failed it: any other one is better, though this one is better than none.
    pub avoid: Option<NodeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Primary,
    /// A read: the consistency mode decides.
    Read,
    /// A hint says replica: as a read, and in a session of mode `primary` as in mode `session`.
    Replica,
}

impl Need {
    /// What two batches need that stay together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Primary, _) | (_, Self::Primary) => Self::Primary,
            (Self::Replica, Self::Replica) => Self::Replica,
            _ => Self::Read,
        }
    }
}

/// Where a batch goes, why, and what the cluster should find out meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub route: Route,
    pub reason: Reason,
    pub ask: Ask,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Primary(NodeId),
    Replica(NodeId),
    /// Not yet: route it anew when the snapshot changes, and at `until` at the latest.
    Wait(WaitFor),
    Refuse(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// A primary to appear.
    Primary { until: Instant },
    /// A replica to reach the position that the read needs.
    Replica { until: Instant },
}

impl WaitFor {
    pub fn until(self) -> Instant {
        match self {
            Self::Primary { until } | Self::Replica { until } => until,
        }
    }
}

/// What the monitor should be asked for because of this decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Nothing,
    /// A new mark, and how far the replicas are: someone waits for it. (Who makes a detour for want of one asks after it:
    /// [`Freshness::wants_mark`].)
    Mark,
}

/// Nobody can be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no primary is available (waited {waited:?})")]
    NoPrimary { waited: Duration },
    #[error("every replica lags behind more than allowed")]
    AllLagging,
}

impl Refusal {
    /// `cannot_connect_now`: drivers and pools know it as worth another try.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::NoPrimary { .. } | Self::AllLagging => "57P03",
        }
    }
}

/// Decides where a batch goes.
///
/// `now` is `demand.arrived` when the batch is routed for the first time, and later when it is routed anew. `load` tells a
/// node's outstanding statements, `dice` is 64 random bits. After the batch has run, tell `freshness`:
/// [`Freshness::wrote`] or [`Freshness::read_from`].
pub fn route(
    demand: &Demand,
    freshness: &mut Freshness,
    snapshot: &Snapshot,
    policy: &Policy,
    load: impl Fn(NodeId) -> u32,
    dice: u64,
    now: Instant,
) -> Decision {
    freshness.follow(snapshot);
    let consistency = match (demand.need, demand.promise.unwrap_or(policy.consistency)) {
        (Need::Primary, _) => return to_primary(demand, demand.reason, snapshot, policy, now),
        (Need::Replica, Consistency::Primary) if demand.promise.is_none() => Consistency::Session,
        (Need::Read | Need::Replica, Consistency::Primary) => {
            return to_primary(demand, Reason::Consistency, snapshot, policy, now);
        }
        (Need::Read | Need::Replica, consistency) => consistency,
    };
    if now == demand.arrived {
        freshness.reads(demand.arrived);
    }
    freshness.resolve(snapshot);
    let bar = Bar::new(consistency, demand, freshness, snapshot);
    let mut reads = Reads { demand, snapshot, policy, now, avoid: demand.avoid };
    let (mut candidates, outlook) = match reads.gather_elsewhere(&bar) {
        Ok(found) => found,
        Err(decision) => return decision,
    };
    let reason = match outlook {
        Outlook::Found => demand.reason,
        Outlook::NoReplica => Reason::NoReplica,
        Outlook::NotCaughtUp { .. } => Reason::NotCaughtUp,
        Outlook::AllLagging => match policy.on_all_lagging {
            _ if policy.reads_on_primary => Reason::AllLagging,
            OnAllLagging::Primary => Reason::AllLagging,
            OnAllLagging::Error => return refuse(Refusal::AllLagging, Reason::AllLagging),
            OnAllLagging::Stale => match reads.gather(&bar, Staleness::Any) {
                (found, Outlook::Found) => {
                    candidates = found;
                    Reason::AllLagging
                }
                _ => Reason::NotCaughtUp,
            },
        },
    };
    let no_other = candidates.len() == 1;
    match candidates.choose(&load, dice) {
        Some(chosen) if snapshot.primary == Some(chosen.id) => {
            Decision { route: Route::Primary(chosen.id), reason, ask: Ask::Nothing }
        }
        Some(chosen) => {
            let held = consistency == Consistency::Session && freshness.held_by() == Some(chosen.id);
            if !held || !no_other {
                freshness.patience.rest();
            } else {
                let pull = reads.pull_away(chosen.id, &load);
                let until = demand.arrived + SETTLE_WAIT;
                if freshness.patience.ends_hold(pull) && now < until {
                    return reads.wait_for_replica(until, reason);
                }
                freshness.patience.hold(pull);
            }
            freshness.choose(chosen.id, snapshot);
            Decision { route: Route::Replica(chosen.id), reason, ask: Ask::Nothing }
        }
        None if reason == Reason::NotCaughtUp => reads.not_caught_up(consistency, freshness, outlook),
        None => to_primary(demand, reason, snapshot, policy, now),
    }
}

/// What a replica must have for this read.
enum Bar<'a> {
    /// Nothing but the session's token.
    Token(&'a Freshness),
    Session(&'a Freshness),
    /// The newest acknowledged write, once it is known.
    Strong(&'a Freshness, Option<Lsn>),
}

impl<'a> Bar<'a> {
    fn new(consistency: Consistency, demand: &Demand, freshness: &'a Freshness, snapshot: &Snapshot) -> Self {
        match consistency {
            Consistency::Eventual => Self::Token(freshness),
            Consistency::Session | Consistency::Primary => Self::Session(freshness),
            Consistency::Strong => Self::Strong(freshness, mark_after(snapshot, demand.arrived)),
        }
    }

    fn is_met_by(&self, node: &NodeView, snapshot: &Snapshot) -> bool {
        match self {
            Self::Token(freshness) => freshness.token_is_met_by(node, snapshot),
            Self::Session(freshness) => {
                freshness.is_met_by(node, snapshot) && freshness.token_is_met_by(node, snapshot)
            }
            // A mark that is newer than the read covers also what its session saw before.
            Self::Strong(freshness, mark) => {
                mark.is_some_and(|lsn| has_reached(node, snapshot.timeline, lsn))
                    && freshness.token_is_met_by(node, snapshot)
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Staleness {
    /// Up to `max_lag`.
    Limited,
    Any,
}

/// What there is to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outlook {
    Found,
    NoReplica,
    AllLagging,
    /// Replicas are fresh, but none has reached what this read needs; the nearest is so far behind.
    NotCaughtUp {
        lag: Option<Duration>,
    },
}

struct Reads<'a> {
    demand: &'a Demand,
    snapshot: &'a Snapshot,
    policy: &'a Policy,
    now: Instant,
    avoid: Option<NodeId>,
}

impl Outlook {
    /// Whether a short wait is likely to end it.
    fn is_brief(self) -> bool {
        matches!(self, Self::NotCaughtUp { lag: Some(lag) } if lag <= SETTLE_WAIT)
    }
}

impl Reads<'_> {
    fn gather(&self, bar: &Bar<'_>, staleness: Staleness) -> (Candidates, Outlook) {
        let mut candidates = Candidates::default();
        let zone = self.policy.zone.as_ref();
        let mut outlook = Outlook::NoReplica;
        let in_question = |node: &&NodeView| is_in_service(node) && self.avoid != Some(node.id);
        for node in self.snapshot.nodes.iter().filter(in_question) {
            let new_enough = node.fresh || staleness == Staleness::Any;
            if new_enough && bar.is_met_by(node, self.snapshot) {
                candidates.add(node, zone);
                outlook = Outlook::Found;
                continue;
            }
            outlook = match outlook {
                Outlook::Found => Outlook::Found,
                Outlook::NotCaughtUp { lag } if new_enough => {
                    Outlook::NotCaughtUp { lag: lag.into_iter().chain(node.lag.time).min() }
                }
                _ if new_enough => Outlook::NotCaughtUp { lag: node.lag.time },
                Outlook::NotCaughtUp { lag } => Outlook::NotCaughtUp { lag },
                Outlook::NoReplica | Outlook::AllLagging => Outlook::AllLagging,
            };
        }
        if outlook == Outlook::Found
            && self.policy.reads_on_primary
            && let Some(primary) = self.snapshot.usable_primary()
            && self.avoid != Some(primary.id)
            && !primary.drained
            && primary.weight > 0
        {
            candidates.add(primary, zone);
        }
        (candidates, outlook)
    }

    /// As [`gather`](Self::gather), of what is not stale; of the node that the read avoids only if there is nothing else to be done.
    fn gather_elsewhere(&mut self, bar: &Bar<'_>) -> Result<(Candidates, Outlook), Decision> {
        let (candidates, outlook) = self.gather(bar, Staleness::Limited);
        if outlook == Outlook::Found || !self.avoids_a_replica() {
            return Ok((candidates, outlook));
        }
        if let Some(decision) = self.none_but_the_avoided(outlook) {
            return Err(decision);
        }
        self.avoid = None;
        Ok(self.gather(bar, Staleness::Limited))
    }

    fn avoids_a_replica(&self) -> bool {
        self.avoid.and_then(|node| self.snapshot.node(node)).is_some_and(is_in_service)
    }

    /// No other replica will do than the one that has just failed the read. A little patience costs less than what has been
    /// spent on it there: the session's last contact may be all that speaks against another one. Then it is the primary's
    /// turn; `None`: if there is one.
    fn none_but_the_avoided(&self, outlook: Outlook) -> Option<Decision> {
        let until = self.demand.arrived + self.policy.replica_wait.max(SETTLE_WAIT);
        if outlook.is_brief() && self.now < until {
            return Some(self.wait_for_replica(until, Reason::NotCaughtUp));
        }
        let primary = self.snapshot.usable_primary()?;
        Some(Decision { route: Route::Primary(primary.id), reason: self.demand.reason, ask: Ask::Nothing })
    }

    /// What draws the session away from the replica that holds it. Another one is much better when it is in pgpilot's own
    /// zone, where this one is not, or less than half as busy; it is as good when it is no busier, and close behind.
    fn pull_away(&self, held: NodeId, load: impl Fn(NodeId) -> u32) -> Pull {
        let near = |node: &NodeView| self.policy.zone.is_some() && node.zone == self.policy.zone;
        let Some(held) = self.snapshot.node(held) else { return Pull::Nothing };
        let held_load = load(held.id);
        let pull = |node: &NodeView| {
            let below = |limit: u32| u64::from(limit) * u64::from(node.weight);
            let load = u64::from(load(node.id)) * u64::from(held.weight);
            match (near(node), near(held)) {
                (true, false) => Pull::Strong,
                (false, true) => Pull::Nothing,
                _ if load < below(held_load / 2) => Pull::Strong,
                _ if load <= below(held_load) && node.lag.time.is_some_and(|lag| lag <= SETTLE_WAIT) => Pull::Little,
                _ => Pull::Nothing,
            }
        };
        let others = self.snapshot.nodes.iter().filter(|node| node.id != held.id && is_in_service(node) && node.fresh);
        others.map(pull).max().unwrap_or(Pull::Nothing)
    }

    /// Asks when the read has come; what is asked then is pursued without being asked for again.
    fn wait_for_replica(&self, until: Instant, reason: Reason) -> Decision {
        let ask = if self.now == self.demand.arrived { Ask::Mark } else { Ask::Nothing };
        Decision { route: Route::Wait(WaitFor::Replica { until }), reason, ask }
    }

    /// Waits for a replica, or takes the detour to the primary.
    fn not_caught_up(&self, consistency: Consistency, freshness: &mut Freshness, outlook: Outlook) -> Decision {
        let settles = outlook.is_brief()
            && match consistency {
                Consistency::Session => freshness.patience.ends_detours(self.now),
                // No read can be known to be covered when it comes.
                Consistency::Strong => freshness.patience.waits_at_once(self.now),
                Consistency::Eventual | Consistency::Primary => false,
            };
        let settle = if settles { SETTLE_WAIT } else { Duration::ZERO };
        let until = self.demand.arrived + self.policy.replica_wait.max(settle);
        if self.now < until {
            return self.wait_for_replica(until, Reason::NotCaughtUp);
        }
        if settles {
            freshness.patience.waited_in_vain(self.now);
        }
        let decision = to_primary(self.demand, Reason::NotCaughtUp, self.snapshot, self.policy, self.now);
        if let Route::Primary(_) = decision.route {
            freshness.detour();
        }
        decision
    }
}

fn to_primary(demand: &Demand, reason: Reason, snapshot: &Snapshot, policy: &Policy, now: Instant) -> Decision {
    if let Some(primary) = snapshot.usable_primary() {
        return Decision { route: Route::Primary(primary.id), reason, ask: Ask::Nothing };
    }
    let until = demand.arrived + policy.primary_wait;
    if now < until {
        let route = Route::Wait(WaitFor::Primary { until });
        return Decision { route, reason: Reason::NoPrimary, ask: Ask::Nothing };
    }
    refuse(Refusal::NoPrimary { waited: now.saturating_duration_since(demand.arrived) }, Reason::NoPrimary)
}

fn refuse(refusal: Refusal, reason: Reason) -> Decision {
    Decision { route: Route::Refuse(refusal), reason, ask: Ask::Nothing }
}
