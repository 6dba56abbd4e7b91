//! What the nodes' catalogues say, per database: loaded when a database is first used, and kept up to date.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_postgres::SimpleQueryMessage;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::config;
use crate::decide::route::{NodeView, Role, Snapshot, State};
use crate::telemetry::Topic;

use super::Cluster;
use super::control::connect_guest;

/// Without a sign that something has changed, a catalogue is loaded again after so long: DDL need not pass through here.
const REFRESH: Duration = Duration::from_secs(60);
/// After a failure; doubles up to `REFRESH`.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Between two loads of one database, however much DDL passes through.
const GAP: Duration = Duration::from_millis(100);
/// Between two loads for mere suspicions; doubles up to `REFRESH` as long as they bring nothing new, as where sessions speak
/// of temporary tables.
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
    /// The changes that it has been told of ..
    told: AtomicU64,
    /// .. and how many of them had been told when what is known now was asked for.
    covered: AtomicU64,
    suspicion: Mutex<Suspicion>,
    /// Why the last load failed; `None`: it did not, or none has ended yet.
    trouble: Mutex<Option<Arc<str>>>,
    /// Empty: nobody loads it, for what it says is given, or there are too many databases.
    loader: OnceLock<AbortOnDropHandle<()>>,
}

/// When a suspicion last made a catalogue load again, and how long none does after that.
#[derive(Debug)]
struct Suspicion {
    last: Option<Instant>,
    gap: Duration,
}

impl Default for Suspicion {
    fn default() -> Self {
        Self { last: None, gap: SUSPICION_GAP }
    }
}

impl Suspicion {
    /// Whether it is time to look.
    fn arises(&mut self, now: Instant) -> bool {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.gap) {
            return false;
        }
        if self.last.is_some() {
            self.gap = (self.gap * 2).min(REFRESH);
        }
        self.last = Some(now);
        true
    }
}

/// One change of a database's catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change(u64);

impl<V> Database<V> {
    /// One whose catalogue is given, and stays.
    pub fn fixed(value: V) -> Self {
        Self {
            current: ArcSwap::from_pointee(value),
            stale: Arc::default(),
            told: AtomicU64::new(0),
            covered: AtomicU64::new(0),
            suspicion: Mutex::default(),
            trouble: Mutex::default(),
            loader: OnceLock::new(),
        }
    }

    /// Why the last load failed, if it did: what is known is older, or nothing.
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<Arc<str>>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Takes the place of what is known.
    pub fn replace(&self, value: V) {
        self.current.store(Arc::new(value));
    }

    /// As [`current`](Self::current), for a glance.
    pub fn read(&self) -> Guard<Arc<V>> {
        self.current.load()
    }

    /// Something does not agree with what is known: it is loaded again soon, though not as often as somebody may wish
    /// who keeps asking for what is not there.
    pub fn suspect(&self) {
        let Ok(mut suspicion) = self.suspicion.try_lock() else { return };
        if suspicion.arises(Instant::now()) {
            self.stale.notify_one();
        }
    }

    /// The newest that was loaded, or the initial value.
    pub fn current(&self) -> Arc<V> {
        self.current.load_full()
    }

    /// DDL has passed through: load it again soon. The primary's catalogue is ahead of the replicas' for a while, and a
    /// transaction may still be open; so the caller invalidates when the transaction has ended. Returns what to ask
    /// [`covers`](Self::covers) for.
    pub fn invalidate(&self) -> Change {
        let change = self.told.fetch_add(1, Ordering::AcqRel) + 1;
        self.stale.notify_one();
        Change(change)
    }

    /// Whether what is known was loaded since that change.
    pub fn covers(&self, change: Change) -> bool {
        self.covered.load(Ordering::Acquire) >= change.0 || self.loader.get().is_none()
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
            Entry::Vacant(_) if full => Arc::new(Database::fixed(self.shared.recipe.initial())),
            Entry::Vacant(entry) => {
                let database = Arc::new(Database::fixed(self.shared.recipe.initial()));
                let (stale, weak) = (Arc::clone(&database.stale), Arc::downgrade(&database));
                // Not before there is something to load: it would find it gone, and end.
                let loading = tokio::spawn(keep(Arc::clone(&self.shared), name.to_owned(), weak, stale));
                let _ = database.loader.set(AbortOnDropHandle::new(loading));
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
        for database in databases.values() {
            database.invalidate();
        }
    }

    /// DDL has passed through in this database.
    pub fn invalidate(&self, database: &str) -> Option<Change> {
        let databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        databases.get(database).map(|database| database.invalidate())
    }
}

/// Loads one database's catalogue, now and whenever it is stale. Ends with the database or the cluster.
async fn keep<R: Recipe>(shared: Arc<Shared<R>>, name: String, database: Weak<Database<R::Value>>, stale: Arc<Notify>) {
    let (mut retry, mut cause) = (FIRST_RETRY, Cause::Age);
    loop {
        let Some((before, told)) = database.upgrade().map(|database| {
            let (told, covered) = (database.told.load(Ordering::Acquire), database.covered.load(Ordering::Acquire));
            if told > covered {
                cause = Cause::Ddl;
            }
            (database.current(), told)
        }) else {
            return;
        };
        let loaded = match timeout(LOAD_LIMIT, load(&shared, &name, before, cause)).await {
            Ok(loaded) => loaded,
            Err(_) => Err(LoadError::Slow),
        };
        let Some(database) = database.upgrade() else { return };
        let (pause, later) = match loaded {
            Ok(value) => {
                if shared.recipe.is_news(&database.read(), &value) {
                    database.replace(value);
                    database.suspicion.lock().unwrap_or_else(PoisonError::into_inner).gap = SUSPICION_GAP;
                    debug!(database = %name, "catalogue loaded");
                }
                database.covered.store(told, Ordering::Release);
                shared.report(&name, &database, None);
                retry = FIRST_RETRY;
                (REFRESH, Cause::Age)
            }
            Err(LoadError::Ended) => return,
            Err(error) => {
                shared.report(&name, &database, Some(&error));
                let pause = retry;
                // Whether there is a node costs nothing to find out.
                let is_known = matches!(error, LoadError::NoNode);
                retry = if is_known { FIRST_RETRY } else { (retry * 2).min(REFRESH) };
                (pause, cause)
            }
        };
        drop(database);
        sleep(GAP).await;
        cause = if timeout(pause, stale.notified()).await.is_ok() { Cause::Ddl } else { later };
    }
}

impl<R: Recipe> Shared<R> {
    /// Tells how the load of a database has ended, once in a row that ended so.
    fn report(&self, name: &str, database: &Database<R::Value>, error: Option<&LoadError>) {
        let trouble = error.map(|error| -> Arc<str> { chain(error).into() });
        // Where there is nobody to ask, that is told as what it is.
        let has_told = database.trouble().is_some_and(|before| *before != *LoadError::NoNode.to_string());
        let note = match (error, &trouble) {
            (Some(LoadError::NoNode), _) if has_told => return,
            (Some(LoadError::NoNode), _) => None,
            (_, Some(why)) if !has_told => Some(format!("the catalogue of database {name} cannot be loaded: {why}")),
            (_, None) if has_told => Some(format!("the catalogue of database {name} is loaded")),
            _ => None,
        };
        if let (Some(note), Some(cluster)) = (note, self.cluster.upgrade()) {
            match &trouble {
                Some(error) => warn!(database = %name, %error, "cannot load the catalogue"),
                None => info!(database = %name, "the catalogue can be loaded again"),
            }
            cluster.journal().note(Topic::Routing, None, note);
        }
        database.set_trouble(trouble);
    }
}

/// An error, and what caused it.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspicions_that_bring_nothing_new_wear_off() {
        let (mut suspicion, begun) = (Suspicion::default(), Instant::now());
        let looks: Vec<u64> =
            (0..300).filter(|&second| suspicion.arises(begun + Duration::from_secs(second))).collect();
        assert_eq!(looks, [0, 5, 15, 35, 75, 135, 195, 255]);
    }
}
