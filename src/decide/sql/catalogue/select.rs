//! Which functions of one name the types of a call's arguments leave (`func_get_detail`, `func_match_argtypes` and
//! `func_select_candidate` in `src/backend/parser/parse_func.c`, the same in PostgreSQL 14 to 18).
//!
//! Each step of the server's compares all functions that it sees: a step is taken here only where those are known, and
//! everything about them. Otherwise what is left stays.

use super::resolve::{Argument, Candidate};
use super::scalars::Scalars;

impl Scalars {
    /// Drops the candidates that the server surely does not choose.
    pub(super) fn choose(&self, candidates: &mut Vec<Candidate<'_>>, arguments: &[Argument]) {
        let number = arguments.len();
        // One that takes just these types is chosen before all others, if it is seen.
        let is_exact = |candidate: &Candidate<'_>| {
            let same = |(argument, parameter): (&Argument, u32)| *argument == Argument::Typed(parameter);
            candidate.types(number).is_some_and(|types| arguments.iter().zip(types).all(same))
        };
        if candidates.iter().any(|candidate| candidate.is_certain && is_exact(candidate)) {
            return candidates.retain(|candidate| candidate.types(number).is_none() || is_exact(candidate));
        }
        let fits = |candidate: &Candidate<'_>| {
            let fits = |(argument, parameter): (&Argument, u32)| match *argument {
                Argument::Typed(oid) => self.converts(oid, parameter),
                Argument::Any | Argument::Named | Argument::Literal => true,
            };
            candidate.types(number).is_none_or(|types| arguments.iter().zip(types).all(fits))
        };
        if !candidates.iter().any(fits) {
            return;
        }
        candidates.retain(fits);
        let is_settled = |argument: &Argument| match *argument {
            Argument::Typed(oid) => self.is_settled(oid),
            Argument::Literal => true,
            Argument::Any | Argument::Named => false,
        };
        if !arguments.iter().all(is_settled) {
            return;
        }
        let rows: Option<Vec<_>> = candidates.iter().map(|candidate| self.row(candidate, number)).collect();
        if let Some(best) = rows.and_then(|rows| self.select(&rows, arguments)) {
            *candidates = vec![candidates[best]];
        }
    }

    /// The types that it takes, if it is surely seen and all of them are plain and known.
    fn row(&self, candidate: &Candidate<'_>, number: usize) -> Option<Box<[u32]>> {
        let types = candidate.types(number).filter(|_| candidate.is_certain)?;
        types.map(|oid| self.category(oid).map(|_| oid)).collect()
    }

    /// The first steps of `func_select_candidate`: the index of the one that is left. `None`: not one alone.
    ///
    /// The further steps guess the types of constants that have none; what they lead to is not relied on.
    fn select(&self, rows: &[Box<[u32]>], arguments: &[Argument]) -> Option<usize> {
        let typed = || arguments.iter().enumerate().filter_map(|(i, argument)| Some((i, argument.oid()?)));
        let mut left: Vec<usize> = (0..rows.len()).collect();
        // As many exact matches as possible; of those left, exact ones or preferred types of the argument's category.
        keep_best(&mut left, |row| typed().filter(|&(i, oid)| rows[row][i] == oid).count());
        let preferred = |from: u32, to: u32| {
            let (from, to) = (self.category(from), self.category(to));
            from.zip(to).is_some_and(|(from, to)| to.preferred && from.letter == to.letter)
        };
        keep_best(&mut left, |row| {
            typed().filter(|&(i, oid)| rows[row][i] == oid || preferred(oid, rows[row][i])).count()
        });
        if let [only] = *left { Some(only) } else { None }
    }
}

impl Argument {
    fn oid(self) -> Option<u32> {
        match self {
            Argument::Typed(oid) => Some(oid),
            Argument::Any | Argument::Named | Argument::Literal => None,
        }
    }
}

/// Keeps those with the highest score.
fn keep_best(left: &mut Vec<usize>, score: impl Fn(usize) -> usize) {
    let best = left.iter().map(|&row| score(row)).max();
    left.retain(|&row| Some(score(row)) == best);
}
