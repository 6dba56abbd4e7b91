//! What a run did, and when it is over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a run shall be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Length {
    Operations(u64),
    Time(Duration),
}

#[derive(Debug)]
pub(super) struct Tally {
    length: Length,
    begun: Instant,
    stopped: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    tokens: AtomicU64,
    rest: Mutex<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    /// By SQLSTATE: how many, and one of the messages.
    errors: BTreeMap<String, (u64, String)>,
    faults: BTreeMap<&'static str, u64>,
    violations: Vec<String>,
}

impl Tally {
    pub(super) fn new(length: Length) -> Self {
        Self {
            length,
            begun: Instant::now(),
            stopped: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            rest: Mutex::default(),
        }
    }

    pub(super) fn goes_on(&self) -> bool {
        let over = match self.length {
            Length::Operations(count) => self.operations() >= count,
            Length::Time(time) => self.begun.elapsed() >= time,
        };
        !over && !self.stopped.load(Ordering::Relaxed)
    }

    /// Ends the run.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) fn reads(&self, count: u64) {
        self.reads.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn writes(&self, count: u64) {
        self.writes.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn tokens(&self, count: u64) {
        self.tokens.fetch_add(count, Ordering::Relaxed);
    }

    /// Reads and writes that were answered and judged.
    pub(super) fn operations(&self) -> u64 {
        self.reads.load(Ordering::Relaxed) + self.writes.load(Ordering::Relaxed)
    }

    pub(super) fn error(&self, code: &str, message: &str) {
        let mut rest = self.rest();
        let entry = rest.errors.entry(code.to_owned()).or_insert_with(|| (0, message.to_owned()));
        entry.0 += 1;
    }

    pub(super) fn errors(&self, code: &str) -> u64 {
        self.rest().errors.get(code).map_or(0, |(count, _)| *count)
    }

    pub(super) fn fault(&self, name: &'static str) {
        *self.rest().faults.entry(name).or_default() += 1;
    }

    /// One is enough: the run ends.
    pub(super) fn violation(&self, what: &str) {
        self.rest().violations.push(what.to_owned());
        self.stop();
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.rest().violations.clone()
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (seconds, rest) = (self.begun.elapsed().as_secs_f64(), self.rest());
        write!(f, "{} operations in {seconds:.1} s: {} reads, ", self.operations(), read(&self.reads))?;
        write!(f, "{} writes, {} tokens; faults:", read(&self.writes), read(&self.tokens))?;
        for (name, count) in &rest.faults {
            write!(f, " {name} {count}")?;
        }
        write!(f, "; errors:")?;
        for (code, (count, message)) in &rest.errors {
            write!(f, " {code} {count} ({message})")?;
        }
        write!(f, "; violations: {}", rest.violations.len())
    }
}
