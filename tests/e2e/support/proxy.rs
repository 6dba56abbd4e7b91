//! A pgpilot in front of a throwaway cluster.

use std::sync::Arc;
use std::time::Duration;

use pgpilot::app::App;
use pgpilot::config::{Config, Listen};
use pgpilot::decide::route::{NodeView, Role, State};
use pgpilot::decide::sql::{Intent, Reason};
use pgpilot::demo::{Builder, LocalCluster, Node, User};
use pgpilot::proxy::Verdicts;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{LIMIT, wait_for};

/// A running pgpilot, and the servers behind it.
pub(crate) struct Proxy {
    pub(crate) app: App,
    pub(crate) servers: Arc<LocalCluster>,
}

pub(crate) const USER: &str = "app";
pub(crate) const PASSWORD: &str = "app-secret";

/// Servers with a user for the application and one for pgpilot.
pub(crate) async fn servers() -> LocalCluster {
    recipe().start().await.expect("a cluster starts")
}

/// What [`servers`] are made by.
pub(crate) fn recipe() -> Builder {
    let pilot = User::scram("pilot", "pilot-secret").with("IN ROLE pg_monitor");
    LocalCluster::builder()
        .user(User::scram(USER, PASSWORD))
        .user(User::scram("other", "other-secret"))
        .user(User::md5("old", "old-secret"))
        .user(pilot)
        .sql("GRANT SELECT ON pg_catalog.pg_shadow TO pilot")
        .sql("GRANT ALL ON SCHEMA public TO PUBLIC")
        .sql("CREATE DATABASE shop OWNER app")
}

/// The topology file for `servers`, with `more` at its end.
pub(crate) fn topology(servers: &LocalCluster, more: &str) -> Config {
    let text = topology_text(servers, more);
    let mut config = Config::parse(&text, "test.toml", &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    config.listen = vec![Listen::Tcp(([127, 0, 0, 1], 0).into())];
    config
}

/// It does not say where to listen; that goes before it.
pub(crate) fn topology_text(servers: &LocalCluster, more: &str) -> String {
    let mut text = String::from(
        "[health]\nuser = \"pilot\"\npassword = \"pilot-secret\"\ninterval = \"100ms\"\n\
         [auth.query]\nuser = \"pilot\"\npassword = \"pilot-secret\"\n[metrics]\nlisten = \"off\"\n",
    );
    for node in servers.nodes() {
        text += &format!("[[nodes]]\nname = \"{}\"\nhost = \"127.0.0.1\"\nport = {}\n", node.name(), node.port());
    }
    text += more;
    text
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// `more` is appended to the topology file.
    pub(crate) async fn with(more: &str) -> Self {
        let servers = servers().await;
        Self::before(servers, more).await
    }

    /// Before servers that other tests use at the same time: a test that harms its servers takes [`Self::with`].
    pub(crate) async fn shared(more: &str) -> Self {
        static SERVERS: OnceCell<Arc<LocalCluster>> = OnceCell::const_new();
        let servers = SERVERS.get_or_init(async || Arc::new(servers().await)).await;
        Self::before(servers.clone(), more).await
    }

    pub(crate) async fn before(servers: impl Into<Arc<LocalCluster>>, more: &str) -> Self {
        let servers = servers.into();
        let config = topology(&servers, more);
        Self::configured(servers, config).await
    }

    pub(crate) async fn configured(servers: Arc<LocalCluster>, config: Config) -> Self {
        // RUST_LOG=debug shows what pgpilot does; the first test of the process sets it up for all.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let replicas = config.nodes.len() - 1;
        let app = App::start(config, None).await.expect("pgpilot starts");
        let proxy = Self { app, servers };
        proxy.wait_for_replicas(replicas).await;
        // Until then no statement is a read.
        wait_for("the catalogue to be loaded", LIMIT, async || proxy.verdicts().is_loaded()).await;
        proxy
    }

    /// What is thought of statements in the application's database.
    pub(crate) fn verdicts(&self) -> Arc<Verdicts> {
        self.app.shared().verdicts(&"shop".into())
    }

    /// Waits until so much is known of what has been made that this is a read.
    pub(crate) async fn wait_for_read(&self, sql: &str) {
        wait_for("what has been made to be known", LIMIT, async || {
            self.verdicts().of(sql.as_bytes()).statements.iter().all(|verdict| verdict.intent == Intent::Read)
        })
        .await;
    }

    pub(crate) fn port(&self) -> u16 {
        self.app.addresses()[0].port()
    }

    /// A connection string for the application's user.
    pub(crate) fn url(&self) -> String {
        format!("postgresql://{USER}:{PASSWORD}@127.0.0.1:{}/shop", self.port())
    }

    pub(crate) async fn connect(&self) -> Client {
        self.connect_with("").await
    }

    /// `more`: further words of a connection string.
    pub(crate) async fn connect_with(&self, more: &str) -> Client {
        let text = format!("host=127.0.0.1 port={} user={USER} password={PASSWORD} dbname=shop {more}", self.port());
        let (client, connection) = tokio_postgres::connect(&text, NoTls).await.expect("a client connects");
        tokio::spawn(connection);
        client
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        self.servers.node(name).expect("a node of the cluster")
    }

    /// Waits until there is a primary, and so many replicas are in use.
    pub(crate) async fn wait_for_replicas(&self, count: usize) {
        wait_for("pgpilot to know the cluster", LIMIT, async || {
            let snapshot = self.app.shared().cluster.snapshot();
            let usable = |node: &&NodeView| node.role == Role::Replica && node.state == State::Up && node.fresh;
            snapshot.usable_primary().is_some() && snapshot.nodes.iter().filter(usable).count() == count
        })
        .await;
    }

    /// Batches that ran for this reason, wherever they did.
    pub(crate) fn count_of(&self, reason: Reason) -> u64 {
        let routes = self.app.telemetry().metrics().routes();
        routes.iter().filter(|count| count.reason == reason).map(|count| count.statements).sum()
    }

    /// Statements that ran on (the primary, replicas).
    pub(crate) fn counts(&self) -> (u64, u64) {
        let routes = self.app.telemetry().metrics().routes();
        let sum = |route: &str| routes.iter().filter(|count| count.route == route).map(|count| count.statements).sum();
        (sum("primary"), sum("replica"))
    }
}

/// The first column of the first row.
pub(crate) async fn ask(client: &Client, sql: &str) -> String {
    try_ask(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

pub(crate) async fn try_ask(client: &Client, sql: &str) -> Result<String, tokio_postgres::Error> {
    let messages =
        tokio::time::timeout(Duration::from_secs(20), client.simple_query(sql)).await.expect("an answer in time")?;
    let first = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    Ok(first.unwrap_or_default())
}
