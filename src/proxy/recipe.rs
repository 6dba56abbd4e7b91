//! How a database's catalogue becomes what verdicts are given by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cluster::catalogue::TextRow;
use crate::cluster::{Catalogues, Cluster, Recipe};
use crate::config::Routing;
use crate::decide::sql::{Catalogue, CatalogueQuery, CatalogueSize, FunctionLists};

/// A catalogue, and the number by which verdicts that were given under it are known.
pub struct Loaded {
    pub catalogue: Catalogue,
    pub(super) generation: u64,
}

/// How catalogues are loaded.
pub struct CatalogueRecipe {
    lists: FunctionLists,
    generation: AtomicU64,
}

impl Loaded {
    /// `None`: nothing has been loaded yet.
    pub fn size(&self) -> Option<CatalogueSize> {
        (self.generation > 0).then(|| self.catalogue.size())
    }

    /// What is known of any database.
    pub fn builtin() -> Self {
        Loaded { catalogue: Catalogue::builtin(), generation: 0 }
    }
}

impl CatalogueRecipe {
    pub(super) fn catalogues(routing: &Routing, cluster: &Arc<Cluster>) -> Catalogues<Self> {
        let recipe = Self { lists: lists(routing), generation: AtomicU64::new(1) };
        Catalogues::new(recipe, Loaded::builtin(), cluster)
    }
}

impl Recipe for CatalogueRecipe {
    type Value = Loaded;

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
        Ok(Loaded { catalogue: builder.finish(&self.lists).after(&before.catalogue), generation })
    }

    /// As long as the catalogue says the same, verdicts hold, and what has been learnt.
    fn is_news(&self, old: &Loaded, new: &Loaded) -> bool {
        old.generation == 0 || !old.catalogue.says_the_same(&new.catalogue)
    }
}

pub(super) fn lists(routing: &Routing) -> FunctionLists {
    FunctionLists::new(&routing.primary_functions, &routing.replica_functions)
}
