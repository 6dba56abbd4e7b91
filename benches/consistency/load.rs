//! pgbench: writers and readers in one.

use std::time::Duration;

use anyhow::{Context as _, bail};
use pgpilot::demo::LocalCluster;
use tokio::process::Command;

/// Who runs it, and its password, and its database.
pub(crate) const USER: &str = "bench";

#[derive(Debug, Clone, Copy)]
pub(crate) struct Mix {
    pub(crate) clients: u16,
    /// Per cent.
    pub(crate) writes: u32,
    pub(crate) rate: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) transactions: f64,
    pub(crate) tps: f64,
}

fn pgbench(cluster: &LocalCluster, port: u16) -> Command {
    let beside = cluster.nodes()[0].binaries().tool("pgbench");
    let mut command = Command::new(beside.unwrap_or_else(|_| "pgbench".into()));
    command.env("PGPASSWORD", USER).args(["-h", "127.0.0.1", "-U", USER, "-p", &port.to_string()]).kill_on_drop(true);
    command
}

/// Makes its tables.
pub(crate) async fn fill(cluster: &LocalCluster, scale: u16) -> anyhow::Result<()> {
    let primary = &cluster.nodes()[0];
    let mut command = pgbench(cluster, primary.port());
    said(command.args(["-i", "-q", "-s", &scale.to_string(), USER])).await?;
    primary.connect_to(USER).await?.batch_execute("VACUUM ANALYZE").await?;
    cluster.wait_caught_up(primary).await?;
    Ok(())
}

/// Each client chooses at random what it does next.
pub(crate) async fn run(cluster: &LocalCluster, port: u16, mix: Mix, time: Duration) -> anyhow::Result<Outcome> {
    let mut command = pgbench(cluster, port);
    command.args(["-n", "-M", "prepared", "-c", &mix.clients.to_string(), "-T", &time.as_secs().to_string()]);
    for (script, weight) in [("tpcb-like", mix.writes), ("select-only", 100 - mix.writes)] {
        if weight > 0 {
            command.arg(format!("--builtin={script}@{weight}"));
        }
    }
    if let Some(rate) = mix.rate {
        command.args(["-R", &rate.to_string()]);
    }
    let said = said(command.arg(USER)).await?;
    let after = |label: &str| {
        let rest = said.lines().find_map(|line| line.strip_prefix(label))?;
        rest.split_whitespace().next()?.split('/').next()?.parse().ok()
    };
    let transactions = after("number of transactions actually processed: ");
    match (transactions, after("tps = ")) {
        (Some(transactions), Some(tps)) => Ok(Outcome { transactions, tps }),
        _ => bail!("pgbench says: {said}"),
    }
}

async fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().await.context("cannot run pgbench")?;
    if !output.status.success() {
        bail!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
