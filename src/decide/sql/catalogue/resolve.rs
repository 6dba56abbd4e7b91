//! Which of several functions of one name a call means, as the server decides it (documentation, "Function Type
//! Resolution"; `src/backend/parser/parse_func.c`, `FuncnameGetCandidates` in `src/backend/catalog/namespace.c`).
//!
//! What is not known rules nothing out: what is left are all functions that the server could choose, and the worst of
//! them counts.

use super::path::{Place, SearchPath, Usage};
use super::scalars::{STRINGS, Scalars};
use super::{BUILTIN_SCHEMA, Catalogue, FunctionLists, Listed, Nature, Signature, Standing};
use crate::decide::sql::types::{Depends, Effects};

/// A call as it stands in a text.
#[derive(Debug, Clone, Copy)]
pub(in crate::decide::sql) struct Call<'a> {
    pub(in crate::decide::sql) schema: Option<&'a str>,
    pub(in crate::decide::sql) name: &'a str,
    /// `None`: not even their number is known.
    pub(in crate::decide::sql) arguments: Option<&'a [Argument]>,
    /// What else has given them their types.
    pub(in crate::decide::sql) typed_by: Depends,
}

/// What is known of an argument's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decide::sql) enum Argument {
    /// Nothing.
    Any,
    /// A string constant or NULL, which takes the type that the function wants.
    Literal,
    /// The OID of a type that PostgreSQL itself brings.
    Typed(u32),
}

/// What a call means for the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decide::sql) struct Resolved<'c> {
    pub(in crate::decide::sql) standing: Standing,
    /// The schema of a function that decided.
    pub(in crate::decide::sql) home: Option<&'c str>,
    /// Whether it could have been decided otherwise, and by what.
    pub(in crate::decide::sql) depends: Depends,
}

/// A function that may be meant.
#[derive(Debug, Clone, Copy)]
struct Candidate<'c> {
    schema: &'c str,
    /// `None`: nothing is known of its parameters.
    signature: Option<&'c Signature>,
    standing: Standing,
}

impl Catalogue {
    /// The worst that the call can mean: in a session with this `search_path`, or in any.
    pub(in crate::decide::sql) fn resolve(
        &self,
        call: &Call<'_>,
        path: Option<&SearchPath>,
        lists: &FunctionLists,
    ) -> Resolved<'_> {
        let mut candidates = self.candidates(call, lists);
        let mut depends = Depends::empty();
        if is_mixed(&candidates) && call.schema.is_none() {
            depends |= Depends::PATH;
            if let Some(path) = path {
                keep(&mut candidates, |candidate| path.place(candidate.schema).is_some());
            }
        }
        if is_mixed(&candidates)
            && let Some(arguments) = call.arguments
        {
            depends |= call.typed_by;
            // Of functions that take the same, the one that is found first is meant.
            if let (Some(path), None) = (path, call.schema) {
                let all = candidates.clone();
                let is_hidden =
                    |candidate: &Candidate<'_>| all.iter().any(|other| hides(other, candidate, path, arguments.len()));
                candidates.retain(|candidate| !is_hidden(candidate));
            }
            self.scalars.choose(&mut candidates, arguments);
        }
        let worst = candidates.iter().fold(Standing::Unknown, |worst, candidate| worst.or(candidate.standing));
        let deciding = candidates.iter().find(|candidate| matches!(candidate.standing, Standing::Primary { .. }));
        let standing = match (worst, lists.judge_unknown(call.schema, call.name)) {
            (Standing::Unknown, Listed::Replica) => Standing::Safe,
            (Standing::Unknown, Listed::Primary) => {
                Standing::Primary { effects: Effects::SETTINGS, by: Listed::Primary }
            }
            (worst, _) => worst,
        };
        Resolved { standing, home: deciding.map(|candidate| candidate.schema), depends }
    }

    /// Everything of this name and this number of arguments.
    fn candidates(&self, call: &Call<'_>, lists: &FunctionLists) -> Vec<Candidate<'_>> {
        let own = self.functions.get(call.name).map_or(&[][..], |all| all);
        let is_described = own.iter().any(|function| &*function.schema == BUILTIN_SCHEMA);
        let may_be_builtin = !is_described && call.schema.is_none_or(|schema| schema == BUILTIN_SCHEMA);
        let builtin = self.builtin.function(call.name).filter(|_| may_be_builtin);
        let builtin = builtin.map(|nature| (BUILTIN_SCHEMA, None, nature));
        let own = own.iter().filter(|function| call.schema.is_none_or(|schema| schema == &*function.schema));
        let own = own.map(|function| (&*function.schema, Some(&function.signature), function.nature));
        let all = builtin.into_iter().chain(own).map(|(schema, signature, nature)| {
            let standing = match (lists.judge(schema, call.name), nature) {
                (Listed::Replica, _) | (Listed::Not, Nature::Safe) => Standing::Safe,
                (Listed::Primary, Nature::Safe) => Standing::Primary { effects: Effects::empty(), by: Listed::Primary },
                (by, Nature::Primary(effects)) => Standing::Primary { effects, by },
            };
            Candidate { schema, signature, standing }
        });
        let mut all: Vec<Candidate<'_>> = all.collect();
        if let Some(arguments) = call.arguments {
            let takes = |candidate: &Candidate<'_>| candidate.signature.is_none_or(|s| s.takes(arguments.len()));
            // A number that fits none that is known has been misunderstood.
            if all.iter().any(|candidate| candidate.signature.is_some() && takes(candidate)) {
                all.retain(takes);
            }
        }
        all
    }
}

/// Whether it matters which one is meant.
fn is_mixed(candidates: &[Candidate<'_>]) -> bool {
    candidates.iter().any(|candidate| candidate.standing != candidates[0].standing)
}

/// Drops what the server would not choose, unless that is all there is: then something has been misunderstood.
fn keep<'c>(candidates: &mut Vec<Candidate<'c>>, wanted: impl Fn(&Candidate<'c>) -> bool) {
    if candidates.iter().any(&wanted) {
        candidates.retain(wanted);
    }
}

/// Whether the server finds `first` and then does not look for `second`.
fn hides(first: &Candidate<'_>, second: &Candidate<'_>, path: &SearchPath, arguments: usize) -> bool {
    let (Some(a), Some(b)) = (first.signature, second.signature) else { return false };
    let (Some(Place { rank, usage: Usage::Certain }), Some(later)) =
        (path.place(first.schema), path.place(second.schema))
    else {
        return false;
    };
    rank < later.rank && a.is_exact() && b.is_exact() && a.parameters(arguments).eq(b.parameters(arguments))
}

impl Scalars {
    fn choose(&self, candidates: &mut Vec<Candidate<'_>>, arguments: &[Argument]) {
        let fits = |candidate: &Candidate<'_>| {
            let fits = |(argument, parameter): (&Argument, u32)| match *argument {
                Argument::Typed(oid) => self.converts(oid, parameter),
                Argument::Any | Argument::Literal => true,
            };
            candidate.signature.is_none_or(|s| arguments.iter().zip(s.parameters(arguments.len())).all(fits))
        };
        keep(candidates, fits);
        let is_settled = |argument: &Argument| match *argument {
            Argument::Typed(oid) => self.category(oid).is_some(),
            Argument::Literal => true,
            Argument::Any => false,
        };
        if !arguments.iter().all(is_settled) {
            return;
        }
        // One that takes just these types is chosen before all others.
        let is_exact = |candidate: &Candidate<'_>| {
            let same = |(argument, parameter): (&Argument, u32)| *argument == Argument::Typed(parameter);
            candidate.signature.is_some_and(|s| arguments.iter().zip(s.parameters(arguments.len())).all(same))
        };
        if candidates.iter().any(is_exact) {
            return candidates.retain(|candidate| candidate.signature.is_none() || is_exact(candidate));
        }
        let rows: Option<Vec<_>> = candidates.iter().map(|candidate| self.row(candidate, arguments.len())).collect();
        let Some(rows) = rows else {
            return;
        };
        if let Some(best) = self.select(&rows, arguments) {
            *candidates = vec![candidates[best]];
        }
    }

    /// The types that it takes, if all of them are plain and known.
    fn row(&self, candidate: &Candidate<'_>, arguments: usize) -> Option<Box<[u32]>> {
        let signature = candidate.signature.filter(|signature| signature.is_exact())?;
        let known = |oid: u32| self.category(oid).map(|_| oid);
        let row: Option<Box<[u32]>> = signature.parameters(arguments).map(known).collect();
        row.filter(|row| row.len() == arguments)
    }

    /// `func_select_candidate`, step by step: the index of the one that is left. `None`: the call is ambiguous.
    fn select(&self, rows: &[Box<[u32]>], arguments: &[Argument]) -> Option<usize> {
        let typed = || arguments.iter().enumerate().filter_map(|(i, argument)| Some((i, argument.oid()?)));
        let unknown = || (0..arguments.len()).filter(|&i| arguments[i] == Argument::Literal);
        let mut left: Vec<usize> = (0..rows.len()).collect();
        // As many exact matches as possible; then, exact ones or preferred types of the argument's category.
        let exact = |row: usize| typed().filter(|&(i, oid)| rows[row][i] == oid).count();
        keep_best(&mut left, exact);
        if let [only] = *left {
            return Some(only);
        }
        let preferred = |from: u32, to: u32| {
            let (from, to) = (self.category(from), self.category(to));
            from.zip(to).is_some_and(|(from, to)| to.preferred && from.letter == to.letter)
        };
        keep_best(&mut left, |row| {
            typed().filter(|&(i, oid)| rows[row][i] == oid || preferred(oid, rows[row][i])).count()
        });
        if let [only] = *left {
            return Some(only);
        }
        // Constants without a type: strings if that is possible, else of the one category that all take there.
        let slots: Option<Vec<_>> = unknown().map(|i| Some((i, self.slot(&left, rows, i)?))).collect();
        if let Some(slots) = slots.filter(|slots| !slots.is_empty()) {
            let suits = |row: &usize| {
                slots.iter().all(|&(i, (letter, preferred))| {
                    self.category(rows[*row][i]).is_some_and(|c| c.letter == letter && (c.preferred || !preferred))
                })
            };
            if left.iter().any(suits) {
                left.retain(suits);
            }
            if let [only] = *left {
                return Some(only);
            }
        }
        // Constants as if they were of the type that all other arguments have.
        let (_, same) = typed().next().filter(|_| unknown().next().is_some())?;
        if typed().any(|(_, oid)| oid != same) {
            return None;
        }
        let takes = |row: &usize| rows[*row].iter().all(|&parameter| self.converts(same, parameter));
        left.retain(takes);
        if let [only] = *left { Some(only) } else { None }
    }

    /// The category that a constant without a type has at the place `i`, and whether it must be its preferred type.
    fn slot(&self, left: &[usize], rows: &[Box<[u32]>], i: usize) -> Option<(u8, bool)> {
        let mut slot: Option<(u8, bool)> = None;
        let mut conflict = false;
        for category in left.iter().filter_map(|&row| self.category(rows[row][i])) {
            slot = match slot {
                None => Some((category.letter, category.preferred)),
                Some((letter, preferred)) if letter == category.letter => {
                    Some((letter, preferred || category.preferred))
                }
                Some(_) if category.letter == STRINGS => Some((STRINGS, category.preferred)),
                other => {
                    conflict = true;
                    other
                }
            };
        }
        slot.filter(|&(letter, _)| !conflict || letter == STRINGS)
    }
}

impl Argument {
    fn oid(self) -> Option<u32> {
        match self {
            Argument::Typed(oid) => Some(oid),
            Argument::Any | Argument::Literal => None,
        }
    }
}

/// Keeps those with the highest score.
fn keep_best(left: &mut Vec<usize>, score: impl Fn(usize) -> usize) {
    let best = left.iter().map(|&row| score(row)).max();
    left.retain(|&row| Some(score(row)) == best);
}
