//! What happened, for operators: the last events of the cluster and of its service.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The last [`Journal::LIMIT`] entries; older ones are forgotten.
#[derive(Debug, Default)]
pub struct Journal(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    next: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Counts from 1 since the start; a gap means that entries were forgotten.
    pub number: u64,
    pub at: SystemTime,
    pub topic: Topic,
    /// Which node it concerns, if it is one.
    pub node: Option<String>,
    pub text: String,
}

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Which node is the primary.
    Primary,
    /// A node's role or state.
    Node,
    /// A change of primary, step by step.
    Failover,
    /// A replica fell behind, or caught up.
    Lag,
    /// What has been learnt about statements.
    Routing,
    /// Somebody used the admin console.
    Operator,
    /// pgpilot itself: started, reloaded, draining.
    Service,
}

impl Topic {
    pub fn label(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Node => "node",
            Self::Failover => "failover",
            Self::Lag => "lag",
            Self::Routing => "routing",
            Self::Operator => "operator",
            Self::Service => "service",
        }
    }
}

impl Journal {
    pub const LIMIT: usize = 256;

    pub fn note(&self, topic: Topic, node: Option<&str>, text: impl Into<String>) {
        let mut ring = self.lock();
        ring.next += 1;
        if ring.entries.len() == Self::LIMIT {
            ring.entries.pop_front();
        }
        let (number, at) = (ring.next, SystemTime::now());
        ring.entries.push_back(Entry { number, at, topic, node: node.map(str::to_owned), text: text.into() });
    }

    /// Oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entries_are_forgotten() {
        let journal = Journal::default();
        for number in 1..=Journal::LIMIT + 3 {
            journal.note(Topic::Node, Some("pg1"), number.to_string());
        }
        let entries = journal.entries();
        assert_eq!(entries.len(), Journal::LIMIT);
        assert_eq!((entries[0].number, entries[0].text.as_str()), (4, "4"));
    }
}
