//! Who follows whom: promotion, following another primary, coming back as a standby.

use std::fs;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::account;
use super::cluster::LocalCluster;
use super::copy::{self, Contents};
use super::error::{Doing, Error};
use super::node::{Ending, Node, Stop};
use super::processes::Scope;
use super::settings::{Settings, conninfo, identifier, quote, render};
use super::template::{REPLICATOR, SUPERUSER};
use super::wait::{LIMIT, until};

/// What is to rejoin and does not end in time waits, for as long as `wal_sender_timeout` says, for a replica that it
/// was cut off from.
const PARTING: Duration = Duration::from_secs(2);

impl Node {
    /// Makes a standby the primary; returns when it accepts writes.
    pub async fn promote(&self) -> Result<(), Error> {
        self.sql("SELECT pg_promote(wait => true, wait_seconds => 30)").await?;
        self.wait_for_truth("it is a primary", "SELECT NOT pg_is_in_recovery()").await
    }

    /// Stops replay on a standby; it goes on receiving.
    pub async fn pause_replay(&self) -> Result<(), Error> {
        self.sql("SELECT pg_wal_replay_pause()").await?;
        self.wait_for_truth("replay is paused", "SELECT pg_get_wal_replay_pause_state() = 'paused'").await
    }

    pub async fn resume_replay(&self) -> Result<(), Error> {
        self.sql("SELECT pg_wal_replay_resume()").await?;
        self.wait_for_truth("replay goes on", "SELECT pg_get_wal_replay_pause_state() = 'not paused'").await
    }

    /// Makes a running standby follow another node; returns when it streams from it.
    pub async fn repoint(&self, primary: &Self) -> Result<(), Error> {
        self.set("primary_conninfo", &self.upstream(primary)).await?;
        primary.wait_for_follower(self).await
    }

    /// `ALTER SYSTEM SET`, and a reload.
    pub async fn set(&self, name: &str, value: &str) -> Result<(), Error> {
        // ALTER SYSTEM cannot run in the implicit transaction of several statements.
        self.sql(&format!("ALTER SYSTEM SET {} = {}", identifier(name), quote(value))).await?;
        self.sql("SELECT pg_reload_conf()").await.map(drop)
    }

    /// Waits until `follower` streams from this node.
    pub async fn wait_for_follower(&self, follower: &Self) -> Result<(), Error> {
        let what = format!("{} streams from it", follower.name());
        self.wait_for_truth(&what, &has_follower(follower)).await
    }

    /// Whether `follower` streams from this node now.
    pub async fn is_followed_by(&self, follower: &Self) -> Result<bool, Error> {
        Ok(self.value(&has_follower(follower)).await?.as_deref() == Some("t"))
    }

    /// Waits until a query that yields one boolean yields true.
    pub async fn wait_for_truth(&self, what: &str, sql: &str) -> Result<(), Error> {
        let session = self.connect().await?;
        let what = format!("node {}: {what}", self.name());
        until(&what, LIMIT, async || {
            let row = session.query_one(sql, &[]).await;
            let row = row.map_err(|source| Error::Sql { node: self.name().to_owned(), source })?;
            Ok(row.get::<_, bool>(0).then_some(()))
        })
        .await
    }

    /// For a stopped node: at the next start it is a standby of `primary`.
    pub(super) fn make_standby_of(&self, primary: &Self) -> Result<(), Error> {
        let settings = Settings::from([
            ("primary_conninfo".to_owned(), self.upstream(primary)),
            ("primary_slot_name".to_owned(), self.name().to_owned()),
        ]);
        let data = self.data_directory();
        self.account().private_file(&data.join("postgresql.auto.conf"), render(&settings))?;
        self.account().private_file(&data.join("standby.signal"), "")
    }

    fn upstream(&self, primary: &Self) -> String {
        let port = primary.port().to_string();
        conninfo(&[
            ("host", "127.0.0.1"),
            ("port", &port),
            ("user", REPLICATOR),
            ("password", REPLICATOR),
            ("application_name", self.name()),
        ])
    }
}

fn has_follower(follower: &Node) -> String {
    let name = quote(follower.name());
    format!("SELECT count(*) > 0 FROM pg_stat_replication WHERE application_name = {name} AND state = 'streaming'")
}

/// How a node that has been a primary gets the history of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejoin {
    /// Nothing is changed: it has been shut down properly, and nothing was written to it since the other was promoted.
    AsItIs,
    /// pg_rewind: its own files, without what happened since the histories parted.
    Rewind,
    /// A new base backup instead of its own files.
    Copy,
}

impl LocalCluster {
    /// Waits until every running node but `primary` streams from it.
    pub async fn wait_for_streaming(&self, primary: &Node) -> Result<(), Error> {
        for follower in self.running().filter(|node| node.name() != primary.name()) {
            primary.wait_for_follower(follower).await?;
        }
        Ok(())
    }

    /// Waits until every running standby has replayed what `primary` has written to disk by now. (That is every
    /// commit, except under `synchronous_commit = off`.)
    pub async fn wait_caught_up(&self, primary: &Node) -> Result<(), Error> {
        let written = primary.value("SELECT pg_current_wal_flush_lsn()").await?.unwrap_or_default();
        for standby in self.running().filter(|node| node.name() != primary.name()) {
            let sql = format!("SELECT pg_last_wal_replay_lsn() >= {}", quote(&written));
            standby.wait_for_truth(&format!("it has replayed {written}"), &sql).await?;
        }
        Ok(())
    }

    /// Brings a stopped or killed node back as a standby of `primary`, by pg_rewind if this installation has it, else
    /// by a new copy.
    pub async fn rejoin(&self, node: &Node, primary: &Node) -> Result<(), Error> {
        let how = if node.binaries().tool("pg_rewind").is_ok() { Rejoin::Rewind } else { Rejoin::Copy };
        self.rejoin_by(how, node, primary).await
    }

    /// Returns when the node streams and has a slot for every other node.
    pub async fn rejoin_by(&self, how: Rejoin, node: &Node, primary: &Node) -> Result<(), Error> {
        if node.is_running() && node.stop_within(PARTING, Stop::Fast).await.is_err() {
            node.kill9(Scope::Node).await?;
        }
        // From now on the primary keeps what the node is going to need.
        renew_slot(primary, node.name(), "true").await?;
        match how {
            Rejoin::AsItIs => {}
            Rejoin::Rewind => rewind(node, primary).await?,
            Rejoin::Copy => base_copy(node, primary).await?,
        }
        node.make_standby_of(primary)?;
        node.start().await?;
        for other in self.nodes() {
            renew_slot(node, other.name(), "false").await?;
        }
        primary.wait_for_follower(node).await
    }
}

/// Replaces a slot that nobody uses: what an old one remembers is of an old history, and would keep files for ever.
async fn renew_slot(on: &Node, slot: &str, reserve: &str) -> Result<(), Error> {
    let name = quote(slot);
    let drop_it = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {name} AND NOT active"
    );
    on.sql(&drop_it).await?;
    let make_it = format!(
        "SELECT pg_create_physical_replication_slot({name}, {reserve}) \
         WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {name})"
    );
    on.sql(&make_it).await.map(drop)
}

async fn rewind(node: &Node, primary: &Node) -> Result<(), Error> {
    // It goes by the timeline in the last checkpoint, which after a promotion is still the old one.
    primary.sql("CHECKPOINT").await?;
    let data = node.data_directory();
    // It refuses to work on a standby that was not shut down properly.
    let _ = fs::remove_file(data.join("standby.signal"));
    if node.ending()? == Ending::Crash {
        // pg_rewind would do so without our configuration, and then miss `wal_log_hints`.
        let mut server = node.account().command(node.binaries().tool("postgres")?);
        server.current_dir(node.directory()).args(["--single", "-F", "-D"]).arg(&data);
        server.arg("-c").arg(format!("config_file={}", node.directory().join("postgresql.conf").display()));
        server.arg("template1");
        spawn_blocking(move || account::run(&mut server)).await??;
    }
    let sockets = primary.socket_directory().to_string_lossy().into_owned();
    let port = primary.port().to_string();
    let source = conninfo(&[("host", &sockets), ("port", &port), ("user", SUPERUSER), ("dbname", "postgres")]);
    let mut tool = node.account().command(node.binaries().tool("pg_rewind")?);
    tool.current_dir(node.directory()).arg("--no-sync").arg("--source-server").arg(source).arg("-D").arg(data);
    spawn_blocking(move || account::run(&mut tool)).await?
}

/// A base backup by the low-level interface, which needs no tool. Source: PostgreSQL's documentation, "Making a Base
/// Backup Using the Low Level API".
async fn base_copy(node: &Node, primary: &Node) -> Result<(), Error> {
    let (begin, end) = if node.binaries().version().major >= 15 {
        ("SELECT pg_backup_start('copy', true)", "SELECT labelfile FROM pg_backup_stop(false)")
    } else {
        ("SELECT pg_start_backup('copy', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)")
    };
    // One session has to begin and to end it.
    let session = primary.connect().await?;
    let sql_error = |source| Error::Sql { node: primary.name().to_owned(), source };
    session.execute(begin, &[]).await.map_err(sql_error)?;
    let (from, to) = (primary.data_directory(), node.data_directory());
    spawn_blocking(move || {
        fs::remove_dir_all(&to).doing("remove", &to)?;
        copy::tree(&from, &to, Contents::BaseBackup).doing("copy", &from)
    })
    .await??;
    let label: String = session.query_one(end, &[]).await.map_err(sql_error)?.get(0);
    node.account().private_file(&node.data_directory().join("backup_label"), label)
}
