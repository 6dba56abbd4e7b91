//! The composition root: builds everything, starts it, drains it in order.

mod operations;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::{Sources, http};
use crate::cluster::failover::{self, Failover, Past, Surroundings};
use crate::cluster::{Cluster, Settings};
use crate::config::{Config, Listen};
use crate::coordination::Membership;
use crate::decide::route::{Role, Snapshot, State};
use crate::proxy::{self, Listener, Shared};
use crate::telemetry::{Telemetry, Topic};

use operations::{Door, Links, Operations};

/// A running pgpilot. Dropped, it stops at once.
pub struct App {
    shared: Arc<Shared>,
    telemetry: Arc<Telemetry>,
    addresses: Vec<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    sockets: Vec<PathBuf>,
    operations: Arc<Operations>,
    background: Vec<AbortOnDropHandle<()>>,
}

/// How often idle connections are looked over.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Clients that are cut off get so long to hear of it.
const GOODBYE: Duration = Duration::from_secs(2);

impl App {
    /// Binds the listeners and begins to serve. Nodes are discovered in the background: the first clients may wait for that.
    ///
    /// # Errors
    /// A listener cannot be bound, or TLS files cannot be used.
    pub async fn start(config: Config, file: Option<PathBuf>) -> anyhow::Result<App> {
        let telemetry = Arc::new(Telemetry::new());
        let alone = if config.coordination.is_none() { Some(Past::open(&config.failover)?) } else { None };
        let listeners = bind(&config).await?;
        let membership = match &config.coordination {
            Some(settings) => {
                let address = listeners.iter().find_map(|(_, address)| *address);
                Some(Membership::new(settings, address).context("coordination")?)
            }
            None => None,
        };
        let past = alone.unwrap_or_else(|| {
            let membership = membership.clone();
            Past::shared(membership.expect("without coordination there is a past of one's own"))
        });
        let cluster = Cluster::start(&Settings::from(&config), past.memory().as_ref());
        let http = match config.metrics.listen {
            Some(address) => Some(listen_tcp(address).await?),
            None => None,
        };
        let shared = Shared::new(config, cluster, telemetry.metrics().clone())?;
        shared.load_catalogues();
        let settings = failover::Settings::from(&**shared.config.load());
        let around = Surroundings {
            cluster: shared.cluster.clone(),
            connections: Arc::new(Links(shared.clone())),
            metrics: shared.metrics.clone(),
        };
        let (failover, directing) = Failover::start(around, settings, past);
        let asked_to_stop = CancellationToken::new();
        let operations = Arc::new(Operations {
            shared: shared.clone(),
            telemetry: telemetry.clone(),
            failover,
            file,
            asked_to_stop,
        });
        let mut app = App {
            addresses: listeners.iter().filter_map(|(_, address)| *address).collect(),
            metrics_address: http.as_ref().and_then(|listener| listener.local_addr().ok()),
            sockets: listeners.iter().filter_map(|(listener, _)| path_of(listener)).collect(),
            background: vec![directing],
            operations: operations.clone(),
            shared: shared.clone(),
            telemetry,
        };
        let _ = shared.console.set(Box::new(Door(operations.clone())));
        if let Some(membership) = membership {
            let _ = shared.membership.set(membership.clone());
            app.background.extend(membership.start());
        }
        app.spawn(keep_house(shared.clone()));
        app.spawn(follow(shared.clone()));
        if let Some(listener) = http {
            app.spawn(async move { match http::serve(listener, operations).await {} });
        }
        for (listener, _) in listeners {
            app.spawn(proxy::serve(listener, shared.clone()));
        }
        operations_started(&app);
        Ok(app)
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.background.push(AbortOnDropHandle::new(tokio::spawn(task)));
    }

    /// Where clients connect by TCP, with the ports that were really bound.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the HTTP endpoint is, if there is one.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Returns when an operator has asked pgpilot to end, on the admin console.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn asked_to_stop(&self) {
        self.operations.asked_to_stop.cancelled().await;
    }

    /// Reads the topology file again, as SIGHUP asks. What is wrong with it is logged, and changes nothing.
    pub fn reload(&self) {
        match self.operations.reload() {
            Ok(outcome) => tracing::info!(notices = ?outcome.notices, "the topology file was read again"),
            Err(error) => tracing::error!(%error, "nothing was changed"),
        }
    }

    /// What operators see and can do.
    pub fn operations(&self) -> Arc<dyn Sources> {
        self.operations.clone()
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Stops in order: no new clients, idle clients are told to go, those in a transaction get `drain_timeout` to finish it, and are cut off then.
    pub async fn shutdown(&self) {
        self.shared.shutdown.begin();
        self.shared.tasks.close();
        let limit = self.shared.config.load().drain_timeout;
        if tokio::time::timeout(limit, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(
                clients = self.shared.registry.len(),
                "clients were still busy when the time to drain was over"
            );
            self.shared.shutdown.cut_off();
            let _ = tokio::time::timeout(GOODBYE, self.shared.tasks.wait()).await;
        }
        for (_, pool) in self.shared.pools.all() {
            pool.clear();
        }
        if let Some(membership) = self.shared.membership.get() {
            membership.leave().await;
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        for socket in &self.sockets {
            let _ = std::fs::remove_file(socket);
        }
    }
}

fn operations_started(app: &App) {
    let text = format!("pgpilot {} has started", env!("CARGO_PKG_VERSION"));
    app.shared.cluster.journal().note(Topic::Service, None, text);
}

async fn bind(config: &Config) -> anyhow::Result<Vec<(Listener, Option<SocketAddr>)>> {
    let mut listeners = Vec::new();
    for listen in &config.listen {
        match listen {
            Listen::Tcp(address) => {
                let listener =
                    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
                let address = listener.local_addr()?;
                listeners.push((Listener::Tcp(listener), Some(address)));
            }
            Listen::Unix(directory) => {
                let path = directory.join(format!(".s.PGSQL.{}", config.socket_port()));
                // As PostgreSQL's: authentication decides, not the file's permissions.
                listeners.push((Listener::Unix(bind_unix(&path, 0o777)?), None));
            }
        }
    }
    if let Some(directory) = &config.admin.socket {
        let path = directory.join(format!(".s.PGSQL.{}", config.socket_port()));
        // Who may connect is decided by who runs pgpilot; the file's permissions say so already.
        listeners.push((Listener::Operators(bind_unix(&path, 0o600)?), None));
    }
    Ok(listeners)
}

async fn listen_tcp(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Binds a Unix socket, in place of one that nobody listens on any more.
fn bind_unix(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    let say = || format!("cannot listen on {}", path.display());
    if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path).with_context(say)?;
    }
    let listener = UnixListener::bind(path).with_context(say)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).with_context(say)?;
    Ok(listener)
}

fn path_of(listener: &Listener) -> Option<PathBuf> {
    match listener {
        Listener::Tcp(_) => None,
        Listener::Unix(listener) | Listener::Operators(listener) => {
            listener.local_addr().ok()?.as_pathname().map(Path::to_owned)
        }
    }
}

async fn keep_house(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(HOUSEKEEPING);
    loop {
        interval.tick().await;
        for (_, pool) in shared.pools.all() {
            pool.tick();
        }
    }
}

/// When a node changes its role or goes down, its idle connections are closed, and those who wait for one are routed anew.
async fn follow(shared: Arc<Shared>) {
    let mut seen = shared.cluster.snapshot();
    loop {
        let next = shared.cluster.wait_change(&seen, Instant::now() + Duration::from_secs(3600)).await;
        for (id, pool) in shared.pools.all() {
            if standing(&seen, id) != standing(&next, id) && standing(&seen, id).is_some_and(|(_, up)| up) {
                pool.clear();
            }
        }
        seen = next;
    }
}

/// A node's role, and whether it is believed to answer.
fn standing(snapshot: &Snapshot, id: crate::decide::route::NodeId) -> Option<(Role, bool)> {
    snapshot.node(id).map(|node| (node.role, matches!(node.state, State::Up | State::Suspect | State::Quarantined)))
}
