//! One instance decides, and all follow.

use std::collections::BTreeSet;

use pgpilot::decide::failover::{Guards, Order, Run};
use pgpilot::demo::LocalCluster;
use pgpilot::demo::Scope;
use rustix::process::Signal;

use super::super::{table, until_written};
use super::{Lease, instance, section, servers, two, wait_to_agree};
use crate::support::etcd::Etcd;
use crate::support::process::Process;
use crate::support::proxy::ask;
use crate::support::raw::tags;
use crate::support::{LIMIT, wait_for};

#[tokio::test]
async fn one_instance_decides_and_all_show_each_other() {
    let (servers, etcd) = (servers().await, Etcd::start().await);
    let (a, b) = two(&servers, &etcd).await;
    let c = instance(&servers, "c", etcd.port(), Lease::Long).await;
    for proxy in [&a, &b, &c] {
        wait_for("three instances", LIMIT, async || proxy.instances().len() == 3).await;
        let names: BTreeSet<_> = proxy.instances().into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["a", "b", "c"].map(str::to_owned).into());
        assert_eq!((proxy.leads(), proxy.epoch()), (std::ptr::eq(proxy, &raw const a), 1), "{:#?}", proxy.instances());
        let own: Vec<_> = proxy.instances().into_iter().filter(|it| it.is_this).map(|it| it.address).collect();
        assert_eq!(own, [format!("127.0.0.1:{}", proxy.port())]);
    }
    let refused = b.order(Order::Switchover { to: None, run: Run::Real }).await.unwrap_err();
    assert!(refused.to_string().contains("another instance decides"), "{refused}");
    // One that is stopped in order gives the decision over at once, long before its lease ends.
    a.app.shutdown().await;
    drop(a);
    wait_for("another one to decide", LIMIT, async || b.leads() || c.leads()).await;
    wait_for("two instances", LIMIT, async || b.instances().len() == 2 && c.instances().len() == 2).await;
    b.connect().await.batch_execute("CREATE TABLE t (n int)").await.unwrap();
}

#[tokio::test]
async fn a_killed_primary_is_replaced_for_all() {
    let (servers, etcd) = (servers().await, Etcd::start().await);
    let (a, b) = two(&servers, &etcd).await;
    let (first, second) = (table(&a).await, b.connect().await);
    second.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    a.servers.wait_caught_up(a.node("pg1")).await.unwrap();
    a.node("pg1").kill9(Scope::Node).await.unwrap();
    until_written(&first, "INSERT INTO t VALUES (2)").await;
    until_written(&second, "INSERT INTO t VALUES (4)").await;
    wait_to_agree(&a, &b).await;
    assert_eq!((b.epoch(), b.leads()), (2, false), "{:#?}", b.events());
    assert_eq!(ask(&second, "SELECT sum(n) FROM t").await, "7");
    let acknowledged = a.instances().into_iter().find(|it| !it.is_this).unwrap().acknowledged;
    assert_eq!(acknowledged, 2, "the one that follows has said that it writes nothing to the old primary");
}

#[tokio::test]
async fn a_switchover_waits_for_transactions_of_every_instance() {
    let (servers, etcd) = (servers().await, Etcd::start().await);
    let (a, b) = two(&servers, &etcd).await;
    let (first, second) = (table(&a).await, b.connect().await);
    second.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let order = Order::Switchover { to: Some(a.id("pg2")), run: Run::Real };
    let ending = async {
        b.wait_for_event("hands over to another primary").await;
        second.batch_execute("INSERT INTO t VALUES (2); COMMIT").await.unwrap();
    };
    let (told, ()) = tokio::join!(a.order(order), ending);
    assert!(told.is_ok(), "{told:?}: {:#?} {:#?}", a.events(), b.events());
    for client in [&first, &second] {
        client.batch_execute("INSERT INTO t VALUES (4)").await.unwrap();
    }
    assert_eq!((a.primary().as_deref(), b.primary().as_deref()), (Some("pg2"), Some("pg2")));
    assert_eq!(ask(&second, "SELECT sum(n) FROM t").await, "11");
}

/// An instance that decides: while it is alone, nobody else can have permitted its write.
async fn leading(servers: &LocalCluster, more: &str) -> Process {
    let process = Process::start(servers, more).await;
    let written = process.connect().await.query("CREATE TABLE decided (n int)").await;
    assert_eq!(tags(&written), "CZ");
    process
}

#[tokio::test]
async fn a_leader_that_dies_with_the_primary_is_succeeded() {
    let (servers, etcd) = (servers().await, Etcd::start().await);
    let leader = leading(&servers, &section("a", etcd.port(), Lease::Short)).await;
    let b = instance(&servers, "b", etcd.port(), Lease::Short).await;
    let client = table(&b).await;
    leader.signal(Signal::KILL);
    b.node("pg1").kill9(Scope::Node).await.unwrap();
    let took = until_written(&client, "INSERT INTO t VALUES (1)").await;
    println!("leader and primary killed, to the first write: {took:?}");
    assert_ne!(b.primary().as_deref(), Some("pg1"), "{:#?}", b.events());
    b.wait_to_lead().await;
    assert_eq!(b.instances().len(), 1);
}

/// As long as whoever has called it lives.
const HOOK: &str = "while kill -0 $PPID 2>/dev/null; do sleep 0.1; done";

#[tokio::test]
async fn a_leader_that_dies_half_way_is_succeeded_by_one_that_begins_anew() {
    let (servers, etcd) = (servers().await, Etcd::start().await);
    let begun = servers.directory().join("begun");
    let hook = ["sh".to_owned(), "-c".to_owned(), format!("touch {}; {HOOK}", begun.display())];
    let more = section("a", etcd.port(), Lease::Short)
        .replace("[coordination]", &format!("pre_promote = {hook:?}\n[coordination]"));
    let leader = leading(&servers, &more).await;
    let b = instance(&servers, "b", etcd.port(), Lease::Short).await;
    let client = table(&b).await;
    b.node("pg1").kill9(Scope::Node).await.unwrap();
    wait_for("the change to begin", LIMIT, async || begun.exists()).await;
    leader.signal(Signal::KILL);
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    b.wait_for_event("a change of primary had been begun: it is called off").await;
    assert!(b.epoch() > 2 && b.primary().as_deref() != Some("pg1"), "{:#?}", b.events());
}

#[tokio::test]
async fn a_node_that_somebody_else_has_promoted_is_adopted_by_all() {
    let (servers, etcd) = (servers().await, Etcd::start().await);
    let (a, b) = two(&servers, &etcd).await;
    let (first, second) = (table(&a).await, b.connect().await);
    let on = a.order(Order::Maintenance(pgpilot::decide::failover::Maintenance::On)).await;
    assert!(on.is_ok(), "{on:?}");
    a.node("pg1").kill9(Scope::Node).await.unwrap();
    a.node("pg3").promote().await.unwrap();
    until_written(&second, "INSERT INTO t VALUES (1)").await;
    until_written(&first, "INSERT INTO t VALUES (2)").await;
    assert_eq!((a.primary().as_deref(), b.primary().as_deref()), (Some("pg3"), Some("pg3")), "{:#?}", a.events());
    assert_eq!(a.epoch(), 2);
    // By hand, as the rules ask for it.
    let order = Order::Failover { to: None, waived: Guards::empty(), run: Run::Real };
    let refused = a.order(order).await.unwrap_err();
    assert!(refused.to_string().contains("the primary answers"), "{refused}");
}
