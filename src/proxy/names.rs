//! What a session calls its prepared statements. What messages under way change of that can be taken back: servers skip messages after an error, and a
//! batch may have to be sent again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::judged::Judged;
use crate::decide::session::{Origin, Statement, StatementId};
use crate::wire::frontend::Parse;

/// As the messages that have been forwarded leave them, if none of those fails.
#[derive(Default)]
pub(super) struct Names {
    named: HashMap<Box<[u8]>, SessionStatement, foldhash::fast::RandomState>,
    /// The statement without a name. Servers forget it as soon as another one is parsed, be it in vain, or a Query comes.
    unnamed: Option<SessionStatement>,
    /// In the order of the messages.
    changes: VecDeque<Change>,
    /// What the named ones take.
    bytes: usize,
    /// How many of them have been prepared by SQL.
    of_sql: usize,
}

/// Something that the client has prepared.
#[derive(Clone)]
pub(super) struct SessionStatement {
    pub statement: Arc<Statement>,
    pub verdict: Arc<Judged>,
    /// As of when the verdict holds.
    pub stamp: u64,
}

struct Change {
    /// Its number among those that the server has been sent.
    message: u64,
    name: Box<[u8]>,
    before: Option<SessionStatement>,
}

/// No session may hold more named statements,
pub(super) const MAX_STATEMENTS: usize = 10_000;
/// nor may their texts take more bytes: any server that the session comes to may have to be taught them.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// The stamp of a verdict that does not hold.
const NEVER: u64 = u64::MAX;

/// With more changes under way, nobody looks for a name among them.
const MAX_LOOKED_AT: usize = 64;

impl SessionStatement {
    /// Whether this Parse prepares just this.
    pub(super) fn is_of(&self, parse: Parse<'_>) -> bool {
        match &self.statement.origin {
            Origin::Parse { query, types } => (&**query, &**types) == (parse.query, parse.types),
            Origin::Sql { .. } | Origin::Large => false,
        }
    }

    fn is_of_sql(&self) -> bool {
        matches!(self.statement.origin, Origin::Sql { .. })
    }

    fn bytes(&self) -> usize {
        match &self.statement.origin {
            Origin::Parse { query, types } => query.len() + types.len(),
            Origin::Large => 0,
            Origin::Sql { before, after } => before.len() + after.len(),
        }
    }
}

impl Names {
    pub(super) fn find(&self, name: &[u8]) -> Option<&SessionStatement> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    /// What the client calls a statement, or called it before something that is under way.
    pub(super) fn name_of(&self, id: StatementId) -> Option<&[u8]> {
        let named = self.named.iter().find(|(_, known)| known.statement.id == id).map(|(name, _)| &**name);
        named.or_else(|| {
            let was = |change: &&Change| change.before.as_ref().is_some_and(|before| before.statement.id == id);
            self.changes.iter().find(was).map(|change| &*change.name)
        })
    }

    /// Whether some of them have been prepared by SQL, as few sessions do.
    pub(super) fn have_sql(&self) -> bool {
        self.of_sql > 0
    }

    /// Whether one more named statement, `more` bytes long, is within the limits.
    pub(super) fn have_room_for(&self, more: usize) -> bool {
        self.named.len() < MAX_STATEMENTS && self.bytes + more <= MAX_BYTES
    }

    /// The message of this number changes what `name` means.
    pub(super) fn change(&mut self, message: u64, name: &[u8], now: Option<SessionStatement>) {
        // Of a name that means nothing there is nothing to be noted, unless it may mean something again.
        if now.is_some() || !self.changes.is_empty() || self.find(name).is_some() {
            let before = self.set(name, now);
            self.changes.push_back(Change { message, name: name.into(), before });
        }
    }

    /// `name` means something else for good. Returns what it meant before.
    pub(super) fn set(&mut self, name: &[u8], now: Option<SessionStatement>) -> Option<SessionStatement> {
        if name.is_empty() {
            return std::mem::replace(&mut self.unnamed, now);
        }
        self.bytes += now.as_ref().map_or(0, SessionStatement::bytes);
        self.of_sql += usize::from(now.as_ref().is_some_and(SessionStatement::is_of_sql));
        let before = match now {
            Some(now) => self.named.insert(name.into(), now),
            None => self.named.remove(name),
        };
        self.bytes -= before.as_ref().map_or(0, SessionStatement::bytes);
        self.of_sql -= usize::from(before.as_ref().is_some_and(SessionStatement::is_of_sql));
        before
    }

    /// The same statement, judged anew.
    pub(super) fn renew(&mut self, name: &[u8], verdict: Arc<Judged>, stamp: u64) {
        let known = if name.is_empty() { self.unnamed.as_mut() } else { self.named.get_mut(name) };
        if let Some(known) = known {
            (known.verdict, known.stamp) = (verdict, stamp);
        }
    }

    /// None of the verdicts holds any more.
    pub(super) fn outdate(&mut self) {
        let under_way = self.changes.iter_mut().filter_map(|change| change.before.as_mut());
        let now = self.named.values_mut().chain(&mut self.unnamed);
        now.chain(under_way).for_each(|known| known.stamp = NEVER);
    }

    /// The message of this number takes every name away: as [`Self::clear`], but it may be skipped.
    pub(super) fn forget(&mut self, message: u64) {
        (self.bytes, self.of_sql) = (0, 0);
        let gone = self.named.drain();
        self.changes.extend(gone.map(|(name, before)| Change { message, name, before: Some(before) }));
    }

    /// DISCARD ALL and DEALLOCATE ALL leave the one without a name, which they do not know of.
    pub(super) fn clear(&mut self) {
        *self = Self { unnamed: self.unnamed.take(), ..Self::default() };
    }

    /// Whether messages that have not been answered, from `first` on, change what names mean.
    pub(super) fn are_in_flux(&self, first: u64) -> bool {
        self.changes.back().is_some_and(|change| change.message >= first)
    }

    /// Whether a message that has not been answered changes what this name means; `first` is the first of those.
    pub(super) fn is_undecided(&self, name: &[u8], first: u64) -> bool {
        let under_way = self.changes.len() - self.changes.partition_point(|change| change.message < first);
        under_way > MAX_LOOKED_AT || self.changes.iter().rev().take(under_way).any(|change| *change.name == *name)
    }

    /// Everything before this message has been answered.
    pub(super) fn decided(&mut self, first: u64) {
        while self.changes.pop_front_if(|change| change.message < first).is_some() {}
    }

    /// What messages from `first` on have changed is not so: they will be sent again, or never.
    pub(super) fn take_back_from(&mut self, first: u64) {
        while let Some(Change { name, before, .. }) = self.changes.pop_back_if(|change| change.message >= first) {
            self.set(&name, before);
        }
    }

    /// A server has skipped the messages from `first` to `last`; the first one failed. What came behind them stays.
    pub(super) fn take_back(&mut self, first: u64, last: u64) {
        let begin = self.changes.partition_point(|change| change.message < first);
        let end = self.changes.partition_point(|change| change.message <= last);
        let skipped: Vec<Change> = self.changes.drain(begin..end).collect();
        for Change { message, name, before } in skipped.into_iter().rev() {
            // A Parse destroys the older unnamed statement even if it fails (`exec_parse_message` in `src/backend/tcop/postgres.c`).
            let before = before.filter(|_| !(message == first && name.is_empty()));
            match self.changes.iter_mut().skip(begin).find(|later| later.name == name) {
                Some(later) => later.before = before,
                None => drop(self.set(&name, before)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::decide::sql::{Classified, Reason};

    fn statement(number: u64) -> SessionStatement {
        let origin = Origin::Parse { query: Box::from(&b"SELECT"[..]), types: Box::default() };
        let statement = Arc::new(Statement { id: StatementId(NonZeroU64::new(number).unwrap()), origin });
        SessionStatement { statement, verdict: Arc::new(Classified::opaque(Reason::Empty).into()), stamp: 0 }
    }

    fn number(names: &Names, name: &[u8]) -> u64 {
        names.find(name).map_or(0, |known| known.statement.id.0.get())
    }

    #[test]
    fn what_is_skipped_is_as_it_was_before() {
        let mut names = Names::default();
        names.change(0, b"a", Some(statement(1)));
        names.change(1, b"", Some(statement(2)));
        names.decided(2);
        // 2 fails, 3 to 5 are skipped, 6 belongs to the next batch.
        names.change(3, b"a", None);
        names.change(4, b"a", Some(statement(3)));
        names.change(5, b"", None);
        names.change(6, b"", Some(statement(4)));
        assert_eq!((number(&names, b"a"), names.bytes), (3, 6));
        names.take_back(2, 5);
        assert_eq!((number(&names, b"a"), number(&names, b""), names.bytes), (1, 4, 6));
        // The next one fails, too: before it there was the first one, which it has destroyed.
        names.take_back(6, 6);
        assert_eq!((number(&names, b"a"), number(&names, b"")), (1, 0));
        assert!(names.changes.is_empty());
    }

    #[test]
    fn a_later_change_goes_back_to_what_is_left_of_an_earlier_one() {
        let mut names = Names::default();
        names.change(0, b"", Some(statement(1)));
        names.change(1, b"", Some(statement(2)));
        names.change(5, b"", Some(statement(3)));
        names.take_back(0, 1);
        assert_eq!(number(&names, b""), 3);
        names.take_back(4, 6);
        assert_eq!(number(&names, b""), 0);
    }

    #[test]
    fn what_is_forgotten_and_named_again_is_kept_apart() {
        let mut names = Names::default();
        names.change(0, b"a", Some(statement(1)));
        names.change(1, b"b", Some(statement(2)));
        names.change(2, b"", Some(statement(3)));
        names.decided(3);
        names.forget(3);
        names.change(4, b"a", Some(statement(4)));
        assert_eq!((number(&names, b"a"), number(&names, b"b"), number(&names, b""), names.bytes), (4, 0, 3, 6));
        names.take_back(3, 4);
        assert_eq!((number(&names, b"a"), number(&names, b"b"), names.bytes), (1, 2, 12));
        names.forget(5);
        names.change(6, b"a", Some(statement(5)));
        names.decided(7);
        assert_eq!((number(&names, b"a"), number(&names, b"b"), names.bytes), (5, 0, 6));
    }

    #[test]
    fn what_is_closed_twice_stays_closed() {
        let mut names = Names::default();
        names.change(0, b"", Some(statement(1)));
        names.decided(1);
        names.change(2, b"", None);
        names.change(4, b"", None);
        names.take_back(1, 2);
        assert_eq!(number(&names, b""), 0);
    }

    #[test]
    fn what_is_sent_again_changes_names_again() {
        let mut names = Names::default();
        names.change(0, b"a", Some(statement(1)));
        names.decided(1);
        names.change(1, b"a", None);
        names.change(2, b"b", Some(statement(2)));
        assert!(names.is_undecided(b"a", 1) && names.is_undecided(b"b", 2) && !names.is_undecided(b"a", 2));
        assert_eq!(names.name_of(StatementId(NonZeroU64::MIN)), Some(&b"a"[..]));
        names.take_back_from(0);
        assert_eq!((number(&names, b"a"), number(&names, b"b")), (1, 0));
    }

    #[test]
    fn what_is_outdated_is_so_also_where_it_is_put_back() {
        let mut names = Names::default();
        names.change(0, b"a", Some(statement(1)));
        names.change(1, b"", Some(statement(2)));
        names.decided(2);
        names.change(2, b"a", None);
        names.outdate();
        names.take_back_from(2);
        for name in [&b"a"[..], b""] {
            assert_eq!(names.find(name).unwrap().stamp, NEVER);
        }
    }

    #[test]
    fn there_is_a_limit() {
        let mut names = Names::default();
        assert!(names.have_room_for(MAX_BYTES) && !names.have_room_for(MAX_BYTES + 1));
        names.set(b"a", Some(statement(1)));
        assert!(!names.have_room_for(MAX_BYTES));
        names.set(b"a", None);
        assert!(names.have_room_for(MAX_BYTES));
    }
}
