//! What has been promised, and whether it was kept.
//!
//! The servers hold a row of counters. A write raises one of them and is told its new value; a read sees some or all of
//! them. So every reply can be judged at once: each counter has to be at least where it was known to be.
//!
//! There is one thing that PostgreSQL itself does not promise. A replica shows a transaction when it has replayed its
//! commit; the primary does so when the committing process has left the list of running transactions, which is the last
//! thing before the commit is acknowledged (`RecordTransactionCommit` and `ProcArrayEndTransaction` in
//! access/transam/xact.c). So a replica can show a transaction a moment before the primary does, and before anybody has
//! been told of it. What was seen there early is required of the primary only once it has been acknowledged.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pgpilot::config::Consistency;

/// How many counters there are.
pub(super) const COUNTERS: usize = 12;

pub(super) type Counters = [u64; COUNTERS];

/// What all clients have in common.
#[derive(Debug)]
pub(super) struct Ledger {
    mode: Consistency,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// What has been acknowledged to anyone, or shown to anyone by the primary.
    known: Counters,
    /// What survived each failover: more than this has been lost, with the primary that had it.
    survived: Vec<Counters>,
    tokens: Vec<(String, Floor)>,
}

/// What somebody knows, as of a number of failovers.
#[derive(Debug, Clone, Default)]
pub(super) struct Floor {
    /// Acknowledged, or shown by the primary.
    firm: Counters,
    /// Shown by a replica.
    early: Counters,
    failovers: usize,
}

/// What a client's session knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    /// Written or seen by itself.
    own: Floor,
    /// From a token.
    token: Floor,
}

/// An operation that has begun: what it has to show.
#[derive(Debug)]
pub(super) struct Begun {
    floor: Floor,
    /// What had been acknowledged when it began.
    known: Counters,
    /// After how many failovers it began.
    since: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Primary,
    Replica,
}

/// A read that shows less than it has to.
#[derive(Debug)]
pub(super) struct Stale {
    pub(super) counter: usize,
    pub(super) seen: u64,
    pub(super) needed: u64,
}

impl Ledger {
    pub(super) fn new(mode: Consistency) -> Self {
        Self { mode, books: Mutex::default() }
    }

    /// To be called before the operation is sent.
    pub(super) fn begin(&self, session: &mut Session) -> Begun {
        let books = self.books();
        books.forget_lost(&mut session.own);
        books.forget_lost(&mut session.token);
        let mut floor = session.token.clone();
        if self.mode != Consistency::Eventual {
            floor.raise(&session.own);
        }
        if matches!(self.mode, Consistency::Strong | Consistency::Primary) {
            raise(&mut floor.firm, &books.known);
        }
        Begun { since: floor.failovers, floor, known: books.known }
    }

    /// A write has been acknowledged; what follows in the same operation is to see it.
    pub(super) fn wrote(&self, begun: &mut Begun, session: &mut Session, counter: usize, value: u64) {
        let mut seen = Counters::default();
        seen[counter] = value;
        self.learn(begun, session, seen, Place::Primary);
    }

    /// A read has been answered; what follows in the same operation must not see less.
    ///
    /// # Errors
    /// [`Stale`] if it breaks the promise.
    pub(super) fn read(
        &self,
        begun: &mut Begun,
        session: &mut Session,
        seen: &[(usize, u64)],
        place: Place,
    ) -> Result<(), Stale> {
        self.books().forget_lost(&mut begun.floor);
        let mut early = begun.floor.early;
        if place == Place::Primary {
            lower(&mut early, &begun.known);
        }
        let mut counters = Counters::default();
        for &(counter, value) in seen {
            let needed = begun.floor.firm[counter].max(early[counter]);
            if value < needed {
                return Err(Stale { counter, seen: value, needed });
            }
            counters[counter] = value;
        }
        self.learn(begun, session, counters, place);
        Ok(())
    }

    fn learn(&self, begun: &mut Begun, session: &mut Session, counters: Counters, place: Place) {
        let mut books = self.books();
        // What began before a failover may tell of what the failover lost.
        let mut learnt = Floor { failovers: begun.since, ..Floor::default() };
        match place {
            Place::Primary => learnt.firm = counters,
            Place::Replica => learnt.early = counters,
        }
        books.forget_lost(&mut learnt);
        books.forget_lost(&mut session.own);
        books.forget_lost(&mut begun.floor);
        session.own.raise(&learnt);
        raise(&mut books.known, &learnt.firm);
        if self.mode != Consistency::Eventual {
            begun.floor.raise(&learnt);
        }
    }

    /// The session has got a token, for whoever takes it.
    pub(super) fn give(&self, session: &Session, token: String) {
        const KEPT: usize = 64;
        let mut books = self.books();
        let mut floor = session.own.clone();
        floor.raise(&session.token);
        if books.tokens.len() < KEPT {
            books.tokens.push((token, floor));
        } else {
            let any = fastrand::usize(..KEPT);
            books.tokens[any] = (token, floor);
        }
    }

    /// Any of the tokens, and what it promises.
    pub(super) fn take(&self, random: &mut fastrand::Rng) -> Option<(String, Floor)> {
        let books = self.books();
        (!books.tokens.is_empty()).then(|| books.tokens[random.usize(..books.tokens.len())].clone())
    }

    /// The old primary is gone, and nothing has been written to the new one yet: this is what it has.
    pub(super) fn failed_over(&self, survived: Counters) {
        let mut books = self.books();
        lower(&mut books.known, &survived);
        books.survived.push(survived);
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// The session has been told to read nothing older than a token, in place of an earlier one.
    pub(super) fn require(&mut self, promised: Floor) {
        self.token = promised;
    }
}

impl Books {
    fn forget_lost(&self, floor: &mut Floor) {
        for survived in &self.survived[floor.failovers..] {
            lower(&mut floor.firm, survived);
            lower(&mut floor.early, survived);
        }
        floor.failovers = self.survived.len();
    }
}

impl Floor {
    /// To what `other` knows as of the same number of failovers, or an earlier one.
    fn raise(&mut self, other: &Self) {
        raise(&mut self.firm, &other.firm);
        raise(&mut self.early, &other.early);
    }
}

fn raise(counters: &mut Counters, to: &Counters) {
    counters.iter_mut().zip(to).for_each(|(counter, to)| *counter = (*counter).max(*to));
}

fn lower(counters: &mut Counters, to: &Counters) {
    counters.iter_mut().zip(to).for_each(|(counter, to)| *counter = (*counter).min(*to));
}

#[test]
fn tells_a_stale_read_from_a_good_one() {
    use Place::{Primary, Replica};
    for (mode, own, others) in
        [(Consistency::Eventual, true, true), (Consistency::Session, false, true), (Consistency::Strong, false, false)]
    {
        let ledger = Ledger::new(mode);
        let (mut writer, mut other) = (Session::default(), Session::default());
        let mut begun = ledger.begin(&mut writer);
        ledger.wrote(&mut begun, &mut writer, 3, 7);
        let mut begun = ledger.begin(&mut writer);
        assert_eq!(ledger.read(&mut begun, &mut writer, &[(3, 6)], Replica).is_ok(), own, "{mode:?}");
        assert!(ledger.read(&mut begun, &mut writer, &[(3, 7), (2, 0)], Replica).is_ok());
        let mut begun = ledger.begin(&mut other);
        assert_eq!(ledger.read(&mut begun, &mut other, &[(3, 6)], Primary).is_ok(), others, "{mode:?}");
        // Somebody who has the writer's token.
        ledger.give(&writer, "token".to_owned());
        let (_, floor) = ledger.take(&mut fastrand::Rng::with_seed(1)).unwrap();
        other.require(floor);
        let mut begun = ledger.begin(&mut other);
        assert!(ledger.read(&mut begun, &mut other, &[(3, 6)], Replica).is_err(), "{mode:?}");
        // What a failover lost is not missed, also by an operation that was under way.
        ledger.failed_over([5; COUNTERS]);
        assert!(ledger.read(&mut begun, &mut other, &[(3, 5)], Replica).is_ok());
        ledger.wrote(&mut begun, &mut other, 3, 9);
        let mut begun = ledger.begin(&mut other);
        assert!(ledger.read(&mut begun, &mut other, &[(3, 4)], Replica).is_err(), "{mode:?}");
        assert!(ledger.read(&mut begun, &mut other, &[(3, 5)], Replica).is_ok(), "{mode:?}");
    }
}

#[test]
fn what_a_replica_shows_early_is_required_of_the_primary_once_it_is_acknowledged() {
    let ledger = Ledger::new(Consistency::Session);
    let (mut reader, mut writer) = (Session::default(), Session::default());
    let mut writing = ledger.begin(&mut writer);
    let mut begun = ledger.begin(&mut reader);
    assert!(ledger.read(&mut begun, &mut reader, &[(0, 1)], Place::Replica).is_ok());
    assert!(ledger.read(&mut begun, &mut reader, &[(0, 0)], Place::Primary).is_ok());
    assert!(ledger.read(&mut begun, &mut reader, &[(0, 0)], Place::Replica).is_err());
    ledger.wrote(&mut writing, &mut writer, 0, 1);
    let mut begun = ledger.begin(&mut reader);
    assert!(ledger.read(&mut begun, &mut reader, &[(0, 0)], Place::Primary).is_err());
}
