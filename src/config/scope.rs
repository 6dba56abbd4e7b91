//! Reading sections: keys with their defaults, unknown keys, and sections within sections.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Findings, Place};
use super::section::{Count, Section, Written};
use super::value::{At, Value, near};
use super::written::Root;

/// One table of the file, or the absence of one. Without `Debug`: the table may hold passwords.
pub(super) struct Scope<'t> {
    table: Option<&'t DeTable<'t>>,
    /// Dotted, and empty for the file itself.
    path: String,
    place: Place,
}

impl<'t> Scope<'t> {
    pub(super) fn root(table: &'t DeTable<'t>) -> Self {
        Self { table: Some(table), path: String::new(), place: Place::Written(0) }
    }

    fn child(&self, key: &str, table: Option<(&'t DeTable<'t>, usize)>) -> Self {
        let place = table.map_or(Place::Default, |(_, offset)| Place::Written(offset));
        Self { table: table.map(|(table, _)| table), path: self.name(key), place }
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table?.get(key)
    }

    /// A key with a default; a refused value is stood in for by the default.
    pub(super) fn default<T: Value>(&self, key: &str, default: &'static str, findings: &mut Findings<'_>) -> At<T> {
        let At { value, place } = self.unset(key, default, findings);
        At { value: value.unwrap_or_else(|| read_default(key, default, place)), place }
    }

    /// A key without a default.
    pub(super) fn unset<T: Value>(&self, key: &str, _: &'static str, findings: &mut Findings<'_>) -> At<Option<T>> {
        let Some(value) = self.get(key) else { return At { value: None, place: Place::Default } };
        let read = T::read(&self.name(key), value, findings);
        let place = if read.is_some() { Place::Written(value.span().start) } else { Place::Refused };
        At { value: read, place }
    }

    /// A key that has to be written. `None`: reported.
    pub(super) fn required<T: Value>(
        &self,
        key: &str,
        example: &'static str,
        findings: &mut Findings<'_>,
    ) -> At<Option<T>> {
        let At { value, place } = self.unset(key, example, findings);
        if let (Place::Default, Place::Written(offset)) = (place, self.place) {
            findings.missing(
                offset,
                format!("{} is missing; expected {}, as in {key} = {example}", self.name(key), T::kind()),
            );
        }
        let place = if value.is_none() { Place::Refused } else { place };
        At { value, place }
    }

    /// Reports every key that `section` does not have.
    pub(super) fn refuse_unknown(&self, section: &Section, findings: &mut Findings<'_>) {
        for (key, _) in self.table.into_iter().flatten() {
            let mut known = section.keys();
            if known.any(|known| known == key.get_ref()) {
                continue;
            }
            let hint = hint(key.get_ref(), section);
            findings.problem(key.span().start, format!("unknown key {}{hint}", self.name(key.get_ref())));
        }
    }
}

/// What may have been meant by an unknown key.
fn hint(key: &str, section: &Section) -> String {
    if let Some(near) = near(key, section.keys()) {
        return format!("; did you mean {near}?");
    }
    let mut homes = Vec::new();
    Root::SECTION.homes("", key, &mut homes);
    match homes.as_slice() {
        [] => format!("; expected one of {}", section.keys().collect::<Vec<_>>().join(", ")),
        [home] => format!("; it belongs to {home}"),
        [homes @ .., last] => format!("; it belongs to {} or {last}", homes.join(", ")),
    }
}

fn read_default<T: Value>(key: &str, default: &'static str, place: Place) -> T {
    const SOUND: &str = "the defaults of the option table are valid, which a test asserts";
    let value = DeValue::parse(default).expect(SOUND);
    T::read(key, &value, &mut Findings::of_default(default, place)).expect(SOUND)
}

/// A section within another, as often as its type says.
pub(super) trait Child: Sized {
    const COUNT: Count;
    const INNER: &'static Section;
    fn read(parent: &Scope<'_>, key: &'static str, findings: &mut Findings<'_>) -> Self;
}

/// At least one.
#[derive(Debug)]
pub(super) struct Several<T>(pub(super) Vec<T>);

impl<T: Written> Child for T {
    const COUNT: Count = Count::Once;
    const INNER: &'static Section = &T::SECTION;

    fn read(parent: &Scope<'_>, key: &'static str, findings: &mut Findings<'_>) -> Self {
        T::read(&parent.child(key, single(parent, key, findings)), findings)
    }
}

impl<T: Written> Child for Option<T> {
    const COUNT: Count = Count::Optional;
    const INNER: &'static Section = &T::SECTION;

    fn read(parent: &Scope<'_>, key: &'static str, findings: &mut Findings<'_>) -> Self {
        let table = single(parent, key, findings)?;
        Some(T::read(&parent.child(key, Some(table)), findings))
    }
}

impl<T: Written> Child for Vec<T> {
    const COUNT: Count = Count::Any;
    const INNER: &'static Section = &T::SECTION;

    fn read(parent: &Scope<'_>, key: &'static str, findings: &mut Findings<'_>) -> Self {
        many(parent, key, findings).into_iter().map(|t| T::read(&parent.child(key, Some(t)), findings)).collect()
    }
}

impl<T: Written> Child for Several<T> {
    const COUNT: Count = Count::Several;
    const INNER: &'static Section = &T::SECTION;

    fn read(parent: &Scope<'_>, key: &'static str, findings: &mut Findings<'_>) -> Self {
        let all: Vec<T> = Child::read(parent, key, findings);
        let nothing_there = parent.get(key).is_none_or(|v| v.get_ref().as_array().is_some_and(|a| a.is_empty()));
        if nothing_there {
            findings.missing(0, format!("[[{}]] is missing; expected at least one", parent.name(key)));
        }
        Self(all)
    }
}

/// The table behind `key`, with its offset.
fn single<'t>(parent: &Scope<'t>, key: &str, findings: &mut Findings<'_>) -> Option<(&'t DeTable<'t>, usize)> {
    let value = parent.get(key)?;
    let offset = value.span().start;
    if let DeValue::Table(table) = value.get_ref() {
        return Some((table, offset));
    }
    let name = parent.name(key);
    let found = if value.get_ref().is_array() {
        format!("[[{name}]] or a list")
    } else {
        value.get_ref().type_str().to_owned()
    };
    findings.problem(offset, format!("{name}: found {found}, expected the section [{name}]"));
    None
}

/// The tables behind `key`, with their offsets. What should have been `[[key]]` and is `[key]` is read nevertheless.
fn many<'t>(parent: &Scope<'t>, key: &str, findings: &mut Findings<'_>) -> Vec<(&'t DeTable<'t>, usize)> {
    let Some(value) = parent.get(key) else { return Vec::new() };
    let name = parent.name(key);
    let mut refuse = |value: &Spanned<DeValue<'_>>, found: &str| {
        findings.problem(value.span().start, format!("{name}: found {found}, expected sections [[{name}]]"));
    };
    match value.get_ref() {
        DeValue::Array(items) => {
            let mut tables = Vec::new();
            for item in items.iter() {
                match item.get_ref() {
                    DeValue::Table(table) => tables.push((table, item.span().start)),
                    other => refuse(item, other.type_str()),
                }
            }
            tables
        }
        DeValue::Table(table) => {
            refuse(value, &format!("[{name}]"));
            vec![(table, value.span().start)]
        }
        other => {
            refuse(value, other.type_str());
            Vec::new()
        }
    }
}
