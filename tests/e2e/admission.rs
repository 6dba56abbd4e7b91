//! Who gets in, with which credentials, and what a changed topology file changes for those who are in.

use std::time::Duration;

use pgpilot::config::{Config, Consistency, SslMode};
use pgpilot::decide::sql::Intent;
use pgpilot::demo::Scope;
use tokio_postgres::{Client, Error, NoTls};

use crate::support::process::Process;
use crate::support::proxy::{PASSWORD, Proxy, USER, ask, servers, topology, try_ask};
use crate::support::raw::Raw;
use crate::support::{LIMIT, wait_for};

const PRIMARY: &str = "/* pgpilot: primary */ SELECT pg_backend_pid()";
const REPLICA: &str = "/* pgpilot: replica */ SELECT 1";

async fn log_in(proxy: &Proxy, password: &str, database: &str) -> Result<Client, Error> {
    let port = proxy.port();
    let text = format!("host=127.0.0.1 port={port} user={USER} password={password} dbname={database}");
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn code(error: &Error) -> Option<&str> {
    error.code().map(tokio_postgres::error::SqlState::code)
}

/// Whatever comes now is run on a new server connection.
fn close_pools(proxy: &Proxy) {
    proxy.app.shared().pools.all().iter().for_each(|(_, pool)| pool.clear());
}

fn reload(proxy: &Proxy, change: impl FnOnce(&mut Config)) -> Result<(), String> {
    let mut config = Config::clone(&proxy.app.shared().config.load());
    change(&mut config);
    proxy.app.shared().reload(config).map_err(|error| error.to_string())
}

#[tokio::test]
async fn sessions_from_before_a_change_of_password_bring_no_old_one_along() {
    let proxy = Proxy::with("[routing]\nconsistency = \"eventual\"\n").await;
    let old = proxy.connect().await;
    ask(&old, PRIMARY).await;
    proxy.node("pg1").sql("ALTER ROLE app PASSWORD 'another'").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    let mut new = None;
    wait_for("a login with the new password", LIMIT, async || {
        new = log_in(&proxy, "another", "shop").await.ok();
        new.is_some()
    })
    .await;
    let new = new.unwrap();
    // The old session is the first one of its user's on the replicas.
    for _ in 0..3 {
        ask(&old, REPLICA).await;
        close_pools(&proxy);
        ask(&new, REPLICA).await;
        ask(&new, PRIMARY).await;
    }
    assert_eq!(proxy.counts().1, 6, "none had to go to the primary");
}

#[tokio::test]
async fn who_had_to_prove_nothing_takes_no_credential_away() {
    let proxy = Proxy::with("").await;
    let proven = proxy.connect().await;
    ask(&proven, PRIMARY).await;
    let rule = "[[auth.rules]]\nconnection = \"any\"\nmethod = \"trust\"\n";
    let rules = topology(&proxy.servers, rule).auth.rules;
    reload(&proxy, |config| config.auth.rules = rules).unwrap();
    let trusted = log_in(&proxy, "none", "shop").await.unwrap();
    ask(&trusted, PRIMARY).await;
    close_pools(&proxy);
    ask(&proven, PRIMARY).await;
    ask(&trusted, REPLICA).await;
}

#[tokio::test]
async fn clients_log_in_while_the_primary_is_frozen() {
    let proxy = Proxy::with("[auth]\nverifier_ttl = \"1ms\"\n").await;
    drop(proxy.connect().await);
    proxy.node("pg1").freeze(Scope::Node).await.unwrap();
    wait_for("a login", LIMIT, async || log_in(&proxy, PASSWORD, "shop").await.is_ok()).await;
    proxy.node("pg1").thaw().unwrap();
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing_and_one_that_need_not_closes_nothing() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\n").await;
    let client = proxy.connect().await;
    let before = ask(&client, PRIMARY).await;
    let refused = reload(&proxy, |config| {
        let mut node = config.nodes[2].clone();
        node.name = "pg9".to_owned().try_into().unwrap();
        node.tls.mode = SslMode::VerifyCa;
        node.tls.ca = Some("/nothing/here.crt".into());
        config.nodes.push(node);
    });
    assert!(refused.unwrap_err().contains("/nothing/here.crt"));
    assert!(proxy.app.shared().cluster.find("pg9").is_none());
    assert_eq!(proxy.app.shared().config.load().nodes.len(), 3);
    reload(&proxy, |config| {
        config.nodes[0].weight = 7;
        config.nodes[0].zone = Some("b".to_owned());
    })
    .unwrap();
    assert_eq!(ask(&client, PRIMARY).await, before, "the same connection");
}

#[tokio::test]
async fn a_reload_reaches_sessions_that_are_there_but_not_what_they_have_set() {
    let proxy = Proxy::shared("").await;
    let (plain, own, same, within) =
        (proxy.connect().await, proxy.connect().await, proxy.connect().await, proxy.connect().await);
    own.batch_execute("SET pgpilot.consistency = 'eventual'").await.unwrap();
    same.batch_execute("SET pgpilot.consistency = 'session'").await.unwrap();
    within.batch_execute("BEGIN; SELECT 1").await.unwrap();
    reload(&proxy, |config| config.routing.consistency = Consistency::Strong).unwrap();
    let shown = "SHOW pgpilot.consistency";
    for (client, expected) in [(&plain, "strong"), (&own, "eventual"), (&same, "session"), (&within, "session")] {
        assert_eq!(ask(client, shown).await, expected);
    }
    within.batch_execute("COMMIT").await.unwrap();
    assert_eq!(ask(&within, shown).await, "strong");
    own.batch_execute("RESET pgpilot.consistency").await.unwrap();
    assert_eq!(ask(&own, shown).await, "strong");
    // And the limits: it is idle from its next statement on.
    reload(&proxy, |config| config.clients.idle_timeout = Duration::from_millis(50)).unwrap();
    assert_eq!(ask(&plain, shown).await, "strong");
    wait_for("the idle one to be disconnected", LIMIT, async || plain.is_closed()).await;
}

/// What a statement is taken for is not what it was when the session began, or prepared it.
#[tokio::test]
async fn a_reload_reaches_what_sessions_have_been_judged_by() {
    let proxy = Proxy::shared("").await;
    let client = proxy.connect().await;
    client.batch_execute("PREPARE by_sql AS SELECT upper('told')").await.unwrap();
    let by_protocol = client.prepare("SELECT upper('told')").await.unwrap();
    let shown = || {
        let rows = proxy.app.shared().shapes().into_iter().map(|(_, row)| row);
        rows.filter(|row| row.outline.contains("newly_judged")).map(|row| row.runs.statements).sum::<u64>()
    };
    let run = async || {
        for _ in 0..3 {
            assert_eq!(ask(&client, "SELECT 1 AS newly_judged").await, "1");
        }
    };
    run().await;
    assert!(shown() > 0);
    reload(&proxy, |config| config.routing.primary_functions.push("upper".to_owned())).unwrap();
    wait_for("the list to be heeded", LIMIT, async || {
        proxy.verdicts().of(b"SELECT upper('told')").statements[0].intent == Intent::Write
    })
    .await;
    run().await;
    assert!(shown() > 0, "what sessions run that were there is counted");
    let before = proxy.counts();
    assert_eq!(ask(&client, "EXECUTE by_sql").await, "TOLD");
    client.query_one(&by_protocol, &[]).await.unwrap();
    assert_eq!(proxy.counts(), (before.0 + 2, before.1));
}

#[tokio::test]
async fn a_raised_limit_reaches_pools_that_are_there() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\ncheckout_timeout = \"1m\"\n").await;
    let (holder, waiting) = (proxy.connect().await, proxy.connect().await);
    holder.batch_execute("BEGIN").await.unwrap();
    ask(&holder, PRIMARY).await;
    let raise = async {
        let pools = proxy.app.shared().pools.all();
        wait_for("one to wait", LIMIT, async || {
            pools.iter().flat_map(|(_, pool)| pool.counts()).any(|(_, counts)| counts.waiting > 0)
        })
        .await;
        reload(&proxy, |config| config.pool.max_server_connections = 2).unwrap();
    };
    tokio::join!(ask(&waiting, PRIMARY), raise);
    holder.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn pools_of_databases_that_do_not_exist_are_forgotten() {
    let proxy = Proxy::shared("").await;
    let client = proxy.connect().await;
    ask(&client, PRIMARY).await;
    for n in 0..20 {
        let error = log_in(&proxy, PASSWORD, &format!("nothing{n}")).await.err().unwrap();
        assert_eq!(code(&error), Some("3D000"));
    }
    let databases = || {
        let pools = proxy.app.shared().pools.all();
        let keys = pools.iter().flat_map(|(_, pool)| pool.counts()).map(|(key, _)| key.database.to_string());
        keys.collect::<Vec<_>>()
    };
    wait_for("the pools to be forgotten", LIMIT, async || databases().iter().all(|name| name == "shop")).await;
    assert!(!databases().is_empty());
    ask(&client, PRIMARY).await;
}

#[tokio::test]
async fn a_full_pgpilot_lets_operators_in() {
    let more = "[clients]\nmax = 1\nmax_logins = 1\nlogin_timeout = \"1m\"\n[admin]\nreaders = [\"app\"]\n";
    let proxy = Proxy::shared(more).await;
    let client = proxy.connect().await;
    assert_eq!(code(&log_in(&proxy, PASSWORD, "shop").await.err().unwrap()), Some("53300"));
    let operator = log_in(&proxy, PASSWORD, "pgpilot").await.unwrap();
    try_ask(&operator, "SHOW NODES").await.unwrap();
    ask(&client, "SELECT 1").await;
}

#[tokio::test]
async fn so_many_log_in_at_a_time() {
    let proxy = Proxy::shared("[clients]\nmax_logins = 1\nlogin_timeout = \"1m\"\n").await;
    let silent = Raw::open(proxy.port()).await;
    let next = log_in(&proxy, PASSWORD, "shop");
    let mut next = std::pin::pin!(next);
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut next).await.is_err(), "it has to wait");
    drop(silent);
    ask(&next.await.unwrap(), "SELECT 1").await;
}

#[tokio::test]
async fn a_dropped_database_lets_nobody_in() {
    let proxy = Proxy::with("[auth]\nverifier_ttl = \"1ms\"\n").await;
    let primary = proxy.node("pg1");
    primary.sql("CREATE DATABASE gone").await.unwrap();
    wait_for("a login", LIMIT, async || log_in(&proxy, PASSWORD, "gone").await.is_ok()).await;
    primary.sql("DROP DATABASE gone WITH (FORCE)").await.unwrap();
    wait_for("a refusal", LIMIT, async || {
        log_in(&proxy, PASSWORD, "gone").await.err().is_some_and(|error| code(&error) == Some("3D000"))
    })
    .await;
}

#[tokio::test]
async fn slow_statements_are_logged_without_their_literals() {
    let servers = servers().await;
    let mut process = Process::start(&servers, "[log]\nslow_statement = \"100ms\"\n").await;
    let mut client = process.connect().await;
    client.query("SELECT 'quick-hush'").await;
    client.query("SELECT pg_sleep(0.11), 'slow-hush'").await;
    wait_for("the line", LIMIT, async || process.log().contains("slow statement")).await;
    let log = process.log();
    let line = log.lines().find(|line| line.contains("slow statement") && line.contains("pg_sleep")).unwrap();
    for part in ["SELECT pg_sleep (0), '?'", "reason=", "route=", "user=app", "database=shop", "time="] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!log.contains("hush"), "{log}");
    process.assert_sound();
}

#[tokio::test]
async fn a_client_that_leaves_before_it_is_greeted_frees_its_place() {
    let more = "[auth]\nverifier_ttl = \"1h\"\n[clients]\nmax = 1\n[routing]\nprimary_wait = \"10m\"\n";
    let proxy = Proxy::with(more).await;
    drop(proxy.connect().await);
    let shared = proxy.app.shared();
    wait_for("it to be gone", LIMIT, async || shared.registry.is_empty()).await;
    for node in proxy.servers.nodes() {
        node.stop(pgpilot::demo::Stop::Immediate).await.unwrap();
    }
    close_pools(&proxy);
    // What the server says to this is not known: there is nobody to ask.
    let log_in = || async {
        let text = format!("host=127.0.0.1 port={} user={USER} password={PASSWORD} dbname=shop", proxy.port());
        tokio_postgres::connect(&format!("{text} application_name=another"), NoTls).await.err()
    };
    let is_full = |error: &Error| code(error) == Some("53300");
    let waits = async {
        loop {
            // Until it has the place to itself.
            let outcome = log_in().await;
            if !outcome.as_ref().is_some_and(is_full) {
                return outcome;
            }
        }
    };
    let (mut first, second) = (Box::pin(waits), async {
        wait_for("the place to be taken", LIMIT, async || {
            let outcome = tokio::time::timeout(Duration::from_millis(300), log_in()).await;
            outcome.is_ok_and(|error| error.as_ref().is_some_and(is_full))
        })
        .await;
    });
    tokio::select! {
        outcome = &mut first => panic!("{outcome:?}"),
        () = second => {}
    }
    drop(first);
    wait_for("the place to be free", LIMIT, async || {
        // It waits in its turn.
        tokio::time::timeout(Duration::from_millis(500), log_in()).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn a_password_counts_as_long_as_it_is_valid_and_a_new_one_soon() {
    let proxy = Proxy::with("").await;
    drop(log_in(&proxy, PASSWORD, "shop").await.unwrap());
    let primary = proxy.node("pg1");
    primary.sql("ALTER ROLE app VALID UNTIL '2020-01-01'").await.unwrap();
    wait_for("it to expire", Duration::from_secs(10), async || log_in(&proxy, PASSWORD, "shop").await.is_err()).await;
    primary.sql("ALTER ROLE app VALID UNTIL 'infinity' PASSWORD 'another'").await.unwrap();
    wait_for("the new one", Duration::from_secs(10), async || log_in(&proxy, "another", "shop").await.is_ok()).await;
    assert!(log_in(&proxy, PASSWORD, "shop").await.is_err());
}
