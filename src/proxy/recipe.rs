//! How a database's catalogue becomes what verdicts are given by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
}

/// How catalogues are loaded.
pub struct CatalogueRecipe {
    lists: ArcSwap<FunctionLists>,
    generation: AtomicU64,
    builtin: Catalogue,
}

impl Loaded {
    /// `None`: nothing has been loaded yet.
    pub fn size(&self) -> Option<CatalogueSize> {
        (self.generation > 0).then(|| self.catalogue.size())
    }

    /// What is known of any database.
    pub fn builtin() -> Self {
        Loaded { catalogue: Catalogue::builtin(), lists: Arc::default(), generation: 0 }
    }
}

impl CatalogueRecipe {
    pub(super) fn catalogues(routing: &Routing, cluster: &Arc<Cluster>) -> Catalogues<Self> {
        let lists = ArcSwap::from_pointee(lists(routing));
        let recipe = Self { lists, generation: AtomicU64::new(1), builtin: Catalogue::builtin() };
        Catalogues::new(recipe, cluster)
    }

    /// The lists have changed: it shows in what is built from now on.
    pub(super) fn relist(&self, routing: &Routing) {
        self.lists.store(Arc::new(lists(routing)));
    }
}

impl Recipe for CatalogueRecipe {
    type Value = Loaded;

    fn initial(&self) -> Loaded {
        Loaded { catalogue: self.builtin.clone(), lists: self.lists.load_full(), generation: 0 }
    }

    fn queries(&self) -> Vec<&str> {
        CatalogueQuery::ALL.iter().map(|query| query.sql()).collect()
    }

    fn build(&self, answers: &[Vec<Box<TextRow>>], before: &Loaded) -> Result<Loaded, String> {
        let mut builder = before.catalogue.rebuild();
        for (query, rows) in CatalogueQuery::ALL.into_iter().zip(answers) {
            for row in rows {
                let row: Vec<Option<&str>> = row.iter().map(Option::as_deref).collect();
                builder.add(query, &row).map_err(|error| error.to_string())?;
            }
        }
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let lists = self.lists.load_full();
        let catalogue = builder.finish(&lists).after(&before.catalogue);
        if !catalogue.unlisted().is_empty() && catalogue.unlisted() != before.catalogue.unlisted() {
            tracing::info!(
                functions = catalogue.unlisted().join(" "),
                "the server has built-in functions that are not known: they go to the primary"
            );
        }
        Ok(Loaded { catalogue, lists, generation })
    }

    /// As long as the catalogue says the same, verdicts hold, and what has been learnt.
    fn is_news(&self, old: &Loaded, new: &Loaded) -> bool {
        old.generation == 0 || old.lists != new.lists || !old.catalogue.says_the_same(&new.catalogue)
    }
}

fn lists(routing: &Routing) -> FunctionLists {
    FunctionLists::new(&routing.primary_functions, &routing.replica_functions)
}
