//! A verdict that is kept, and what became of the statements it was given on.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::decide::sql::{Classified, Depends, Reason};
use crate::telemetry::Served;

/// The verdict on a text, or on all texts of one shape.
#[derive(Debug)]
pub struct Judged {
    classified: Classified,
    depends: Depends,
    /// By route: the primary, replicas.
    runs: [Runs; 2],
    /// Why the last one went where it went, as its place in `Reason::ALL`.
    reason: AtomicUsize,
}

#[derive(Debug, Default)]
struct Runs {
    statements: AtomicU64,
    micros: AtomicU64,
}

/// How often statements of one kind ran on one kind of node, and for how long in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunCount {
    pub statements: u64,
    pub time: Duration,
}

impl Judged {
    /// What it depends on besides the text and the catalogue.
    pub(super) fn depends(&self) -> Depends {
        self.depends
    }

    /// A batch that began with such a statement has been answered.
    pub(super) fn ran(&self, served: Served, reason: Reason, latency: Duration) {
        let runs = match served {
            Served::Primary(_) => &self.runs[0],
            Served::Replica(_) => &self.runs[1],
            Served::Own => return,
        };
        runs.statements.fetch_add(1, Ordering::Relaxed);
        runs.micros.fetch_add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.reason.store(reason as usize, Ordering::Relaxed);
    }

    /// On the primary, and on replicas.
    pub fn runs(&self) -> [RunCount; 2] {
        self.runs.each_ref().map(|runs| RunCount {
            statements: runs.statements.load(Ordering::Relaxed),
            time: Duration::from_micros(runs.micros.load(Ordering::Relaxed)),
        })
    }

    /// Why the last one went where it went; meaningful once there was one.
    pub fn last_reason(&self) -> Reason {
        Reason::ALL.get(self.reason.load(Ordering::Relaxed)).copied().unwrap_or(Reason::Empty)
    }
}

impl From<Classified> for Judged {
    fn from(classified: Classified) -> Self {
        Judged {
            depends: classified.depends(),
            classified,
            runs: Default::default(),
            reason: AtomicUsize::new(Reason::Empty as usize),
        }
    }
}

impl Deref for Judged {
    type Target = Classified;

    fn deref(&self) -> &Classified {
        &self.classified
    }
}
