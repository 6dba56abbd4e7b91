//! Nodes whose disks are full, as their clients' statements find out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::decide::route::NodeId;

/// As long as it lasts, operators are told so often.
const AGAIN: Duration = Duration::from_secs(60);

/// When operators were told last, by node.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<HashMap<NodeId, Instant>>);

impl Room {
    /// A statement has failed for want of room: whether that is to be told.
    pub(super) fn is_news(&self, node: NodeId, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = told.get(&node).is_none_or(|at| now.saturating_duration_since(*at) >= AGAIN);
        if news {
            told.insert(node, now);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_is_told_of_now_and_then() {
        let (room, now) = (Room::default(), Instant::now());
        assert!(room.is_news(NodeId(0), now) && room.is_news(NodeId(1), now));
        assert!(!room.is_news(NodeId(0), now + AGAIN / 2));
        assert!(room.is_news(NodeId(0), now + AGAIN) && !room.is_news(NodeId(0), now + AGAIN));
    }
}
