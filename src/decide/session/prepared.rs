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
    /// A Parse message whose text is too large to be held: only the server that has it knows it.
    Large,
    /// PREPARE: the text before the name and the text after it.
    Sql { before: Box<str>, after: Box<str> },
}

/// What servers' names of statements begin with; a number follows.
pub const SERVER_NAME_PREFIX: &str = "pgpilot_";

/// The name under which servers know a statement. It is unlike any that a client would choose.
pub fn server_name(id: StatementId) -> ServerName {
    let mut name = ServerName { bytes: [0; ServerName::MAX], begin: ServerName::MAX };
    let mut rest = id.0.get();
    while rest > 0 {
        name.begin -= 1;
        name.bytes[name.begin] = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
    }
    name.begin -= SERVER_NAME_PREFIX.len();
    name.bytes[name.begin..][..SERVER_NAME_PREFIX.len()].copy_from_slice(SERVER_NAME_PREFIX.as_bytes());
    name
}

/// A name that needs no memory of its own: one is written for every Bind.
#[derive(Debug, Clone, Copy)]
pub struct ServerName {
    bytes: [u8; Self::MAX],
    begin: usize,
}

impl ServerName {
    /// The prefix, and as many digits as a number of 64 bits can have.
    const MAX: usize = SERVER_NAME_PREFIX.len() + 20;

    /// No name, which is that of the unnamed statement.
    pub const UNNAMED: Self = Self { bytes: [0; Self::MAX], begin: Self::MAX };

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("digits behind a prefix are UTF-8")
    }
}

/// The statements that one server connection knows, with a limit: the least recently used one is closed.
#[derive(Debug)]
pub struct ServerStatements {
    /// Statement to the tick of its last use.
    known: HashMap<StatementId, u64, foldhash::fast::RandomState>,
    tick: u64,
    limit: usize,
}

/// What a server knew before it was told to forget it.
#[derive(Debug)]
pub struct Forgotten(HashMap<StatementId, u64, foldhash::fast::RandomState>);

impl ServerStatements {
    pub fn new(limit: usize) -> Self {
        Self { known: HashMap::default(), tick: 0, limit: limit.max(1) }
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

    /// The server is being told to forget all of them.
    pub fn forget(&mut self) -> Forgotten {
        Forgotten(std::mem::take(&mut self.known))
    }

    /// It has not done so.
    pub fn remember(&mut self, Forgotten(known): Forgotten) {
        for (id, used) in known {
            self.known.entry(id).or_insert(used);
        }
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
    fn a_name_is_a_prefix_and_a_number() {
        for number in [1, 90, u64::MAX] {
            let name = server_name(StatementId(NonZeroU64::new(number).unwrap()));
            assert_eq!(name.as_str(), format!("pgpilot_{number}"));
        }
        assert_eq!(ServerName::UNNAMED.as_bytes(), b"");
    }

    #[test]
    fn what_was_not_forgotten_is_known_again() {
        let id = |n| StatementId(NonZeroU64::new(n).unwrap());
        let mut known = ServerStatements::new(3);
        known.insert(id(1));
        known.insert(id(2));
        let forgotten = known.forget();
        assert!(known.is_empty());
        known.insert(id(2));
        known.remember(forgotten);
        assert!(known.knows(id(1)) && known.knows(id(2)) && known.len() == 2);
        assert_eq!((known.insert(id(3)), known.insert(id(4))), (None, Some(id(1))));
    }

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
