//! What a server still owes for what it was sent, in order.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

use super::prepared::StatementId;
use crate::wire::backend as b;

/// One message was sent that gets a reply (or is a reply that pgpilot gives itself, in its turn).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub kind: Kind,
    pub fate: Fate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The statement that the server knows once it has answered; `None` for a Parse that nobody keeps track of.
    Parse(Option<StatementId>),
    Bind,
    Describe,
    Execute,
    Close,
    /// A simple Query, a FunctionCall: everything up to ReadyForQuery.
    Query,
    Sync,
    /// A reply of our own, given when everything before it has been answered.
    Own(Box<[u8]>),
}

/// Who gets the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Client,
    /// pgpilot sent the message for its own ends and swallows the reply. An error is passed on, because what follows depends on it.
    Us,
}

/// What to do with a message from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub forward: bool,
    /// The message that this reply completes.
    pub completed: Completed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completed {
    Nothing,
    Parse(Option<StatementId>),
    Other,
    /// ReadyForQuery: one batch is over.
    Batch,
    /// An error in an extended batch: what follows is skipped up to the Sync.
    Failed,
}

/// The server sent something that nothing asked for. The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent {0:?}, which was not due")]
pub struct OutOfStep(pub char);

/// The queue of replies due.
#[derive(Debug, Default)]
pub struct Dues {
    queue: VecDeque<Due>,
    /// An extended batch has failed and its Sync has not been sent yet: the server ignores everything before it.
    skipping: bool,
}

impl Dues {
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether the server ignores what it gets until a Sync.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    pub fn clear(&mut self) {
        self.queue.clear();
        self.skipping = false;
    }

    /// A message is being sent.
    pub fn push(&mut self, kind: Kind, fate: Fate) {
        if self.skipping {
            if kind != Kind::Sync {
                return;
            }
            self.skipping = false;
        }
        self.queue.push_back(Due { kind, fate });
    }

    /// Writes replies of our own whose turn has come.
    pub fn take_own(&mut self, out: &mut BytesMut) -> bool {
        let before = self.queue.len();
        while let Some(Due { kind: Kind::Own(bytes), .. }) = self.queue.front() {
            out.put_slice(bytes);
            self.queue.pop_front();
        }
        self.queue.len() != before
    }

    /// Whether the next thing due is a reply of our own.
    pub fn own_is_next(&self) -> bool {
        matches!(self.queue.front(), Some(Due { kind: Kind::Own(_), .. }))
    }

    /// A message of type `tag` came. NoticeResponse, ParameterStatus and NotificationResponse are due at any time and do not belong here.
    ///
    /// # Errors
    /// Nothing due has such a reply.
    #[inline]
    pub fn on_message(&mut self, tag: u8) -> Result<Answer, OutOfStep> {
        let out_of_step = OutOfStep(char::from(tag));
        let due = self.queue.front().ok_or(out_of_step)?;
        let forward = due.fate == Fate::Client;
        match due.kind {
            Kind::Query => Ok(match tag {
                b::READY_FOR_QUERY => self.complete(Completed::Batch),
                b::ERROR_RESPONSE => Answer { forward: true, completed: Completed::Nothing },
                _ => Answer { forward, completed: Completed::Nothing },
            }),
            // An error at the commit that a Sync implies (a deferred constraint, a serialization failure) comes before its ReadyForQuery.
            Kind::Sync => match tag {
                b::READY_FOR_QUERY => Ok(self.complete(Completed::Batch)),
                b::ERROR_RESPONSE => Ok(Answer { forward: true, completed: Completed::Nothing }),
                _ => Err(out_of_step),
            },
            _ if tag == b::ERROR_RESPONSE => {
                self.skip_to_sync();
                Ok(Answer { forward: true, completed: Completed::Failed })
            }
            Kind::Parse(id) if tag == b::PARSE_COMPLETE => Ok(self.complete(Completed::Parse(id))),
            Kind::Bind if tag == b::BIND_COMPLETE => Ok(self.complete(Completed::Other)),
            Kind::Close if tag == b::CLOSE_COMPLETE => Ok(self.complete(Completed::Other)),
            Kind::Describe => match tag {
                b::ROW_DESCRIPTION | b::NO_DATA => Ok(self.complete(Completed::Other)),
                b::PARAMETER_DESCRIPTION => Ok(Answer { forward, completed: Completed::Nothing }),
                _ => Err(out_of_step),
            },
            Kind::Execute => match tag {
                b::COMMAND_COMPLETE | b::EMPTY_QUERY_RESPONSE | b::PORTAL_SUSPENDED => {
                    Ok(self.complete(Completed::Other))
                }
                b::DATA_ROW
                | b::COPY_IN_RESPONSE
                | b::COPY_OUT_RESPONSE
                | b::COPY_DATA
                | b::COPY_DONE
                | b::ROW_DESCRIPTION => Ok(Answer { forward, completed: Completed::Nothing }),
                _ => Err(out_of_step),
            },
            _ => Err(out_of_step),
        }
    }

    /// The server has begun to read COPY data in an extended batch. While it does, it ignores Sync and Flush ("Ignore Flush/Sync for the
    /// convenience of client libraries", `CopyGetData` in `src/backend/commands/copyfromparse.c`): those already sent have no reply.
    pub fn copy_in_started(&mut self) {
        if matches!(self.queue.front(), Some(Due { kind: Kind::Execute, .. })) {
            while matches!(self.queue.get(1), Some(Due { kind: Kind::Sync, .. })) {
                self.queue.remove(1);
            }
        }
    }

    fn complete(&mut self, completed: Completed) -> Answer {
        let due = self.queue.pop_front().expect("the caller looked at the front");
        Answer { forward: due.fate == Fate::Client, completed }
    }

    fn skip_to_sync(&mut self) {
        while self.queue.front().is_some_and(|due| due.kind != Kind::Sync) {
            self.queue.pop_front();
        }
        self.skipping = self.queue.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dues(kinds: impl IntoIterator<Item = (Kind, Fate)>) -> Dues {
        let mut dues = Dues::default();
        kinds.into_iter().for_each(|(kind, fate)| dues.push(kind, fate));
        dues
    }

    /// Feeds the tags and returns those that were forwarded.
    fn forwarded(dues: &mut Dues, tags: &[u8]) -> Vec<u8> {
        tags.iter().copied().filter(|tag| dues.on_message(*tag).unwrap().forward).collect()
    }

    #[test]
    fn an_injected_parse_is_swallowed_and_the_rest_goes_to_the_client() {
        use Fate::{Client, Us};
        let mut dues = dues([
            (Kind::Parse(None), Us),
            (Kind::Bind, Client),
            (Kind::Describe, Client),
            (Kind::Execute, Client),
            (Kind::Sync, Client),
        ]);
        assert_eq!(forwarded(&mut dues, b"12TDDCZ"), b"2TDDCZ");
        assert!(dues.is_empty());
    }

    #[test]
    fn an_error_skips_to_the_sync_and_drops_our_own_replies() {
        let own = Kind::Own(Box::from(&b"1"[..]));
        let mut dues = dues([Kind::Bind, Kind::Execute, own, Kind::Bind, Kind::Sync].map(|kind| (kind, Fate::Client)));
        assert_eq!(forwarded(&mut dues, b"2E"), b"2E");
        assert_eq!((dues.len(), dues.is_skipping()), (1, false));
        assert_eq!(dues.on_message(b'Z').unwrap().completed, Completed::Batch);
    }

    #[test]
    fn without_a_sync_everything_is_ignored_until_one_is_sent() {
        let mut dues = dues([Kind::Bind, Kind::Execute, Kind::Query].map(|kind| (kind, Fate::Client)));
        assert_eq!(dues.on_message(b'E').unwrap().completed, Completed::Failed);
        assert!(dues.is_skipping() && dues.is_empty());
        dues.push(Kind::Bind, Fate::Client);
        assert!(dues.is_empty());
        dues.push(Kind::Sync, Fate::Client);
        assert!(!dues.is_skipping());
        assert_eq!(forwarded(&mut dues, b"Z"), b"Z");
    }

    #[test]
    fn a_sync_sent_before_the_copy_began_has_no_reply() {
        let mut dues = dues([Kind::Execute, Kind::Sync].map(|kind| (kind, Fate::Client)));
        assert_eq!(forwarded(&mut dues, b"G"), b"G");
        dues.copy_in_started();
        dues.push(Kind::Sync, Fate::Client);
        assert_eq!(forwarded(&mut dues, b"CZ"), b"CZ");
        assert!(dues.is_empty());
    }

    #[test]
    fn own_replies_wait_for_their_turn() {
        let own = Kind::Own(Box::from(&b"own"[..]));
        let mut dues = dues([own.clone(), Kind::Bind, own].map(|kind| (kind, Fate::Client)));
        let mut out = BytesMut::new();
        assert!(dues.take_own(&mut out));
        assert_eq!(&out[..], b"own");
        assert!(!dues.take_own(&mut out));
        dues.on_message(b'2').unwrap();
        assert!(dues.own_is_next() && dues.take_own(&mut out));
        assert_eq!(&out[..], b"ownown");
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        assert_eq!(Dues::default().on_message(b'Z'), Err(OutOfStep('Z')));
        assert!(dues([(Kind::Bind, Fate::Client)]).on_message(b'1').is_err());
        assert!(dues([(Kind::Sync, Fate::Client)]).on_message(b'D').is_err());
    }
}
