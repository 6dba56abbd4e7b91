//! From what a batch needs to a server connection in the session's state; and what happens when that connection fails it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::assess::{Assessed, Frame, frames};
use super::batch::{Batch, BatchEnd};
use super::client::Client;
use super::drain;
use super::exchange::{CLIENT_INPUT_MAX, keep_reply};
use super::fault::{End, Fault};
use super::link::{Link, LinkRole, Purpose};
use super::registry::Quiet;
use super::sequences::{AsksSequences, place};
use super::session::{Deferred, Transaction};
use super::settle;
use super::vigil::Denied;
use crate::config::{Consistency, PoolMode, RoutingMode};
use crate::decide::route::{
    Ask, Decision, Demand, Need, NodeId, NodeView, Role, Route, Snapshot, State, WaitFor, route,
};
use crate::decide::session::{Due, Fate, Kind, Needs};
use crate::decide::sql::{Effects, Hint, Reason, TransactionMode};
use crate::pool::{Lease, LeaseError, ServerConnection};
use crate::wire::frontend;

/// After a lost or unreachable node, the cluster gets so long to find out before the statement is routed again.
pub(super) const SETTLE_DOWN: Duration = Duration::from_millis(50);

impl Client {
    /// Makes sure that a server connection is held that may run the batch.
    pub(super) async fn connect(&mut self, batch: Batch, assessed: &Assessed) -> Result<Result<(), Fault>, End> {
        match self.try_connect(batch, assessed).await {
            Ok(()) => Ok(Ok(())),
            Err(Denied::Fault(fault)) => Ok(Err(fault)),
            Err(Denied::End(end)) => Err(end),
        }
    }

    async fn try_connect(&mut self, batch: Batch, assessed: &Assessed) -> Result<(), Denied> {
        let started = Instant::now();
        let (need, reason) = self.wants(batch, assessed);
        if self.ventures.are_under_way() {
            self.venture_on(batch, assessed, (need, reason)).await?;
        }
        let promise = self.promise_of(assessed);
        if self.must_leave_replica(need) || self.has_outlived_its_route(promise, assessed) {
            self.leave_replica();
        }
        self.wait_to_begin().await?;
        let reads = need != Need::Primary && self.transaction.is_idle();
        let purpose = if reads { Purpose::Read } else { Purpose::Any };
        let asks = AsksSequences::of(assessed.needs.effects);
        if let Some(link) = self.link.as_mut() {
            if !link.batch_open || purpose == Purpose::Any {
                link.purpose = purpose;
            }
            if link.is_new && !link.is_replica() {
                // What has been sent so far was merely prepared.
                (link.need, link.promise) = (need, promise);
            }
            if !link.is_new {
                link.started = started;
            }
            return self.own_sequences_within(asks).await;
        }
        // The waits that routing may ask for begin when it may.
        let demand = Demand { need, reason, promise, arrived: Instant::now(), avoid: None };
        let link = self.lease(demand, asks).await?;
        let mut link = self.resume_venture(link).await?;
        link.started = started;
        if link.is_replica() {
            self.begin_venture(batch, assessed, reason);
        }
        self.link.insert(link).purpose = purpose;
        self.own_sequences(asks).await
    }

    /// What the batch needs, and why.
    fn wants(&mut self, batch: Batch, assessed: &Assessed) -> (Need, Reason) {
        let (mut need, mut reason) = assessed.needs.server.unwrap_or((Need::Read, Reason::Empty));
        let defaults = self.session.defaults;
        if need == Need::Primary && self.begun_by(assessed).is_some_and(|mode| assessed.needs.may_begin(mode, defaults))
        {
            (need, reason) = (Need::Read, Reason::ReadOnlyTransaction);
        }
        if need != Need::Primary
            && matches!(batch.end, BatchEnd::Open | BatchEnd::Flush)
            && self.is_undecided(batch, assessed)
        {
            (need, reason) = (Need::Primary, Reason::OpenBatch);
        }
        if let Some(hint) = self.session.hint {
            (need, reason) = match (hint, need) {
                (Hint::Primary, Need::Read) => (Need::Primary, Reason::Hint),
                (Hint::Replica, Need::Read) => (Need::Replica, Reason::Hint),
                // What a statement says of itself goes before what its session says.
                (_, Need::Primary | Need::Replica) => (need, reason),
            };
        }
        if let Transaction::Deferred(Deferred { mode, .. }) = self.transaction {
            let mut begun = Needs::default();
            begun.add_begin(mode, self.session.defaults);
            if let Some((Need::Primary, why)) = begun.server {
                let ventures = need != Need::Primary && self.may_venture(mode, batch, assessed);
                (need, reason) = if ventures { (need, Reason::Optimistic) } else { (Need::Primary, why) };
            }
        }
        if (need, reason) == (Need::Primary, Reason::ReadWriteTransaction) && self.ventures_with(batch, assessed) {
            (need, reason) = (Need::Read, Reason::Optimistic);
        }
        if need != Need::Primary && self.is_promised_more_than_a_replica_keeps(assessed) {
            (need, reason) = (Need::Primary, Reason::Consistency);
        }
        if self.who.mode == PoolMode::Session && need == Need::Read {
            // The connection stays for the whole session, which may write later.
            (need, reason) = (Need::Primary, Reason::Pinned);
        }
        if need != Need::Primary && self.shared.config.load().routing.mode == RoutingMode::Shadow {
            (need, reason) = (Need::Primary, Reason::Shadow);
        }
        (need, reason)
    }

    /// Whether a batch that begins a transaction, and reads in it, may do so on a replica, though that may write later.
    fn ventures_with(&mut self, batch: Batch, assessed: &Assessed) -> bool {
        let reads = self.transaction.is_idle() && assessed.executes && assessed.needs.promise.reads();
        let mode = assessed.needs.opens.filter(|_| reads && self.session.hint != Some(Hint::Primary));
        mode.is_some_and(|mode| self.may_venture(mode, batch, assessed))
    }

    /// What a batch is promised, if that is not what the session is. In a transaction, what a statement says of itself can make that more, and not less: the
    /// server that is chosen for it has to do for the others, too.
    pub(super) fn promise_of(&self, assessed: &Assessed) -> Option<Consistency> {
        let session = self.session.policy.consistency;
        let hinted = assessed.needs.promise.over(session)?;
        let alone = self.transaction.is_idle() && assessed.needs.opens.is_none();
        Some(if alone { hinted } else { hinted.max(session) })
    }

    /// Each statement has to show what was acknowledged before its snapshot was taken: at READ COMMITTED, a replica that can do so for a transaction's first
    /// one may not be able to for the others; nor may one, at other levels, if the first does not take the snapshot.
    fn is_promised_more_than_a_replica_keeps(&self, assessed: &Assessed) -> bool {
        let session = self.session.policy.consistency;
        let promised = self.promise_of(assessed).unwrap_or(session);
        let takes_snapshot = assessed.executes && assessed.needs.promise.reads();
        let outlasts = |mode: TransactionMode| !(mode.sees_one_snapshot() && takes_snapshot);
        promised == Consistency::Strong && self.begun_by(assessed).is_some_and(outlasts)
    }

    /// The transaction that begins with a batch.
    fn begun_by(&self, assessed: &Assessed) -> Option<TransactionMode> {
        match &self.transaction {
            Transaction::Idle => assessed.needs.opens,
            Transaction::Deferred(deferred) => Some(deferred.mode),
            Transaction::Open | Transaction::Failed | Transaction::Lost { .. } => None,
        }
    }

    /// A part of a batch whose continuation is not known may go to a replica only if it leaves nothing there but prepared statements.
    fn is_undecided(&self, batch: Batch, assessed: &Assessed) -> bool {
        assessed.executes || batch.end == BatchEnd::Open
    }

    /// A batch that began with a Flush on a replica goes on with something that needs the primary.
    fn must_leave_replica(&self, need: Need) -> bool {
        need == Need::Primary
            && self.transaction.is_idle()
            && self.link.as_ref().is_some_and(|link| {
                // After an error there the rest is skipped, wherever it would have run.
                link.is_replica() && link.batch_open && !link.executing && !link.dues.is_skipping()
            })
    }

    /// The replica was chosen before the read came that a batch goes on with after a Flush: it may lack what has been written since.
    fn has_outlived_its_route(&self, promise: Option<Consistency>, assessed: &Assessed) -> bool {
        let strong = promise.unwrap_or(self.session.policy.consistency) == Consistency::Strong;
        strong && assessed.executes && self.must_leave_replica(Need::Primary)
    }

    /// Whether a batch can be sent to the replica that works at the one before it. All of them can be sent elsewhere together: so it must be a read, and one
    /// that leaves no trace in the session, which would then look otherwise than at the first try.
    pub(super) fn joins_replica(&self, batch: Batch) -> bool {
        let Some(link) = self.link.as_ref() else { return false };
        // One that the batch under way begins must know what it has been asked, and that it has been answered.
        let begins = self.ventures.are_under_way();
        let movable = !link.kept.is_empty() && !link.batch_open && self.transaction.is_idle() && !begins;
        if !movable || self.side.kept > CLIENT_INPUT_MAX || self.transaction_may_end_lease() {
            return false;
        }
        if self.session.policy.consistency == Consistency::Strong || self.session.hint == Some(Hint::Primary) {
            return false;
        }
        if link.promise.is_some() {
            // The node was chosen for reads that are promised something else.
            return false;
        }
        let snapshot = self.shared.cluster.snapshot();
        let in_use =
            |node: &NodeView| node.role == Role::Replica && node.state == State::Up && node.fresh && !node.drained;
        snapshot.node(link.node()).is_some_and(in_use)
            && frames(&self.side.fresh()[..batch.len]).all(|frame| match frame.tag {
                frontend::BIND => self.binds_a_read(frame),
                frontend::EXECUTE | frontend::SYNC => true,
                frontend::DESCRIBE => frame.body().first() == Some(&b'P'),
                _ => false,
            })
    }

    /// Whether a Bind is one of a named statement that any replica may run.
    fn binds_a_read(&self, frame: Frame<'_>) -> bool {
        let Ok(head) = frontend::BindHead::parse(frame.body()) else { return false };
        let Some(known) = self.session.names.find(head.statement).filter(|_| !head.statement.is_empty()) else {
            return false;
        };
        if known.stamp != self.verdicts.stamp() || !known.verdict.depends().is_empty() {
            return false;
        }
        let mut needs = Needs::default();
        known.verdict.statements.iter().for_each(|verdict| needs.add(verdict, self.session.defaults, &|_| None));
        matches!(needs.server, Some((Need::Read | Need::Replica, _)))
            && needs.promise.over(self.session.policy.consistency).is_none()
            && needs.effects.difference(Effects::HARMLESS).is_empty()
            && needs.names.is_empty()
    }

    /// Nothing has been executed there, and what has been prepared can be prepared elsewhere.
    fn leave_replica(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        keep_reply(&mut self.side, &mut link);
        frontend::put_sync(&mut link.lease.output);
        link.dues.push(Kind::Sync, Fate::Us);
        self.registration.slot.set_idle();
        tokio::spawn(drain::drain(link));
    }

    /// Routes until there is a connection or a reason why there is none.
    pub(super) async fn lease(&mut self, mut demand: Demand, asks: AsksSequences) -> Result<Link, Denied> {
        demand.promise = self.promise_going_on(demand.promise);
        let mut now = demand.arrived;
        let mut place = None;
        loop {
            let snapshot = self.snapshots.snapshot().clone();
            let decision = self.decide(&demand, &snapshot, now);
            if decision.ask == Ask::Mark {
                self.shared.cluster.want_mark();
            }
            let (node, role) = match decision.route {
                Route::Primary(node) => (node, LinkRole::Primary),
                Route::Replica(node) => (node, LinkRole::Replica),
                Route::Refuse(refusal) => return Err(refusal.into()),
                Route::Wait(wait) => {
                    if place.is_none() && matches!(wait, WaitFor::Primary { .. }) {
                        place = Some(self.enter_hold()?);
                    }
                    self.wait_change(&snapshot, wait.until()).await?;
                    now = Instant::now();
                    continue;
                }
            };
            if let (LinkRole::Primary, None, Some(place)) = (role, &self.pass, &place) {
                self.wait_for_turn(place, demand.arrived).await?;
                now = Instant::now();
                continue;
            }
            if role == LinkRole::Primary && self.shared.is_barred() {
                // It has just been stopped for a while, and does not know yet what has happened meanwhile.
                self.wait_change(&snapshot, now + SETTLE_DOWN).await?;
                now = Instant::now();
                continue;
            }
            match self.lease_on(node, asks, now).await {
                Ok((lease, waited)) => {
                    let link = self.attach(lease, role, decision.reason, now + waited).await?;
                    if link.membership.is_none() || self.is_primary(node) {
                        let Demand { promise, need, arrived, .. } = demand;
                        return Ok(Link { promise, need, started: arrived, ..link });
                    }
                    // A change of primary has begun, and may have missed this connection when it closed the others.
                    drop(link);
                    self.release_slot().await;
                    now = Instant::now();
                }
                Err(Denied::Fault(fault)) if self.may_route_again(&fault, &demand) => {
                    self.shared.cluster.nudge(node);
                    let until = Instant::now() + SETTLE_DOWN;
                    self.wait_change(&snapshot, until).await?;
                    now = Instant::now();
                }
                // What the replica has not heard of yet, the primary has: a user, a password, a database, what a setting
                // names. Nor does a replica take everything: with serializable as the default, it runs nothing.
                Err(Denied::Fault(fault)) if role == LinkRole::Replica && fault.is_refused_session() => {
                    demand.need = Need::Primary;
                    now = Instant::now();
                }
                // Another node may have room; once, or a read would wait on each of a full cluster.
                Err(Denied::Fault(fault))
                    if role == LinkRole::Replica && fault.is_want_of_room() && demand.avoid.is_none() =>
                {
                    demand.avoid = Some(node);
                    now = Instant::now();
                }
                Err(denied) => return Err(denied),
            }
        }
    }

    pub(super) async fn wait_change(&mut self, seen: &Arc<Snapshot>, until: Instant) -> Result<(), Denied> {
        let shared = self.shared.clone();
        self.vigil().until(shared.cluster.wait_change(seen, until)).await.map(drop)
    }

    fn decide(&mut self, demand: &Demand, snapshot: &Arc<Snapshot>, now: Instant) -> Decision {
        let pools = &self.shared.pools;
        let load = |node| pools.load(node);
        let session = &mut self.session;
        let decision = route(demand, &mut session.freshness, snapshot, &session.policy, load, fastrand::u64(..), now);
        if let Some(loss) = session.freshness.take_loss() {
            self.shared.lost_writes.tell(loss, &self.who, self.registration.slot.pid(), &self.shared.metrics);
        }
        decision
    }

    /// Whether another node, or the same one a moment later, may do better.
    fn may_route_again(&self, fault: &Fault, demand: &Demand) -> bool {
        fault.is_about_the_node() && demand.arrived.elapsed() < self.session.policy.primary_wait
    }

    /// A connection to `node`, brought to the session's state, and how long it had to be waited for.
    async fn lease_on(&mut self, node: NodeId, asks: AsksSequences, now: Instant) -> Result<(Lease, Duration), Denied> {
        let index = usize::from(node.0);
        if self.pools.len() <= index {
            self.pools.resize(index + 1, None);
        }
        if self.pools[index].is_none() {
            self.pools[index] = self.shared.pool(node, &self.who);
        }
        let Some(pool) = self.pools[index].clone() else { return Err(LeaseError::Dismissed.into()) };
        let mut settings = self.session.settings.clone();
        let pid = u64::from(self.registration.slot.pid());
        let sequences_at = self.session.sequences_at;
        let suits = |c: &ServerConnection| match asks {
            // The one that may tell of the session's sequences.
            AsksSequences::Yes => sequences_at == Some(place(c)),
            // One that knows the session's statements, or on which nothing has to be set.
            AsksSequences::No => {
                c.last_session == pid || Arc::ptr_eq(&c.settings, &settings) || *c.settings == *settings
            }
        };
        let (mut lease, waited) = self.vigil().until(pool.lease(suits, now)).await??;
        self.shared.metrics.checkout(waited);
        if !settle::are_one(&mut settings, &mut lease.settings) {
            self.prepare_lease(&mut lease, &mut settings).await?;
        }
        self.session.settings = settings;
        Ok((lease, waited))
    }

    async fn attach(&mut self, mut lease: Lease, role: LinkRole, reason: Reason, now: Instant) -> Result<Link, Denied> {
        self.registration.slot.set_busy(&lease.cancel_key, lease.node);
        if self.registration.slot.unserved_cancels() != self.cancels_seen {
            // It came while nobody was waiting for it, and clients say it but once.
            self.release_slot().await;
            lease.release(now);
            return Err(Fault::Cancelled.into());
        }
        settle::tell_parameters(&mut self.session.reported, &mut lease.parameters, &mut self.side.output);
        let mut link = Link::new(lease, role, reason, now);
        link.pid = self.registration.slot.pid();
        if role == LinkRole::Primary {
            link.membership = self.shared.membership.get().cloned();
        }
        Ok(link)
    }

    pub(super) fn batch_skipped(&mut self, dues: &[Due]) {
        let (Some(first), Some(last)) = (dues.first(), dues.last()) else { return };
        self.session.names.take_back(first.number, last.number);
        let Some(link) = self.link.as_mut() else { return };
        link.forget_skipped(dues);
        if !link.dues.is_skipping() {
            return;
        }
        // The server waits for a Sync.
        link.batch_open = true;
        let ours = dues.iter().take_while(|due| due.fate == Fate::Us).count();
        if dues.get(ours).is_some_and(|due| matches!(due.kind, Kind::Query | Kind::Call)) {
            // A BEGIN of ours failed before a simple Query, which the server has skipped with it: the client does not send one.
            frontend::put_sync(&mut link.lease.output);
            link.dues.push(Kind::Sync, Fate::Client);
            link.batch_open = false;
        }
    }

    /// No cancel request may reach the server connection any more: it is about to be somebody else's, or nobody's.
    pub(super) async fn release_slot(&self) {
        let slot = &self.registration.slot;
        if slot.set_idle() == Quiet::CancelOnItsWay {
            slot.wait_quiet().await;
        }
        self.link.iter().for_each(|link| link.lease.cancel_key.requests.settle());
    }
}
