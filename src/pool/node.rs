//! All pools of one node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use super::connection::ServerConnection;
use super::dial::{DialError, Login, Terms, dial};
use super::lease::{Lease, LeaseError};
use crate::config;
use crate::decide::auth::Credential;
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
    /// Leases out now: what balancing weighs.
    leased: AtomicU32,
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
    /// By `PoolIndex`.
    pools: Vec<Arc<Pool>>,
}

struct Pool {
    key: PoolKey,
    index: PoolIndex,
    /// The newest that a client of this pool brought along.
    credential: ArcSwap<Credential>,
}

/// One pool. Cheap to clone: a session keeps one per node that it has used.
#[derive(Clone)]
pub struct PoolHandle {
    node: Arc<NodePool>,
    pool: Arc<Pool>,
}

/// The first waiter's pool may go without for so long before another pool's connection is closed for it.
const STEAL_AFTER: Duration = Duration::from_millis(100);

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
            shelf: Mutex::new(Shelf { book, index: HashMap::new(), pools: Vec::new() }),
            leased: AtomicU32::new(0),
            generation: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            connect_errors: AtomicU64::new(0),
        })
    }

    /// Applies changed settings. A changed address or changed TLS empties the pools.
    pub fn update(self: &Arc<Self>, target: Target, settings: config::Pool, same_target: SameTarget) {
        self.lock().book.set_limits(limits(&settings));
        self.settings.store(Arc::new(settings));
        if same_target == SameTarget::No {
            self.target.store(Arc::new(target));
            self.clear();
        }
    }

    /// The pool for `key`, made if need be, limited to `limit` connections.
    pub fn pool(self: &Arc<Self>, key: &PoolKey, limit: usize, credential: &Credential) -> PoolHandle {
        let mut shelf = self.lock();
        let index = match shelf.index.get(key) {
            Some(index) => *index,
            None => {
                let index = shelf.book.add_pool(limit);
                shelf.index.insert(key.clone(), index);
                let credential = ArcSwap::from_pointee(credential.clone());
                shelf.pools.push(Arc::new(Pool { key: key.clone(), index, credential }));
                index
            }
        };
        let pool = shelf.pools[index.0].clone();
        drop(shelf);
        if **pool.credential.load() != *credential {
            pool.credential.store(Arc::new(credential.clone()));
        }
        PoolHandle { node: self.clone(), pool }
    }

    /// Connections out on lease.
    pub fn leased(&self) -> u32 {
        self.leased.load(Ordering::Relaxed)
    }

    /// Connections opened, and attempts that failed, since the start.
    pub fn dials(&self) -> (u64, u64) {
        (self.connects.load(Ordering::Relaxed), self.connect_errors.load(Ordering::Relaxed))
    }

    /// What every pool holds.
    pub fn counts(&self) -> Vec<(PoolKey, PoolCounts)> {
        let shelf = self.lock();
        shelf.pools.iter().map(|pool| (pool.key.clone(), shelf.book.counts(pool.index))).collect()
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

    /// Closes what is too old and opens what `min_idle` asks for; to be called about once a second.
    pub fn tick(self: &Arc<Self>) {
        let now = Instant::now();
        let generation = self.generation.load(Ordering::Relaxed);
        let expired = |c: &Connection| c.expires_at.is_some_and(|at| now >= at) || c.generation != generation;
        let actions = self.lock().book.tick(now, expired);
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
            let pool = self.lock().pools[index.0].clone();
            tokio::spawn(self.clone().open(pool));
        }
        for (waiter, connection) in actions.grants {
            let pool = self.lock().pools[connection.pool.0].clone();
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
            }
        };
        let credential = Credential::clone(&pool.credential.load());
        let login = Login { user: pool.key.user.clone(), database: pool.key.database.clone(), credential };
        match dial(self.target.load_full(), login, terms).await {
            Ok((connection, credential)) => {
                self.connects.fetch_add(1, Ordering::Relaxed);
                pool.credential.store(Arc::new(credential));
                let actions = self.lock().book.dialed(pool.index, Box::new(connection), Instant::now());
                self.carry_out(actions);
            }
            Err(error) => self.open_failed(&pool, error),
        }
    }

    fn open_failed(self: &Arc<Self>, pool: &Pool, error: DialError) {
        self.connect_errors.fetch_add(1, Ordering::Relaxed);
        let PoolKey { user, database } = &pool.key;
        tracing::warn!(node = self.node.0, %user, %database, %error, "cannot open a server connection");
        let error = Arc::new(error);
        let (failed, actions) = self.lock().book.dial_failed(pool.index);
        for waiter in failed {
            let _ = waiter.send(Err(LeaseError::Dial(error.clone())));
        }
        self.carry_out(actions);
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
        let _place = Place { handle: self, ticket };
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

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.handle.node.lock().book.give_up(self.ticket);
    }
}

/// Whether a reload left a node's address and TLS as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameTarget {
    Yes,
    No,
}
