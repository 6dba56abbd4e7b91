//! `pgpilot check`: the topology file, then the servers.

mod detection;
mod failover;
mod host;
mod synchronous;

use std::fmt;
use std::path::Path;

use serde_json::json;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::cli::arguments::{CheckArguments, Output};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Rows;
use crate::cli::{block_on, file, output};
use crate::cluster::{ControlError, connect_control};
use crate::config::{AuthQuery, Config, Coordination, Health, Node};
use crate::coordination::{EtcdError, Membership};

/// How much something matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Good,
    /// It works, but less well than it could.
    Warning,
    /// Something pgpilot promises does not hold.
    Bad,
    /// Nobody answered.
    Unreachable,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Bad => "wrong",
            Self::Unreachable => "unreachable",
        })
    }
}

struct Finding {
    grade: Grade,
    /// A node's name, or a section of the file.
    about: String,
    text: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, grade: Grade, about: &str, text: impl Into<String>) {
        self.0.push(Finding { grade, about: about.to_owned(), text: text.into() });
    }

    fn exit(&self) -> Exit {
        match self.0.iter().map(|finding| finding.grade).max() {
            None | Some(Grade::Good | Grade::Warning) => Exit::Done,
            Some(Grade::Bad) => Exit::Failed,
            Some(Grade::Unreachable) => Exit::Unreachable,
        }
    }

    fn show(&self, output: Output) -> String {
        let columns = ["result", "about", "finding"].map(str::to_owned).to_vec();
        let row = |it: &Finding| vec![json!(it.grade.to_string()), json!(it.about), json!(it.text)];
        Rows { columns, rows: self.0.iter().map(row).collect() }.show(output)
    }
}

pub(in crate::cli) fn run(arguments: &CheckArguments) -> Result<Exit, Failure> {
    let path = file::find(&arguments.file)?;
    let config = file::load(&path)?;
    let mut findings = of_file(&path, &config);
    if !arguments.offline {
        block_on(servers(&config, &mut findings))?;
    }
    output::say(findings.show(arguments.output));
    Ok(findings.exit())
}

fn of_file(path: &Path, config: &Config) -> Findings {
    let mut findings = Findings::default();
    let nodes = config.nodes.len();
    findings.add(Grade::Good, "file", format!("{} can be used: {nodes} nodes", path.display()));
    for warning in &config.warnings {
        findings.add(Grade::Warning, "file", warning.to_string());
    }
    host::check(&config.failover, &mut findings);
    findings
}

/// What one node says of itself.
struct Facts {
    recovering: bool,
    version: i32,
    system: i64,
    monitor: bool,
    max_connections: i32,
    reserved: i32,
    receiver_timeout: i32,
    apply_delay: i32,
    conforming: bool,
    streaming: bool,
    /// When it was started, and where it listens: with the system identifier, what tells one server from another. Its name does
    /// not: it may have several.
    started: String,
    port: i32,
}

impl Facts {
    fn is_same_server(&self, other: &Self) -> bool {
        (self.system, &self.started, self.port) == (other.system, &other.started, other.port)
    }
}

const FACTS: &str = "
SELECT pg_is_in_recovery(),
       current_setting('server_version_num')::int4,
       (SELECT system_identifier FROM pg_control_system()),
       pg_has_role('pg_monitor', 'USAGE'),
       current_setting('max_connections')::int4,
       current_setting('superuser_reserved_connections')::int4,
       (SELECT setting::int4 FROM pg_settings WHERE name = 'wal_receiver_timeout'),
       (SELECT setting::int4 FROM pg_settings WHERE name = 'recovery_min_apply_delay'),
       current_setting('standard_conforming_strings') = 'on',
       EXISTS (SELECT FROM pg_stat_wal_receiver),
       extract(epoch FROM pg_postmaster_start_time())::text,
       current_setting('port')::int4";

async fn servers(config: &Config, findings: &mut Findings) {
    let mut known: Vec<(&Node, Facts)> = Vec::new();
    for node in &config.nodes {
        let about = node.name.as_str();
        let limit = config.health.timeout.max(config.pool.connect_timeout);
        let asked = timeout(limit, async {
            let (client, _driver) = connect_control(node, &config.health, &config.health.database).await?;
            Ok::<_, ControlError>(ask(&client).await?)
        });
        match asked.await {
            Ok(Ok(facts)) => {
                of_node(config, node, &facts, findings);
                known.push((node, facts));
            }
            // The server has answered: it is there, and refuses.
            Ok(Err(ControlError::Server(error))) if error.as_db_error().is_some() => {
                findings.add(Grade::Bad, about, ControlError::from(error).to_string());
            }
            Ok(Err(error)) => findings.add(Grade::Unreachable, about, error.to_string()),
            Err(_) => findings.add(Grade::Unreachable, about, format!("no answer within {limit:?}")),
        }
    }
    of_cluster(config, &known, findings);
    if config.failover.in_use() || config.coordination.is_some() {
        failover::check(config, findings).await;
    }
    if let Some(settings) = &config.coordination {
        coordination(settings, findings).await;
    }
    if let Some(query) = &config.auth.query {
        let primary = known.iter().find(|(_, facts)| !facts.recovering).or(known.first());
        if let Some((node, ..)) = primary {
            auth_query(config, node, query, findings).await;
        }
    }
}

async fn coordination(settings: &Coordination, findings: &mut Findings) {
    const ABOUT: &str = "coordination";
    let found = match Membership::new(settings, None) {
        Ok(membership) => membership.others().await,
        Err(error) => return findings.add(Grade::Bad, ABOUT, error.to_string()),
    };
    match found {
        Ok(names) if names.is_empty() => findings.add(Grade::Good, ABOUT, "etcd answers; no instance runs"),
        Ok(names) => {
            findings.add(Grade::Good, ABOUT, format!("etcd answers; instances that run: {}", names.join(", ")))
        }
        Err(error) => {
            let unreachable = matches!(error, EtcdError::Unreachable(_));
            findings.add(if unreachable { Grade::Unreachable } else { Grade::Bad }, ABOUT, error.to_string());
        }
    }
}

async fn ask(client: &Client) -> Result<Facts, tokio_postgres::Error> {
    let row = client.query_one(FACTS, &[]).await?;
    Ok(Facts {
        recovering: row.try_get(0)?,
        version: row.try_get(1)?,
        system: row.try_get(2)?,
        monitor: row.try_get(3)?,
        max_connections: row.try_get(4)?,
        reserved: row.try_get(5)?,
        receiver_timeout: row.try_get(6)?,
        apply_delay: row.try_get(7)?,
        conforming: row.try_get(8)?,
        streaming: row.try_get(9)?,
        started: row.try_get(10)?,
        port: row.try_get(11)?,
    })
}

fn of_node(config: &Config, node: &Node, facts: &Facts, findings: &mut Findings) {
    let about = node.name.as_str();
    let role = if facts.recovering { "replica" } else { "primary" };
    let version = format!("{}.{}", facts.version / 10_000, facts.version % 10_000);
    findings.add(Grade::Good, about, format!("{role}, PostgreSQL {version}"));
    if !facts.monitor {
        let text = format!("the role {:?} is not in pg_monitor: GRANT pg_monitor TO it", config.health.user);
        findings.add(Grade::Warning, about, text);
    }
    let room = usize::try_from(facts.max_connections - facts.reserved).unwrap_or(0);
    if config.pool.max_server_connections >= room {
        let text = format!(
            "pool.max_server_connections = {} leaves no room for anybody else: max_connections is {}, {} reserved",
            config.pool.max_server_connections, facts.max_connections, facts.reserved
        );
        findings.add(Grade::Warning, about, text);
    }
    if !facts.conforming {
        let text = "standard_conforming_strings is off: every statement goes to the primary";
        findings.add(Grade::Warning, about, text);
    }
    if !facts.recovering {
        return;
    }
    if !facts.streaming {
        findings.add(Grade::Bad, about, "does not stream from a primary, or the role may not see pg_stat_wal_receiver");
    }
    if facts.apply_delay > 0 {
        let text =
            format!("recovery_min_apply_delay = {} ms: it never takes reads that need fresh data", facts.apply_delay);
        findings.add(Grade::Warning, about, text);
    }
    // With [failover] there is a stricter limit.
    if !config.failover.in_use() && (facts.receiver_timeout == 0 || facts.receiver_timeout > 30_000) {
        let text = format!(
            "wal_receiver_timeout = {} ms: a primary that has stopped without a word is noticed late; 4s is better",
            facts.receiver_timeout
        );
        findings.add(Grade::Warning, about, text);
    }
}

fn of_cluster(config: &Config, known: &[(&Node, Facts)], findings: &mut Findings) {
    const ABOUT: &str = "cluster";
    let mut servers: Vec<&(&Node, Facts)> = Vec::new();
    for one in known {
        match servers.iter().find(|other| other.1.is_same_server(&one.1)) {
            None => servers.push(one),
            Some((first, _)) => {
                let text = format!("{} and {} are one server, by two names: keep one of them", first.name, one.0.name);
                findings.add(Grade::Bad, ABOUT, text);
            }
        }
    }
    let primaries = servers.iter().filter(|(_, facts)| !facts.recovering);
    let primaries: Vec<_> = primaries.map(|(node, _)| &node.name).collect();
    match primaries[..] {
        // Somebody who does not answer may be it.
        [] if known.len() < config.nodes.len() => {}
        [] => findings.add(Grade::Bad, ABOUT, "no node is a primary"),
        [_] => {}
        _ => {
            let names: Vec<_> = primaries.iter().map(ToString::to_string).collect();
            findings.add(Grade::Bad, ABOUT, format!("several nodes are writable: {}", names.join(", ")));
        }
    }
    if let Some((.., first)) = known.first()
        && known.iter().any(|(.., facts)| facts.system != first.system)
    {
        findings.add(Grade::Bad, ABOUT, "the nodes belong to different clusters: their system identifiers differ");
    }
}

/// Whether verifiers can be read: its own user's is asked for, as every login will.
async fn auth_query(config: &Config, node: &Node, query: &AuthQuery, findings: &mut Findings) {
    const ABOUT: &str = "auth.query";
    let login = Health { user: query.user.clone(), password: query.password.clone(), ..config.health.clone() };
    let asked = timeout(config.pool.connect_timeout, async {
        let (client, _driver) = connect_control(node, &login, &query.database).await?;
        let rows = client.query(&query.sql, &[&query.user]).await?;
        Ok::<_, ControlError>(rows)
    });
    match asked.await {
        Ok(Ok(rows)) => match &rows[..] {
            [row] if row.len() >= 2 => match row.try_get::<_, Option<String>>(1) {
                Ok(Some(_)) => findings.add(Grade::Good, ABOUT, format!("reads verifiers on {}", node.name)),
                Ok(None) => findings.add(Grade::Warning, ABOUT, format!("the user {:?} has no password", query.user)),
                Err(_) => findings.add(Grade::Bad, ABOUT, "its second column is not a text"),
            },
            [_] => findings.add(Grade::Bad, ABOUT, "it must return two columns: name and verifier"),
            rows => findings.add(Grade::Bad, ABOUT, format!("{} rows for one user, expected one", rows.len())),
        },
        Ok(Err(error)) => findings.add(Grade::Bad, ABOUT, error.to_string()),
        Err(_) => findings.add(Grade::Bad, ABOUT, "no answer in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "[[nodes]]\nname = \"a\"\nhost = \"127.0.0.1\"\n[[nodes]]\nname = \"b\"\nhost = \"127.0.0.1\"\nport = 2\n";

    fn facts() -> Facts {
        Facts {
            recovering: true,
            version: 150_004,
            system: 1,
            monitor: true,
            max_connections: 200,
            reserved: 3,
            receiver_timeout: 10_000,
            apply_delay: 0,
            conforming: true,
            streaming: true,
            started: "1.5".into(),
            port: 5432,
        }
    }

    #[test]
    fn one_server_by_two_names_is_not_two_servers() {
        let config = Config::parse(FILE, "f", &|_| None).unwrap();
        let of = |a: Facts, b: Facts| {
            let mut findings = Findings::default();
            let [first, second] = &config.nodes[..] else { panic!("two nodes") };
            of_cluster(&config, &[(first, a), (second, b)], &mut findings);
            findings.0.into_iter().map(|finding| finding.text).collect::<Vec<_>>()
        };
        let primary = || Facts { recovering: false, ..facts() };
        let twice = "a and b are one server, by two names: keep one of them";
        assert_eq!(of(primary(), primary()), [twice]);
        assert_eq!(of(facts(), facts()), [twice, "no node is a primary"]);
        for other in [Facts { port: 5433, ..primary() }, Facts { started: "1.6".into(), ..primary() }] {
            assert_eq!(of(primary(), other), ["several nodes are writable: a, b"]);
        }
        assert_eq!(of(primary(), Facts { port: 5433, ..facts() }), [""; 0]);
    }

    #[test]
    fn each_setting_that_breaks_a_promise_is_named() {
        let config = Config::parse(FILE, "f", &|_| None).unwrap();
        let of = |facts: Facts| {
            let mut findings = Findings::default();
            of_node(&config, &config.nodes[0], &facts, &mut findings);
            findings
        };
        assert_eq!(of(facts()).0.len(), 1);
        for (facts, grade, word) in [
            (Facts { monitor: false, ..facts() }, Grade::Warning, "pg_monitor"),
            (Facts { max_connections: 50, ..facts() }, Grade::Warning, "max_connections"),
            (Facts { conforming: false, ..facts() }, Grade::Warning, "standard_conforming_strings"),
            (Facts { streaming: false, ..facts() }, Grade::Bad, "stream"),
            (Facts { apply_delay: 5, ..facts() }, Grade::Warning, "recovery_min_apply_delay"),
            (Facts { receiver_timeout: 60_000, ..facts() }, Grade::Warning, "wal_receiver_timeout"),
            (Facts { receiver_timeout: 0, ..facts() }, Grade::Warning, "wal_receiver_timeout"),
        ] {
            let findings = of(facts);
            assert_eq!(findings.0.len(), 2, "{word}");
            assert!(findings.0[1].grade == grade && findings.0[1].text.contains(word), "{}", findings.0[1].text);
        }
    }

    #[test]
    fn the_worst_finding_decides_the_exit_code() {
        let mut findings = Findings::default();
        assert_eq!(findings.exit(), Exit::Done);
        for (grade, exit) in [
            (Grade::Warning, Exit::Done),
            (Grade::Bad, Exit::Failed),
            (Grade::Unreachable, Exit::Unreachable),
            (Grade::Good, Exit::Unreachable),
        ] {
            findings.add(grade, "x", "y");
            assert_eq!(findings.exit(), exit);
        }
    }
}
