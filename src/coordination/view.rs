//! What instances tell each other: the keys below one prefix, and what they mean.
//!
//! - `record`: the newest decision ([`Record`]).
//! - `leader`: who decides; lives as long as that instance's lease.
//! - `instances/N`: one for each instance; lives as long as its lease.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::etcd::{Change, KeyValue, Keys};
use crate::decide::failover::{Record, Sight};

/// An instance's number, 1 to [`Number::MAX`]: it stands in the cancel keys that the instance hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Number(pub u16);

impl Number {
    pub const MAX: u16 = 1023;
}

/// The keys as they were in `revision`.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub(super) revision: i64,
    pub record: Recorded,
    pub leader: Option<Leader>,
    pub instances: BTreeMap<Number, Instance>,
}

/// The newest decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Recorded {
    /// Nothing was decided yet.
    #[default]
    Nothing,
    Written {
        record: Box<Record>,
        revision: i64,
    },
    /// By an instance of another version, perhaps: it binds all the same, but nobody here knows to what.
    Illegible(String),
}

/// Who decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub number: Number,
    pub(super) lease: i64,
    /// The revision in which it began to.
    pub(super) since: i64,
}

/// An instance that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub facts: InstanceFacts,
    pub(super) lease: i64,
}

/// What an instance says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InstanceFacts {
    pub name: String,
    /// Host and port under which the other instances reach it.
    pub address: String,
    pub version: String,
    /// The epoch of the last change of primary for which it has stopped writing, and let go of the old primary.
    pub acknowledged: u64,
    /// Whether any node answers to it.
    #[serde(default)]
    pub sight: Sight,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeaderFacts {
    number: Number,
}

pub(super) fn record_key(prefix: &str) -> String {
    format!("{prefix}record")
}

pub(super) fn leader_key(prefix: &str) -> String {
    format!("{prefix}leader")
}

pub(super) fn instance_key(prefix: &str, number: Number) -> String {
    format!("{prefix}instances/{}", number.0)
}

pub(super) fn leader_value(number: Number) -> Vec<u8> {
    serde_json::to_vec(&LeaderFacts { number }).expect("a number can be written down")
}

impl View {
    /// The one whose keys these are: everything that was written up to it is there.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn new(prefix: &str, keys: &Keys) -> Self {
        let mut view = Self { revision: keys.revision, ..Self::default() };
        keys.all.iter().for_each(|pair| view.put(prefix, pair));
        view
    }

    /// Takes note of changes; `true`: there was news.
    pub(super) fn apply(&mut self, prefix: &str, changes: &[Change]) -> bool {
        let known = self.revision;
        let mut news = false;
        for change in changes.iter().filter(|change| change.revision() > known) {
            self.revision = self.revision.max(change.revision());
            news = true;
            match change {
                Change::Put(pair) => self.put(prefix, pair),
                Change::Deleted { key, .. } => match Key::named(prefix, key) {
                    Some(Key::Record) => self.record = Recorded::Nothing,
                    Some(Key::Leader) => self.leader = None,
                    Some(Key::Instance(number)) => drop(self.instances.remove(&number)),
                    None => {}
                },
            }
        }
        news
    }

    fn put(&mut self, prefix: &str, pair: &KeyValue) {
        match Key::named(prefix, &pair.key) {
            Some(Key::Record) => {
                self.record = match serde_json::from_slice(&pair.value) {
                    Ok(record) => Recorded::Written { record: Box::new(record), revision: pair.mod_revision },
                    Err(error) => Recorded::Illegible(error.to_string()),
                }
            }
            Some(Key::Leader) => {
                // Whoever wrote it leads, even if the number cannot be read.
                let number = serde_json::from_slice(&pair.value).map_or(Number(0), |it: LeaderFacts| it.number);
                self.leader = Some(Leader { number, lease: pair.lease, since: pair.create_revision });
            }
            Some(Key::Instance(number)) => {
                let facts = serde_json::from_slice(&pair.value).unwrap_or_default();
                self.instances.insert(number, Instance { facts, lease: pair.lease });
            }
            None => {}
        }
    }

    /// The lowest number that no instance has; `None`: all are taken.
    pub(super) fn free_number(&self) -> Option<Number> {
        (1..=Number::MAX).map(Number).find(|number| !self.instances.contains_key(number))
    }

    /// What the others see of the nodes, besides `own`.
    pub(super) fn sights(&self, own: Number) -> impl Iterator<Item = Sight> {
        self.instances.iter().filter(move |(number, _)| **number != own).map(|(_, it)| it.facts.sight)
    }

    /// Who has not acknowledged this epoch yet, besides `own`.
    pub(super) fn missing(&self, epoch: u64, own: Number) -> impl Iterator<Item = (Number, &Instance)> {
        let others = self.instances.iter().filter(move |(number, _)| **number != own);
        others.filter(move |(_, it)| it.facts.acknowledged < epoch).map(|(number, it)| (*number, it))
    }
}

enum Key {
    Record,
    Leader,
    Instance(Number),
}

impl Key {
    fn named(prefix: &str, key: &[u8]) -> Option<Self> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
        match rest {
            "record" => Some(Self::Record),
            "leader" => Some(Self::Leader),
            _ => Some(Self::Instance(Number(rest.strip_prefix("instances/")?.parse().ok()?))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str, revision: i64, lease: i64) -> KeyValue {
        let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        KeyValue { key, value, create_revision: revision, mod_revision: revision, lease }
    }

    fn instance(number: u16, acknowledged: u64, revision: i64) -> KeyValue {
        let facts = InstanceFacts { name: format!("i{number}"), acknowledged, ..InstanceFacts::default() };
        let value = serde_json::to_string(&facts).unwrap();
        pair(&instance_key("/p/", Number(number)), &value, revision, i64::from(number))
    }

    fn view() -> View {
        let record = serde_json::to_string(&Record { epoch: 3, ..Record::default() }).unwrap();
        let all = vec![
            pair("/p/record", &record, 2, 0),
            pair("/p/leader", "{\"number\":1}", 4, 1),
            instance(1, 0, 5),
            instance(3, 2, 6),
            pair("/p/else", "x", 1, 0),
        ];
        View::new("/p/", &Keys { revision: 6, all })
    }

    #[test]
    fn keys_mean_something() {
        let view = view();
        assert!(matches!(&view.record, Recorded::Written { record, revision: 2 } if record.epoch == 3));
        assert_eq!(view.leader, Some(Leader { number: Number(1), lease: 1, since: 4 }));
        assert_eq!(view.instances.len(), 2);
        assert_eq!(view.free_number(), Some(Number(2)));
        let missing = |epoch| view.missing(epoch, Number(1)).map(|(number, _)| number.0).collect::<Vec<_>>();
        assert_eq!((missing(2), missing(3)), (vec![], vec![3]));
    }

    #[test]
    fn what_is_known_already_does_not_come_back() {
        let mut view = view();
        // The watch tells of what was read with all the keys.
        assert!(!view.apply("/p/", &[Change::Put(instance(2, 0, 6))]));
        assert_eq!(view.instances.len(), 2);
        let gone = |key: &str| Change::Deleted { key: key.as_bytes().to_vec(), revision: 9 };
        // A lease takes all its keys with it, in one revision.
        assert!(view.apply("/p/", &[gone("/p/leader"), gone("/p/instances/1"), Change::Put(instance(3, 3, 9))]));
        assert_eq!((view.leader.clone(), view.instances.len(), view.revision), (None, 1, 9));
        assert_eq!(view.missing(3, Number(1)).count(), 0);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_not_taken_for_none() {
        let all = vec![pair("/p/record", "{}", 2, 0)];
        let view = View::new("/p/", &Keys { revision: 2, all });
        assert!(matches!(view.record, Recorded::Illegible(_)), "{view:?}");
    }
}
