//! Which relations, types and operators there are: of most of them, nothing else matters.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{SearchPath, is_reached};

/// What has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::decide::sql) enum Named {
    Relation,
    Type,
    Operator,
}

impl Named {
    /// As the catalogue's query calls it.
    pub(super) fn kind(kind: &str) -> Option<Self> {
        match kind {
            "relation" => Some(Named::Relation),
            "type" => Some(Named::Type),
            "operator" => Some(Named::Operator),
            _ => None,
        }
    }
}

/// The names, sixteen bytes for each: what is kept of a name is a hash, which two names share once in a
/// long time; then one that is not known is taken for one that is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    schemas: Vec<Box<str>>,
    /// The name, and the place of its schema: in order, once it is complete.
    names: Vec<(u64, u32)>,
}

impl Known {
    /// Best called schema by schema.
    pub(super) fn add(&mut self, what: Named, schema: &str, name: &str) {
        if self.schemas.last().is_none_or(|last| **last != *schema) {
            self.schemas.push(schema.into());
        }
        let place = u32::try_from(self.schemas.len() - 1).unwrap_or(u32::MAX);
        self.names.push((hash(what, name), place));
    }

    pub(super) fn complete(&mut self) {
        self.names.sort_unstable();
        self.names.shrink_to_fit();
    }

    /// Whether one of this name may be meant, with this `search_path` or with any.
    pub(super) fn has(&self, what: Named, schema: Option<&str>, name: &str, path: Option<&SearchPath>) -> bool {
        let hash = hash(what, name);
        let first = self.names.partition_point(|&(known, _)| known < hash);
        let all = self.names[first..].iter().take_while(|&&(known, _)| known == hash);
        let mut homes = all.filter_map(|&(_, place)| self.schemas.get(place as usize));
        homes.any(|home| is_reached(schema, home, path))
    }

    /// Bytes, about.
    pub(super) fn size(&self) -> usize {
        let schemas: usize = self.schemas.iter().map(|schema| size_of::<Box<str>>() + schema.len()).sum();
        schemas + self.names.len() * size_of::<(u64, u32)>()
    }
}

fn hash(what: Named, name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    name.hash(&mut hasher);
    hasher.finish()
}
