//! Many clients write and read at random, through two pgpilots, while replicas are paused, slowed, cut off and killed and
//! the primary is lost: no read may be older than what its mode promises.
//!
//! The ordinary run does a little of each mode; `./dev soak consistency` does as much as it is told.

#![allow(clippy::print_stdout, reason = "a run says what it did")]

mod among;
mod client;
mod conflicts;
mod connection;
mod faults;
mod lagging;
mod ledger;
mod levels;
mod lost;
mod messages;
mod optimistic;
mod read_only;
mod settings;
mod tally;
mod tokens;
mod told;

use std::collections::VecDeque;
use std::env;
use std::sync::Arc;
use std::time::Duration;

use pgpilot::config::Consistency;
use pgpilot::decide::sql::Reason;
use pgpilot::demo::LocalCluster;

use self::client::Client;
use self::faults::{Fault, Faults};
use self::ledger::{Ledger, Session};
use self::tally::{Length, Tally};
use crate::support::plain::TRUST;
use crate::support::proxy::{Proxy, recipe};

/// One run.
#[derive(Debug, Clone, Copy)]
struct Plan<'a> {
    mode: Consistency,
    length: Length,
    clients: usize,
    seed: u64,
    /// Instead of any in any order.
    faults: &'a [Fault],
}

async fn start() -> Arc<LocalCluster> {
    let servers = recipe().setting("max_prepared_transactions", "64").start().await.expect("a cluster starts");
    let session = servers.node("pg1").expect("a node").connect_to("shop").await.expect("a session");
    session.batch_execute(&client::schema()).await.expect("the schema");
    session.batch_execute("ALTER TABLE counters OWNER TO app").await.expect("an owner");
    Arc::new(servers)
}

/// Runs the plan and prints what it did.
async fn run(plan: Plan<'_>) -> Arc<Tally> {
    let mode = format!("{:?}", plan.mode).to_lowercase();
    println!("{mode}: seed {}", plan.seed);
    let servers = start().await;
    // Strong reads that do not wait are mostly the primary's, where nothing can go wrong.
    let wait = if plan.mode == Consistency::Strong { "replica_wait = \"100ms\"\n" } else { "" };
    let config = format!(
        "[routing]\nreplica_functions = [\"place\"]\nconsistency = \"{mode}\"\nprimary_wait = \"30s\"\n{wait}{TRUST}"
    );
    let instances = [Proxy::before(servers.clone(), &config).await, Proxy::before(servers.clone(), &config).await];
    let ports: Vec<u16> = instances.iter().map(Proxy::port).collect();
    let ledger = Arc::new(Ledger::new(plan.mode));
    let tally = Arc::new(Tally::new(plan.length));
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let faults = Faults::new(servers.clone(), ledger.clone(), tally.clone(), random.u64(..)).await;
    let clients = (0..plan.clients).map(|number| Client {
        number,
        ports: ports.clone(),
        mode: plan.mode,
        ledger: ledger.clone(),
        tally: tally.clone(),
        random: random.fork(),
        session: Session::default(),
        connection: None,
        trace: VecDeque::new(),
        in_doubt: None,
    });
    let clients: Vec<_> = clients.map(|client| tokio::spawn(client.run())).collect();
    let waiting = async {
        for client in clients {
            if client.await.is_err() {
                tally.violation("a client panicked");
            }
        }
    };
    tokio::join!(waiting, faults.run(plan.faults));
    println!("{mode}: {tally}\n{mode}: {}", shares(&instances));
    let on_replicas: u64 = instances.iter().map(|proxy| proxy.counts().1).sum();
    assert!(mode == "primary" || on_replicas > 0, "nothing was read on a replica");
    for violation in tally.violations() {
        println!("{mode}: VIOLATION {violation}");
    }
    tally
}

/// Where batches ran, and why on the primary.
fn shares(instances: &[Proxy]) -> String {
    let count = |reason| instances.iter().map(|proxy| proxy.count_of(reason)).sum::<u64>();
    let (primary, replica) = instances.iter().map(Proxy::counts).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let behind = count(Reason::NotCaughtUp);
    let others = count(Reason::AllLagging) + count(Reason::NoReplica) + count(Reason::Consistency);
    let reads = replica + behind + others;
    format!(
        "{} batches on the primary, {replica} on replicas; of {reads} reads {:.1} % on replicas, {behind} on the \
         primary because no replica had caught up, {others} for other reasons",
        primary,
        percent(replica, reads),
    )
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// A little of one mode: until these faults are over.
async fn little(mode: Consistency, faults: &[Fault]) {
    let length = Length::Time(Duration::from_secs(60));
    let tally = run(Plan { mode, length, clients: 8, seed: fastrand::u64(..), faults }).await;
    assert_eq!(tally.violations(), Vec::<String>::new());
    assert!(tally.operations() > 0);
    assert_eq!(tally.errors("hung"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_little_in_mode_eventual() {
    little(Consistency::Eventual, &[Fault::Pause, Fault::Cut]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_little_in_mode_session() {
    little(Consistency::Session, &[Fault::Stutter, Fault::Failover]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_little_in_mode_strong() {
    little(Consistency::Strong, &[Fault::Delay, Fault::Kill]).await;
}

/// As long as the environment says; `./dev soak consistency` sets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as it is told"]
async fn soak() {
    let set = |name: &str| env::var(format!("PGPILOT_SOAK_{name}")).ok().filter(|value| !value.is_empty());
    let number = |name, otherwise| set(name).map_or(otherwise, |value| value.parse().expect("a number"));
    let length = match set("SECONDS") {
        Some(seconds) => Length::Time(Duration::from_secs(seconds.parse().expect("seconds"))),
        None => Length::Operations(number("OPERATIONS", 1_000_000)),
    };
    let modes = [Consistency::Eventual, Consistency::Session, Consistency::Strong, Consistency::Primary];
    let wanted = set("MODE");
    let mut violations = 0;
    for mode in modes {
        if wanted.as_ref().is_some_and(|wanted| !format!("{mode:?}").eq_ignore_ascii_case(wanted)) {
            continue;
        }
        let seed = number("SEED", fastrand::u64(..));
        let clients = usize::try_from(number("CLIENTS", 16)).expect("a number of clients");
        let tally = run(Plan { mode, length, clients, seed, faults: &[] }).await;
        violations += tally.violations().len();
    }
    assert_eq!(violations, 0, "violations");
}
