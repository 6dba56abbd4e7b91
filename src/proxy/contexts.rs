//! What a verdict may depend on besides the text: the session it is for. Few verdicts do, and few contexts differ.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::decide::sql::{Asker, Catalogue, Depends, SearchPath};

/// What a session knows of itself; what is `None` or empty is not known.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionContext<'a> {
    /// Who logged in.
    pub user: &'a str,
    pub names: Option<Names<'a>>,
    /// The types of parameters, as in a Parse message: their count and their OIDs.
    pub types: &'a [u8],
}

/// What names in the session's next statement mean.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    /// The role that the statement runs as.
    pub role: &'a str,
    /// Its `search_path`; `None`: that with which its sessions begin.
    pub path: Option<&'a str>,
}

/// What a verdict that depends on its session is given by.
#[derive(Debug)]
pub(super) struct Known {
    path: Option<SearchPath>,
    parameters: Vec<u32>,
}

impl SessionContext<'_> {
    /// What a verdict needs to know that depends on these.
    pub(super) fn known(&self, depends: Depends, catalogue: &Catalogue) -> Known {
        let names = self.names.filter(|_| depends.contains(Depends::PATH));
        let path = names.and_then(|names| {
            let setting = names.path.or_else(|| catalogue.default_path(self.user))?;
            SearchPath::new(setting, names.role, catalogue)
        });
        let types = if depends.contains(Depends::PARAMETERS) { self.types.get(2..).unwrap_or_default() } else { &[] };
        let oid = |oid: &[u8]| oid.iter().fold(0, |oid, &byte| oid << 8 | u32::from(byte));
        Known { path, parameters: types.chunks_exact(4).map(oid).collect() }
    }
}

impl Known {
    pub(super) fn asker(&self) -> Asker<'_> {
        Asker { path: self.path.as_ref(), parameters: &self.parameters }
    }

    fn key(&self) -> String {
        let mut key = self.path.as_ref().map(SearchPath::key).unwrap_or_default();
        for oid in &self.parameters {
            key.extend(["\u{1}", &oid.to_string()]);
        }
        key
    }
}

/// A number for each context, to be known by in a cache.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    numbers: Mutex<HashMap<Box<str>, u32>>,
}

/// The number of nobody's context.
pub(super) const ANYBODY: u32 = 0;

/// Further contexts get the verdicts that hold for anybody.
const MOST: u32 = 4096;

impl Contexts {
    /// `None`: nothing is known, or there are too many.
    pub(super) fn number(&self, known: &Known) -> Option<u32> {
        let key = known.key();
        if key.is_empty() {
            return None;
        }
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&number) = numbers.get(&*key) {
            return Some(number);
        }
        let next = u32::try_from(numbers.len()).ok()? + ANYBODY + 1;
        (next <= MOST).then(|| *numbers.entry(key.into()).or_insert(next))
    }
}
