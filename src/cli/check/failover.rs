//! What `[failover]` needs of the servers: settings without which a promotion, or what follows it, fails or takes long,
//! and the privileges of who promotes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::synchronous::{follows_as, trouble};
use super::{Findings, Grade, detection};
use crate::cluster::{ControlError, connect_control};
use crate::config::{Config, Health, Node};
use crate::decide::failover::Synchronous;

/// Above it a frozen primary is noticed late: replicas are heard to be silent after half of it.
const RECEIVER_TIMEOUT: i64 = 5000;

/// What a standby must not have less of than its primary: PostgreSQL's documentation, "Administrator's Overview" of hot
/// standby.
const AS_LARGE: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

/// Above it, what somebody reads on a replica can hold up its promotion, and reads that need to be fresh.
const STANDBY_DELAY: i64 = 5000;

const SETTINGS: [&str; 19] = [
    AS_LARGE[0],
    AS_LARGE[1],
    AS_LARGE[2],
    AS_LARGE[3],
    AS_LARGE[4],
    "allow_alter_system",
    "cluster_name",
    "data_checksums",
    "full_page_writes",
    "hot_standby",
    "max_standby_streaming_delay",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_min_apply_delay",
    "recovery_target_timeline",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_log_hints",
    "wal_receiver_timeout",
];

/// What one node says of itself to who promotes.
struct Standing<'c> {
    node: &'c Node,
    role: Role,
    /// `server_version_num`.
    version: i32,
    /// As in `pg_settings`; one that is missing is not known to this version, or may not be read.
    settings: BTreeMap<String, String>,
    /// Names of physical replication slots.
    slots: Vec<String>,
    /// Privileges that the role lacks.
    lacking: Vec<String>,
    /// Roles and databases with a `synchronous_commit` of their own that waits for no standby, in words.
    hasty: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Primary,
    Replica,
}

impl Standing<'_> {
    fn text(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.settings.get(name)?.parse().ok()
    }

    fn about(&self) -> &str {
        self.node.name.as_str()
    }

    /// The name under which it follows a primary; `None`: it may not be read.
    fn follows_as(&self) -> Option<String> {
        let conninfo = self.settings.get("primary_conninfo")?;
        match (conninfo.as_str(), self.text("cluster_name")) {
            // It has never followed anybody; the node's name is what one would choose.
            ("", "") => Some(self.node.name.to_string()),
            (conninfo, cluster) => Some(follows_as(conninfo, cluster)),
        }
    }
}

pub(super) async fn check(config: &Config, findings: &mut Findings) {
    let mut standings = Vec::new();
    for node in &config.nodes {
        let limit = config.health.timeout.max(config.pool.connect_timeout);
        match timeout(limit, ask(config, node)).await {
            Ok(Ok(standing)) => standings.push(standing),
            Ok(Err(ControlError::Server(error))) if error.as_db_error().is_some() => {
                let text = format!("the role {:?} of [failover]: {}", config.failover.user, ControlError::from(error));
                findings.add(Grade::Bad, node.name.as_str(), text);
            }
            // That nobody answers has been said already.
            Ok(Err(_)) | Err(_) => {}
        }
    }
    judge(config, &standings, findings);
    let receiver = |standing: &Standing<'_>| standing.number("wal_receiver_timeout");
    let receivers: Vec<_> =
        standings.iter().filter_map(receiver).map(i64::unsigned_abs).map(Duration::from_millis).collect();
    if !receivers.is_empty() {
        detection::check(config, receivers, findings);
    }
}

async fn ask<'c>(config: &Config, node: &'c Node) -> Result<Standing<'c>, ControlError> {
    let (user, password) = (config.failover.user.clone(), config.failover.password.clone());
    let login = Health { user, password, ..config.health.clone() };
    let (client, _driver) = connect_control(node, &login, &config.health.database).await?;
    let row = client.query_one("SELECT pg_is_in_recovery(), current_setting('server_version_num')::int4", &[]).await?;
    let (recovering, version) = (row.try_get(0)?, row.try_get(1)?);
    let settings =
        client.query("SELECT name, setting FROM pg_settings WHERE name = ANY($1)", &[&&SETTINGS[..]]).await?;
    let settings = settings.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    Ok(Standing {
        node,
        role: if recovering { Role::Replica } else { Role::Primary },
        version,
        settings: settings.collect::<Result<_, tokio_postgres::Error>>()?,
        slots: texts(&client, "SELECT slot_name::text FROM pg_replication_slots WHERE slot_type = 'physical'").await?,
        lacking: texts(&client, &lacking(version)).await?,
        hasty: texts(&client, HASTY).await?,
    })
}

/// Where `synchronous_commit` is set for whom, so that commits do not wait for a standby.
const HASTY: &str = "SELECT concat_ws(' in ',
              CASE WHEN setrole <> 0 THEN 'role ' || quote_ident(pg_get_userbyid(setrole)) END,
              CASE WHEN setdatabase <> 0 THEN 'database ' || quote_ident(datname) END) || ' (' || split_part(it, '=', 2) || ')'
       FROM pg_db_role_setting LEFT JOIN pg_database d ON d.oid = setdatabase, unnest(setconfig) it
      WHERE it LIKE 'synchronous\\_commit=%' AND split_part(it, '=', 2) NOT IN ('on', 'remote_write', 'remote_apply')
      ORDER BY 1";

async fn texts(client: &Client, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    client.query(sql, &[]).await?.iter().map(|row| row.try_get(0)).collect()
}

/// A query for the privileges that the role does not have: to promote, to cut off and repoint (`primary_conninfo`), to make
/// slots, to see positions and receivers, to stop writes and sessions before a switchover, and to write the epoch down.
fn lacking(version: i32) -> String {
    // Before 15, ALTER SYSTEM could not be granted.
    let alter = if version >= 150_000 { "has_parameter_privilege(parameter, 'ALTER SYSTEM')" } else { "r.rolsuper" };
    format!(
        "SELECT needed.what
           FROM pg_roles r,
                LATERAL (
                  VALUES
                    ('EXECUTE ON FUNCTION pg_promote',
                     has_function_privilege('pg_catalog.pg_promote(boolean, integer)', 'EXECUTE')),
                    ('EXECUTE ON FUNCTION pg_reload_conf',
                     has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE')),
                    ('pg_monitor', pg_has_role('pg_monitor', 'USAGE')),
                    ('pg_signal_backend', pg_has_role('pg_signal_backend', 'USAGE')),
                    ('CREATE ON DATABASE ' || quote_ident(current_database()),
                     has_database_privilege(current_database(), 'CREATE')),
                    ('REPLICATION', r.rolreplication OR r.rolsuper)
                  UNION ALL
                  SELECT 'ALTER SYSTEM ON PARAMETER ' || parameter, {alter}
                    FROM (VALUES ('primary_conninfo'), ('default_transaction_read_only')) AS parameters(parameter)
                ) AS needed(what, there)
          WHERE r.rolname = current_user AND NOT needed.there"
    )
}

fn judge(config: &Config, standings: &[Standing<'_>], findings: &mut Findings) {
    let before = findings.0.len();
    for standing in standings {
        of_node(standing, findings);
        followers(standing, standings, findings);
    }
    // Roles are the same on all nodes.
    if let Some(standing) = standings.first() {
        privileges(&config.failover.user, standing, findings);
    }
    if let Some(primary) = standings.iter().find(|standing| standing.role == Role::Primary) {
        for standing in standings.iter().filter(|standing| standing.role == Role::Replica) {
            sizes(primary, standing, findings);
        }
        synchronous(primary, standings, findings);
    }
    if findings.0.len() == before && !standings.is_empty() {
        findings.add(
            Grade::Good,
            "failover",
            format!("the servers allow it, as far as {:?} can see", config.failover.user),
        );
    }
}

fn of_node(standing: &Standing<'_>, findings: &mut Findings) {
    let mut add = |grade, text: String| findings.add(grade, standing.about(), text);
    if standing.version < 130_000 {
        add(Grade::Bad, "to follow another primary without a restart needs PostgreSQL 13".to_owned());
    }
    if standing.text("hot_standby") == "off" {
        add(Grade::Bad, "hot_standby is off: as a standby it cannot be asked for anything".to_owned());
    }
    if !matches!(standing.text("recovery_target_timeline"), "latest" | "") {
        add(Grade::Bad, "recovery_target_timeline is not \"latest\": it does not follow a new primary".to_owned());
    }
    if standing.text("allow_alter_system") == "off" {
        add(Grade::Bad, "allow_alter_system is off: it cannot be made to follow another primary".to_owned());
    }
    if standing.text("primary_conninfo").starts_with("postgres") {
        let text = "primary_conninfo is a URI: pgpilot can only repoint the form of keywords and values";
        add(Grade::Bad, text.to_owned());
    }
    let receiver = standing.number("wal_receiver_timeout").unwrap_or(0);
    if receiver == 0 || receiver > RECEIVER_TIMEOUT {
        let text =
            format!("wal_receiver_timeout = {receiver} ms: a frozen primary is noticed after half of it; 4s is good");
        add(Grade::Warning, text);
    }
    if standing.text("wal_log_hints") == "off" && standing.text("data_checksums") == "off" {
        let text =
            "neither wal_log_hints nor data checksums are on: a lost primary cannot be rewound, only copied anew";
        add(Grade::Warning, text.to_owned());
    }
    if standing.text("full_page_writes") == "off" {
        add(Grade::Warning, "full_page_writes is off: pg_rewind refuses to work".to_owned());
    }
    let delay = standing.number("max_standby_streaming_delay").filter(|&delay| !(0..=STANDBY_DELAY).contains(&delay));
    if let Some(delay) = delay {
        let delay = if delay < 0 { "-1 (for ever)".to_owned() } else { format!("{delay} ms") };
        let text = format!(
            "max_standby_streaming_delay = {delay}: for so long, one who reads on a replica can keep it from replaying \
             the log; with less than 5s, replicas stay fresh, and pgpilot runs the read again elsewhere"
        );
        add(Grade::Warning, text);
    }
    let delayed = standing.number("recovery_min_apply_delay").is_some_and(|delay| delay > 0);
    if delayed && standing.node.priority > 0 {
        let text = "recovery_min_apply_delay is set: it is never promoted; nodes.priority = 0 says so";
        add(Grade::Warning, text.to_owned());
    }
}

/// Whether those who may follow this node find their slots on it.
fn followers(standing: &Standing<'_>, standings: &[Standing<'_>], findings: &mut Findings) {
    if standing.role == Role::Replica && standing.text("primary_slot_name").is_empty() {
        let text = "primary_slot_name is not set: a primary may remove log that it still needs, and then it has to be copied anew";
        findings.add(Grade::Warning, standing.about(), text);
    }
    let may_lead = standing.role == Role::Primary || standing.node.priority > 0;
    for other in standings.iter().filter(|other| may_lead && other.node.name != standing.node.name) {
        let slot = other.text("primary_slot_name");
        if !slot.is_empty() && !standing.slots.iter().any(|there| there == slot) {
            let text = format!(
                "the slot {slot:?}, of which {} reads, is not here: make it, or it has to be made before {} can \
                                follow",
                other.node.name, other.node.name
            );
            findings.add(Grade::Warning, standing.about(), text);
        }
    }
}

fn privileges(role: &str, standing: &Standing<'_>, findings: &mut Findings) {
    let role = format!("\"{}\"", role.replace('"', "\"\""));
    for what in &standing.lacking {
        let remedy = match what.as_str() {
            "REPLICATION" => format!("ALTER ROLE {role} REPLICATION"),
            what if what.starts_with("ALTER SYSTEM") && standing.version < 150_000 => {
                format!("before PostgreSQL 15 that takes ALTER ROLE {role} SUPERUSER")
            }
            what => format!("GRANT {what} TO {role}"),
        };
        findings.add(Grade::Bad, "failover.user", format!("the role {role} lacks {what}: {remedy}"));
    }
}

/// Whether a replica has room for all that the primary may do, and the other way round.
fn sizes(primary: &Standing<'_>, replica: &Standing<'_>, findings: &mut Findings) {
    for name in AS_LARGE {
        let (Some(theirs), Some(own)) = (primary.number(name), replica.number(name)) else { continue };
        if own < theirs {
            let text = format!("{name} = {own}, and {theirs} on {}: replay stops when that is used", primary.about());
            findings.add(Grade::Bad, replica.about(), text);
        } else if own > theirs {
            let text = format!(
                "{name} = {theirs}, and {own} on {}: after a promotion of that one it cannot start as its standby",
                replica.about()
            );
            findings.add(Grade::Warning, primary.about(), text);
        }
    }
}

fn synchronous(primary: &Standing<'_>, standings: &[Standing<'_>], findings: &mut Findings) {
    const NAME: &str = "synchronous_standby_names";
    let rule = Synchronous::parse(primary.text(NAME));
    if rule.is_asynchronous() {
        let text = format!(
            "{NAME} is empty: a failover may lose what was acknowledged last; failover.max_data_loss is its limit"
        );
        findings.add(Grade::Warning, primary.about(), text);
        return;
    }
    let commit = primary.text("synchronous_commit");
    let server = matches!(commit, "off" | "local").then(|| format!("the server ({commit})"));
    let hasty: Vec<String> = server.into_iter().chain(primary.hasty.iter().cloned()).collect();
    if !hasty.is_empty() {
        let text = format!(
            "synchronous_commit waits for no standby, and a failover may lose what was acknowledged last, as set for: {}",
            hasty.join(", ")
        );
        findings.add(Grade::Warning, primary.about(), text);
    }
    let others = standings.iter().filter(|other| other.node.name != primary.node.name);
    let names: Vec<_> = others.clone().map(Standing::follows_as).collect();
    let own = primary.follows_as().unwrap_or_else(|| primary.node.name.to_string());
    for trouble in trouble(&rule, &own, &names) {
        findings.add(Grade::Warning, primary.about(), format!("{NAME}: {trouble}"));
    }
    for other in others.filter(|other| other.node.priority > 0 && other.text(NAME).is_empty()) {
        let text = format!("{NAME} is empty, but not on {}: as the primary it would wait for nobody", primary.about());
        findings.add(Grade::Warning, other.about(), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[[nodes]]\nname = \"pg1\"\nhost = \"h\"\n[[nodes]]\nname = \"pg2\"\nhost = \"h\"\nport = 2\n\
                        [[nodes]]\nname = \"pg3\"\nhost = \"h\"\nport = 3\n[failover]\nuser = \"f\"\n";

    /// Servers with nothing to complain of: pg1 is the primary, and each has a slot for every other.
    fn sound(config: &Config) -> Vec<Standing<'_>> {
        let standing = |node: &'_ Node| -> BTreeMap<String, String> {
            let name = node.name.as_str();
            let conninfo = format!("host=x application_name={name}");
            let common = [
                ("hot_standby", "on"),
                ("max_standby_streaming_delay", "1000"),
                ("synchronous_commit", "on"),
                ("recovery_target_timeline", "latest"),
                ("wal_receiver_timeout", "4000"),
                ("wal_log_hints", "on"),
                ("data_checksums", "off"),
                ("full_page_writes", "on"),
                ("recovery_min_apply_delay", "0"),
                ("primary_slot_name", name),
                ("primary_conninfo", &conninfo),
                ("synchronous_standby_names", "ANY 1 (pg1, pg2, pg3)"),
            ];
            let sizes = AS_LARGE.map(|name| (name, "100"));
            common.into_iter().chain(sizes).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let of = |(number, node): (usize, _)| Standing {
            node,
            role: if number == 0 { Role::Primary } else { Role::Replica },
            version: 150_004,
            settings: standing(node),
            slots: ["pg1", "pg2", "pg3"].map(str::to_owned).to_vec(),
            lacking: Vec::new(),
            hasty: Vec::new(),
        };
        config.nodes.iter().enumerate().map(of).collect()
    }

    /// Findings after `change`, as (grade, about, text).
    fn after(change: impl FnOnce(&mut [Standing<'_>])) -> Vec<(Grade, String, String)> {
        let config = Config::parse(FILE, "f", &|_| None).unwrap();
        let mut standings = sound(&config);
        change(&mut standings);
        let mut findings = Findings::default();
        judge(&config, &standings, &mut findings);
        findings.0.into_iter().map(|it| (it.grade, it.about, it.text)).collect()
    }

    #[test]
    fn each_setting_that_stands_in_the_way_is_named_where_it_is() {
        let fine = after(|_| ());
        assert!(fine.len() == 1 && fine[0].0 == Grade::Good, "{fine:?}");
        for (node, name, value, grade, about) in [
            (1, "hot_standby", "off", Grade::Bad, "pg2"),
            (2, "recovery_target_timeline", "current", Grade::Bad, "pg3"),
            (2, "allow_alter_system", "off", Grade::Bad, "pg3"),
            (1, "primary_conninfo", "postgresql://h/?application_name=pg2", Grade::Bad, "pg2"),
            (0, "wal_receiver_timeout", "60000", Grade::Warning, "pg1"),
            (0, "wal_receiver_timeout", "0", Grade::Warning, "pg1"),
            (1, "wal_log_hints", "off", Grade::Warning, "pg2"),
            (1, "full_page_writes", "off", Grade::Warning, "pg2"),
            (1, "recovery_min_apply_delay", "60000", Grade::Warning, "pg2"),
            (1, "max_standby_streaming_delay", "-1", Grade::Warning, "pg2"),
            (2, "max_standby_streaming_delay", "30000", Grade::Warning, "pg3"),
            (0, "synchronous_commit", "local", Grade::Warning, "pg1"),
            (1, "primary_slot_name", "", Grade::Warning, "pg2"),
            (1, "max_prepared_transactions", "0", Grade::Bad, "pg2"),
            (2, "max_connections", "90", Grade::Bad, "pg3"),
            (0, "synchronous_standby_names", "", Grade::Warning, "pg1"),
            (0, "synchronous_standby_names", "ANY 2 (pg1, pg2, pg3)", Grade::Warning, "pg1"),
            (0, "synchronous_standby_names", "ANY 1 (pg1, pg2, pg3, pg4)", Grade::Warning, "pg1"),
            (2, "synchronous_standby_names", "", Grade::Warning, "pg3"),
        ] {
            let found = after(|all| drop(all[node].settings.insert(name.to_owned(), value.to_owned())));
            assert_eq!(found.len(), 1, "{name} = {value}: {found:?}");
            assert_eq!((found[0].0, found[0].1.as_str()), (grade, about), "{found:?}");
            let word = if name == "wal_log_hints" { "rewound" } else { name };
            assert!(found[0].2.contains(word), "{found:?}");
        }
    }

    #[test]
    fn whoever_does_not_wait_for_standbys_is_named() {
        let hasty = "role \"bulk\" in database shop (off)";
        let found = after(|all| all[0].hasty = vec![hasty.to_owned()]);
        assert!(found.len() == 1 && found[0].1 == "pg1" && found[0].2.contains(hasty), "{found:?}");
    }

    #[test]
    fn what_is_larger_on_replicas_keeps_the_old_primary_from_coming_back() {
        let found = after(|all| drop(all[0].settings.insert("max_wal_senders".into(), "5".into())));
        assert!(found.iter().all(|(grade, about, _)| *grade == Grade::Warning && about == "pg1"), "{found:?}");
        assert_eq!(found.len(), 2, "one for each replica");
    }

    #[test]
    fn slots_are_missed_where_somebody_would_look_for_them() {
        let found = after(|all| all[1].slots.retain(|slot| slot != "pg3"));
        assert!(found.len() == 1 && found[0].1 == "pg2" && found[0].2.starts_with("the slot \"pg3\""), "{found:?}");
    }

    #[test]
    fn a_missing_privilege_is_told_once_with_its_remedy() {
        let lacking = ["EXECUTE ON FUNCTION pg_promote", "ALTER SYSTEM ON PARAMETER primary_conninfo", "REPLICATION"];
        let on = |version: i32| {
            let found = after(|all| {
                for standing in all {
                    standing.version = version;
                    standing.lacking = lacking.map(str::to_owned).to_vec();
                }
            });
            assert!(
                found.iter().all(|(grade, about, _)| *grade == Grade::Bad && about == "failover.user"),
                "{found:?}"
            );
            found.into_iter().map(|(.., text)| text.rsplit_once(": ").unwrap().1.to_owned()).collect::<Vec<_>>()
        };
        let granted = "GRANT ALTER SYSTEM ON PARAMETER primary_conninfo TO \"f\"";
        let promote = "GRANT EXECUTE ON FUNCTION pg_promote TO \"f\"";
        assert_eq!(on(150_000), [promote, granted, "ALTER ROLE \"f\" REPLICATION"]);
        assert_eq!(on(140_000)[1], "before PostgreSQL 15 that takes ALTER ROLE \"f\" SUPERUSER");
    }
}
