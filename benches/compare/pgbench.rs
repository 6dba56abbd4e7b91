//! One run of pgbench.

use std::fmt;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;

/// How pgbench sends its statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Mode {
    /// `Query`, with the values as literals.
    Simple,
    /// `Parse`, `Bind`, `Execute` for each statement.
    Extended,
    /// `Parse` once, then `Bind` and `Execute`.
    Prepared,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        })
    }
}

/// What pgbench found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) transactions: u64,
    /// Transactions per second, without the time to connect.
    pub(crate) tps: f64,
    /// The mean, in milliseconds.
    pub(crate) latency: f64,
}

/// Runs it with these clients for so long; `command` holds the rest.
///
/// # Cancel safety
/// Dropped, it ends pgbench if the command says `kill_on_drop`.
pub(crate) async fn run(mut command: Command, mode: Mode, clients: u16, time: Duration) -> anyhow::Result<Outcome> {
    let threads = available_parallelism().map_or(1, usize::from).min(usize::from(clients));
    command.args(["-n", "-S", "-M", &mode.to_string(), "-c", &clients.to_string()]);
    command.args(["-j", &threads.to_string(), "-T", &time.as_secs().max(1).to_string()]);
    let output = command.output().await.context("cannot run pgbench")?;
    let said = String::from_utf8_lossy(&output.stdout);
    match parse(&said) {
        Some(outcome) if output.status.success() => Ok(outcome),
        _ => bail!("pgbench failed: {said}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// Reads pgbench's report. `None`: it is none, or says that transactions failed.
fn parse(said: &str) -> Option<Outcome> {
    let after = |label: &str| {
        let rest = said.lines().find_map(|line| line.strip_prefix(label))?;
        rest.split_whitespace().next()
    };
    if after("number of failed transactions: ").is_some_and(|failed| failed != "0") {
        return None;
    }
    Some(Outcome {
        transactions: after("number of transactions actually processed: ")?.parse().ok()?,
        tps: after("tps = ")?.parse().ok()?,
        latency: after("latency average = ")?.parse().ok()?,
    })
}
