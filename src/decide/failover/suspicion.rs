//! Is the primary lost? What pgpilot sees of it, confirmed by its replicas.

use std::time::{Duration, Instant};

use super::machine::Rules;
use super::world::{Contact, Hearing, World};
use crate::decide::route::NodeId;

/// The primary does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspicion {
    pub(super) primary: NodeId,
    pub(super) since: Instant,
    /// Why nothing is done about it, as last told.
    pub(super) blocked: Option<String>,
    pub(super) refusal: Refusal,
}

/// Whether an automatic failover is due and a guard stands in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    No,
    /// It may be for a moment only, until the replicas have noticed the loss, too.
    Since(Instant),
    Counted,
}

/// What the replicas say of a primary that pgpilot cannot reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Testimony {
    /// None hears it.
    Lost,
    /// This one hears it.
    Alive(NodeId),
    /// Nobody can be asked.
    NoWitness,
}

impl Suspicion {
    pub(super) fn new(primary: NodeId, now: Instant) -> Self {
        Self { primary, since: now, blocked: None, refusal: Refusal::No }
    }

    /// Whether a refusal is to be counted now: one that lasts.
    pub(super) fn counts(&mut self, rules: &Rules, now: Instant) -> bool {
        match self.refusal {
            Refusal::No => self.refusal = Refusal::Since(now),
            Refusal::Since(since) if now.saturating_duration_since(since) >= rules.detect_after => {
                self.refusal = Refusal::Counted;
                return true;
            }
            Refusal::Since(_) | Refusal::Counted => {}
        }
        false
    }

    /// For how long the primary has to be like this before it is taken for lost.
    pub(super) fn patience(contact: Contact, rules: &Rules) -> Duration {
        match contact {
            Contact::Refused => rules.refused_after,
            Contact::Starting => rules.start_timeout,
            Contact::Silent | Contact::Unknown | Contact::Removed | Contact::Up => rules.detect_after,
        }
    }
}

/// A replica that streams from another replica hears what that one hears.
pub(super) fn testimony(world: &World) -> Testimony {
    let mut asked = false;
    for node in world.replicas() {
        match node.hearing {
            Hearing::Primary => return Testimony::Alive(node.id),
            Hearing::Nothing => asked = true,
            Hearing::Replica(_) | Hearing::Unknown => {}
        }
    }
    if asked { Testimony::Lost } else { Testimony::NoWitness }
}
