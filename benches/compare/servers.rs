//! The cluster that everything runs before: a primary and two replicas with pgbench's tables.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;

use pgpilot::demo::account::Account;
use pgpilot::demo::{LocalCluster, Node, User};

use crate::Arguments;
use crate::usage::Processes;

pub(crate) struct Servers {
    pub(crate) cluster: LocalCluster,
    pub(crate) account: Account,
}

/// Who runs pgbench, and its password, which the servers ask for (SCRAM) and the proxies do not.
pub(crate) const USER: &str = "bench";
/// The role that pgpilot and pgpool-II watch the nodes with.
pub(crate) const WATCHER: &str = "watcher";
pub(crate) const DATABASE: &str = "bench";

impl Servers {
    pub(crate) async fn start(arguments: &Arguments) -> anyhow::Result<Self> {
        let cluster = LocalCluster::builder()
            .user(User::scram(USER, USER))
            .user(User::scram(WATCHER, WATCHER).with("IN ROLE pg_monitor"))
            .sql(&format!("CREATE DATABASE {DATABASE} OWNER {USER}"))
            // pgpool-II keeps one for each of its processes, and idle ones of all proxies stay open.
            .setting("max_connections", "1000")
            // In memory, all of it: what is measured is the way there.
            .setting("shared_buffers", "256MB")
            .setting("autovacuum", "off")
            .start()
            .await?;
        let servers = Self { cluster, account: Account::choose()? };
        servers.fill(arguments.scale).await?;
        Ok(servers)
    }

    pub(crate) fn primary(&self) -> &Node {
        &self.cluster.nodes()[0]
    }

    /// A new directory for a proxy's files, which goes with the cluster.
    pub(crate) fn directory(&self, name: &str, owner: Account) -> anyhow::Result<PathBuf> {
        let path = self.cluster.directory().join(name);
        owner.private_directory(&path)?;
        Ok(path)
    }

    pub(crate) fn pgbench(&self) -> anyhow::Result<Command> {
        // Packages put it elsewhere than the servers; Debian's wrapper on the PATH finds the right one.
        let beside = self.primary().binaries().tool("pgbench");
        let mut command = Command::new(beside.unwrap_or_else(|_| "pgbench".into()));
        command.env("PGPASSWORD", USER).args(["-h", "127.0.0.1", "-U", USER]).kill_on_drop(true);
        Ok(command)
    }

    async fn fill(&self, scale: u16) -> anyhow::Result<()> {
        let mut command = self.pgbench()?;
        let port = self.primary().port().to_string();
        command.args(["-i", "-q", "-s", &scale.to_string(), "-p", &port, DATABASE]);
        let output = command.output().await.context("cannot run pgbench")?;
        if !output.status.success() {
            bail!("pgbench -i failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let session = self.primary().connect_to(DATABASE).await?;
        // Hint bits and the visibility map, so that the first to run does not write them for the others.
        session.batch_execute("VACUUM ANALYZE").await?;
        self.cluster.wait_caught_up(self.primary()).await?;
        Ok(())
    }

    /// The CPU time of the primary's processes, and of all nodes' together.
    pub(crate) fn cpu(&self, processes: &Processes) -> (Duration, Duration) {
        let of = |node: &Node| node.pid().map_or(Duration::ZERO, |pid| processes.cpu_of(pid));
        (of(self.primary()), self.cluster.nodes().iter().map(of).sum())
    }
}
