//! Who is connected, and how a CancelRequest finds its way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use crate::coordination::Number;
use crate::decide::route::NodeId;
use crate::decide::session::Pin;
use crate::pool::CancelKey;
use crate::wire::startup::PROTOCOL_3_2;

/// Every session, by the process id that its client was told.
#[derive(Default)]
pub struct Registry {
    sessions: Mutex<HashMap<u32, Arc<Slot>>>,
    next: AtomicU32,
    /// Sessions, and clients that are about to get one.
    seats: AtomicUsize,
}

/// A place among the clients, which are limited in number. Given up when dropped.
pub(super) struct Seat(Arc<Registry>);

/// What others may know of a session.
pub(super) struct Slot {
    pid: u32,
    secret: Box<[u8]>,
    info: ClientInfo,
    state: Mutex<State>,
    /// Told when the last CancelRequest on its way has arrived.
    cancels_done: Notify,
    /// Told of a CancelRequest that finds the session without a server connection.
    cancel: Notify,
    /// How many there have been of those.
    unserved: AtomicU32,
}

/// Protocol 3.0 has room for four bytes; 3.2 for more.
pub(super) const SECRET: usize = 32;
const SECRET_3_0: usize = 4;

/// A process id is positive. Of its 31 bits the upper ones are the instance's number, if there are several.
const OWN_BITS: u32 = 21;
const OWN_MASK: u32 = (1 << OWN_BITS) - 1;
const _: () = assert!((Number::MAX as u32) < 1 << (31 - OWN_BITS));

/// Which of several instances has given out this process id.
pub(super) fn instance_of(pid: u32) -> Option<Number> {
    let number = u16::try_from(pid >> OWN_BITS).ok()?;
    (1..=Number::MAX).contains(&number).then_some(Number(number))
}

/// Whether a cancel request was about a session of this instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addressee {
    Here,
    Unknown,
}

#[derive(Debug, Clone)]
pub struct ClientInfo {
    pub user: Arc<str>,
    pub database: Arc<str>,
    /// `None`: a Unix socket.
    pub address: Option<IpAddr>,
    pub application: Arc<str>,
    pub since: Instant,
}

#[derive(Default)]
struct State {
    /// The server connection that works for this session right now.
    held: Option<Held>,
    pins: Vec<Pin>,
    rest: Rest,
    cancels_in_flight: u32,
}

struct Held {
    key: Arc<CancelKey>,
    node: NodeId,
    work: Work,
}

/// Whose statement a server connection is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// The client's: a cancel request means it.
    Clients,
    /// pgpilot's own, before the client's or after it.
    Own,
}

/// Whether a session that holds a server connection has anything running there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Rest {
    #[default]
    Working,
    /// Pinned, and outside a transaction.
    Resting,
}

/// One row of SHOW CLIENTS.
#[derive(Debug, Clone)]
pub struct ClientRow {
    pub pid: u32,
    pub info: ClientInfo,
    /// Where its server connection is, if it has one.
    pub node: Option<NodeId>,
    /// The process that serves it there.
    pub backend: Option<u32>,
    /// It has a statement or a transaction under way there.
    pub working: bool,
    pub pins: Vec<Pin>,
}

/// A session's entry, removed when dropped.
pub(super) struct Registration {
    seat: Seat,
    pub slot: Arc<Slot>,
}

impl Registry {
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn rows(&self) -> Vec<ClientRow> {
        let slots: Vec<_> = self.lock().values().cloned().collect();
        slots.iter().map(|slot| slot.row()).collect()
    }

    /// Ends the server connections to a node that sessions hold: what runs there is lost to them.
    pub fn sever(&self, node: NodeId) -> usize {
        let slots: Vec<_> = self.lock().values().cloned().collect();
        slots.iter().filter(|slot| slot.sever(node)).count()
    }

    /// A place for one more client, if there are fewer than `max`.
    pub(super) fn take_seat(self: &Arc<Self>, max: usize) -> Option<Seat> {
        let take = |taken| (taken < max).then_some(taken + 1);
        self.seats.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Seat(self.clone()))
    }

    /// Enters a session. `version`: of its protocol, which says how long its secret may be; `instance`: this one among
    /// several.
    pub(super) fn register(
        &self,
        seat: Seat,
        info: ClientInfo,
        version: i32,
        instance: Option<Number>,
    ) -> Result<Registration, getrandom::Error> {
        let length = if version >= PROTOCOL_3_2 { SECRET } else { SECRET_3_0 };
        let mut secret = vec![0; length].into_boxed_slice();
        getrandom::fill(&mut secret)?;
        let mut sessions = self.lock();
        let pid = loop {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            let pid = match instance {
                None => next & 0x7fff_ffff,
                Some(Number(number)) => u32::from(number) << OWN_BITS | (next & OWN_MASK),
            };
            if pid & OWN_MASK != 0 && !sessions.contains_key(&pid) {
                break pid;
            }
        };
        let slot = Arc::new(Slot {
            pid,
            secret,
            info,
            state: Mutex::default(),
            cancels_done: Notify::new(),
            cancel: Notify::new(),
            unserved: AtomicU32::new(0),
        });
        sessions.insert(pid, slot.clone());
        drop(sessions);
        Ok(Registration { seat, slot })
    }

    /// Carries a CancelRequest to the server that works for the session, or to the session itself if it waits for one. The key has to be right. As
    /// PostgreSQL, tells nobody how it went.
    pub(super) async fn cancel(&self, pid: u32, key: &[u8]) -> Addressee {
        let slot = self.lock().get(&pid).cloned();
        let Some(slot) = slot.filter(|slot| slot.has_key(key)) else { return Addressee::Unknown };
        let Some(target) = slot.begin_cancel() else { return Addressee::Here };
        let arriving = Arriving(slot);
        if let Err(error) = target.send().await {
            tracing::debug!(pid, %error, "a cancel request did not reach the server");
        }
        drop(arriving);
        Addressee::Here
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Slot>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// The server connection begins to work for this session: from now on it is what a cancel request means.
    pub(super) fn set_busy(&self, key: &Arc<CancelKey>, node: NodeId) {
        self.hold(key, node, Work::Clients);
    }

    /// The server connection runs statements of pgpilot's own: no request that comes from now on can mean it, but it can
    /// be severed.
    pub(super) fn set_own(&self, key: &Arc<CancelKey>, node: NodeId) -> Quiet {
        self.hold(key, node, Work::Own)
    }

    fn hold(&self, key: &Arc<CancelKey>, node: NodeId, work: Work) -> Quiet {
        let mut state = self.lock();
        state.held = Some(Held { key: key.clone(), node, work });
        state.rest = Rest::Working;
        state.quiet()
    }

    /// The session lets go of its server connection: no request that comes from now on can mean it.
    pub(super) fn set_idle(&self) -> Quiet {
        let mut state = self.lock();
        state.held = None;
        state.quiet()
    }

    /// Waits until no cancel request is on its way any more.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn wait_quiet(&self) {
        loop {
            let done = self.cancels_done.notified();
            if self.lock().cancels_in_flight == 0 {
                return;
            }
            done.await;
        }
    }

    /// How many CancelRequests have found the session without a server connection. They mean the statement that it waits with, if it waits with any.
    pub(super) fn unserved_cancels(&self) -> u32 {
        self.unserved.load(Ordering::Relaxed)
    }

    /// Waits for a CancelRequest that finds the session without a server connection for its statement; `seen` of them were there before its statement.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn cancelled(&self, seen: u32) {
        loop {
            let told = self.cancel.notified();
            if self.unserved_cancels() != seen {
                return;
            }
            told.await;
        }
    }

    pub(super) fn set_rest(&self, rest: Rest) {
        self.lock().rest = rest;
    }

    pub(super) fn set_pins(&self, pins: &[Pin]) {
        self.lock().pins = pins.to_vec();
    }

    fn sever(&self, node: NodeId) -> bool {
        let state = self.lock();
        let held = state.held.as_ref().filter(|held| held.node == node);
        let breaker = held.and_then(|held| held.key.breaker.as_ref());
        breaker.inspect(|breaker| breaker.cut()).is_some()
    }

    fn begin_cancel(&self) -> Option<Arc<CancelKey>> {
        let mut state = self.lock();
        let Some(key) = state.held.as_ref().filter(|held| held.work == Work::Clients).map(|held| held.key.clone())
        else {
            // Under the lock, so that whoever sets the session busy afterwards sees it.
            self.unserved.fetch_add(1, Ordering::Relaxed);
            self.cancel.notify_waiters();
            return None;
        };
        state.cancels_in_flight += 1;
        Some(key)
    }

    fn has_key(&self, key: &[u8]) -> bool {
        bool::from(self.secret.ct_eq(key))
    }

    fn row(&self) -> ClientRow {
        let state = self.lock();
        ClientRow {
            pid: self.pid,
            info: self.info.clone(),
            node: state.held.as_ref().map(|held| held.node),
            backend: state.held.as_ref().map(|held| held.key.pid),
            working: state.held.is_some() && state.rest == Rest::Working,
            pins: state.pins.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn quiet(&self) -> Quiet {
        if self.cancels_in_flight == 0 { Quiet::Yes } else { Quiet::CancelOnItsWay }
    }
}

/// Whether a connection may be handed on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quiet {
    Yes,
    /// A request might still arrive at the server and hit whatever runs there next.
    CancelOnItsWay,
}

/// Counts a cancel request as arrived, also when the task is dropped.
struct Arriving(Arc<Slot>);

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.cancels_in_flight -= 1;
        let last = state.cancels_in_flight == 0;
        drop(state);
        if last {
            self.0.cancels_done.notify_waiters();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.seat.0.lock().remove(&self.slot.pid);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.seats.fetch_sub(1, Ordering::Relaxed);
    }
}
