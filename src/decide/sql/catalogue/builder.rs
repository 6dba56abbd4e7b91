//! From a server's rows to a catalogue.

use std::collections::HashMap;
use std::sync::Arc;

use super::builtin::Builtin;
use super::defaults::Scope;
use super::definitions::{Definition, Definitions, Of, add_home};
use super::known::Named;
use super::path::Schema;
use super::scalars::Category;
use super::{BUILTIN_SCHEMA, Catalogue, CatalogueQuery, Function, FunctionLists, Hazard, Nature, Relation, Signature};
use crate::decide::sql::body::{Language, Promise};
use crate::decide::sql::placeholders::placeholders;
use crate::decide::sql::types::Effects;

/// Beyond, a setting that only functions name does not follow its session.
const MAX_PLACEHOLDERS: usize = 64;

/// Collects the answers to all of [`CatalogueQuery::ALL`].
#[derive(Debug)]
pub struct CatalogueBuilder {
    catalogue: Catalogue,
    /// What is judged by its text.
    definitions: Definitions,
    /// What the functions take that PostgreSQL brings.
    builtin: HashMap<Box<str>, Vec<Signature>>,
}

/// A row does not have the columns that its query asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a row of the catalogue query {0:?} is not as expected")]
pub struct BadRow(pub CatalogueQuery);

impl CatalogueBuilder {
    pub(super) fn new(builtin: Arc<Builtin>) -> Self {
        let catalogue = Catalogue::over(builtin);
        CatalogueBuilder { catalogue, definitions: Definitions::default(), builtin: HashMap::new() }
    }

    /// Takes one row of the answer to `query`, its columns as text.
    ///
    /// # Errors
    /// A column is missing, or NULL where the query cannot answer so.
    pub fn add(&mut self, query: CatalogueQuery, row: &[Option<&str>]) -> Result<(), BadRow> {
        match (query, row) {
            (CatalogueQuery::Functions, row) => self.add_function(row).ok_or(BadRow(query))?,
            (CatalogueQuery::Relations, &[Some(schema), Some(name), Some(kind), definition]) => {
                self.relation(schema, name, kind, definition);
            }
            (CatalogueQuery::Operators, &[Some(schema), Some(name), Some(query)]) => {
                let of = Of::Operator { schema: schema.into(), name: name.into() };
                self.definitions.add(Definition::query(of, query));
            }
            (CatalogueQuery::Types, &[Some(schema), Some(name), Some(kind), Some(query)]) => {
                let (schema, name) = (schema.into(), name.into());
                let of = if kind == "row" { Of::Row { schema, name } } else { Of::Type { schema, name } };
                self.definitions.add(Definition::query(of, query));
            }
            (CatalogueQuery::Writes, &[Some(schema), Some(name), Some(text)]) => {
                let of = Of::Write { schema: schema.into(), name: name.into() };
                self.definitions.add(Definition::query(of, text));
            }
            (CatalogueQuery::Writes, &[None, None, Some(text)]) => {
                self.definitions.add(Definition::query(Of::Ddl, text));
            }
            (CatalogueQuery::Names, &[Some(schema), Some(name), Some(kind)]) => {
                let what = Named::kind(kind).ok_or(BadRow(query))?;
                self.catalogue.known.get_or_insert_default().add(what, schema, name);
            }
            (CatalogueQuery::Schemas, &[Some(name), Some(owner), Some(public)]) => {
                let schema = Schema { owner: owner.into(), is_public: public == "true" };
                self.catalogue.schemas.insert(name.into(), schema);
            }
            (CatalogueQuery::Scalars, &[Some(oid), Some(category), Some(preferred)]) => {
                let oid = oid.parse().map_err(|_| BadRow(query))?;
                let &letter = category.as_bytes().first().ok_or(BadRow(query))?;
                self.catalogue.scalars.add_type(oid, Category { letter, preferred: preferred == "true" });
            }
            (CatalogueQuery::Casts, &[Some(source), Some(target), Some(builtin)]) => {
                let oid = |text: &str| text.parse().map_err(|_| BadRow(query));
                match builtin {
                    "true" => self.catalogue.scalars.add_cast(oid(source)?, oid(target)?),
                    _ => self.catalogue.scalars.distrust(oid(source)?),
                }
            }
            (CatalogueQuery::Defaults, &[Some(role), Some("asked"), Some(_), Some(value)]) => {
                self.catalogue.defaults.asked(role, value);
            }
            (CatalogueQuery::Defaults, &[role, Some(scope), Some(setting), Some(value)]) => {
                let scope = if scope == "database" { Scope::Database } else { Scope::Everywhere };
                self.catalogue.defaults.give(role.unwrap_or(""), scope, setting, value);
            }
            _ => return Err(BadRow(query)),
        }
        Ok(())
    }

    /// `None`: as [`add`](Self::add)'s error.
    fn add_function(&mut self, row: &[Option<&str>]) -> Option<()> {
        let &[schema, name, volatile, language, arguments, extension, field, body, types, defaults] = row else {
            return None;
        };
        let signature = Signature::parse(arguments?)?;
        let promise = if volatile? == "true" { Promise::Nothing } else { Promise::NoWrites };
        let types = types.unwrap_or("");
        let origin = Origin { promise, language: language?, signature, extension, body, types, defaults };
        self.function(schema?, name?, field == Some("true"), origin);
        Some(())
    }

    fn function(&mut self, schema: &str, name: &str, is_field: bool, origin: Origin<'_>) {
        let catalogue = &mut self.catalogue;
        if schema == BUILTIN_SCHEMA && catalogue.builtin.function(name).is_some() {
            return self.builtin.entry(name.into()).or_default().push(origin.signature);
        }
        let listed = origin.extension.and_then(|extension| catalogue.builtin.of_extension(extension, name));
        for name in origin.body.map(placeholders).into_iter().flatten() {
            if catalogue.placeholders.len() < MAX_PLACEHOLDERS {
                catalogue.placeholders.insert(name);
            }
        }
        let overloads = catalogue.functions.entry(name.into()).or_default();
        let overload = overloads.len();
        let of = || Of::Function { schema: schema.into(), name: name.into(), overload, is_field };
        if let Some(defaults) = origin.defaults {
            self.definitions.add(Definition::query(of(), defaults));
        }
        let nature = match (listed, origin.body) {
            (Some(nature), _) => nature,
            // Judged by its text in the end.
            (None, Some(body)) => {
                self.definitions.add(Definition {
                    of: of(),
                    text: body.into(),
                    language: Language::named(origin.language),
                    promise: origin.promise,
                    types: origin.types.lines().map(Into::into).collect(),
                });
                Nature::Safe
            }
            // What it does is not known, nor whether it tells of the node: its version is newer than the lists.
            (None, None)
                if schema == BUILTIN_SCHEMA && origin.extension.is_none() && !origin.signature.is_internal() =>
            {
                if !catalogue.unlisted.iter().any(|known| **known == *name) {
                    catalogue.unlisted.push(name.into());
                }
                Nature::Primary(Effects::empty())
            }
            (None, None) => match origin.promise {
                Promise::NoWrites => Nature::Safe,
                // A function in C changes no settings on its own; those that do are listed.
                Promise::Nothing => Nature::Primary(Effects::empty()),
            },
        };
        if is_field && let Nature::Primary(effects) = nature {
            add_home(&mut catalogue.fields, schema, name, effects);
        }
        overloads.push(Function { schema: schema.into(), signature: origin.signature, nature });
    }

    fn relation(&mut self, schema: &str, name: &str, kind: &str, definition: Option<&str>) {
        let why = match (kind, definition) {
            ("sequence", _) => "a sequence runs ahead on replicas",
            ("unlogged", _) => "an unlogged table is empty on a replica",
            ("foreign", _) => "a foreign table may be another one on each node",
            ("policy", Some(text)) => {
                return self.defined(schema, name, text, "its row-security policy needs the primary");
            }
            ("cast", Some(text)) => {
                return self.defined(schema, name, text, "the cast of a column needs the primary");
            }
            (_, Some(text)) => return self.defined(schema, name, text, "the view needs the primary"),
            (_, None) => "of a kind that pgpilot does not know",
        };
        self.catalogue.add_relation(schema, name, Hazard { why, effects: Effects::empty() });
    }

    fn defined(&mut self, schema: &str, name: &str, text: &str, why: &'static str) {
        let of = Of::Relation { schema: schema.into(), name: name.into(), why };
        self.definitions.add(Definition::query(of, text));
    }

    /// Judges what is defined by a text: a view is a hazard if its query is, a function if its body is, and so is a
    /// view over either, and so on.
    pub fn finish(mut self, lists: &FunctionLists) -> Catalogue {
        self.describe_namesakes();
        if let Some(known) = &mut self.catalogue.known {
            known.complete();
        }
        self.definitions.judge(self.catalogue, lists)
    }

    /// Of a built-in function it matters what it takes only where others have its name; and so of all others.
    fn describe_namesakes(&mut self) {
        let catalogue = &mut self.catalogue;
        for (name, own) in &mut catalogue.functions {
            let Some(nature) = catalogue.builtin.function(name) else {
                if let [only] = &mut own[..] {
                    only.signature.forget_types();
                }
                continue;
            };
            let signatures = self.builtin.remove(name).into_iter().flatten();
            own.extend(signatures.map(|signature| Function { schema: BUILTIN_SCHEMA.into(), signature, nature }));
        }
    }
}

/// What tells a function's nature.
struct Origin<'a> {
    promise: Promise,
    language: &'a str,
    signature: Signature,
    extension: Option<&'a str>,
    body: Option<&'a str>,
    /// One a line.
    types: &'a str,
    defaults: Option<&'a str>,
}

impl Catalogue {
    pub(super) fn add_relation(&mut self, schema: &str, name: &str, hazard: Hazard) {
        let relations = self.relations.entry(name.into()).or_default();
        match relations.iter_mut().find(|known| *known.schema == *schema && known.hazard.why == hazard.why) {
            Some(known) => known.hazard.effects |= hazard.effects,
            None => relations.push(Relation { schema: schema.into(), hazard }),
        }
    }
}
