//! What is known of a database's functions, relations, operators and types: which of them only the primary answers
//! rightly.
//!
//! Without a loaded catalogue the built-in names of PostgreSQL are known, and every other function counts as unknown.
//! Names without a schema are judged by the worst of what they may mean under any `search_path`.

mod builder;
mod builtin;
mod definitions;
mod lists;
mod queries;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use builder::{BadRow, CatalogueBuilder};
pub use lists::{FunctionLists, Listed};
pub use queries::CatalogueQuery;

use builtin::Builtin;

use super::types::Effects;

/// Immutable; one per database. Cheap to derive a newer one from: the built-in names are shared.
#[derive(Debug, Clone)]
pub struct Catalogue {
    builtin: Arc<Builtin>,
    /// By name; one entry per overload, all schemas together.
    functions: HashMap<Box<str>, Vec<Function>>,
    /// Only those that need the primary; by name.
    relations: HashMap<Box<str>, Vec<Relation>>,
    /// Names of operators that some volatile function of the user's stands behind.
    operators: HashSet<Box<str>>,
    /// Names of types whose casts, input functions or domain constraints need the primary.
    types: HashSet<Box<str>>,
    /// Names of hazardous functions that can be called as `row.function`.
    fields: HashSet<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Function {
    schema: Box<str>,
    arity: Arity,
    nature: Nature,
}

/// How many arguments a function can be called with; defaults and VARIADIC counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Arity {
    least: usize,
    most: usize,
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
        Catalogue {
            builtin: Arc::new(Builtin::load()),
            functions: HashMap::new(),
            relations: HashMap::new(),
            operators: HashSet::new(),
            types: HashSet::new(),
            fields: HashSet::new(),
        }
    }

    /// Begins a new catalogue from a server's rows; shares the built-in names with this one.
    pub fn rebuild(&self) -> CatalogueBuilder {
        CatalogueBuilder::new(Arc::clone(&self.builtin))
    }

    /// The worst that a call of `schema.name`, or of `name` under any search path, can mean. `arguments`: how many it
    /// has, where that is known.
    pub fn function(
        &self,
        schema: Option<&str>,
        name: &str,
        arguments: Option<usize>,
        lists: &FunctionLists,
    ) -> Standing {
        let may_be_builtin = schema.is_none_or(|s| s == BUILTIN_SCHEMA);
        let builtin = self.builtin.function(name).filter(|_| may_be_builtin).map(|nature| (BUILTIN_SCHEMA, nature));
        let all = || {
            let own = self.functions.get(name).into_iter().flatten();
            own.filter(|f| schema.is_none_or(|s| s == &*f.schema))
        };
        // A number that fits none has been misunderstood.
        let fits = |f: &Function| arguments.is_none_or(|n| (f.arity.least..=f.arity.most).contains(&n));
        let any_fits = all().any(fits);
        let own = all().filter(|f| !any_fits || fits(f)).map(|f| (&*f.schema, f.nature));
        let mut worst = Standing::Unknown;
        for (schema, nature) in builtin.into_iter().chain(own) {
            let standing = match (lists.judge(schema, name), nature) {
                (Listed::Replica, _) | (Listed::Not, Nature::Safe) => Standing::Safe,
                (Listed::Primary, Nature::Safe) => Standing::Primary { effects: Effects::empty(), by: Listed::Primary },
                (by, Nature::Primary(effects)) => Standing::Primary { effects, by },
            };
            worst = worst.or(standing);
        }
        if worst != Standing::Unknown {
            return worst;
        }
        match lists.judge_unknown(schema, name) {
            Listed::Not => Standing::Unknown,
            Listed::Replica => Standing::Safe,
            Listed::Primary => Standing::Primary { effects: Effects::SETTINGS, by: Listed::Primary },
        }
    }

    /// The schema of a function that needs the primary, of those that `name` may mean.
    pub fn home_of_hazard(&self, name: &str) -> Option<&str> {
        let own = self.functions.get(name).into_iter().flatten().find(|f| f.nature != Nature::Safe);
        let builtin = || self.builtin.function(name).filter(|nature| *nature != Nature::Safe).map(|_| BUILTIN_SCHEMA);
        own.map(|f| &*f.schema).or_else(builtin)
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

    /// Whether the number of arguments may tell functions of this name apart.
    pub fn is_overloaded(&self, name: &str) -> bool {
        self.functions.get(name).is_some_and(|all| all.len() > 1)
    }

    /// Whether reading this relation needs the primary; `None`: it does not, as far as is known.
    pub fn relation(&self, schema: Option<&str>, name: &str) -> Option<Hazard> {
        // Whatever the schema: extensions make views of the same kind and name elsewhere.
        let builtin = self.builtin.relation(name).map(|why| Hazard { why, effects: Effects::empty() });
        builtin.or_else(|| {
            let mut own = self.relations.get(name).into_iter().flatten();
            own.find(|r| schema.is_none_or(|s| s == &*r.schema)).map(|r| r.hazard)
        })
    }

    /// Whether an operator of this name may call a function that needs the primary.
    pub fn is_operator_hazard(&self, name: &str) -> bool {
        !self.operators.is_empty() && self.operators.contains(name)
    }

    /// Whether a cast to a type of this name may.
    pub fn is_type_hazard(&self, name: &str) -> bool {
        !self.types.is_empty() && self.types.contains(name)
    }

    /// Whether `row.name` may.
    pub fn is_field_hazard(&self, name: &str) -> bool {
        !self.fields.is_empty() && self.fields.contains(name)
    }

    /// Whether every verdict under this catalogue is the same as under the other one.
    pub fn says_the_same(&self, other: &Catalogue) -> bool {
        self.functions == other.functions
            && self.relations == other.relations
            && self.operators == other.operators
            && self.types == other.types
            && self.fields == other.fields
    }

    /// What it holds, and about how much memory that takes.
    pub fn size(&self) -> CatalogueSize {
        // A map's entry, and the vector in it.
        const ENTRY: usize = 64;
        let functions = self.functions.values().map(Vec::len).sum();
        let relations = self.relations.values().map(Vec::len).sum();
        let of_functions = self.functions.iter().map(|(name, all)| {
            ENTRY + name.len() + all.iter().map(|f| size_of::<Function>() + f.schema.len()).sum::<usize>()
        });
        let of_relations = self.relations.iter().map(|(name, all)| {
            ENTRY + name.len() + all.iter().map(|r| size_of::<Relation>() + r.schema.len()).sum::<usize>()
        });
        let names = self.operators.iter().chain(&self.types).chain(&self.fields);
        let bytes = of_functions.chain(of_relations).chain(names.map(|name| ENTRY + name.len())).sum();
        CatalogueSize { functions, relations, bytes }
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

const BUILTIN_SCHEMA: &str = "pg_catalog";

#[cfg(test)]
mod tests;
