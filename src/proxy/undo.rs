//! What batches that are under way have changed in their session, so that it can be undone: servers skip messages after an error, and a batch may
//! have to be sent again.

use std::collections::VecDeque;

use super::session::SessionStatement;
use crate::decide::session::StatementId;

/// In the order of the messages. What a batch has changed is forgotten when it has been answered.
#[derive(Default)]
pub(super) struct UndoLog {
    changes: VecDeque<(u64, Change)>,
}

enum Change {
    /// The unnamed statement became another one, or none; this is the older one.
    Unnamed(Option<SessionStatement>),
    Closed(Box<[u8]>, SessionStatement),
}

/// What becomes of the older unnamed statement when a Parse has not prepared another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Older {
    Stays,
    Gone,
}

impl UndoLog {
    pub(super) fn unnamed(&mut self, batch: u64, older: Option<SessionStatement>) {
        self.changes.push_back((batch, Change::Unnamed(older)));
    }

    pub(super) fn closed(&mut self, batch: u64, name: &[u8], statement: SessionStatement) {
        self.changes.push_back((batch, Change::Closed(name.into(), statement)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether a statement of this name may come back.
    pub(super) fn changes(&self, name: &[u8]) -> bool {
        self.changes.iter().any(|(_, change)| match change {
            Change::Unnamed(_) => name.is_empty(),
            Change::Closed(closed, _) => **closed == *name,
        })
    }

    /// The unnamed statements that have been replaced, newest first.
    pub(super) fn unnamed_before(&self) -> impl Iterator<Item = &SessionStatement> {
        self.changes.iter().rev().filter_map(|(_, change)| match change {
            Change::Unnamed(older) => older.as_ref(),
            Change::Closed(..) => None,
        })
    }

    /// Under which name a statement was closed.
    pub(super) fn closed_name(&self, id: StatementId) -> Option<&[u8]> {
        self.changes.iter().rev().find_map(|(_, change)| match change {
            Change::Closed(name, closed) if closed.statement.id == id => Some(&**name),
            _ => None,
        })
    }

    /// The batch has been answered.
    pub(super) fn forget(&mut self, batch: u64) {
        while self.changes.pop_front_if(|(of, _)| *of <= batch).is_some() {}
    }

    /// Undoes what the newest batch has done to the unnamed statement.
    pub(super) fn roll_back(&mut self, batch: u64, unnamed: &mut Option<SessionStatement>) {
        while let Some((_, change)) = self.changes.pop_back_if(|(of, _)| *of >= batch) {
            if let Change::Unnamed(older) = change {
                *unnamed = older;
            }
        }
    }

    /// Everything that has been closed, newest first.
    pub(super) fn take_closed(&mut self) -> Vec<(Box<[u8]>, SessionStatement)> {
        let mut closed = Vec::new();
        let changes = std::mem::take(&mut self.changes);
        for (batch, change) in changes {
            match change {
                Change::Closed(name, statement) => closed.push((name, statement)),
                unnamed @ Change::Unnamed(_) => self.changes.push_back((batch, unnamed)),
            }
        }
        closed.reverse();
        closed
    }

    /// The newest closing of this statement.
    pub(super) fn closing(&mut self, id: StatementId) -> Option<(Box<[u8]>, SessionStatement)> {
        let is = |change: &Change| matches!(change, Change::Closed(_, closed) if closed.statement.id == id);
        let at = self.changes.iter().rposition(|(_, change)| is(change))?;
        match self.changes.remove(at)? {
            (_, Change::Closed(name, statement)) => Some((name, statement)),
            (_, Change::Unnamed(_)) => None,
        }
    }

    /// Undoes the newest Parse, of this batch or one before it, that made `id` the unnamed statement. Returns whether there was one.
    pub(super) fn parse(
        &mut self,
        batch: u64,
        id: StatementId,
        older: Older,
        unnamed: &mut Option<SessionStatement>,
    ) -> bool {
        self.undo_unnamed(batch, older, unnamed, |newer| newer.is_some_and(|newer| newer.statement.id == id))
    }

    /// Undoes the newest Query of this batch, or of one before it.
    pub(super) fn query(&mut self, batch: u64, unnamed: &mut Option<SessionStatement>) {
        self.undo_unnamed(batch, Older::Stays, unnamed, |newer| newer.is_none());
    }

    /// Takes out the newest change to something that `made` recognises; what came after it has then changed what came before it.
    fn undo_unnamed(
        &mut self,
        batch: u64,
        older: Older,
        unnamed: &mut Option<SessionStatement>,
        made: impl Fn(Option<&SessionStatement>) -> bool,
    ) -> bool {
        let mut newer = unnamed;
        let mut found = None;
        for (at, (of, change)) in self.changes.iter_mut().enumerate().rev() {
            let Change::Unnamed(before) = change else { continue };
            if *of <= batch && made(newer.as_ref()) {
                *newer = if older == Older::Stays { before.take() } else { None };
                found = Some(at);
                break;
            }
            newer = before;
        }
        found.is_some_and(|at| self.changes.remove(at).is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::sync::Arc;

    use super::*;
    use crate::decide::session::{Origin, Statement};
    use crate::decide::sql::{Classified, Reason};

    fn id(number: u64) -> StatementId {
        StatementId(NonZeroU64::new(number).unwrap())
    }

    fn statement(number: u64) -> SessionStatement {
        let origin = Origin::Parse { query: Box::default(), types: Box::default() };
        let statement = Arc::new(Statement { id: id(number), origin });
        SessionStatement { statement, verdict: Arc::new(Classified::opaque(Reason::Empty)), stamp: 0, sent: false }
    }

    fn number(unnamed: Option<&SessionStatement>) -> u64 {
        unnamed.map_or(0, |known| known.statement.id.0.get())
    }

    #[test]
    fn the_unnamed_statement_is_what_it_was() {
        let (mut log, mut unnamed) = (UndoLog::default(), Some(statement(1)));
        log.unnamed(0, unnamed.replace(statement(2)));
        log.unnamed(0, unnamed.take());
        // The next batch has been sent already.
        log.unnamed(1, unnamed.replace(statement(3)));
        log.query(0, &mut unnamed);
        assert_eq!(number(unnamed.as_ref()), 3);
        assert!(log.parse(1, id(3), Older::Stays, &mut unnamed));
        assert_eq!(number(unnamed.as_ref()), 2);
        assert!(!log.parse(1, id(3), Older::Stays, &mut unnamed));
        assert!(log.parse(0, id(2), Older::Gone, &mut unnamed));
        assert_eq!(number(unnamed.as_ref()), 0);
        assert!(log.changes.is_empty());
    }

    #[test]
    fn what_was_closed_comes_back_once() {
        let mut log = UndoLog::default();
        log.closed(0, b"a", statement(1));
        log.unnamed(0, None);
        log.closed(1, b"b", statement(1));
        assert_eq!(&*log.closing(id(1)).unwrap().0, b"b");
        assert!(log.closing(id(2)).is_none());
        assert_eq!(log.take_closed().len(), 1);
        assert!(log.closing(id(1)).is_none());
        log.forget(0);
        assert!(log.changes.is_empty());
    }
}
