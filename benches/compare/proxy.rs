//! What pgbench connects to.

use std::ffi::OsStr;
use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::NoTls;

use crate::guarded::Guarded;
use crate::pgbench::Mode;
use crate::servers::{DATABASE, Servers, USER};
use crate::{Arguments, pgbouncer, pgpool, pilot};

/// A proxy that runs, or the primary itself.
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    /// As it calls itself, with its version.
    pub(crate) title: String,
    pub(crate) port: u16,
    /// `None`: the primary itself.
    pub(crate) process: Option<Guarded>,
    prepared: Prepared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The primary, without a proxy.
    Direct,
    Pgbouncer,
    Pgpool,
    Pgpilot,
    /// The pgpilot that `--against` names.
    #[value(skip)]
    Other,
}

/// How prepared statements get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prepared {
    Shared,
    /// Only with a server connection of each client's own, which this database name asks for.
    Session(&'static str),
}

/// A program that this machine does not have.
#[derive(Debug)]
pub(crate) struct Absent {
    pub(crate) program: &'static str,
}

/// A proxy's process, just started.
pub(crate) struct Started {
    pub(crate) title: String,
    pub(crate) port: u16,
    pub(crate) process: Guarded,
    pub(crate) prepared: Prepared,
}

const LIMIT: Duration = Duration::from_secs(15);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Pgbouncer => "PgBouncer",
            Self::Pgpool => "pgpool-II",
            Self::Pgpilot => "pgpilot",
            Self::Other => "other pgpilot",
        })
    }
}

impl Proxy {
    /// Starts it, with so many server connections to one node, and waits until it answers.
    pub(crate) async fn start(
        kind: Kind,
        servers: &Servers,
        arguments: &Arguments,
        pool: u16,
    ) -> anyhow::Result<Result<Self, Absent>> {
        let started = match kind {
            Kind::Direct => {
                let (title, port) = ("the primary itself".to_owned(), servers.primary().port());
                return Ok(Ok(Self { kind, title, port, process: None, prepared: Prepared::Shared }));
            }
            Kind::Pgbouncer => pgbouncer::start(servers, pool)?,
            Kind::Pgpool => pgpool::start(servers, &arguments.clients)?,
            Kind::Pgpilot => Ok(pilot::start(servers, "pgpilot", Path::new(pilot::BUILT), pool)?),
            Kind::Other => {
                let program = arguments.against.as_deref().context("--against names it")?;
                Ok(pilot::start(servers, "other", program, pool)?)
            }
        };
        let Started { title, port, process, prepared } = match started {
            Ok(started) => started,
            Err(absent) => return Ok(Err(absent)),
        };
        wait_until_it_answers(port).await.with_context(|| format!("{kind} does not answer: {}", process.said()))?;
        Ok(Ok(Self { kind, title, port, process: Some(process), prepared }))
    }

    pub(crate) fn database(&self, mode: Mode) -> &'static str {
        match (mode, self.prepared) {
            (Mode::Prepared, Prepared::Session(name)) => name,
            _ => DATABASE,
        }
    }
}

async fn wait_until_it_answers(port: u16) -> anyhow::Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        match timeout_at(end, ask(port)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) if Instant::now() < end => sleep(Duration::from_millis(50)).await,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => bail!("not within {LIMIT:?}"),
        }
    }
}

async fn ask(port: u16) -> Result<(), tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user(USER).password(USER).dbname(DATABASE);
    let (client, connection) = config.connect(NoTls).await?;
    let asked = async move { client.simple_query("SELECT 1").await };
    let (_, answer) = tokio::join!(connection, asked);
    answer.map(drop)
}

/// A program of the PATH, or of the directories that hold daemons and are not on everybody's PATH.
pub(crate) fn find(program: &'static str) -> Result<PathBuf, Absent> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let daemons = OsStr::new("/usr/sbin:/usr/local/sbin:/opt/homebrew/bin");
    std::env::split_paths(&path)
        .chain(std::env::split_paths(daemons))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .ok_or(Absent { program })
}

/// The version that a program prints: the first word with a point between digits, as numbers.
pub(crate) fn version(program: &Path) -> anyhow::Result<(u16, u16)> {
    let output = std::process::Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let mut numbers = said.split_whitespace().filter_map(|word| {
        let (major, rest) = word.split_once('.')?;
        let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    numbers.next().with_context(|| format!("{} does not say its version: {said}", program.display()))
}

/// A port that is free at this moment.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
