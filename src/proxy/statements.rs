//! One number for one prepared statement, whoever prepares it.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::decide::session::{Origin, Statement, StatementId};

/// Every prepared statement that some session holds. What nobody holds any more is forgotten.
pub(super) struct Statements {
    next: AtomicU64,
    known: Mutex<Known>,
    /// The ways to say BEGIN, which are few.
    begins: Mutex<HashMap<Box<[u8]>, Arc<Statement>>>,
    /// Grows when a plan has turned out to be stale: who prepares a statement anew gets a new one.
    epoch: AtomicU64,
}

struct Known {
    by_origin: HashMap<Key, Weak<Statement>>,
    /// When the table reaches this size, dead entries are swept out.
    sweep_at: usize,
}

/// What a statement's meaning depends on: its origin, and the settings under which names in it are looked up.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    origin: Origin,
    context: Box<str>,
    epoch: u64,
}

const FIRST_SWEEP: usize = 1024;
const MAX_BEGINS: usize = 64;

impl Default for Statements {
    fn default() -> Self {
        let known = Known { by_origin: HashMap::new(), sweep_at: FIRST_SWEEP };
        Self { next: AtomicU64::new(1), known: Mutex::new(known), begins: Mutex::default(), epoch: AtomicU64::new(0) }
    }
}

impl Statements {
    /// The statement of this origin, in this context: the same one for everybody.
    pub(super) fn intern(&self, origin: Origin, context: &str) -> Arc<Statement> {
        let key = Key { origin, context: context.into(), epoch: self.epoch.load(Ordering::Relaxed) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = known.by_origin.get(&key).and_then(Weak::upgrade) {
            return statement;
        }
        if known.by_origin.len() >= known.sweep_at {
            known.by_origin.retain(|_, statement| statement.strong_count() > 0);
            known.sweep_at = (known.by_origin.len() * 2).max(FIRST_SWEEP);
        }
        let statement = Arc::new(self.single(key.origin.clone()));
        known.by_origin.insert(key, Arc::downgrade(&statement));
        statement
    }

    /// A text that begins a transaction: kept, so that servers parse it once.
    pub(super) fn begin(&self, text: &[u8]) -> Arc<Statement> {
        let mut begins = self.begins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = begins.get(text) {
            return statement.clone();
        }
        if begins.len() >= MAX_BEGINS {
            begins.clear();
        }
        let statement = Arc::new(self.single(Origin::Parse { query: text.into(), types: Box::new([0, 0]) }));
        begins.insert(text.into(), statement.clone());
        statement
    }

    /// The catalogue has changed so that a plan no longer fits ("cached plan must not change result type"). Whoever prepares the statement again must get
    /// a new one, as from a server, and not the one that fails.
    pub(super) fn plans_are_stale(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// A statement that is nobody else's: the unnamed one.
    pub(super) fn single(&self, origin: Origin) -> Statement {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Statement { id: StatementId(NonZeroU64::new(id).unwrap_or(NonZeroU64::MAX)), origin }
    }
}
