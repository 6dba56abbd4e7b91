//! Where a log was at which time, in bounded memory.

use std::time::{Duration, Instant};

use crate::decide::position::Lsn;

/// Positions of one log in the order of time. Recent points lie close, older ones ever further apart, so that a fixed
/// number of them reaches back as far as anyone asks, with an error relative to the age.
#[derive(Debug, Clone)]
pub(super) struct Trail {
    points: Vec<Point>,
    capacity: usize,
    spacing: Duration,
}

/// The log was at `lsn` at `at`, or shortly afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) at: Instant,
    pub(super) lsn: Lsn,
}

/// How much of the log's past a reader that is at some position has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// All that the trail knows of.
    Everything,
    /// What was there at this time.
    Until(Instant),
    /// Less than the oldest point.
    Before(Instant),
}

impl Trail {
    /// At least three points. Of those that lie closer than `spacing`, only the newest is kept.
    pub(super) fn new(capacity: usize, spacing: Duration) -> Self {
        Self { points: Vec::with_capacity(capacity + 1), capacity: capacity.max(3), spacing }
    }

    pub(super) fn clear(&mut self) {
        self.points.clear();
    }

    pub(super) fn points(&self) -> &[Point] {
        &self.points
    }

    pub(super) fn newest(&self) -> Option<Point> {
        self.points.last().copied()
    }

    /// A point that is older than the newest, or behind it, is a late or repeated answer and is ignored.
    pub(super) fn push(&mut self, point: Point) {
        if self.newest().is_some_and(|last| point.at <= last.at || point.lsn < last.lsn) {
            return;
        }
        if let [.., before, last] = self.points.as_mut_slice() {
            // A log that stands still is two points: since when, and until when.
            let stands_still = before.lsn == point.lsn && last.lsn == point.lsn;
            if stands_still || point.at - before.at < self.spacing {
                *last = point;
                return;
            }
        }
        self.points.push(point);
        if self.points.len() > self.capacity {
            self.thin(point.at);
        }
    }

    /// When the log was where a reader is that has reached `lsn`, by interpolation between the points around it.
    pub(super) fn reached(&self, lsn: Lsn) -> Option<Reached> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        if lsn >= last.lsn {
            return Some(Reached::Everything);
        }
        if lsn < first.lsn {
            return Some(Reached::Before(first.at));
        }
        let next = self.points.partition_point(|point| point.lsn <= lsn);
        let (before, after) = (self.points[next - 1], self.points[next]);
        #[allow(clippy::cast_precision_loss, reason = "an estimate between two points")]
        let share = lsn.since(before.lsn) as f64 / after.lsn.since(before.lsn) as f64;
        Some(Reached::Until(before.at + (after.at - before.at).mul_f64(share)))
    }

    /// Drops the point between two others that is missed least: the one that leaves the smallest gap for its age.
    fn thin(&mut self, now: Instant) {
        let gap = |i: usize| {
            let age = now.saturating_duration_since(self.points[i].at).max(Duration::from_micros(1));
            (self.points[i + 1].at - self.points[i - 1].at).as_secs_f64() / age.as_secs_f64()
        };
        let least = (1..self.points.len() - 1).min_by(|&a, &b| gap(a).total_cmp(&gap(b)));
        if let Some(i) = least {
            self.points.remove(i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn tells_when_the_log_was_somewhere() {
        let start = Instant::now();
        let mut trail = Trail::new(8, Duration::ZERO);
        assert_eq!(trail.reached(Lsn(5)), None);
        for (at, lsn) in [(0, 100), (100, 100), (200, 200), (300, 400)] {
            trail.push(Point { at: start + ms(at), lsn: Lsn(lsn) });
        }
        assert_eq!(trail.reached(Lsn(99)), Some(Reached::Before(start)));
        assert_eq!(trail.reached(Lsn(100)), Some(Reached::Until(start + ms(100))));
        assert_eq!(trail.reached(Lsn(150)), Some(Reached::Until(start + ms(150))));
        assert_eq!(trail.reached(Lsn(300)), Some(Reached::Until(start + ms(250))));
        assert_eq!(trail.reached(Lsn(400)), Some(Reached::Everything));
    }

    #[test]
    fn of_points_that_lie_close_the_newest_is_kept() {
        let start = Instant::now();
        let mut trail = Trail::new(8, ms(5));
        for at in 0..=12 {
            trail.push(Point { at: start + ms(at), lsn: Lsn(at * 10) });
        }
        let kept: Vec<u64> = trail.points().iter().map(|point| point.lsn.0).collect();
        assert_eq!(kept, [0, 40, 80, 120]);
    }

    #[test]
    fn ignores_late_answers_and_folds_standstill() {
        let start = Instant::now();
        let mut trail = Trail::new(8, Duration::ZERO);
        for (at, lsn) in [(0, 100), (100, 100), (200, 100), (150, 300), (300, 90), (200, 500)] {
            trail.push(Point { at: start + ms(at), lsn: Lsn(lsn) });
        }
        assert_eq!(trail.points(), [Point { at: start, lsn: Lsn(100) }, Point { at: start + ms(200), lsn: Lsn(100) }]);
    }

    #[test]
    fn is_bounded_and_still_reaches_back_a_day() {
        let start = Instant::now();
        let mut trail = Trail::new(64, Duration::ZERO);
        let steps = 86_400 * 2;
        for i in 0..steps {
            trail.push(Point { at: start + ms(500 * i), lsn: Lsn(i) });
        }
        assert_eq!(trail.points().len(), 64);
        let now = start + ms(500 * (steps - 1));
        for age in [1_u64, 10, 100, 1_000, 10_000, 80_000] {
            let Some(Reached::Until(at)) = trail.reached(Lsn(steps - 1 - age * 2)) else { panic!("{age}") };
            let error = (now - at).as_secs_f64() / Duration::from_secs(age).as_secs_f64();
            assert!((0.99..1.01).contains(&error), "{age} s: {error}");
        }
        // A log that does not grow evenly is still known to within the gaps, which are small for their age.
        for pair in trail.points()[1..60].windows(2) {
            let gap = (pair[1].at - pair[0].at).as_secs_f64();
            assert!(gap < 1.0 + 0.6 * (now - pair[0].at).as_secs_f64(), "{gap}");
        }
    }
}
