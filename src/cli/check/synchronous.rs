//! `synchronous_standby_names`, held against the nodes that there are.

use std::collections::BTreeSet;

use crate::decide::failover::{Synchronous, conninfo};

/// What is wrong with the setting on a primary. `own`: the name under which it would follow itself; `others`: those of the
/// other nodes, where they are known.
pub(super) fn trouble(rule: &Synchronous, own: &str, others: &[Option<String>]) -> Vec<String> {
    let mut trouble = Vec::new();
    let known = |listed: &&str| {
        let same = |name: &str| name.eq_ignore_ascii_case(listed);
        *listed == "*" || same(own) || others.iter().flatten().any(|name| same(name))
    };
    let unseen = others.iter().any(Option::is_none);
    if !unseen {
        let strangers: Vec<&str> = rule.listed().filter(|listed| !known(listed)).collect();
        if !strangers.is_empty() {
            trouble.push(format!("it lists {}, under which no node follows", strangers.join(", ")));
        }
    }
    if rule.listed().any(|listed| listed == "*") {
        trouble.push(
            "it counts any standby, also one that is not in the topology file, such as pg_receivewal: a commit that only \
             that one has is lost with the primary, and while one is there, no failover is begun for want of a quorum: \
             list the nodes"
                .to_owned(),
        );
    }
    let bearers = |name: &&str| others.iter().flatten().filter(|other| other.eq_ignore_ascii_case(name)).count();
    let shared: BTreeSet<&str> = rule.listed().filter(|name| bearers(name) > 1).collect();
    for name in shared {
        trouble.push(format!("several nodes follow as {name}: set their cluster_name, and list each"));
    }
    let listed = others.iter().filter(|name| name.as_deref().is_none_or(|name| rule.lists(name))).count();
    let (count, away) = (rule.quorum, listed.saturating_sub(rule.quorum));
    if count > listed {
        trouble.push(format!("a commit waits for {count} replicas, and {listed} can answer: it waits for ever"));
    } else if away == 0 {
        trouble.push(format!("a commit waits for all of {listed} replicas: it hangs as soon as one of them is away"));
    } else if count == 1 && listed > 2 {
        trouble.push(format!(
            "a commit waits for 1 of {listed} replicas: a failover is only safe while all {listed} answer; with 2 of \
             {listed}, one may be away"
        ));
    }
    trouble
}

/// The name under which a standby follows: that of `primary_conninfo`, or else `cluster_name`, or else `walreceiver`.
/// Source: PostgreSQL's documentation, `cluster_name` in "Error Reporting and Logging".
pub(super) fn follows_as(conninfo: &str, cluster_name: &str) -> String {
    let named = if conninfo.starts_with("postgres://") || conninfo.starts_with("postgresql://") {
        let query = conninfo.split_once('?').map_or("", |(_, query)| query);
        query.split('&').find_map(|pair| pair.strip_prefix("application_name=")).map(str::to_owned)
    } else {
        conninfo::value(conninfo, "application_name")
    };
    let cluster = Some(cluster_name).filter(|name| !name.is_empty()).map(str::to_owned);
    named.filter(|name| !name.is_empty()).or(cluster).unwrap_or_else(|| "walreceiver".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_do_not_fit_the_nodes_are_named() {
        let name = |name: &str| Some(name.to_owned());
        let three = [name("pg2"), name("pg3")];
        let four = [name("pg2"), name("pg3"), name("pg4")];
        let alike = [name("walreceiver"), name("walreceiver")];
        let hidden = [name("pg2"), None];
        for (setting, others, expected) in [
            ("ANY 1 (pg1, pg2, pg3)", &three[..], None),
            ("ANY 1 (PG2, pg3)", &three, None),
            ("ANY 1 (*)", &three, Some("it counts any standby")),
            ("ANY 1 (walreceiver)", &alike, Some("several nodes follow as walreceiver")),
            ("ANY 1 (pg1, pg2, pg3, pg9)", &three, Some("it lists pg9, under which no node follows")),
            ("ANY 3 (pg1, pg2, pg3)", &three, Some("a commit waits for 3 replicas, and 2 can answer")),
            ("ANY 2 (pg2, pg3)", &three, Some("a commit waits for all of 2 replicas")),
            ("pg2", &three, Some("a commit waits for all of 1 replicas")),
            ("ANY 1 (pg2, pg3, pg4)", &four, Some("a commit waits for 1 of 3 replicas")),
            ("ANY 2 (pg2, pg3, pg4)", &four, None),
            // What a node is called that cannot be asked is not held against anybody.
            ("ANY 1 (pg2, other)", &hidden, None),
        ] {
            let trouble = trouble(&Synchronous::parse(setting), "pg1", others);
            assert_eq!(trouble.len(), usize::from(expected.is_some()), "{setting}: {trouble:?}");
            assert!(trouble.iter().all(|it| it.starts_with(expected.unwrap_or_default())), "{setting}: {trouble:?}");
        }
    }

    #[test]
    fn a_standby_has_a_name_in_any_case() {
        for (conninfo, cluster, expected) in [
            ("host=h application_name=pg2 user=r", "c", "pg2"),
            ("host='a\\'b c' application_name = 'pg 2'", "c", "pg 2"),
            ("application_name=a application_name=b", "", "b"),
            ("fallback_application_name=a", "c", "c"),
            ("postgresql://h/?sslmode=x&application_name=pg2", "", "pg2"),
            ("", "", "walreceiver"),
        ] {
            assert_eq!(follows_as(conninfo, cluster), expected, "{conninfo}");
        }
    }
}
