//! The primary is lost.

use std::sync::Arc;
use std::time::Duration;

use pgpilot::decide::failover::{Guards, Order, Run};
use pgpilot::demo::{Scope, Stop};
use pgpilot::telemetry::{Count, Ending, RetryCause};
use tokio::time::timeout;

use super::{attentive, client_of, leave, plain, section, successor, table, until_written, with_hooks, without_hooks};
use crate::support::proxy::{Proxy, ask, topology};
use crate::support::relay::Relay;
use crate::support::{LIMIT, wait_for};

#[tokio::test]
async fn a_killed_primary_is_replaced_in_about_a_second() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    let took = until_written(&client, "INSERT INTO t VALUES (2)").await;
    println!("kill to first write: {took:?}");
    // Ten times what is promised: of two signals that are to tell of it, one is missing.
    assert!(took < Duration::from_secs(15), "{took:?}: {:#?}", proxy.events());
    assert_eq!(ask(&client, "SELECT sum(n) FROM t").await, "3");
    assert_ne!(proxy.primary().as_deref(), Some("pg1"));
    // The other replica follows the new primary, and the record says who that is.
    proxy.wait_for_replicas(1).await;
    let status = proxy.app.operations().failover();
    assert!(status.last.unwrap().contains("epoch 2"), "{:#?}", proxy.events());
    let epochs = proxy.servers.primary().await.unwrap().value("SELECT max(epoch) FROM pgpilot.epochs").await;
    assert_eq!(epochs.unwrap().as_deref(), Some("2"));
}

#[tokio::test]
async fn a_frozen_primary_is_replaced_and_fenced_when_it_thaws() {
    let stage = with_hooks(plain(), "").await;
    let proxy = &stage.proxy;
    let client = table(proxy).await;
    // A connection that does not go through pgpilot.
    let stranger = proxy.node("pg1").connect_to("shop").await.unwrap();
    let reader = proxy.connect().await;
    let reading =
        tokio::spawn(async move { ask(&reader, "/* pgpilot: primary */ SELECT 'read' FROM pg_sleep(3)").await });
    wait_for("the read to run", LIMIT, async || {
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        stranger.query_one(busy, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    proxy.node("pg1").freeze(Scope::Node).await.unwrap();
    let took = until_written(&client, "INSERT INTO t VALUES (1)").await;
    println!("freeze to first write: {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}: {:#?}", proxy.events());
    // What was in flight is severed there, and runs on the new one.
    assert_eq!(reading.await.unwrap(), "read");
    assert_eq!(proxy.app.telemetry().metrics().total(Count::Retry(RetryCause::ConnectionLost)), 1);
    // The hook has killed it: who was connected there finds out, and it comes back as a replica.
    assert!(stranger.batch_execute("INSERT INTO t VALUES (100)").await.is_err());
    proxy.wait_for_replicas(2).await;
    assert_eq!(ask(&client, "SELECT sum(n) FROM t").await, "1");
}

/// Both candidates have received what they cannot replay, because somebody reads there who would be waited for for ever.
#[tokio::test]
async fn whoever_reads_on_a_candidate_does_not_hold_up_its_promotion() {
    let proxy = without_hooks(plain().setting("max_standby_streaming_delay", "-1"), "").await;
    let client = table(&proxy).await;
    let mut readers = Vec::new();
    for name in ["pg2", "pg3"] {
        let reader = proxy.node(name).connect_to("shop").await.unwrap();
        reader.batch_execute("BEGIN; SELECT * FROM t").await.unwrap();
        readers.push(reader);
    }
    client.batch_execute("ALTER TABLE t ADD COLUMN m int; INSERT INTO t VALUES (1)").await.unwrap();
    let sent = "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn >= pg_current_wal_flush_lsn()";
    wait_for("the replicas to receive it", LIMIT, async || {
        proxy.node("pg1").value(sent).await.unwrap().as_deref() == Some("2")
    })
    .await;
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (2)").await;
    assert_eq!(ask(&client, "/* pgpilot: primary */ SELECT sum(n) FROM t").await, "3", "{:#?}", proxy.events());
    // Who was not in the way goes on.
    let alive = readers.iter().filter(|reader| !reader.is_closed()).count();
    assert_eq!(alive, 1);
}

#[tokio::test]
async fn an_old_primary_that_comes_back_writable_is_fenced_and_brought_back() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    proxy.node("pg1").start().await.unwrap();
    // Without hooks it is made read-only, as far as that goes, and operators are told.
    let old = proxy.node("pg1");
    let fenced = timeout(
        LIMIT,
        wait_for("a fence", LIMIT * 2, async || {
            let setting = old.value("SHOW default_transaction_read_only").await;
            setting.is_ok_and(|setting| setting.as_deref() == Some("on"))
        }),
    );
    assert!(fenced.await.is_ok(), "{:#?}", proxy.events());
    assert_ne!(proxy.primary().as_deref(), Some("pg1"));
    proxy.wait_for_event("there is no rejoin_command").await;
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
}

#[tokio::test]
async fn a_new_pgpilot_goes_on_with_a_promotion_that_was_begun() {
    let proxy = without_hooks(plain(), "").await;
    table(&proxy).await;
    let servers = proxy.servers.clone();
    // As after a crash of pgpilot: the primary is dead, and the record names the candidate.
    servers.node("pg1").unwrap().kill9(Scope::Node).await.unwrap();
    drop(proxy);
    leave(&servers, "{\"Promoting\": {\"candidate\": \"pg3\", \"decided\": \"0/1\"}}").await;
    let proxy = successor(&servers, &format!("{}automatic = true\n", section(&servers))).await;
    let client = client_of(&proxy).await;
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    let snapshot = proxy.app.shared().cluster.snapshot();
    let primary = snapshot.usable_primary().unwrap();
    assert_eq!((primary.name.as_str(), snapshot.epoch), ("pg3", 7));
    assert!(proxy.app.operations().failover().since.is_none_or(|since| since < Duration::from_secs(60)));
}

/// The write-ahead log has no room any more: the server ends, whatever it is asked to do.
#[tokio::test]
async fn a_primary_whose_log_has_no_room_is_replaced() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    let old = proxy.node("pg1");
    let next = old.value("SELECT pg_walfile_name(pg_current_wal_lsn() + 16 * 1024 * 1024)").await.unwrap().unwrap();
    let segment = old.data_directory().join("pg_wal").join(next);
    // A device on which there is never any room takes the place of the next log file.
    let _ = std::fs::remove_file(&segment);
    std::os::unix::fs::symlink("/dev/full", &segment).unwrap();
    let _ = old.sql("SELECT pg_switch_wal()").await;
    while client.batch_execute("INSERT INTO t VALUES (0)").await.is_ok() {}
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    assert_ne!(proxy.primary().as_deref(), Some("pg1"), "{:#?}", proxy.events());
    assert!(old.log_tail(200).contains("No space left on device"), "{}", old.log_tail(200));
}

/// One that dies soon after it was promoted: the next failover has to wait, also for a pgpilot that was started since.
#[tokio::test]
async fn a_primary_that_is_lost_again_and_again_is_left_to_operators() {
    let servers = Arc::new(attentive(plain()).start().await.unwrap());
    let section = section(&servers).replace("min_interval = \"0s\"", "min_interval = \"1h\"\nautomatic = true");
    let proxy = Proxy::before(servers.clone(), &section).await;
    let client = table(&proxy).await;
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    proxy.wait_for_replicas(1).await;
    let second = proxy.primary().unwrap();
    let third = if second == "pg2" { "pg3" } else { "pg2" };
    // With less, it would not be fit: it cannot be promoted in the middle of a segment that it has from neither primary.
    let copied = proxy.node(third).connect_to("shop").await.unwrap();
    wait_for("the write to reach the replica", LIMIT, async || {
        copied.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    proxy.node(&second).kill9(Scope::Node).await.unwrap();
    proxy.wait_for_event("the last change of primary was a moment ago").await;
    let refused = async || proxy.count(Count::Failover(Ending::Refused)) == 1;
    wait_for("the refusal to be counted", LIMIT, refused).await;
    assert_eq!((proxy.primary(), proxy.epoch()), (None, 2));
    drop((client, proxy));
    let proxy = successor(&servers, &section).await;
    proxy.wait_for_event("the last change of primary was a moment ago").await;
    assert_eq!((proxy.primary(), proxy.epoch()), (None, 2));
    // Replication is asynchronous, and this pgpilot has never heard how far the primary's log went.
    let order = |waived| Order::Failover { to: None, waived, run: Run::Real };
    let refused = proxy.order(order(Guards::INTERVAL)).await.unwrap_err();
    assert!(refused.to_string().contains("has not been heard since pgpilot was started"), "{refused:?}");
    // An operator knows better.
    proxy.order(order(Guards::INTERVAL | Guards::DATA_LOSS)).await.unwrap();
    until_written(&client_of(&proxy).await, "INSERT INTO t VALUES (2)").await;
}

/// A replica that follows a new primary receives the segment in which the timeline changed from its beginning. Promoted
/// before it has that, the server would panic, and not come up again without its primary.
#[tokio::test]
async fn a_replica_in_the_middle_of_the_segment_in_which_its_timeline_began_is_not_promoted() {
    let servers = Arc::new(attentive(plain()).start().await.unwrap());
    let way = Relay::start(servers.node("pg2").unwrap().port()).await;
    let mut config = topology(&servers, &format!("{}automatic = true\n", section(&servers)));
    config.nodes[1].replication_port = Some(way.port());
    let proxy = Proxy::configured(servers.clone(), config).await;
    let client = table(&proxy).await;
    // Far less than there is of the segment: its first page is there, its last is not.
    way.limit_replies(1 << 20);
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    assert_eq!(proxy.primary().as_deref(), Some("pg2"));
    let follower = proxy.node("pg3");
    let newest = "SELECT max(substr(name, 1, 8)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'";
    wait_for("the new timeline to reach the replica", LIMIT, async || {
        follower.value(newest).await.unwrap().as_deref() == Some("00000002")
    })
    .await;
    proxy.node("pg2").kill9(Scope::Node).await.unwrap();
    proxy.wait_for_event("acknowledged commits could be lost").await;
    let order = Order::Failover { to: None, waived: Guards::DATA_LOSS, run: Run::Real };
    let refused = timeout(LIMIT, proxy.order(order)).await.expect("an answer in time").unwrap_err();
    assert!(refused.to_string().contains("promoted, it would crash"), "{refused:?}: {:#?}", proxy.events());
    assert_eq!(follower.value("SELECT pg_is_in_recovery()").await.unwrap().as_deref(), Some("t"));
    way.limit_replies(u64::MAX);
    proxy.node("pg2").start().await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (2)").await;
    let copied = follower.connect_to("shop").await.unwrap();
    wait_for("the replica to have it all", LIMIT, async || {
        copied.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0) == 2
    })
    .await;
    // Once it has all of the segment, it is fit, also after a restart, from which on its receiver has nothing to show.
    drop(copied);
    proxy.node("pg2").kill9(Scope::Node).await.unwrap();
    follower.restart(Stop::Fast).await.unwrap();
    wait_for("the replica to be promoted", LIMIT, async || proxy.order(order).await.is_ok()).await;
    assert_eq!(proxy.primary().as_deref(), Some("pg3"));
    until_written(&client, "INSERT INTO t VALUES (4)").await;
    assert_eq!(ask(&client, "/* pgpilot: primary */ SELECT sum(n) FROM t").await, "7");
}
