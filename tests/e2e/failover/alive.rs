//! A primary in trouble is no lost one.

use std::time::{Duration, Instant};

use pgpilot::demo::Scope;
use pgpilot::demo::account::Account;

use super::cut::{behind_relays, cluster};
use super::{plain, table, until_written, without_hooks};
use crate::support::process::Process;
use crate::support::proxy::ask;
use crate::support::{LIMIT, wait_for};

/// Longer than it takes to miss a primary that is gone.
const LONG_ENOUGH: Duration = Duration::from_secs(4);

#[tokio::test]
async fn a_full_data_disk_is_for_operators() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    client.batch_execute("CREATE TABLE crowded (n int)").await.unwrap();
    let primary = proxy.node("pg1");
    let owner = primary.connect_to("shop").await.unwrap();
    let path: String = owner.query_one("SELECT pg_relation_filepath('crowded')", &[]).await.unwrap().get(0);
    primary.sql("CHECKPOINT").await.unwrap();
    // A device on which there is never any room takes the place of the table's file.
    let file = primary.data_directory().join(path);
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < LONG_ENOUGH {
        let client = proxy.connect().await;
        let full = client.batch_execute("INSERT INTO crowded VALUES (1)").await.unwrap_err();
        assert_eq!(full.code().map(|code| code.code()), Some("53100"), "{full:?}");
        client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    }
    assert_eq!((proxy.primary().as_deref(), proxy.epoch()), (Some("pg1"), 1), "{:#?}", proxy.events());
    let told = proxy.events().into_iter().filter(|event| event.starts_with("pg1 a disk is full")).count();
    // Now and then, not for each statement.
    let most = 1 + usize::try_from(begun.elapsed().as_secs() / 60).unwrap();
    assert!(told > 0 && told <= most, "{:#?}", proxy.events());
}

#[tokio::test]
async fn a_slow_primary_is_waited_for() {
    let servers = cluster().await;
    let (proxy, relays) = behind_relays(&servers, "").await;
    let client = table(&proxy).await;
    // Beyond the time-out of a probe, there and back again.
    relays[0].delay(Duration::from_millis(700));
    let suspected = async || proxy.events().iter().any(|event| event.contains("no answer in time"));
    wait_for("a probe to time out", LIMIT, suspected).await;
    let begun = Instant::now();
    while begun.elapsed() < LONG_ENOUGH {
        client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    }
    assert_eq!((proxy.primary().as_deref(), proxy.epoch()), (Some("pg1"), 1), "{:#?}", proxy.events());
}

/// 57P03 is what a server says that recovers; one that is made a standby which nobody may ask says so for as long as one
/// likes.
#[tokio::test]
async fn a_primary_that_recovers_is_waited_for_as_long_as_it_is_allowed_to_take() {
    let more = "refused_after = \"20s\"\ndetect_after = \"20s\"\nstart_timeout = \"4s\"\n";
    let proxy = without_hooks(plain(), more).await;
    let client = table(&proxy).await;
    let old = proxy.node("pg1");
    old.set("hot_standby", "off").await.unwrap();
    old.kill9(Scope::Node).await.unwrap();
    Account::choose().unwrap().private_file(&old.data_directory().join("standby.signal"), "").unwrap();
    old.spawn().unwrap();
    proxy.wait_for_event("(57P03)").await;
    let begun = Instant::now();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    assert_ne!(proxy.primary().as_deref(), Some("pg1"), "{:#?}", proxy.events());
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}: {:#?}", begun.elapsed(), proxy.events());
}

#[tokio::test]
async fn when_all_are_dead_the_primary_is_waited_for() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    for node in proxy.servers.nodes() {
        node.kill9(Scope::Node).await.unwrap();
    }
    proxy.wait_for_event("no replica can be asked").await;
    proxy.node("pg1").start().await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (2)").await;
    assert_eq!((proxy.primary().as_deref(), proxy.epoch()), (Some("pg1"), 1), "{:#?}", proxy.events());
    for replica in ["pg2", "pg3"] {
        proxy.node(replica).start().await.unwrap();
    }
    proxy.wait_for_replicas(2).await;
    assert_eq!(ask(&client, "/* pgpilot: primary */ SELECT sum(n) FROM t").await, "3");
}

/// A machine that stood still has heard nothing for a while: that says nothing of the others.
#[tokio::test]
async fn a_pgpilot_that_was_paused_does_not_take_its_pause_for_a_failure() {
    let servers = cluster().await;
    let more = format!("{}automatic = true\ndetect_after = \"500ms\"\n", super::section(&servers));
    let mut pilot = Process::start(&servers, &more).await;
    pilot.freeze().await;
    let stopped = Instant::now();
    wait_for("the pause to end", LIMIT, async || stopped.elapsed() > Duration::from_secs(3)).await;
    pilot.thaw();
    let mut client = pilot.connect().await;
    client.query("CREATE TABLE t (n int)").await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        client.query("INSERT INTO t VALUES (1)").await;
    }
    assert_eq!(servers.primary().await.unwrap().name(), "pg1", "{}", pilot.log());
    let record = std::fs::read_to_string(servers.directory().join("failover.state")).unwrap();
    assert!(record.contains("\"epoch\": 1,"), "{record}: {}", pilot.log());
    pilot.assert_sound();
}
