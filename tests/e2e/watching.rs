//! The cluster as the probes see it, on real servers and through real faults.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgpilot::cluster::{Cluster, Settings};
use pgpilot::config::{self, Consistency, NodeName, OnAllLagging, Secret, ServerTls, SslMode};
use pgpilot::decide::health::{Limits, Stage};
use pgpilot::decide::route::{
    Ask, Demand, Freshness, Need, NodeId, NodeView, Policy, Role, Route, Snapshot, State, Trouble, route,
};
use pgpilot::decide::sql::Reason;
use pgpilot::demo::{LocalCluster, Node, Scope, User};

use crate::support::{LIMIT, wait_for};

/// The probing role has what the documentation says it needs, and no more.
async fn servers() -> LocalCluster {
    let pilot = User::scram("pilot", "secret").with("IN ROLE pg_monitor");
    LocalCluster::builder().user(pilot).start().await.expect("a cluster starts")
}

fn settings(servers: &LocalCluster, interval: Duration) -> Settings {
    let tls = ServerTls { mode: SslMode::Disable, ca: None, certificate: None, key: None };
    let node = |node: &Node| config::Node {
        name: NodeName::new(node.name()).unwrap(),
        host: "127.0.0.1".to_owned(),
        port: node.port(),
        zone: None,
        weight: 1,
        tls: tls.clone(),
    };
    Settings {
        nodes: servers.nodes().iter().map(node).collect(),
        health: config::Health {
            user: "pilot".to_owned(),
            password: Some(Secret::new("secret".to_owned())),
            database: "postgres".to_owned(),
            interval,
            timeout: Duration::from_secs(1),
            failures: 3,
        },
        limits: Limits { failures: 3, max_lag: Duration::from_millis(1000), lag_recovery: Duration::from_millis(500) },
    }
}

const INTERVAL: Duration = Duration::from_millis(200);

async fn watched(servers: &LocalCluster) -> Arc<Cluster> {
    let cluster = Cluster::start(&settings(servers, INTERVAL));
    sees(&cluster, "pg1 leads, and the others are fresh", |snapshot| {
        leader(snapshot) == Some("pg1") && ["pg2", "pg3"].iter().all(|name| view(snapshot, name).fresh)
    })
    .await;
    cluster
}

/// Waits for a snapshot as the rest of pgpilot does.
async fn sees(cluster: &Cluster, what: &str, condition: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let end = Instant::now() + LIMIT;
    let mut snapshot = cluster.snapshot();
    while !condition(&snapshot) {
        assert!(Instant::now() < end, "{what}: {snapshot:#?}");
        snapshot = cluster.wait_change(&snapshot, end).await;
    }
    snapshot
}

fn leader(snapshot: &Snapshot) -> Option<&str> {
    Some(snapshot.node(snapshot.primary?)?.name.as_str())
}

fn view<'a>(snapshot: &'a Snapshot, name: &str) -> &'a NodeView {
    snapshot.nodes.iter().find(|node| node.name.as_str() == name).expect("a node of the file")
}

#[tokio::test]
async fn discovers_roles_and_what_the_nodes_are() {
    let servers = servers().await;
    let cluster = watched(&servers).await;
    let snapshot = cluster.snapshot();
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
async fn follows_a_promotion_by_another_tool_within_a_second() {
    let servers = servers().await;
    let cluster = watched(&servers).await;
    let (old, new, other) = (servers.node("pg1").unwrap(), servers.node("pg2").unwrap(), servers.node("pg3").unwrap());
    old.kill9(Scope::Node).await.unwrap();
    let snapshot = sees(&cluster, "the primary is suspect", |s| view(s, "pg1").state != State::Up).await;
    assert!(snapshot.usable_primary().is_none());
    new.promote().await.unwrap();
    let promoted = Instant::now();
    let snapshot = sees(&cluster, "pg2 leads", |s| leader(s) == Some("pg2")).await;
    println!("followed {:?} after the promotion had ended", promoted.elapsed());
    assert!(promoted.elapsed() < Duration::from_secs(1), "{:?}", promoted.elapsed());
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
    let snapshot = sees(&cluster, "pg1 is a stray", |s| view(s, "pg1").role == Role::Stray).await;
    assert_eq!((snapshot.epoch, leader(&snapshot)), (2, Some("pg2")));
    assert_eq!(view(&snapshot, "pg1").trouble, Some(Trouble::SecondPrimary));
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
    let gone = Instant::now();
    sees(&cluster, "pg2 leads", |s| leader(s) == Some("pg2")).await;
    assert!(gone.elapsed() < Duration::from_secs(1), "{:?}", gone.elapsed());
}

#[tokio::test]
async fn a_frozen_primary_is_left_for_a_promoted_replica() {
    let servers = servers().await;
    let cluster = watched(&servers).await;
    servers.node("pg1").unwrap().freeze(Scope::Node).await.unwrap();
    sees(&cluster, "pg1 is down", |s| view(s, "pg1").state == State::Down).await;
    servers.node("pg2").unwrap().promote().await.unwrap();
    let promoted = Instant::now();
    sees(&cluster, "pg2 leads", |s| leader(s) == Some("pg2")).await;
    assert!(promoted.elapsed() < Duration::from_secs(1), "{:?}", promoted.elapsed());
    servers.node("pg1").unwrap().thaw().unwrap();
    sees(&cluster, "pg1 is a stray", |s| view(s, "pg1").role == Role::Stray).await;
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
    assert!(written.elapsed() < Duration::from_secs(3), "{:?}", written.elapsed());
    let lag = view(&snapshot, "pg2").lag;
    assert!(lag.bytes.is_some_and(|bytes| bytes > 0) && lag.time.is_some_and(|time| time > Duration::from_secs(1)));
    assert!(view(&snapshot, "pg3").fresh);
    paused.resume_replay().await.unwrap();
    let resumed = Instant::now();
    sees(&cluster, "pg2 is fresh", |s| view(s, "pg2").fresh).await;
    assert!(resumed.elapsed() < Duration::from_secs(2), "{:?}", resumed.elapsed());
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
    let begun = Instant::now();
    let mut snapshot = cluster.snapshot();
    while begun.elapsed() < Duration::from_secs(3) {
        snapshot = cluster.wait_change(&snapshot, begun + Duration::from_secs(3)).await;
        for name in ["pg2", "pg3"] {
            assert!(view(&snapshot, name).fresh, "{:?}", view(&snapshot, name));
        }
    }
}

#[tokio::test]
async fn a_killed_replica_is_out_at_once_and_back_when_caught_up() {
    let servers = servers().await;
    let cluster = watched(&servers).await;
    let before = view(&cluster.snapshot(), "pg2").incarnation;
    let replica = servers.node("pg2").unwrap();
    replica.kill9(Scope::Node).await.unwrap();
    let killed = Instant::now();
    let snapshot = sees(&cluster, "pg2 is out", |s| view(s, "pg2").state != State::Up).await;
    assert!(killed.elapsed() < INTERVAL * 2, "{:?}", killed.elapsed());
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
    let (away, mut snapshot) = (Instant::now(), cluster.snapshot());
    while away.elapsed() < Duration::from_millis(1500) {
        snapshot = cluster.wait_change(&snapshot, away + Duration::from_millis(1500)).await;
        assert!(view(&snapshot, "pg2").fresh && view(&snapshot, "pg3").fresh);
    }
    primary.start().await.unwrap();
    let snapshot = sees(&cluster, "pg1 leads again", |s| s.usable_primary().is_some()).await;
    assert_eq!((snapshot.epoch, leader(&snapshot)), (1, Some("pg1")));
}

#[tokio::test]
async fn a_node_of_another_cluster_is_rejected() {
    let servers = servers().await;
    let others = servers_with_other_identity().await;
    let mut settings = settings(&servers, INTERVAL);
    settings.nodes[2].port = others.node("pg1").unwrap().port();
    let cluster = Cluster::start(&settings);
    let snapshot = sees(&cluster, "pg3 is rejected", |s| view(s, "pg3").trouble.is_some()).await;
    assert_eq!((leader(&snapshot), view(&snapshot, "pg3").role), (Some("pg1"), Role::Unknown));
    assert!(matches!(view(&snapshot, "pg3").trouble, Some(Trouble::ForeignSystem { .. })));
}

/// Clusters are copies of one template: only pg_resetwal makes another of one.
async fn servers_with_other_identity() -> LocalCluster {
    let pilot = User::scram("pilot", "secret").with("IN ROLE pg_monitor");
    let servers = LocalCluster::builder().user(pilot).replicas(0).start().await.expect("a cluster starts");
    let node = servers.node("pg1").unwrap();
    node.stop(pgpilot::demo::Stop::Fast).await.unwrap();
    let control = node.data_directory().join("global/pg_control");
    let mut bytes = std::fs::read(&control).unwrap();
    // ControlFileData of catalog/pg_control.h begins with the system identifier; the checksum (CRC-32C) covers what is
    // in front of it.
    bytes[0] ^= 0x55;
    let covered = CONTROL_FILE_CHECKSUM_AT;
    let sum = crc32c(&bytes[..covered]);
    bytes[covered..covered + 4].copy_from_slice(&sum.to_ne_bytes());
    std::fs::write(&control, bytes).unwrap();
    node.start().await.unwrap();
    servers
}

const CONTROL_FILE_CHECKSUM_AT: usize = 288;

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

fn policy(replica_wait: Duration) -> Policy {
    Policy {
        consistency: Consistency::Session,
        on_all_lagging: OnAllLagging::Primary,
        replica_wait,
        primary_wait: Duration::from_secs(5),
        reads_on_primary: false,
        zone: None,
    }
}

/// Routes as the proxy does: asks for marks and waits when the decision says so.
async fn place(cluster: &Cluster, freshness: &mut Freshness, policy: &Policy) -> (NodeId, Reason) {
    let demand = Demand { need: Need::Read, reason: Reason::PlainRead, arrived: Instant::now() };
    loop {
        let snapshot = cluster.snapshot();
        let (loads, dice) = (cluster.loads(), fastrand::u64(..));
        let decision = route(&demand, freshness, &snapshot, policy, |id| loads.of(id), dice, Instant::now());
        if decision.ask == Ask::Mark {
            cluster.want_mark();
        }
        match decision.route {
            Route::Primary(node) | Route::Replica(node) => return (node, decision.reason),
            Route::Wait(wait) => drop(cluster.wait_change(&snapshot, wait.until()).await),
            Route::Refuse(refusal) => panic!("{refusal}"),
        }
    }
}

#[tokio::test]
async fn a_session_reads_its_own_writes_on_replicas() {
    let servers = servers().await;
    // The regular probes are too rare to be of any help: only what the session asks for brings it back to the replicas.
    watched(&servers).await;
    let cluster = Cluster::start(&settings(&servers, Duration::from_secs(60)));
    sees(&cluster, "pg1 leads", |s| leader(s) == Some("pg1")).await;
    cluster.nudge(NodeId(1));
    cluster.nudge(NodeId(2));
    sees(&cluster, "all are fresh", |s| view(s, "pg2").fresh && view(s, "pg3").fresh).await;
    let primary = servers.node("pg1").unwrap();
    primary.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (0)").await.unwrap();
    servers.wait_caught_up(primary).await.unwrap();
    let mut sessions = Vec::new();
    for node in servers.nodes() {
        sessions.push(node.connect().await.unwrap());
    }
    for wait in [Duration::from_secs(5), Duration::ZERO] {
        let policy = policy(wait);
        let mut freshness = Freshness::default();
        let (mut reads, mut detours, mut slowest) = (Vec::new(), 0, Duration::ZERO);
        for n in 1..=300 {
            sessions[0].execute("UPDATE t SET n = $1", &[&n]).await.unwrap();
            freshness.wrote(Instant::now());
            let begun = Instant::now();
            loop {
                let (node, reason) = place(&cluster, &mut freshness, &policy).await;
                let row = sessions[usize::from(node.0)].query_one("SELECT n FROM t", &[]).await.unwrap();
                assert_eq!(row.get::<_, i32>(0), n, "on {node:?}: {reason:?}");
                freshness.read_from(node, Instant::now());
                if node != NodeId(0) {
                    reads.push(node);
                    break;
                }
                assert_eq!(reason, Reason::NotCaughtUp);
                detours += 1;
            }
            slowest = slowest.max(begun.elapsed());
        }
        println!("replica_wait {wait:?}: {detours} detours, slowest {slowest:?}, {:?}", cluster.counters());
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        assert!(wait.is_zero() || detours == 0, "{detours}");
        assert!([NodeId(1), NodeId(2)].iter().all(|node| reads.contains(node)));
    }
}

#[tokio::test]
async fn nodes_can_be_drained_and_reloaded() {
    let servers = servers().await;
    let cluster = watched(&servers).await;
    let pg2 = cluster.find("pg2").unwrap();
    cluster.drain(pg2);
    for _ in 0..20 {
        let (node, _) = place(&cluster, &mut Freshness::default(), &policy(Duration::ZERO)).await;
        assert_eq!(Some(node), cluster.find("pg3"));
    }
    cluster.undrain(pg2);
    let all = settings(&servers, INTERVAL);
    let mut fewer = all.clone();
    fewer.nodes.retain(|node| node.name.as_str() != "pg3");
    cluster.reload(&fewer);
    assert_eq!(view(&cluster.snapshot(), "pg3").state, State::Removed);
    let (node, _) = place(&cluster, &mut Freshness::default(), &policy(Duration::ZERO)).await;
    assert_eq!(node, pg2);
    cluster.reload(&all);
    sees(&cluster, "pg3 is back", |s| view(s, "pg3").fresh).await;
    assert_eq!((cluster.find("pg3"), cluster.snapshot().epoch), (Some(NodeId(2)), 1));
    // Nobody was disturbed by it.
    assert_eq!(view(&cluster.snapshot(), "pg1").incarnation, 0);
    wait_for("outstanding statements end", LIMIT, async || {
        let guard = cluster.outstanding(pg2);
        let one = cluster.loads().of(pg2) == 1;
        drop(guard);
        one && cluster.loads().of(pg2) == 0
    })
    .await;
}
