//! Nodes with writes of their own.

use std::path::Path;
use std::sync::Arc;

use pgpilot::decide::failover::{Maintenance, Order};
use pgpilot::decide::route::State;
use pgpilot::demo::account::Account;
use pgpilot::demo::{Scope, Stop};
use tokio::time::timeout;

use super::{attentive, leave, plain, section, successor, table, until_written, with_hooks, without_hooks};
use crate::support::process::Process;
use crate::support::proxy::ask;
use crate::support::{LIMIT, wait_for};

/// The old primary comes back writable, and then, by somebody's hand, as a replica with what it wrote meanwhile.
#[tokio::test]
async fn a_node_with_writes_of_its_own_is_quarantined() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    let old = proxy.node("pg1");
    old.kill9(Scope::Node).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    proxy.wait_for_replicas(1).await;
    let new = proxy.primary().unwrap();
    old.start().await.unwrap();
    proxy.wait_until_quarantined("pg1").await;
    proxy.wait_for_event("it is fenced and quarantined").await;
    // Its fence is weak: it can be talked into writing.
    let written = async || match old.connect_to("shop").await {
        // Two messages: what has begun as read-only stays so.
        Ok(session) => {
            session.batch_execute("SET default_transaction_read_only = off").await.is_ok()
                && session.batch_execute("INSERT INTO t VALUES (100)").await.is_ok()
        }
        Err(_) => false,
    };
    wait_for("a write of its own", LIMIT, written).await;
    let conninfo = proxy.node(&new).value("SHOW primary_conninfo").await.unwrap().unwrap();
    let conninfo = format!("{conninfo} application_name=pg1 port={}", proxy.node(&new).port());
    // The fence ends sessions again and again.
    let set = async || old.set("primary_conninfo", &conninfo).await.is_ok();
    wait_for("its settings to be changed", LIMIT, set).await;
    old.stop(Stop::Fast).await.unwrap();
    Account::choose().unwrap().private_file(&old.data_directory().join("standby.signal"), "").unwrap();
    old.start().await.unwrap();
    proxy.wait_for_event("its log has another history").await;
    proxy.wait_until_quarantined("pg1").await;
    // There is no hook that could bring it back; until somebody does, nothing is sent there.
    proxy.wait_for_event("there is no rejoin_command").await;
    for _ in 0..200 {
        assert_eq!(ask(&client, "SELECT sum(n) FROM t").await, "1");
    }
    proxy.wait_until_quarantined("pg1").await;
    assert_eq!(proxy.primary(), Some(new));
}

/// Two promotions: pgpilot's own, and one by another hand. Who was appointed last by pgpilot stays, the other is made anew.
#[tokio::test]
async fn of_two_promotions_the_one_that_was_written_down_counts() {
    let stage = with_hooks(plain(), "").await;
    let proxy = &stage.proxy;
    let client = table(proxy).await;
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    proxy.wait_for_replicas(2).await;
    let (new, epoch) = (proxy.primary().unwrap(), proxy.epoch());
    let other = ["pg2", "pg3"].into_iter().find(|name| *name != new).unwrap();
    let rival = proxy.node(other);
    // It may be fenced before this has heard that it is done.
    let _ = rival.promote().await;
    // Whoever reached it before it was fenced wrote something that is lost.
    let session = rival.connect_to("shop").await;
    if let Ok(session) = session {
        let _ = session.batch_execute("INSERT INTO t VALUES (100)").await;
    }
    let told = async || proxy.events().iter().any(|event| event.starts_with(other) && event.contains("quarantined"));
    wait_for("an alarm", LIMIT, told).await;
    wait_for("the loser to follow", LIMIT, async || proxy.follows_primary(other)).await;
    proxy.wait_for_replicas(2).await;
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!((proxy.primary(), proxy.epoch()), (Some(new), epoch), "{:#?}", proxy.events());
    proxy.servers.wait_caught_up(proxy.servers.node(&proxy.primary().unwrap()).unwrap()).await.unwrap();
    for node in proxy.servers.nodes() {
        let session = node.connect_to("shop").await.unwrap();
        let sum: i64 = session.query_one("SELECT sum(n) FROM t", &[]).await.unwrap().get(0);
        assert_eq!(sum, 3, "{}", node.name());
    }
}

/// Two promotions with the same number, and the loser's is followed by another: its timeline is the newest of all, but it
/// has left the history before the epoch that the primary has written down.
#[tokio::test]
async fn a_node_that_left_before_the_last_epoch_takes_nobodys_place() {
    let proxy = without_hooks(plain(), "[routing]\nprimary_wait = \"1s\"\n").await;
    let client = table(&proxy).await;
    let (loser, winner) = (proxy.node("pg3"), proxy.node("pg2"));
    loser.stop(Stop::Fast).await.unwrap();
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    let marked = async || proxy.app.shared().cluster.answer(proxy.id("pg2")).is_some_and(|answer| answer.marked == 2);
    wait_for("the epoch in the database", LIMIT, marked).await;
    proxy.order(Order::Maintenance(Maintenance::On)).await.unwrap();
    loser.start().await.unwrap();
    loser.promote().await.unwrap();
    loser.stop(Stop::Fast).await.unwrap();
    Account::choose().unwrap().private_file(&loser.data_directory().join("standby.signal"), "").unwrap();
    loser.start().await.unwrap();
    loser.promote().await.unwrap();
    let timeline = async || proxy.app.shared().cluster.answer(proxy.id("pg3")).map(|answer| answer.timeline.0);
    wait_for("its third timeline to be seen", LIMIT, async || timeline().await == Some(3)).await;
    winner.kill9(Scope::Node).await.unwrap();
    let error = client.batch_execute("INSERT INTO t VALUES (100)").await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("57P03"), "{error:?}: {:#?}", proxy.events());
    winner.start().await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (2)").await;
    assert_eq!((proxy.primary().as_deref(), proxy.epoch()), (Some("pg2"), 2), "{:#?}", proxy.events());
    assert_eq!(ask(&client, "/* pgpilot: primary */ SELECT sum(n) FROM t").await, "3");
}

/// Two promotions by other hands, one after the other, to the same timeline: the second node has not seen the first one's.
#[tokio::test]
async fn a_second_promotion_to_the_same_timeline_is_followed_when_the_first_one_is_dead() {
    let proxy = without_hooks(plain(), "automatic = false\n").await;
    let client = table(&proxy).await;
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    for (n, (dies, follows)) in [("pg1", "pg2"), ("pg2", "pg3")].into_iter().enumerate() {
        proxy.node(dies).kill9(Scope::Node).await.unwrap();
        let is_noticed = async || {
            let snapshot = proxy.app.shared().cluster.snapshot();
            snapshot.node(proxy.id(dies)).is_some_and(|node| node.state == State::Down)
        };
        wait_for("the loss to be noticed", LIMIT, is_noticed).await;
        proxy.node(follows).promote().await.unwrap();
        until_written(&client, &format!("INSERT INTO t VALUES ({})", n + 1)).await;
        assert_eq!(proxy.primary().as_deref(), Some(follows), "{:#?}", proxy.events());
    }
    assert_eq!(proxy.app.shared().cluster.snapshot().timeline.0, 2);
    proxy.wait_for_event("was promoted to the same timeline as pg2").await;
}

/// A state file that was taken over from somewhere else, and tells of a promotion that was begun there.
#[tokio::test]
async fn what_was_decided_about_another_cluster_is_left_alone() {
    let proxy = without_hooks(plain(), "").await;
    let servers = proxy.servers.clone();
    drop(proxy);
    leave(&servers, "{\"Promoting\": {\"candidate\": \"pg3\", \"decided\": \"0/1\"}}").await;
    let file = servers.directory().join("failover.state");
    let own = std::fs::read_to_string(&file).unwrap();
    let (_, system) = own.split_once("\"system\": ").unwrap();
    let foreign = own.replace(system.split_once(',').unwrap().0, "1");
    std::fs::write(&file, &foreign).unwrap();
    let proxy = successor(&servers, &format!("{}automatic = true\n", section(&servers))).await;
    proxy.wait_for_event("the record is of another cluster").await;
    let refused = proxy.order(Order::Maintenance(Maintenance::On)).await.unwrap_err();
    assert!(format!("{refused:?}").contains("remove the record"), "{refused:?}");
    assert_eq!(servers.node("pg3").unwrap().value("SELECT pg_is_in_recovery()").await.unwrap().as_deref(), Some("t"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), foreign);
}

/// A node is down, and only the record tells that pgpilot itself has stopped it.
#[tokio::test]
async fn the_next_pgpilot_brings_back_what_one_that_was_killed_had_stopped_for_that() {
    let servers = Arc::new(attentive(plain()).start().await.unwrap());
    let hooks = servers.serve_hooks(Path::new(env!("CARGO_BIN_EXE_pgpilot"))).unwrap();
    let stray = servers.node("pg3").unwrap();
    let begun = servers.directory().join("begun");
    // The first time it comes no further than that, and ends with whoever has called it.
    let script = format!(
        "[ -e {begun} ] && exec {hook}; kill -INT $(head -n 1 {pid}); touch {begun}; while kill -0 $PPID; do sleep 0.1; done",
        begun = begun.display(),
        hook = hooks.command().join(" "),
        pid = stray.data_directory().join("postmaster.pid").display()
    );
    let section = format!("{}automatic = true\nrejoin_command = [\"sh\", \"-c\", {script:?}]\n", section(&servers));
    let killed = Process::start(&servers, &section).await;
    stray.promote().await.unwrap();
    wait_for("it to be stopped", LIMIT, async || begun.exists()).await;
    drop(killed);
    stray.wait_until_ended(LIMIT).await.unwrap();
    let proxy = successor(&servers, &section).await;
    proxy.wait_for_event("pg3 was being brought back when the last pgpilot ended").await;
    let back = timeout(LIMIT, wait_for("it to be back", LIMIT * 2, async || proxy.follows_primary("pg3")));
    assert!(back.await.is_ok(), "{:#?}", proxy.events());
    let forgotten = async || {
        let record = std::fs::read_to_string(servers.directory().join("failover.state")).unwrap();
        record.split_whitespace().collect::<String>().contains("\"rejoining\":[]")
    };
    wait_for("it to be forgotten", LIMIT, forgotten).await;
}
