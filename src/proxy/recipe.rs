//! How a database's catalogue becomes what verdicts are given by.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;

use crate::cluster::catalogue::TextRow;
use crate::cluster::{Catalogues, Cluster, Recipe};
use crate::config::Routing;
use crate::decide::sql::{Catalogue, CatalogueQuery, CatalogueSize, FunctionLists};

/// A catalogue, and the number by which verdicts that were given under it are known.
pub struct Loaded {
    pub catalogue: Catalogue,
    /// The operators' own lists of functions.
    pub(super) lists: Arc<FunctionLists>,
    pub(super) generation: u64,
    /// The number of the set of relations that are known: what else is named depends on it.
    pub(super) relations: u64,
}

/// How catalogues are loaded.
pub struct CatalogueRecipe {
    lists: ArcSwap<FunctionLists>,
    /// For generations, and for sets of relations.
    next: AtomicU64,
    builtin: Catalogue,
    /// What was laid down for sessions to begin with, as it was seen last; and who is told when that changes.
    laid_down: Mutex<Option<Option<String>>>,
    tell_of_defaults: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// What `ALTER ROLE .. SET` and `ALTER DATABASE .. SET` have laid down, of all databases: it need not have passed through
/// here.
const LAID_DOWN: &str = r"
SELECT pg_catalog.md5(pg_catalog.string_agg(s::text, E'\n' ORDER BY s.setdatabase, s.setrole))
FROM pg_catalog.pg_db_role_setting s";

impl Loaded {
    /// `None`: nothing has been loaded yet.
    pub fn size(&self) -> Option<CatalogueSize> {
        (!self.is_blank()).then(|| self.catalogue.size())
    }

    /// What is known of any database, taken for all that there is to know.
    pub fn builtin() -> Self {
        Loaded { catalogue: Catalogue::builtin(), lists: Arc::default(), generation: 1, relations: 1 }
    }

    /// Whether nothing has come from a server yet.
    pub(super) fn is_blank(&self) -> bool {
        self.generation == 0
    }
}

impl CatalogueRecipe {
    pub(super) fn catalogues(routing: &Routing, cluster: &Arc<Cluster>) -> Catalogues<Self> {
        Catalogues::new(Self::new(lists(routing)), cluster)
    }

    pub(super) fn new(lists: FunctionLists) -> Self {
        Self {
            lists: ArcSwap::from_pointee(lists),
            next: AtomicU64::new(1),
            builtin: Catalogue::builtin(),
            laid_down: Mutex::default(),
            tell_of_defaults: OnceLock::new(),
        }
    }

    /// Who is to be told, of the first one that asks.
    pub(super) fn tell_of_defaults(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.tell_of_defaults.set(Box::new(tell));
    }

    fn see_laid_down(&self, now: Option<String>) {
        let mut seen = self.laid_down.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.replace(now);
        let has_changed = before.is_some() && before != *seen;
        drop(seen);
        if let Some(tell) = self.tell_of_defaults.get().filter(|_| has_changed) {
            tell();
        }
    }

    /// The lists have changed: it shows in what is built from now on.
    pub(super) fn relist(&self, routing: &Routing) {
        self.lists.store(Arc::new(lists(routing)));
    }
}

impl Recipe for CatalogueRecipe {
    type Value = Loaded;

    fn initial(&self) -> Loaded {
        Loaded { catalogue: self.builtin.clone(), lists: self.lists.load_full(), generation: 0, relations: 0 }
    }

    fn queries(&self) -> Vec<&str> {
        CatalogueQuery::ALL.iter().map(|query| query.sql()).chain([LAID_DOWN]).collect()
    }

    fn build(&self, answers: &[Vec<Box<TextRow>>], before: &Loaded) -> Result<Loaded, String> {
        let mut builder = before.catalogue.rebuild();
        for (query, rows) in CatalogueQuery::ALL.into_iter().zip(answers) {
            for row in rows {
                let row: Vec<Option<&str>> = row.iter().map(Option::as_deref).collect();
                builder.add(query, &row).map_err(|error| error.to_string())?;
            }
        }
        if let Some([row]) = answers.get(CatalogueQuery::ALL.len()).map(Vec::as_slice) {
            self.see_laid_down(row.first().cloned().flatten());
        }
        let lists = self.lists.load_full();
        let catalogue = builder.finish(&lists).after(&before.catalogue);
        // As long as the catalogue says the same, verdicts hold, and what has been learnt.
        let holds = !before.is_blank() && before.lists == lists && before.catalogue.says_the_same(&catalogue);
        let next = || self.next.fetch_add(1, Ordering::Relaxed);
        let generation = if holds { before.generation } else { next() };
        let knows_the_same = !before.is_blank() && before.catalogue.knows_the_same(&catalogue);
        let relations = if knows_the_same { before.relations } else { next() };
        if !catalogue.unlisted().is_empty() && catalogue.unlisted() != before.catalogue.unlisted() {
            tracing::info!(
                functions = catalogue.unlisted().join(" "),
                "the server has built-in functions that are not known: they go to the primary"
            );
        }
        Ok(Loaded { catalogue, lists, generation, relations })
    }

    fn is_news(&self, old: &Loaded, new: &Loaded) -> bool {
        (old.generation, old.relations) != (new.generation, new.relations)
    }
}

fn lists(routing: &Routing) -> FunctionLists {
    FunctionLists::new(&routing.primary_functions, &routing.replica_functions)
}
