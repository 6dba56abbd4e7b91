//! What is known of a database's functions, relations, operators and types: which of them only the primary answers
//! rightly.
//!
//! Without a loaded catalogue the built-in names of PostgreSQL are known, and every other function counts as unknown.
//! Names without a schema are judged by the worst of what they may mean under any `search_path`.

mod builder;
mod builtin;
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
    /// By name; one entry per schema that has it, over all its overloads there.
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

    /// The worst that a call of `schema.name`, or of `name` under any search path, can mean.
    pub fn function(&self, schema: Option<&str>, name: &str, lists: &FunctionLists) -> Standing {
        let may_be_builtin = schema.is_none_or(|s| s == BUILTIN_SCHEMA);
        let builtin = self.builtin.function(name).filter(|_| may_be_builtin).map(|nature| (BUILTIN_SCHEMA, nature));
        let own = self.functions.get(name).into_iter().flatten();
        let own = own.filter(|f| schema.is_none_or(|s| s == &*f.schema)).map(|f| (&*f.schema, f.nature));
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

    /// Whether a function of this name exists outside `pg_catalog`.
    pub fn has_own_function(&self, name: &str) -> bool {
        self.functions.contains_key(name)
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

    /// Why a built-in function needs the primary, for people.
    pub fn why(&self, function: &str) -> Option<Cow<'static, str>> {
        self.builtin.why(function)
    }
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
