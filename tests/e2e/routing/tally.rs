//! What a long run has found.

use std::collections::BTreeMap;

use pgpilot::decide::sql::{Reason, Verdict};

/// What became of one text that a session sent outside a transaction, with nothing that ties it to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// The replica gave what the primary gives.
    Same,
    /// Both refused it with the same code.
    SameError,
    /// Another answer each time: the clock, the dice.
    Unsteady,
    /// The same rows in another order, which nothing asked for.
    Order,
    /// EXPLAIN shows the plan of the node, which may be another one.
    Plan,
    /// The replica refused it with a code that sends it to the primary: it costs a round trip.
    Caught,
    /// The client got, or would have got, something else than from the primary.
    Harmful,
    /// It ran on the primary alone, as it must.
    Kept,
    /// As a lost one, but it calls a volatile function that puts statements together when it runs: nobody can know.
    Dynamic,
    /// A read that ran on the primary although the replica gives the same.
    Lost,
}

#[derive(Default)]
pub(super) struct Tally {
    counts: BTreeMap<Outcome, u64>,
    /// In transactions, or pinned: not to be judged by their texts.
    pub(super) bound: u64,
    pub(super) wrong: Vec<String>,
    pub(super) caught: Vec<String>,
    lost: BTreeMap<(&'static str, String), (u64, String)>,
}

/// Longest text that is printed.
const EXCERPT: usize = 300;

impl Tally {
    pub(super) fn count(&mut self, outcome: Outcome) {
        *self.counts.entry(outcome).or_default() += 1;
    }

    pub(super) fn harmful(&mut self, place: &str, text: &str, why: &str) {
        self.count(Outcome::Harmful);
        self.wrong.push(format!("{place}: {why}\n    {}", excerpt(text)));
    }

    pub(super) fn caught(&mut self, place: &str, text: &str, code: &str) {
        self.count(Outcome::Caught);
        self.caught.push(format!("{place}: {code}\n    {}", excerpt(text)));
    }

    pub(super) fn lost(&mut self, reason: Reason, verdict: Option<&Verdict>, text: &str) {
        self.count(Outcome::Lost);
        let object = verdict.and_then(|verdict| verdict.object.as_deref()).unwrap_or_default();
        let entry = self.lost.entry((reason.label(), object.to_owned())).or_insert((0, excerpt(text)));
        entry.0 += 1;
    }

    pub(super) fn get(&self, outcome: Outcome) -> u64 {
        self.counts.get(&outcome).copied().unwrap_or_default()
    }

    /// Of the reads that a replica answers as the primary does, the share that one got, in per cent, if so many were
    /// lost.
    #[expect(clippy::cast_precision_loss, reason = "a few ten thousand")]
    pub(super) fn share(&self, lost: u64) -> f64 {
        let offloaded = self.get(Outcome::Same) + self.get(Outcome::Unsteady) + self.get(Outcome::Order);
        100.0 * offloaded as f64 / (offloaded + lost).max(1) as f64
    }

    #[expect(clippy::print_stdout, reason = "this is what the run is for")]
    pub(super) fn print(&self) {
        println!("\nlost reads, by reason and object:");
        let mut lost: Vec<_> = self.lost.iter().collect();
        lost.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        for ((reason, object), (count, example)) in lost.iter().take(60) {
            println!("{count:6}  {reason} {object}\n        {example}");
        }
        println!("\ncaught by the safety net:");
        self.caught.iter().for_each(|line| println!("{line}"));
        println!("\nharmful:");
        self.wrong.iter().for_each(|line| println!("{line}"));
        println!("\n{:8} in transactions, or pinned", self.bound);
        for (outcome, count) in &self.counts {
            println!("{count:8} {outcome:?}");
        }
        let (lost, dynamic) = (self.get(Outcome::Lost), self.get(Outcome::Dynamic));
        println!("{:8.2} % of the reads that a replica answers as the primary does reached one", self.share(lost));
        println!("{:8.2} % if calls of functions count that run a text they are given", self.share(lost + dynamic));
    }
}

fn excerpt(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > EXCERPT { line.chars().take(EXCERPT).collect::<String>() + " .." } else { line }
}
