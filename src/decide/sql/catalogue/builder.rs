//! From a server's rows to a catalogue.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::builtin::Builtin;
use super::{BUILTIN_SCHEMA, Catalogue, CatalogueQuery, Function, FunctionLists, Hazard, Nature, Relation};
use crate::decide::sql::classify::{Facts, classify};
use crate::decide::sql::types::{Effects, Intent};

/// Collects the answers to all of [`CatalogueQuery::ALL`].
#[derive(Debug)]
pub struct CatalogueBuilder {
    catalogue: Catalogue,
    /// Views and policies, whose text decides.
    queries: Vec<Defined>,
    /// Domains, likewise: name and constraint.
    domains: Vec<(Box<str>, Box<str>)>,
}

#[derive(Debug)]
struct Defined {
    schema: Box<str>,
    name: Box<str>,
    text: Box<str>,
    why: &'static str,
}

/// A row does not have the columns that its query asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a row of the catalogue query {0:?} is not as expected")]
pub struct BadRow(pub CatalogueQuery);

/// Longest definition of a view that is looked into; a longer one counts as needing the primary.
const MAX_DEFINITION: usize = 256 * 1024;

impl CatalogueBuilder {
    pub(super) fn new(builtin: Arc<Builtin>) -> Self {
        let catalogue = Catalogue {
            builtin,
            functions: HashMap::new(),
            relations: HashMap::new(),
            operators: HashSet::new(),
            types: HashSet::new(),
            fields: HashSet::new(),
        };
        CatalogueBuilder { catalogue, queries: Vec::new(), domains: Vec::new() }
    }

    /// Takes one row of the answer to `query`, its columns as text.
    ///
    /// # Errors
    /// A column is missing, or NULL where the query cannot answer so.
    pub fn add(&mut self, query: CatalogueQuery, row: &[Option<&str>]) -> Result<(), BadRow> {
        match (query, row) {
            (
                CatalogueQuery::Functions,
                &[Some(schema), Some(name), Some(volatile), Some(languages), words, extension, field],
            ) => {
                let origin = Origin { volatile: volatile == "true", languages, words: words.unwrap_or(""), extension };
                let can_be_field = field == Some("true");
                self.function(schema, name, &origin, can_be_field);
            }
            (CatalogueQuery::Relations, &[Some(schema), Some(name), Some(kind), definition]) => {
                self.relation(schema, name, kind, definition);
            }
            (CatalogueQuery::Operators, &[Some(name)]) => {
                self.catalogue.operators.insert(name.into());
            }
            (CatalogueQuery::Types, &[Some(name), None]) => {
                self.catalogue.types.insert(name.into());
            }
            (CatalogueQuery::Types, &[Some(name), Some(expression)]) => {
                self.domains.push((name.into(), expression.into()))
            }
            _ => return Err(BadRow(query)),
        }
        Ok(())
    }

    fn function(&mut self, schema: &str, name: &str, origin: &Origin<'_>, can_be_field: bool) {
        let catalogue = &mut self.catalogue;
        if schema == BUILTIN_SCHEMA && catalogue.builtin.function(name).is_some() {
            return;
        }
        let listed = origin.extension.and_then(|extension| catalogue.builtin.of_extension(extension, name));
        let nature = listed.unwrap_or_else(|| origin.nature());
        if can_be_field && nature != Nature::Safe {
            catalogue.fields.insert(name.into());
        }
        catalogue.functions.entry(name.into()).or_default().push(Function { schema: schema.into(), nature });
    }

    fn relation(&mut self, schema: &str, name: &str, kind: &str, definition: Option<&str>) {
        let why = match (kind, definition) {
            ("sequence", _) => "a sequence runs ahead on replicas",
            ("unlogged", _) => "an unlogged table is empty on a replica",
            ("file", _) => "a file of the node",
            ("policy", Some(text)) => {
                return self.defined(schema, name, text, "its row-security policy needs the primary");
            }
            (_, Some(text)) => return self.defined(schema, name, text, "the view needs the primary"),
            (_, None) => "of a kind that pgpilot does not know",
        };
        self.catalogue.add_relation(schema, name, Hazard { why, effects: Effects::empty() });
    }

    fn defined(&mut self, schema: &str, name: &str, text: &str, why: &'static str) {
        self.queries.push(Defined { schema: schema.into(), name: name.into(), text: text.into(), why });
    }

    /// Judges what is defined by a query: a view is a hazard if its query is, and so is a view over it, and so on.
    pub fn finish(mut self, lists: &FunctionLists) -> Catalogue {
        loop {
            let mut hazards = Vec::new();
            self.queries.retain(|query| {
                let effects = effects_of(&self.catalogue, lists, &query.text);
                hazards.extend(
                    effects
                        .map(|effects| (query.schema.clone(), query.name.clone(), Hazard { why: query.why, effects })),
                );
                effects.is_none()
            });
            let mut types = Vec::new();
            self.domains.retain(|(name, text)| {
                let hazard = effects_of(&self.catalogue, lists, text).is_some();
                types.extend(hazard.then(|| name.clone()));
                !hazard
            });
            if hazards.is_empty() && types.is_empty() {
                return self.catalogue;
            }
            for (schema, name, hazard) in hazards {
                self.catalogue.add_relation(&schema, &name, hazard);
            }
            self.catalogue.types.extend(types);
        }
    }
}

/// What a definition's query leaves behind, if it needs the primary.
fn effects_of(catalogue: &Catalogue, lists: &FunctionLists, text: &str) -> Option<Effects> {
    let facts = Facts { catalogue, overrides: lists, max_parse: MAX_DEFINITION };
    let classified = classify(text, &facts);
    let mut hazards = classified.statements.iter().filter(|verdict| verdict.intent != Intent::Read).peekable();
    hazards.peek()?;
    // A setting that a view changes by name is changed unseen.
    Some(hazards.fold(Effects::empty(), |all, verdict| {
        all | verdict.effects | if verdict.settings.is_empty() { Effects::empty() } else { Effects::SETTINGS }
    }))
}

/// What tells a function's nature.
struct Origin<'a> {
    volatile: bool,
    languages: &'a str,
    words: &'a str,
    extension: Option<&'a str>,
}

impl Origin<'_> {
    fn nature(&self) -> Nature {
        let mentioned = self.words.split_ascii_whitespace().fold(Effects::empty(), |all, word| {
            all | match word {
                "set_config" => Effects::SETTINGS,
                "nextval" | "setval" | "txid_current" | "pg_current_xact_id" | "pg_notify" => Effects::WRITES,
                "currval" | "lastval" => Effects::SEQUENCE_STATE,
                _ => Effects::PINS,
            }
        });
        if !self.volatile && mentioned.is_empty() {
            return Nature::Safe;
        }
        // A function in C changes no settings on its own; those that do are listed. Any other volatile one may call
        // one that does.
        let compiled = self.languages.split_ascii_whitespace().all(|language| matches!(language, "c" | "internal"));
        let unseen = if compiled { Effects::empty() } else { Effects::SETTINGS };
        Nature::Primary(mentioned.difference(Effects::WRITES) | unseen)
    }
}

impl Catalogue {
    fn add_relation(&mut self, schema: &str, name: &str, hazard: Hazard) {
        self.relations.entry(name.into()).or_default().push(Relation { schema: schema.into(), hazard });
    }
}
