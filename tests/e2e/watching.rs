//! The cluster as the probes see it, on real servers and through real faults.

use std::time::Instant;

use pgpilot::cluster::Cluster;
use pgpilot::decide::health::Stage;
use pgpilot::decide::route::{NodeId, Role, State, Trouble};
use pgpilot::demo::Scope;

use crate::support::LIMIT;
use crate::support::watch::{INTERVAL, MAX_LAG, another_cluster, leader, sees, servers, settings, view, watched};

/// For longer than a replica may lag.
async fn for_long(cluster: &Cluster) {
    let end = Instant::now() + 2 * MAX_LAG;
    let mut snapshot = cluster.snapshot();
    while Instant::now() < end {
        snapshot = cluster.wait_change(&snapshot, end).await;
    }
}

#[tokio::test]
async fn discovers_roles_and_what_the_nodes_are() {
    let servers = servers().await;
    let mut settings = settings(&servers, INTERVAL);
    // One of them by its Unix socket.
    settings.nodes[1].host = servers.node("pg2").unwrap().socket_directory().to_string_lossy().into_owned();
    let cluster = Cluster::start(&settings, None);
    let snapshot = sees(&cluster, "all are known", |s| s.nodes.iter().all(|node| node.fresh)).await;
    assert_eq!((snapshot.epoch, snapshot.timeline.0, leader(&snapshot)), (1, 1, Some("pg1")));
    let roles: Vec<_> = snapshot.nodes.iter().map(|node| node.role).collect();
    assert_eq!(roles, [Role::Primary, Role::Replica, Role::Replica]);
    let answers: Vec<_> = (0..3).map(|i| cluster.answer(NodeId(i)).expect("an answer")).collect();
    assert!(answers.iter().all(|answer| answer.system_identifier == answers[0].system_identifier));
    assert!(answers.iter().all(|answer| answer.server_version >= 130_000 && answer.timeline.0 == 1), "{answers:?}");
    let Stage::Recovering(recovery) = &answers[1].stage else { panic!("{answers:?}") };
    let receiver = recovery.receiver.as_ref().expect("a receiver");
    assert_eq!(receiver.status, "streaming");
    assert!(receiver.silent_for.expect("an age") < LIMIT);
}

#[tokio::test]
async fn follows_a_promotion_by_another_tool() {
    let servers = servers().await;
    let cluster = watched(&servers).await;
    // This one asks when it is told to, so that it can be counted how often it has to.
    let rare = Cluster::start(&settings(&servers, LIMIT * 4), None);
    sees(&rare, "pg1 leads", |s| leader(s) == Some("pg1")).await;
    let (old, new, other) = (servers.node("pg1").unwrap(), servers.node("pg2").unwrap(), servers.node("pg3").unwrap());
    old.kill9(Scope::Node).await.unwrap();
    let snapshot = sees(&cluster, "the primary is suspect", |s| view(s, "pg1").state != State::Up).await;
    assert!(snapshot.usable_primary().is_none());
    sees(&rare, "the primary is suspect there, too", |s| view(s, "pg1").state != State::Up).await;
    new.promote().await.unwrap();
    let before = rare.counters().answers;
    rare.nudge(NodeId(1));
    sees(&rare, "pg2 leads", |s| leader(s) == Some("pg2")).await;
    // What one that was under way has told counts, too. With `health.interval` between them, that is how soon it is followed.
    let answers = rare.counters().answers - before;
    assert!(answers <= 2, "it took {answers} answers");
    let snapshot = sees(&cluster, "pg2 leads", |s| leader(s) == Some("pg2")).await;
    assert_eq!((snapshot.epoch, snapshot.timeline.0), (2, 2));
    assert!(!snapshot.marks.is_empty() && snapshot.usable_primary().is_some());

    other.repoint(new).await.unwrap();
    let snapshot = sees(&cluster, "pg3 follows", |s| {
        view(s, "pg3").position.is_some_and(|sample| sample.timeline.0 == 2) && view(s, "pg3").fresh
    })
    .await;
    assert_eq!(view(&snapshot, "pg3").role, Role::Replica);

    // The old one comes back as if nothing had happened.
    old.start().await.unwrap();
    let snapshot = sees(&cluster, "pg1 is a stray", |s| view(s, "pg1").trouble == Some(Trouble::SecondPrimary)).await;
    assert_eq!((snapshot.epoch, leader(&snapshot)), (2, Some("pg2")));
    assert_eq!((view(&snapshot, "pg1").role, view(&snapshot, "pg1").state), (Role::Stray, State::Quarantined));
    servers.rejoin(old, new).await.unwrap();
    sees(&cluster, "pg1 is a fresh replica", |s| view(s, "pg1").role == Role::Replica && view(s, "pg1").fresh).await;
}

#[tokio::test]
async fn a_second_writable_node_is_not_followed_until_the_first_is_gone() {
    let servers = servers().await;
    let cluster = watched(&servers).await;
    servers.node("pg2").unwrap().promote().await.unwrap();
    let snapshot = sees(&cluster, "pg2 is a stray", |s| view(s, "pg2").role == Role::Stray).await;
    assert_eq!((snapshot.epoch, leader(&snapshot)), (1, Some("pg1")));
    servers.node("pg1").unwrap().kill9(Scope::Node).await.unwrap();
    sees(&cluster, "pg2 leads", |s| leader(s) == Some("pg2")).await;
}

#[tokio::test]
async fn a_frozen_primary_is_left_for_a_promoted_replica() {
    let servers = servers().await;
    let cluster = watched(&servers).await;
    servers.node("pg1").unwrap().freeze(Scope::Node).await.unwrap();
    sees(&cluster, "pg1 is down", |s| view(s, "pg1").state == State::Down).await;
    servers.node("pg2").unwrap().promote().await.unwrap();
    sees(&cluster, "pg2 leads", |s| leader(s) == Some("pg2")).await;
    servers.node("pg1").unwrap().thaw().unwrap();
    sees(&cluster, "pg1 is a stray", |s| view(s, "pg1").trouble == Some(Trouble::SecondPrimary)).await;
}

#[tokio::test]
async fn a_paused_replica_leaves_and_returns() {
    let servers = servers().await;
    let cluster = watched(&servers).await;
    let primary = servers.node("pg1").unwrap();
    primary.sql("CREATE TABLE t (n int)").await.unwrap();
    let paused = servers.node("pg2").unwrap();
    paused.pause_replay().await.unwrap();
    primary.sql("INSERT INTO t VALUES (1)").await.unwrap();
    let written = Instant::now();
    let snapshot = sees(&cluster, "pg2 lags", |s| !view(s, "pg2").fresh).await;
    println!("out {:?} after the write", written.elapsed());
    let lag = view(&snapshot, "pg2").lag;
    assert!(lag.bytes.is_some_and(|bytes| bytes > 0) && lag.time.is_some_and(|time| time > MAX_LAG));
    assert!(view(&snapshot, "pg3").fresh);
    paused.resume_replay().await.unwrap();
    sees(&cluster, "pg2 is fresh", |s| view(s, "pg2").fresh).await;
}

#[tokio::test]
async fn an_open_transaction_is_no_lag() {
    let servers = servers().await;
    let cluster = watched(&servers).await;
    let primary = servers.node("pg1").unwrap();
    primary.sql("CREATE TABLE t (s text)").await.unwrap();
    servers.wait_caught_up(primary).await.unwrap();
    // Its log is written in part, and flushed only up to a page in the middle of a record.
    let session = primary.connect().await.unwrap();
    session
        .batch_execute("BEGIN; INSERT INTO t SELECT repeat(n::text, 1500) FROM generate_series(1, 40) n")
        .await
        .unwrap();
    // If it were, there would be no end to it once it had lasted for as long as a replica may lag.
    for_long(&cluster).await;
    sees(&cluster, "the replicas are in use", |s| ["pg2", "pg3"].iter().all(|name| view(s, name).fresh)).await;
}

#[tokio::test]
async fn a_killed_replica_is_out_at_once_and_back_when_caught_up() {
    let servers = servers().await;
    let cluster = watched(&servers).await;
    // This one would not ask for long: it notices that its connection has ended.
    let rare = Cluster::start(&settings(&servers, LIMIT * 4), None);
    sees(&rare, "pg1 leads", |s| leader(s) == Some("pg1")).await;
    rare.nudge(NodeId(1));
    sees(&rare, "pg2 is in use", |s| view(s, "pg2").fresh).await;
    let before = view(&cluster.snapshot(), "pg2").incarnation;
    let replica = servers.node("pg2").unwrap();
    replica.kill9(Scope::Node).await.unwrap();
    sees(&rare, "pg2 is out", |s| view(s, "pg2").state != State::Up).await;
    let snapshot = sees(&cluster, "pg2 is out", |s| view(s, "pg2").state != State::Up).await;
    assert!(view(&snapshot, "pg2").position.is_none() && view(&snapshot, "pg2").incarnation > before);
    sees(&cluster, "pg2 is down", |s| view(s, "pg2").state == State::Down).await;
    replica.start().await.unwrap();
    sees(&cluster, "pg2 is back", |s| view(s, "pg2").state == State::Up && view(s, "pg2").fresh).await;
    assert_eq!(cluster.snapshot().epoch, 1);
}

#[tokio::test]
async fn replicas_stay_in_use_while_the_primary_is_away() {
    let servers = servers().await;
    let cluster = watched(&servers).await;
    let primary = servers.node("pg1").unwrap();
    primary.kill9(Scope::Node).await.unwrap();
    sees(&cluster, "pg1 is down", |s| view(s, "pg1").state == State::Down).await;
    for_long(&cluster).await;
    sees(&cluster, "the replicas are in use", |s| ["pg2", "pg3"].iter().all(|name| view(s, name).fresh)).await;
    primary.start().await.unwrap();
    let snapshot = sees(&cluster, "pg1 leads again", |s| s.usable_primary().is_some()).await;
    assert_eq!((snapshot.epoch, leader(&snapshot)), (1, Some("pg1")));
}

#[tokio::test]
async fn a_node_of_another_cluster_is_rejected() {
    let servers = servers().await;
    let others = another_cluster().await.unwrap();
    let mut all = settings(&servers, INTERVAL);
    all.nodes[2].port = others.node("pg1").unwrap().port();
    // Of two that have nothing in common, the first that is seen is the right one.
    let mut fewer = all.clone();
    fewer.nodes.truncate(2);
    let cluster = Cluster::start(&fewer, None);
    sees(&cluster, "pg1 leads", |s| leader(s) == Some("pg1")).await;
    cluster.reload(&all);
    let snapshot = sees(&cluster, "pg3 is rejected", |s| {
        s.nodes.len() == 3 && matches!(view(s, "pg3").trouble, Some(Trouble::ForeignSystem { .. }))
    })
    .await;
    assert_eq!((leader(&snapshot), view(&snapshot, "pg3").role), (Some("pg1"), Role::Unknown));
}
