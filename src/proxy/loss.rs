//! A server connection breaks: what is sent elsewhere, and what the client is told of the rest.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::assess::{Frame, frames};
use super::batch::{Batch, BatchEnd};
use super::client::Client;
use super::exchange::{Passing, keep_last_reply};
use super::fault::{End, at_fault};
use super::judged::Judged;
use super::link::{Grant, Link, LinkRole};
use super::listening::DEAF;
use super::retry::Why;
use super::session::Transaction;
use super::shared::Handover;
use crate::decide::session::Pin;
use crate::decide::sql::{Intent, TransactionEnd, Verdict};
use crate::telemetry::Count;
use crate::wire::SqlState;
use crate::wire::backend::{self, Report};
use crate::wire::frontend::{self, BindHead, Parse, Target};

impl Client {
    /// The server connection is gone. What it had not answered is sent elsewhere if that is safe; else the client is told what is known of it.
    pub(super) async fn server_lost(&mut self, why: &str) -> Result<(), End> {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        self.shared.cluster.nudge(link.node());
        tracing::info!(node = link.node().0, why, "a server connection was lost");
        if link.outlives_loss() {
            let need = link.need;
            return self.move_on(need, Why::Lost).await;
        }
        let Some(mut link) = self.link.take() else { return Ok(()) };
        self.release_slot().await;
        let is_whole = keep_last_reply(&mut self.side, &mut link);
        self.side.input.advance(std::mem::take(&mut self.side.kept));
        if !is_whole {
            return Err(End::Torn);
        }
        self.report_loss(&link, why)
    }

    fn report_loss(&mut self, link: &Link, why: &str) -> Result<(), End> {
        if link.role == LinkRole::Primary && link.executing {
            // It may have been committed: then the session's reads have to show it.
            self.session.freshness.wrote(Instant::now());
        }
        self.session.names.take_back_from(link.dues.first());
        let standing = self.session.standing_pins.clone();
        let mut pins = std::mem::replace(&mut self.session.pins, standing);
        pins.retain(|pin| !matches!(pin, Pin::SessionMode | Pin::SequenceState));
        self.registration.slot.set_pins(&self.session.pins);
        if self.can_listen_again(&pins) {
            pins.clear();
        }
        self.side.rest = match self.side.rest {
            Passing::Forward(n) => Passing::Drop(n),
            other => other,
        };
        let in_transaction = !self.transaction.is_idle();
        let is_between = link.is_quiet() && !link.batch_open;
        if is_between && pins.is_empty() && matches!(self.transaction, Transaction::Open) && self.ventures.can_move() {
            // Another server is asked for what it has read, before its next statement.
            return Ok(());
        }
        let handover = self.shared.handover.load_full();
        let handover = handover.filter(|it| link.role == LinkRole::Primary && it.node == link.node());
        let report = loss_report(link, in_transaction, why, &pins, handover.as_deref());
        if is_between {
            return self.report_later(report, &pins);
        }
        if !link.ends_transaction {
            self.session.did_not_commit();
        }
        if in_transaction {
            // Whatever became of a transaction that was being ended, it is over.
            self.transaction =
                if link.ends_transaction { Transaction::Idle } else { Transaction::Lost { untold: None } };
        }
        // One loss, however many batches it is told of.
        self.shared.metrics.count(Count::Error(at_fault(report.code)));
        let status = self.status();
        let ends = link.dues.batches() + usize::from(link.resets.has_kept_ready());
        for _ in 0..ends {
            report.put(&mut self.side.output);
            backend::put_ready(&mut self.side.output, status);
        }
        if ends == 0 || link.batch_open || link.grant != Grant::NOTHING {
            report.put(&mut self.side.output);
            self.skipping = true;
        }
        Ok(())
    }

    /// Whether a replica has something of the session's that would keep it there: statements that were misjudged have left it. A lock there excludes nobody,
    /// and who stays there can neither write nor see what is new.
    pub(super) fn is_kept_by_replica(&self) -> bool {
        // Who has a connection of its own in any case has chosen that one.
        self.link.as_ref().is_some_and(Link::is_replica) && !self.session.pins.contains(&Pin::SessionMode)
    }

    /// That is taken away, and the session goes on without it.
    pub(super) async fn leave_pins_behind(&mut self) {
        let Some(link) = self.link.take() else { return };
        self.abandon(link).await;
        self.session.standing_pins.retain(|pin| *pin == Pin::SequenceState);
        let standing = self.session.standing_pins.clone();
        let pins = std::mem::replace(&mut self.session.pins, standing);
        self.registration.slot.set_pins(&self.session.pins);
        let lost: Vec<_> = pins.iter().filter(|pin| !self.session.pins.contains(pin)).map(|pin| pin.label()).collect();
        if lost.is_empty() {
            return;
        }
        let code = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
        let report = Report::error(
            code,
            "the statements before this one have left on a replica what no session can keep there",
        )
        .detail(format!("It has been taken away: {}.", lost.join(", ")))
        .hint("Begin the transaction with BEGIN READ ONLY /* pgpilot: primary */. This statement has not been run.");
        self.session.untold = Some(Box::new(report));
    }

    /// Between statements no error is due: the next statement gets it. One who listens, and has lost more than that, may
    /// not send any.
    fn report_later(&mut self, report: Report, pins: &[Pin]) -> Result<(), End> {
        if pins.contains(&Pin::Listen) {
            return Err(End::fatal(SqlState::CONNECTION_FAILURE, DEAF));
        }
        let untold = Some(Box::new(report));
        if !self.transaction.is_idle() {
            self.transaction = Transaction::Lost { untold };
        } else if !pins.is_empty() {
            self.session.untold = untold;
        }
        Ok(())
    }

    /// The transaction's server is gone: the client has to end it, and gets an error until it does. `untold`: what it has not been told yet.
    pub(super) fn answer_lost(&mut self, batch: Batch, untold: Option<Box<Report>>) {
        let mut reply = BytesMut::new();
        let failed = match (self.aim_of(batch), untold) {
            (Aim::End(end), Some(report)) if end.commits() => {
                // As with a COMMIT that a server fails, there is no transaction any more.
                self.shared.metrics.count(Count::Error(at_fault(report.code)));
                report.put(&mut reply);
                self.transaction = Transaction::Idle;
                true
            }
            (aim @ (Aim::End(_) | Aim::PrepareEnd), untold) => {
                self.transaction = match aim {
                    Aim::End(_) => Transaction::Idle,
                    _ => Transaction::Lost { untold },
                };
                put_rolled_back(&mut reply, &self.side.input[..batch.len]);
                self.keep_parsed(batch);
                false
            }
            (Aim::Other, untold) => {
                let report = untold.map_or_else(aborted, |report| *report);
                self.shared.metrics.count(Count::Error(at_fault(report.code)));
                report.put(&mut reply);
                true
            }
        };
        let large = batch.large_simple(self.side.fresh());
        if large.is_some() || matches!(batch.end, BatchEnd::Simple | BatchEnd::Sync) {
            backend::put_ready(&mut reply, self.status());
        } else {
            self.skipping = failed;
        }
        self.side.output.extend_from_slice(&reply);
        match large {
            Some(header) => self.drop_frame(header),
            None => self.side.input.advance(batch.len),
        }
    }

    /// What a batch that needs no server prepares is prepared.
    fn keep_parsed(&mut self, batch: Batch) {
        let input = std::mem::take(&mut self.side.input);
        let parses = frames(&input[..batch.len]).filter(|frame| frame.tag == frontend::PARSE);
        for parse in parses.filter_map(|frame| Parse::read(frame.body()).ok()) {
            let prepared = self.take_parsed(parse);
            self.session.names.set(parse.name, Some(prepared));
        }
        self.side.input = input;
    }

    fn aim_of(&self, batch: Batch) -> Aim {
        let bytes = &self.side.input[..batch.len];
        let (mut end, mut runs) = (None, 0);
        for frame in frames(bytes) {
            let verdict = match frame.tag {
                frontend::QUERY => {
                    runs += 1;
                    frontend::query(frame.body()).ok().map(|text| self.verdict_on(text))
                }
                frontend::PARSE => Parse::read(frame.body()).ok().map(|parse| self.verdict_on(parse.query)),
                frontend::BIND => self.bound_verdict(bytes, frame),
                frontend::EXECUTE => {
                    runs += 1;
                    continue;
                }
                _ => continue,
            };
            let verdict = verdict.as_deref().map(|verdict| &*verdict.statements);
            let Some([Verdict { intent: Intent::End(this), .. }]) = verdict else { return Aim::Other };
            end = Some(*this);
        }
        match (end, runs) {
            (Some(_), 0) => Aim::PrepareEnd,
            (Some(end), 1) => Aim::End(end),
            _ => Aim::Other,
        }
    }

    /// The verdict on what a Bind is of, which the same batch may have prepared.
    fn bound_verdict(&self, batch: &[u8], bind: Frame<'_>) -> Option<Arc<Judged>> {
        let name = BindHead::parse(bind.body()).ok()?.statement;
        let parses = frames(batch).filter(|frame| frame.tag == frontend::PARSE);
        let here = parses.filter_map(|frame| Parse::read(frame.body()).ok()).find(|parse| parse.name == name);
        match here {
            Some(parse) => Some(self.verdict_on(parse.query)),
            None => Some(self.session.names.find(name)?.verdict.clone()),
        }
    }
}

/// What a batch wants in a transaction whose server is lost.
enum Aim {
    End(TransactionEnd),
    /// To end the transaction later.
    PrepareEnd,
    Other,
}

/// What a server says to the end of a failed transaction.
fn put_rolled_back(out: &mut BytesMut, bytes: &[u8]) {
    for frame in frames(bytes) {
        match frame.tag {
            frontend::PARSE => backend::put_empty(out, backend::PARSE_COMPLETE),
            frontend::BIND => backend::put_empty(out, backend::BIND_COMPLETE),
            frontend::DESCRIBE => {
                if let Ok((Target::Statement, _)) = frontend::target(frame.tag, frame.body()) {
                    backend::put_no_parameters(out);
                }
                backend::put_empty(out, backend::NO_DATA);
            }
            frontend::CLOSE => backend::put_empty(out, backend::CLOSE_COMPLETE),
            frontend::EXECUTE | frontend::QUERY => backend::put_command_complete(out, "ROLLBACK"),
            _ => {}
        }
    }
}

pub(super) fn aborted() -> Report {
    let message = "current transaction is aborted, commands ignored until end of transaction block";
    Report::error(SqlState(*b"25P02"), message)
}

fn loss_report(link: &Link, in_transaction: bool, why: &str, pins: &[Pin], handover: Option<&Handover>) -> Report {
    let unknown = link.role == LinkRole::Primary && link.may_commit && link.executing && !link.still_reads_copy();
    let report = if unknown {
        Report::error(
            SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
            "the server was lost while it ran this statement: it may have been committed, or not",
        )
        .hint("Look whether it has taken effect before you repeat it.")
    } else if in_transaction {
        Report::error(SqlState::CONNECTION_FAILURE, "the server was lost: the transaction is rolled back")
            .hint("The session goes on: roll back, and repeat the transaction.")
    } else if link.executing {
        Report::error(SqlState::CONNECTION_FAILURE, "the server was lost while it ran this statement")
            .hint("It changed nothing: it can be repeated.")
    } else if let Some(Handover { heir, .. }) = handover {
        let message = format!("the primary was handed over to {heir}: what this session kept on the old one is lost");
        Report::error(SqlState::ADMIN_SHUTDOWN, message)
            .hint("The session goes on without it. This statement has not been run.")
    } else {
        Report::error(SqlState::CONNECTION_FAILURE, "the server was lost on which this session kept its state")
            .hint("The session goes on without it. This statement has not been run.")
    };
    if pins.is_empty() {
        return report.detail(why);
    }
    let pins: Vec<_> = pins.iter().map(|pin| pin.label()).collect();
    report.detail(format!("{why}. What the session kept on that server is lost: {}.", pins.join(", ")))
}
