//! Which standbys have to have a commit before it is acknowledged.

use std::collections::BTreeSet;

/// The value of `synchronous_standby_names`. Source: PostgreSQL's documentation, "Replication", and syncrep_gram.y.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Synchronous {
    /// As many of the listed ones as a commit waits for; 0: replication is asynchronous.
    pub quorum: usize,
    /// Lower-case: names are compared without regard to case.
    listed: Vec<String>,
}

impl Synchronous {
    /// Reads the setting's value. What a server has accepted is never misread; anything else counts as "every standby
    /// is listed, and one is waited for", which promises least.
    pub fn parse(value: &str) -> Self {
        let value = value.trim();
        if value.is_empty() {
            return Self::default();
        }
        let (head, list) = match value.split_once('(') {
            Some((head, rest)) => (head.trim(), rest.trim_end().strip_suffix(')').unwrap_or(rest)),
            None => ("1", value),
        };
        let count = head.rsplit(|c: char| c.is_whitespace()).next().unwrap_or(head);
        Self { quorum: count.parse().unwrap_or(1), listed: names(list) }
    }

    pub fn is_asynchronous(&self) -> bool {
        self.quorum == 0
    }

    /// The names, in lower case; `*` is any standby.
    pub fn listed(&self) -> impl Iterator<Item = &str> {
        self.listed.iter().map(String::as_str)
    }

    /// Whether a standby of this name may be one of those that a commit waits for.
    pub fn lists(&self, standby: &str) -> bool {
        let standby = standby.to_lowercase();
        self.listed.iter().any(|name| name == "*" || *name == standby)
    }

    /// How many standbys of a primary called `primary` may count, when the cluster's `others` have these names; an empty
    /// one is not known.
    ///
    /// Several may share a name: unless they are told otherwise, all standbys are called `walreceiver`. A name that no node
    /// has counts as well: some standby that nobody else knows may have it.
    pub fn candidates(&self, primary: &str, others: &[&str]) -> usize {
        if self.listed.iter().any(|name| name == "*") {
            return others.len().max(self.quorum);
        }
        let primary = primary.to_lowercase();
        let unknown = others.iter().filter(|other| other.is_empty()).count();
        let (mut bearers, mut missing) = (0, 0);
        for name in self.listed.iter().collect::<BTreeSet<_>>() {
            match others.iter().filter(|other| other.to_lowercase() == *name).count() {
                0 => missing += usize::from(*name != primary),
                count => bearers += count,
            }
        }
        bearers + missing.max(unknown)
    }
}

/// `a, "B c"`.
fn names(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_name(quoted),
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].trim().to_owned(), &rest[end..])
            }
        };
        names.push(name.to_lowercase());
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    names
}

/// A doubled quote stands for one.
fn quoted_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut rest = text;
    while let Some((piece, after)) = rest.split_once('"') {
        name.push_str(piece);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return (name, after),
        }
    }
    (name + rest, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_setting_is_read() {
        for (value, quorum, listed) in [
            ("", 0, vec![]),
            ("pg2", 1, vec!["pg2"]),
            ("pg2, PG3", 1, vec!["pg2", "pg3"]),
            ("2 (pg2,pg3)", 2, vec!["pg2", "pg3"]),
            ("FIRST 2 (pg2, pg3, pg4)", 2, vec!["pg2", "pg3", "pg4"]),
            ("any 1 (\"a,b\", \"c\"\"d\" , e)", 1, vec!["a,b", "c\"d", "e"]),
            ("ANY 1 (*)", 1, vec!["*"]),
            ("*", 1, vec!["*"]),
        ] {
            let read = Synchronous::parse(value);
            assert_eq!((read.quorum, read.listed.iter().map(String::as_str).collect()), (quorum, listed), "{value}");
        }
    }

    #[test]
    fn the_primary_is_not_its_own_standby() {
        let all = Synchronous::parse("ANY 1 (pg1, pg2, pg3)");
        assert_eq!((all.candidates("pg1", &["pg2", "pg3"]), all.candidates("pg9", &["pg2", "pg3"])), (2, 3));
        assert_eq!((all.candidates("pg1", &["pg2", ""]), all.candidates("pg1", &["", "pg9"])), (2, 2));
        assert_eq!(Synchronous::parse("ANY 1 (*)").candidates("pg1", &["pg2", "pg3"]), 2);
        // What standbys are called that have not been told a name.
        let alike = Synchronous::parse("walreceiver");
        let standbys = ["walreceiver", "walreceiver"];
        assert_eq!((alike.candidates("pg1", &standbys), alike.candidates("walreceiver", &standbys)), (2, 2));
        assert_eq!(alike.candidates("walreceiver", &["walreceiver", ""]), 2);
        assert!(all.lists("PG2") && !all.lists("pg4"));
    }
}
