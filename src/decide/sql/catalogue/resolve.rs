//! Which of several functions of one name a call means, as the server decides it (documentation, "Function Type
//! Resolution"; `FuncnameGetCandidates` in `src/backend/catalog/namespace.c`).
//!
//! What is not known rules nothing out: what is left are all functions that the server could choose, and the worst of
//! them counts.

use super::path::{Place, SearchPath, Usage};
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
    /// Nothing, nor which parameter it is for: it is given by name.
    Named,
    /// A string constant or NULL, which takes the type that the function wants: it tells nothing.
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
pub(super) struct Candidate<'c> {
    schema: &'c str,
    /// `None`: nothing is known of its parameters.
    signature: Option<&'c Signature>,
    standing: Standing,
    /// Whether the server surely finds it, if the call means anything at all.
    pub(super) is_certain: bool,
}

/// More functions of one name are not told apart by types.
const MOST: usize = 200;

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
            // A number that fits none has been misunderstood, and so may the types be.
            if candidates.len() <= MOST && candidates.iter().all(|candidate| candidate.takes(arguments.len())) {
                seek(&mut candidates, call, arguments, path);
                self.scalars.choose(&mut candidates, arguments);
            }
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
            Candidate { schema, signature, standing, is_certain: false }
        });
        let mut all: Vec<Candidate<'_>> = all.collect();
        if let Some(arguments) = call.arguments {
            let takes = |candidate: &Candidate<'_>| candidate.takes(arguments.len());
            // A number that fits none that is known has been misunderstood.
            if all.iter().any(|candidate| candidate.signature.is_some() && takes(candidate)) {
                all.retain(takes);
            }
        }
        all
    }
}

impl<'c> Candidate<'c> {
    /// What it takes in a call with so many arguments; `None`: that is not known.
    pub(super) fn types(&self, arguments: usize) -> Option<impl Iterator<Item = u32> + use<'c>> {
        self.signature.and_then(|signature| signature.types(arguments))
    }

    fn takes(&self, arguments: usize) -> bool {
        self.signature.is_none_or(|signature| signature.takes(arguments))
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

/// Finds out which ones the server surely sees, and drops those that others hide.
fn seek(candidates: &mut Vec<Candidate<'_>>, call: &Call<'_>, arguments: &[Argument], path: Option<&SearchPath>) {
    // Under an unknown path the server may see any of the schemas, but one of them it sees.
    let only = candidates.first().map(|first| first.schema);
    let only = only.filter(|only| candidates.iter().all(|candidate| candidate.schema == *only));
    for candidate in &mut *candidates {
        candidate.is_certain = match (call.schema, path) {
            (Some(_), _) => true,
            (None, Some(path)) => path.place(candidate.schema).is_some_and(|place| place.usage == Usage::Certain),
            (None, None) => only.is_some() || candidate.schema == BUILTIN_SCHEMA,
        };
    }
    // Of functions that take the same, the one that is found first is meant. Names may put the arguments elsewhere.
    if let (Some(path), None) = (path, call.schema)
        && !arguments.contains(&Argument::Named)
    {
        let all = candidates.clone();
        let is_hidden = |candidate: &Candidate<'_>| all.iter().any(|o| hides(o, candidate, path, arguments.len()));
        candidates.retain(|candidate| !is_hidden(candidate));
    }
}

/// Whether the server finds `first` and then does not look for `second`.
fn hides(first: &Candidate<'_>, second: &Candidate<'_>, path: &SearchPath, arguments: usize) -> bool {
    let (Some(a), Some(b)) = (first.types(arguments), second.types(arguments)) else { return false };
    let (Some(Place { rank, usage: Usage::Certain }), Some(later)) =
        (path.place(first.schema), path.place(second.schema))
    else {
        return false;
    };
    rank < later.rank && a.eq(b)
}
