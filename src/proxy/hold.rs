//! Clients whose statements wait for a primary: how many may, and how they are let go.
//!
//! When the primary is there, all of them would be at once. So they are let go in the order in which they came, a few at
//! first and two for each that is done, never more at a time than the primary has connections for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::client::Client;
use super::vigil::Denied;
use crate::config::Routing;
use crate::decide::route::NodeId;

/// So many are let go at first.
const BEGIN: usize = 8;

/// Where they wait.
#[derive(Default)]
pub(super) struct Hold {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clients: usize,
    bytes: usize,
    window: Option<Arc<Window>>,
}

/// Lets those go who were held through one change of primary.
struct Window {
    permits: Arc<Semaphore>,
    width: Mutex<usize>,
    limit: usize,
}

/// A place in the hold, given up when dropped.
pub(super) struct Place {
    hold: Arc<Hold>,
    window: Arc<Window>,
    bytes: usize,
}

/// Who has it has been let go, and is not done yet.
pub(super) struct Pass {
    window: Arc<Window>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// A statement cannot wait for a primary.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    #[error("no primary is available, and {held} clients wait for one already (routing.max_held)")]
    Crowded { held: usize },
    #[error("no primary is available, and what waits for one fills {bytes} bytes already (routing.max_held_bytes)")]
    Full { bytes: usize },
    #[error("the primary is back, but others that waited for it go first (waited {waited:?})")]
    Behind { waited: Duration },
}

impl Hold {
    /// Clients that wait, and the bytes of their statements.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.clients, state.bytes)
    }

    /// Takes a place for a client with a statement of so many bytes.
    /// `width`: of those who are let go, so many may be under way at a time.
    pub(super) fn enter(self: &Arc<Self>, bytes: usize, limits: &Routing, width: usize) -> Result<Place, HoldError> {
        let mut state = self.lock();
        if state.clients >= limits.max_held {
            return Err(HoldError::Crowded { held: state.clients });
        }
        if state.clients > 0 && u64::try_from(state.bytes + bytes).is_ok_and(|sum| sum > limits.max_held_bytes.0) {
            return Err(HoldError::Full { bytes: state.bytes });
        }
        state.clients += 1;
        state.bytes += bytes;
        let window = state.window.get_or_insert_with(|| Window::begin(width)).clone();
        Ok(Place { hold: self.clone(), window, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn begin(limit: usize) -> Arc<Self> {
        let width = BEGIN.min(limit);
        Arc::new(Self { permits: Arc::new(Semaphore::new(width)), width: Mutex::new(width), limit })
    }
}

impl Place {
    /// Waits until it is this client's turn.
    ///
    /// # Cancel safety
    /// The turn is lost, not the place.
    async fn turn(&self) -> Pass {
        // The window's semaphore is never closed.
        let permit = self.window.permits.clone().acquire_owned().await.ok();
        Pass { window: self.window.clone(), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.hold.lock();
        state.clients -= 1;
        state.bytes -= self.bytes;
        if state.clients == 0 {
            state.window = None;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut width = self.window.width.lock().unwrap_or_else(PoisonError::into_inner);
        if *width < self.window.limit {
            *width += 1;
            self.window.permits.add_permits(1);
        }
    }
}

impl Client {
    /// Whether statements may be sent there as to the primary, by what is known at this moment.
    pub(super) fn is_primary(&mut self, node: NodeId) -> bool {
        self.snapshots.snapshot().usable_primary().is_some_and(|primary| primary.id == node)
    }

    /// There is no primary for what the client has sent.
    pub(super) fn enter_hold(&self) -> Result<Place, HoldError> {
        let config = self.shared.config.load();
        self.shared.hold.enter(self.side.input.len(), &config.routing, config.pool.max_server_connections)
    }

    /// A primary is there. Who had to wait for it goes on when its turn has come: then the way is looked for once more.
    pub(super) async fn wait_for_turn(&mut self, place: &Place, arrived: Instant) -> Result<(), Denied> {
        let until = arrived + self.session.policy.primary_wait;
        let turn = tokio::time::timeout_at(until.into(), place.turn());
        match self.vigil().until(turn).await? {
            Ok(pass) => {
                self.pass = Some(pass);
                Ok(())
            }
            Err(_) => Err(HoldError::Behind { waited: arrived.elapsed() }.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, Config};

    fn limits(max_held: usize, bytes: u64) -> Routing {
        let text = "[[nodes]]\nname = \"a\"\nhost = \"h\"\n";
        let mut routing = Config::parse(text, "f", &|_| None).unwrap().routing;
        (routing.max_held, routing.max_held_bytes) = (max_held, ByteSize(bytes));
        routing
    }

    #[test]
    fn places_are_limited_in_number_and_bytes() {
        let hold = Arc::new(Hold::default());
        let limits = limits(2, 100);
        let first = hold.enter(60, &limits, 50).unwrap();
        assert!(matches!(hold.enter(60, &limits, 50), Err(HoldError::Full { bytes: 60 })));
        let second = hold.enter(40, &limits, 50).unwrap();
        assert!(matches!(hold.enter(0, &limits, 50), Err(HoldError::Crowded { held: 2 })));
        assert_eq!(hold.counts(), (2, 100));
        drop((first, second));
        assert_eq!(hold.counts(), (0, 0));
        // One that is too large for all others is served alone.
        assert!(hold.enter(1000, &limits, 50).is_ok());
    }

    #[tokio::test]
    async fn the_window_opens_with_those_who_are_done_and_no_wider_than_it_may() {
        let hold = Arc::new(Hold::default());
        let limits = limits(1000, 1 << 30);
        let places: Vec<_> = (0..100).map(|_| hold.enter(1, &limits, 12).unwrap()).collect();
        let free = |places: &[Place]| places[0].window.permits.available_permits();
        assert_eq!(free(&places), BEGIN);
        let mut under_way = Vec::new();
        for place in &places[..BEGIN] {
            under_way.push(place.turn().await);
        }
        assert_eq!(free(&places), 0);
        drop(under_way.pop());
        assert_eq!(free(&places), 2);
        under_way.clear();
        assert_eq!(free(&places), 12);
        // Another hold begins anew.
        let old = places[0].window.clone();
        drop(places);
        assert!(!Arc::ptr_eq(&old, &hold.enter(1, &limits, 12).unwrap().window));
    }
}
