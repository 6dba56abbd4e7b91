//! Replicas of replicas.

use pgpilot::decide::failover::{Order, Run};
use pgpilot::demo::{Node, Scope};

use super::{plain, table, until_written, with_hooks, without_hooks};
use crate::support::proxy::ask;
use crate::support::{LIMIT, wait_for};

async fn streams_from(replica: &Node, upstream: &Node) {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = {})",
        upstream.port()
    );
    replica.wait_for_truth("it streams from there", &sql).await.unwrap();
}

#[tokio::test]
async fn a_replica_of_a_replica_follows_whatever_becomes_of_those_above_it() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    let [first, middle, last] = ["pg1", "pg2", "pg3"].map(|name| proxy.node(name));
    last.repoint(middle).await.unwrap();
    streams_from(last, middle).await;
    // The one in the middle dies: its follower is sent to the primary.
    middle.kill9(Scope::Node).await.unwrap();
    streams_from(last, first).await;
    middle.start().await.unwrap();
    proxy.wait_for_replicas(2).await;
    last.repoint(middle).await.unwrap();
    streams_from(last, middle).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let caught_up = async || proxy.follows_primary("pg2") && proxy.follows_primary("pg3");
    wait_for("both to follow", LIMIT, caught_up).await;
    // The one at the top dies: the one below it becomes the primary, and keeps its follower.
    first.kill9(Scope::Node).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (2)").await;
    proxy.wait_for_replicas(1).await;
    let new = proxy.primary().unwrap();
    let other = if new == "pg2" { last } else { middle };
    streams_from(other, proxy.node(&new)).await;
    wait_for("pgpilot to see it", LIMIT, async || proxy.follows_primary(other.name())).await;
}

/// A hook shuts the old primary down, and nobody could tell when a replica of a replica has all of its log.
#[tokio::test]
async fn a_replica_of_a_replica_takes_over_once_it_streams_from_the_primary() {
    let stage = with_hooks(plain(), "").await;
    let proxy = &stage.proxy;
    let client = table(proxy).await;
    let [middle, last] = ["pg2", "pg3"].map(|name| proxy.node(name));
    last.repoint(middle).await.unwrap();
    streams_from(last, middle).await;
    let order = |run| Order::Switchover { to: Some(proxy.id("pg3")), run };
    wait_for("pgpilot to know of it", LIMIT, async || {
        let plan = proxy.order(order(Run::Dry)).await.unwrap();
        plan[0].contains("pg3 streams from pg2, and would be made to stream from pg1 first")
    })
    .await;
    streams_from(last, middle).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let done = proxy.order(order(Run::Real)).await;
    assert!(done.is_ok(), "{done:?}: {:#?}", proxy.events());
    proxy.wait_for_event("pg3 streams from pg1, no more from pg2").await;
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(proxy.primary().as_deref(), Some("pg3"));
    assert_eq!(ask(&client, "/* pgpilot: primary */ SELECT sum(n) FROM t").await, "3");
    let behind = async || proxy.follows_primary("pg1") && proxy.follows_primary("pg2");
    wait_for("the others to follow", LIMIT, behind).await;
}
