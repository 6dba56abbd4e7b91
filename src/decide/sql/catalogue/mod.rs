//! What is known of a database's functions, relations, operators and types: which of them only the primary answers
//! rightly.
//!
//! Without a loaded catalogue the built-in names of PostgreSQL are known, and every other function counts as unknown.
//! Names without a schema are judged by what they mean under the session's `search_path`; where that is not known, by
//! the worst of what they may mean under any.

mod builder;
mod builtin;
mod defaults;
mod definitions;
mod known;
mod lists;
mod path;
mod queries;
mod resolve;
mod scalars;
mod select;
mod signature;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub use builder::{BadRow, CatalogueBuilder};
pub(super) use known::Named;
pub use lists::{FunctionLists, Listed};
pub use path::SearchPath;
pub use queries::CatalogueQuery;
pub(super) use resolve::{Argument, Call, Resolved};

use builtin::Builtin;
use defaults::Defaults;
use known::Known;
use path::Schema;
use scalars::Scalars;
use signature::Signature;

use super::types::{Depends, Effects};

/// Immutable; one per database. Cheap to derive a newer one from: the built-in names are shared.
#[derive(Debug, Clone)]
pub struct Catalogue {
    builtin: Arc<Builtin>,
    /// By name; one entry per overload, all schemas together.
    functions: HashMap<Box<str>, Vec<Function>>,
    /// Only those that need the primary; by name.
    relations: HashMap<Box<str>, Vec<Relation>>,
    /// All of them; `None`: that is not known.
    known: Option<Known>,
    /// Operators that a function which needs the primary stands behind: by name, their schemas.
    operators: Homes,
    /// Types whose casts, input functions or domain constraints need the primary.
    types: Homes,
    /// Row types of tables for which the same holds: their names are those of the tables.
    rows: Homes,
    /// Relations to which a write leaves something behind: by its triggers, defaults, rules and so on.
    writes: Homes,
    /// What event triggers leave behind.
    ddl: Effects,
    /// Names of hazardous functions that can be called as `row.function`.
    fields: Homes,
    /// Functions in `pg_catalog` that none of pgpilot's lists has.
    unlisted: Vec<Box<str>>,
    placeholders: BTreeSet<Box<str>>,
    schemas: HashMap<Box<str>, Schema>,
    scalars: Scalars,
    defaults: Defaults,
    /// What they were before, since pgpilot began: server connections may be as old. `None`: too often something else.
    earlier: Option<Vec<Defaults>>,
}

/// Of what has a name, the schemas, and what using it may leave behind.
type Homes = HashMap<Box<str>, Vec<(Box<str>, Effects)>>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Function {
    schema: Box<str>,
    signature: Signature,
    nature: Nature,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Safe,
    Primary(Effects),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Relation {
    schema: Box<str>,
    hazard: Hazard,
}

/// Why reading a relation needs the primary, and what doing so may leave behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hazard {
    pub why: &'static str,
    pub effects: Effects,
}

/// Calls of functions that need the primary, behind a name that is no function's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hidden<'c> {
    /// The schema of what has the name; of several, one.
    pub home: &'c str,
    /// What that may leave behind.
    pub effects: Effects,
}

/// What a call of a function means for the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Safe,
    Primary { effects: Effects, by: Listed },
    Unknown,
}

impl Catalogue {
    /// What every server has, before anything is known of a particular one.
    pub fn builtin() -> Self {
        Catalogue::over(Arc::new(Builtin::load()))
    }

    /// Nothing but what is built in.
    fn over(builtin: Arc<Builtin>) -> Self {
        Catalogue {
            builtin,
            functions: HashMap::new(),
            relations: HashMap::new(),
            known: None,
            operators: HashMap::new(),
            types: HashMap::new(),
            rows: HashMap::new(),
            writes: HashMap::new(),
            ddl: Effects::empty(),
            fields: HashMap::new(),
            unlisted: Vec::new(),
            placeholders: BTreeSet::new(),
            schemas: HashMap::new(),
            scalars: Scalars::default(),
            defaults: Defaults::default(),
            earlier: Some(Vec::new()),
        }
    }

    /// Begins a new catalogue from a server's rows; shares the built-in names with this one.
    pub fn rebuild(&self) -> CatalogueBuilder {
        CatalogueBuilder::new(Arc::clone(&self.builtin))
    }

    /// The worst that a call of `schema.name`, or of `name` under any search path, can mean.
    pub fn function(&self, schema: Option<&str>, name: &str, lists: &FunctionLists) -> Standing {
        self.resolve(&Call { schema, name, arguments: None, typed_by: Depends::empty() }, None, lists).standing
    }

    /// The `search_path` with which a session of `user` begins that sets none; `None` if that is not known.
    pub fn default_path(&self, user: &str) -> Option<&str> {
        let path = self.defaults.search_path(user)?;
        let is_same = |earlier: &Defaults| earlier.search_path(user) == Some(path);
        self.earlier.as_ref()?.iter().all(is_same).then_some(path)
    }

    /// This one has been loaded after the other one.
    #[must_use]
    pub fn after(mut self, before: &Catalogue) -> Self {
        const MOST: usize = 16;
        self.earlier.clone_from(&before.earlier);
        if before.defaults != self.defaults && before.defaults != Defaults::default() {
            self.earlier = self.earlier.filter(|earlier| earlier.len() < MOST).map(|mut earlier| {
                earlier.push(before.defaults.clone());
                earlier
            });
        }
        self
    }

    /// The schema of a relation that needs the primary, of those that `name` may mean.
    pub fn home_of_relation(&self, name: &str) -> Option<&str> {
        let own = || self.relations.get(name).and_then(|all| all.first()).map(|r| &*r.schema);
        self.builtin.relation(name).map(|_| BUILTIN_SCHEMA).or_else(own)
    }

    /// Whether a function of this name exists outside `pg_catalog`.
    pub fn has_own_function(&self, name: &str) -> bool {
        self.functions.get(name).is_some_and(|all| all.iter().any(|f| &*f.schema != BUILTIN_SCHEMA))
    }

    /// Whether the arguments, or the search path, may tell functions of this name apart.
    pub fn is_overloaded(&self, name: &str) -> bool {
        let builtin = usize::from(self.builtin.function(name).is_some());
        self.functions.get(name).is_some_and(|all| all.len() + builtin > 1)
    }

    /// Whether reading this relation needs the primary, with this `search_path` or with any; `None`: it does not, as far
    /// as is known.
    pub fn relation(&self, schema: Option<&str>, name: &str, path: Option<&SearchPath>) -> Option<Hazard> {
        // Whatever the schema: extensions make views of the same kind and name elsewhere.
        let builtin = self.builtin.relation(name).map(|why| Hazard { why, effects: Effects::empty() });
        builtin.or_else(|| {
            let mut own = self.relations.get(name).into_iter().flatten();
            own.find(|relation| is_reached(schema, &relation.schema, path)).map(|relation| relation.hazard)
        })
    }

    /// Whether an operator of this name may call a function that needs the primary, and what that leaves behind.
    pub fn operator_hazard(&self, schema: Option<&str>, name: &str, path: Option<&SearchPath>) -> Option<Hidden<'_>> {
        reach(&self.operators, schema, name, path)
    }

    /// Whether a cast to a type of this name may.
    pub fn type_hazard(&self, schema: Option<&str>, name: &str, path: Option<&SearchPath>) -> Option<Hidden<'_>> {
        reach(&self.types, schema, name, path)
    }

    /// Whether a cast to the row type of a table of this name may.
    pub fn row_hazard(&self, schema: Option<&str>, name: &str) -> Option<Hidden<'_>> {
        reach(&self.rows, schema, name, None)
    }

    /// Whether there is surely no relation of this name where the session looks for it: but for temporary ones.
    pub(super) fn is_strange(&self, schema: Option<&str>, name: &str, path: Option<&SearchPath>) -> bool {
        self.known.as_ref().is_some_and(|known| !known.has(Named::Relation, schema, name, path))
    }

    /// Whether there is surely no type or operator of this name, wherever it is looked for.
    pub(super) fn is_new(&self, what: Named, schema: Option<&str>, name: &str) -> bool {
        self.known.as_ref().is_some_and(|known| !known.has(what, schema, name, None))
    }

    /// Whether the same relations, types and operators are known as in the other one.
    pub fn knows_the_same(&self, other: &Catalogue) -> bool {
        self.known == other.known
    }

    /// What a write to a relation of this name leaves behind, besides what its statement does; `None`: nothing.
    pub(super) fn left_by_write(&self, schema: Option<&str>, name: &str, path: Option<&SearchPath>) -> Option<Effects> {
        let own = reach(&self.writes, schema, name, path).map(|hidden| hidden.effects);
        // An UPDATE of this view is a SET (`CREATE RULE pg_settings_u` in src/backend/catalog/system_views.sql).
        let sets = name == "pg_settings" && schema.is_none_or(|schema| schema == BUILTIN_SCHEMA);
        if sets { Some(own.unwrap_or_default() | Effects::SETTINGS) } else { own }
    }

    /// What DDL leaves behind, besides what its statement does.
    pub(super) fn left_by_ddl(&self) -> Effects {
        self.ddl
    }

    /// Whether there are such operators at all.
    pub fn has_operator_hazards(&self) -> bool {
        !self.operators.is_empty()
    }

    /// Whether there are such types at all.
    pub fn has_type_hazards(&self) -> bool {
        !self.types.is_empty()
    }

    /// Whether there are row types among them.
    pub fn has_row_hazards(&self) -> bool {
        !self.rows.is_empty()
    }

    /// Whether `row.name` may.
    pub fn field_hazard(&self, name: &str) -> Option<Hidden<'_>> {
        reach(&self.fields, None, name, None)
    }

    /// Whether every verdict under this catalogue is the same as under the other one, but for those on relations that are
    /// not known.
    pub fn says_the_same(&self, other: &Catalogue) -> bool {
        self.functions == other.functions
            && self.schemas == other.schemas
            && self.scalars == other.scalars
            && self.defaults == other.defaults
            && self.relations == other.relations
            && self.operators == other.operators
            && self.types == other.types
            && self.rows == other.rows
            && self.writes == other.writes
            && self.ddl == other.ddl
            && self.fields == other.fields
            && self.placeholders == other.placeholders
    }

    /// Settings of applications' own that functions set.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.placeholders.iter().map(|name| &**name)
    }

    /// Functions of the server itself that nothing is known of: they go to the primary.
    pub fn unlisted(&self) -> &[Box<str>] {
        &self.unlisted
    }

    /// What it holds, and about how much memory that takes.
    pub fn size(&self) -> CatalogueSize {
        // A map's entry, and the vector in it.
        const ENTRY: usize = 64;
        let functions = self.functions.values().map(Vec::len).sum();
        let relations = self.relations.values().map(Vec::len).sum();
        let of_functions = self.functions.iter().map(|(name, all)| {
            ENTRY
                + name.len()
                + all.iter().map(|f| size_of::<Function>() + f.schema.len() + f.signature.heap()).sum::<usize>()
        });
        let of_relations = self.relations.iter().map(|(name, all)| {
            ENTRY + name.len() + all.iter().map(|r| size_of::<Relation>() + r.schema.len()).sum::<usize>()
        });
        let homes = [&self.operators, &self.types, &self.rows, &self.writes, &self.fields];
        let names = homes.into_iter().flat_map(HashMap::keys).chain(self.schemas.keys());
        let bytes: usize = of_functions.chain(of_relations).chain(names.map(|name| ENTRY + name.len())).sum();
        let known = self.known.as_ref().map_or(0, Known::size);
        CatalogueSize { functions, relations, bytes: known + bytes }
    }

    /// Why a built-in function needs the primary, for people.
    pub fn why(&self, function: &str) -> Option<Cow<'static, str>> {
        self.builtin.why(function)
    }
}

/// How large a catalogue is, without the built-in names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CatalogueSize {
    pub functions: usize,
    /// Only those that need the primary.
    pub relations: usize,
    pub bytes: usize,
}

impl Standing {
    fn or(self, other: Standing) -> Standing {
        match (self, other) {
            (Standing::Unknown, s) | (s, Standing::Unknown) => s,
            (Standing::Safe, s) | (s, Standing::Safe) => s,
            (Standing::Primary { effects: a, by }, Standing::Primary { effects: b, .. }) => {
                Standing::Primary { effects: a | b, by }
            }
        }
    }
}

/// Whether a name in `home` can be meant by one with this schema, or by one without.
fn is_reached(schema: Option<&str>, home: &str, path: Option<&SearchPath>) -> bool {
    match (schema, path) {
        (Some(schema), _) => schema == home,
        (None, Some(path)) => path.place(home).is_some(),
        (None, None) => true,
    }
}

fn reach<'c>(homes: &'c Homes, schema: Option<&str>, name: &str, path: Option<&SearchPath>) -> Option<Hidden<'c>> {
    if homes.is_empty() {
        return None;
    }
    let homes = homes.get(name)?.iter().filter(|(home, _)| is_reached(schema, home, path));
    let hidden = homes.map(|&(ref home, effects)| Hidden { home, effects });
    hidden.reduce(|all, one| Hidden { effects: all.effects | one.effects, ..all })
}

const BUILTIN_SCHEMA: &str = "pg_catalog";

#[cfg(test)]
mod tests;
