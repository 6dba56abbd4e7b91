//! Types and operators that the catalogue does not have: somebody has made them a moment ago, and what stands behind
//! them is not known.

use super::catalogue::Named;
use super::classify::Facts;
use super::keywords::{self, Lower};
use super::lex::Kind;
use super::scan::{Cause, full_name, is_temporary_schema};
use super::targets;
use super::tokens::Tokens;
use super::types::{Effects, Reason};

/// What the grammar reads in its own way: `!=` is `<>`.
const GRAMMATICAL: [&str; 5] = ["::", "!=", ":=", "=>", ".."];

/// The first of them, where one stands for certain: behind `::`, in `CAST(.. AS ..)`, before a constant, between two values.
pub(super) fn newcomer(tokens: Tokens<'_>, facts: &Facts<'_>) -> Option<Cause> {
    // Of the groups that are open, whether they are those of a CAST.
    let mut casts: Vec<bool> = Vec::new();
    for (i, token) in (0..tokens.len()).filter_map(|i| tokens.get(i).map(|token| (i, token))) {
        let found = match token.kind {
            Kind::Punctuation(b'(' | b'[') => {
                casts.push(i > 0 && tokens.is(i - 1, "cast"));
                None
            }
            Kind::Punctuation(b')' | b']') => {
                casts.pop();
                None
            }
            Kind::Operator if tokens.raw(i) == "::" => type_at(tokens, i + 1, facts),
            Kind::Operator => operator_at(tokens, i, facts),
            Kind::Text => type_before(tokens, i, facts),
            Kind::Word if casts.last() == Some(&true) && tokens.is(i, "as") => type_at(tokens, i + 1, facts),
            _ => None,
        };
        if let Some(object) = found {
            return Some(Cause::about(Reason::UnknownFunction, object).with(Effects::SETTINGS));
        }
    }
    None
}

fn operator_at(tokens: Tokens<'_>, i: usize, facts: &Facts<'_>) -> Option<String> {
    let name = tokens.raw(i);
    let schema = match i > 0 && tokens.is_punctuation(i - 1, b'.') {
        false => None,
        true if i > 3 && tokens.is_punctuation(i - 3, b'(') && tokens.is(i - 4, "operator") => tokens.name(i - 2),
        // `t.*`
        true => return None,
    };
    let is_new = !GRAMMATICAL.contains(&name) && facts.catalogue.is_new(Named::Operator, schema.as_deref(), name);
    is_new.then(|| format!("operator {}", full_name(schema.as_deref(), name)))
}

/// `type 'constant'`
fn type_before(tokens: Tokens<'_>, constant: usize, facts: &Facts<'_>) -> Option<String> {
    let mut start = constant.checked_sub(1).filter(|&i| tokens.is_identifier(i))?;
    while start > 1 && tokens.is_punctuation(start - 1, b'.') && tokens.is_identifier(start - 2) {
        start -= 2;
    }
    let is_alone = start + 1 == constant;
    let is_grammatical = is_alone && keywords::is_before_text(Lower::new(tokens.word(start)).as_str());
    if is_grammatical { None } else { type_at(tokens, start, facts) }
}

fn type_at(tokens: Tokens<'_>, i: usize, facts: &Facts<'_>) -> Option<String> {
    let (targets::Named { schema, name }, _) = targets::read(tokens, i)?;
    let schema = schema.as_deref();
    let is_grammatical = schema.is_none() && !keywords::types_behind(Lower::new(tokens.word(i)).as_str()).is_empty();
    let is_new = !is_grammatical && !is_temporary_schema(schema) && facts.catalogue.is_new(Named::Type, schema, &name);
    is_new.then(|| format!("type {}", full_name(schema, &name)))
}
