//! How busy the nodes are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;

use crate::decide::route::NodeId;

/// Outstanding statements per node. Read and changed by every client task, so without a lock.
#[derive(Debug, Default)]
pub struct Loads(ArcSwap<Vec<Arc<Count>>>);

/// On a cache line of its own: the nodes' counts change all the time.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Count(AtomicU32);

/// One statement under way. Dropping it ends the statement.
#[derive(Debug)]
pub struct Outstanding(Option<Arc<Count>>);

impl Loads {
    /// Statements that are under way on a node.
    pub fn of(&self, node: NodeId) -> u32 {
        self.0.load().get(usize::from(node.0)).map_or(0, |count| count.0.load(Ordering::Relaxed))
    }

    pub(super) fn begin(&self, node: NodeId) -> Outstanding {
        let count = self.0.load().get(usize::from(node.0)).cloned();
        if let Some(count) = &count {
            count.0.fetch_add(1, Ordering::Relaxed);
        }
        Outstanding(count)
    }

    pub(super) fn grow(&self, nodes: usize) {
        self.0.rcu(|counts| {
            let mut counts = Vec::clone(counts);
            counts.resize_with(nodes.max(counts.len()), Arc::default);
            counts
        });
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_under_way() {
        let loads = Loads::default();
        loads.grow(2);
        let (first, second) = (loads.begin(NodeId(1)), loads.begin(NodeId(1)));
        loads.grow(3);
        assert_eq!((loads.of(NodeId(0)), loads.of(NodeId(1)), loads.of(NodeId(7))), (0, 2, 0));
        drop(first);
        let unknown = loads.begin(NodeId(7));
        assert_eq!(loads.of(NodeId(1)), 1);
        drop((second, unknown));
        assert_eq!(loads.of(NodeId(1)), 0);
    }
}
