//! A verdict that is kept, and what became of the statements it was given on.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::decide::sql::{Classified, Depends, Effects, Intent, Reason, Verdict};
use crate::telemetry::Served;

/// The verdict on a text, or on all texts of one shape.
#[derive(Debug)]
pub struct Judged {
    classified: Classified,
    depends: Depends,
    /// By [`Way`].
    runs: [Runs; 2],
}

/// The kind of node that a statement went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    Primary,
    Replica,
}

#[derive(Debug, Default)]
struct Runs {
    statements: AtomicU64,
    micros: AtomicU64,
    /// Why the last one went there, as its place in `Reason::ALL`.
    reason: AtomicUsize,
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

    /// So many of such statements have been answered, after `latency` in all.
    fn ran(&self, count: u32, served: Served, reason: Reason, latency: Duration) {
        let way = match served {
            Served::Primary(_) => Way::Primary,
            Served::Replica(_) => Way::Replica,
            Served::Own => return,
        };
        let runs = &self.runs[way as usize];
        runs.statements.fetch_add(u64::from(count), Ordering::Relaxed);
        runs.micros.fetch_add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        runs.reason.store(reason as usize, Ordering::Relaxed);
    }

    /// What went one way, and why the last one did; `None`: nothing.
    pub fn ran_on(&self, way: Way) -> Option<(RunCount, Reason)> {
        let runs = &self.runs[way as usize];
        let statements = runs.statements.load(Ordering::Relaxed);
        let reason = Reason::ALL.get(runs.reason.load(Ordering::Relaxed)).copied()?;
        let time = Duration::from_micros(runs.micros.load(Ordering::Relaxed));
        (statements > 0).then_some((RunCount { statements, time }, reason))
    }
}

/// What one batch executes, in order: how often, in a row, statements of a verdict.
#[derive(Debug, Default)]
pub(super) struct Executed {
    /// Mostly there is but one.
    first: Option<(Arc<Judged>, u32)>,
    more: Vec<(Arc<Judged>, u32)>,
    /// The text of the first, if slow statements are logged.
    pub text: Option<Box<[u8]>>,
}

/// Of a batch with more changes from one statement to another, the rest is not counted.
const MAX_COUNTED: usize = 64;

impl Executed {
    pub(super) fn add(&mut self, judged: &Arc<Judged>) {
        self.add_times(judged, 1);
    }

    /// What the rest of the batch executes.
    pub(super) fn append(&mut self, rest: Executed) {
        self.text = self.text.take().or(rest.text);
        for (judged, count) in rest.first.into_iter().chain(rest.more) {
            self.add_times(&judged, count);
        }
    }

    fn add_times(&mut self, judged: &Arc<Judged>, times: u32) {
        let has_room = self.more.len() < MAX_COUNTED;
        match self.more.last_mut().or(self.first.as_mut()) {
            None => self.first = Some((judged.clone(), times)),
            Some((last, count)) if Arc::ptr_eq(last, judged) => *count += times,
            Some(_) if has_room => self.more.push((judged.clone(), times)),
            Some(_) => {}
        }
    }

    /// Whether there is a statement among them that begins a transaction.
    pub(super) fn begins(&self) -> bool {
        let begins = |verdict: &Verdict| matches!(verdict.intent, Intent::Begin(_));
        self.first.iter().chain(&self.more).any(|(judged, _)| judged.statements.iter().any(begins))
    }

    /// Whether there is a statement among them that acts on the node itself.
    pub(super) fn acts_on_node(&self) -> bool {
        let acts = |verdict: &Verdict| verdict.effects.contains(Effects::NODE);
        self.first.iter().chain(&self.more).any(|(judged, _)| judged.statements.iter().any(acts))
    }

    /// Whether it is one statement. A Query has one verdict, of as many statements as it has.
    pub(super) fn is_one(&self) -> bool {
        let one = |(judged, count): &(Arc<Judged>, u32)| (judged.statements.len(), *count) == (1, 1);
        self.more.is_empty() && self.first.as_ref().is_some_and(one)
    }

    /// The batch has been answered.
    pub(super) fn ran(self, served: Served, reason: Reason, latency: Duration) {
        let all = || self.first.iter().chain(&self.more);
        let total: u32 = all().map(|(_, count)| count).sum();
        for (judged, count) in all() {
            judged.ran(*count, served, reason, latency * *count / total);
        }
    }
}

impl From<Classified> for Judged {
    fn from(classified: Classified) -> Self {
        Judged { depends: classified.depends(), classified, runs: Default::default() }
    }
}

impl Deref for Judged {
    type Target = Classified;

    fn deref(&self) -> &Classified {
        &self.classified
    }
}
