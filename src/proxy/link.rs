//! A server connection in a session's hands, and what is going on between the two.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::among::OwnPortal;
use super::assess::Assessed;
use super::batch::BatchEnd;
use super::deallocate::{Deallocation, Forgetting};
use super::judged::Executed;
use super::kept::Kept;
use super::lessons::Lesson;
use super::reply::{Reply, Rest};
use super::resets::Resets;
use super::reword::Renamed;
use super::session::{Deferred, Transaction};
use super::trail::Trace;
use crate::config::Consistency;
use crate::coordination::Membership;
use crate::decide::route::{Need, NodeId};
use crate::decide::session::{Among, Due, Dues, Kind, StatementId};
use crate::decide::sql::{Reason, TransactionEnd};
use crate::pool::Lease;
use crate::telemetry::Served;
use crate::wire::backend::TransactionStatus;

pub(super) struct Link {
    pub lease: Lease,
    pub role: LinkRole,
    /// The session's process ID, as its client knows it.
    pub pid: u32,
    pub reason: Reason,
    /// What a hint promised the reads for which this server was chosen; `None`: what the session is promised.
    pub promise: Option<Consistency>,
    /// What the batches asked for, for which it was chosen.
    pub need: Need,
    pub dues: Dues,
    pub reply: Reply,
    pub copy_in: CopyIn,
    /// Nothing has been sent for the session yet that another server could not be sent as well.
    pub is_new: bool,
    /// As of the last ReadyForQuery.
    pub status: TransactionStatus,
    pub grant: Grant,
    /// Batches that can be sent elsewhere: on a replica any; on a primary such as only read.
    pub kept: Kept,
    /// The lengths of batches to be sent once more: each when the one before has been answered, which decides what is to be taught for it.
    pub again: VecDeque<usize>,
    /// An error has come since the last ReadyForQuery.
    pub failed: bool,
    /// PREPARE statements under way: the server knows them if no error comes.
    pub preparing: Vec<Preparing>,
    /// The last Query was sent with a statement's name changed.
    pub renamed: Option<Renamed>,
    /// When the batch under way came, before anything that it had to wait for.
    pub started: Instant,
    pub leased: Instant,
    /// When the last batch had been answered.
    pub answered: Instant,
    /// Something that the client asked to be executed has been sent since the last ReadyForQuery.
    pub executing: bool,
    pub purpose: Purpose,
    /// What the batches under way execute: the one that is answered next, and those behind it.
    pub executed: Option<Executed>,
    pub behind: VecDeque<Executed>,
    /// What has been sent since the last ReadyForQuery may commit something.
    pub may_commit: bool,
    /// Something that may write has been sent, and been neither committed nor rolled back.
    pub has_written: bool,
    /// What has been sent since the last ReadyForQuery ends the transaction.
    pub ends_transaction: bool,
    /// It has been seen to that the reply to what has been sent since then tells the truth of a commit that was cancelled.
    pub examined: bool,
    /// A part of an extended batch has been sent, and its Sync not yet.
    pub batch_open: bool,
    /// What a replica refused: if the primary takes it, its like goes there from now on.
    pub lesson: Option<Lesson>,
    /// What the batch under way has run, as far as pgpilot's own statements mind: up to what has been forwarded, ..
    pub among_sent: Among,
    /// .. and up to what has been assessed.
    pub among: (Among, Option<Among>),
    /// The portals to which statements of pgpilot's own have been bound.
    pub own_portals: Vec<OwnPortal>,
    /// A DEALLOCATE that has been bound and not been executed.
    pub deallocation: Option<Deallocation>,
    /// The portals to which a DEALLOCATE ALL or DISCARD ALL has been bound.
    pub forgetful: Vec<Box<[u8]>>,
    /// Those under way: they have the server forget its statements.
    pub forgetting: Vec<Forgetting>,
    /// What is to be set behind a RESET.
    pub resets: Resets,
    /// The transaction that was begun with the first batch, should that have to be sent elsewhere.
    pub began: Option<Deferred>,
    /// Watches the reply to the batch under way, should its transaction have to go on elsewhere.
    pub trace: Option<Box<Trace>>,
    /// On a primary: whose lease has to be good for anything to be sent. `None`: pgpilot is alone.
    pub membership: Option<Arc<Membership>>,
}

/// A PREPARE under way.
pub(super) struct Preparing {
    /// Its number among those that the server has been sent.
    pub message: u64,
    pub name: Box<[u8]>,
    pub id: StatementId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkRole {
    Primary,
    Replica,
}

/// What the statements under way are for, which is how far their session has to be followed by replicas afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Reads alone: on the primary they are on a detour.
    Read,
    /// They may write.
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyIn {
    No,
    /// The client sends COPY data, and the server has not said yet whether it wants any: it has been asked to answer what it has been sent.
    Early,
    /// The server reads COPY data: what the client sends is passed on as it is.
    Active,
}

/// How much of the client's input may be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    /// So many bytes more, which are whole frames and end a batch.
    Bytes(usize),
    /// Everything up to the end of the batch, which has not been seen yet.
    ToEndOfBatch,
}

impl Grant {
    pub(super) const NOTHING: Grant = Grant::Bytes(0);
}

impl Link {
    pub(super) fn new(lease: Lease, role: LinkRole, reason: Reason, now: Instant) -> Self {
        Self {
            lease,
            role,
            pid: 0,
            reason,
            promise: None,
            need: Need::Primary,
            dues: Dues::default(),
            reply: Reply::new(role),
            copy_in: CopyIn::No,
            is_new: true,
            status: TransactionStatus::Idle,
            grant: Grant::NOTHING,
            kept: Kept::default(),
            again: VecDeque::new(),
            failed: false,
            preparing: Vec::new(),
            renamed: None,
            started: now,
            leased: now,
            answered: now,
            executing: false,
            purpose: Purpose::Any,
            executed: None,
            behind: VecDeque::new(),
            may_commit: false,
            has_written: false,
            ends_transaction: false,
            examined: false,
            batch_open: false,
            lesson: None,
            among_sent: Among::default(),
            among: (Among::default(), Some(Among::default())),
            own_portals: Vec::new(),
            deallocation: None,
            forgetful: Vec::new(),
            forgetting: Vec::new(),
            resets: Resets::default(),
            began: None,
            trace: None,
            membership: None,
        }
    }

    /// A batch, or more of an open one, is about to be sent.
    pub(super) fn take_up(&mut self, executed: Executed) {
        match self.behind.back_mut().or(self.executed.as_mut()) {
            None => self.executed = Some(executed),
            Some(batch) if self.batch_open => batch.append(executed),
            Some(_) => self.behind.push_back(executed),
        }
    }

    pub(super) fn note_end(&mut self, assessed: &Assessed, transaction: &Transaction) {
        let commits = assessed.ends.is_some_and(TransactionEnd::commits);
        self.may_commit |= commits || (assessed.writes && transaction.is_idle());
        self.has_written |= assessed.writes;
        self.ends_transaction |= matches!(assessed.ends, Some(TransactionEnd::Commit | TransactionEnd::Rollback));
    }

    /// A Query or a FunctionCall is being sent behind extended messages, and their Sync comes behind it. PostgreSQL 18 then fails whatever comes next, once,
    /// with "unexpected state STARTED": that must not be somebody else's, so the connection is reset before.
    pub(super) fn note_query_within(&mut self) {
        self.lease.tainted = true;
    }

    /// A server has skipped these messages, the first one because it failed: it does not know what it knew after them.
    pub(super) fn forget_skipped(&mut self, dues: &[Due]) {
        let Self { lease, preparing, forgetting, .. } = self;
        // Backwards: what was closed to make room comes back when there is room again.
        for Due { kind, number, .. } in dues.iter().rev() {
            match kind {
                Kind::Parse(id) | Kind::Prepare(id) => {
                    lease.statements.remove(*id);
                    lease.unnamed.take_if(|unnamed| unnamed == id);
                }
                Kind::Close(Some(id)) => drop(lease.statements.insert(*id)),
                Kind::Execute | Kind::Query if forgetting.last().is_some_and(|last| last.message == *number) => {
                    forgetting.pop().into_iter().for_each(|skipped| lease.statements.remember(skipped.before));
                }
                Kind::Query => {
                    if let Some(skipped) = preparing.pop_if(|preparing| preparing.message == *number) {
                        lease.statements.remove(skipped.id);
                    }
                }
                _ => {}
            }
        }
    }

    /// A batch has been answered. Returns the names of what was to be prepared in it by SQL, and is not.
    pub(super) fn failed_prepares(&mut self) -> Vec<Box<[u8]>> {
        let answered = self.preparing.partition_point(|preparing| preparing.message < self.dues.first());
        let (statements, failed) = (&mut self.lease.statements, self.failed);
        let answered = self.preparing.drain(..answered).filter(|_| failed);
        answered.inspect(|preparing| statements.remove(preparing.id)).map(|preparing| preparing.name).collect()
    }

    /// A PREPARE has failed.
    pub(super) fn forget_prepared(&mut self) {
        for preparing in self.preparing.drain(..) {
            self.lease.statements.remove(preparing.id);
        }
    }

    pub(super) fn served(&self) -> Served {
        match self.role {
            LinkRole::Primary => Served::Primary(self.node()),
            LinkRole::Replica => Served::Replica(self.node()),
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.lease.node
    }

    /// Nothing is under way in either direction. After an error in a part of a batch it is for the client to go on.
    pub(super) fn is_quiet(&self) -> bool {
        self.dues.is_empty()
            && (self.batch_open || !self.dues.is_skipping())
            && self.lease.output.is_empty()
            && self.grant == Grant::NOTHING
            && self.again.is_empty()
            && self.copy_in == CopyIn::No
            && self.reply.rest == Rest::None
    }

    /// Whether the server reads COPY data for a statement that runs alone, and has not been sent their end: then there is nothing yet that it could commit.
    pub(super) fn still_reads_copy(&self) -> bool {
        self.copy_in == CopyIn::Active && self.executed.as_ref().is_some_and(Executed::is_one)
    }

    /// Whether the server is going to answer without anything more from the client.
    pub(super) fn works(&self) -> bool {
        !self.dues.is_empty() && self.copy_in == CopyIn::No && self.grant != Grant::ToEndOfBatch
    }

    /// COPY data came early, and everything has been answered without a COPY.
    pub(super) fn knows_of_no_copy(&self) -> bool {
        self.copy_in == CopyIn::Early && self.dues.is_empty()
    }

    /// Whether something more is to come behind a batch that ends like this.
    pub(super) fn leaves_open(&self, end: BatchEnd) -> bool {
        match end {
            BatchEnd::Sync => false,
            // After an error in an extended batch, the server ignores a Query, too.
            BatchEnd::Simple => self.dues.is_skipping(),
            BatchEnd::Flush | BatchEnd::Open => true,
        }
    }
}
