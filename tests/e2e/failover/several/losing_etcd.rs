//! Without etcd nobody is promoted, and nobody writes for longer than its lease.

use std::sync::Arc;
use std::time::Duration;

use pgpilot::app::App;
use pgpilot::decide::failover::{Maintenance, Order, Run};
use pgpilot::demo::{LocalCluster, Scope};
use tokio::time::timeout;

use super::super::{table, until_written};
use super::{Lease, instance, section, servers, two, wait_to_agree};
use crate::support::etcd::Etcd;
use crate::support::proxy::{Proxy, ask, topology};
use crate::support::relay::Relay;
use crate::support::{LIMIT, wait_for};

/// A write does not wait for long.
async fn impatient(servers: &Arc<LocalCluster>, name: &str, etcd: u16) -> Proxy {
    let more = format!("{}[routing]\nprimary_wait = \"1s\"\n", section(name, etcd, Lease::Short));
    Proxy::configured(servers.clone(), topology(servers, &more)).await
}

async fn wait_for_bar(proxy: &Proxy) {
    proxy.wait_for_event("writes wait: its lease cannot be renewed").await;
    proxy.wait_for_event("its lease is over").await;
}

#[tokio::test]
async fn without_etcd_writes_stop_reads_go_on_and_nobody_is_promoted() {
    let (servers, mut etcd) = (servers().await, Etcd::start().await);
    let a = impatient(&servers, "a", etcd.port()).await;
    let b = impatient(&servers, "b", etcd.port()).await;
    let (first, second) = (table(&a).await, b.connect().await);
    for client in [&first, &second] {
        client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    }
    a.servers.wait_caught_up(a.node("pg1")).await.unwrap();
    let open = b.connect().await;
    open.batch_execute("BEGIN; INSERT INTO t VALUES (10)").await.unwrap();
    etcd.kill();
    wait_for_bar(&a).await;
    wait_for_bar(&b).await;
    for client in [&first, &second] {
        let error = client.batch_execute("INSERT INTO t VALUES (100)").await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("57P03"), "{error:?}");
    }
    assert!(open.batch_execute("COMMIT").await.is_err(), "its connection outlived the lease");
    let reader = a.connect().await;
    assert_eq!(ask(&reader, "SELECT sum(n) FROM t").await, "2");
    // Not even now.
    a.node("pg1").kill9(Scope::Node).await.unwrap();
    wait_for("the loss to be noticed", LIMIT, async || {
        let snapshot = a.app.shared().cluster.snapshot();
        snapshot.nodes[0].state == pgpilot::decide::route::State::Down
    })
    .await;
    assert_eq!(ask(&reader, "SELECT sum(n) FROM t").await, "2");
    for node in ["pg2", "pg3"] {
        assert_eq!(a.node(node).value("SELECT pg_is_in_recovery()").await.unwrap().as_deref(), Some("t"));
    }
    etcd.restart().await;
    until_written(&first, "INSERT INTO t VALUES (4)").await;
    until_written(&second, "INSERT INTO t VALUES (8)").await;
    wait_to_agree(&a, &b).await;
    assert_ne!(a.primary().as_deref(), Some("pg1"), "{:#?}", a.events());
    assert_eq!(ask(&second, "SELECT sum(n) FROM t").await, "14");
}

#[tokio::test]
async fn a_pause_of_etcd_that_is_shorter_than_the_lease_is_not_noticed_by_clients() {
    let (servers, etcd) = (servers().await, Etcd::start().await);
    let (a, b) = two(&servers, &etcd).await;
    let client = table(&b).await;
    etcd.freeze().await;
    for n in 0..100 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({n})")).await.unwrap();
    }
    etcd.thaw();
    client.batch_execute("INSERT INTO t VALUES (100)").await.unwrap();
    assert_eq!((a.epoch(), b.epoch()), (1, 1));
}

#[tokio::test]
async fn an_instance_that_is_cut_off_from_etcd_stops_writing_before_the_others_promote() {
    let (servers, etcd) = (servers().await, Etcd::start().await);
    let relay = Relay::start(etcd.port()).await;
    // The one that is cut off decides.
    let a = impatient(&servers, "a", relay.port()).await;
    a.wait_to_lead().await;
    let b = instance(&servers, "b", etcd.port(), Lease::Short).await;
    let (first, second) = (table(&a).await, b.connect().await);
    relay.cut();
    wait_for_bar(&a).await;
    b.wait_to_lead().await;
    b.node("pg1").kill9(Scope::Node).await.unwrap();
    until_written(&second, "INSERT INTO t VALUES (1)").await;
    assert!(b.epoch() > a.epoch(), "{:#?}", b.events());
    let error = first.batch_execute("INSERT INTO t VALUES (100)").await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("57P03"), "{error:?}");
    relay.mend();
    until_written(&first, "INSERT INTO t VALUES (2)").await;
    wait_to_agree(&a, &b).await;
    assert_eq!(ask(&first, "SELECT sum(n) FROM t").await, "3");
    let lease = a.app.operations().lease().unwrap();
    assert!(lease > Duration::ZERO && lease <= Duration::from_secs(3), "{lease:?}");
}

#[tokio::test]
async fn an_instance_that_has_not_reached_etcd_yet_refuses_orders() {
    let (servers, mut etcd) = (servers().await, Etcd::start().await);
    etcd.kill();
    // It follows no primary: there is nothing to wait for.
    let app = App::start(topology(&servers, &section("a", etcd.port(), Lease::Short)), None).await.unwrap();
    let a = Proxy { app, servers };
    for order in [Order::Maintenance(Maintenance::On), Order::Switchover { to: None, run: Run::Real }] {
        let error = timeout(LIMIT, a.order(order)).await.expect("an answer in time").unwrap_err().to_string();
        assert!(error.contains("it is not known yet what was decided"), "{error}");
    }
}
