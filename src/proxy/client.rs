//! The one loop of a client: gather a batch, route it, lease a server connection, forward, exchange, settle.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Buf;

use super::assess::{Assessed, frames};
use super::batch::{Batch, BatchEnd, Gathered, gather};
use super::exchange::{Gone, Moved, Passing, SERVER_OUTPUT_MAX, Side, Until, keep_reply, poll_move};
use super::fault::{End, at_fault, stopping};
use super::hold::Pass;
use super::link::{CopyIn, Grant, Link, LinkRole, Purpose};
use super::registry::Registration;
use super::scan::Signal;
use super::session::{Session, Transaction};
use super::shared::{Shared, Who};
use super::shutdown::Watch;
use super::venture::Ventures;
use super::verdicts::Verdicts;
use crate::cluster::Reader;
use crate::decide::sql::Effects;
use crate::pool::PoolHandle;
use crate::telemetry::Count;
use crate::wire::backend::{self, Report, TransactionStatus};
use crate::wire::{Header, SqlState, frontend};

pub(super) struct Client {
    pub shared: Arc<Shared>,
    pub who: Who,
    /// The reload that it has heeded.
    pub generation: u64,
    pub verdicts: Arc<Verdicts>,
    pub snapshots: Reader,
    pub side: Side,
    /// A server connection, while one is held.
    pub link: Option<Link>,
    pub transaction: Transaction,
    pub session: Session,
    pub registration: Registration,
    /// This session's handle on each node's pool, by `NodeId`, once it has been used.
    pub pools: Vec<Option<PoolHandle>>,
    /// After an error of pgpilot's own in an extended batch: everything up to the Sync is ignored.
    pub skipping: bool,
    /// It has been let go after a wait for a primary, and is not done yet.
    pub pass: Option<Pass>,
    pub shutdown: Watch,
    /// The unserved CancelRequests that there were when the statement at hand came: another one means it.
    pub cancels_seen: u32,
    pub ventures: Ventures,
}

impl Client {
    /// Serves the client until it leaves, or nobody is waited for any more.
    pub(super) async fn run(mut self) {
        let cut_off = self.shared.shutdown.watch_cut_off();
        let end = tokio::select! {
            biased;
            end = self.serve_to_its_end() => end,
            () = cut_off => stopping(),
        };
        self.finish(end).await;
    }

    /// # Cancel safety
    /// What the client has been told holds, and all that can be done then is to finish. A server connection that pgpilot was asking something is closed.
    async fn serve_to_its_end(&mut self) -> End {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
            if self.pass.is_some() && self.transaction.is_idle() {
                self.pass = None;
            }
        }
    }

    async fn step(&mut self) -> Result<(), End> {
        if self.side.rest != Passing::Nothing {
            // Of a message whose beginning has been dropped.
            return if self.pass_rest() { Ok(()) } else { self.wait_for_input().await };
        }
        if self.skipping {
            return self.skip().await;
        }
        if self.is_to_listen_again() {
            self.listen_again().await?;
        }
        match gather(self.side.fresh())? {
            Gathered::More => self.wait_for_input().await,
            Gathered::Terminate => Err(End::Left),
            Gathered::StaleCopy(header) => {
                self.drop_frame(header);
                Ok(())
            }
            Gathered::Batch(batch) => self.serve(batch).await,
        }
    }

    async fn serve(&mut self, batch: Batch) -> Result<(), End> {
        self.cancels_seen = self.registration.slot.unserved_cancels();
        self.begin_chained().await?;
        self.keep_order();
        self.heed_reload();
        let assessed = {
            // Taken out for the time being, so that the frames can be read while the session changes.
            let input = std::mem::take(&mut self.side.input);
            let assessed = self.assess(&input[..batch.len]);
            self.side.input = input;
            assessed
        };
        self.flush_output().await?;
        self.settle_own();
        if let Some(report) = self.session.untold.take() {
            return self.refuse(batch, &report);
        }
        if self.answer(batch, &assessed).await? {
            return Ok(());
        }
        self.foresee_own_settings(&assessed);
        if let Err(fault) = self.connect(batch, &assessed).await? {
            self.session.did_not_commit();
            return self.refuse(batch, &fault.report());
        }
        // What has been answered is never taken back.
        self.session.names.decided(u64::MAX);
        self.grant(batch, assessed);
        self.exchange().await?;
        self.settle().await
    }

    /// What pgpilot says itself comes behind what the client has not taken yet of a server's reply.
    fn keep_order(&mut self) {
        if let Some(link) = self.link.as_mut().filter(|link| link.reply.passable() > 0) {
            keep_reply(&mut self.side, link);
        }
    }

    /// Lets a batch flow to the server connection that has been chosen for it.
    fn grant(&mut self, batch: Batch, mut assessed: Assessed) {
        self.keep(batch, &assessed);
        self.note_own(&assessed);
        self.session.note_left(&mut assessed.needs);
        if assessed.needs.effects.contains(Effects::SEQUENCE_STATE) {
            self.shared.sequences.note();
        }
        let text = self.text_to_remember(batch);
        let Some(link) = self.link.as_mut() else { return };
        link.resets.note_left(&self.session, link.dues.batches());
        assessed.executed.text = text;
        link.trace = self.ventures.trace();
        link.take_up(std::mem::take(&mut assessed.executed));
        link.note_end(&assessed, &self.transaction);
        link.grant = match batch.end {
            BatchEnd::Open => {
                // Each frame is looked at again when its turn has come.
                self.session.parsed.clear();
                Grant::ToEndOfBatch
            }
            BatchEnd::Simple | BatchEnd::Sync | BatchEnd::Flush => Grant::Bytes(batch.len),
        };
        if batch.end == BatchEnd::Simple && link.batch_open {
            link.note_query_within();
        }
        link.batch_open = link.leaves_open(batch.end);
        // What was merely prepared can be prepared elsewhere, too.
        link.is_new &= batch.end == BatchEnd::Flush && !assessed.executes;
    }

    /// Moves bytes both ways until the server has answered everything.
    async fn exchange(&mut self) -> Result<(), End> {
        loop {
            self.pump()?;
            let moved = {
                let Client { side, link, session, .. } = self;
                poll_fn(|cx| poll_move(side, link.as_mut(), &mut session.reported, Until::Answered, cx)).await
            };
            match moved {
                Ok(Moved::Input) => {}
                Ok(Moved::Quiet) => return Ok(()),
                Ok(Moved::Signal(signal)) => self.on_signal(signal).await?,
                Err(Gone::Client(error)) => return Err(End::ClientLost(error)),
                Err(Gone::Server(error)) => self.server_lost(&error.to_string()).await?,
                Err(Gone::Broken(error)) => self.server_lost(&error.to_string()).await?,
            }
            if self.link.is_none() {
                return Ok(());
            }
        }
    }

    /// Forwards what may be forwarded of what the client has sent.
    pub(super) fn pump(&mut self) -> Result<(), End> {
        loop {
            let Some(link) = self.link.as_mut() else { return Ok(()) };
            if link.lease.output.len() > SERVER_OUTPUT_MAX {
                return Ok(());
            }
            let progress = if self.side.rest != Passing::Nothing {
                self.pass_rest()
            } else if link.copy_in == CopyIn::Active {
                self.forward_copy()?
            } else {
                match link.grant {
                    Grant::Bytes(0) => self.join()?,
                    Grant::Bytes(n) => self.forward_granted(n)?,
                    Grant::ToEndOfBatch => self.forward_open()?,
                }
            };
            if !progress {
                return Ok(());
            }
        }
    }

    /// Forwards whole frames that have been assessed.
    fn forward_granted(&mut self, granted: usize) -> Result<bool, End> {
        let input = std::mem::take(&mut self.side.input);
        let fresh = &input[self.side.kept..self.side.kept + granted];
        let mut used = 0;
        for frame in frames(fresh) {
            self.forward_frame(frame);
            used += frame.bytes.len();
            let full = self.link.as_ref().is_some_and(|link| link.lease.output.len() > SERVER_OUTPUT_MAX);
            if full {
                break;
            }
        }
        self.side.input = input;
        let Some(link) = self.link.as_mut() else { return Ok(false) };
        link.grant = Grant::Bytes(granted - used);
        if link.kept.is_empty() {
            self.side.input.advance(used);
        } else {
            self.side.kept += used;
        }
        Ok(used > 0)
    }

    /// While a server works, the next batch can be sent behind the one before it, if it would go to the same place anyway.
    fn join(&mut self) -> Result<bool, End> {
        if let Some(link) = self.link.as_mut().filter(|link| !link.again.is_empty()) {
            link.grant = link.again.pop_front_if(|_| link.dues.is_empty()).map_or(Grant::NOTHING, Grant::Bytes);
            return Ok(link.grant != Grant::NOTHING);
        }
        let Some(link) = self.link.as_ref() else { return Ok(false) };
        if self.session.afterwards.is_some() && (self.transaction.is_idle() || self.session.is_chaining()) {
            // What becomes of pgpilot's own settings is known when what is under way has been answered.
            return Ok(false);
        }
        if link.renamed.is_some() || link.resets.are_open() || link.dues.is_empty() || link.dues.len() > MAX_PIPELINE {
            return Ok(false);
        }
        let (role, continues) = (link.role, link.batch_open);
        // A batch has the same outcome as its beginning, unless that follows another batch.
        let follows = !continues || link.dues.batches() > 0;
        let Gathered::Batch(batch) = gather(self.side.fresh())? else { return Ok(false) };
        if !continues && self.transaction.is_idle() && (is_far_ahead(link) || self.makes_way()) {
            return Ok(false);
        }
        let joins = match (role, batch.end) {
            (LinkRole::Replica, end) => end == BatchEnd::Sync && self.joins_replica(batch),
            (_, BatchEnd::Open) => false,
            // The rest of a batch goes where its beginning went.
            (_, end) if continues => end != BatchEnd::Simple,
            _ => !self.may_answer(batch) && !self.transaction_may_end_lease(),
        };
        if !joins || (follows && self.hangs_on_an_outcome(batch)) {
            return Ok(false);
        }
        let input = std::mem::take(&mut self.side.input);
        let assessed = self.assess(&input[self.side.kept..self.side.kept + batch.len]);
        self.side.input = input;
        if let Some(link) = self.link.as_mut() {
            link.purpose = Purpose::Any;
            if !link.is_new {
                link.started = Instant::now();
            }
        }
        self.foresee_own_settings(&assessed);
        self.grant(batch, assessed);
        Ok(true)
    }

    async fn wait_for_input(&mut self) -> Result<(), End> {
        let limit = self.idle_limit();
        let Client { side, link, session, shutdown, transaction, .. } = self;
        // One that keeps its connection may go, too, if it asks for nothing there.
        let may_leave = transaction.is_idle()
            && link
                .as_ref()
                .is_none_or(|link| link.is_quiet() && !link.batch_open && !matches!(side.rest, Passing::Forward(_)));
        let waiting = poll_fn(|cx| {
            if may_leave && Pin::new(&mut *shutdown).poll(cx).is_ready() {
                return Poll::Ready(Err(stopping()));
            }
            poll_move(side, link.as_mut(), &mut session.reported, Until::Input, cx).map(Ok)
        });
        let moved = match limit {
            None => waiting.await?,
            Some((limit, code, message)) => match tokio::time::timeout(limit, waiting).await {
                Ok(moved) => moved?,
                Err(_) => return Err(End::fatal(code, message)),
            },
        };
        match moved {
            Ok(Moved::Input | Moved::Quiet) => Ok(()),
            Ok(Moved::Signal(signal)) => self.on_signal(signal).await,
            Err(Gone::Client(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(End::Left),
            Err(Gone::Client(error)) => Err(End::ClientLost(error)),
            Err(Gone::Server(error)) => self.server_lost(&error.to_string()).await,
            Err(Gone::Broken(error)) => self.server_lost(&error.to_string()).await,
        }
    }

    fn idle_limit(&self) -> Option<(Duration, SqlState, &'static str)> {
        let limits = &self.who.limits;
        let (limit, code, message) = match self.transaction {
            Transaction::Idle => (
                shorter(limits.idle_timeout, self.session.idle_limit),
                SqlState::IDLE_SESSION_TIMEOUT,
                "terminating connection due to idle-session timeout",
            ),
            _ => (
                limits.idle_transaction_timeout,
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                "terminating connection due to idle-in-transaction timeout",
            ),
        };
        (!limit.is_zero()).then_some((limit, code, message))
    }

    pub(super) async fn on_signal(&mut self, signal: Signal) -> Result<(), End> {
        match signal {
            Signal::Batch(status) => {
                self.batch_answered(status);
                self.venture_answered();
            }
            Signal::Skipped(dues) => self.batch_skipped(&dues),
            // What the client has sent behind its statement may flow now.
            Signal::CopyIn => {}
            Signal::Cancelled => self.commit_cancelled(),
            Signal::Error { code, fatal, len } => return self.server_error(code, fatal, len).await,
        }
        Ok(())
    }

    /// A cancel request may have ended the wait of a commit for its standbys.
    fn commit_cancelled(&mut self) {
        let Some(link) = self.link.as_mut().filter(|link| link.role == LinkRole::Primary) else { return };
        let answer = self.shared.cluster.answer(link.node());
        if answer.is_none_or(|answer| !answer.synchronous.is_empty()) {
            link.doubt_commit();
        }
    }

    /// An error of pgpilot's own in place of the batch's reply.
    pub(super) fn refuse(&mut self, batch: Batch, report: &Report) -> Result<(), End> {
        self.lose_transaction();
        self.reject(batch, report);
        Ok(())
    }

    /// As [`Self::refuse`], and nothing else changes.
    pub(super) fn reject(&mut self, batch: Batch, report: &Report) {
        self.tell(report);
        let large = batch.large_simple(self.side.fresh());
        match large {
            Some(header) => self.drop_frame(header),
            None => self.side.input.advance(batch.len),
        }
        if large.is_some() || matches!(batch.end, BatchEnd::Simple | BatchEnd::Sync) {
            let status = self.status();
            backend::put_ready(&mut self.side.output, status);
        } else {
            self.skipping = true;
        }
    }

    /// An error of pgpilot's own in place of the reply to a whole batch that had been sent in vain.
    pub(super) fn refuse_sent(&mut self, length: usize, report: &Report) {
        self.lose_transaction();
        self.tell(report);
        self.side.input.advance(length);
        let status = self.status();
        backend::put_ready(&mut self.side.output, status);
    }

    /// An error of pgpilot's own, at its place in the reply.
    pub(super) fn tell(&mut self, report: &Report) {
        report.put(&mut self.side.output);
        self.shared.metrics.count(Count::Error(at_fault(report.code)));
    }

    /// The client is being told of an error: a transaction of its cannot go on.
    fn lose_transaction(&mut self) {
        if !self.transaction.is_idle() {
            self.transaction = Transaction::Lost { untold: None };
        }
    }

    /// What ReadyForQuery would say now.
    pub(super) fn status(&self) -> TransactionStatus {
        match self.transaction {
            Transaction::Idle => TransactionStatus::Idle,
            Transaction::Deferred(_) | Transaction::Open => TransactionStatus::InTransaction,
            Transaction::Failed | Transaction::Lost { .. } => TransactionStatus::Failed,
        }
    }

    /// Ignores what a server would ignore after an error: everything up to the Sync.
    async fn skip(&mut self) -> Result<(), End> {
        let Some(header) = Header::peek(self.side.fresh())? else { return self.wait_for_input().await };
        match header.tag {
            frontend::TERMINATE => return Err(End::Left),
            frontend::SYNC => {
                self.skipping = false;
                self.keep_order();
                let status = self.status();
                backend::put_ready(&mut self.side.output, status);
            }
            _ => {}
        }
        self.drop_frame(header);
        Ok(())
    }

    /// Drops a frame, also the part of it that has not come yet.
    pub(super) fn drop_frame(&mut self, header: Header) {
        let here = header.frame_len().min(self.side.input.len());
        self.side.input.advance(here);
        if here < header.frame_len() {
            self.side.rest = Passing::Drop(header.frame_len() - here);
        }
    }
}

/// The shorter of two limits, of which zero is none.
fn shorter(configured: Duration, own: Option<Duration>) -> Duration {
    own.map_or(configured, |own| if configured.is_zero() { own } else { configured.min(own) })
}

/// Replies due from one server at once, at most: a client that sends more without reading waits.
const MAX_PIPELINE: usize = 4096;

/// Whether a server has been sent enough batches that are transactions of their own: what it has been sent cannot be taken
/// back when an operator, or somebody who waits for the connection, wants it to stop. They are filled up by halves, many at
/// a time.
fn is_far_ahead(link: &Link) -> bool {
    const MAX_AHEAD: usize = 256;
    let room = if link.lease.output.is_empty() { MAX_AHEAD / 2 } else { MAX_AHEAD };
    link.behind.len() >= room
}
