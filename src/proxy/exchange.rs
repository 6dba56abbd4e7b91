//! Moving bytes between a client and its server connection, both ways at once, without a buffer that grows.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::ending::{Ending, Pulse, put_pulse};
use super::link::{CopyIn, Link};
use super::scan::{Broken, Signal};
use crate::net::Stream;
use crate::wire::{Header, frontend};

/// A server's input is filled up to here; what the client does not take stays with the server.
const SERVER_INPUT_MAX: usize = 64 * 1024;
/// So much is asked of a socket at least.
const READ_CHUNK: usize = 8 * 1024;
/// A client's input is filled up to here, which is also the longest batch that can be sent to a second server.
pub(super) const CLIENT_INPUT_MAX: usize = 256 * 1024;
/// No more is taken from the client while so much waits to be sent to the server.
pub(super) const SERVER_OUTPUT_MAX: usize = 64 * 1024;

/// A client's end of the line.
pub(super) struct Side {
    pub stream: Stream,
    /// What has come from the client. The first `kept` bytes have been forwarded already.
    pub input: BytesMut,
    pub kept: usize,
    /// Replies that are not in a server connection's input: pgpilot's own, and what was left when a connection was given back.
    pub output: BytesMut,
    /// A frame of the client's may need more room than usual.
    pub input_limit: usize,
    /// The rest of a message whose beginning has been forwarded or dropped.
    pub rest: Passing,
    ending: Ending,
    /// Bytes that have come from the client and gone to it, and have not been counted yet.
    pub received: u64,
    pub sent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passing {
    Nothing,
    Forward(usize),
    Drop(usize),
}

/// One end has gone.
#[derive(Debug)]
pub(super) enum Gone {
    Client(io::Error),
    Server(io::Error),
    Broken(Broken),
}

/// What a round of moving bytes has brought.
#[derive(Debug)]
pub(super) enum Moved {
    /// The client has sent something, or there is room again to forward what it has sent before.
    Input,
    /// The server has said something that needs a decision.
    Signal(Signal),
    /// Everything has been sent and nothing is due.
    Quiet,
}

/// Who is to do something next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing happens until the client sends something.
    Clients,
    /// What the client has asked for is going to be done, be there more from it or not.
    Ours,
}

/// When to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// When the client has sent something.
    Input,
    /// When the server has answered; also when the client has sent something.
    Answered,
}

impl Side {
    pub(super) fn new(stream: Stream, input: BytesMut) -> Self {
        Self {
            stream,
            input,
            kept: 0,
            output: BytesMut::new(),
            input_limit: CLIENT_INPUT_MAX,
            rest: Passing::Nothing,
            ending: Ending::Open,
            received: 0,
            sent: 0,
        }
    }

    /// What has come and has not been forwarded.
    pub(super) fn fresh(&self) -> &[u8] {
        &self.input[self.kept..]
    }

    fn poll_read(&mut self, turn: Turn, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        match (&mut self.ending, turn) {
            (Ending::Open, _) if self.input.len() < self.input_limit + self.kept => {}
            (Ending::Mute(_), Turn::Clients) => {
                return Poll::Ready(Err(Gone::Client(io::ErrorKind::UnexpectedEof.into())));
            }
            _ => return Poll::Pending,
        }
        let error = match ready!(fill(&mut self.stream, &mut self.input, 1024, cx)) {
            Ok(n) => {
                self.received += n as u64;
                return Poll::Ready(Ok(()));
            }
            Err(error) => error,
        };
        if error.kind() == io::ErrorKind::UnexpectedEof && self.has_goodbye() {
            self.ending = Ending::Goodbye;
        } else if error.kind() == io::ErrorKind::UnexpectedEof && turn == Turn::Ours {
            self.ending = Ending::Mute(Pulse::start());
            // Registers for the first one.
            self.poll_pulse(None, cx);
        } else {
            return Poll::Ready(Err(Gone::Client(error)));
        }
        Poll::Pending
    }

    /// To a client that has closed its side.
    fn poll_pulse(&mut self, link: Option<&Link>, cx: &mut Context<'_>) {
        let Ending::Mute(pulse) = &mut self.ending else { return };
        while pulse.poll_due(cx).is_ready() {
            if self.output.is_empty() && link.is_none_or(|link| link.reply.is_between_messages()) {
                put_pulse(&mut self.output);
            }
        }
    }

    /// Whether Terminate is the last thing that has come.
    fn has_goodbye(&self) -> bool {
        let rest = match self.rest {
            Passing::Nothing => 0,
            Passing::Forward(n) | Passing::Drop(n) => n,
        };
        let mut frames = self.fresh().get(rest..).unwrap_or_default();
        while let Ok(Some(header)) = Header::peek(frames) {
            if header.tag == frontend::TERMINATE {
                return true;
            }
            let Some((_, later)) = frames.split_at_checked(header.frame_len()) else { return false };
            frames = later;
        }
        false
    }

    /// Writes what is ready for the client, as far as it takes it: own output first, then the front of the link's input.
    fn write(&mut self, link: Option<&mut Link>, cx: &mut Context<'_>) -> Result<(), Gone> {
        let mut sent = 0;
        while !self.output.is_empty() {
            let Poll::Ready(n) = write_some(&mut self.stream, &self.output, cx).map_err(Gone::Client)? else { break };
            self.output.advance(n);
            sent += n;
        }
        if let Some(link) = link
            && self.output.is_empty()
        {
            while link.reply.writable() > 0 {
                let bytes = &link.lease.input[..link.reply.writable()];
                let Poll::Ready(n) = write_some(&mut self.stream, bytes, cx).map_err(Gone::Client)? else { break };
                sent += n;
                let Link { lease, reply, .. } = link;
                reply.written(&mut lease.input, n);
            }
        }
        self.sent += sent as u64;
        flush(&mut self.stream, cx).map_err(Gone::Client)
    }
}

impl Link {
    /// Writes what is ready for the server, as far as it takes it. Returns whether it took anything.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, Gone> {
        let lease = &mut *self.lease;
        let mut progress = false;
        if !lease.output.is_empty()
            && let Some(membership) = &self.membership
            && membership.tenure().is_over()
        {
            return Err(Gone::Server(io::Error::other("the lease of this instance is over")));
        }
        while !lease.output.is_empty() {
            let Poll::Ready(n) = write_some(&mut lease.stream, &lease.output, cx).map_err(Gone::Server)? else { break };
            lease.output.advance(n);
            progress = true;
        }
        flush(&mut lease.stream, cx).map_err(Gone::Server)?;
        Ok(progress)
    }

    /// Whether no more is read from the server before the client has taken some of its reply.
    fn is_full(&self) -> bool {
        self.lease.input.len() >= SERVER_INPUT_MAX && self.reply.writable() > 0
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        if self.is_full() {
            return Poll::Pending;
        }
        let lease = &mut *self.lease;
        fill(&mut lease.stream, &mut lease.input, READ_CHUNK, cx).map(|read| read.map(drop).map_err(Gone::Server))
    }
}

/// Writes a part of `bytes`, at least one.
fn write_some(stream: &mut Stream, bytes: &[u8], cx: &mut Context<'_>) -> io::Result<Poll<usize>> {
    // Not a vectored write, which for one piece is only more work.
    match Pin::new(stream).poll_write(cx, bytes) {
        Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
        Poll::Ready(written) => written.map(Poll::Ready),
        Poll::Pending => Ok(Poll::Pending),
    }
}

/// TLS keeps what it has encrypted until it is flushed; a plain socket keeps nothing.
fn flush(stream: &mut Stream, cx: &mut Context<'_>) -> io::Result<()> {
    match Pin::new(stream).poll_flush(cx) {
        Poll::Ready(flushed) => flushed,
        Poll::Pending => Ok(()),
    }
}

/// Reads into `buffer`; the end of the stream is an error here.
fn fill(stream: &mut Stream, buffer: &mut BytesMut, chunk: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    if buffer.capacity() - buffer.len() < chunk / 2 {
        buffer.reserve(chunk);
    }
    match ready!(poll_read_buf(Pin::new(stream), cx, buffer)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        read => Poll::Ready(read),
    }
}

/// Moves bytes until there is something to decide.
///
/// # Cancel safety
/// Safe: everything read is in the buffers, everything written has left them.
pub(super) fn poll_move(
    side: &mut Side,
    mut link: Option<&mut Link>,
    reported: &mut std::sync::Arc<crate::decide::session::ParameterMap>,
    until: Until,
    cx: &mut Context<'_>,
) -> Poll<Result<Moved, Gone>> {
    let copy_in = link.as_deref().map_or(CopyIn::No, |link| link.copy_in);
    loop {
        let mut progress = false;
        if let Some(link) = link.as_deref_mut() {
            // The rest may be waiting for just this, and the client for room to send more.
            if link.write(cx)? && link.lease.output.is_empty() && !side.fresh().is_empty() {
                return Poll::Ready(Ok(Moved::Input));
            }
            // What was read earlier may have been waiting for a decision that is made now.
            if let Some(signal) = link.scan(reported).map_err(Gone::Broken)? {
                return Poll::Ready(Ok(Moved::Signal(signal)));
            }
            // Of a server from which nothing is due, nothing is awaited before the client has its reply.
            let awaited = until == Until::Input || !link.is_quiet();
            if awaited && let Poll::Ready(read) = link.poll_read(cx) {
                // A server that hangs up may have said why: the loop's next turn looks at it only if something came.
                read?;
                progress = true;
                if let Some(signal) = link.scan(reported).map_err(Gone::Broken)? {
                    return Poll::Ready(Ok(Moved::Signal(signal)));
                }
            }
            // A client need not wait for the server's word to send COPY data: they go on now.
            if link.copy_in != copy_in && !side.fresh().is_empty() {
                return Poll::Ready(Ok(Moved::Input));
            }
        }
        side.poll_pulse(link.as_deref(), cx);
        let was_full = link.as_deref().is_some_and(Link::is_full);
        side.write(link.as_deref_mut(), cx)?;
        // There may be room again for what the server has to say.
        progress |= was_full && !link.as_deref().is_some_and(Link::is_full);
        // Within a message of the client's, the server is not in a state in which anybody else could use it.
        let within_message = matches!(side.rest, Passing::Forward(_));
        if until != Until::Input && !within_message && link.as_deref().is_some_and(Link::is_quiet) {
            return Poll::Ready(Ok(Moved::Quiet));
        }
        if link.as_deref().is_some_and(Link::knows_of_no_copy) {
            return Poll::Ready(Ok(Moved::Input));
        }
        let works = until == Until::Answered && !within_message && link.as_deref().is_some_and(Link::works);
        if let Poll::Ready(read) = side.poll_read(if works { Turn::Ours } else { Turn::Clients }, cx) {
            read?;
            return Poll::Ready(Ok(Moved::Input));
        }
        if !progress {
            return Poll::Pending;
        }
    }
}

/// Looks after a client that waits: writes what it is owed, reads what it sends. Ready when it has gone.
///
/// # Cancel safety
/// Safe, as [`poll_move`].
pub(super) fn poll_attend(side: &mut Side, cx: &mut Context<'_>) -> Poll<Gone> {
    loop {
        side.poll_pulse(None, cx);
        if let Err(gone) = side.write(None, cx) {
            return Poll::Ready(gone);
        }
        if let Err(gone) = ready!(side.poll_read(Turn::Ours, cx)) {
            return Poll::Ready(gone);
        }
    }
}

/// As [`keep_reply`], of a link from which nothing more will come. Returns whether the client has the end of whatever it
/// has begun to get: nothing may be said to it otherwise.
#[must_use]
pub(super) fn keep_last_reply(side: &mut Side, link: &mut Link) -> bool {
    link.reply.drop_unsaid();
    keep_reply(side, link);
    !link.reply.ends_within_message()
}

/// What a link that is given up still owes the client goes to the client's own output.
pub(super) fn keep_reply(side: &mut Side, link: &mut Link) {
    let Link { lease, reply, .. } = link;
    let owed = reply.take_passable(&mut lease.input);
    side.output.extend_from_slice(&owed);
}

impl Side {
    /// A batch that was kept for a second try has been answered.
    pub(super) fn batch_answered(&mut self, link: &mut Link) {
        if let Some(length) = link.kept.pop() {
            self.input.advance(length);
            self.kept -= length;
        }
    }
}
