//! What a server has said, on its way to the client.

use bytes::{Buf, BytesMut};

use super::link::LinkRole;

/// What has come from the server: the front of the connection's input, as far as it has been looked at.
#[derive(Debug)]
pub(super) struct Reply {
    /// Bytes at the front of the input that are for the client.
    passable: usize,
    /// Of those, the ones that belong to batches before the current one.
    settled: usize,
    /// Of those, the last ones that begin a message which is passed on once it is whole.
    held: usize,
    /// The rest of a message whose beginning has been dealt with.
    pub rest: Rest,
    pub withhold: Withhold,
    /// Whether the client has been sent a part of the current batch's reply.
    pub delivered: Delivered,
    pub commit: Commit,
}

/// What became of the current batch's commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    /// As the server says.
    AsTold,
    /// Not confirmed by the standbys that it should have waited for: the client has been told so by an error, and is not
    /// told of success.
    Unconfirmed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    None,
    Forward(usize),
    Swallow(usize),
}

/// A reply is held back while its batch could still be sent elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Withhold {
    No,
    Yes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    Nothing,
    Something,
}

/// More than this is not held back. The server sends in pieces of 8 KiB (`PQ_SEND_BUFFER_SIZE` in `src/backend/libpq/pqcomm.c`): a reply that is longer
/// than one piece begins to flow with the second.
const WITHHELD_MAX: usize = 8 * 1024;

/// A message that is no longer is passed on as a whole: if its server is lost half-way, the client can be told so, and
/// the session goes on. Behind a part of a message nothing can be said that would not be taken for the rest of it.
const WHOLE_MAX: usize = 64 * 1024;

impl Reply {
    pub(super) fn new(role: LinkRole) -> Self {
        let withhold = match role {
            LinkRole::Primary => Withhold::No,
            LinkRole::Replica => Withhold::Yes,
        };
        Self {
            passable: 0,
            settled: 0,
            held: 0,
            rest: Rest::None,
            withhold,
            delivered: Delivered::Nothing,
            commit: Commit::AsTold,
        }
    }

    pub(super) fn passable(&self) -> usize {
        self.passable
    }

    /// Bytes at the front of the input that may be written to the client now.
    #[inline]
    pub(super) fn writable(&self) -> usize {
        match self.withhold {
            Withhold::No => self.passable - self.held,
            Withhold::Yes => self.settled,
        }
    }

    /// Whether what the client has been sent ends with a message's end, and nothing waits to be sent.
    pub(super) fn is_between_messages(&self) -> bool {
        self.writable() == 0 && (self.withhold == Withhold::Yes || !self.ends_within_message())
    }

    /// Whether a message has been passed on in part.
    pub(super) fn ends_within_message(&self) -> bool {
        self.held == 0 && matches!(self.rest, Rest::Forward(_))
    }

    /// A batch is going to be sent, or a part of one; everything before it has been answered.
    pub(super) fn begin(&mut self, withhold: Withhold) {
        debug_assert!(!matches!(self.rest, Rest::Forward(_)), "in the middle of a message");
        self.settled = self.passable;
        self.delivered = Delivered::Nothing;
        self.withhold = withhold;
    }

    /// `n` more bytes are for the client.
    #[inline]
    pub(super) fn pass(&mut self, n: usize) {
        self.passable += n;
        if self.withhold == Withhold::Yes && self.passable - self.settled > WITHHELD_MAX {
            self.withhold = Withhold::No;
        }
    }

    /// A message of `len` bytes, of which `here` have come, is for the client.
    #[inline]
    pub(super) fn pass_message(&mut self, here: usize, len: usize) {
        if here < len {
            self.rest = Rest::Forward(len - here);
            self.held = if len <= WHOLE_MAX { here } else { 0 };
        }
        self.pass(here);
    }

    /// `n` more bytes have come of a message that is for the client, and then `left` more are to come.
    #[inline]
    pub(super) fn pass_rest(&mut self, n: usize, left: usize) {
        if left == 0 {
            (self.rest, self.held) = (Rest::None, 0);
        } else {
            self.rest = Rest::Forward(left);
            self.held += if self.held > 0 { n } else { 0 };
        }
        self.pass(n);
    }

    /// The `n` bytes behind the passable ones are not for the client.
    pub(super) fn cut(&mut self, input: &mut BytesMut, n: usize) {
        if self.passable == 0 {
            input.advance(n);
        } else {
            let tail = input.split_off(self.passable + n);
            input.truncate(self.passable);
            input.unsplit(tail);
        }
    }

    /// The `n` bytes behind the passable ones become `message`, which is still to be passed on.
    pub(super) fn replace(&mut self, input: &mut BytesMut, n: usize, message: &[u8]) {
        let tail = input.split_off(self.passable + n);
        input.truncate(self.passable);
        input.extend_from_slice(message);
        input.extend_from_slice(&tail);
    }

    /// A message of our own comes behind the passable ones.
    pub(super) fn insert(&mut self, input: &mut BytesMut, message: &[u8]) {
        let tail = input.split_off(self.passable);
        input.extend_from_slice(message);
        input.extend_from_slice(&tail);
        self.pass(message.len());
    }

    /// The end of a batch's reply, which has been kept until now, comes behind the passable ones.
    pub(super) fn end(&mut self, input: &mut BytesMut, message: &[u8]) {
        self.insert(input, message);
        self.settled = self.passable;
    }

    /// `n` bytes have been written to the client.
    pub(super) fn written(&mut self, input: &mut BytesMut, n: usize) {
        input.advance(n);
        self.passable -= n;
        if n > self.settled {
            self.delivered = Delivered::Something;
        }
        self.settled = self.settled.saturating_sub(n);
    }

    /// The current batch has been answered in full. `next`: the reply to the one behind it.
    pub(super) fn batch_done(&mut self, next: Withhold) {
        self.settled = self.passable;
        self.delivered = Delivered::Nothing;
        self.commit = Commit::AsTold;
        self.withhold = next;
    }

    /// What has been withheld may flow: its batch is not going to be sent elsewhere.
    pub(super) fn release(&mut self) {
        self.withhold = Withhold::No;
    }

    /// There is no more to come: what has been withheld stays unsaid, for it has no end, and so does the beginning of a
    /// message.
    pub(super) fn drop_unsaid(&mut self) {
        if self.withhold == Withhold::Yes {
            self.passable = self.settled;
        } else if self.held > 0 {
            self.passable -= self.held;
        } else {
            return;
        }
        (self.rest, self.held) = (Rest::None, 0);
    }

    /// The current batch's reply will come from another server: takes what is still owed to the client from batches before it.
    pub(super) fn take_settled(&mut self, input: &mut BytesMut) -> BytesMut {
        let settled = std::mem::take(&mut self.settled);
        self.passable -= settled;
        input.split_to(settled)
    }

    /// Everything that is for the client, to be kept elsewhere, but for the beginning of a message.
    pub(super) fn take_passable(&mut self, input: &mut BytesMut) -> BytesMut {
        self.settled = 0;
        let passable = std::mem::replace(&mut self.passable, self.held);
        input.split_to(passable - self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_withheld_reply_is_released_by_its_end_or_its_length() {
        let mut reply = Reply::new(LinkRole::Replica);
        reply.pass(100);
        assert_eq!(reply.writable(), 0);
        reply.batch_done(Withhold::Yes);
        assert_eq!(reply.writable(), 100);
        reply.pass(WITHHELD_MAX);
        assert_eq!(reply.writable(), 100);
        reply.pass(1);
        assert_eq!(reply.writable(), 100 + WITHHELD_MAX + 1);
    }

    #[test]
    fn messages_are_cut_out_and_put_in_behind_what_is_passable() {
        let mut reply = Reply::new(LinkRole::Primary);
        let mut input = BytesMut::from(&b"aaXXXbb"[..]);
        reply.pass(2);
        reply.cut(&mut input, 3);
        assert_eq!(&input[..], b"aabb");
        reply.insert(&mut input, b"own");
        assert_eq!((&input[..], reply.passable()), (&b"aaownbb"[..], 5));
        reply.written(&mut input, 5);
        assert_eq!((&input[..], reply.delivered), (&b"bb"[..], Delivered::Something));
    }

    #[test]
    fn a_message_is_passed_on_as_a_whole_unless_it_is_very_long() {
        let mut reply = Reply::new(LinkRole::Primary);
        let mut input = BytesMut::from(&b"wholeparts of it"[..]);
        reply.pass_message(5, 5);
        reply.pass_message(5, WHOLE_MAX);
        assert_eq!((reply.writable(), reply.ends_within_message()), (5, false));
        reply.pass_rest(3, WHOLE_MAX - 8);
        assert_eq!((reply.writable(), reply.passable()), (5, 13));
        assert_eq!(&reply.take_passable(&mut input)[..], b"whole");
        assert_eq!((reply.writable(), reply.passable(), reply.is_between_messages()), (0, 8, true));
        reply.pass_rest(3, 0);
        assert_eq!(reply.writable(), 11);
        reply.pass_message(1, 9);
        reply.drop_unsaid();
        assert_eq!((reply.passable(), reply.rest, reply.ends_within_message()), (11, Rest::None, false));
        reply.pass_message(5, WHOLE_MAX + 1);
        assert_eq!((reply.writable(), reply.ends_within_message()), (16, true));
        reply.drop_unsaid();
        assert!(reply.ends_within_message(), "its beginning is on its way");
    }

    #[test]
    fn a_discarded_batch_leaves_what_earlier_batches_are_owed() {
        let mut reply = Reply::new(LinkRole::Replica);
        let mut input = BytesMut::from(&b"doneXXrest"[..]);
        reply.pass(4);
        reply.batch_done(Withhold::Yes);
        reply.pass(2);
        assert_eq!(&reply.take_settled(&mut input)[..], b"done");
        assert_eq!((&input[..], reply.passable()), (&b"XXrest"[..], 2));
    }
}
