//! Replicas that are behind: how far, as the probes tell, and who may still read there.

use std::time::{Duration, Instant};

use pgpilot::config::Config;
use pgpilot::decide::route::{Excess, NodeView};
use tokio_postgres::Client;

use crate::support::proxy::{Proxy, ask, servers, topology_text};
use crate::support::{LIMIT, wait_for};

/// `nodes`: lines for the sections of single nodes, by their names.
async fn proxy(more: &str, nodes: &[(&str, &str)]) -> Proxy {
    let servers = servers().await;
    let mut text = format!("listen = \"127.0.0.1:0\"\n{}", topology_text(&servers, more));
    for (node, lines) in nodes {
        let name = format!("name = \"{node}\"\n");
        text = text.replace(&name, &format!("{name}{lines}\n"));
    }
    let config = Config::parse(&text, "test.toml", &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    Proxy::configured(servers.into(), config).await
}

fn view(proxy: &Proxy, name: &str) -> NodeView {
    let snapshot = proxy.app.shared().cluster.snapshot();
    snapshot.nodes.iter().find(|node| node.name.as_str() == name).expect("a node").clone()
}

async fn sees(proxy: &Proxy, what: &str, condition: impl Fn(&NodeView) -> bool) {
    wait_for(what, LIMIT, async || condition(&view(proxy, "pg2"))).await;
}

async fn console(proxy: &Proxy) -> Client {
    proxy.connect_with("dbname=pgpilot").await
}

#[tokio::test]
async fn a_delayed_replica_is_not_read_from_after_a_write_until_it_has_it() {
    let more = "[routing]\nlag_recovery = \"900ms\"\n[admin]\nreaders = [\"app\"]\n";
    let proxy = proxy(more, &[("pg2", "max_lag = \"1h\""), ("pg3", "weight = 0")]).await;
    let (session, other) = (proxy.connect().await, proxy.connect().await);
    session.batch_execute("CREATE TABLE t AS SELECT 1 AS n").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    proxy.wait_for_read("SELECT n FROM t").await;
    let delayed = Instant::now();
    proxy.node("pg2").set("recovery_min_apply_delay", "1h").await.unwrap();
    const DELAYS: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity
        WHERE backend_type = 'startup' AND wait_event = 'RecoveryApplyDelay')";
    wait_for("its replay to be delayed", LIMIT, async || {
        // Commits, for the delay to apply to.
        proxy.node("pg1").sql("SELECT txid_current()").await.unwrap();
        proxy.node("pg2").value(DELAYS).await.unwrap().as_deref() == Some("t")
    })
    .await;
    session.batch_execute("UPDATE t SET n = 2").await.unwrap();
    let before = proxy.counts();
    for _ in 0..100 {
        assert_eq!(ask(&session, "SELECT n FROM t").await, "2");
    }
    assert_eq!(proxy.counts(), (before.0 + 100, before.1));
    // Its lag is that of the write, and within what it is allowed: who has no part in the write may read there.
    sees(&proxy, "the lag to show", |node| node.lag.time.is_some_and(|time| time > Duration::from_secs(1))).await;
    let node = view(&proxy, "pg2");
    assert!(node.fresh && node.lag.bytes.is_some_and(|bytes| bytes > 0), "{node:?}");
    // The last time that it had everything may be some probes before that.
    assert!(node.lag.time.unwrap() <= delayed.elapsed() + Duration::from_secs(5), "{node:?}");
    assert_eq!(ask(&other, "SELECT n FROM t").await, "1");
    assert_eq!(ask(&session, "SELECT n FROM t").await, "2");
    let row = console(&proxy).await.query("SHOW LAG", &[]).await.unwrap().remove(0);
    assert_eq!((row.get::<_, &str>("node"), row.get::<_, f64>("max_lag_ms")), ("pg2", 3_600_000.0));
    assert!(row.get::<_, f64>("lag_ms") > 1000.0 && row.get::<_, bool>("fresh"), "{row:?}");

    proxy.node("pg2").set("recovery_min_apply_delay", "0").await.unwrap();
    let before = proxy.counts().1;
    wait_for("the session's reads to go to the replica", LIMIT, async || {
        assert_eq!(ask(&session, "SELECT n FROM t").await, "2");
        proxy.counts().1 > before
    })
    .await;
}

#[tokio::test]
async fn a_zone_may_limit_lag_by_bytes() {
    let zones = "[routing]\nmax_lag = \"1h\"\n[admin]\nreaders = [\"app\"]\n\
                 [[zones]]\nname = \"b\"\nmax_lag_bytes = \"64KiB\"\nlag_recovery_bytes = \"16KiB\"\n";
    let proxy = proxy(zones, &[("pg2", "zone = \"b\"")]).await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE t (s text)").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    for replica in ["pg2", "pg3"] {
        proxy.node(replica).pause_replay().await.unwrap();
    }
    client.batch_execute("INSERT INTO t SELECT md5(n::text) FROM generate_series(1, 5000) n").await.unwrap();
    sees(&proxy, "pg2 to be left alone", |node| node.excess() == Some(Excess::Bytes)).await;
    wait_for("pg3 to be behind, too", LIMIT, async || view(&proxy, "pg3").lag.bytes > Some(64 << 10)).await;
    assert!(view(&proxy, "pg3").fresh);
    let console = console(&proxy).await;
    let lag = console.query("SHOW LAG", &[]).await.unwrap();
    let shown = |column: &str| lag.iter().map(|row| row.get::<_, Option<String>>(column)).collect::<Vec<_>>();
    assert_eq!(shown("over"), [Some("bytes".to_owned()), None]);
    assert_eq!(lag[0].get::<_, Option<i64>>("max_lag_bytes"), Some(64 << 10));
    // Before the catalogue of the database that it is asked for is loaded, nothing is a read.
    wait_for("pg3 to be the choice", LIMIT, async || {
        let explained = console.query("EXPLAIN ROUTE SELECT 1", &[]).await.unwrap().remove(0);
        (explained.get("node"), explained.get("left_out")) == ("pg3", "pg2 (bytes)")
    })
    .await;
    proxy.node("pg2").resume_replay().await.unwrap();
    sees(&proxy, "pg2 to be back", |node| node.fresh && node.lag.bytes == Some(0)).await;
}

#[tokio::test]
async fn an_idle_primary_leaves_nobody_behind_and_a_stopped_receiver_falls_back_ever_more() {
    let proxy = proxy("", &[("pg2", "max_lag = \"2s\"")]).await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    sees(&proxy, "pg2 to have it all", |node| node.lag.bytes == Some(0)).await;
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        let snapshot = proxy.app.shared().cluster.snapshot();
        assert!(snapshot.nodes.iter().all(|node| node.fresh), "{:?}", snapshot.nodes);
        proxy.app.shared().cluster.wait_change(&snapshot, until).await;
    }
    let node = proxy.node("pg2");
    let conninfo = node.value("SHOW primary_conninfo").await.unwrap().unwrap();
    node.set("primary_conninfo", "").await.unwrap();
    node.wait_for_truth("no receiver", "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let mut last = Duration::ZERO;
    wait_for("its lag to have grown beyond the limit", LIMIT, async || {
        let node = view(&proxy, "pg2");
        let lag = node.lag.time.unwrap();
        // It is told twice or more: each time more.
        assert!(lag >= last, "{lag:?} after {last:?}");
        last = lag;
        lag > Duration::from_secs(3) && node.excess() == Some(Excess::Time) && node.lag.bytes > Some(0)
    })
    .await;
    assert!(view(&proxy, "pg3").fresh);
    node.set("primary_conninfo", &conninfo).await.unwrap();
    sees(&proxy, "pg2 to be back", |node| node.fresh && node.lag.bytes == Some(0)).await;
}

/// What an open transaction has written goes to disk, and so to the replicas, with the next commit: here, that is nobody
/// else's, for as long as it takes the server to log something by itself.
#[tokio::test]
async fn an_open_transaction_keeps_the_reads_of_others_on_the_primary_only_for_a_moment() {
    let proxy = proxy("[routing]\nconsistency = \"strong\"\n", &[]).await;
    let (writer, reader) = (proxy.connect().await, proxy.connect().await);
    writer.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    proxy.wait_for_read("SELECT count(*) FROM t").await;
    writer.batch_execute("BEGIN").await.unwrap();
    let rounds = async {
        for _ in 0..20 {
            writer.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
            wait_for("reads to run on a replica", LIMIT, async || {
                let before = proxy.counts().1;
                assert_eq!(ask(&reader, "SELECT count(*) FROM t").await, "0");
                proxy.counts().1 > before
            })
            .await;
        }
    };
    tokio::time::timeout(LIMIT, rounds).await.expect("replicas to get there each time");
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(ask(&reader, "SELECT count(*) FROM t").await, "20");
}
