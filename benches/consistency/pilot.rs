//! pgpilot in one mode, and what it tells of itself.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pgpilot::demo::LocalCluster;
use pgpilot::demo::account::Account;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::guarded::{Ending, Guarded};
use crate::load::USER;
use crate::usage::Processes;

/// The role that pgpilot watches the nodes with.
pub(crate) const WATCHER: &str = "watcher";

const LIMIT: Duration = Duration::from_secs(15);

pub(crate) struct Pilot {
    pub(crate) port: u16,
    metrics: u16,
    process: Guarded,
}

/// Batches that were reads, by where they went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Routes {
    replicas: f64,
    not_caught_up: f64,
    all_lagging: f64,
}

impl Pilot {
    /// Returns when it says that it is ready.
    pub(crate) async fn start(cluster: &LocalCluster, mode: &str, pool: u16) -> anyhow::Result<Self> {
        let (port, metrics) = (free_port()?, free_port()?);
        let mut text = format!(
            "listen = \"127.0.0.1:{port}\"\n\
             [metrics]\nlisten = \"127.0.0.1:{metrics}\"\n\
             [health]\nuser = \"{WATCHER}\"\npassword = \"{WATCHER}\"\n\
             [pool]\nmax_server_connections = {pool}\n\
             [routing]\nconsistency = \"{mode}\"\n\
             [[auth.rules]]\nmethod = \"trust\"\n\
             [[users]]\nname = \"{USER}\"\npassword = \"{USER}\"\n"
        );
        for node in cluster.nodes() {
            write!(text, "[[nodes]]\nname = \"{}\"\nhost = \"127.0.0.1\"\nport = {}\n", node.name(), node.port())?;
        }
        let directory = cluster.directory().join(mode);
        Account::Own.private_directory(&directory)?;
        Account::Own.private_file(&directory.join("pgpilot.toml"), text)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgpilot"));
        command.args(["serve", "--config", "pgpilot.toml"]);
        let process = Guarded::start(Account::Own, &command, &directory, Ending::Terminate)?;
        let pilot = Self { port, metrics, process };
        let end = Instant::now() + LIMIT;
        while !pilot.get("/readyz").await.is_ok_and(|reply| reply.starts_with("HTTP/1.1 200")) {
            if Instant::now() >= end {
                bail!("pgpilot is not ready: {}", pilot.process.said());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(pilot)
    }

    /// The CPU time that it has taken so far.
    pub(crate) fn cpu(&self) -> Duration {
        Processes::read().cpu_below(self.process.pid())
    }

    pub(crate) async fn routes(&self) -> anyhow::Result<Routes> {
        let page = self.get("/metrics").await?;
        let mut routes = Routes::default();
        for line in page.lines().filter(|line| line.starts_with("pgpilot_statements_total{")) {
            let count: f64 = line.rsplit(' ').next().context("a value")?.parse()?;
            match line {
                _ if line.contains("route=\"replica\"") => routes.replicas += count,
                _ if line.contains("reason=\"not_caught_up\"") => routes.not_caught_up += count,
                _ if line.contains("reason=\"all_lagging\"") => routes.all_lagging += count,
                _ => {}
            }
        }
        Ok(routes)
    }

    async fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics)).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        Ok(reply)
    }
}

impl Routes {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            replicas: self.replicas - before.replicas,
            not_caught_up: self.not_caught_up - before.not_caught_up,
            all_lagging: self.all_lagging - before.all_lagging,
        }
    }

    fn reads(self) -> f64 {
        (self.replicas + self.not_caught_up + self.all_lagging).max(1.0)
    }

    /// The share of reads, in per cent, that the primary served because no replica had what the session had seen.
    pub(crate) fn behind(self) -> f64 {
        100.0 * self.not_caught_up / self.reads()
    }

    /// The share of reads, in per cent, that the primary served because all replicas were too far behind for anyone.
    pub(crate) fn lagging(self) -> f64 {
        100.0 * self.all_lagging / self.reads()
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
