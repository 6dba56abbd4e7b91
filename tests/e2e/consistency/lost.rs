//! What a session wrote, and a failover loses.

use pgpilot::app::App;
use pgpilot::config::Consistency;
use pgpilot::demo::Scope;
use pgpilot::telemetry::{Count, Lost};
use tokio_postgres::Client;

use crate::support::proxy::{Proxy, ask, topology};
use crate::support::{LIMIT, wait_for};

fn lost(proxy: &Proxy, what: Lost) -> u64 {
    proxy.app.telemetry().metrics().total(Count::Lost(what))
}

async fn write(client: &Client, n: u32) {
    client.batch_execute(&format!("INSERT INTO t VALUES ({n})")).await.unwrap();
}

#[tokio::test]
async fn a_session_is_told_that_its_write_was_lost_and_goes_on() {
    let proxy = Proxy::with("[routing]\nmax_lag = \"1h\"\nprimary_wait = \"1m\"\n").await;
    let (kept, loser, reader) = (proxy.connect().await, proxy.connect().await, proxy.connect().await);
    let (stale, good) = (proxy.connect().await, proxy.connect().await);
    kept.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    proxy.wait_for_read("SELECT sum(n) FROM t").await;
    write(&kept, 1).await;
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    let good_token = ask(&kept, "SHOW pgpilot.lsn").await;
    // From here on nothing arrives anywhere but on the primary.
    for replica in ["pg2", "pg3"] {
        let node = proxy.node(replica);
        node.set("primary_conninfo", "").await.unwrap();
        node.wait_for_truth("no receiver", "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)").await.unwrap();
    }
    write(&loser, 2).await;
    let lost_token = ask(&loser, "SHOW pgpilot.lsn").await;
    assert!(lost_token.starts_with("1:"), "{lost_token}");
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    proxy.node("pg2").promote().await.unwrap();
    wait_for("the promoted one to be followed", LIMIT, async || {
        let snapshot = proxy.app.shared().cluster.snapshot();
        snapshot.usable_primary().is_some_and(|primary| primary.name.as_str() == "pg2")
            && snapshot.ended.iter().all(|log| log.kept.is_some())
    })
    .await;

    assert_eq!(ask(&loser, "SELECT sum(n) FROM t").await, "1");
    assert_eq!((lost(&proxy, Lost::Write), lost(&proxy, Lost::Unknown)), (1, 0));
    // Nobody else is concerned, and nobody is told twice.
    for client in [&kept, &loser, &reader] {
        write(client, 10).await;
        ask(client, "SELECT sum(n) FROM t").await;
    }
    assert_eq!((lost(&proxy, Lost::Write), lost(&proxy, Lost::Unknown)), (1, 0));
    // The other replica follows again, and serves also who waits for what will never come.
    let pg3 = proxy.node("pg3");
    pg3.repoint(proxy.node("pg2")).await.unwrap();
    proxy.wait_for_replicas(1).await;
    let session = pg3.connect_to("shop").await.unwrap();
    wait_for("the replica to have it all", LIMIT, async || {
        session.query_one("SELECT sum(n) FROM t", &[]).await.unwrap().get::<_, i64>(0) == 31
    })
    .await;
    assert_eq!(Consistency::Session.name(), ask(&stale, "SHOW pgpilot.consistency").await);
    for (client, token, tokens) in [(&good, &good_token, 0), (&stale, &lost_token, 1)] {
        client.batch_execute(&format!("SET pgpilot.min_lsn = '{token}'")).await.unwrap();
        let before = proxy.counts().1;
        wait_for("its reads to go to the replica", LIMIT, async || {
            assert_eq!(ask(client, "SELECT sum(n) FROM t").await, "31");
            proxy.counts().1 > before
        })
        .await;
        assert_eq!(lost(&proxy, Lost::Token), tokens, "{token}");
    }
    // Nor does somebody wait in vain who comes to a pgpilot that was not there when it happened.
    let config = topology(&proxy.servers, "[routing]\nmax_lag = \"1h\"\n");
    let late = Proxy { app: App::start(config, None).await.unwrap(), servers: proxy.servers.clone() };
    late.wait_for_replicas(1).await;
    for (token, tokens) in [(&good_token, 0), (&lost_token, 1)] {
        let client = late.connect().await;
        client.batch_execute(&format!("SET pgpilot.min_lsn = '{token}'")).await.unwrap();
        assert_eq!(ask(&client, "SELECT sum(n) FROM t").await, "31");
        assert_eq!(lost(&late, Lost::Token), tokens, "{token}");
    }
}
