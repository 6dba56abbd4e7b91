//! Verdicts on statements, remembered: a repeated text costs a look-up, not a parse.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::{Equivalent, Weighter, sync::Cache};

use super::recent::Recent;
use crate::cluster::catalogue::{Database, TextRow};
use crate::cluster::{Catalogues, Cluster, Recipe};
use crate::config::Routing;
use crate::decide::sql::{
    Catalogue, CatalogueQuery, Classified, Facts, FunctionLists, Intent, Reason, Verdict, classify,
};
use crate::telemetry::{Count, Lookup, Metrics};

/// The verdicts of one database.
pub struct Verdicts {
    cache: Cache<Key, Arc<Classified>, Weight, quick_cache::DefaultHashBuilder>,
    /// Texts with values in them, most of which never come again, would fill the cache: a text is kept from its second time on.
    met: Recent,
    hasher: quick_cache::DefaultHashBuilder,
    database: Arc<Database<Loaded>>,
    lists: FunctionLists,
    max_parse: usize,
    /// Grows when a single verdict was wrong.
    lessons: AtomicU64,
    metrics: Arc<Metrics>,
}

/// A catalogue, and the number by which verdicts that were given under it are known.
pub struct Loaded {
    pub catalogue: Catalogue,
    generation: u64,
}

/// How catalogues are loaded.
pub struct CatalogueRecipe {
    lists: FunctionLists,
    generation: AtomicU64,
}

impl CatalogueRecipe {
    pub(super) fn catalogues(routing: &Routing, cluster: &Arc<Cluster>) -> Catalogues<Self> {
        let recipe = Self { lists: lists(routing), generation: AtomicU64::new(1) };
        let initial = Loaded { catalogue: Catalogue::builtin(), generation: 0 };
        Catalogues::new(recipe, initial, cluster)
    }
}

impl Recipe for CatalogueRecipe {
    type Value = Loaded;

    fn queries(&self) -> Vec<&str> {
        CatalogueQuery::ALL.iter().map(|query| query.sql()).collect()
    }

    fn build(&self, answers: &[Vec<Box<TextRow>>]) -> Result<Loaded, String> {
        let mut builder = Catalogue::builtin().rebuild();
        for (query, rows) in CatalogueQuery::ALL.into_iter().zip(answers) {
            for row in rows {
                let row: Vec<Option<&str>> = row.iter().map(Option::as_deref).collect();
                builder.add(query, &row).map_err(|error| error.to_string())?;
            }
        }
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        Ok(Loaded { catalogue: builder.finish(&self.lists), generation })
    }
}

fn lists(routing: &Routing) -> FunctionLists {
    FunctionLists::new(&routing.primary_functions, &routing.replica_functions)
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
        (OVERHEAD + key.text.len() + verdict.statements.len() * size_of::<Verdict>()) as u64
    }
}

/// What the cache is dimensioned for; its limit is in bytes.
const TYPICAL_ENTRY: u64 = 512;

/// The cache could hold so many texts for each one that is noted as met once: eight bytes beside two kilobytes.
const TEXTS_PER_PLACE: usize = 4;

impl Verdicts {
    pub fn new(routing: &Routing, database: Arc<Database<Loaded>>, metrics: Arc<Metrics>) -> Self {
        let bytes = routing.cache.0.max(TYPICAL_ENTRY);
        let items = usize::try_from(bytes / TYPICAL_ENTRY).unwrap_or(usize::MAX);
        Self {
            met: Recent::new(items / TEXTS_PER_PLACE),
            hasher: Default::default(),
            cache: Cache::with(items, bytes, Weight, Default::default(), Default::default()),
            database,
            lists: lists(routing),
            max_parse: usize::try_from(routing.max_parse.0).unwrap_or(usize::MAX),
            lessons: AtomicU64::new(0),
            metrics,
        }
    }

    /// The verdict on a text as it came from a client.
    pub fn of(&self, text: &[u8]) -> Arc<Classified> {
        let loaded = self.database.current();
        let key = KeyRef { generation: loaded.generation, text };
        if let Some(known) = self.cache.get(&key) {
            self.metrics.count(Count::Verdict(Lookup::Hit));
            return known;
        }
        self.metrics.count(Count::Verdict(Lookup::Miss));
        let verdict = Arc::new(self.judge(text, &loaded.catalogue));
        if verdict.statements.iter().any(|verdict| verdict.reason == Reason::Unparsable) {
            self.metrics.count(Count::Unparsable);
        }
        if text.len() <= self.max_parse && self.met.meet(self.hasher.hash_one(&key)) {
            self.cache.insert(Key { generation: loaded.generation, text: text.into() }, verdict.clone());
        }
        verdict
    }

    fn judge(&self, text: &[u8], catalogue: &Catalogue) -> Classified {
        match std::str::from_utf8(text) {
            Ok(text) => classify(text, &Facts { catalogue, overrides: &self.lists, max_parse: self.max_parse }),
            Err(_) => Classified::opaque(Reason::Encoding),
        }
    }

    /// A replica refused this text: it goes to the primary from now on, until the catalogue changes.
    pub fn learn_refused(&self, text: &[u8]) {
        let learn = |statement: &Verdict| match statement.intent {
            Intent::Read => Verdict { intent: Intent::Write, reason: Reason::Learned, ..statement.clone() },
            _ => statement.clone(),
        };
        let verdict = Classified { statements: self.of(text).statements.iter().map(learn).collect() };
        let key = Key { generation: self.database.current().generation, text: text.into() };
        self.cache.insert(key, Arc::new(verdict));
        self.lessons.fetch_add(1, Ordering::Relaxed);
    }

    /// A verdict kept elsewhere holds as long as this does not change.
    pub fn stamp(&self) -> u64 {
        self.database.current().generation << 32 | self.lessons.load(Ordering::Relaxed)
    }
}
