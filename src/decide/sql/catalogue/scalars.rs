//! The types that tell overloads apart, and which of them the server turns into which by itself.

use std::collections::{HashMap, HashSet};

/// Plain types (no domains, row types or pseudo-types), by OID, and the implicit casts. How arrays turn into each other
/// does not matter: no argument is known to be one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scalars {
    types: HashMap<u32, Category>,
    /// (source, target)
    casts: HashSet<(u32, u32)>,
    /// What somebody has made a cast from: it may call anything, and turn into anything.
    restless: HashSet<u32>,
}

/// What `pg_type` says of a type for the resolution of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Category {
    pub(super) letter: u8,
    pub(super) preferred: bool,
}

impl Scalars {
    pub(super) fn add_type(&mut self, oid: u32, category: Category) {
        self.types.insert(oid, category);
    }

    pub(super) fn add_cast(&mut self, source: u32, target: u32) {
        self.casts.insert((source, target));
    }

    /// The casts from this type are not all PostgreSQL's own.
    pub(super) fn distrust(&mut self, source: u32) {
        self.restless.insert(source);
    }

    /// Whether it is known of a value of this type what it turns into by itself.
    pub(super) fn is_settled(&self, oid: u32) -> bool {
        self.types.contains_key(&oid) && !self.restless.contains(&oid)
    }

    /// `None`: nothing can be said of what fits the type.
    pub(super) fn category(&self, oid: u32) -> Option<Category> {
        self.types.get(&oid).copied()
    }

    /// Whether a value of the one type can be passed where the other is declared (`can_coerce_type` in
    /// `src/backend/parser/parse_coerce.c`). Always, where nothing is known of one of them.
    pub(super) fn converts(&self, from: u32, to: u32) -> bool {
        let known = self.is_settled(from) && self.types.contains_key(&to);
        !known || from == to || self.casts.contains(&(from, to))
    }
}
