//! A throwaway primary with streaming replicas.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::account::Account;
use super::binaries::Binaries;
use super::builder::{Builder, Durability};
use super::copy::{self, Contents};
use super::error::{Doing, Error};
use super::home::{Home, Place};
use super::node::{Common, Node};
use super::port::Port;
use super::settings::{self, Settings};
use super::template;

/// A cluster under one temporary directory. Dropped, it ends its servers and removes everything; so it does when this
/// process ends in any way.
#[derive(Debug)]
pub struct LocalCluster {
    place: Place,
    nodes: Vec<Node>,
}

impl LocalCluster {
    /// Without further ado: the PostgreSQL that is installed, a primary `pg1` with two asynchronous replicas `pg2` and
    /// `pg3`, no fsync, no TLS, the superuser `postgres` with the password `postgres`.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// One default cluster for all of this process, for those who do not harm it. It ends with the process.
    pub async fn shared() -> Result<&'static Self, Error> {
        static SHARED: OnceCell<LocalCluster> = OnceCell::const_new();
        SHARED.get_or_try_init(|| Self::builder().start()).await
    }

    pub(super) async fn start(builder: Builder) -> Result<Self, Error> {
        // Somebody else can take a port between our finding it free and the server's binding it.
        const TRIES: usize = 5;
        let mut tries = 0;
        loop {
            tries += 1;
            let plan = builder.clone();
            let cluster = spawn_blocking(move || Self::found(&plan)).await??;
            match cluster.start_nodes().await {
                Err(Error::Ended { log, .. }) if tries < TRIES && log.contains("could not bind") => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(cluster),
            }
        }
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// By name: `pg1`, `pg2`, ..
    ///
    /// # Errors
    /// [`Error::NoNode`].
    pub fn node(&self, name: &str) -> Result<&Node, Error> {
        self.nodes.iter().find(|node| node.name() == name).ok_or_else(|| Error::NoNode(name.to_owned()))
    }

    /// Where everything is: for files that shall go with the cluster.
    pub fn directory(&self) -> &Path {
        self.place.path()
    }

    /// The running node that is no standby; of several, the one with the newest timeline.
    ///
    /// # Errors
    /// [`Error::NoPrimary`].
    pub async fn primary(&self) -> Result<&Node, Error> {
        const ASK: &str = "SELECT pg_walfile_name(pg_current_wal_lsn()) WHERE NOT pg_is_in_recovery()";
        // A frozen node does not answer.
        const LIMIT: Duration = Duration::from_secs(2);
        let mut found: Option<(String, &Node)> = None;
        for node in self.running() {
            // One that is going away at this moment is no primary either. A file's name begins with its timeline.
            let rows = node.sql_within(LIMIT, ASK).await.unwrap_or_default();
            if let Some(file) = rows.into_iter().flatten().flatten().next()
                && found.as_ref().is_none_or(|(newest, _)| file > *newest)
            {
                found = Some((file, node));
            }
        }
        found.map(|(_, node)| node).ok_or(Error::NoPrimary)
    }

    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// Makes all files; nothing runs yet.
    fn found(plan: &Builder) -> Result<Self, Error> {
        let binaries = plan.binaries.clone().map_or_else(Binaries::find, Ok)?;
        let account = Account::choose()?;
        let home = Home::open(plan.durability)?;
        let template = template::find(&home, &binaries, account)?;
        // Ports are shared by all clusters, wherever they live.
        let ports = Home::open(Durability::Full)?.directory("ports")?;
        Port::sweep(&ports);
        let place = home.place()?;

        let sockets = place.path().join("s");
        account.private_directory(&sockets)?;
        let access = place.path().join("pg_hba.conf");
        account.private_file(&access, settings::host_based_access(&plan.users))?;
        let common = Arc::new(Common { binaries, account, sockets });
        let mut cluster = Self { place, nodes: Vec::new() };
        for name in &plan.names {
            let directory = cluster.directory().join(name);
            account.private_directory(&directory)?;
            cluster.nodes.push(Node::new(name, Port::reserve(&ports)?, directory, Arc::clone(&common)));
        }

        let data: Vec<_> = cluster.nodes.iter().map(Node::data_directory).collect();
        copy::tree(&template, &data[0], Contents::All).doing("copy", &template)?;
        let sql = template::founding_sql(&plan.users, &plan.names, &plan.sql);
        template::run_sql(&data[0], &common.binaries, account, &sql)?;
        // A stopped server's files are a base backup as good as any.
        for replica in &data[1..] {
            copy::tree(&data[0], replica, Contents::All).doing("copy", &data[0])?;
        }
        for node in &cluster.nodes {
            node.configure(&cluster.settings_of(node, plan)?)?;
        }
        for replica in &cluster.nodes[1..] {
            replica.make_standby_of(&cluster.nodes[0])?;
        }
        Ok(cluster)
    }

    fn settings_of(&self, node: &Node, plan: &Builder) -> Result<Settings, Error> {
        let mut settings = settings::common(plan.durability);
        let mut set = |name: &str, value: &str| settings.insert(name.to_owned(), value.to_owned());
        set("port", &node.port().to_string());
        set("unix_socket_directories", &node.socket_directory().to_string_lossy());
        set("hba_file", &self.directory().join("pg_hba.conf").to_string_lossy());
        set("cluster_name", node.name());
        if let Some(tls) = &plan.tls {
            set("ssl", "on");
            let parts = [("ssl_cert_file", Some(&tls.certificate)), ("ssl_key_file", Some(&tls.key))];
            for (setting, source) in parts.into_iter().chain([("ssl_ca_file", tls.ca.as_ref())]) {
                let Some(source) = source else { continue };
                let copy = node.directory().join(setting);
                node.account().private_file(&copy, fs::read(source).doing("read", source)?)?;
                set(setting, &copy.to_string_lossy());
            }
        }
        plan.settings.iter().for_each(|(name, value)| drop(set(name, value)));
        let own = plan.node_settings.iter().filter(|(of, ..)| of == node.name());
        own.for_each(|(_, name, value)| drop(set(name, value)));
        Ok(settings)
    }

    async fn start_nodes(&self) -> Result<(), Error> {
        self.nodes.iter().try_for_each(Node::spawn)?;
        for node in &self.nodes {
            node.wait_until_ready().await?;
        }
        self.wait_for_streaming(&self.nodes[0]).await
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        self.place.clear();
        self.nodes.iter().for_each(Node::reap);
    }
}
