//! An optimistic transaction: one that may write begins on a replica, and moves to the primary when it does. What it has read
//! is read again there: if it is the same, it is as if the transaction had run there from its beginning.

use std::time::Instant;

use bytes::BytesMut;
use sha2::{Digest, Sha256};

use super::assess::{Assessed, Frame, frames};
use super::batch::{Batch, BatchEnd};
use super::client::Client;
use super::drain;
use super::exchange::keep_reply;
use super::fault::Fault;
use super::link::Link;
use super::names::Names;
use super::sequences::AsksSequences;
use super::session::{Texts, Transaction};
use super::vigil::Denied;
use crate::config::{Consistency, Transactions};
use crate::decide::route::{Demand, Need};
use crate::decide::session::Origin;
use crate::decide::sql::{Intent, Reason, TransactionEnd, TransactionMode};
use crate::pool::{QueryError, ServerConnection};
use crate::telemetry::{Count, Optimistic};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::frontend::{self, BindHead, Parse, Target};
use crate::wire::{HEADER_LEN, SqlState};

/// A session's optimistic transactions.
#[derive(Default)]
pub(super) struct Ventures {
    current: Option<Venture>,
    /// How many in a row the primary has not agreed with ..
    failures: u32,
    /// .. and how many transactions begin there because of that.
    pause: u32,
}

/// The one at hand, as long as it runs on a replica.
struct Venture {
    /// The text of its BEGIN.
    begin: Box<[u8]>,
    steps: Vec<Step>,
    /// Of the messages in `steps`.
    bytes: usize,
    /// What the batch under way becomes a step with, once it has been answered.
    pending: Option<BytesMut>,
}

/// A batch that has been answered.
struct Step {
    /// What asks for the same, on any connection.
    messages: BytesMut,
    rows: Checksum,
}

type Checksum = [u8; 32];

/// So much is kept to be read again: a transaction that reads more moves before that.
const STEPS_MAX: usize = 64;
const BYTES_MAX: usize = 64 * 1024;
/// After so many failures in a row the pauses get no longer: 1024 transactions.
const FAILURES_MAX: u32 = 10;

/// A checksum of the rows in a reply, and of what ends each result, while they pass.
#[derive(Default)]
pub(super) struct Trace {
    sum: Sha256,
    within: Within,
}

/// What the rest of a message is that has not come as a whole.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Within {
    Rows,
    #[default]
    Other,
}

impl Trace {
    /// A message, or its beginning.
    pub(super) fn see(&mut self, tag: u8, bytes: &[u8]) {
        // What describes them depends on how they are asked for.
        self.within = match tag {
            backend::DATA_ROW | backend::COMMAND_COMPLETE => Within::Rows,
            _ => Within::Other,
        };
        self.see_more(bytes);
    }

    /// More of it.
    pub(super) fn see_more(&mut self, bytes: &[u8]) {
        if self.within == Within::Rows {
            self.sum.update(bytes);
        }
    }

    fn checksum(self) -> Checksum {
        self.sum.finalize().into()
    }
}

impl Ventures {
    pub(super) fn are_under_way(&self) -> bool {
        self.current.is_some()
    }

    /// What watches the reply to the batch that is about to be sent.
    pub(super) fn trace(&self) -> Option<Box<Trace>> {
        self.current.as_ref()?.pending.as_ref().map(|_| Box::default())
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

impl Venture {
    fn has_room_for(&self, messages: &BytesMut) -> bool {
        self.steps.len() < STEPS_MAX && self.bytes + messages.len() <= BYTES_MAX
    }

    fn push(&mut self, messages: BytesMut, trace: Trace) {
        self.bytes += messages.len();
        self.steps.push(Step { messages, rows: trace.checksum() });
    }

    /// Begins the transaction on another connection, and reads there what has been read so far. Returns whether it is the same.
    ///
    /// # Errors
    /// The server's, or a loss.
    ///
    /// # Cancel safety
    /// Not cancel safe: the connection must be closed.
    async fn agrees(&self, connection: &mut ServerConnection) -> Result<bool, QueryError> {
        frontend::put_query(&mut connection.output, &self.begin);
        connection.converse(|_, _| Ok(())).await?;
        for step in &self.steps {
            connection.output.extend_from_slice(&step.messages);
            let mut trace = Trace::default();
            connection
                .converse(|tag, frame| {
                    trace.see(tag, frame);
                    Ok(())
                })
                .await?;
            if trace.checksum() != step.rows {
                return Ok(false);
            }
        }
        Ok(true)
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
        promised && plain && self.again(batch, assessed).is_some() && !self.ventures.pauses()
    }

    /// It has: there is a replica for it.
    pub(super) fn begin_venture(&mut self, batch: Batch, assessed: &Assessed) {
        let Transaction::Deferred(deferred) = &self.transaction else { return };
        let pending = self.again(batch, assessed);
        self.ventures.current = Some(Venture { begin: deferred.text.clone(), steps: Vec::new(), bytes: 0, pending });
    }

    /// A batch of an optimistic transaction: it stays on the replica, or moves to the primary first.
    pub(super) async fn venture_on(
        &mut self,
        batch: Batch,
        assessed: &Assessed,
        (need, reason): (Need, Reason),
    ) -> Result<(), Denied> {
        match self.transaction {
            Transaction::Open => {}
            // It does nothing any more but end.
            Transaction::Failed => return Ok(()),
            Transaction::Idle | Transaction::Deferred(_) | Transaction::Lost { .. } => {
                self.ventures.current = None;
                return Ok(());
            }
        }
        let ends = matches!(assessed.ends, Some(TransactionEnd::Commit | TransactionEnd::Rollback));
        if ends && need != Need::Primary {
            return Ok(());
        }
        let again = self.again(batch, assessed);
        let Some(venture) = &mut self.ventures.current else { return Ok(()) };
        venture.pending = again.filter(|again| need != Need::Primary && venture.has_room_for(again));
        if venture.pending.is_some() {
            return Ok(());
        }
        let promise = assessed.needs.promise.over(self.session.policy.consistency);
        self.move_venture(Demand { need: Need::Primary, reason, promise, arrived: Instant::now(), avoid: None }).await
    }

    async fn move_venture(&mut self, demand: Demand) -> Result<(), Denied> {
        self.release_slot().await;
        if let Some(mut link) = self.link.take() {
            keep_reply(&mut self.side, &mut link);
            tokio::spawn(drain::drain(link));
        }
        let shared = self.shared.clone();
        self.vigil().until(shared.gate.pass()).await?;
        let link = self.lease(demand, AsksSequences::No).await?;
        let link = self.resume_venture(link).await?;
        self.link = Some(link);
        Ok(())
    }

    /// The transaction at hand goes on on another connection, if it is one that has read something and may do so.
    pub(super) async fn resume_venture(&mut self, mut link: Link) -> Result<Link, Denied> {
        let Some(venture) = self.ventures.current.take() else { return Ok(link) };
        if !matches!(self.transaction, Transaction::Open) {
            // Nothing of it has been answered: it begins anew.
            self.ventures.current = link.is_replica().then_some(venture);
            return Ok(link);
        }
        let agrees = match self.vigil_before().until(venture.agrees(&mut link.lease)).await {
            Ok(agrees) => agrees,
            Err(denied) => {
                self.registration.slot.set_idle();
                return Err(denied);
            }
        };
        (link.status, link.lease.unnamed, link.is_new) = (TransactionStatus::InTransaction, None, false);
        let fault = match agrees {
            Ok(true) => {
                if link.is_replica() {
                    self.ventures.current = Some(venture);
                } else {
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
        if matches!(fault, Fault::Diverged) {
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
        match (&self.transaction, venture.pending.take(), trace) {
            (Transaction::Open, Some(messages), Some(trace)) => venture.push(messages, *trace),
            (Transaction::Idle, ..) => {
                self.ventures.current = None;
                self.shared.metrics.count(Count::Optimistic(Optimistic::Stayed));
            }
            _ => {}
        }
    }

    /// What asks for the same as a batch that does nothing but read. `None`: it does something else, or nobody knows how.
    fn again(&self, batch: Batch, assessed: &Assessed) -> Option<BytesMut> {
        let session = &self.session;
        let whole = matches!(batch.end, BatchEnd::Simple | BatchEnd::Sync);
        let alike = assessed.needs.promise.over(session.policy.consistency).is_none() && session.pins.is_empty();
        // An EXECUTE names something that other connections do not have.
        let query = assessed.query.iter().flat_map(|judged| judged.statements.iter());
        let reads = assessed.only_reads() && query.into_iter().all(|verdict| verdict.intent == Intent::Read);
        let legible = session.texts == Texts::Legible && !assessed.own;
        (whole && alike && reads && legible).then(|| put_again(&self.side.fresh()[..batch.len], &session.names))?
    }
}

/// Everything in the unnamed statement and portal. `None`: something is asked of another portal, or not all of it at once.
fn put_again(bytes: &[u8], names: &Names) -> Option<BytesMut> {
    let mut out = BytesMut::new();
    let mut parsed: Vec<Parse<'_>> = Vec::new();
    let mut is_bound = false;
    for Frame { tag, bytes } in frames(bytes) {
        let body = &bytes[HEADER_LEN..];
        match tag {
            frontend::QUERY | frontend::SYNC => out.extend_from_slice(bytes),
            frontend::PARSE => parsed.push(Parse::read(body).ok()?),
            frontend::BIND => {
                let head = BindHead::parse(body).ok().filter(|head| head.portal.is_empty())?;
                let here = parsed.iter().rev().find(|parse| parse.name == head.statement);
                match (here, names.find(head.statement).map(|known| &known.statement.origin)) {
                    (Some(parse), _) => Parse { name: b"", ..*parse }.put(&mut out),
                    (None, Some(Origin::Parse { query, types })) => Parse { name: b"", query, types }.put(&mut out),
                    (None, _) => return None,
                }
                let rest = &body[head.rest_at..];
                BindHead::put(&mut out, b"", b"", rest.len());
                out.extend_from_slice(rest);
                is_bound = true;
            }
            frontend::EXECUTE if is_bound && body == ALL_OF_UNNAMED => out.extend_from_slice(bytes),
            // They tell of rows, and have none.
            frontend::DESCRIBE => {}
            frontend::CLOSE => match frontend::target(tag, body).ok()? {
                (Target::Statement, _) => {}
                (Target::Portal, _) => return None,
            },
            _ => return None,
        }
    }
    Some(out)
}

/// The body of an Execute: the unnamed portal, and no limit to the rows.
const ALL_OF_UNNAMED: &[u8] = &[0, 0, 0, 0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(pieces: &[(u8, &[&[u8]])]) -> Checksum {
        let mut trace = Trace::default();
        for (tag, bytes) in pieces {
            trace.see(*tag, bytes[0]);
            bytes[1..].iter().for_each(|more| trace.see_more(more));
        }
        trace.checksum()
    }

    #[test]
    fn rows_have_one_checksum_however_they_come_and_whatever_describes_them() {
        let whole =
            checksum(&[(b'T', &[b"names"]), (b'D', &[b"row one"]), (b'D', &[b"row two"]), (b'C', &[b"SELECT 2"])]);
        let parts = checksum(&[
            (b'2', &[b""]),
            (b'D', &[b"row", b" ", b"one"]),
            (b'D', &[b"row t", b"wo"]),
            (b'C', &[b"SELECT 2"]),
        ]);
        assert_eq!(whole, parts);
        let other = checksum(&[(b'D', &[b"row two"]), (b'D', &[b"row one"]), (b'C', &[b"SELECT 2"])]);
        assert_ne!(whole, other, "another order");
        assert_ne!(whole, checksum(&[(b'D', &[b"row one"]), (b'C', &[b"SELECT 1"])]));
    }

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
