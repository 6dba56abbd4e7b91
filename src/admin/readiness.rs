//! Whether new clients should be sent here.

use super::sources::{Service, Sources};
use crate::decide::route::{Role, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    /// Why not.
    NotReady(&'static str),
}

pub(super) fn readiness(sources: &dyn Sources) -> Readiness {
    match sources.service() {
        Service::Draining => return Readiness::NotReady("draining"),
        // Clients wait until it is resumed; another instance would be paused as well, or should be.
        Service::Running | Service::Paused => {}
    }
    let snapshot = sources.snapshot();
    let replica = |node: &crate::decide::route::NodeView| node.role == Role::Replica && node.state == State::Up;
    if snapshot.usable_primary().is_some() || snapshot.nodes.iter().any(replica) {
        Readiness::Ready
    } else {
        Readiness::NotReady("no primary and no replica can be reached")
    }
}
