//! When a monitor looks out of turn: at a replica that has not reached a mark yet, and at a primary whose mark is not on
//! disk yet.

use std::time::{Duration, Instant};

use crate::decide::position::Lsn;

use super::board::Chase;

/// Between two questions for a mark: sessions that write all the time share one.
pub(super) const MARK_GAP: Duration = Duration::from_millis(4);
/// So many replicas are looked at one after the other, at such a distance: one that has reached a mark lets the reads go on.
/// Where marks come all the time, each replica is looked at once for several of them.
const TURNS: usize = 4;
/// The pause after the first look at a replica that has not reached a mark in its usual time. It doubles, up to the interval.
pub(super) const CHASE_STEP: Duration = Duration::from_millis(1);
/// Nobody waits longer for a replica; its lag is for the regular probes then.
const CHASE_LIMIT: Duration = Duration::from_secs(2);
/// What took longer was no usual delay: reads do not wait for so long.
const USUAL_MAX: Duration = Duration::from_millis(20);
/// Where transactions commit all the time, the next commit takes the log to disk sooner than this.
const FLUSH_AFTER: Duration = Duration::from_millis(3);

/// Following a replica towards marks.
#[derive(Debug, Default)]
pub(super) struct Pursuit {
    current: Option<Current>,
    /// How long the replica usually takes to reach a mark: the first look comes after that.
    usual: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Current {
    lsn: Lsn,
    begun: Instant,
    /// Others go first.
    delay: Duration,
    /// It has been looked at, in vain.
    missed: bool,
    due: Instant,
    step: Duration,
    end: Instant,
}

impl Pursuit {
    /// `rank`: how many replicas go first. `at_once`: this one tells by itself when it is there.
    pub(super) fn begin(&mut self, Chase { lsn, begun, .. }: Chase, rank: usize, at_once: bool) {
        let delay = MARK_GAP * u32::try_from(rank % TURNS).unwrap_or_default();
        let due = begun + delay + if at_once { Duration::ZERO } else { self.usual };
        // Marks that come one upon the other put off no look.
        let due = self.current.map_or(due, |current| current.due.min(due));
        self.current =
            Some(Current { lsn, begun, delay, missed: false, due, step: CHASE_STEP, end: begun + CHASE_LIMIT });
    }

    pub(super) fn stop(&mut self) {
        self.current = None;
    }

    pub(super) fn mark(&self) -> Option<Lsn> {
        self.current.map(|current| current.lsn)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.current.map(|current| current.due)
    }

    /// The replica has been looked at, and is at `position`. `waited`: the look itself was the pause before the next one.
    pub(super) fn looked(&mut self, position: Option<Lsn>, now: Instant, interval: Duration, waited: bool) {
        let Some(current) = &mut self.current else { return };
        if position.is_some_and(|lsn| lsn >= current.lsn) {
            let took = match current.missed {
                // About so long.
                true => (self.usual + (now - current.begun)) / 2,
                // It may have been there before.
                false if current.delay.is_zero() => self.usual * 3 / 4,
                false => self.usual,
            };
            self.usual = took.min(interval).min(USUAL_MAX);
            self.current = None;
        } else if now >= current.end {
            self.usual = Duration::ZERO;
            self.current = None;
        } else {
            current.missed = true;
            if waited {
                current.due = now;
            } else {
                current.due = now + current.step;
                current.step = (current.step * 2).min(interval);
            }
        }
    }
}

/// A mark that the primary has not written to disk: no replica can reach it before.
///
/// A transaction's log goes to disk with the next commit of anybody. On a busy primary that is at once; where the only
/// transaction is an open one, it may take until the background writer logs something, which is 15 seconds.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    /// Up to where, and since when.
    mark: Option<(Lsn, Instant)>,
    /// The server would not.
    refused: bool,
}

impl Unflushed {
    /// A primary has said where its log ends and up to where it is on disk. `wanted`: somebody wants replicas to get there.
    pub(super) fn told(&mut self, end: Lsn, flush: Lsn, wanted: bool, now: Instant) {
        self.mark = match self.mark {
            Some((lsn, since)) if flush < lsn => Some((lsn, since)),
            _ if wanted && flush < end && !self.refused => Some((end, now)),
            _ => None,
        };
    }

    pub(super) fn forget(&mut self) {
        self.mark = None;
    }

    /// Nothing is to be brought to disk there any more.
    pub(super) fn refused(&mut self) {
        *self = Self { mark: None, refused: true };
    }

    /// When the log is to be brought to disk.
    pub(super) fn due(&self) -> Option<Instant> {
        self.mark.map(|(_, since)| since + FLUSH_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const INTERVAL: Duration = Duration::from_millis(500);

    fn chase(lsn: u64, begun: Instant) -> Chase {
        Chase { lsn: Lsn(lsn), begun, turn: 0 }
    }

    #[test]
    fn looks_come_after_the_usual_time_and_then_ever_later() {
        let start = Instant::now();
        let mut pursuit = Pursuit::default();
        pursuit.begin(chase(100, start), 0, false);
        let mut looks = Vec::new();
        let mut now = start;
        while let Some(due) = pursuit.due() {
            now = now.max(due);
            looks.push((now - start).as_millis());
            pursuit.looked(Some(Lsn(if looks.len() < 5 { 90 } else { 100 })), now, INTERVAL, false);
        }
        assert_eq!(looks, [0, 1, 3, 7, 15]);
        pursuit.begin(chase(200, now), 0, false);
        assert_eq!(pursuit.due(), Some(now + 15 * MS / 2), "it took 15 ms");
    }

    #[test]
    fn a_replica_that_could_not_get_there_for_long_is_looked_at_soon_again() {
        let start = Instant::now();
        let mut pursuit = Pursuit::default();
        pursuit.begin(chase(100, start), 0, false);
        pursuit.looked(Some(Lsn(90)), start, INTERVAL, false);
        pursuit.looked(Some(Lsn(100)), start + 1900 * MS, INTERVAL, false);
        let later = start + 2000 * MS;
        pursuit.begin(chase(200, later), 0, false);
        assert!(pursuit.due().unwrap() <= later + USUAL_MAX);
        // However many marks follow.
        let due = pursuit.due();
        for n in 1..20 {
            pursuit.begin(chase(200 + n, later + u32::try_from(n).unwrap() * MS), 0, false);
        }
        assert_eq!((pursuit.due(), pursuit.mark()), (due, Some(Lsn(219))));
    }

    #[test]
    fn while_marks_come_all_the_time_each_of_two_replicas_is_looked_at_for_every_other_one() {
        let start = Instant::now();
        let mut replicas = [Pursuit::default(), Pursuit::default()];
        let mut looks = [0, 0];
        for n in 0..100 {
            let begun = start + MARK_GAP * u32::try_from(n).unwrap();
            for (id, pursuit) in replicas.iter_mut().enumerate() {
                pursuit.begin(chase(100 + n, begun), (id + usize::try_from(n).unwrap()) % 2, false);
                while pursuit.due().is_some_and(|due| due < begun + MARK_GAP) {
                    looks[id] += 1;
                    pursuit.looked(Some(Lsn(100 + n)), begun, INTERVAL, false);
                }
            }
        }
        assert_eq!(looks, [50, 50]);
    }

    #[test]
    fn only_what_stays_off_the_disk_and_is_wanted_is_brought_there() {
        let start = Instant::now();
        let mut unflushed = Unflushed::default();
        unflushed.told(Lsn(110), Lsn(100), false, start);
        assert_eq!(unflushed.due(), None, "nobody wants it");
        for n in 0..20 {
            // Each commit flushes what was there, and there is more then.
            let n32 = u32::try_from(n).unwrap();
            unflushed.told(Lsn(110 + 10 * n), Lsn(100 + 10 * n), true, start + 2 * n32 * MS);
            assert_eq!(unflushed.due(), Some(start + 2 * n32 * MS + FLUSH_AFTER));
        }
        // An open transaction goes on writing.
        let due = unflushed.due();
        unflushed.told(Lsn(400), Lsn(290), true, start + 45 * MS);
        assert_eq!(unflushed.due(), due);
        unflushed.told(Lsn(400), Lsn(400), true, start + 50 * MS);
        assert_eq!(unflushed.due(), None);
    }
}
