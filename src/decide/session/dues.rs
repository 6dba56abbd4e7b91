//! What a server still owes for what it was sent, in order.

use std::collections::VecDeque;

use super::prepared::StatementId;
use crate::wire::backend as b;

/// One message was sent that gets a reply (or is a reply that pgpilot gives itself, in its turn).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub kind: Kind,
    pub fate: Fate,
    /// Messages are numbered as they are sent; see [`Dues::first`].
    pub number: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The statement that the server knows once it has answered.
    Parse(StatementId),
    /// A Parse that the server is going to refuse, for the client's name is taken.
    Taken(Box<[u8]>),
    Bind,
    Describe,
    Execute,
    /// The statement that the server forgets; `None` for a portal.
    Close(Option<StatementId>),
    /// A simple Query: everything up to ReadyForQuery.
    Query,
    /// A FunctionCall, as well.
    Call,
    /// A simple Query that prepares a statement.
    Prepare(StatementId),
    Sync,
    /// A reply of our own, given when everything before it has been answered.
    Own(Box<[u8]>),
}

/// Who gets the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Client,
    /// pgpilot sent the message for its own ends and swallows the reply. In an extended batch an error is passed on, because what follows depends
    /// on it; that of a simple Query is swallowed, too.
    Us,
    /// The message was sent to make the server fail, so that it and the client agree on the state of the batch and of the transaction. The client
    /// gets this ErrorResponse in place of the server's.
    Fail(Box<[u8]>),
}

/// What to do with a message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub forward: bool,
    /// The message that this reply completes.
    pub completed: Completed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completed {
    Nothing,
    Other,
    /// ReadyForQuery: one batch of the client's is over.
    Batch,
    /// An error in an extended batch: these are skipped, up to the Sync.
    Failed(Vec<Due>),
    /// An error that was provoked: the client gets this one.
    Provoked(Box<[u8]>, Vec<Due>),
}

/// The server sent something that nothing asked for. The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent {0:?}, which was not due")]
pub struct OutOfStep(pub char);

/// The queue of replies due.
#[derive(Debug, Default)]
pub struct Dues {
    queue: VecDeque<Due>,
    /// The number of the next message.
    next: u64,
    /// Behind the last message that changes what statements the server knows.
    taught: u64,
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

    /// What is to be answered next, and for whom.
    pub fn front(&self) -> Option<&Due> {
        self.queue.front()
    }

    /// How many ReadyForQuery the client is owed.
    pub fn batches(&self) -> usize {
        let is_end = |due: &&Due| {
            matches!(due.kind, Kind::Query | Kind::Call | Kind::Prepare(_) | Kind::Sync) && due.fate != Fate::Us
        };
        self.queue.iter().filter(is_end).count()
    }

    /// Whether the server ignores what it gets until a Sync.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Whether messages that have not been answered change what statements the server knows.
    pub fn is_teaching(&self) -> bool {
        self.taught > self.first()
    }

    /// Whether a message that has not been answered decides whether the server knows this one.
    pub fn teaches(&self, id: StatementId) -> bool {
        self.is_teaching() && self.queue.iter().any(|due| teaches(&due.kind) == Some(id))
    }

    /// Whether the client has sent extended messages and no Sync after them: should one fail, everything up to a Sync is skipped, a Query, too.
    pub fn may_skip(&self) -> bool {
        let since_sync = self.queue.iter().rev().take_while(|due| due.kind != Kind::Sync);
        let simple = |kind: &Kind| matches!(kind, Kind::Query | Kind::Call | Kind::Prepare(_) | Kind::Own(_));
        since_sync.filter(|due| due.fate != Fate::Us).any(|due| !simple(&due.kind))
    }

    /// The number of the first message that has not been answered: of the next one, if all have been.
    pub fn first(&self) -> u64 {
        self.queue.front().map_or(self.next, |due| due.number)
    }

    /// A message is being sent. Returns its number.
    pub fn push(&mut self, kind: Kind, fate: Fate) -> u64 {
        let number = self.next;
        if self.skipping {
            if kind != Kind::Sync {
                return number;
            }
            self.skipping = false;
        }
        self.next += 1;
        if teaches(&kind).is_some() {
            self.taught = self.next;
        }
        self.queue.push_back(Due { kind, fate, number });
        number
    }

    /// Takes a reply of our own whose turn has come.
    pub fn take_own(&mut self) -> Option<Box<[u8]>> {
        match self.queue.pop_front_if(|due| matches!(due.kind, Kind::Own(_)))?.kind {
            Kind::Own(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A message of type `tag` came. NoticeResponse, ParameterStatus and NotificationResponse are due at any time and do not belong here.
    ///
    /// # Errors
    /// Nothing due has such a reply.
    #[inline]
    pub fn on_message(&mut self, tag: u8) -> Result<Answer, OutOfStep> {
        let out_of_step = OutOfStep(char::from(tag));
        let due = self.queue.front().ok_or(out_of_step)?;
        if tag == b::ERROR_RESPONSE {
            return Ok(self.on_error());
        }
        let forward = due.fate == Fate::Client;
        let last = match due.kind {
            Kind::Query | Kind::Call | Kind::Prepare(_) => tag == b::READY_FOR_QUERY,
            Kind::Sync if tag == b::READY_FOR_QUERY => true,
            Kind::Parse(_) | Kind::Taken(_) if tag == b::PARSE_COMPLETE => true,
            Kind::Bind if tag == b::BIND_COMPLETE => true,
            Kind::Close(_) if tag == b::CLOSE_COMPLETE => true,
            Kind::Describe if matches!(tag, b::ROW_DESCRIPTION | b::NO_DATA) => true,
            Kind::Describe if tag == b::PARAMETER_DESCRIPTION => false,
            Kind::Execute => match tag {
                b::COMMAND_COMPLETE | b::EMPTY_QUERY_RESPONSE | b::PORTAL_SUSPENDED => true,
                b::DATA_ROW | b::COPY_IN_RESPONSE | b::COPY_OUT_RESPONSE | b::COPY_DATA | b::COPY_DONE => false,
                _ => return Err(out_of_step),
            },
            _ => return Err(out_of_step),
        };
        if !last {
            return Ok(Answer { forward, completed: Completed::Nothing });
        }
        self.queue.pop_front();
        // A Query or Sync of pgpilot's own is no batch of the client's.
        let batch = tag == b::READY_FOR_QUERY && forward;
        Ok(Answer { forward, completed: if batch { Completed::Batch } else { Completed::Other } })
    }

    fn on_error(&mut self) -> Answer {
        let front = self.queue.front().map(|due| &due.kind);
        let extended = !matches!(front, Some(Kind::Query | Kind::Call | Kind::Prepare(_) | Kind::Sync));
        // An error at the commit that a Sync implies (a deferred constraint, a serialization failure) comes before its ReadyForQuery, as one of a Query does.
        let skipped = if extended { self.skip_to_sync() } else { Vec::new() };
        let front = if extended { skipped.first() } else { self.queue.front() };
        match front.map(|due| due.fate.clone()) {
            Some(Fate::Fail(report)) => {
                if let Some(due) = self.queue.front_mut().filter(|_| !extended) {
                    // The rest of the Query's reply is the client's.
                    due.fate = Fate::Client;
                }
                Answer { forward: false, completed: Completed::Provoked(report, skipped) }
            }
            Some(Fate::Us) if !extended => {
                let failed = self.queue.front().filter(|due| matches!(due.kind, Kind::Prepare(_)));
                let completed = failed.map_or(Completed::Nothing, |due| Completed::Failed(vec![due.clone()]));
                Answer { forward: false, completed }
            }
            _ if extended => Answer { forward: true, completed: Completed::Failed(skipped) },
            _ => Answer { forward: true, completed: Completed::Nothing },
        }
    }

    /// The server has begun to read COPY data in an extended batch. While it does, it ignores Sync and Flush ("Ignore Flush/Sync for the
    /// convenience of client libraries", `CopyGetData` in `src/backend/commands/copyfromparse.c`): those already sent have no reply.
    /// Returns whether there are any: then the batch is not at its end, for another Sync is to come.
    pub fn copy_in_started(&mut self) -> bool {
        let due = self.queue.len();
        if matches!(self.queue.front(), Some(Due { kind: Kind::Execute, .. })) {
            while matches!(self.queue.get(1), Some(Due { kind: Kind::Sync, .. })) {
                self.queue.remove(1);
            }
        }
        self.queue.len() < due
    }

    fn skip_to_sync(&mut self) -> Vec<Due> {
        let kept = self.queue.iter().position(|due| due.kind == Kind::Sync).unwrap_or(self.queue.len());
        let skipped = self.queue.drain(..kept).collect();
        self.skipping = self.queue.is_empty();
        skipped
    }
}

/// The statement that the server knows, or does not know, after such a message.
fn teaches(kind: &Kind) -> Option<StatementId> {
    match kind {
        Kind::Close(id) => *id,
        Kind::Parse(id) | Kind::Prepare(id) => Some(*id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dues(kinds: impl IntoIterator<Item = (Kind, Fate)>) -> Dues {
        let mut dues = Dues::default();
        for (kind, fate) in kinds {
            dues.push(kind, fate);
        }
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
            (Kind::Parse(StatementId(std::num::NonZeroU64::MIN)), Us),
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
        assert_eq!(dues.first(), 4);
        assert_eq!(dues.on_message(b'Z').unwrap().completed, Completed::Batch);
        assert_eq!((dues.first(), dues.push(Kind::Sync, Fate::Client)), (5, 5));
    }

    #[test]
    fn without_a_sync_everything_is_ignored_until_one_is_sent() {
        let mut dues = dues([Kind::Bind, Kind::Execute, Kind::Query].map(|kind| (kind, Fate::Client)));
        let answer = dues.on_message(b'E').unwrap();
        assert!(matches!(answer.completed, Completed::Failed(skipped) if skipped.len() == 3));
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
        assert!(dues.copy_in_started());
        dues.push(Kind::Sync, Fate::Client);
        assert_eq!(forwarded(&mut dues, b"CZ"), b"CZ");
        assert!(dues.is_empty());
    }

    #[test]
    fn own_replies_wait_for_their_turn() {
        let own = Kind::Own(Box::from(&b"own"[..]));
        let mut dues = dues([own.clone(), Kind::Bind, own].map(|kind| (kind, Fate::Client)));
        assert_eq!(dues.take_own().as_deref(), Some(&b"own"[..]));
        assert_eq!(dues.take_own(), None);
        dues.on_message(b'2').unwrap();
        assert_eq!(dues.take_own().as_deref(), Some(&b"own"[..]));
        assert!(dues.is_empty());
    }

    #[test]
    fn a_provoked_error_is_replaced() {
        let ours = || Fate::Fail(Box::from(&b"ours"[..]));
        for (kind, tags) in [(Kind::Describe, b"Z"), (Kind::Query, b"Z")] {
            let extended = kind == Kind::Describe;
            let mut dues = dues([(kind, ours())]);
            if extended {
                dues.push(Kind::Sync, Fate::Client);
            }
            let answer = dues.on_message(b'E').unwrap();
            assert!(!answer.forward);
            assert!(matches!(answer.completed, Completed::Provoked(bytes, _) if &*bytes == b"ours"));
            assert_eq!(forwarded(&mut dues, tags), tags);
            assert!(dues.is_empty());
        }
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        assert_eq!(Dues::default().on_message(b'Z'), Err(OutOfStep('Z')));
        assert!(dues([(Kind::Bind, Fate::Client)]).on_message(b'1').is_err());
        assert!(dues([(Kind::Sync, Fate::Client)]).on_message(b'D').is_err());
    }
}
