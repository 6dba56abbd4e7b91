//! The second opinion: `sqlparser` settles what the tokens leave in doubt.
//!
//! Its tree is only ever used to dispel a doubt, and only where it says positively what the doubtful token is. What
//! it does not understand stays in doubt.

use std::collections::HashSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, Ident, ObjectName, Query, Select, SetExpr, Statement, TableAlias, TableFactor, Visit, Visitor,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::classify::Facts;
use super::lex::Kind;
use super::scan::{Cause, Doubt, full_name};
use super::tokens::Tokens;
use super::types::{Effects, Reason};

/// The parser's own limit on its recursion, whose time is exponential for some texts.
const MAX_RECURSION: usize = 30;

/// Groups nested deeper are not parsed: not every way of the parser into a group counts against its own limit.
const MAX_NESTING: usize = 12;

/// Longer chains (`1 + 1 + ..`) are not parsed: they become trees whose height no recursion limit bounds, and which
/// must be walked and dropped.
const MAX_CHAIN: usize = 1_500;

/// Longer statements are not parsed: they would want too large a stack.
const MAX_SOURCE: usize = 128 * 1024;

/// Texts with more joins are not parsed: joins whose conditions come later nest, which no recursion limit of the parser counts.
const MAX_JOINS: usize = 200;

/// What the parser, the visitor and the tree's destructor take of the stack, and more: up to the parser's recursion limit,
/// for each join around another, and for each byte, whatever it means.
const STACK: usize = 640 * KIB;
const STACK_PER_JOIN: usize = 10 * KIB;
const STACK_PER_BYTE: usize = KIB / 8;

/// Without optimisation, the parser's frames are ten times as large.
const KIB: usize = if cfg!(debug_assertions) { 10 * 1024 } else { 1024 };

/// Judges the doubts about one statement: those that hold, as causes. What the parser does not understand holds.
pub(super) fn judge(tokens: Tokens<'_>, doubts: &[Doubt], facts: &Facts<'_>) -> Vec<Cause> {
    if doubts.is_empty() {
        return Vec::new();
    }
    let findings = if is_parsable(tokens) { find(tokens.source()) } else { None };
    match findings {
        Some(findings) => doubts.iter().filter_map(|doubt| findings.confirm(doubt, facts)).collect(),
        None => doubts.iter().map(|doubt| unsettled(doubt, facts)).collect(),
    }
}

/// What the parser finds in one statement. Whatever the text, the stack suffices: where what is left of this one does not,
/// another one is taken.
fn find(text: &str) -> Option<Findings> {
    let joins = joins_in(text);
    if text.len() > MAX_SOURCE || joins > MAX_JOINS {
        return None;
    }
    let stack = STACK + joins * STACK_PER_JOIN + text.len() * STACK_PER_BYTE;
    stacker::maybe_grow(stack, stack, || {
        let statement = parse(text)?;
        let mut findings = Findings::default();
        let _: ControlFlow<()> = statement.visit(&mut findings);
        Some(findings)
    })
}

/// At least as many as the parser can find, however it takes the text apart: it folds letters as Unicode does (`joın`).
fn joins_in(text: &str) -> usize {
    text.as_bytes().windows(2).filter(|pair| pair.eq_ignore_ascii_case(b"jo")).count()
}

fn unsettled(doubt: &Doubt, facts: &Facts<'_>) -> Cause {
    match doubt {
        Doubt::Call { schema, name } => unknown_function(schema.as_deref(), name),
        Doubt::Relation { schema, name } => {
            let effects = facts
                .catalogue
                .relation(schema.as_deref(), name, None)
                .map_or(Effects::empty(), |hazard| hazard.effects);
            let home = schema.as_deref().or_else(|| facts.catalogue.home_of_relation(name));
            Cause::about(Reason::PrimaryRelation, full_name(home, name)).with(effects)
        }
        Doubt::Strange { schema, name } => strange(schema.as_deref(), name),
        Doubt::Modification => Cause::new(Reason::Unparsable),
    }
}

fn unknown_function(schema: Option<&str>, name: &str) -> Cause {
    Cause::about(Reason::UnknownFunction, full_name(schema, name)).with(Effects::SETTINGS)
}

fn strange(schema: Option<&str>, name: &str) -> Cause {
    Cause::about(Reason::UnknownRelation, full_name(schema, name)).with(Effects::STRANGE_RELATION)
}

/// One statement and nothing after it.
fn parse(text: &str) -> Option<Statement> {
    let mut parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(MAX_RECURSION).try_with_sql(text).ok()?;
    let statement = parser.parse_statement().ok()?;
    // `SELECT 1 END ..` and the like: what the parser left over, it did not understand.
    (parser.peek_token().token == sqlparser::tokenizer::Token::EOF).then_some(statement)
}

/// Whether the tree stays low. What bounds its height: the tokens of the longest list element, plus those of the groups
/// inside it.
fn is_parsable(tokens: Tokens<'_>) -> bool {
    #[derive(Default, Clone, Copy)]
    struct Level {
        /// Tokens since the last comma.
        chain: usize,
        /// The highest group since then.
        inner: usize,
        /// The highest element before it.
        done: usize,
    }
    let mut open = vec![Level::default()];
    let close = |level: Level| level.done.max(level.chain + level.inner);
    for i in 0..tokens.len() {
        let kind = tokens.get(i).map(|t| t.kind);
        match kind {
            Some(Kind::Punctuation(b'(' | b'[' | b'{')) if open.len() > MAX_NESTING => return false,
            Some(Kind::Punctuation(b'(' | b'[' | b'{')) => open.push(Level::default()),
            Some(Kind::Punctuation(b')' | b']' | b'}')) if open.len() > 1 => {
                let level = open.pop().unwrap_or_default();
                if let Some(outer) = open.last_mut() {
                    outer.inner = outer.inner.max(close(level));
                    outer.chain += 1;
                }
            }
            _ => {
                if let Some(level) = open.last_mut() {
                    let comma = kind == Some(Kind::Punctuation(b','));
                    *level = if comma {
                        Level { done: close(*level), ..Level::default() }
                    } else {
                        Level { chain: level.chain + 1, ..*level }
                    };
                }
            }
        }
    }
    open.into_iter().map(close).sum::<usize>() <= MAX_CHAIN
}

/// What stands in a tree. Names as the server understands them.
#[derive(Debug, Default)]
struct Findings {
    calls: HashSet<String>,
    /// Names of aliases and common table expressions: they may stand before a parenthesis.
    aliases: HashSet<String>,
    relations: Vec<(Option<String>, String)>,
    /// There are relations that the parser does not name as they are: it takes ONLY for a name, and forgets whether that
    /// of `TABLE name` was quoted.
    hides_relations: bool,
    modification: Option<Reason>,
    /// How many queries are open around the current node.
    depth: usize,
}

impl Findings {
    fn confirm(&self, doubt: &Doubt, facts: &Facts<'_>) -> Option<Cause> {
        match doubt {
            Doubt::Call { schema, name } => {
                let alias = schema.is_none() && self.aliases.contains(&**name) && !self.calls.contains(&**name);
                (!alias).then(|| unknown_function(schema.as_deref(), name))
            }
            Doubt::Relation { .. } if self.hides_relations => Some(unsettled(doubt, facts)),
            Doubt::Relation { .. } => self.relations.iter().find_map(|(schema, name)| {
                let hazard = facts.catalogue.relation(schema.as_deref(), name, facts.asker.path)?;
                let home = schema.as_deref().or_else(|| facts.catalogue.home_of_relation(name));
                Some(Cause::about(Reason::PrimaryRelation, full_name(home, name)).with(hazard.effects))
            }),
            Doubt::Strange { .. } if self.hides_relations => Some(unsettled(doubt, facts)),
            Doubt::Strange { schema, name } => {
                let is_it =
                    |found: &(Option<String>, String)| found.0.as_deref() == schema.as_deref() && *found.1 == **name;
                self.relations.iter().any(is_it).then(|| strange(schema.as_deref(), name))
            }
            Doubt::Modification => self.modification.map(|reason| Cause::new(reason).with(Effects::WRITES)),
        }
    }

    fn alias(&mut self, alias: Option<&TableAlias>) {
        self.aliases.extend(alias.map(|a| identifier(&a.name)));
    }

    fn call(&mut self, name: &ObjectName) {
        // A part that is not an identifier is an expression of another dialect; the name is then not known, and every
        // doubt must stand.
        self.calls.extend(name.0.iter().filter_map(|part| part.as_ident()).map(identifier));
    }

    fn modify(&mut self) {
        let reason = if self.depth > 1 { Reason::DmlInCte } else { Reason::Dml };
        self.modification.get_or_insert(reason);
    }
}

impl Visitor for Findings {
    type Break = ();

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        if !matches!(statement, Statement::Query(_)) {
            self.modify();
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.depth += 1;
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.alias(Some(&cte.alias));
        }
        if modifies(&query.body) {
            self.modify();
        }
        self.hides_relations |= is_table_command(&query.body);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if select.into.is_some() {
            self.modify();
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let is_only = |ident: &Ident| ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("only");
        self.hides_relations |= relation.0.iter().filter_map(|part| part.as_ident()).any(is_only);
        let mut parts = relation.0.iter().rev().filter_map(|part| part.as_ident()).map(identifier);
        if let Some(name) = parts.next() {
            self.relations.push((parts.next(), name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, alias, args, .. } => {
                if args.is_some() {
                    self.call(name);
                }
                self.alias(alias.as_ref());
            }
            TableFactor::Function { name, alias, .. } => {
                self.call(name);
                self.alias(alias.as_ref());
            }
            TableFactor::Derived { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::JsonTable { alias, .. }
            | TableFactor::XmlTable { alias, .. }
            | TableFactor::NestedJoin { alias, .. } => self.alias(alias.as_ref()),
            // Of other dialects: their aliases stay in doubt.
            TableFactor::OpenJsonTable { .. }
            | TableFactor::Pivot { .. }
            | TableFactor::Unpivot { .. }
            | TableFactor::UnpivotExpr { .. }
            | TableFactor::MatchRecognize { .. }
            | TableFactor::SemanticView { .. } => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            self.call(&function.name);
        }
        ControlFlow::Continue(())
    }
}

fn modifies(body: &SetExpr) -> bool {
    match body {
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => true,
        // The visitor comes to the parts by itself: sub-queries as queries, and a set operation cannot hold a
        // modification without parentheses.
        SetExpr::SetOperation { left, right, .. } => modifies(left) || modifies(right),
        SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) | SetExpr::Table(_) => false,
    }
}

/// The visitor passes these by.
fn is_table_command(body: &SetExpr) -> bool {
    match body {
        SetExpr::Table(_) => true,
        SetExpr::SetOperation { left, right, .. } => is_table_command(left) || is_table_command(right),
        _ => false,
    }
}

fn identifier(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}
