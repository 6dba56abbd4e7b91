//! An instance that is stopped for a while does not know what it has missed.

use tokio_postgres::NoTls;

use super::super::{table, until_written};
use super::{Lease, section, servers};
use crate::support::etcd::Etcd;
use crate::support::process::Process;
use crate::support::proxy::{PASSWORD, Proxy, USER, topology};
use crate::support::relay::Relay;
use crate::support::{LIMIT, wait_for};

/// The primary lives on, and the instance that is stopped reaches it all the time.
#[tokio::test]
async fn an_instance_that_was_stopped_during_a_failover_writes_nothing_to_the_old_primary() {
    let (servers, etcd) = (servers().await, Etcd::start().await);
    let upstream = super::super::cut::upstream(&servers).await;
    let way = Relay::start(servers.node("pg1").unwrap().port()).await;
    let mut config = topology(&servers, &section("a", etcd.port(), Lease::Short));
    config.nodes[0].replication_port = Some(config.nodes[0].port);
    config.nodes[0].port = way.port();
    let a = Proxy::configured(servers.clone(), config).await;
    a.wait_to_lead().await;
    let client = table(&a).await;

    let stopped = Process::start(&servers, &section("b", etcd.port(), Lease::Short)).await;
    let url = format!("host=127.0.0.1 port={} user={USER} password={PASSWORD} dbname=shop", stopped.port());
    let mut clients = Vec::new();
    for _ in 0..5 {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        clients.push(client);
    }
    let [begun, ending, new, other, late] = &clients[..] else { unreachable!() };
    begun.batch_execute("BEGIN; INSERT INTO t VALUES (100)").await.unwrap();
    ending.batch_execute("BEGIN; INSERT INTO t VALUES (200)").await.unwrap();
    late.batch_execute("BEGIN; INSERT INTO t VALUES (800)").await.unwrap();
    new.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    wait_for("two instances", LIMIT, async || a.instances().len() == 2).await;
    servers.wait_caught_up(servers.node("pg1").unwrap()).await.unwrap();

    stopped.freeze().await;
    // They wait in the buffers of the instance that is stopped.
    let writes = async {
        tokio::join!(
            begun.batch_execute("INSERT INTO t VALUES (400); COMMIT"),
            ending.batch_execute("COMMIT"),
            new.batch_execute("INSERT INTO t VALUES (2)"),
            other.batch_execute("INSERT INTO t VALUES (4)"),
        )
    };
    let failing_over = async {
        way.cut();
        upstream.cut();
        until_written(&client, "INSERT INTO t VALUES (8)").await;
        assert_ne!(a.primary().as_deref(), Some("pg1"), "{:#?}", a.events());
        stopped.thaw();
    };
    let (outcomes, ()) = tokio::join!(writes, failing_over);
    let (begun, ending, new, other) = outcomes;
    assert!(begun.is_err() && ending.is_err(), "{begun:?} {ending:?}\n{}", stopped.log());
    // Those that had not begun run where they belong.
    for outcome in [new, other] {
        outcome.unwrap_or_else(|error| panic!("{error:?}\n{}", stopped.log()));
    }
    // What was begun before is over, also for those who come back to it when all is well again.
    assert!(late.batch_execute("COMMIT").await.is_err(), "{}", stopped.log());
    let sum = |name: &'static str| {
        let node = servers.node(name).unwrap();
        async move {
            let session = node.connect_to("shop").await.unwrap();
            let row = session.query_one("SELECT sum(n) FROM t", &[]).await.unwrap();
            row.get::<_, i64>(0)
        }
    };
    assert_eq!(sum("pg1").await, 1, "{}", stopped.log());
    let primary = if a.primary().as_deref() == Some("pg2") { "pg2" } else { "pg3" };
    assert_eq!(sum(primary).await, 15);
}
