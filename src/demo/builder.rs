//! What a throwaway cluster shall be.

use std::path::{Path, PathBuf};

use super::binaries::Binaries;
use super::cluster::LocalCluster;
use super::error::Error;
use super::settings::Settings;

/// Begun with [`LocalCluster::builder`]; see there for the defaults.
#[derive(Debug, Clone)]
pub struct Builder {
    pub(super) binaries: Option<Binaries>,
    pub(super) names: Vec<String>,
    pub(super) durability: Durability,
    pub(super) users: Vec<User>,
    pub(super) sql: Vec<String>,
    pub(super) tls: Option<Tls>,
    pub(super) settings: Settings,
    pub(super) node_settings: Vec<(String, String, String)>,
}

/// Whether a commit survives the loss of the machine (that of a process, it survives always).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// `fsync = off`.
    None,
    Full,
}

/// How a password is stored on the server, and asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passwords {
    Scram,
    Md5,
}

/// A role that can log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub password: String,
    pub passwords: Passwords,
    /// More options of CREATE ROLE: `SUPERUSER`, `IN ROLE pg_monitor`.
    pub options: String,
}

/// Files in PEM form, copied into the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Who signs the certificates of clients; `None`: they are not asked for one.
    pub ca: Option<PathBuf>,
}

impl User {
    pub fn scram(name: &str, password: &str) -> Self {
        Self { name: name.into(), password: password.into(), passwords: Passwords::Scram, options: String::new() }
    }

    pub fn md5(name: &str, password: &str) -> Self {
        Self { passwords: Passwords::Md5, ..Self::scram(name, password) }
    }

    /// Adds options of CREATE ROLE.
    #[must_use]
    pub fn with(mut self, options: &str) -> Self {
        self.options = options.into();
        self
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            binaries: None,
            names: (1..=3).map(|number| format!("pg{number}")).collect(),
            durability: Durability::None,
            users: Vec::new(),
            sql: Vec::new(),
            tls: None,
            settings: Settings::new(),
            node_settings: Vec::new(),
        }
    }
}

impl Builder {
    /// A certain installation of PostgreSQL, instead of what [`Binaries::find`] finds.
    #[must_use]
    pub fn binaries(mut self, binaries: Binaries) -> Self {
        self.binaries = Some(binaries);
        self
    }

    /// How many streaming replicas; the nodes are named `pg1` (the first primary), `pg2`, and so on.
    #[must_use]
    pub fn replicas(mut self, count: usize) -> Self {
        self.names = (1..=count + 1).map(|number| format!("pg{number}")).collect();
        self
    }

    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// A role to be there from the start.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.users.push(user);
        self
    }

    /// A statement to be run in the database `postgres` before any node starts (in single-user mode, once).
    #[must_use]
    pub fn sql(mut self, statement: &str) -> Self {
        self.sql.push(statement.to_owned());
        self
    }

    /// A setting of every node.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A setting of one node; it wins over [`setting`](Self::setting).
    #[must_use]
    pub fn node_setting(mut self, node: &str, name: &str, value: &str) -> Self {
        self.node_settings.push((node.to_owned(), name.to_owned(), value.to_owned()));
        self
    }

    /// A commit waits for any `count` of the other nodes, whichever node is the primary:
    /// `synchronous_standby_names = 'ANY count (every node)'`.
    #[must_use]
    pub fn synchronous(self, count: usize) -> Self {
        let names = self.names.join(", ");
        self.setting("synchronous_standby_names", &format!("ANY {count} ({names})"))
    }

    /// TLS on TCP connections, offered, not demanded.
    #[must_use]
    pub fn tls(mut self, certificate: &Path, key: &Path, ca: Option<&Path>) -> Self {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        self.tls = Some(Tls { certificate, key, ca: ca.map(Path::to_owned) });
        self
    }

    /// Makes it: returns when every node accepts connections and every replica streams.
    ///
    /// # Cancel safety
    /// Dropped half-way, it leaves nothing behind.
    pub async fn start(self) -> Result<LocalCluster, Error> {
        Box::pin(LocalCluster::start(self)).await
    }
}
