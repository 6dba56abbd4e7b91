//! What a transaction on a replica has been asked and has been answered: enough to ask it again on another server, and to tell whether the answer is the same.

use bytes::BytesMut;
use sha2::{Digest, Sha256};

use super::assess::{Frame, frames};
use super::names::Names;
use crate::decide::session::Origin;
use crate::pool::{QueryError, ServerConnection};
use crate::wire::HEADER_LEN;
use crate::wire::backend;
use crate::wire::frontend::{self, BindHead, Parse, Target};

/// A transaction's, from its beginning.
pub(super) enum Trail {
    Kept(Kept),
    /// It has grown too long, or has come to something that cannot be asked again.
    Lost,
}

#[derive(Default)]
pub(super) struct Kept {
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

/// So much is kept to be asked again.
const STEPS_MAX: usize = 64;
const BYTES_MAX: usize = 64 * 1024;
/// Of the reply to one batch of a transaction that is not expected to move, so much is looked at: no large result costs more
/// on its way because of a move that may never come.
const REPLY_MAX: usize = 256 * 1024;

/// A checksum of the rows in a reply, and of what ends each result, while they pass.
pub(super) struct Trace {
    sum: Sha256,
    within: Within,
    /// So many bytes more are looked at.
    room: usize,
    is_whole: bool,
}

/// What the rest of a message is that has not come as a whole.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Within {
    Rows,
    #[default]
    Other,
}

/// How much of a reply is worth looking at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heed {
    All,
    Little,
}

impl Trace {
    pub(super) fn new(heed: Heed) -> Self {
        let room = match heed {
            Heed::All => usize::MAX,
            Heed::Little => REPLY_MAX,
        };
        Self { sum: Sha256::new(), within: Within::Other, room, is_whole: true }
    }

    /// A message, or its beginning.
    pub(super) fn see(&mut self, tag: u8, bytes: &[u8]) {
        // What describes them depends on how they are asked for.
        self.within = match tag {
            backend::DATA_ROW | backend::COPY_DATA | backend::COMMAND_COMPLETE => Within::Rows,
            _ => Within::Other,
        };
        self.see_more(bytes);
    }

    /// More of it.
    pub(super) fn see_more(&mut self, bytes: &[u8]) {
        if self.within != Within::Rows || !self.is_whole {
            return;
        }
        match self.room.checked_sub(bytes.len()) {
            Some(room) => {
                self.room = room;
                self.sum.update(bytes);
            }
            None => self.is_whole = false,
        }
    }

    /// `None`: there was more than has been looked at.
    fn checksum(self) -> Option<Checksum> {
        self.is_whole.then(|| self.sum.finalize().into())
    }
}

impl Trail {
    pub(super) fn new() -> Self {
        Self::Kept(Kept::default())
    }

    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }

    /// A batch is about to be sent, of which this asks for the same. Returns whether that can be a part of the trail.
    pub(super) fn goes_on(&mut self, again: Option<BytesMut>) -> bool {
        let Self::Kept(kept) = self else { return false };
        kept.pending = again.filter(|again| kept.has_room_for(again));
        kept.pending.is_some()
    }

    /// Whether the reply to the batch under way has to be looked at.
    pub(super) fn is_watched(&self) -> bool {
        matches!(self, Self::Kept(kept) if kept.pending.is_some())
    }

    /// The batch has been answered.
    pub(super) fn answered(&mut self, trace: Option<Trace>) {
        let Self::Kept(kept) = self else { return };
        match (kept.pending.take(), trace.map(Trace::checksum)) {
            (Some(messages), Some(Some(rows))) => kept.push(messages, rows),
            (Some(_), _) => *self = Self::Lost,
            // It has asked for nothing.
            (None, _) => {}
        }
    }

    /// Asks all of it again, after `begin`, on another connection. Returns whether the answer is the same.
    ///
    /// # Errors
    /// The server's, or a loss.
    ///
    /// # Cancel safety
    /// Not cancel safe: the connection must be closed.
    pub(super) async fn agrees(&self, begin: &[u8], connection: &mut ServerConnection) -> Result<bool, QueryError> {
        let Self::Kept(kept) = self else { return Ok(false) };
        if !begin.is_empty() {
            frontend::put_query(&mut connection.output, begin);
            connection.converse(|_, _| Ok(())).await?;
        }
        for step in &kept.steps {
            connection.output.extend_from_slice(&step.messages);
            let mut trace = Trace::new(Heed::All);
            connection
                .converse(|tag, frame| {
                    trace.see(tag, frame);
                    Ok(())
                })
                .await?;
            if trace.checksum() != Some(step.rows) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Kept {
    fn has_room_for(&self, messages: &BytesMut) -> bool {
        self.steps.len() < STEPS_MAX && self.bytes + messages.len() <= BYTES_MAX
    }

    fn push(&mut self, messages: BytesMut, rows: Checksum) {
        self.bytes += messages.len();
        self.steps.push(Step { messages, rows });
    }
}

/// Everything in the unnamed statement and portal. `None`: something is asked of another portal, or not all of it at once.
pub(super) fn put_again(bytes: &[u8], names: &Names) -> Option<BytesMut> {
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

    fn trace(heed: Heed, pieces: &[(u8, &[&[u8]])]) -> Option<Checksum> {
        let mut trace = Trace::new(heed);
        for (tag, bytes) in pieces {
            trace.see(*tag, bytes[0]);
            bytes[1..].iter().for_each(|more| trace.see_more(more));
        }
        trace.checksum()
    }

    fn checksum(pieces: &[(u8, &[&[u8]])]) -> Checksum {
        trace(Heed::All, pieces).unwrap()
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
        let copied = |row: &'static [u8]| checksum(&[(b'H', &[b"format"]), (b'd', &[row]), (b'C', &[b"COPY 1"])]);
        assert_ne!(copied(b"one"), copied(b"two"));
    }

    #[test]
    fn of_a_large_reply_no_more_is_looked_at_than_is_worth_it() {
        let row = vec![b'x'; REPLY_MAX / 2];
        let piece: [&[u8]; 1] = [&row];
        let rows = |n: usize| vec![(b'D', &piece[..]); n];
        assert_eq!(trace(Heed::Little, &rows(2)), trace(Heed::All, &rows(2)));
        assert_eq!(trace(Heed::Little, &rows(3)), None);
        let mut trail = Trail::new();
        assert!(trail.goes_on(Some(BytesMut::new())) && trail.is_watched());
        let mut seen = Trace::new(Heed::Little);
        (0..3).for_each(|_| seen.see(b'D', &row));
        trail.answered(Some(seen));
        assert!(!trail.is_kept() && !trail.goes_on(Some(BytesMut::new())));
    }

    #[test]
    fn a_trail_ends_where_it_would_grow_too_long() {
        let mut trail = Trail::new();
        trail.answered(None);
        assert!(trail.is_kept(), "a batch that asked for nothing");
        for _ in 0..STEPS_MAX {
            assert!(trail.goes_on(Some(BytesMut::new())));
            trail.answered(Some(Trace::new(Heed::All)));
        }
        assert!(!trail.goes_on(Some(BytesMut::new())) && trail.is_kept());
        assert!(!Trail::new().goes_on(Some(BytesMut::zeroed(BYTES_MAX + 1))));
    }
}
