//! Sections of the topology file: one declaration makes the struct as written, its reader, and its part of the reference.

use std::borrow::Cow;

use super::problem::Findings;
use super::scope::Scope;

/// What may stand in one section.
#[derive(Debug)]
pub(super) struct Section {
    /// Lines of explanation.
    pub(super) doc: &'static [&'static str],
    pub(super) options: &'static [Opt],
    pub(super) sections: &'static [Nested],
}

/// One key.
#[derive(Debug)]
pub(super) struct Opt {
    pub(super) key: &'static str,
    pub(super) doc: &'static [&'static str],
    /// The kind of value, in a word or two.
    pub(super) kind: fn() -> Cow<'static, str>,
    pub(super) absent: Absent,
}

/// What holds when a key is not written. Values are TOML.
#[derive(Debug, Clone, Copy)]
pub(super) enum Absent {
    Default(&'static str),
    /// Nothing is set, which means what `meaning` says.
    Unset {
        meaning: &'static str,
        example: &'static str,
    },
    Refused {
        example: &'static str,
    },
}

/// A section within another.
#[derive(Debug)]
pub(super) struct Nested {
    pub(super) key: &'static str,
    pub(super) count: Count,
    pub(super) section: &'static Section,
}

/// How often a section may stand in its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// `[key]`; leaving it out means its defaults.
    Once,
    /// `[key]`; leaving it out switches something off.
    Optional,
    /// `[[key]]`
    Any,
    /// `[[key]]`, at least one.
    Several,
}

/// A section as written.
pub(super) trait Written: Sized {
    const SECTION: Section;
    fn read(scope: &Scope<'_>, findings: &mut Findings<'_>) -> Self;
}

impl Section {
    pub(super) fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.options.iter().map(|o| o.key).chain(self.sections.iter().map(|s| s.key))
    }

    /// The paths of all sections within this one that have an option named `key`.
    pub(super) fn homes(&self, path: &str, key: &str, homes: &mut Vec<String>) {
        if self.options.iter().any(|o| o.key == key) {
            homes.push(if path.is_empty() { "the top of the file".to_owned() } else { format!("[{path}]") });
        }
        for Nested { key: child, section, .. } in self.sections {
            let path = if path.is_empty() { (*child).to_owned() } else { format!("{path}.{child}") };
            section.homes(&path, key, homes);
        }
    }
}

/// Declares a section. Of each key it says what holds when it is absent: `default TOML`, `unset MEANING, example TOML`, or `required EXAMPLE`.
macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        $name:ident [$($sub:ident: $nested:ty),* $(,)?] {
            $($(#[doc = $key_doc:literal])* $key:ident: $type:ty, $rule:ident $text:literal $(, example $example:literal)?;)*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug)]
        pub(in crate::config) struct $name {
            $($(#[doc = $key_doc])* pub(in crate::config) $key: field!($rule $type),)*
            $(pub(in crate::config) $sub: $nested,)*
        }

        impl Written for $name {
            const SECTION: Section = Section {
                doc: &[$($doc),*],
                options: &[$(Opt {
                    key: stringify!($key),
                    doc: &[$($key_doc),*],
                    kind: <$type as Value>::kind,
                    absent: absent!($rule $text $($example)?),
                }),*],
                sections: &[$(Nested {
                    key: stringify!($sub),
                    count: <$nested as Child>::COUNT,
                    section: <$nested as Child>::INNER,
                }),*],
            };

            fn read(scope: &Scope<'_>, findings: &mut Findings<'_>) -> Self {
                scope.refuse_unknown(&Self::SECTION, findings);
                Self {
                    $($key: scope.$rule(stringify!($key), $text, findings),)*
                    $($sub: Child::read(scope, stringify!($sub), findings),)*
                }
            }
        }
    };
}

macro_rules! field {
    (default $type:ty) => { At<$type> };
    ($rule:ident $type:ty) => { At<Option<$type>> };
}

macro_rules! absent {
    (default $text:literal) => {
        Absent::Default($text)
    };
    (unset $text:literal $example:literal) => {
        Absent::Unset { meaning: $text, example: $example }
    };
    (required $text:literal) => {
        Absent::Refused { example: $text }
    };
}

pub(super) use {absent, field, section};
