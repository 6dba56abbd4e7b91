//! What can go wrong with a throwaway cluster.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// Whose fault it is: the machine's (missing software, no permission), the test's (unknown node), or a server's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no PostgreSQL server found (initdb and postgres), neither in PGPILOT_PG_BIN, nor on PATH, nor in {}. \
         Install it: `apt install postgresql` (Debian, Ubuntu), `dnf install postgresql-server` (Fedora, Red Hat), \
         `brew install postgresql@17` (Homebrew); or set PGPILOT_PG_BIN to the directory that holds initdb",
        list(.searched)
    )]
    NoBinaries { searched: Vec<PathBuf> },

    #[error("PGPILOT_PG_BIN is {}, which has no {missing}", .directory.display())]
    NotBinaries { directory: PathBuf, missing: &'static str },

    #[error("{tool} is not among PostgreSQL's programs in {}", .directory.display())]
    NoTool { tool: &'static str, directory: PathBuf },

    #[error("{program} does not say its version: {output:?}")]
    Version { program: PathBuf, output: String },

    #[error("PostgreSQL refuses to run as root, and there is no account `postgres` or `nobody` to run it as")]
    NoAccount,

    #[error("cannot {doing} {}: {source}", .path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },

    #[error("{tool} failed ({status}):\n{output}")]
    Tool { tool: String, status: ExitStatus, output: String },

    #[error("no free port found on 127.0.0.1")]
    NoPort,

    #[error("node {node} ended while starting ({status}); its log:\n{log}")]
    Ended { node: String, status: ExitStatus, log: String },

    #[error("{what}: not within {limit:?}{}", detail(.log))]
    Timeout { what: String, limit: Duration, log: String },

    #[error("SQL on node {node}: {}", explain(.source))]
    Sql { node: String, source: tokio_postgres::Error },

    #[error("there is no node {0:?} in this cluster")]
    NoNode(String),

    #[error("no running node is a primary")]
    NoPrimary,

    #[error("node {node} is not running")]
    NotRunning { node: String },

    #[error("node {node} is running already")]
    Running { node: String },

    #[error("node {node} was not shut down cleanly")]
    NotClean { node: String },

    #[error("PGPILOT_{0} is not set: this program is called by pgpilot")]
    NoFact(&'static str),

    #[error("there is no hook {0:?}")]
    NoHook(String),

    #[error("{0}")]
    Hook(String),

    #[error("a background step was cancelled or panicked: {0}")]
    Background(#[from] tokio::task::JoinError),
}

/// Adds what was being done, and to which file, to an I/O error.
pub(super) trait Doing<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { doing, path: path.to_owned(), source: source.into() })
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn detail(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; the log:\n{log}") }
}

/// tokio-postgres prints only "db error" for what the server said.
fn explain(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{} {} ({})", said.severity(), said.message(), said.code().code()),
        None => error.to_string(),
    }
}
