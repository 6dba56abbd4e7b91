//! A transaction on a replica: one that is READ ONLY, or an optimistic one, which may write and begins there all the same. When it comes to something that
//! the replica must not or cannot do, it moves to the primary. What it has read is read again there: if it is the same, it is as if the transaction had run
//! there from its beginning.

use std::time::Instant;

use bytes::BytesMut;

use super::assess::{Assessed, Reach};
use super::batch::{Batch, BatchEnd};
use super::client::Client;
use super::drain;
use super::exchange::keep_reply;
use super::fault::{End, Fault};
use super::link::Link;
use super::own_settings::OwnSettings;
use super::sequences::AsksSequences;
use super::session::{Deferred, Texts, Transaction};
use super::trail::{Heed, Trace, Trail, put_again};
use super::vigil::Denied;
use crate::config::{Consistency, Transactions};
use crate::decide::route::{Demand, Need};
use crate::decide::session::Departure;
use crate::decide::sql::{Effects, Hint, Intent, Reason, TransactionEnd, TransactionMode};
use crate::pool::QueryError;
use crate::telemetry::{Count, Optimistic};
use crate::wire::SqlState;
use crate::wire::backend::TransactionStatus;

/// A session's transactions on replicas.
#[derive(Default)]
pub(super) struct Ventures {
    current: Option<Venture>,
    /// How many optimistic ones in a row the primary has not agreed with ..
    failures: u32,
    /// .. and how many transactions begin there because of that.
    pause: u32,
}

/// The one at hand, as long as it runs on a replica.
struct Venture {
    kind: Kind,
    /// The BEGIN that pgpilot has answered. `None`: it is the first thing in the trail.
    begin: Option<Deferred>,
    /// As what it began, in that case.
    opened: Option<TransactionMode>,
    trail: Trail,
    /// What was set when the replica was chosen ..
    settings: OwnSettings,
    /// .. and what the transaction was promised.
    promised: Consistency,
    /// Something on the trail would be answered otherwise though no row were different.
    of_the_moment: bool,
    chain: Chain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Optimistic,
    ReadOnly,
}

/// Whether it is over, and another one like it has begun: AND CHAIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    No,
    /// What ends it has been sent.
    Sent,
    Begun,
}

/// After so many failures in a row the pauses get no longer: 1024 transactions.
const FAILURES_MAX: u32 = 10;

impl Ventures {
    pub(super) fn are_under_way(&self) -> bool {
        self.current.is_some()
    }

    /// Whether the one at hand can go on on another server.
    pub(super) fn can_move(&self) -> bool {
        self.current.as_ref().is_some_and(|venture| venture.trail.is_kept())
    }

    /// What watches the reply to the batch that is about to be sent.
    pub(super) fn trace(&self) -> Option<Box<Trace>> {
        let venture = self.current.as_ref().filter(|venture| venture.trail.is_watched())?;
        let heed = match venture.kind {
            Kind::Optimistic => Heed::All,
            Kind::ReadOnly => Heed::Little,
        };
        Some(Box::new(Trace::new(heed)))
    }

    fn succeeded(&mut self) {
        (self.failures, self.pause) = (0, 0);
    }

    fn failed(&mut self) {
        self.pause = 1 << self.failures;
        self.failures = (self.failures + 1).min(FAILURES_MAX);
    }

    /// Whether the transaction that is about to begin is one of those that do not try.
    fn pauses(&mut self) -> bool {
        let pauses = self.pause > 0;
        self.pause = self.pause.saturating_sub(1);
        pauses
    }
}

impl Client {
    /// Whether the transaction that begins with this batch may do so on a replica, though it may write.
    pub(super) fn may_venture(&mut self, mode: TransactionMode, batch: Batch, assessed: &Assessed) -> bool {
        if self.shared.config.load().routing.transactions != Transactions::Optimistic {
            return false;
        }
        // A later read of a strong session has to show what has been written since the first; a standby takes no READ WRITE.
        let promised = matches!(self.session.policy.consistency, Consistency::Eventual | Consistency::Session);
        let plain = mode.is_plain() && !self.session.defaults.serializable;
        promised && plain && self.again(batch, assessed, Kind::Optimistic).is_some() && !self.ventures.pauses()
    }

    /// There is a replica for the transaction that begins with this batch, if one does.
    pub(super) fn begin_venture(&mut self, batch: Batch, assessed: &Assessed, reason: Reason) {
        let begin = match &self.transaction {
            Transaction::Deferred(deferred) => Some(deferred.clone()),
            Transaction::Idle if assessed.executes && assessed.needs.opens.is_some() => None,
            _ => return,
        };
        let opened = assessed.needs.opens.filter(|_| begin.is_none());
        let kind = if reason == Reason::Optimistic { Kind::Optimistic } else { Kind::ReadOnly };
        let mut trail = Trail::new();
        if !trail.goes_on(self.again(batch, assessed, kind)) {
            trail = Trail::Lost;
        }
        let of_the_moment = assessed.needs.effects.contains(Effects::MOMENT);
        self.ventures.current = Some(Venture { begin, opened, trail, of_the_moment, ..self.venture(kind, assessed) });
    }

    /// One of which nothing is known but that it is on a replica now.
    fn venture(&self, kind: Kind, assessed: &Assessed) -> Venture {
        let settings = self.session.own_settings();
        let promised = self.promise_of(assessed).unwrap_or(self.session.policy.consistency);
        Venture {
            kind,
            begin: None,
            opened: None,
            trail: Trail::Lost,
            settings,
            promised,
            of_the_moment: false,
            chain: Chain::No,
        }
    }

    /// What is to be leased for: a transaction that goes on elsewhere is promised no less than where it has been.
    pub(super) fn promise_going_on(&self, promise: Option<Consistency>) -> Option<Consistency> {
        let Some(venture) = &self.ventures.current else { return promise };
        Some(promise.unwrap_or(self.session.policy.consistency).max(venture.promised))
    }

    /// A batch of a transaction on a replica: it stays there, or moves to the primary first.
    pub(super) async fn venture_on(
        &mut self,
        batch: Batch,
        assessed: &Assessed,
        wanted: (Need, Reason),
    ) -> Result<(), Denied> {
        match self.transaction {
            Transaction::Open | Transaction::Failed => {}
            Transaction::Idle | Transaction::Deferred(_) | Transaction::Lost { .. } => {
                self.ventures.current = None;
                return Ok(());
            }
        }
        let chains = assessed.ends.is_some_and(TransactionEnd::chains) && !assessed.needs.promise.reads();
        let (kind, departure) = match &mut self.ventures.current {
            Some(venture) => {
                venture.chain = if chains { Chain::Sent } else { Chain::No };
                (venture.kind, self.departure(assessed, wanted))
            }
            None => return Ok(()),
        };
        let ends = chains || matches!(assessed.ends, Some(TransactionEnd::Commit | TransactionEnd::Rollback));
        // One that has failed does nothing any more but end.
        if matches!(self.transaction, Transaction::Failed) || (departure.is_none() && ends) {
            return Ok(());
        }
        let asks_nothing = kind == Kind::ReadOnly && !assessed.executes;
        if departure.is_none() && (asks_nothing || self.stays(batch, assessed, kind)) {
            return Ok(());
        }
        let (departure, reason) = departure.unwrap_or((Departure::Certain, wanted.1));
        match departure {
            _ if self.ventures.can_move() => {
                let promise = self.promise_of(assessed);
                let demand = Demand { need: Need::Primary, reason, promise, arrived: Instant::now(), avoid: None };
                self.move_venture(demand, AsksSequences::of(assessed.needs.effects)).await
            }
            Departure::Doubtful => Ok(()),
            Departure::Certain => {
                self.leave_transaction().await;
                Err(Fault::BoundToReplica.into())
            }
        }
    }

    /// Why the batch must not run on the transaction's replica.
    fn departure(&self, assessed: &Assessed, (need, reason): (Need, Reason)) -> Option<(Departure, Reason)> {
        let venture = self.ventures.current.as_ref()?;
        let asked = match venture.kind {
            Kind::Optimistic => (need == Need::Primary).then_some((Departure::Certain, reason)),
            Kind::ReadOnly => assessed.needs.departs,
        };
        asked.max(self.outgrown(venture, assessed).map(|reason| (Departure::Certain, reason)))
    }

    /// Why the replica is not good enough any more for what the session has been promised since it was chosen.
    fn outgrown(&self, venture: &Venture, assessed: &Assessed) -> Option<Reason> {
        if !assessed.needs.promise.reads() {
            return None;
        }
        let (then, now) = (&venture.settings, self.session.own_settings());
        let consistency = self.session.policy.consistency;
        let promised = assessed.needs.promise.over(consistency).unwrap_or(consistency);
        if promised > venture.promised {
            return Some(Reason::Consistency);
        }
        if now.hint == Some(Hint::Primary) && then.hint != now.hint {
            return Some(Reason::Hint);
        }
        let node = self.link.as_ref().map(Link::node);
        let snapshot = self.shared.cluster.snapshot();
        let has_reached = || {
            let node = node.and_then(|node| snapshot.node(node));
            node.is_some_and(|node| self.session.freshness.token_is_met_by(node, &snapshot))
        };
        (now.required != then.required && !has_reached()).then_some(Reason::NotCaughtUp)
    }

    /// The batch runs on the replica, if its transaction can still move after that, or need not.
    fn stays(&mut self, batch: Batch, assessed: &Assessed, kind: Kind) -> bool {
        let again = self.again(batch, assessed, kind);
        let Some(venture) = &mut self.ventures.current else { return true };
        venture.of_the_moment |= assessed.needs.effects.contains(Effects::MOMENT);
        if venture.trail.goes_on(again) {
            return true;
        }
        if kind == Kind::ReadOnly {
            venture.trail = Trail::Lost;
        }
        kind == Kind::ReadOnly
    }

    async fn move_venture(&mut self, demand: Demand, asks: AsksSequences) -> Result<(), Denied> {
        self.leave_transaction().await;
        let shared = self.shared.clone();
        self.vigil().until(shared.gate.pass()).await?;
        let link = self.lease(demand, asks).await?;
        let in_vain = self.ventures.current.as_ref().is_some_and(|v| v.kind == Kind::ReadOnly && v.of_the_moment);
        let link = match self.resume_venture(link).await {
            // However often it were repeated.
            Err(Denied::Fault(Fault::Diverged)) if in_vain => return Err(Fault::BoundToReplica.into()),
            resumed => resumed?,
        };
        self.link = Some(link);
        self.own_sequences(asks).await
    }

    /// The replica's part of the transaction is over.
    async fn leave_transaction(&mut self) {
        self.release_slot().await;
        if let Some(mut link) = self.link.take() {
            keep_reply(&mut self.side, &mut link);
            tokio::spawn(drain::drain(link));
        }
    }

    /// The transaction at hand goes on on another connection, if it is one that has read something and may do so.
    pub(super) async fn resume_venture(&mut self, mut link: Link) -> Result<Link, Denied> {
        let Some(venture) = self.ventures.current.take() else { return Ok(link) };
        if !matches!(self.transaction, Transaction::Open) {
            // Nothing of it has been answered: it begins anew.
            self.ventures.current = link.is_replica().then_some(venture);
            return Ok(link);
        }
        let begin = venture.begin.as_ref().map_or(&[][..], |begin| &begin.text);
        let agrees = match self.vigil_before().until(venture.trail.agrees(begin, &mut link.lease)).await {
            Ok(agrees) => agrees,
            Err(denied) => {
                self.registration.slot.set_idle();
                return Err(denied);
            }
        };
        (link.status, link.lease.unnamed, link.is_new) = (TransactionStatus::InTransaction, None, false);
        let is_optimistic = venture.kind == Kind::Optimistic;
        let fault = match agrees {
            Ok(true) => {
                if link.is_replica() {
                    self.ventures.current = Some(venture);
                } else if is_optimistic {
                    self.ventures.succeeded();
                    self.shared.metrics.count(Count::Optimistic(Optimistic::Moved));
                }
                return Ok(link);
            }
            Err(QueryError::Server { code: SqlState::QUERY_CANCELED, .. }) => Fault::Cancelled,
            Ok(false) | Err(QueryError::Server { .. }) => Fault::Diverged,
            Err(error @ (QueryError::Lost(_) | QueryError::Wire(_))) => {
                self.shared.cluster.nudge(link.node());
                self.registration.slot.set_idle();
                return Err(Fault::Prepare(error).into());
            }
        };
        if is_optimistic && matches!(fault, Fault::Diverged) {
            self.ventures.failed();
            self.shared.metrics.count(Count::Optimistic(Optimistic::Diverged));
        }
        self.release_slot().await;
        tokio::spawn(drain::drain(link));
        Err(fault.into())
    }

    /// A batch has been answered.
    pub(super) fn venture_answered(&mut self) {
        let Some(venture) = &mut self.ventures.current else { return };
        let trace = self.link.as_mut().and_then(|link| link.trace.take());
        match self.transaction {
            Transaction::Open if venture.chain == Chain::Sent => venture.chain = Chain::Begun,
            Transaction::Open => venture.trail.answered(trace.map(|trace| *trace)),
            Transaction::Idle => {
                if venture.kind == Kind::Optimistic {
                    self.shared.metrics.count(Count::Optimistic(Optimistic::Stayed));
                }
                self.ventures.current = None;
            }
            // It may come back to life: ROLLBACK TO SAVEPOINT.
            Transaction::Failed => venture.trail = Trail::Lost,
            Transaction::Deferred(_) | Transaction::Lost { .. } => {}
        }
    }

    /// After AND CHAIN the next transaction has begun where the one before it was. Nothing has been asked of it: before something is, it is ended, and the
    /// like of it begins wherever what is asked then may run.
    pub(super) async fn begin_chained(&mut self) -> Result<(), End> {
        let Some(venture) = self.ventures.current.take_if(|venture| venture.chain == Chain::Begun) else {
            return Ok(());
        };
        let like = |mode: TransactionMode| Deferred { text: mode.begin().into_bytes().into(), mode };
        let Some(begin) = venture.begin.clone().or(venture.opened.map(like)) else {
            self.ventures.current = Some(Venture { chain: Chain::No, trail: Trail::Lost, ..venture });
            return Ok(());
        };
        self.keep_cancels_off().await;
        let Some(mut link) = self.link.take() else {
            self.transaction = Transaction::Deferred(begin);
            return Ok(());
        };
        // The client may not have taken all of the reply before.
        keep_reply(&mut self.side, &mut link);
        let ended = self.after(link.lease.query("ROLLBACK")).await?;
        (link.lease.unnamed, link.status) = (None, TransactionStatus::Idle);
        self.link = Some(link);
        if let Err(error) = ended {
            return self.server_lost(&error.to_string()).await;
        }
        self.transaction = Transaction::Idle;
        self.settle().await?;
        self.transaction = Transaction::Deferred(begin);
        Ok(())
    }

    /// What asks for the same as a batch does. `None`: it does something that is not to be done again, or nobody knows how.
    fn again(&self, batch: Batch, assessed: &Assessed, kind: Kind) -> Option<BytesMut> {
        let session = &self.session;
        let whole = matches!(batch.end, BatchEnd::Simple | BatchEnd::Sync);
        let needs = &assessed.needs;
        let alike = match kind {
            Kind::Optimistic => {
                let leaves_nothing =
                    needs.effects.difference(Effects::HINT_UNKNOWN).is_empty() && needs.names.is_empty();
                let promised = needs.promise.over(session.policy.consistency).is_none();
                assessed.reach <= Reach::Begin && leaves_nothing && promised && needs.departs.is_none()
            }
            Kind::ReadOnly => assessed.reach <= Reach::Transaction,
        };
        // An EXECUTE names something that other connections do not have.
        let mut query = assessed.query.iter().flat_map(|judged| judged.statements.iter());
        let names_nothing = !query.any(|verdict| matches!(verdict.intent, Intent::Execute { .. }));
        let legible = session.texts == Texts::Legible && !assessed.own && session.pins.is_empty();
        (whole && alike && names_nothing && legible)
            .then(|| put_again(&self.side.fresh()[..batch.len], &session.names))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ever_more_transactions_begin_on_the_primary_until_one_agrees() {
        let mut ventures = Ventures::default();
        let pauses = |ventures: &mut Ventures| (0..).take_while(|_| ventures.pauses()).count();
        assert_eq!(pauses(&mut ventures), 0);
        for expected in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024] {
            ventures.failed();
            assert_eq!(pauses(&mut ventures), expected);
        }
        ventures.succeeded();
        ventures.failed();
        assert_eq!(pauses(&mut ventures), 1);
    }
}
