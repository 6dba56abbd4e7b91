//! What one routing decision costs: it is made for every statement.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use pgpilot::config::{Consistency, NodeName, OnAllLagging};
use pgpilot::decide::position::{Lsn, Timeline};
use pgpilot::decide::route::{
    Demand, Freshness, Lag, Need, NodeId, NodeView, Policy, PrimaryMark, Role, Route, Sample, Snapshot, State, route,
};
use pgpilot::decide::sql::Reason;

/// A primary, two replicas, and as many marks as a snapshot holds.
fn snapshot(start: Instant) -> Snapshot {
    let at = |i: u32| start + Duration::from_millis(200) * i;
    let node = |i: u16| NodeView {
        role: if i == 0 { Role::Primary } else { Role::Replica },
        state: State::Up,
        position: Some(Sample { asked_at: at(30), timeline: Timeline(1), lsn: Lsn(3000) }),
        lag: Lag { bytes: Some(0), time: Some(Duration::ZERO) },
        fresh: true,
        ..NodeView::new(NodeId(i), NodeName::new(&format!("pg{i}")).expect("a name"))
    };
    Snapshot {
        epoch: 1,
        primary: Some(NodeId(0)),
        timeline: Timeline(1),
        nodes: (0..3).map(node).collect(),
        marks: (0..24).map(|i| PrimaryMark { asked_at: at(i), lsn: Lsn(u64::from(i) * 100) }).collect(),
        ..Snapshot::default()
    }
}

fn policy() -> Policy {
    Policy {
        consistency: Consistency::Session,
        on_all_lagging: OnAllLagging::Primary,
        replica_wait: Duration::ZERO,
        primary_wait: Duration::from_secs(5),
        reads_on_primary: false,
        zone: None,
    }
}

fn decisions(c: &mut Criterion) {
    let start = Instant::now();
    let (snapshot, policy) = (snapshot(start), policy());
    let demand = |need| Demand { need, reason: Reason::PlainRead, promise: None, arrived: start, avoid: None };
    let mut random = fastrand::Rng::with_seed(1);
    let mut bench = |name: &str, need: Need, prepare: &dyn Fn(&mut Freshness)| {
        let mut freshness = Freshness::default();
        prepare(&mut freshness);
        let demand = demand(need);
        c.bench_function(name, |b| {
            b.iter(|| {
                let load = |node: NodeId| u32::from(node.0);
                let dice = random.u64(..);
                route(black_box(&demand), &mut freshness, black_box(&snapshot), &policy, load, dice, start)
            });
        });
    };
    bench("a write", Need::Primary, &|_| {});
    bench("a read of a session that did nothing yet", Need::Read, &|_| {});
    bench("a read after a covered write", Need::Read, &|freshness| freshness.wrote(start));
    bench("a read after a write that no mark covers", Need::Read, &|freshness| {
        freshness.wrote(start + Duration::from_secs(60));
    });

    let mut freshness = Freshness::default();
    let demand = demand(Need::Read);
    c.bench_function("a read, its note, and the next read", |b| {
        b.iter(|| {
            let dice = random.u64(..);
            let decision = route(&demand, &mut freshness, black_box(&snapshot), &policy, |_| 0, dice, start);
            if let Route::Replica(node) | Route::Primary(node) = decision.route {
                freshness.read_from(node, start);
            }
            decision
        });
    });
}

criterion_group!(benches, decisions);
criterion_main!(benches);
