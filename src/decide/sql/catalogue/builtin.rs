//! The names that PostgreSQL itself brings, of all supported major versions.

use std::borrow::Cow;
use std::collections::HashMap;

use super::Nature;
use crate::decide::sql::types::Effects;

const HAZARDS: &str = include_str!("../data/hazards.tsv");
const SAFE: &str = include_str!("../data/safe.txt");
const EXTENSIONS: &str = include_str!("../data/extensions.tsv");

#[derive(Debug)]
pub(super) struct Builtin {
    functions: HashMap<&'static str, (Nature, &'static str)>,
    /// (extension, function)
    extensions: HashMap<(&'static str, &'static str), Nature>,
}

impl Builtin {
    pub(super) fn load() -> Self {
        let safe = lines(SAFE).flat_map(str::split_ascii_whitespace).map(|name| (name, (Nature::Safe, "")));
        let hazards = lines(HAZARDS).filter_map(|line| {
            let mut fields = line.split('\t');
            let (name, effects, why) = (fields.next()?, fields.next()?, fields.next()?);
            Some((name, (Nature::Primary(effects_named(effects)), why)))
        });
        let extensions = lines(EXTENSIONS).filter_map(|line| {
            let mut fields = line.split('\t');
            let (extension, name, verdict, effects) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let nature = if verdict == "replica" { Nature::Safe } else { Nature::Primary(effects_named(effects)) };
            Some(((extension, name), nature))
        });
        Builtin { functions: safe.chain(hazards).collect(), extensions: extensions.collect() }
    }

    pub(super) fn function(&self, name: &str) -> Option<Nature> {
        self.functions.get(name).map(|&(nature, _)| nature)
    }

    pub(super) fn of_extension(&self, extension: &str, name: &str) -> Option<Nature> {
        self.extensions.get(&(extension, name)).copied()
    }

    pub(super) fn why(&self, name: &str) -> Option<Cow<'static, str>> {
        self.functions.get(name).filter(|(nature, _)| *nature != Nature::Safe).map(|&(_, why)| Cow::Borrowed(why))
    }

    /// System views over the node's own state: its statistics, locks, settings, slots, files; and sequence values.
    pub(super) fn relation(&self, name: &str) -> Option<&'static str> {
        let rest = name.strip_prefix("pg_")?;
        let statistics = rest.starts_with("stat_") || rest.starts_with("statio_");
        match rest {
            _ if statistics => Some("statistics of the node"),
            "sequences" => Some("a sequence runs ahead on replicas"),
            "prepared_xacts" => Some("always empty on a replica"),
            "cursors" | "prepared_statements" => Some("state of the server connection"),
            "locks"
            | "settings"
            | "file_settings"
            | "hba_file_rules"
            | "ident_file_mappings"
            | "config"
            | "shmem_allocations"
            | "shmem_allocations_numa"
            | "backend_memory_contexts"
            | "replication_slots"
            | "replication_origin_status"
            | "aios"
            | "available_extensions"
            | "available_extension_versions"
            | "timezone_names"
            | "wait_events"
            | "dsm_registry_allocations" => Some("state of the node"),
            _ => None,
        }
    }
}

fn lines(data: &'static str) -> impl Iterator<Item = &'static str> {
    data.lines().filter(|line| !line.starts_with('#') && !line.is_empty())
}

fn effects_named(list: &str) -> Effects {
    list.split(',').fold(Effects::empty(), |all, name| {
        all | match name {
            "pins" => Effects::PINS,
            "unpins" => Effects::UNPINS,
            "settings" => Effects::SETTINGS,
            "sequence" => Effects::SEQUENCE_STATE,
            "node" => Effects::NODE,
            "writes" => Effects::WRITES,
            "seed" => Effects::SEED,
            "connects" => Effects::CONNECTS,
            "backup" => Effects::BACKUP,
            "origin" => Effects::ORIGIN,
            _ => Effects::empty(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_files_are_well_formed() {
        let mut hazards: Vec<&str> = Vec::new();
        for line in lines(HAZARDS) {
            let fields: Vec<&str> = line.split('\t').collect();
            assert_eq!(fields.len(), 3, "{line:?}");
            assert!(!fields[2].is_empty(), "{line:?}");
            let is_known = |name: &str| name.is_empty() || !effects_named(name).is_empty();
            assert!(fields[1].split(',').all(is_known), "{line:?}");
            hazards.push(fields[0]);
        }
        assert!(hazards.is_sorted_by(|a, b| a < b), "sorted, no name twice");
        for name in lines(SAFE).flat_map(str::split_ascii_whitespace) {
            assert!(hazards.binary_search(&name).is_err(), "{name} is in both lists");
        }
        for line in lines(EXTENSIONS) {
            let fields: Vec<&str> = line.split('\t').collect();
            assert!(fields.len() == 4 && matches!(fields[2], "primary" | "replica"), "{line:?}");
            assert!(fields[3].is_empty() || !effects_named(fields[3]).is_empty(), "{line:?}");
        }
    }
}
