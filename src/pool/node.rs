//! All pools of one node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use super::connection::ServerConnection;
use super::dial::{DialError, Login, Terms, dial};
use super::keyring::UserKey;
use super::lease::{Lease, LeaseError};
use crate::config;
use crate::decide::pool::{Actions, Asked, Book, Limits, PoolCounts, PoolIndex, Ticket};
use crate::decide::route::NodeId;
use crate::net::Target;

/// What a pool is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub user: Arc<str>,
    pub database: Arc<str>,
}

/// The pools of one node, which share its limit of connections.
pub struct NodePool {
    node: NodeId,
    target: ArcSwap<Target>,
    settings: ArcSwap<config::Pool>,
    shelf: Mutex<Shelf>,
    /// Leases out now.
    leased: AtomicU32,
    /// Clients that wait for one.
    waiting: AtomicU32,
    /// Grows when what was opened before is not to be used again.
    generation: AtomicU64,
    connects: AtomicU64,
    connect_errors: AtomicU64,
}

type Waiter = oneshot::Sender<Result<Lease, LeaseError>>;
type Connection = Box<ServerConnection>;

struct Shelf {
    book: Book<Connection, Waiter>,
    index: HashMap<PoolKey, PoolIndex>,
    /// By `PoolIndex`; `None`: forgotten, and to be used again.
    pools: Vec<Option<Arc<Pool>>>,
    /// Databases that somebody wants to be empty, and until when.
    vacating: Vec<(Box<str>, Instant)>,
}

struct Pool {
    key: PoolKey,
    index: PoolIndex,
    user_key: Arc<UserKey>,
    /// The server did not let pgpilot in the last time, for a reason that is the user's or the database's.
    refused: AtomicBool,
}

/// One pool. Cheap to clone: a session keeps one per node that it has used.
#[derive(Clone)]
pub struct PoolHandle {
    node: Arc<NodePool>,
    pool: Arc<Pool>,
}

/// The first waiter's pool may go without for so long before another pool's connection is closed for it.
const STEAL_AFTER: Duration = Duration::from_millis(100);
/// What wants a database to itself waits so long for others to leave it (`CountOtherDBBackends` in PostgreSQL's `procarray.c`).
const VACATING: Duration = Duration::from_secs(5);

fn limits(settings: &config::Pool) -> Limits {
    Limits {
        connections: settings.max_server_connections,
        connecting: settings.max_connecting,
        waiting: settings.max_waiting,
        idle_timeout: settings.idle_timeout,
        min_idle: settings.min_idle,
        steal_after: STEAL_AFTER,
    }
}

impl NodePool {
    pub fn new(node: NodeId, target: Target, settings: config::Pool) -> Arc<Self> {
        let book = Book::new(limits(&settings));
        Arc::new(Self {
            node,
            target: ArcSwap::from_pointee(target),
            settings: ArcSwap::from_pointee(settings),
            shelf: Mutex::new(Shelf { book, index: HashMap::new(), pools: Vec::new(), vacating: Vec::new() }),
            leased: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            generation: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            connect_errors: AtomicU64::new(0),
        })
    }

    /// Applies changed settings; `limit_of` is how many connections a pool may have now. Another address, or other TLS
    /// (be it only what the files hold), empties the pools.
    pub fn update(self: &Arc<Self>, target: Target, settings: config::Pool, limit_of: impl Fn(&PoolKey) -> usize) {
        let mut shelf = self.lock();
        let Shelf { book, pools, .. } = &mut *shelf;
        book.set_limits(limits(&settings));
        pools.iter().flatten().for_each(|pool| book.set_limit(pool.index, limit_of(&pool.key)));
        drop(shelf);
        self.settings.store(Arc::new(settings));
        if !self.target.load().is_same(&target) {
            self.target.store(Arc::new(target));
            self.clear();
        }
    }

    /// The pool for `key`, made if need be, limited to `limit` connections.
    pub fn pool(self: &Arc<Self>, key: &PoolKey, limit: usize, user_key: &Arc<UserKey>) -> PoolHandle {
        let mut shelf = self.lock();
        let index = shelf.index.get(key).copied();
        let pool = match index {
            Some(index) => shelf.pool(index),
            None => shelf.add(key, limit, user_key),
        };
        drop(shelf);
        PoolHandle { node: self.clone(), pool }
    }

    /// Connections out on lease.
    pub fn leased(&self) -> u32 {
        self.leased.load(Ordering::Relaxed)
    }

    /// What balancing weighs: statements under way, and those that wait for a connection. Who waits is on the node already: a
    /// full one with a queue is busier than a full one without.
    pub fn load(&self) -> u32 {
        self.leased().saturating_add(self.waiting.load(Ordering::Relaxed))
    }

    /// Connections opened, and attempts that failed, since the start.
    pub fn dials(&self) -> (u64, u64) {
        (self.connects.load(Ordering::Relaxed), self.connect_errors.load(Ordering::Relaxed))
    }

    /// What every pool holds.
    pub fn counts(&self) -> Vec<(PoolKey, PoolCounts)> {
        let shelf = self.lock();
        shelf.pools.iter().flatten().map(|pool| (pool.key.clone(), shelf.book.counts(pool.index))).collect()
    }

    /// Closes idle connections, lets leased ones be closed when they come back, and sends waiters away to be routed anew.
    pub fn clear(self: &Arc<Self>) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        let mut shelf = self.lock();
        let (connections, waiters) = (shelf.book.clear(), shelf.book.dismiss());
        drop(shelf);
        connections.into_iter().for_each(|connection| connection.close());
        for waiter in waiters {
            // One that has gone away needs no answer.
            let _ = waiter.send(Err(LeaseError::Dismissed));
        }
    }

    /// Closes the idle connections to a database.
    pub fn vacate(&self, database: &str) {
        let mut shelf = self.lock();
        // Those that come back a moment later are in the way, too.
        shelf.vacating.retain(|(name, _)| **name != *database);
        shelf.vacating.push((database.into(), Instant::now() + VACATING));
        let closes = shelf.empty(database);
        drop(shelf);
        closes.into_iter().for_each(|connection| connection.close());
    }

    /// What servers begin sessions with has changed: connections opened before are closed when nobody has them.
    pub fn outdate(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes what is too old, opens what `min_idle` asks for, and forgets pools that nobody uses; to be called about
    /// once a second.
    pub fn tick(self: &Arc<Self>) {
        let now = Instant::now();
        let generation = self.generation.load(Ordering::Relaxed);
        let expired = |c: &Connection| c.expires_at.is_some_and(|at| now >= at) || c.generation != generation;
        let min_idle = self.settings.load().min_idle;
        let mut shelf = self.lock();
        shelf.forget_unused(min_idle);
        let mut actions = shelf.book.tick(now, expired);
        shelf.vacating.retain(|(_, until)| now < *until);
        for (database, _) in shelf.vacating.clone() {
            actions.closes.extend(shelf.empty(&database));
        }
        drop(shelf);
        self.carry_out(actions);
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        // The books are consistent between calls, and no call panics half-way on purpose; better to serve on than to fail every client.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(self: &Arc<Self>, actions: Actions<Connection, Waiter>) {
        for connection in actions.closes {
            connection.close();
        }
        for index in actions.dials {
            let pool = self.lock().pool(index);
            tokio::spawn(self.clone().open(pool));
        }
        for (waiter, connection) in actions.grants {
            let pool = self.lock().pool(connection.pool);
            // A waiter that has gone away hands the connection on. There are no more of those than waiters, so this recursion ends.
            if let Err(Ok(lease)) = waiter.send(Ok(self.lease(connection, pool))) {
                lease.release(Instant::now());
            }
        }
    }

    fn lease(self: &Arc<Self>, connection: Connection, pool: Arc<Pool>) -> Lease {
        self.leased.fetch_add(1, Ordering::Relaxed);
        Lease::new(connection, PoolHandle { node: self.clone(), pool })
    }

    async fn open(self: Arc<Self>, pool: Arc<Pool>) {
        let generation = self.generation.load(Ordering::Relaxed);
        let terms = {
            let settings = self.settings.load();
            Terms {
                node: self.node,
                pool: pool.index,
                connect_timeout: settings.connect_timeout,
                max_lifetime: settings.max_lifetime,
                max_prepared: settings.max_prepared,
                generation,
                // No name of pgpilot's own: it is what a client goes back to that has none.
                parameters: &[],
            }
        };
        match self.dial(&pool, terms).await {
            Ok(connection) => {
                self.connects.fetch_add(1, Ordering::Relaxed);
                pool.refused.store(false, Ordering::Relaxed);
                let actions = self.lock().book.dialed(pool.index, Box::new(connection), Instant::now());
                self.carry_out(actions);
            }
            Err(error) => self.open_failed(&pool, error),
        }
    }

    async fn dial(&self, pool: &Pool, terms: Terms) -> Result<ServerConnection, DialError> {
        loop {
            let credential = pool.user_key.newest();
            let login = Login {
                user: pool.key.user.clone(),
                database: pool.key.database.clone(),
                credential: (*credential).clone(),
            };
            match dial(self.target.load_full(), login, &terms).await {
                Ok((connection, learned)) => {
                    pool.user_key.learned(&credential, learned);
                    return Ok(connection);
                }
                // The user has logged in with a new password meanwhile.
                Err(error) if !error.is_about_the_node() && pool.user_key.has_changed_since(&credential) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn open_failed(self: &Arc<Self>, pool: &Pool, error: DialError) {
        self.connect_errors.fetch_add(1, Ordering::Relaxed);
        let PoolKey { user, database } = &pool.key;
        tracing::warn!(node = self.node.0, %user, %database, %error, "cannot open a server connection");
        pool.refused.store(!error.is_about_the_node(), Ordering::Relaxed);
        let error = Arc::new(error);
        let (failed, actions) = self.lock().book.dial_failed(pool.index);
        for waiter in failed {
            let _ = waiter.send(Err(LeaseError::Dial(error.clone())));
        }
        self.carry_out(actions);
    }
}

impl Shelf {
    /// The idle connections to a database, which are not in the books any more.
    fn empty(&mut self, database: &str) -> Vec<Connection> {
        let of_database = self.pools.iter().flatten().filter(|pool| *pool.key.database == *database);
        of_database.flat_map(|pool| self.book.empty(pool.index)).collect()
    }

    /// # Panics
    /// If it has been forgotten, which does not happen to a pool that has connections, waiters or sessions.
    fn pool(&self, index: PoolIndex) -> Arc<Pool> {
        self.pools[index.0].clone().expect("a pool in use is not forgotten")
    }

    fn add(&mut self, key: &PoolKey, limit: usize, user_key: &Arc<UserKey>) -> Arc<Pool> {
        let index = self.book.add_pool(limit);
        let (key, user_key) = (key.clone(), user_key.clone());
        let pool = Arc::new(Pool { key, index, user_key, refused: AtomicBool::new(false) });
        self.index.insert(pool.key.clone(), index);
        if self.pools.len() <= index.0 {
            self.pools.resize(index.0 + 1, None);
        }
        self.pools[index.0] = Some(pool.clone());
        pool
    }

    /// Names that do not exist, and users who have left for good, must not fill the memory: a pool goes that has neither
    /// connections nor waiters nor sessions. What `min_idle` keeps warm comes back when its node does, so it stays.
    fn forget_unused(&mut self, min_idle: usize) {
        let Self { book, index, pools, .. } = self;
        for slot in pools {
            // Handles are made under this lock, or from others.
            let gone = slot.take_if(|pool| {
                Arc::strong_count(pool) == 1
                    && (min_idle == 0 || pool.refused.load(Ordering::Relaxed))
                    && book.remove_pool(pool.index)
            });
            if let Some(gone) = gone {
                index.remove(&gone.key);
            }
        }
    }
}

impl PoolHandle {
    pub fn node(&self) -> NodeId {
        self.node.node
    }

    /// Leases a connection, if possible one that `suits`, waiting for up to `checkout_timeout` from `now` on. Also returns how long that took.
    ///
    /// # Errors
    /// Nothing came free in time, too many wait already, or a connection could not be opened.
    ///
    /// # Cancel safety
    /// Safe: dropped while waiting, the place in the queue is given up, and a connection granted meanwhile is closed.
    pub async fn lease(
        &self,
        suits: impl Fn(&ServerConnection) -> bool,
        now: Instant,
    ) -> Result<(Lease, Duration), LeaseError> {
        let mut waited = Duration::ZERO;
        loop {
            let mut lease = match self.try_lease(&suits, now + waited) {
                Ok(lease) => lease,
                Err(Waiting::Full) => return Err(LeaseError::QueueFull),
                Err(Waiting::For(ticket, receiver)) => {
                    let lease = self.wait(ticket, receiver).await?;
                    waited = now.elapsed();
                    lease
                }
            };
            if !self.is_spent(&mut lease, now + waited) {
                return Ok((lease, waited));
            }
            // Dropping it closes it; the next round finds another or opens one.
        }
    }

    fn try_lease(&self, suits: impl Fn(&ServerConnection) -> bool, now: Instant) -> Result<Lease, Waiting> {
        let mut receiver = None;
        let waiter = || {
            let (sender, waiting) = oneshot::channel();
            receiver = Some(waiting);
            sender
        };
        let asked = self.node.lock().book.ask(self.pool.index, |c| suits(c), waiter, now);
        match asked {
            Asked::Lease(connection) => Ok(self.node.lease(connection, self.pool.clone())),
            Asked::Full => Err(Waiting::Full),
            Asked::Wait(ticket, actions) => {
                self.node.carry_out(actions);
                Err(Waiting::For(ticket, receiver.expect("whoever waits has been given a channel")))
            }
        }
    }

    async fn wait(
        &self,
        ticket: Ticket,
        receiver: oneshot::Receiver<Result<Lease, LeaseError>>,
    ) -> Result<Lease, LeaseError> {
        let _place = Place::take(self, ticket);
        let limit = self.node.settings.load().checkout_timeout;
        match tokio::time::timeout(limit, receiver).await {
            Ok(Ok(granted)) => granted,
            Ok(Err(_)) => Err(LeaseError::Dismissed),
            Err(_) => Err(LeaseError::Timeout),
        }
    }

    /// Whether a connection must not be used again: dead, too old, or of an earlier generation.
    fn is_spent(&self, lease: &mut Lease, now: Instant) -> bool {
        lease.generation != self.node.generation.load(Ordering::Relaxed)
            || lease.expires_at.is_some_and(|at| now >= at)
            || lease.is_stale()
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.node.waiting.load(Ordering::Relaxed) > 0
    }

    pub(super) fn put_back(&self, connection: Connection, now: Instant) {
        self.node.leased.fetch_sub(1, Ordering::Relaxed);
        let outdated = connection.generation != self.node.generation.load(Ordering::Relaxed);
        if outdated || connection.cancel_key.requests.has_strayed() {
            connection.close();
            let actions = self.node.lock().book.closed(self.pool.index);
            return self.node.carry_out(actions);
        }
        let actions = self.node.lock().book.release(self.pool.index, connection, now);
        self.node.carry_out(actions);
    }

    pub(super) fn closed(&self) {
        self.node.leased.fetch_sub(1, Ordering::Relaxed);
        let actions = self.node.lock().book.closed(self.pool.index);
        self.node.carry_out(actions);
    }
}

enum Waiting {
    Full,
    For(Ticket, oneshot::Receiver<Result<Lease, LeaseError>>),
}

/// A place in the queue, given up when dropped.
struct Place<'a> {
    handle: &'a PoolHandle,
    ticket: Ticket,
}

impl<'a> Place<'a> {
    fn take(handle: &'a PoolHandle, ticket: Ticket) -> Self {
        handle.node.waiting.fetch_add(1, Ordering::Relaxed);
        Self { handle, ticket }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.handle.node.waiting.fetch_sub(1, Ordering::Relaxed);
        self.handle.node.lock().book.give_up(self.ticket);
    }
}
