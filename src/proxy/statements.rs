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
}

const FIRST_SWEEP: usize = 1024;

impl Default for Statements {
    fn default() -> Self {
        let known = Known { by_origin: HashMap::new(), sweep_at: FIRST_SWEEP };
        Self { next: AtomicU64::new(1), known: Mutex::new(known) }
    }
}

impl Statements {
    /// The statement of this origin, in this context: the same one for everybody.
    pub(super) fn intern(&self, origin: Origin, context: &str) -> Arc<Statement> {
        let key = Key { origin, context: context.into() };
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

    /// A statement that is nobody else's: the unnamed one.
    pub(super) fn single(&self, origin: Origin) -> Statement {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Statement { id: StatementId(NonZeroU64::new(id).unwrap_or(NonZeroU64::MAX)), origin }
    }
}
