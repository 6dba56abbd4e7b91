//! What does not fit into a buffer: COPY data, batches without an end in sight, messages larger than memory should hold. It streams through.

use std::sync::Arc;

use bytes::Buf;

use super::assess::Frame;
use super::client::Client;
use super::exchange::{CLIENT_INPUT_MAX, Passing, SERVER_OUTPUT_MAX};
use super::fault::End;
use super::forward::{fail, forward_bind, put_header};
use super::link::{CopyIn, Grant};
use super::names::SessionStatement;
use crate::decide::session::{Fate, Kind, Origin};
use crate::decide::sql::{Classified, Effects, Reason};
use crate::wire::backend::Report;
use crate::wire::frontend::{self, BindHead};
use crate::wire::{HEADER_LEN, Header, SqlState, WireError};

/// A statement may have to be taught to another server, so it has to fit.
const MAX_PREPARED: usize = 16 << 20;

impl Client {
    /// Passes on, or drops, the rest of a message whose beginning has been dealt with. Returns whether anything moved.
    pub(super) fn pass_rest(&mut self) -> bool {
        let n = match self.side.rest {
            Passing::Nothing => return false,
            Passing::Forward(n) | Passing::Drop(n) => n,
        };
        let mut here = n.min(self.side.input.len());
        if let (Passing::Forward(_), Some(link)) = (self.side.rest, self.link.as_mut()) {
            here = here.min(SERVER_OUTPUT_MAX);
            link.lease.output.extend_from_slice(&self.side.input[..here]);
        }
        self.side.input.advance(here);
        self.side.rest = match self.side.rest {
            _ if here == n => Passing::Nothing,
            Passing::Forward(_) => Passing::Forward(n - here),
            _ => Passing::Drop(n - here),
        };
        here > 0
    }

    /// While the server reads COPY data, what may come is passed on as it is.
    pub(super) fn forward_copy(&mut self) -> Result<bool, End> {
        let Some(header) = Header::peek(self.side.fresh())? else { return Ok(false) };
        let Some(link) = self.link.as_mut() else { return Ok(false) };
        match header.tag {
            frontend::COPY_DATA => {
                self.stream_frame(header);
                return Ok(true);
            }
            frontend::COPY_DONE | frontend::COPY_FAIL | frontend::FLUSH | frontend::SYNC => {}
            frontend::TERMINATE => return Err(End::Left),
            other => return Err(WireError::Unexpected(char::from(other)).into()),
        }
        if self.side.fresh().len() < header.frame_len() {
            return Ok(false);
        }
        if matches!(header.tag, frontend::COPY_DONE | frontend::COPY_FAIL) {
            link.copy_in = CopyIn::No;
            if link.batch_open {
                // The server keeps its reply until the Sync, or a Flush: both have to flow without waiting for it.
                link.grant = Grant::ToEndOfBatch;
            }
        }
        self.stream_frame(header);
        Ok(true)
    }

    /// Forwards the next frame of a batch whose end has not been seen.
    pub(super) fn forward_open(&mut self) -> Result<bool, End> {
        let Some(header) = Header::peek(self.side.fresh())? else { return Ok(false) };
        let whole = self.side.fresh().len() >= header.frame_len();
        if !whole && header.frame_len() <= self.side.input_limit {
            return Ok(false);
        }
        match header.tag {
            frontend::TERMINATE => return Err(End::Left),
            // The server has not begun to read them: their turn comes when it has, or they are dropped when it will not.
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => return self.early_copy(header),
            _ if !whole => {
                self.begin_deferred();
                return self.forward_large(header);
            }
            _ => {}
        }
        if matches!(header.tag, frontend::QUERY | frontend::FUNCTION_CALL)
            && let Some(link) = self.link.as_mut()
        {
            link.note_query_within();
        }
        let frame = self.side.input.split_to(header.frame_len());
        self.forward_unseen(Frame { tag: header.tag, bytes: &frame });
        let ends = matches!(header.tag, frontend::SYNC | frontend::QUERY | frontend::FUNCTION_CALL);
        // After an error the server ignores everything but a Sync.
        if ends && self.link.as_ref().is_some_and(|link| !link.dues.is_skipping()) {
            self.end_of_open_batch();
        }
        Ok(true)
    }

    /// COPY data while no COPY is known to run.
    fn early_copy(&mut self, header: Header) -> Result<bool, End> {
        let Some(link) = self.link.as_mut() else { return Ok(false) };
        if link.dues.is_empty() {
            link.copy_in = CopyIn::No;
            self.drop_frame(header);
            return Ok(true);
        }
        if link.copy_in == CopyIn::No {
            // Without this, a server that does not begin a COPY would keep its replies until a Sync.
            frontend::put_flush(&mut link.lease.output);
            link.copy_in = CopyIn::Early;
        }
        Ok(false)
    }

    fn end_of_open_batch(&mut self) {
        if let Some(link) = self.link.as_mut() {
            link.grant = Grant::NOTHING;
            link.batch_open = false;
        }
    }

    /// Forwards the beginning of a frame that is larger than the buffer; the rest follows as it comes.
    fn forward_large(&mut self, header: Header) -> Result<bool, End> {
        match header.tag {
            frontend::BIND => return self.forward_large_bind(header),
            frontend::PARSE => return self.make_room_for_parse(header),
            frontend::QUERY | frontend::FUNCTION_CALL => {}
            other => {
                let message = format!("message {:?} of {} bytes is too long", char::from(other), header.body);
                return Err(End::fatal(SqlState::PROTOCOL_VIOLATION, message));
            }
        }
        let Some(link) = self.link.as_mut() else { return Ok(false) };
        link.executing = true;
        link.lease.unnamed = None;
        link.may_commit = true;
        // Its text is not looked at: whatever it may leave is asked for afterwards.
        self.session.left.effects |= Effects::ANYTHING;
        let number = link.dues.push(Kind::Query, Fate::Client);
        self.session.names.change(number, b"", None);
        self.end_of_open_batch();
        self.stream_frame(header);
        Ok(true)
    }

    fn forward_large_bind(&mut self, header: Header) -> Result<bool, End> {
        let body = self.side.fresh()[HEADER_LEN..].to_vec();
        let head = match BindHead::parse(&body) {
            Ok(head) => head,
            // The names are still to come.
            Err(_) if self.side.fresh().len() < CLIENT_INPUT_MAX => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let Client { session, link, side, .. } = self;
        let Some(link) = link.as_mut() else { return Ok(false) };
        forward_bind(link, session, head, header.body - head.rest_at);
        side.input.advance(HEADER_LEN + head.rest_at);
        side.rest = Passing::Forward(header.body - head.rest_at);
        Ok(true)
    }

    fn make_room_for_parse(&mut self, header: Header) -> Result<bool, End> {
        if header.frame_len() <= MAX_PREPARED {
            self.side.input_limit = header.frame_len().max(CLIENT_INPUT_MAX);
            return Ok(false);
        }
        let is_unnamed = match self.side.fresh().get(HEADER_LEN) {
            None => return Ok(false),
            Some(first) => *first == 0,
        };
        let stamp = self.verdicts.stamp();
        let Client { session, link, shared, .. } = self;
        let Some(link) = link.as_mut() else { return Ok(false) };
        if link.dues.is_skipping() || !is_unnamed {
            if !link.dues.is_skipping() {
                fail(link, &too_large(header));
            }
            self.drop_frame(header);
            return Ok(true);
        }
        // Nobody looks at it, and nobody else can be sent it: whatever it is, it is run where it is now.
        let statement = Arc::new(shared.statements.single(Origin::Large));
        link.lease.unnamed = Some(statement.id);
        session.left.effects |= Effects::ANYTHING;
        let number = link.dues.push(Kind::Parse(statement.id), Fate::Client);
        let verdict = Arc::new(Classified::opaque(Reason::TooLarge).into());
        session.names.change(number, b"", Some(SessionStatement { statement, verdict, stamp }));
        self.stream_frame(header);
        Ok(true)
    }

    /// Forwards a frame as it is, as much of it as has come.
    fn stream_frame(&mut self, header: Header) {
        let Some(link) = self.link.as_mut() else { return };
        put_header(&mut link.lease.output, header);
        self.side.input.advance(HEADER_LEN);
        if header.body > 0 {
            self.side.rest = Passing::Forward(header.body);
        }
    }
}

fn too_large(header: Header) -> Report {
    let message = format!("a prepared statement with a name may have {MAX_PREPARED} bytes at most");
    Report::error(SqlState::PROGRAM_LIMIT_EXCEEDED, message)
        .detail(format!("It has {}.", header.body))
        .hint("Without a name, it may have any length.")
}
