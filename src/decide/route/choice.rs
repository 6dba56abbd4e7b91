//! Which of several nodes that would all do.

use std::sync::Arc;

use smallvec::SmallVec;

use super::snapshot::{NodeId, NodeView};

/// Nodes that a read may be sent to; more than eight cost an allocation.
#[derive(Debug, Default)]
pub(super) struct Candidates(SmallVec<[Candidate; 8]>);

#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) id: NodeId,
    weight: u32,
    near: bool,
}

impl Candidates {
    pub(super) fn add(&mut self, node: &NodeView, zone: Option<&Arc<str>>) {
        let near = zone.is_some() && node.zone.as_ref() == zone;
        self.0.push(Candidate { id: node.id, weight: node.weight.max(1), near });
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Of two candidates drawn by weight, the one with fewer outstanding statements for its weight. Two random choices
    /// spread nearly as well as looking at all, and no burst of sessions finds the same node least busy at once.
    pub(super) fn choose(mut self, load: impl Fn(NodeId) -> u32, dice: u64) -> Option<Candidate> {
        if self.0.iter().any(|candidate| candidate.near) {
            self.0.retain(|candidate| candidate.near);
        }
        if self.0.len() < 2 {
            return self.0.pop();
        }
        let (high, low) = (dice >> 32, dice & 0xFFFF_FFFF);
        let first = draw(&mut self.0, high);
        let second = draw(&mut self.0, low);
        let cost = |one: Candidate, other: Candidate| (u64::from(load(one.id)) + 1) * u64::from(other.weight);
        Some(if cost(second, first) < cost(first, second) { second } else { first })
    }
}

/// Takes one out, each with a chance of its share of the weights. `dice`: 32 random bits.
fn draw(candidates: &mut SmallVec<[Candidate; 8]>, dice: u64) -> Candidate {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    // Weights are 32 bits wide: the product of a share of them and 32 random bits needs more than 64.
    let mut point = (u128::from(dice) * u128::from(total)) >> 32;
    let last = candidates.len() - 1;
    for i in 0..last {
        let weight = u128::from(candidates[i].weight);
        if point < weight {
            return candidates.swap_remove(i);
        }
        point -= weight;
    }
    candidates.swap_remove(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeName;

    fn node(id: u16, weight: u32, zone: Option<&str>) -> NodeView {
        let name = NodeName::new(&format!("n{id}")).unwrap();
        NodeView { weight, zone: zone.map(Arc::from), ..NodeView::new(NodeId(id), name) }
    }

    /// How often each node is chosen in `n` throws.
    fn spread(nodes: &[NodeView], zone: Option<&str>, load: impl Fn(NodeId) -> u32, n: u32) -> Vec<u32> {
        let zone = zone.map(Arc::from);
        let mut random = fastrand::Rng::with_seed(7);
        let mut chosen = vec![0; nodes.len()];
        for _ in 0..n {
            let mut candidates = Candidates::default();
            nodes.iter().for_each(|node| candidates.add(node, zone.as_ref()));
            let choice = candidates.choose(&load, random.u64(..)).unwrap();
            chosen[usize::from(choice.id.0)] += 1;
        }
        chosen
    }

    #[test]
    fn idle_nodes_share_by_weight() {
        let nodes = [node(0, 1, None), node(1, 3, None)];
        // At equal load for the weight: the draw decides.
        let chosen = spread(&nodes, None, |id| if id.0 == 0 { 0 } else { 2 }, 10_000);
        assert!((2_300..2_700).contains(&chosen[0]), "{chosen:?}");
    }

    #[test]
    fn the_less_busy_one_for_its_weight_wins() {
        let nodes = [node(0, 1, None), node(1, 3, None)];
        assert_eq!(spread(&nodes, None, |id| if id.0 == 0 { 2 } else { 5 }, 100), [0, 100]);
        assert_eq!(spread(&nodes, None, |id| if id.0 == 0 { 2 } else { 9 }, 100), [100, 0]);
        let three = [node(0, 1, None), node(1, 1, None), node(2, 1, None)];
        let chosen = spread(&three, None, |id| u32::from(id.0 == 0) * 10, 9_000);
        assert_eq!(chosen[0], 0);
        assert!(chosen[1] > 4_000 && chosen[2] > 4_000, "{chosen:?}");
    }

    #[test]
    fn the_own_zone_goes_first_even_when_busy() {
        let nodes = [node(0, 1, Some("a")), node(1, 1, Some("b")), node(2, 1, None)];
        assert_eq!(spread(&nodes, Some("b"), |id| u32::from(id.0 == 1) * 100, 50), [0, 50, 0]);
        let elsewhere = spread(&nodes, Some("c"), |_| 0, 3_000);
        assert!(elsewhere.iter().all(|&n| n > 800), "{elsewhere:?}");
    }
}
