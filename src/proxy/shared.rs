//! What all clients of one pgpilot share.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::BytesMut;
use tokio_util::task::TaskTracker;

use super::defaults::Changes;
use super::gate::Gate;
use super::hold::Hold;
use super::logins::Logins;
use super::lost_writes::LostWrites;
use super::recipe::CatalogueRecipe;
use super::registry::Registry;
use super::sequences::SequenceUse;
use super::shapes::ShapeRow;
use super::shutdown::Shutdown;
use super::slow::SlowLog;
use super::statements::Statements;
use super::verdicts::Verdicts;
use super::verifiers::Verifiers;
use super::welcome::Greetings;
use crate::cluster::catalogue::Change;
use crate::cluster::{Catalogues, Cluster};
use crate::config::{Clients, Config, NodeName, PoolMode};
use crate::coordination::Membership;
use crate::decide::auth::MockSecret;
use crate::decide::route::{NodeId, Policy};
use crate::decide::sql::Effects;
use crate::net::Stream;
use crate::net::Target;
use crate::net::tls::{Acceptor, TlsError};
use crate::pool::{Keyring, NodePool, PoolHandle, PoolKey, UserKey};
use crate::telemetry::Metrics;

/// Built once by the composition root.
pub struct Shared {
    pub config: ArcSwap<Config>,
    /// Grows with each reload.
    pub(super) generation: AtomicU64,
    pub cluster: Arc<Cluster>,
    pub pools: Pools,
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    pub catalogues: Catalogues<CatalogueRecipe>,
    /// `None`: clients get no TLS.
    pub acceptor: ArcSwap<Option<Acceptor>>,
    /// Begun when no new transaction is to begin.
    pub shutdown: Arc<Shutdown>,
    pub tasks: TaskTracker,
    pub(super) statements: Statements,
    pub(super) lost_writes: LostWrites,
    pub(super) verifiers: Verifiers,
    pub(super) keyring: Keyring,
    pub(super) logins: Arc<Logins>,
    pub(super) slow: SlowLog,
    pub(super) changes: Changes,
    pub(super) greetings: Greetings,
    pub(super) mock: MockSecret,
    verdicts: Mutex<HashMap<Arc<str>, Arc<Verdicts>>>,
    /// Closed while an operator has paused pgpilot.
    pub gate: Gate,
    pub(super) hold: Arc<Hold>,
    pub(super) sequences: SequenceUse,
    /// The switchover that is under way, or was the last change.
    pub handover: ArcSwapOption<Handover>,
    /// Who serves the database `pgpilot`; set once by the composition root.
    pub console: OnceLock<Box<dyn Console>>,
    /// This instance among several; set once by the composition root, unless pgpilot is alone.
    pub membership: OnceLock<Arc<Membership>>,
}

/// A primary hands over.
#[derive(Debug)]
pub struct Handover {
    pub node: NodeId,
    /// Who takes over, by name.
    pub heir: String,
}

/// The admin console, as the proxy sees it.
pub trait Console: Send + Sync {
    /// Serves one visitor, who has been let in and greeted, until it leaves.
    fn serve(&self, visit: ConsoleVisit) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Somebody at the admin console.
pub struct ConsoleVisit {
    pub stream: Stream,
    /// What the client has sent already.
    pub input: BytesMut,
    pub user: String,
    pub level: ConsoleLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleLevel {
    /// May do everything.
    Admin,
    /// May look.
    Reader,
}

/// Who a client is, once it has been let in, and what holds for it.
#[derive(Clone)]
pub(super) struct Who {
    pub user: Arc<str>,
    pub database: Arc<str>,
    pub key: Arc<UserKey>,
    pub mode: PoolMode,
    pub limits: Clients,
}

impl Shared {
    /// # Errors
    /// TLS files that cannot be used, or no randomness.
    pub fn new(config: Config, cluster: Arc<Cluster>, metrics: Arc<Metrics>) -> Result<Arc<Self>, SetupError> {
        let mut mock = [0; 32];
        getrandom::fill(&mut mock).map_err(SetupError::Random)?;
        let pools = Pools::default();
        pools.update(&config, Pools::targets(&config)?, &cluster);
        let catalogues = CatalogueRecipe::catalogues(&config.routing, &cluster);
        let shared = Arc::new(Self {
            acceptor: ArcSwap::from_pointee(Acceptor::new(&config.tls)?),
            slow: SlowLog::new(config.log.slow_statement),
            config: ArcSwap::from_pointee(config),
            generation: AtomicU64::new(0),
            cluster,
            pools,
            registry: Arc::default(),
            metrics,
            catalogues,
            shutdown: Arc::default(),
            tasks: TaskTracker::new(),
            statements: Statements::default(),
            lost_writes: LostWrites::default(),
            verifiers: Verifiers::default(),
            keyring: Keyring::default(),
            logins: Arc::default(),
            greetings: Greetings::default(),
            changes: Changes::default(),
            mock: MockSecret(mock),
            verdicts: Mutex::default(),
            gate: Gate::default(),
            sequences: SequenceUse::default(),
            hold: Arc::default(),
            console: OnceLock::new(),
            membership: OnceLock::new(),
            handover: ArcSwapOption::empty(),
        });
        let told = Arc::downgrade(&shared);
        shared.catalogues.recipe().tell_of_defaults(move || {
            if let Some(shared) = told.upgrade() {
                shared.defaults_changed();
            }
        });
        Ok(shared)
    }

    /// Begins to load the catalogues of the databases that the topology file names: until one is loaded, nothing there
    /// counts as a read.
    pub fn load_catalogues(&self) {
        let config = self.config.load();
        let named = config.databases.iter().map(|database| &*database.name);
        for database in named.chain([&*config.health.database]) {
            self.catalogues.database(database);
        }
    }

    /// The verdicts of a database: one cache for all its clients.
    pub fn verdicts(&self, database: &Arc<str>) -> Arc<Verdicts> {
        let mut all = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verdicts) = all.get(database) {
            return verdicts.clone();
        }
        let verdicts = Arc::new(Verdicts::new(
            &self.config.load().routing,
            self.catalogues.database(database),
            self.metrics.clone(),
        ));
        if all.len() < MAX_DATABASES {
            all.insert(database.clone(), verdicts.clone());
        }
        verdicts
    }

    /// What came more than once, by database, each verdict once.
    pub fn shapes(&self) -> Vec<(Arc<str>, ShapeRow)> {
        let all = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = Vec::new();
        for (database, verdicts) in all.iter() {
            rows.extend(verdicts.shapes().into_iter().map(|row| (database.clone(), row)));
        }
        rows
    }

    /// Statements with these effects have been committed in this database, or may have been.
    /// Returns the change of the catalogue, if they change that for certain.
    pub(super) fn heed_ddl(self: &Arc<Self>, effects: Effects, database: &str) -> Option<Change> {
        if effects.contains(Effects::DEFAULTS) {
            self.defaults_changed();
        }
        if !effects.contains(Effects::CATALOGUE) {
            return None;
        }
        // Who prepares a statement now gets what the names mean now, and not a plan that no longer fits.
        self.statements.plans_are_stale();
        self.catalogues.invalidate(database).filter(|_| effects.contains(Effects::DDL))
    }

    /// Takes over a changed topology file.
    ///
    /// # Errors
    /// TLS files that cannot be used: nothing is changed then.
    pub fn reload(&self, config: Config) -> Result<(), SetupError> {
        // Whatever can fail comes first.
        let acceptor = Acceptor::new(&config.tls)?;
        let targets = Pools::targets(&config)?;
        let config = Arc::new(config);
        // Before the pools: one that is made after they have been updated is made by the new limits.
        self.config.store(config.clone());
        self.cluster.reload(&(&*config).into());
        self.pools.update(&config, targets, &self.cluster);
        self.acceptor.store(Arc::new(acceptor));
        self.verifiers.forget();
        self.catalogues.recipe().relist(&config.routing);
        self.catalogues.invalidate_all();
        self.load_catalogues();
        self.slow.set(config.log.slow_statement);
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // Who sees this finds all of it changed.
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// A client's pool on a node; `None` if the node is gone.
    pub(super) fn pool(&self, node: NodeId, who: &Who) -> Option<PoolHandle> {
        let limit = || self.config.load().server_connections(&who.user, &who.database);
        self.pools.handle(node, who, limit)
    }

    /// Clients that wait for a primary, and the bytes of what they have sent.
    pub fn held(&self) -> (usize, usize) {
        self.hold.counts()
    }

    /// This instance has no lease, so nothing may be sent to the primary, whatever the snapshot says.
    pub(super) fn is_barred(&self) -> bool {
        self.membership.get().is_some_and(|membership| membership.tenure().is_over())
    }

    pub(super) fn policy(&self, who: &Who) -> Policy {
        let config = self.config.load();
        let user = config.users.iter().find(|user| *user.name == *who.user);
        let database = config.databases.iter().find(|database| *database.name == *who.database);
        Policy::new(&config.routing, user, database)
    }
}

/// Verdicts are cached for so many databases; a name that does not exist costs nothing for long.
const MAX_DATABASES: usize = 1024;

/// pgpilot cannot begin, or a changed file cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

/// The pools of every node, by `NodeId`.
#[derive(Default)]
pub struct Pools {
    nodes: RwLock<Vec<Option<Node>>>,
}

struct Node {
    name: NodeName,
    pool: Arc<NodePool>,
}

impl Pools {
    /// How to get to the nodes of a topology file, in its order.
    fn targets(config: &Config) -> Result<Vec<Target>, TlsError> {
        config.nodes.iter().map(Target::try_from).collect()
    }

    /// Makes the pools of new nodes, empties those of nodes with another address or other TLS, drops those of nodes that
    /// are gone.
    fn update(&self, config: &Config, targets: Vec<Target>, cluster: &Cluster) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        for (settings, target) in config.nodes.iter().zip(targets) {
            let Some(id) = cluster.find(settings.name.as_str()) else { continue };
            let index = usize::from(id.0);
            if nodes.len() <= index {
                nodes.resize_with(index + 1, || None);
            }
            match &nodes[index] {
                Some(node) => {
                    let limit_of = |key: &PoolKey| config.server_connections(&key.user, &key.database);
                    node.pool.update(target, config.pool.clone(), limit_of);
                }
                None => {
                    let pool = NodePool::new(id, target, config.pool.clone());
                    nodes[index] = Some(Node { name: settings.name.clone(), pool });
                }
            }
        }
        for node in nodes.iter_mut() {
            let gone = |node: &Node| !config.nodes.iter().any(|n| n.name == node.name);
            if let Some(gone) = node.take_if(|node| gone(node)) {
                gone.pool.clear();
            }
        }
    }

    /// Connections of a node that are on lease.
    pub fn leased(&self, node: NodeId) -> u32 {
        self.of(node, NodePool::leased)
    }

    /// See [`NodePool::load`].
    pub fn load(&self, node: NodeId) -> u32 {
        self.of(node, NodePool::load)
    }

    fn of(&self, node: NodeId, number: impl Fn(&NodePool) -> u32) -> u32 {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(usize::from(node.0)).and_then(Option::as_ref).map_or(0, |node| number(&node.pool))
    }

    /// Somebody is about to drop, rename or copy a database, which the server refuses to do while anybody is connected to it: idle
    /// connections of ours are nobody. The server waits for them to be gone.
    pub(super) fn vacate(&self, database: &str) {
        self.all().iter().for_each(|(_, pool)| pool.vacate(database));
    }

    /// See [`NodePool::outdate`].
    pub(super) fn outdate(&self) {
        self.all().iter().for_each(|(_, pool)| pool.outdate());
    }

    pub(super) fn outdate_on(&self, nodes: &[NodeId]) {
        self.all().iter().filter(|(node, _)| nodes.contains(node)).for_each(|(_, pool)| pool.outdate());
    }

    /// Every node's pools.
    pub fn all(&self) -> Vec<(NodeId, Arc<NodePool>)> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let present = nodes.iter().enumerate().filter_map(|(index, node)| Some((index, node.as_ref()?)));
        present.filter_map(|(index, node)| Some((NodeId(u16::try_from(index).ok()?), node.pool.clone()))).collect()
    }

    /// `limit` is asked while no update can be under way.
    fn handle(&self, node: NodeId, who: &Who, limit: impl FnOnce() -> usize) -> Option<PoolHandle> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let pool = &nodes.get(usize::from(node.0))?.as_ref()?.pool;
        let key = PoolKey { user: who.user.clone(), database: who.database.clone() };
        Some(pool.pool(&key, limit(), &who.key))
    }
}
