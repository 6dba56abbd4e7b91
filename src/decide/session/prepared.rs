//! Prepared statements: what a session calls them, and what its server connections know.

use std::collections::HashMap;
use std::num::NonZeroU64;

/// A statement's number while pgpilot runs. Two sessions that prepare the same thing share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatementId(pub NonZeroU64);

/// Something prepared, identified by everything that its meaning depends on.
#[derive(Debug, PartialEq, Eq)]
pub struct Statement {
    pub id: StatementId,
    pub origin: Origin,
}

/// How a statement came to be, and so how another connection is taught it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A Parse message: its text and its parameter types (the count and the OIDs as they came).
    Parse { query: Box<[u8]>, types: Box<[u8]> },
    /// PREPARE: the text before the name and the text after it.
    Sql { before: Box<str>, after: Box<str> },
}

/// What servers' names of statements begin with; a number follows.
pub const SERVER_NAME_PREFIX: &str = "pgpilot_";

/// The name under which servers know a statement. It is unlike any that a client would choose.
pub fn server_name(id: StatementId) -> String {
    format!("{SERVER_NAME_PREFIX}{}", id.0)
}

/// The statements that one server connection knows, with a limit: the least recently used one is closed.
#[derive(Debug)]
pub struct ServerStatements {
    /// Statement to the tick of its last use.
    known: HashMap<StatementId, u64>,
    tick: u64,
    limit: usize,
}

impl ServerStatements {
    pub fn new(limit: usize) -> Self {
        Self { known: HashMap::new(), tick: 0, limit: limit.max(1) }
    }

    /// Whether the server knows it; notes the use.
    #[inline]
    pub fn touch(&mut self, id: StatementId) -> bool {
        self.tick += 1;
        match self.known.get_mut(&id) {
            Some(used) => {
                *used = self.tick;
                true
            }
            None => false,
        }
    }

    /// Whether the server knows it.
    pub fn knows(&self, id: StatementId) -> bool {
        self.known.contains_key(&id)
    }

    /// The server is being taught `id`; returns the one to close for it, if the limit is reached.
    pub fn insert(&mut self, id: StatementId) -> Option<StatementId> {
        let evicted =
            (self.known.len() >= self.limit && !self.known.contains_key(&id)).then(|| self.oldest()).flatten();
        if let Some(evicted) = evicted {
            self.known.remove(&evicted);
        }
        self.tick += 1;
        self.known.insert(id, self.tick);
        evicted
    }

    pub fn remove(&mut self, id: StatementId) {
        self.known.remove(&id);
    }

    pub fn clear(&mut self) {
        self.known.clear();
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Linear, which is right for a thing that happens once per new statement beyond the limit.
    fn oldest(&self) -> Option<StatementId> {
        self.known.iter().min_by_key(|(_, used)| **used).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_statement_makes_room() {
        let id = |n| StatementId(NonZeroU64::new(n).unwrap());
        let mut known = ServerStatements::new(2);
        assert_eq!(known.insert(id(1)), None);
        assert_eq!(known.insert(id(2)), None);
        assert!(known.touch(id(1)));
        assert_eq!(known.insert(id(3)), Some(id(2)));
        assert!(!known.touch(id(2)) && known.touch(id(1)) && known.touch(id(3)));
        assert_eq!(known.insert(id(3)), None);
        assert_eq!(known.len(), 2);
    }
}
