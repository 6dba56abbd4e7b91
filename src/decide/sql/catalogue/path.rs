//! The `search_path`: where a name without a schema is looked for.

use super::{BUILTIN_SCHEMA, Catalogue};
use crate::decide::sql::lex::{Kind, Lexer, Token};
use crate::decide::sql::names;

/// The schemas in which a session looks for names, in order (`src/backend/catalog/namespace.c`): `pg_catalog` before all
/// others where it is not named, those that do not exist left out. The schema of temporary objects is not among them: no
/// function is looked for there, and a session that has temporary tables or types keeps its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchPath {
    schemas: Vec<(Box<str>, Usage)>,
}

/// Whether the server looks into a schema: only if the role may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    /// Everybody may use it, or the role owns it.
    Certain,
    /// It depends on privileges that pgpilot does not follow.
    Possible,
}

/// A schema, and who surely may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Schema {
    pub(super) owner: Box<str>,
    pub(super) is_public: bool,
}

/// How early a schema is looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) rank: usize,
    pub(super) usage: Usage,
}

impl SearchPath {
    /// What the setting means for `role`, the one that statements run as; `None` if that cannot be told.
    pub fn new(setting: &str, role: &str, catalogue: &Catalogue) -> Option<SearchPath> {
        let mut schemas: Vec<(Box<str>, Usage)> = Vec::new();
        for name in names_in(setting)? {
            if name.starts_with("pg_temp_") {
                return None;
            }
            let name = if name == "$user" { role } else { &*name };
            if let Some(schema) = catalogue.schemas.get(name)
                && schemas.iter().all(|(known, _)| **known != *name)
            {
                let usage = if schema.is_public || *schema.owner == *role { Usage::Certain } else { Usage::Possible };
                schemas.push((name.into(), usage));
            }
        }
        if !catalogue.schemas.contains_key(BUILTIN_SCHEMA) {
            return None;
        }
        if schemas.iter().all(|(name, _)| **name != *BUILTIN_SCHEMA) {
            schemas.insert(0, (BUILTIN_SCHEMA.into(), Usage::Certain));
        }
        Some(SearchPath { schemas })
    }

    /// Where the schema stands in it; `None`: nowhere.
    pub(super) fn place(&self, schema: &str) -> Option<Place> {
        let rank = self.schemas.iter().position(|(name, _)| **name == *schema)?;
        Some(Place { rank, usage: self.schemas[rank].1 })
    }

    /// Whether nothing can stand before what PostgreSQL itself brings.
    pub(in crate::decide::sql) fn begins_with_builtin(&self) -> bool {
        self.schemas.first().is_some_and(|(name, _)| **name == *BUILTIN_SCHEMA)
    }

    /// Paths of the same key mean the same.
    pub fn key(&self) -> String {
        self.schemas.iter().fold(String::new(), |mut key, (name, usage)| {
            key.extend([&**name, if *usage == Usage::Certain { "!" } else { "?" }, "\0"]);
            key
        })
    }
}

/// A list of identifiers, as the setting is printed. `None` if it is none.
fn names_in(list: &str) -> Option<Vec<String>> {
    let tokens: Vec<Token> = Lexer::new(list).collect::<Result<_, _>>().ok()?;
    let mut names = Vec::new();
    let mut expects_name = true;
    for token in tokens {
        match token.kind {
            Kind::Word | Kind::Quoted if expects_name => names.push(names::identifier(list, token)?.into_owned()),
            // `$user` needs quotes; but the server prints a part as it was written.
            Kind::Punctuation(b',') if !expects_name => {}
            _ => return None,
        }
        expects_name = !expects_name;
    }
    // Empty: nothing but `pg_catalog`.
    let complete = !expects_name || names.is_empty();
    names.retain(|name| name != "pg_temp" && !name.is_empty());
    complete.then_some(names)
}
