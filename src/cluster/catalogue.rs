//! What the nodes' catalogues say, per database: loaded when a database is first used, and kept up to date.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_postgres::SimpleQueryMessage;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use crate::config;
use crate::decide::route::{NodeView, Role, Snapshot, State};

use super::Cluster;
use super::control::connect_guest;

/// Without a sign that something has changed, a catalogue is loaded again after so long: DDL need not pass through here.
const REFRESH: Duration = Duration::from_secs(60);
/// After a failure; doubles up to `REFRESH`.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Between two loads of one database, however much DDL passes through.
const GAP: Duration = Duration::from_millis(100);
/// Between two loads for mere suspicions.
const SUSPICION_GAP: Duration = Duration::from_secs(5);
/// A load that takes longer has failed.
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// Databases that are kept; one more is answered with what is known of none.
const MAX_DATABASES: usize = 1024;

/// One row of an answer, its columns as text; `None` is NULL.
pub type TextRow = [Option<String>];

/// What to ask a database, and what to make of the answers.
pub trait Recipe: Send + Sync + 'static {
    type Value: Send + Sync + 'static;

    /// What is said of a database until its catalogue is loaded.
    fn initial(&self) -> Self::Value;

    /// SELECTs without parameters, run in one read-only transaction.
    fn queries(&self) -> Vec<&str>;

    /// `answers`: one for each query, in order. `before`: the value so far.
    ///
    /// # Errors
    /// Why the rows are not what was expected; the old value stays.
    fn build(&self, answers: &[Vec<Box<TextRow>>], before: &Self::Value) -> Result<Self::Value, String>;

    /// Whether a value says something else than the one before it; if not, the old one stays.
    fn is_news(&self, _old: &Self::Value, _new: &Self::Value) -> bool {
        true
    }
}

/// The catalogues of the databases in use.
pub struct Catalogues<R: Recipe> {
    shared: Arc<Shared<R>>,
    databases: Mutex<ByName<R::Value>>,
}

type ByName<V> = HashMap<Box<str>, Arc<Database<V>>>;

struct Shared<R> {
    recipe: R,
    cluster: Weak<Cluster>,
}

/// One database's catalogue. Sessions keep it, and look into it for every statement.
pub struct Database<V> {
    current: ArcSwap<V>,
    stale: Arc<Notify>,
    /// When a suspicion last made it load again.
    suspected: Mutex<Option<Instant>>,
    /// `None`: too many databases.
    _loader: Option<AbortOnDropHandle<()>>,
}

impl<V> Database<V> {
    /// One whose catalogue is given, and stays.
    pub fn fixed(value: V) -> Self {
        Self {
            current: ArcSwap::from_pointee(value),
            stale: Arc::default(),
            suspected: Mutex::default(),
            _loader: None,
        }
    }

    /// As [`current`](Self::current), for a glance.
    pub fn read(&self) -> Guard<Arc<V>> {
        self.current.load()
    }

    /// Something does not agree with what is known: it is loaded again soon, though not as often as somebody may wish
    /// who keeps asking for what is not there.
    pub fn suspect(&self) {
        let Ok(mut last) = self.suspected.try_lock() else { return };
        if last.is_none_or(|last| last.elapsed() >= SUSPICION_GAP) {
            *last = Some(Instant::now());
            self.stale.notify_one();
        }
    }

    /// The newest that was loaded, or the initial value.
    pub fn current(&self) -> Arc<V> {
        self.current.load_full()
    }

    /// DDL has passed through: load it again soon. The primary's catalogue is ahead of the replicas' for a while, and a
    /// transaction may still be open; so the caller invalidates when the transaction has ended.
    pub fn invalidate(&self) {
        self.stale.notify_one();
    }
}

impl<R: Recipe> Catalogues<R> {
    /// Needs to be used within a runtime.
    pub fn new(recipe: R, cluster: &Arc<Cluster>) -> Self {
        let shared = Arc::new(Shared { recipe, cluster: Arc::downgrade(cluster) });
        Self { shared, databases: Mutex::default() }
    }

    pub fn recipe(&self) -> &R {
        &self.shared.recipe
    }

    /// The database's catalogue; begins to load it if nobody has asked for this database before.
    pub fn database(&self, name: &str) -> Arc<Database<R::Value>> {
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        let full = databases.len() >= MAX_DATABASES;
        match databases.entry(name.into()) {
            Entry::Occupied(entry) => Arc::clone(entry.get()),
            Entry::Vacant(_) if full => Arc::new(Database {
                current: ArcSwap::from_pointee(self.shared.recipe.initial()),
                stale: Arc::default(),
                suspected: Mutex::default(),
                _loader: None,
            }),
            Entry::Vacant(entry) => {
                let stale = Arc::new(Notify::new());
                let database = Arc::new_cyclic(|this: &Weak<Database<R::Value>>| {
                    let loading = keep(Arc::clone(&self.shared), name.to_owned(), this.clone(), Arc::clone(&stale));
                    Database {
                        current: ArcSwap::from_pointee(self.shared.recipe.initial()),
                        stale,
                        suspected: Mutex::default(),
                        _loader: Some(AbortOnDropHandle::new(tokio::spawn(loading))),
                    }
                });
                Arc::clone(entry.insert(database))
            }
        }
    }

    /// Every database that has been asked for, by name.
    pub fn all(&self) -> BTreeMap<Box<str>, Arc<Database<R::Value>>> {
        let databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        databases.iter().map(|(name, database)| (name.clone(), Arc::clone(database))).collect()
    }

    /// The recipe has changed: all of them are loaded again soon.
    pub fn invalidate_all(&self) {
        let databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        databases.values().for_each(|database| database.invalidate());
    }

    /// DDL has passed through in this database.
    pub fn invalidate(&self, database: &str) {
        let databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = databases.get(database) {
            database.invalidate();
        }
    }
}

/// Loads one database's catalogue, now and whenever it is stale. Ends with the database or the cluster.
async fn keep<R: Recipe>(shared: Arc<Shared<R>>, name: String, database: Weak<Database<R::Value>>, stale: Arc<Notify>) {
    let (mut retry, mut cause) = (FIRST_RETRY, Cause::Age);
    loop {
        let Some(before) = database.upgrade().map(|database| database.current()) else { return };
        let loaded = match timeout(LOAD_LIMIT, load(&shared, &name, before, cause)).await {
            Ok(loaded) => loaded,
            Err(_) => Err(LoadError::Slow),
        };
        let pause = match loaded {
            Ok(value) => {
                let Some(database) = database.upgrade() else { return };
                if shared.recipe.is_news(&database.read(), &value) {
                    database.current.store(Arc::new(value));
                    debug!(database = %name, "catalogue loaded");
                }
                retry = FIRST_RETRY;
                REFRESH
            }
            Err(LoadError::Ended) => return,
            Err(error) => {
                // Once in a row of failures is enough.
                if retry == FIRST_RETRY && !matches!(error, LoadError::NoNode) {
                    warn!(database = %name, error = &error as &dyn std::error::Error, "cannot load the catalogue");
                }
                let pause = retry;
                retry = (retry * 2).min(REFRESH);
                pause
            }
        };
        sleep(GAP).await;
        cause = match (timeout(pause, stale.notified()).await, retry == FIRST_RETRY) {
            (Ok(()), _) => Cause::Ddl,
            (Err(_), true) => Cause::Age,
            (Err(_), false) => cause,
        };
    }
}

/// Why a catalogue is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Age,
    /// Something was changed just now: the primary has it.
    Ddl,
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("no node to ask")]
    NoNode,
    #[error("it takes too long")]
    Slow,
    #[error("the server refuses")]
    Server(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Connect(#[from] super::control::ControlError),
    #[error("unexpected rows: {0}")]
    Rows(String),
    /// The cluster is gone.
    #[error("shutting down")]
    Ended,
}

/// # Cancel safety
/// Closes the connection.
async fn load<R: Recipe>(
    shared: &Arc<Shared<R>>,
    database: &str,
    before: Arc<R::Value>,
    cause: Cause,
) -> Result<R::Value, LoadError> {
    let (node, health) = {
        let cluster = shared.cluster.upgrade().ok_or(LoadError::Ended)?;
        choose_node(&cluster, cause).ok_or(LoadError::NoNode)?
    };
    let (client, _driver) = connect_guest(&node, &health, database).await?;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let mut answers = Vec::new();
    for query in shared.recipe.queries() {
        answers.push(client.simple_query(query).await?);
    }
    // A large catalogue takes a while, which nobody shall have to wait for.
    let shared = Arc::clone(shared);
    let build = move || shared.recipe.build(&answers.iter().map(|answer| rows(answer)).collect::<Vec<_>>(), &before);
    let built = spawn_blocking(build).await.map_err(|_| LoadError::Ended)?;
    built.map_err(LoadError::Rows)
}

fn rows(messages: &[SimpleQueryMessage]) -> Vec<Box<TextRow>> {
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

/// A replica, to spare the primary, but only one that is not behind.
fn choose_node(cluster: &Cluster, cause: Cause) -> Option<(config::Node, config::Health)> {
    let snapshot: &Snapshot = &cluster.snapshot();
    let newest = snapshot.marks.last().map(|mark| mark.lsn);
    let caught_up = |node: &&NodeView| {
        let has_all =
            node.position.is_some_and(|sample| sample.timeline == snapshot.timeline && Some(sample.lsn) >= newest);
        node.role == Role::Replica && node.state == State::Up && node.fresh && !node.drained && has_all
    };
    let spare = || snapshot.nodes.iter().find(caught_up);
    let any = || snapshot.nodes.iter().find(|node| node.role == Role::Replica && node.state == State::Up);
    let node = match cause {
        Cause::Age => spare().or_else(|| snapshot.usable_primary()),
        Cause::Ddl => snapshot.usable_primary(),
    };
    let node = node.or_else(any)?;
    cluster.access(node.id)
}

impl<R: Recipe> fmt::Debug for Catalogues<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalogues").finish_non_exhaustive()
    }
}

impl<V> fmt::Debug for Database<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}
