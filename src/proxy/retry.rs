//! What a server did not answer is sent to another one: because it refused it, or because it is lost.

use std::time::Instant;

use bytes::Buf;

use super::assess::{Assessed, frames};
use super::batch::{Batch, BatchEnd};
use super::client::Client;
use super::dispatch::SETTLE_DOWN;
use super::drain;
use super::exchange::CLIENT_INPUT_MAX;
use super::fault::{End, Fault};
use super::judged::Executed;
use super::kept::{Content, Kept};
use super::lessons::is_about_recovery;
use super::link::{Grant, Link, LinkRole};
use super::reply::{Delivered, Withhold};
use super::scan::Signal;
use super::sequences::AsksSequences;
use super::session::Transaction;
use super::vigil::Denied;
use crate::config::Consistency;
use crate::decide::route::{Demand, Need, NodeId};
use crate::decide::sql::Reason;
use crate::telemetry::{Count, RetryCause};
use crate::wire::backend::{Report, Severity};
use crate::wire::frontend::{self, Parse};
use crate::wire::{SqlState, backend};

impl Link {
    /// Whether the batches that are kept may be sent to another server: the client has seen nothing of the reply.
    fn can_move(&self) -> bool {
        !self.kept.is_empty() && self.reply.delivered == Delivered::Nothing
    }

    /// Whether they are sent to another one if this one is lost.
    pub(super) fn outlives_loss(&self) -> bool {
        self.can_move() && self.kept.outlive_loss()
    }
}

impl Client {
    /// A batch is about to be sent: it stays in the client's input until it has been answered, if another server can be sent it as well.
    pub(super) fn keep(&mut self, batch: Batch, assessed: &Assessed) {
        // What is merely prepared leaves nothing elsewhere, whatever it would do.
        let only_reads = assessed.only_reads() || !assessed.executes;
        let movable = only_reads && self.transaction.is_idle() && self.session.pins.is_empty();
        let content = if movable { Content::Reads } else { Content::Anything };
        let promise = assessed.needs.promise.over(self.session.policy.consistency);
        let has_room = self.side.kept <= CLIENT_INPUT_MAX;
        let Some(link) = self.link.as_mut() else { return };
        let joins = !link.kept.is_empty();
        let is_whole = !link.leaves_open(batch.end);
        let keeps = match link.role {
            // The first batch on a replica can be sent elsewhere, should the replica refuse it; and what is sent behind it without waiting.
            LinkRole::Replica => joins || ((link.is_new || self.ventures.can_move()) && is_whole),
            // What may have changed something is never sent twice.
            LinkRole::Primary if content == Content::Anything || !is_whole => false,
            LinkRole::Primary if joins => has_room && link.promise.is_none() && promise.is_none(),
            LinkRole::Primary => {
                let behind_nothing = link.dues.is_empty() && !link.dues.is_skipping();
                link.is_new && behind_nothing && (!link.batch_open || batch.end == BatchEnd::Sync)
            }
        };
        if !joins && (keeps || link.is_replica()) {
            link.reply.begin(if keeps { Withhold::Yes } else { Withhold::No });
        }
        if keeps {
            link.kept.push(batch.len, content);
            if joins {
                link.need = link.need.and(assessed.needs.server.map_or(Need::Read, |(need, _)| need));
            }
        } else if joins {
            self.stop_keeping();
        }
    }

    /// Something has been sent behind what is kept that no other server may be sent: so they stay together where they are.
    fn stop_keeping(&mut self) {
        let Self { side, link, .. } = self;
        let Some(link) = link else { return };
        link.kept = Kept::default();
        link.reply.release();
        side.input.advance(std::mem::take(&mut side.kept));
    }

    /// Sends the batches that a server did not answer to another one.
    pub(super) async fn move_on(&mut self, need: Need, why: Why) -> Result<(), End> {
        let Some(mut link) = self.link.take() else { return Ok(()) };
        self.shared.metrics.count(Count::Retry(why.cause()));
        let (from, mut kept) = (link.node(), std::mem::take(&mut link.kept));
        let (executed, behind) = (link.executed.take(), std::mem::take(&mut link.behind));
        let (promise, purpose, started) = (link.promise, link.purpose, link.started);
        if let Some(began) = link.began.take() {
            self.transaction = Transaction::Deferred(began);
        }
        let settled = link.reply.take_settled(&mut link.lease.input);
        self.side.output.extend_from_slice(&settled);
        self.side.kept = 0;
        self.session.names.take_back_from(0);
        self.session.parsed.clear();
        self.release_slot().await;
        // Another server would know nothing of a request that has gone to this one, and clients say it but once.
        let is_cancelled = matches!(why, Why::Lost) && link.lease.cancel_key.requests.may_have_hit();
        match why {
            // What the batches may have left there is to be asked for on the other server.
            Why::Refused(_, len) if !self.session.left.need_inventory() => drain::recycle(link, len),
            Why::Refused(..) | Why::Lost => drop(link),
        }
        let leased =
            if is_cancelled { Err(Fault::Cancelled.into()) } else { self.lease_again(need, promise, from, why).await };
        let leased = match leased {
            Ok(link) => self.resume_venture(link).await,
            denied => denied,
        };
        match leased {
            Ok(link) => {
                let is_idle = self.transaction.is_idle();
                let link = self.link.insert(link);
                link.again = kept.lengths().collect();
                link.grant = link.again.pop_front().map_or(Grant::NOTHING, Grant::Bytes);
                link.trace = self.ventures.trace();
                link.started = started;
                (link.executed, link.behind) = (executed, behind);
                link.is_new = false;
                match why {
                    Why::Lost => {
                        kept.lose();
                        link.purpose = purpose;
                    }
                    Why::Refused(RetryCause::Refused, _) => {
                        kept.doubt();
                        // It was no read there: it may well be a write here.
                        link.may_commit = is_idle && !link.is_replica();
                    }
                    Why::Refused(..) => link.purpose = purpose,
                }
                if link.is_replica() || kept.are_reads() {
                    link.reply.begin(Withhold::Yes);
                    link.kept = kept;
                }
            }
            Err(Denied::End(end)) => return Err(end),
            Err(Denied::Fault(fault)) => {
                let report = fault.report();
                for length in kept.lengths() {
                    self.refuse_sent(length, &report);
                }
            }
        }
        Ok(())
    }

    /// Another connection for what has been sent in vain, which is routed like something that has just come.
    async fn lease_again(
        &mut self,
        need: Need,
        promise: Option<Consistency>,
        from: NodeId,
        why: Why,
    ) -> Result<Link, Denied> {
        if matches!(why, Why::Lost) {
            if self.is_primary(from) {
                let seen = self.snapshots.snapshot().clone();
                self.wait_change(&seen, Instant::now() + SETTLE_DOWN).await?;
            }
            if self.transaction.is_idle() {
                let shared = self.shared.clone();
                self.vigil().until(shared.gate.pass()).await?;
            }
        }
        let demand = Demand { need, reason: Reason::Retried, promise, arrived: Instant::now(), avoid: Some(from) };
        self.lease(demand, AsksSequences::No).await
    }

    /// An error has come; nothing has been done about it yet.
    pub(super) async fn server_error(&mut self, code: SqlState, fatal: bool, len: usize) -> Result<(), End> {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        if code == SqlState::DISK_FULL {
            self.shared.cluster.has_no_room(link.node());
        }
        if fatal {
            return self.server_died(code, len).await;
        }
        if matches!(code, SqlState::UNDEFINED_FUNCTION | SqlState::UNDEFINED_TABLE) {
            self.verdicts.suspect_catalogue();
        }
        let at = link.reply.passable();
        let error = backend::ErrorView::parse(&link.lease.input[at + crate::wire::HEADER_LEN..at + len]);
        let (routine, message) = error.map_or(("", ""), |error| (error.routine, error.message));
        if is_stale_plan(code, routine) {
            // Before anything is prepared again.
            self.shared.statements.plans_are_stale();
            if link.can_move() && prepares_anew(&self.side.input, &link.kept) && link.kept.renew() {
                let need = link.need;
                return self.move_on(need, Why::Refused(RetryCause::StalePlan, len)).await;
            }
        }
        if link.is_replica()
            && link.can_move()
            && let Some(retry) = retry_for(code, routine)
        {
            let (need, cause) = match retry {
                Retry::Elsewhere => {
                    let need = if link.kept.outlive_conflict() { link.need } else { Need::Primary };
                    link.kept.conflict();
                    (need, RetryCause::RecoveryConflict)
                }
                Retry::OnPrimary | Retry::OnPrimaryAndLearn => (Need::Primary, RetryCause::Refused),
            };
            let why = (retry == Retry::OnPrimaryAndLearn).then(|| format!("{code}: {message}"));
            let lesson = why.and_then(|why| self.lesson(why));
            self.move_on(need, Why::Refused(cause, len)).await?;
            if let Some(link) = self.link.as_mut() {
                link.lesson = lesson;
            }
            return Ok(());
        }
        let len = self.reword(len);
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        match link.pass_error(len) {
            Ok(Some(signal)) => {
                if let Signal::Skipped(dues) = signal {
                    self.batch_skipped(&dues);
                }
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => self.server_lost(&error.to_string()).await,
        }
    }

    /// A FATAL error: the connection is about to be closed by the server.
    async fn server_died(&mut self, code: SqlState, len: usize) -> Result<(), End> {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        if !link.is_replica() && !is_about_the_server(code) {
            // It is this session's fault, and would be on another server: a time limit, for instance.
            link.kept.give_up();
        }
        // pg_terminate_backend() of one's own, which a server that is stopped would answer so, too.
        let asked_for_it =
            code == SqlState::ADMIN_SHUTDOWN && link.executed.as_ref().is_some_and(Executed::acts_on_node);
        let message = link.drop_error(len);
        let Ok(view) = backend::ErrorView::parse(&message[crate::wire::HEADER_LEN..]) else {
            return self.server_lost("unknown").await;
        };
        let ends_session = is_about_the_session(code) && (!self.transaction.is_idle() || !self.session.pins.is_empty());
        if asked_for_it || ends_session {
            // As on the server: the session is over, and is told why.
            return Err(End::Fatal(Box::new(Report { severity: Severity::Fatal, ..said(&view) })));
        }
        let why = format!("{} ({})", view.message, view.code);
        self.server_lost(&why).await
    }
}

/// Why batches are sent elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    /// Their server connection is gone.
    Lost,
    /// The error that stands behind what is passable, so many bytes long.
    Refused(RetryCause, usize),
}

impl Why {
    fn cause(self) -> RetryCause {
        match self {
            Self::Lost => RetryCause::ConnectionLost,
            Self::Refused(cause, _) => cause,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    OnPrimary,
    OnPrimaryAndLearn,
    /// On any other node.
    Elsewhere,
}

/// What may be done about a replica's error, by its code and the C function that reported it. The primary answers the same
/// error if it was not about being a replica.
fn retry_for(code: SqlState, routine: &str) -> Option<Retry> {
    match &code.0 {
        // It says nothing of the statement.
        _ if is_stale_plan(code, routine) => Some(Retry::OnPrimary),
        // A standby's refusals, with the codes that it refuses with.
        _ if is_about_recovery(code, routine) => Some(Retry::OnPrimaryAndLearn),
        b"55000" | b"XX000" | b"22023" | b"0A000" => Some(Retry::OnPrimary),
        // What the replica may not have replayed yet, or what lives elsewhere.
        b"42P01" | b"42883" | b"42703" | b"42704" | b"3F000" | b"34000" | b"26000" => Some(Retry::OnPrimary),
        // A conflict with recovery.
        b"40001" | b"40P01" => Some(Retry::Elsewhere),
        _ => None,
    }
}

/// Whether DDL has overtaken a plan: "cached plan must not change result type".
fn is_stale_plan(code: SqlState, routine: &str) -> bool {
    code == SqlState::FEATURE_NOT_SUPPORTED && routine == "RevalidateCachedQuery"
}

/// Whether the first batch that is kept prepares something that others may have prepared before: whatever they know of it,
/// this one shall get what it is now. Who has prepared it earlier is told, for it knows of other columns.
fn prepares_anew(input: &[u8], kept: &Kept) -> bool {
    let length = kept.lengths().next().unwrap_or_default();
    let parses = frames(&input[..length]).filter(|frame| frame.tag == frontend::PARSE);
    parses.filter_map(|frame| Parse::read(frame.body()).ok()).any(|parse| !parse.name.is_empty())
}

fn said(view: &backend::ErrorView<'_>) -> Report {
    Report::error(view.code, view.message)
}

/// Whether a server ends a session with this because of what that does, or does not do in time.
fn is_about_the_session(code: SqlState) -> bool {
    // idle_in_transaction_session_timeout, transaction_timeout, idle_session_timeout
    matches!(&code.0, b"25P03" | b"25P04" | b"57P05")
}

/// Whether a server that ends a connection with this ends others, too.
fn is_about_the_server(code: SqlState) -> bool {
    // admin_shutdown, crash_shutdown, cannot_connect_now
    matches!(&code.0, b"57P01" | b"57P02" | b"57P03")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_standby_refuses_is_learned() {
        assert_eq!(retry_for(SqlState(*b"25006"), "PreventCommandIfReadOnly"), Some(Retry::OnPrimaryAndLearn));
        assert_eq!(retry_for(SqlState(*b"0A000"), "get_relation_info"), Some(Retry::OnPrimaryAndLearn));
        let serializable = "GetSerializableTransactionSnapshot";
        assert_eq!(retry_for(SqlState(*b"0A000"), serializable), Some(Retry::OnPrimary));
        assert_eq!(retry_for(SqlState(*b"0A000"), "RevalidateCachedQuery"), Some(Retry::OnPrimary));
        assert_eq!(retry_for(SqlState(*b"22012"), "int4div"), None);
    }
}
