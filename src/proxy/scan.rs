//! Looking at what a server says: headers, and the few messages that mean something to pgpilot.

use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;

use super::link::{CopyIn, Link, LinkRole};
use super::reply::{Commit, Rest, Withhold};
use crate::decide::session::{Completed, Due, OutOfStep, ParameterMap};
use crate::pool::is_told;
use crate::wire::backend::{self as b, ErrorView, Report, TransactionStatus};
use crate::wire::{HEADER_LEN, Header, SqlState, WireError};

/// Something that the session has to act upon.
#[derive(Debug)]
pub(super) enum Signal {
    /// One batch has been answered.
    Batch(TransactionStatus),
    /// These have been skipped after an error in an extended batch.
    Skipped(Vec<Due>),
    /// The reply to what may have committed is about to end, and a cancel request may have met its commit: to be looked at
    /// once more after [`Link::doubt_commit`], or as it is.
    Cancelled,
    /// The server reads COPY data from now on.
    CopyIn,
    /// An error, which is behind what is passable and not yet part of it: [`pass_error`], or a second try elsewhere.
    Error { code: SqlState, fatal: bool, len: usize },
}

/// The server does not speak the protocol: its connection is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    OutOfStep(#[from] OutOfStep),
}

/// An ErrorResponse longer than this is passed on without being looked at.
const ERROR_MAX: usize = 64 * 1024;

impl Link {
    /// Looks at the input from where it was left. `reported` is what the client knows of the server's parameters.
    ///
    /// # Errors
    /// The server is out of step.
    pub(super) fn scan(&mut self, reported: &mut Arc<ParameterMap>) -> Result<Option<Signal>, Broken> {
        loop {
            // Not into the middle of a message.
            while self.reply.rest == Rest::None
                && let Some(own) = self.dues.take_own()
            {
                self.reply.insert(&mut self.lease.input, &own);
            }
            let at = self.reply.passable();
            let available = self.lease.input.len() - at;
            if available == 0 {
                return Ok(None);
            }
            if self.take_rest(available) {
                continue;
            }
            let Some(header) = Header::peek(&self.lease.input[at..])? else { return Ok(None) };
            let whole = available >= header.frame_len();
            match header.tag {
                b::PARAMETER_STATUS if !whole => return Ok(None),
                b::PARAMETER_STATUS => self.on_parameter(header, reported)?,
                // They come at any time: pgpilot says nothing in their midst.
                b::NOTICE_RESPONSE | b::NOTIFICATION_RESPONSE if header.body <= ERROR_MAX && !whole => return Ok(None),
                b::NOTICE_RESPONSE if whole && self.tells_of_unconfirmed_commit(header)? => self.deny_commit(header),
                b::NOTICE_RESPONSE => self.pass_on(header, available),
                b::NOTIFICATION_RESPONSE => {
                    if whole {
                        self.sign_notifications(at..at + header.frame_len())?;
                    }
                    self.pass_on(header, available);
                }
                b::ERROR_RESPONSE if header.body <= ERROR_MAX && !whole => return Ok(None),
                b::ERROR_RESPONSE => return self.on_error(header, available),
                b::READY_FOR_QUERY if !whole => return Ok(None),
                b::READY_FOR_QUERY => {
                    if let Some(signal) = self.on_ready(header, reported)? {
                        return Ok(Some(signal));
                    }
                }
                b::COPY_IN_RESPONSE => {
                    self.on_reply(header, available)?;
                    return Ok(Some(Signal::CopyIn));
                }
                // In its place, an error says what is not known: behind a success, drivers do not expect one.
                b::COMMAND_COMPLETE if self.ends_batch(header) && self.may_be_cancelled() => {
                    return Ok(Some(Signal::Cancelled));
                }
                _ => self.on_reply(header, available)?,
            }
        }
    }

    /// Whether ReadyForQuery is there already behind a message.
    #[inline]
    fn ends_batch(&self, header: Header) -> bool {
        self.lease.input.get(self.reply.passable() + header.frame_len()) == Some(&b::READY_FOR_QUERY)
    }

    /// Whether the batch that has been answered may have committed, and a cancel request may have met its commit. That is
    /// looked at once for each batch.
    fn may_be_cancelled(&mut self) -> bool {
        let examined = std::mem::replace(&mut self.examined, true);
        let commits = self.may_commit && !self.failed && self.status != TransactionStatus::Failed;
        !examined && self.lease.cancel_key.requests.may_have_hit() && commits
    }

    /// Clients tell their own notifications by the process ID that they were given at the start, so that is what stands in
    /// those that come over the connection that the session itself has (libpq's documentation of PQbackendPID).
    fn sign_notifications(&mut self, frames: Range<usize>) -> Result<(), WireError> {
        let of_server = self.lease.cancel_key.pid;
        b::rename_notifier(&mut self.lease.input[frames], of_server, self.pid)
    }

    /// Those that came while a statement of pgpilot's own ran.
    ///
    /// # Errors
    /// The server's messages are none.
    pub(super) fn take_notifications(&mut self) -> Result<BytesMut, WireError> {
        let mut frames = self.lease.notifications.split();
        b::rename_notifier(&mut frames, self.lease.cancel_key.pid, self.pid)?;
        Ok(frames)
    }

    fn take_rest(&mut self, available: usize) -> bool {
        match self.reply.rest {
            Rest::None => false,
            Rest::Forward(n) => {
                let taken = n.min(available);
                if let Some(trace) = &mut self.trace {
                    let at = self.reply.passable();
                    trace.see_more(&self.lease.input[at..at + taken]);
                }
                self.reply.pass_rest(taken, n - taken);
                true
            }
            Rest::Swallow(n) => {
                let taken = n.min(available);
                self.reply.rest = if taken < n { Rest::Swallow(n - taken) } else { Rest::None };
                self.reply.cut(&mut self.lease.input, taken);
                true
            }
        }
    }

    #[inline]
    fn on_reply(&mut self, header: Header, available: usize) -> Result<(), Broken> {
        let answer = self.dues.on_message(header.tag)?;
        match header.tag {
            b::COPY_IN_RESPONSE => {
                self.batch_open |= self.dues.copy_in_started();
                self.copy_in = CopyIn::Active;
            }
            b::COMMAND_COMPLETE if self.copy_in == CopyIn::Active => self.copy_in = CopyIn::No,
            _ => {}
        }
        if answer.forward && self.reply.commit == Commit::AsTold {
            if let Some(trace) = &mut self.trace {
                let at = self.reply.passable();
                trace.see(header.tag, &self.lease.input[at..at + header.frame_len().min(available)]);
            }
            self.pass_on(header, available);
        } else {
            self.swallow(header, available);
        }
        Ok(())
    }

    /// A wait for synchronous standbys that is cancelled, by whomever, ends in a warning and a success
    /// (`SyncRepWaitForLSN` in src/backend/replication/syncrep.c), which is a success that a failover could take back.
    fn tells_of_unconfirmed_commit(&self, header: Header) -> Result<bool, WireError> {
        if self.role != LinkRole::Primary {
            return Ok(false);
        }
        let at = self.reply.passable();
        let view = ErrorView::parse(&self.lease.input[at + HEADER_LEN..at + header.frame_len()])?;
        Ok(view.routine == "SyncRepWaitForLSN")
    }

    /// The client gets an error in the warning's place, and nothing of the success.
    fn deny_commit(&mut self, header: Header) {
        let mut message = BytesMut::new();
        Report::error(
            SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
            "the transaction has been committed, but no standby has confirmed it: a failover may undo it",
        )
        .hint("Look whether it has taken effect before you repeat it.")
        .put(&mut message);
        self.reply.cut(&mut self.lease.input, header.frame_len());
        self.reply.insert(&mut self.lease.input, &message);
        self.failed = true;
        self.reply.commit = Commit::Unconfirmed;
    }

    /// A server says nothing of a wait for standbys that was cancelled if `client_min_messages` is above `warning`: that it
    /// says nothing means nothing then.
    pub(super) fn doubt_commit(&mut self) {
        let mut message = BytesMut::new();
        Report::error(
            SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
            "a cancel request came while this was being committed: a standby may not have confirmed it",
        )
        .hint("Look whether it has taken effect before you repeat it.")
        .put(&mut message);
        self.reply.insert(&mut self.lease.input, &message);
        self.failed = true;
        // Of a success that is still to be passed on, the client is not told any more.
        self.reply.commit = Commit::Unconfirmed;
    }

    fn pass_on(&mut self, header: Header, available: usize) {
        self.reply.pass_message(header.frame_len().min(available), header.frame_len());
    }

    fn swallow(&mut self, header: Header, available: usize) {
        let here = header.frame_len().min(available);
        if here < header.frame_len() {
            self.reply.rest = Rest::Swallow(header.frame_len() - here);
        }
        self.reply.cut(&mut self.lease.input, here);
    }

    fn on_parameter(&mut self, header: Header, reported: &mut Arc<ParameterMap>) -> Result<(), Broken> {
        let at = self.reply.passable();
        let frame = self.lease.input[at..at + header.frame_len()].to_vec();
        let body = &frame[HEADER_LEN..];
        self.lease.note_parameter(body)?;
        let (name, value) = b::parameter_status(body)?;
        // If it is not the value of a RESET, the client is told before the reply ends.
        let began_with = self.resets.began_with(name);
        let value = began_with.unwrap_or(value);
        if !is_told(name) || reported.get(name) == Some(value) {
            self.reply.cut(&mut self.lease.input, header.frame_len());
            return Ok(());
        }
        Arc::make_mut(reported).set(name, value);
        let mut len = header.frame_len();
        if began_with.is_some() {
            let mut message = BytesMut::new();
            b::put_parameter_status(&mut message, name, value);
            self.reply.replace(&mut self.lease.input, len, &message);
            len = message.len();
        }
        self.reply.pass(len);
        Ok(())
    }

    fn on_ready(&mut self, header: Header, reported: &mut Arc<ParameterMap>) -> Result<Option<Signal>, Broken> {
        let at = self.reply.passable();
        let status = TransactionStatus::parse(&self.lease.input[at + HEADER_LEN..at + header.frame_len()])?;
        if self.may_be_cancelled() {
            return Ok(Some(Signal::Cancelled));
        }
        self.examined = false;
        let answer = self.dues.on_message(header.tag)?;
        self.copy_in = CopyIn::No;
        self.status = status;
        if answer.completed != Completed::Batch {
            self.reply.cut(&mut self.lease.input, header.frame_len());
            if self.resets.take_ready() {
                self.end_reply(reported);
            }
            return Ok(None);
        }
        if self.resets.keep_ready() {
            self.reply.cut(&mut self.lease.input, header.frame_len());
        } else {
            self.reply.pass(header.frame_len());
        }
        let next = if self.is_replica() || self.kept.has_more() { Withhold::Yes } else { Withhold::No };
        self.reply.batch_done(next);
        Ok(Some(Signal::Batch(status)))
    }

    fn on_error(&mut self, header: Header, available: usize) -> Result<Option<Signal>, Broken> {
        if header.body > ERROR_MAX {
            self.dues.on_message(header.tag)?;
            self.failed = true;
            self.pass_on(header, available);
            return Ok(None);
        }
        let at = self.reply.passable();
        let view = ErrorView::parse(&self.lease.input[at + HEADER_LEN..at + header.frame_len()])?;
        Ok(Some(Signal::Error { code: view.code, fatal: view.is_fatal(), len: header.frame_len() }))
    }

    /// The error that [`Signal::Error`] told of goes to whom it is for.
    ///
    /// # Errors
    /// Nothing was due.
    pub(super) fn pass_error(&mut self, len: usize) -> Result<Option<Signal>, Broken> {
        self.copy_in = CopyIn::No;
        let answer = self.dues.on_message(b::ERROR_RESPONSE)?;
        let (own, skipped) = match answer.completed {
            Completed::Provoked(report, skipped) => (Some(report), skipped),
            Completed::Failed(skipped) => (None, skipped),
            _ => (None, Vec::new()),
        };
        if answer.forward && self.reply.commit == Commit::AsTold {
            self.failed = true;
            self.reply.pass(len);
        } else {
            self.reply.cut(&mut self.lease.input, len);
        }
        if let Some(report) = own {
            self.failed = true;
            self.reply.insert(&mut self.lease.input, &report);
        }
        Ok((!skipped.is_empty()).then_some(Signal::Skipped(skipped)))
    }

    /// A FATAL error outside everything that is due: the server is about to close the connection.
    pub(super) fn drop_error(&mut self, len: usize) -> BytesMut {
        let at = self.reply.passable();
        let message = BytesMut::from(&self.lease.input[at..at + len]);
        self.reply.cut(&mut self.lease.input, len);
        message
    }

    pub(super) fn is_replica(&self) -> bool {
        self.role == LinkRole::Replica
    }
}
