//! The books of one node: every pool (user, database) on it, its idle connections, and one queue of waiting clients.
//!
//! The queue is first come, first served. A connection belongs to one pool, so a released one goes to the first waiter of its own pool, unless the
//! first waiter that can be served at all is of another pool, and that is starved: then the connection is closed to make room for one of that pool.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A pool's number in its node's [`Book`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolIndex(pub usize);

/// A waiter's number, by which it can give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections to the node, idle, leased and being opened together.
    pub connections: usize,
    pub connecting: usize,
    pub waiting: usize,
    /// Zero: idle connections are not closed for their age.
    pub idle_timeout: Duration,
    /// Kept idle per pool once it has been used, as far as the limits allow.
    pub min_idle: usize,
    /// How long the first waiter's pool may go without before another pool's connection is closed for it.
    pub steal_after: Duration,
}

/// `C` is a connection, `W` a waiter.
#[derive(Debug)]
pub struct Book<C, W> {
    limits: Limits,
    pools: Vec<Entry<C>>,
    /// Numbers of pools that were removed: entries without anything.
    vacant: Vec<PoolIndex>,
    queue: VecDeque<Waiter<W>>,
    /// Idle, leased and being opened.
    total: usize,
    connecting: usize,
    next_ticket: u64,
}

#[derive(Debug)]
struct Entry<C> {
    /// Most recently used last.
    idle: VecDeque<Idle<C>>,
    leased: usize,
    connecting: usize,
    limit: usize,
    used: bool,
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    since: Instant,
}

#[derive(Debug)]
struct Waiter<W> {
    ticket: Ticket,
    pool: PoolIndex,
    since: Instant,
    waiter: W,
}

/// The answer to a client that asks for a connection.
#[derive(Debug)]
pub enum Asked<C, W> {
    Lease(C),
    Wait(Ticket, Actions<C, W>),
    /// The queue is full.
    Full,
}

/// What the shell has to do.
#[derive(Debug)]
pub struct Actions<C, W> {
    pub grants: Vec<(W, C)>,
    /// Open a connection for this pool and report with `dialed` or `dial_failed`.
    pub dials: Vec<PoolIndex>,
    pub closes: Vec<C>,
}

impl<C, W> Default for Actions<C, W> {
    fn default() -> Self {
        Self { grants: Vec::new(), dials: Vec::new(), closes: Vec::new() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCounts {
    pub idle: usize,
    pub leased: usize,
    pub connecting: usize,
    pub waiting: usize,
}

impl<C> Entry<C> {
    fn total(&self) -> usize {
        self.idle.len() + self.leased + self.connecting
    }
}

impl<C, W> Book<C, W> {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            pools: Vec::new(),
            vacant: Vec::new(),
            queue: VecDeque::new(),
            total: 0,
            connecting: 0,
            next_ticket: 0,
        }
    }

    /// Adds a pool that may have up to `limit` of the node's connections.
    pub fn add_pool(&mut self, limit: usize) -> PoolIndex {
        let entry = Entry { idle: VecDeque::new(), leased: 0, connecting: 0, limit, used: false };
        if let Some(index) = self.vacant.pop() {
            self.pools[index.0] = entry;
            return index;
        }
        self.pools.push(entry);
        PoolIndex(self.pools.len() - 1)
    }

    /// Removes a pool that has neither connections nor waiters, and says whether that was so. A new pool may get its number.
    pub fn remove_pool(&mut self, pool: PoolIndex) -> bool {
        let is_empty = self.counts(pool) == PoolCounts::default();
        if is_empty {
            self.pools[pool.0].used = false;
            self.vacant.push(pool);
        }
        is_empty
    }

    /// How many of the node's connections a pool may have from now on. The next tick closes what is idle above that, and what is leased is closed when it
    /// comes back.
    pub fn set_limit(&mut self, pool: PoolIndex, limit: usize) {
        self.pools[pool.0].limit = limit;
    }

    /// As [`Self::set_limit`], of the node.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub fn counts(&self, pool: PoolIndex) -> PoolCounts {
        let entry = &self.pools[pool.0];
        PoolCounts {
            idle: entry.idle.len(),
            leased: entry.leased,
            connecting: entry.connecting,
            waiting: self.queue.iter().filter(|waiter| waiter.pool == pool).count(),
        }
    }

    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// A client asks. Among the most recently used idle connections one that `suits` is preferred. `waiter` is made only if it has to wait.
    pub fn ask(
        &mut self,
        pool: PoolIndex,
        suits: impl Fn(&C) -> bool,
        waiter: impl FnOnce() -> W,
        now: Instant,
    ) -> Asked<C, W> {
        let must_queue = self.queue.iter().any(|waiter| waiter.pool == pool);
        let entry = &mut self.pools[pool.0];
        entry.used = true;
        if !must_queue && let Some(connection) = take_idle(&mut entry.idle, suits) {
            entry.leased += 1;
            return Asked::Lease(connection);
        }
        if self.queue.len() >= self.limits.waiting {
            return Asked::Full;
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.queue.push_back(Waiter { ticket, pool, since: now, waiter: waiter() });
        let mut actions = Actions::default();
        self.dial_for_waiters(&mut actions);
        Asked::Wait(ticket, actions)
    }

    /// A waiter gives up. Harmless if it has been served in the meantime.
    pub fn give_up(&mut self, ticket: Ticket) {
        self.queue.retain(|waiter| waiter.ticket != ticket);
    }

    /// A leased connection comes back, clean.
    #[inline]
    pub fn release(&mut self, pool: PoolIndex, connection: C, now: Instant) -> Actions<C, W> {
        self.pools[pool.0].leased -= 1;
        self.place(pool, connection, now)
    }

    /// A connection was opened for `pool`.
    pub fn dialed(&mut self, pool: PoolIndex, connection: C, now: Instant) -> Actions<C, W> {
        self.pools[pool.0].connecting -= 1;
        self.connecting -= 1;
        self.place(pool, connection, now)
    }

    /// A connection could not be opened. If the pool has no other, nobody can serve its waiters: they are returned, to be told.
    pub fn dial_failed(&mut self, pool: PoolIndex) -> (Vec<W>, Actions<C, W>) {
        let entry = &mut self.pools[pool.0];
        entry.connecting -= 1;
        self.connecting -= 1;
        self.total -= 1;
        let mut failed = Vec::new();
        if entry.total() == 0 {
            let (theirs, others): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut self.queue).into_iter().partition(|waiter| waiter.pool == pool);
            self.queue = others;
            failed = theirs.into_iter().map(|waiter| waiter.waiter).collect();
        }
        let mut actions = Actions::default();
        if failed.is_empty() {
            // Others hold connections of this pool: its waiters get those, and another dial is for a later event to start.
            return (failed, actions);
        }
        self.dial_for_waiters(&mut actions);
        (failed, actions)
    }

    /// A leased connection was closed.
    pub fn closed(&mut self, pool: PoolIndex) -> Actions<C, W> {
        self.pools[pool.0].leased -= 1;
        self.total -= 1;
        let mut actions = Actions::default();
        self.dial_for_waiters(&mut actions);
        actions
    }

    /// Time passes: closes what is idle for too long, `expired` or above a limit, and opens what `min_idle` asks for.
    pub fn tick(&mut self, now: Instant, expired: impl Fn(&C) -> bool) -> Actions<C, W> {
        let mut actions = Actions::default();
        let Limits { idle_timeout, min_idle, .. } = self.limits;
        for entry in &mut self.pools {
            let mut kept = VecDeque::with_capacity(entry.idle.len());
            let mut spare = entry.idle.len().saturating_sub(min_idle);
            let mut surplus = entry.total().saturating_sub(entry.limit);
            // Least recently used first, so those go first.
            for idle in entry.idle.drain(..) {
                let too_old = !idle_timeout.is_zero() && now.duration_since(idle.since) >= idle_timeout && spare > 0;
                if too_old || surplus > 0 || expired(&idle.connection) {
                    spare = spare.saturating_sub(1);
                    surplus = surplus.saturating_sub(1);
                    self.total -= 1;
                    actions.closes.push(idle.connection);
                } else {
                    kept.push_back(idle);
                }
            }
            entry.idle = kept;
        }
        while self.total > self.limits.connections && self.evict_idle(None, &mut actions) {}
        // Who waits goes before who may come.
        self.dial_for_waiters(&mut actions);
        for pool in (0..self.pools.len()).map(PoolIndex) {
            let entry = &self.pools[pool.0];
            let has_room = entry.total() < entry.limit && self.total < self.limits.connections;
            let wants = entry.used && entry.idle.len() + entry.connecting < min_idle;
            if wants && has_room && self.connecting < self.limits.connecting {
                self.start_dial(pool, &mut actions);
            }
        }
        actions
    }

    /// Closes every idle connection: the node is gone, or its settings have changed.
    pub fn clear(&mut self) -> Vec<C> {
        let mut closes = Vec::new();
        for entry in &mut self.pools {
            self.total -= entry.idle.len();
            closes.extend(entry.idle.drain(..).map(|idle| idle.connection));
        }
        closes
    }

    /// Takes the idle connections of one pool off the books: they are to be closed.
    pub fn empty(&mut self, pool: PoolIndex) -> Vec<C> {
        let idle = std::mem::take(&mut self.pools[pool.0].idle);
        self.total -= idle.len();
        idle.into_iter().map(|idle| idle.connection).collect()
    }

    /// Takes every waiter off the queue, to be told that the node is gone.
    pub fn dismiss(&mut self) -> Vec<W> {
        self.queue.drain(..).map(|waiter| waiter.waiter).collect()
    }

    /// A connection is free: to the first waiter it can serve, or to the idle ones; closed, if there are more than there may be.
    fn place(&mut self, pool: PoolIndex, connection: C, now: Instant) -> Actions<C, W> {
        let mut actions = Actions::default();
        // It is in the total, and not in its pool's.
        let entry = &mut self.pools[pool.0];
        let is_surplus = self.total > self.limits.connections || entry.total() >= entry.limit;
        if self.queue.is_empty() && !is_surplus {
            entry.idle.push_back(Idle { connection, since: now });
            return actions;
        }
        if is_surplus || self.another_pool_is_starved(pool, now) {
            self.total -= 1;
            actions.closes.push(connection);
        } else if let Some(at) = self.queue.iter().position(|waiter| waiter.pool == pool) {
            let waiter = self.queue.remove(at).expect("the position was just found");
            self.pools[pool.0].leased += 1;
            actions.grants.push((waiter.waiter, connection));
        } else {
            self.pools[pool.0].idle.push_back(Idle { connection, since: now });
        }
        self.dial_for_waiters(&mut actions);
        actions
    }

    /// Whether the first waiter for whom something can be done is of another pool, which has no hope but the slot that `pool`'s
    /// connection holds. Those that wait for connections of a pool that is at its own limit, or for one that is being opened, do not
    /// stand in the way of those behind them.
    fn another_pool_is_starved(&self, pool: PoolIndex, now: Instant) -> bool {
        if self.total < self.limits.connections {
            return false;
        }
        let may_grow = |entry: &Entry<C>| entry.connecting == 0 && entry.total() < entry.limit;
        let first = self.queue.iter().find(|waiter| waiter.pool == pool || may_grow(&self.pools[waiter.pool.0]));
        first.is_some_and(|first| {
            let has_none = self.pools[first.pool.0].total() == 0;
            first.pool != pool && (has_none || now.duration_since(first.since) >= self.limits.steal_after)
        })
    }

    /// Opens connections for waiters that no connection being opened is meant for.
    fn dial_for_waiters(&mut self, actions: &mut Actions<C, W>) {
        // Beyond the number of dials allowed at once there is nothing to find.
        let may_grow = |pool: &PoolIndex| self.pools[pool.0].total() < self.pools[pool.0].limit;
        let pools = self.queue.iter().map(|waiter| waiter.pool).filter(may_grow);
        let candidates: Vec<PoolIndex> = pools.take(self.limits.connecting.max(1) * 2).collect();
        for (at, pool) in candidates.iter().enumerate() {
            let ahead = candidates[..=at].iter().filter(|other| *other == pool).count();
            let entry = &self.pools[pool.0];
            if entry.connecting >= ahead || entry.total() >= entry.limit || self.connecting >= self.limits.connecting {
                continue;
            }
            while self.total >= self.limits.connections {
                if !self.evict_idle(Some(*pool), actions) {
                    return;
                }
            }
            self.start_dial(*pool, actions);
        }
    }

    fn start_dial(&mut self, pool: PoolIndex, actions: &mut Actions<C, W>) {
        self.pools[pool.0].connecting += 1;
        self.connecting += 1;
        self.total += 1;
        actions.dials.push(pool);
    }

    /// Closes the idle connection that has been unused for longest, of any pool but `except`.
    fn evict_idle(&mut self, except: Option<PoolIndex>, actions: &mut Actions<C, W>) -> bool {
        let oldest = self
            .pools
            .iter()
            .enumerate()
            .filter(|(index, _)| except != Some(PoolIndex(*index)))
            .filter_map(|(index, entry)| Some((entry.idle.front()?.since, index)))
            .min();
        let Some((_, index)) = oldest else { return false };
        let idle = self.pools[index].idle.pop_front().expect("it was just seen");
        self.total -= 1;
        actions.closes.push(idle.connection);
        true
    }
}

/// How many idle connections are looked at for one that suits.
const LOOK_BACK: usize = 4;

fn take_idle<C>(idle: &mut VecDeque<Idle<C>>, suits: impl Fn(&C) -> bool) -> Option<C> {
    let newest = idle.len().checked_sub(1)?;
    let at = (newest.saturating_sub(LOOK_BACK - 1)..=newest).rev().find(|at| suits(&idle[*at].connection));
    idle.remove(at.unwrap_or(newest)).map(|idle| idle.connection)
}

#[cfg(test)]
mod tests;
