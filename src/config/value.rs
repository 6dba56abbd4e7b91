//! From a TOML value to a checked Rust value, or to a problem that says what was expected.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::DeValue;

use super::problem::{Findings, Place};

/// A value with the place it comes from.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A single value.
pub(super) trait Scalar: Sized {
    /// Whether a refused value may be shown.
    const ECHO: Echo = Echo::Shown;
    /// For the reference: the kind of value in a word or two.
    fn kind() -> Cow<'static, str>;
    /// For problems: continues "expected ..".
    fn expected() -> Cow<'static, str>;
    /// # Errors
    /// A further remark, often empty.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Cow<'static, str>>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Echo {
    Shown,
    Hidden,
}

/// A single value, or a list of them.
pub(super) trait Value: Sized {
    fn kind() -> Cow<'static, str>;
    /// `None`: refused, and reported.
    fn read(key: &str, value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self>;
}

impl<T: Scalar> Value for T {
    fn kind() -> Cow<'static, str> {
        T::kind()
    }

    fn read(key: &str, value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self> {
        T::from_toml(value.get_ref()).map_err(|remark| refuse::<T>(key, value, &remark, findings)).ok()
    }
}

fn refuse<T: Scalar>(key: &str, value: &Spanned<DeValue<'_>>, remark: &str, findings: &mut Findings<'_>) {
    let found = match (T::ECHO, value.get_ref()) {
        (_, DeValue::Table(_)) => "a table".to_owned(),
        (Echo::Hidden, value) => format!("{} (not shown)", value.type_str()),
        (Echo::Shown, _) => findings.quote(value.span()),
    };
    let separator = if remark.is_empty() { "" } else { "; " };
    let message = format!("{key}: found {found}, expected {}{separator}{remark}", T::expected());
    findings.problem(value.span().start, message);
}

/// Any number of values, in brackets.
#[derive(Debug, Clone)]
pub(super) struct List<T>(pub(super) Vec<At<T>>);

/// One value, or several in brackets.
#[derive(Debug, Clone)]
pub(super) struct OneOrMore<T>(pub(super) Vec<At<T>>);

impl<T: Scalar> Value for List<T> {
    fn kind() -> Cow<'static, str> {
        format!("list of {}", T::kind()).into()
    }

    fn read(key: &str, value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self> {
        let DeValue::Array(items) = value.get_ref() else {
            let found = findings.quote(value.span());
            let found = if T::ECHO == Echo::Hidden { "something else" } else { &found };
            findings
                .problem(value.span().start, format!("{key}: found {found}, expected a list in brackets, as in [..]"));
            return None;
        };
        let mut values = Vec::with_capacity(items.len());
        for item in items.iter() {
            values.extend(read(key, item, findings));
        }
        (values.len() == items.len()).then_some(Self(values))
    }
}

impl<T: Scalar> Value for OneOrMore<T> {
    fn kind() -> Cow<'static, str> {
        format!("{}, or a list of them", T::kind()).into()
    }

    fn read(key: &str, value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Array(items) if items.is_empty() => {
                findings.problem(value.span().start, format!("{key}: found an empty list, expected {}", T::expected()));
                None
            }
            DeValue::Array(_) => List::read(key, value, findings).map(|list| Self(list.0)),
            _ => read(key, value, findings).map(|single| Self(vec![single])),
        }
    }
}

fn read<T: Value>(key: &str, value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<At<T>> {
    let place = findings.place(value.span().start);
    T::read(key, value, findings).map(|value| At { value, place })
}

/// The candidate that `found` is probably a misspelling of.
pub(super) fn near<'c>(found: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    const LONGEST: usize = 64;
    if found.len() > LONGEST {
        return None;
    }
    let found = found.to_ascii_lowercase().replace('-', "_");
    let distance = |c: &'c str| (strsim::damerau_levenshtein(&found, &c.to_ascii_lowercase().replace('-', "_")), c);
    let (distance, candidate) = candidates.into_iter().map(distance).min_by_key(|(d, _)| *d)?;
    (distance <= found.chars().count().max(3) / 3).then_some(candidate)
}
