//! Verdicts on statements, remembered: a repeated text costs a look-up, not a parse.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use quick_cache::{Equivalent, Weighter, sync::Cache};

use crate::config::Routing;
use crate::decide::sql::{Catalogue, Classified, Facts, FunctionLists, Reason, classify};

/// The verdicts of one database.
pub struct Verdicts {
    cache: Cache<Key, Arc<Classified>, Weight, quick_cache::DefaultHashBuilder>,
    catalogue: ArcSwap<Catalogue>,
    lists: FunctionLists,
    max_parse: usize,
    /// Grows when verdicts given before may be wrong.
    generation: AtomicU64,
    /// Grows when a single verdict was wrong.
    lessons: AtomicU64,
}

/// A text under a generation.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    generation: u64,
    text: Box<[u8]>,
}

#[derive(Hash)]
struct KeyRef<'a> {
    generation: u64,
    text: &'a [u8],
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.generation == key.generation && *self.text == *key.text
    }
}

/// Bytes that an entry takes, about.
#[derive(Clone)]
struct Weight;

impl Weighter<Key, Arc<Classified>> for Weight {
    fn weight(&self, key: &Key, verdict: &Arc<Classified>) -> u64 {
        const OVERHEAD: usize = 160;
        (OVERHEAD + key.text.len() + verdict.statements.len() * size_of::<crate::decide::sql::Verdict>()) as u64
    }
}

/// What the cache is dimensioned for; its limit is in bytes.
const TYPICAL_ENTRY: u64 = 512;

impl Verdicts {
    pub fn new(routing: &Routing, catalogue: Arc<Catalogue>) -> Self {
        let bytes = routing.cache.0.max(TYPICAL_ENTRY);
        let items = usize::try_from(bytes / TYPICAL_ENTRY).unwrap_or(usize::MAX);
        Self {
            cache: Cache::with(items, bytes, Weight, Default::default(), Default::default()),
            catalogue: ArcSwap::new(catalogue),
            lists: FunctionLists::new(&routing.primary_functions, &routing.replica_functions),
            max_parse: usize::try_from(routing.max_parse.0).unwrap_or(usize::MAX),
            generation: AtomicU64::new(0),
            lessons: AtomicU64::new(0),
        }
    }

    /// The verdict on a text as it came from a client.
    pub fn of(&self, text: &[u8]) -> Arc<Classified> {
        let generation = self.generation();
        let key = KeyRef { generation, text };
        if let Some(known) = self.cache.get(&key) {
            return known;
        }
        let verdict = Arc::new(self.judge(text));
        if text.len() <= self.max_parse {
            self.cache.insert(Key { generation, text: text.into() }, verdict.clone());
        }
        verdict
    }

    fn judge(&self, text: &[u8]) -> Classified {
        let Ok(text) = std::str::from_utf8(text) else { return Classified::opaque(Reason::Encoding) };
        let catalogue = self.catalogue.load();
        classify(text, &Facts { catalogue: &catalogue, overrides: &self.lists, max_parse: self.max_parse })
    }

    /// A replica refused this text: it goes to the primary from now on, until the catalogue changes.
    pub fn learn_refused(&self, text: &[u8]) {
        let mut verdict = Classified::clone(&self.of(text));
        for statement in &mut verdict.statements {
            if statement.intent == crate::decide::sql::Intent::Read {
                statement.intent = crate::decide::sql::Intent::Write;
                statement.reason = Reason::Learned;
            }
        }
        let key = Key { generation: self.generation(), text: text.into() };
        self.cache.insert(key, Arc::new(verdict));
        self.lessons.fetch_add(1, Ordering::Relaxed);
    }

    /// A new catalogue: every verdict is given anew.
    pub fn set_catalogue(&self, catalogue: Arc<Catalogue>) {
        self.catalogue.store(catalogue);
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.catalogue.load_full()
    }

    /// A verdict kept elsewhere holds as long as this does not change.
    pub fn stamp(&self) -> u64 {
        self.generation() << 32 | self.lessons.load(Ordering::Relaxed)
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}

