//! Where a session's reads go, on real servers.

use std::time::{Duration, Instant};

use pgpilot::cluster::Cluster;
use pgpilot::config::{Consistency, OnAllLagging};
use pgpilot::decide::route::{Ask, Demand, Freshness, Need, NodeId, Policy, Route, State, route};
use pgpilot::decide::sql::Reason;

use crate::support::LIMIT;
use crate::support::watch::{INTERVAL, leader, sees, servers, settings, view, watched};

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
    let demand =
        Demand { need: Need::Read, reason: Reason::PlainRead, promise: None, arrived: Instant::now(), avoid: None };
    let mut now = demand.arrived;
    loop {
        let snapshot = cluster.snapshot();
        let (loads, dice) = (cluster.loads(), fastrand::u64(..));
        let decision = route(&demand, freshness, &snapshot, policy, |id| loads.of(id), dice, now);
        if decision.ask == Ask::Mark {
            cluster.want_mark();
        }
        match decision.route {
            Route::Primary(node) | Route::Replica(node) => return (node, decision.reason),
            Route::Wait(wait) => {
                cluster.wait_change(&snapshot, wait.until()).await;
                now = Instant::now();
            }
            Route::Refuse(refusal) => panic!("{refusal}"),
        }
    }
}

#[tokio::test]
async fn a_session_reads_its_own_writes_on_replicas() {
    let servers = servers().await;
    // The regular probes are too rare to be of any help: only what the session asks for brings it back to the replicas.
    watched(&servers).await;
    let cluster = Cluster::start(&settings(&servers, Duration::from_secs(60)), None);
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
    for wait in [LIMIT, Duration::ZERO] {
        let policy = policy(wait);
        let mut freshness = Freshness::default();
        let (mut reads, mut detours, mut slowest) = (Vec::new(), 0, Duration::ZERO);
        for n in 1..=300 {
            sessions[0].execute("UPDATE t SET n = $1", &[&n]).await.unwrap();
            freshness.wrote(Instant::now());
            if freshness.wants_mark() {
                cluster.want_mark();
            }
            let begun = Instant::now();
            loop {
                let (node, reason) = place(&cluster, &mut freshness, &policy).await;
                let row = sessions[usize::from(node.0)].query_one("SELECT n FROM t", &[]).await.unwrap();
                assert_eq!(row.get::<_, i32>(0), n, "on {node:?}: {reason:?}");
                freshness.read_from(node, Instant::now());
                if freshness.wants_mark() {
                    cluster.want_mark();
                }
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
        assert!(slowest < LIMIT, "{slowest:?}");
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
    let guard = cluster.outstanding(pg2);
    assert_eq!(cluster.loads().of(pg2), 1);
    drop(guard);
    assert_eq!(cluster.loads().of(pg2), 0);
}
