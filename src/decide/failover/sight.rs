//! Of several instances, one that is cut off from the nodes is not to be the one that decides.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::world::{Contact, World};

/// What an instance gets from the nodes, as it tells the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Sight {
    /// It has only just started, or is of a version that does not tell.
    #[default]
    Unknown,
    /// Some node answers.
    Nodes,
    /// None does, and has not for a while.
    Nothing,
}

/// Since when no node has answered.
#[derive(Debug, Default)]
pub struct Darkness {
    since: Option<Instant>,
    seen: Sight,
}

impl Darkness {
    /// `patience`: for so long, silence says nothing.
    pub fn look(&mut self, world: &World, patience: Duration, now: Instant) -> Sight {
        let known = world.present().filter(|node| node.contact != Contact::Unknown);
        let (mut known, mut lit) = (known.peekable(), false);
        let asked = known.peek().is_some();
        known.for_each(|node| lit |= matches!(node.contact, Contact::Up | Contact::Starting));
        if lit {
            (self.since, self.seen) = (None, Sight::Nodes);
        } else if asked {
            let since = *self.since.get_or_insert(now);
            if now.saturating_duration_since(since) >= patience {
                self.seen = Sight::Nothing;
            }
        }
        self.seen
    }
}

/// Whether an instance lets another one decide: that sees something.
pub fn stands_back(own: Sight, others: impl IntoIterator<Item = Sight>) -> bool {
    own == Sight::Nothing && others.into_iter().any(|other| other == Sight::Nodes)
}

#[cfg(test)]
mod tests {
    use Sight::{Nodes, Nothing, Unknown};

    use super::super::tests::world;
    use super::*;

    #[test]
    fn only_who_sees_nothing_for_a_while_stands_back_for_one_who_sees() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut dark = world(Contact::Silent);
        dark.nodes.iter_mut().for_each(|node| node.contact = Contact::Refused);
        let nobody = World::default();
        let mut darkness = Darkness::default();
        for (world, after, expected) in [
            (&nobody, 0, Unknown),
            (&world(Contact::Refused), 1, Nodes),
            (&dark, 2, Nodes),
            (&dark, 3, Nodes),
            (&world(Contact::Up), 4, Nodes),
            (&dark, 5, Nodes),
            (&dark, 7, Nothing),
            (&world(Contact::Refused), 8, Nodes),
        ] {
            assert_eq!(darkness.look(world, second * 2, now + second * after), expected, "after {after}");
        }
        for (own, others, expected) in [
            (Nothing, &[Nothing, Nodes][..], true),
            (Nothing, &[Nothing, Unknown], false),
            (Nothing, &[], false),
            (Nodes, &[Nodes], false),
            (Unknown, &[Nodes], false),
        ] {
            assert_eq!(stands_back(own, others.iter().copied()), expected, "{own:?} {others:?}");
        }
    }
}
