//! Whether there was ever more than one node that took writes.

use std::collections::BTreeMap;
use std::time::Instant;

/// A write that was acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) number: i64,
    /// The port on which the server that took it listens.
    pub(super) node: i32,
    /// Each epoch's primary has one of its own.
    pub(super) timeline: u32,
    pub(super) sent: Instant,
    pub(super) acknowledged: Instant,
}

/// Each timeline has one writer, and once one has acknowledged a write, nobody takes any on an earlier one that is sent
/// after that.
///
/// # Errors
/// What contradicts this.
pub(super) fn single_writer(all: &[Written]) -> Result<(), String> {
    let mut writers = BTreeMap::new();
    for write in all {
        let first = writers.entry(write.timeline).or_insert(*write);
        if first.node != write.node {
            return Err(format!("two nodes have acknowledged writes on one timeline: {first:?} and {write:?}"));
        }
    }
    let (mut by_end, mut by_start): (Vec<_>, Vec<_>) = (all.to_vec(), all.to_vec());
    by_end.sort_unstable_by_key(|write| write.acknowledged);
    by_start.sort_unstable_by_key(|write| write.sent);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<Written> = None;
    for write in by_start {
        while let Some(before) = ended.next_if(|it| it.acknowledged < write.sent) {
            newest = newest.max_by_timeline(before);
        }
        if let Some(newest) = newest.filter(|newest| newest.timeline > write.timeline) {
            return Err(format!("{write:?} was sent and acknowledged after {newest:?}"));
        }
    }
    Ok(())
}

trait MaxByTimeline {
    fn max_by_timeline(self, other: Written) -> Self;
}

impl MaxByTimeline for Option<Written> {
    fn max_by_timeline(self, other: Written) -> Self {
        self.filter(|it| it.timeline >= other.timeline).or(Some(other))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// (node, timeline, sent, acknowledged)
    fn outcome(writes: &[(i32, u32, u64, u64)]) -> Result<(), String> {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let written = |&(node, timeline, sent, acknowledged): &(i32, u32, u64, u64)| Written {
            number: 0,
            node,
            timeline,
            sent: at(sent),
            acknowledged: at(acknowledged),
        };
        single_writer(&writes.iter().map(written).collect::<Vec<_>>())
    }

    #[test]
    fn a_second_writer_is_found() {
        // One after the other, and back; an acknowledgement may be late.
        assert_eq!(outcome(&[(1, 1, 0, 5), (1, 1, 6, 30), (2, 2, 10, 20), (1, 3, 31, 32)]), Ok(()));
        assert!(outcome(&[(1, 1, 0, 5), (2, 1, 10, 20)]).unwrap_err().contains("on one timeline"));
        assert!(outcome(&[(1, 1, 0, 5), (2, 2, 10, 20), (1, 1, 21, 22)]).unwrap_err().contains("after"));
    }
}
