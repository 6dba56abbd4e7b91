//! Batches that stay in the client's input after they have been sent, until they have been answered: another server can be sent them as well.

use std::collections::VecDeque;

/// The lengths of such batches: of the one that is answered next, and of those behind it.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Mostly there is but one: that costs no allocation.
    first: Option<usize>,
    behind: VecDeque<usize>,
    content: Content,
    /// Servers that have been lost while they worked at them.
    losses: u8,
    /// Replicas whose recovery has cancelled them.
    conflicts: u8,
    /// They have been sent again because what they prepare was known as something else.
    renewed: bool,
}

/// What the batches ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Content {
    /// Nothing but reads: whoever has run them, it is as if nobody had.
    Reads,
    /// They may write, if the server is one where that is possible.
    #[default]
    Anything,
}

/// A statement that takes its server down with it is not given all of them: the third loss is told to the client.
const LOSSES_MAX: u8 = 3;

/// What long reads are in the way of happens on all replicas at about the same time: the primary, which has no such
/// conflicts, is asked after so many.
const CONFLICTS_MAX: u8 = 2;

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether there is another one behind the one that is answered next.
    pub(super) fn has_more(&self) -> bool {
        !self.behind.is_empty()
    }

    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.first.into_iter().chain(self.behind.iter().copied())
    }

    pub(super) fn push(&mut self, length: usize, content: Content) {
        if self.first.is_some() {
            self.behind.push_back(length);
            if content == Content::Anything {
                self.content = content;
            }
            return;
        }
        let behind = std::mem::take(&mut self.behind);
        *self = Self { first: Some(length), content, behind, ..Self::default() };
    }

    /// The first one has been answered. Returns its length.
    pub(super) fn pop(&mut self) -> Option<usize> {
        std::mem::replace(&mut self.first, self.behind.pop_front())
    }

    /// Whether a primary may be sent them for the second time, too.
    pub(super) fn are_reads(&self) -> bool {
        self.content == Content::Reads
    }

    /// A server has refused them as one that only reads does: the verdict on them was wrong.
    pub(super) fn doubt(&mut self) {
        self.content = Content::Anything;
    }

    /// Their server is lost.
    pub(super) fn lose(&mut self) {
        self.losses = self.losses.saturating_add(1);
    }

    /// Whether another server is sent them when theirs is lost.
    pub(super) fn outlive_loss(&self) -> bool {
        !self.is_empty() && self.losses + 1 < LOSSES_MAX
    }

    /// A replica's recovery has cancelled them.
    pub(super) fn conflict(&mut self) {
        self.conflicts = self.conflicts.saturating_add(1);
    }

    /// Whether another replica is sent them when a replica's recovery cancels them.
    pub(super) fn outlive_conflict(&self) -> bool {
        self.conflicts + 1 < CONFLICTS_MAX
    }

    /// What they prepare is known as something else. Returns whether it has not been prepared anew for them yet.
    pub(super) fn renew(&mut self) -> bool {
        !std::mem::replace(&mut self.renewed, true)
    }

    /// They end with the server that has them.
    pub(super) fn give_up(&mut self) {
        self.losses = LOSSES_MAX - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_joins_is_answered_in_its_turn() {
        let mut kept = Kept::default();
        assert!(kept.is_empty() && kept.pop().is_none());
        [3, 5, 7].into_iter().for_each(|length| kept.push(length, Content::Reads));
        assert_eq!((kept.lengths().sum::<usize>(), kept.has_more(), kept.are_reads()), (15, true, true));
        assert_eq!((kept.pop(), kept.pop(), kept.has_more()), (Some(3), Some(5), false));
        kept.push(9, Content::Anything);
        assert_eq!((kept.lengths().collect::<Vec<_>>(), kept.are_reads()), (vec![7, 9], false));
        assert_eq!((kept.pop(), kept.pop(), kept.pop()), (Some(7), Some(9), None));
        assert!(kept.is_empty());
        kept.push(1, Content::Reads);
        assert!(kept.are_reads(), "what was before it counts no more");
    }

    #[test]
    fn the_third_loss_is_the_last() {
        let mut kept = Kept::default();
        assert!(!kept.outlive_loss(), "there is nothing to send");
        kept.push(1, Content::Reads);
        for outlives in [true, true, false] {
            assert_eq!(kept.outlive_loss(), outlives);
            kept.lose();
        }
        kept.pop();
        kept.push(1, Content::Reads);
        assert!(kept.outlive_loss());
        kept.give_up();
        assert!(!kept.outlive_loss());
    }

    #[test]
    fn what_is_prepared_is_prepared_anew_but_once() {
        let mut kept = Kept::default();
        for _ in 0..2 {
            kept.push(1, Content::Reads);
            assert_eq!([kept.renew(), kept.renew()], [true, false]);
            kept.pop();
        }
    }

    #[test]
    fn the_second_conflict_is_the_last() {
        let mut kept = Kept::default();
        for _ in 0..2 {
            kept.push(1, Content::Anything);
            assert!(kept.outlive_conflict());
            kept.conflict();
            assert!(!kept.outlive_conflict());
            kept.pop();
        }
    }
}
