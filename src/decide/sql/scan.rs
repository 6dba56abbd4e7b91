//! What the tokens of a query say: the functions it calls, the locks it takes, what it writes.
//!
//! Every call stands in the text as a name before a parenthesis, every lock and every write as a keyword, whatever
//! the grammar around it. So a text without any of these is a read, and no parser is needed to know it; a text where
//! a token may mean more than one thing leaves a [`Doubt`].

use std::borrow::Cow;

use smallvec::SmallVec;

use super::arguments::Arguments;
use super::body::mentioned;
use super::catalogue::{Call, Hidden, Listed, Resolved, Standing};
use super::classify::Facts;
use super::keywords::{self, Grammatical, Lower};
use super::lex::Kind;
use super::placeholders::placeholders;
use super::rows;
use super::settings;
use super::targets::{self, Named};
use super::tokens::Tokens;
use super::types::{Depends, Effects, Reason};

/// What was found. `cause` is certain; the doubts are questions for the parser.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) cause: Option<Cause>,
    pub(super) doubts: Vec<Doubt>,
    pub(super) effects: Effects,
    pub(super) depends: Depends,
    /// Settings that are changed by name.
    pub(super) settings: Vec<Box<str>>,
}

/// Why a query needs the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) reason: Reason,
    pub(super) object: Option<Box<str>>,
    pub(super) effects: Effects,
}

/// What may need the primary, depending on the grammar around a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doubt {
    /// `name (`: the call of a function that nothing is known of, or the column list of an alias.
    Call { schema: Option<Box<str>>, name: Box<str> },
    /// A relation that only the primary answers rightly, or a column of the same name.
    Relation { schema: Option<Box<str>>, name: Box<str> },
    /// A relation that nothing is known of, or what only looks like one.
    Strange { schema: Option<Box<str>>, name: Box<str> },
    /// INSERT, UPDATE, DELETE or MERGE, or a column so named.
    Modification,
}

impl Cause {
    pub(super) fn new(reason: Reason) -> Self {
        Cause { reason, object: None, effects: Effects::empty() }
    }

    pub(super) fn about(reason: Reason, object: impl Into<Box<str>>) -> Self {
        Cause { reason, object: Some(object.into()), effects: Effects::empty() }
    }

    pub(super) fn with(self, effects: Effects) -> Self {
        Cause { effects: self.effects | effects, ..self }
    }
}

/// Looks at every token of `tokens`, a query or a part of one.
pub(super) fn scan(tokens: Tokens<'_>, facts: &Facts<'_>) -> Scan {
    scan_as(Grammar::Query, tokens, facts)
}

/// Looks at every token of a body in PL/pgSQL, where INTO fills variables.
pub(super) fn scan_procedure(tokens: Tokens<'_>, facts: &Facts<'_>) -> Scan {
    scan_as(Grammar::Procedure, tokens, facts)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grammar {
    Query,
    Procedure,
}

fn scan_as(grammar: Grammar, tokens: Tokens<'_>, facts: &Facts<'_>) -> Scan {
    let mut scanner = Scanner {
        grammar,
        tokens,
        facts,
        fills_rows: facts.catalogue.has_row_hazards() && (0..tokens.len()).any(|i| rows::fills(tokens, i)),
        found: Scan::default(),
        keyword_at: None,
        open: Vec::new(),
        closed: None,
    };
    let mut i = 0;
    while let Some(token) = tokens.get(i) {
        i = match token.kind {
            Kind::Word | Kind::Quoted | Kind::UnicodeQuoted => scanner.chain(i),
            Kind::Operator => {
                // `OPERATOR(schema.+)`
                let is_qualified = i > 1 && tokens.is_punctuation(i - 1, b'.');
                let schema = is_qualified.then(|| tokens.name(i - 2)).flatten();
                scanner.operator(schema.as_deref(), tokens.raw(i));
                i + 1
            }
            kind => {
                scanner.group(kind, i);
                i + 1
            }
        };
    }
    scanner.found
}

/// Of a function: it runs a text that it is given, or a view of which it is given the name.
const RUN_ANYTHING: Effects = Effects::SETTINGS.union(Effects::PINS).union(Effects::UNPINS);

struct Scanner<'a, 'f> {
    grammar: Grammar,
    tokens: Tokens<'a>,
    facts: &'f Facts<'f>,
    /// Whether rows of any type may be made of text, and so checked.
    fills_rows: bool,
    found: Scan,
    /// The last word that is no label and no part of a longer name: only such a word can be a keyword.
    keyword_at: Option<usize>,
    /// Where the groups begin that are open; where the one began that was closed last.
    open: Vec<usize>,
    closed: Option<usize>,
}

impl<'a> Scanner<'a, '_> {
    fn group(&mut self, kind: Kind, i: usize) {
        match kind {
            Kind::Punctuation(b'(' | b'[') => self.open.push(i),
            Kind::Punctuation(b')' | b']') => self.closed = self.open.pop(),
            _ => {}
        }
    }

    /// Whether the name at `i` is that of an alias, because it follows a group: `(SELECT ..) name (columns)`. No call
    /// can stand there, but after DISTINCT ON (..) and OPERATOR(..).
    fn follows_group(&self, i: usize) -> bool {
        let after_group = i > 0 && self.tokens.is_punctuation(i - 1, b')');
        let Some(open) = self.closed.filter(|_| after_group && self.grammar == Grammar::Query) else { return false };
        let distinct = open > 1 && self.tokens.is(open - 1, "on") && self.tokens.is(open - 2, "distinct");
        !(distinct || open > 0 && self.tokens.is(open - 1, "operator"))
    }

    /// A name of one or more parts that begins at `start`; returns the index after it.
    fn chain(&mut self, start: usize) -> usize {
        let tokens = self.tokens;
        let mut parts: SmallVec<[usize; 4]> = SmallVec::from_slice(&[start]);
        let (mut last, mut next) = (start, tokens.after_name(start));
        while tokens.is_punctuation(next, b'.') && tokens.is_identifier(next + 1) {
            last = next + 1;
            next = tokens.after_name(last);
            parts.push(last);
        }
        let after_dot = start > 0 && tokens.is_punctuation(start - 1, b'.');
        let after_as = self.follows(start, &["as"]);
        let columns = self.follows(start, &["into"]);
        let opens = self.opens_with(start);
        let alone = last == start && !after_dot;
        if alone && !after_as && tokens.get(start).is_some_and(|t| t.kind == Kind::Word) {
            let word = Lower::new(tokens.raw(start));
            self.keyword(start, word.as_str());
            self.keyword_at = Some(start);
            if keywords::is_never_a_name(word.as_str()) {
                return next;
            }
        }
        if tokens.is_punctuation(next, b'(') {
            let Some(name) = self.name(last) else { return next };
            let schema = if let [.., schema, _] = *parts { self.name(schema) } else { None };
            // `INSERT INTO name (columns)`, `AS name (columns)`, `WITH name (columns)`, `(..) name (columns)`: no calls.
            if !columns && !(alone && (after_as || opens || self.follows_group(start))) {
                self.call(schema.as_deref(), &name, start, next);
            } else if after_as {
                // `CAST(.. AS name (modifiers))`
                self.type_name(None, &name);
            }
        } else {
            self.mention(&parts, after_dot);
        }
        next
    }

    /// The identifier at `i`; one that cannot be read makes the query opaque.
    fn name(&mut self, i: usize) -> Option<Cow<'a, str>> {
        let name = self.tokens.escaped_name(i);
        if name.is_none() {
            self.cause(Cause::about(Reason::Unparsable, self.tokens.raw(i)));
        }
        name
    }

    /// Whether the token before `i` is one of these keywords.
    fn follows(&self, i: usize, keywords: &[&str]) -> bool {
        i > 0 && self.keyword_at == Some(i - 1) && self.tokens.is_any(i - 1, keywords)
    }

    /// Whether the name at `i` is that of the first CTE: `WITH name (columns) AS`.
    fn opens_with(&self, i: usize) -> bool {
        self.follows(i, &["with"]) || self.follows(i, &["recursive"]) && i > 1 && self.tokens.is(i - 2, "with")
    }

    fn keyword(&mut self, i: usize, word: &str) {
        let tokens = self.tokens;
        match word {
            "into" if self.grammar == Grammar::Query && !self.follows(i, &["insert", "merge"]) => {
                let left = into_effects(tokens.from(i + 1)) | self.facts.catalogue.left_by_ddl();
                self.cause(Cause::new(Reason::SelectInto).with(left));
            }
            "for" if tokens.is_any(i + 1, &["update", "share", "no", "key"]) => self.cause(Cause::new(Reason::RowLock)),
            "insert" | "update" | "delete" | "merge" => {
                self.modification(i);
                self.written(i);
            }
            "copy" | "truncate" => self.written(i),
            _ => self.found.effects |= keywords::moment_of_keyword(word),
        }
        if self.facts.catalogue.has_operator_hazards() {
            keywords::operators_behind(word).iter().for_each(|name| self.operator(None, name));
        }
    }

    fn written(&mut self, i: usize) {
        // `FOR UPDATE SKIP LOCKED`, `ON UPDATE CASCADE`
        if self.follows(i, &["for", "key", "on"]) {
            return;
        }
        let (effects, depends) = left_by_writing(self.tokens, i, self.facts);
        self.found.effects |= effects;
        self.found.depends |= depends;
    }

    fn modification(&mut self, i: usize) {
        let tokens = self.tokens;
        if self.follows(i, &["for", "key"]) {
            return;
        }
        let opens_cte = i > 1 && tokens.is_punctuation(i - 1, b'(') && tokens.is_any(i - 2, &["as", "materialized"]);
        if opens_cte {
            self.cause(Cause::new(Reason::DmlInCte).with(Effects::WRITES));
        } else {
            self.doubt(Doubt::Modification);
        }
    }

    /// `schema.name (`, whose parenthesis is at `open`.
    fn call(&mut self, schema: Option<&str>, name: &str, start: usize, open: usize) {
        let Facts { catalogue, overrides, .. } = *self.facts;
        self.type_name(schema, name);
        let plain = schema.is_none() && self.tokens.get(start).is_some_and(|t| t.kind == Kind::Word);
        let previous = Lower::new(if start > 0 { self.tokens.raw(start - 1) } else { "" });
        match keywords::before_parenthesis(name, previous.as_str()) {
            Grammatical::Always if plain => return,
            Grammatical::UnlessDefined if plain && !catalogue.has_own_function(name) => return,
            _ => {}
        }
        if is_temporary_schema(schema) {
            return self.cause(Cause::about(Reason::PrimaryRelation, full_name(schema, name)));
        }
        let is_overloaded = catalogue.is_overloaded(name);
        let arguments = is_overloaded.then(|| Arguments::read(self.tokens, open, &self.facts.asker)).flatten();
        let typed_by = arguments.as_ref().map_or(Depends::empty(), |arguments| arguments.typed_by);
        let call = Call { schema, name, arguments: arguments.as_ref().map(|a| &*a.list), typed_by };
        let Resolved { standing, home, depends } = catalogue.resolve(&call, self.facts.asker.path, overrides);
        self.found.depends |= depends;
        match standing {
            Standing::Safe => self.found.effects |= keywords::moment_of_function(name),
            Standing::Unknown => self.doubt(Doubt::Call { schema: schema.map(Into::into), name: name.into() }),
            Standing::Primary { effects, by } => {
                let special = by == Listed::Not && !catalogue.has_own_function(name);
                match name {
                    "set_config" if special => self.set_config(open),
                    "current_setting" if special => self.current_setting(open),
                    _ => {
                        let reason =
                            if by == Listed::Primary { Reason::ListedFunction } else { Reason::PrimaryFunction };
                        let home = schema.or(home);
                        self.cause(Cause::about(reason, full_name(home, name)).with(effects));
                        if effects.contains(RUN_ANYTHING) {
                            self.run_text();
                        }
                    }
                }
            }
        }
    }

    /// Something runs a text, which may stand here as a string.
    fn run_text(&mut self) {
        let text = self.tokens.source();
        self.found.effects |= mentioned(text);
        self.found.settings.extend(placeholders(text));
        self.found.depends |= Depends::LITERALS;
    }

    fn operator(&mut self, schema: Option<&str>, name: &str) {
        let (catalogue, path) = (self.facts.catalogue, self.facts.asker.path);
        if catalogue.operator_hazard(schema, name, None).is_none() {
            return;
        }
        if schema.is_none() {
            self.found.depends |= Depends::PATH;
        }
        if let Some(Hidden { home, effects }) = catalogue.operator_hazard(schema, name, path) {
            self.hidden_call(format!("operator {home}.{name}"), effects);
        }
    }

    /// A name that may be a type's.
    fn type_name(&mut self, schema: Option<&str>, name: &str) {
        let (catalogue, path) = (self.facts.catalogue, self.facts.asker.path);
        if !catalogue.has_type_hazards() {
            return;
        }
        if schema.is_none() {
            let meant = keywords::types_behind(name).iter();
            for meant in meant.filter_map(|meant| catalogue.type_hazard(Some("pg_catalog"), meant, None)) {
                self.hidden_call(format!("type {}.{name}", meant.home), meant.effects);
            }
        }
        if catalogue.type_hazard(schema, name, None).is_none() {
            return;
        }
        if schema.is_none() {
            self.found.depends |= Depends::PATH;
        }
        if let Some(Hidden { home, effects }) = catalogue.type_hazard(schema, name, path) {
            self.hidden_call(format!("type {home}.{name}"), effects);
        }
    }

    fn hidden_call(&mut self, object: String, effects: Effects) {
        self.cause(Cause::about(Reason::PrimaryFunction, object).with(effects | Effects::SETTINGS));
    }

    /// `set_config('name', value, is_local)`: local ones are gone at the end of the transaction; others leave a
    /// setting behind, whose name is known if it stands there.
    fn set_config(&mut self, open: usize) {
        let tokens = self.tokens;
        let end = tokens.after_group(open).saturating_sub(1);
        let name = tokens.string(open + 1).filter(|_| tokens.is_punctuation(open + 2, b','));
        let name = name.map(|n| n.to_ascii_lowercase());
        let scope = if end > open + 2 && tokens.is_punctuation(end - 2, b',') { tokens.truth(end - 1) } else { None };
        match (name, scope) {
            // What it asks for holds for its transaction, and only the primary meets whatever that is.
            (Some(name), Some(true)) if settings::own(&name).is_some() => {
                self.cause(Cause::about(Reason::SessionState, name));
            }
            (Some(name), Some(true)) if !settings::is_transaction_property(&name) => {}
            (Some(name), Some(false)) => {
                self.cause(Cause::about(Reason::SessionState, name.clone()));
                self.found.settings.push(name.into());
            }
            (name, _) => {
                let object = name.as_deref().unwrap_or("set_config");
                self.cause(Cause::about(Reason::PrimaryFunction, object).with(Effects::SETTINGS));
            }
        }
    }

    /// `current_setting('name')`: as SHOW.
    fn current_setting(&mut self, open: usize) {
        let tokens = self.tokens;
        // A policy's text comes from the server, which writes `'name'::text`.
        let is_cast = tokens.raw(open + 2) == "::" && tokens.word(open + 3) == "text";
        let behind = if is_cast { open + 4 } else { open + 2 };
        let whole = tokens.is_punctuation(behind, b',') || tokens.is_punctuation(behind, b')');
        let name = tokens.string(open + 1).filter(|_| whole);
        if !name.is_some_and(|n| settings::is_same_everywhere(&n.to_ascii_lowercase())) {
            self.cause(Cause::about(Reason::PrimaryFunction, "current_setting"));
        }
    }

    /// A name of one or more parts that is not called: a relation, a column, a type, a function as a field.
    fn mention(&mut self, parts: &[usize], after_dot: bool) {
        let catalogue = self.facts.catalogue;
        let mut schema: Option<Cow<'a, str>> = None;
        for (n, &i) in parts.iter().enumerate() {
            let Some(name) = self.name(i) else { return };
            let is_first = n == 0 && !after_dot;
            let following = parts.get(n + 1).copied();
            if is_first
                && let Some(following) = following
                && is_temporary_schema(Some(&name))
            {
                let object = full_name(Some(&name), &self.name(following).unwrap_or_default());
                return self.cause(Cause::about(Reason::PrimaryRelation, object));
            }
            if !is_first
                && following.is_none()
                && let Some(Hidden { home, effects }) = catalogue.field_hazard(&name)
            {
                self.hidden_call(full_name(Some(home), &name), effects);
            }
            self.type_name(schema.as_deref(), &name);
            if let Some(Hidden { home, effects }) = catalogue.row_hazard(schema.as_deref(), &name)
                && (following.is_none() && self.fills_rows || rows::is_meant(self.tokens, parts, n))
            {
                self.hidden_call(format!("type {home}.{name}"), effects);
            }
            // `a.b` may be schema and relation, or relation and column; the relation is then named in FROM as well.
            let alone = is_first && parts.len() == 1;
            if (alone || schema.is_some()) && catalogue.relation(schema.as_deref(), &name, None).is_some() {
                self.relation(schema.as_deref(), &name);
            }
            schema = Some(name);
        }
    }

    /// A name that may be that of a relation which only the primary answers rightly.
    fn relation(&mut self, schema: Option<&str>, name: &str) {
        if schema.is_none() {
            self.found.depends |= Depends::PATH;
        }
        if self.facts.catalogue.relation(schema, name, self.facts.asker.path).is_some() {
            self.doubt(Doubt::Relation { schema: schema.map(Into::into), name: name.into() });
        }
    }

    fn cause(&mut self, cause: Cause) {
        self.found.effects |= cause.effects;
        self.found.cause.get_or_insert(cause);
    }

    fn doubt(&mut self, doubt: Doubt) {
        if !self.found.doubts.contains(&doubt) {
            self.found.doubts.push(doubt);
        }
    }
}

/// What is run besides the statement whose keyword is at `i`, by the triggers and the like of what it writes to.
pub(super) fn left_by_writing(tokens: Tokens<'_>, i: usize, facts: &Facts<'_>) -> (Effects, Depends) {
    let Facts { catalogue, asker, .. } = *facts;
    let (mut left, mut depends) = (Effects::empty(), Depends::empty());
    for Named { schema, name } in targets::of(tokens, i) {
        let schema = schema.as_deref();
        if catalogue.is_strange(schema, &name, asker.path) {
            left |= Effects::STRANGE_RELATION;
            depends |= Depends::STRANGERS;
        }
        if catalogue.left_by_write(schema, &name, None).is_none() {
            continue;
        }
        if schema.is_none() {
            depends |= Depends::PATH;
        }
        left |= catalogue.left_by_write(schema, &name, asker.path).unwrap_or_default();
    }
    (left, depends)
}

/// What `INTO ..` makes.
pub(super) fn into_effects(target: Tokens<'_>) -> Effects {
    let kind = if target.is_any(0, &["local", "global"]) { 1 } else { 0 };
    let temporary =
        target.is_any(kind, &["temp", "temporary"]) || is_temporary_schema(target.escaped_name(0).as_deref());
    Effects::WRITES | if temporary { Effects::PINS } else { Effects::CATALOGUE }
}

/// Whether this is the schema of a session's temporary objects.
pub(super) fn is_temporary_schema(schema: Option<&str>) -> bool {
    schema.is_some_and(|s| s == "pg_temp" || s.starts_with("pg_temp_"))
}

pub(super) fn full_name(schema: Option<&str>, name: &str) -> String {
    schema.map_or_else(|| name.to_owned(), |schema| format!("{schema}.{name}"))
}
