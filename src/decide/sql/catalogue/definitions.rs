//! What is defined by a text: views, policies, domains, operators, functions with a body. Each is innocent until its
//! text shows otherwise; then so is everything that mentions it looked at again.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::{Catalogue, FunctionLists, Hazard, Homes, Nature};
use crate::decide::sql::body::{self, Language, Promise};
use crate::decide::sql::classify::Facts;
use crate::decide::sql::keywords::{self, Lower};
use crate::decide::sql::lex::{Lexer, Token};
use crate::decide::sql::tokens::Tokens;
use crate::decide::sql::types::Effects;

#[derive(Debug, Default)]
pub(super) struct Definitions {
    all: Vec<Definition>,
}

#[derive(Debug)]
pub(super) struct Definition {
    pub(super) of: Of,
    pub(super) text: Box<str>,
    pub(super) language: Language,
    pub(super) promise: Promise,
    /// Of its arguments and its result.
    pub(super) types: Vec<Box<str>>,
}

/// What a text defines.
#[derive(Debug)]
pub(super) enum Of {
    /// `overload`: which one of this name, in the catalogue's order. `is_field`: it can be called as `row.name`.
    Function {
        schema: Box<str>,
        name: Box<str>,
        overload: usize,
        is_field: bool,
    },
    Relation {
        schema: Box<str>,
        name: Box<str>,
        why: &'static str,
    },
    Operator {
        schema: Box<str>,
        name: Box<str>,
    },
    Type {
        schema: Box<str>,
        name: Box<str>,
    },
    /// The row type of a table.
    Row {
        schema: Box<str>,
        name: Box<str>,
    },
    /// What writing to a relation runs besides.
    Write {
        schema: Box<str>,
        name: Box<str>,
    },
    /// What DDL runs besides.
    Ddl,
}

impl Definition {
    pub(super) fn query(of: Of, text: &str) -> Self {
        Definition { of, text: text.into(), language: Language::Sql, promise: Promise::Nothing, types: Vec::new() }
    }

    /// The name that others mention.
    fn name(&self) -> &str {
        match &self.of {
            Of::Function { name, .. }
            | Of::Relation { name, .. }
            | Of::Operator { name, .. }
            | Of::Type { name, .. }
            | Of::Row { name, .. }
            | Of::Write { name, .. } => name,
            Of::Ddl => DDL,
        }
    }

    /// What its verdict may depend on, by name.
    fn mentions(&self, visit: &mut dyn FnMut(&str)) {
        mentioned_in(&self.text, DEEPEST, visit);
        self.types.iter().for_each(|name| visit(name));
    }

    /// What it leaves behind, if it needs the primary.
    fn hazard(&self, facts: &Facts<'_>) -> Option<Effects> {
        let by_type = self
            .types
            .iter()
            .filter_map(|name| facts.catalogue.type_hazard(None, name, None))
            .map(|found| found.effects);
        let by_type = by_type.reduce(|all, effects| all | effects).map(|effects| effects | Effects::SETTINGS);
        let by_text = match self.of {
            Of::Function { .. } => body::hazard(&self.text, self.language, self.promise, facts),
            Of::Write { .. } | Of::Ddl => body::left_by(&self.text, facts),
            _ => body::query_hazard(&self.text, facts),
        };
        match (by_type, by_text) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or_default() | b.unwrap_or_default()),
        }
    }
}

impl Definitions {
    pub(super) fn add(&mut self, definition: Definition) {
        self.all.push(definition);
    }

    pub(super) fn judge(self, mut catalogue: Catalogue, lists: &FunctionLists) -> Catalogue {
        let names: HashSet<&str> = self.all.iter().map(Definition::name).collect();
        let mut mentioned: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, definition) in self.all.iter().enumerate() {
            definition.mentions(&mut |name| {
                let Some(name) = names.get(name) else { return };
                let by = mentioned.entry(name).or_default();
                if by.last() != Some(&index) {
                    by.push(index);
                }
            });
        }
        let mut found: Vec<Option<Effects>> = vec![None; self.all.len()];
        let mut due: Vec<usize> = (0..self.all.len()).rev().collect();
        let mut is_due = vec![true; self.all.len()];
        // Each time round, something is a hazard that was none, or has one effect more: it ends.
        while let Some(index) = due.pop() {
            is_due[index] = false;
            let definition = &self.all[index];
            let facts = Facts::new(&catalogue, lists, MAX_DEFINITION);
            let Some(effects) = definition.hazard(&facts) else { continue };
            if found[index].is_some_and(|known| known.contains(effects)) {
                continue;
            }
            found[index] = Some(found[index].unwrap_or_default() | effects);
            catalogue.convict(&definition.of, effects);
            for &other in mentioned.get(definition.name()).into_iter().flatten() {
                if !is_due[other] {
                    is_due[other] = true;
                    due.push(other);
                }
            }
        }
        catalogue
    }
}

/// In the place of a name: what DDL runs besides has none.
const DDL: &str = "";

/// How deep strings are looked into: statements that are put together, and a DO in one.
const DEEPEST: usize = 2;

/// The names in a text, as the server understands them, those that its words stand for, and all these of its strings.
fn mentioned_in(text: &str, depth: usize, visit: &mut dyn FnMut(&str)) {
    let list: Vec<Token> = Lexer::new(text).map_while(Result::ok).collect();
    let tokens = Tokens::new(text, &list);
    for i in 0..tokens.len() {
        let name = tokens.escaped_name(i).unwrap_or(Cow::Borrowed(tokens.raw(i)));
        visit(&name);
        let lower = Lower::new(&name);
        let behind = keywords::types_behind(lower.as_str()).iter().chain(keywords::operators_behind(lower.as_str()));
        behind.for_each(|name| visit(name));
        if keywords::begins_ddl(lower.as_str()) {
            visit(DDL);
        }
        if depth > 0
            && let Some(string) = tokens.string(i)
        {
            mentioned_in(&string, depth - 1, visit);
        }
    }
}

/// Longest definition that is looked into; a longer one counts as needing the primary.
const MAX_DEFINITION: usize = 256 * 1024;

impl Catalogue {
    fn convict(&mut self, of: &Of, effects: Effects) {
        match of {
            Of::Function { schema, name, overload, is_field } => {
                if let Some(function) = self.functions.get_mut(name).and_then(|all| all.get_mut(*overload)) {
                    let before = match function.nature {
                        Nature::Primary(before) => before,
                        Nature::Safe => Effects::empty(),
                    };
                    function.nature = Nature::Primary(before | effects);
                }
                if *is_field {
                    add_home(&mut self.fields, schema, name, effects);
                }
            }
            Of::Relation { schema, name, why } => self.add_relation(schema, name, Hazard { why, effects }),
            Of::Operator { schema, name } => add_home(&mut self.operators, schema, name, effects),
            Of::Type { schema, name } => add_home(&mut self.types, schema, name, effects),
            Of::Row { schema, name } => add_home(&mut self.rows, schema, name, effects),
            Of::Write { schema, name } => add_home(&mut self.writes, schema, name, effects),
            Of::Ddl => self.ddl |= effects,
        }
    }
}

pub(super) fn add_home(homes: &mut Homes, schema: &str, name: &str, effects: Effects) {
    let homes = homes.entry(name.into()).or_default();
    match homes.iter_mut().find(|(home, _)| **home == *schema) {
        Some((_, known)) => *known |= effects,
        None => homes.push((schema.into(), effects)),
    }
}
