//! One change of primary after the other, under a workload that notes what was acknowledged.
//!
//! `PGPILOT_SOAK_ROUNDS` says how many, `PGPILOT_SOAK_INSTANCES` before how many instances; `./dev soak failover` runs it
//! for long.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgpilot::decide::failover::{Order, Run};
use pgpilot::demo::{Hooks, Scope};
use tokio_postgres::Client;

use super::several::{self, Lease};
use super::{Theatre, attentive, plain, with_hooks};
use crate::support::etcd::Etcd;
use crate::support::proxy::{Proxy, ask, topology};
use crate::support::relay::Relay;
use crate::support::{LIMIT, wait_for};

const WRITERS: i64 = 6;
const TELLERS: usize = 2;
const ACCOUNTS: i64 = 20;
/// In each; transfers leave the sum as it is.
const DEPOSIT: i64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Freeze,
    /// Not a fault: the primary hands over.
    Switchover,
    /// The instance that decides loses etcd at the moment in which the primary dies.
    Leader,
}

/// The servers, and the instances before them.
struct Stage {
    proxies: Vec<Proxy>,
    /// To etcd, one for each instance; none, if there is a single one.
    ways: Vec<Relay>,
    _etcd: Option<Etcd>,
    _hooks: Hooks,
}

impl Stage {
    async fn single() -> Self {
        let Theatre { proxy, _hooks } = with_hooks(plain().synchronous(1), "").await;
        Self { proxies: vec![proxy], ways: Vec::new(), _etcd: None, _hooks }
    }

    async fn several(count: usize) -> Self {
        let servers = Arc::new(attentive(plain().synchronous(1)).start().await.unwrap());
        let hooks = servers.serve_hooks(Path::new(env!("CARGO_BIN_EXE_pgpilot"))).unwrap();
        let command = hooks.command();
        let commands = format!(
            "fence_command = {command:?}\ndemote_command = {command:?}\nrejoin_command = {command:?}\n[coordination]"
        );
        let etcd = Etcd::start().await;
        let (mut proxies, mut ways) = (Vec::new(), Vec::new());
        for number in 0..count {
            let way = Relay::start(etcd.port()).await;
            let section = several::section(&format!("i{number}"), way.port(), Lease::Usual);
            let section = section.replace("[coordination]", &commands);
            proxies.push(Proxy::configured(servers.clone(), topology(&servers, &section)).await);
            ways.push(way);
        }
        Self { proxies, ways, _etcd: Some(etcd), _hooks: hooks }
    }

    /// Which instance decides.
    async fn leader(&self) -> usize {
        if self.ways.is_empty() {
            return 0;
        }
        let mut leader = None;
        wait_for("an instance that decides", LIMIT, async || {
            leader = self.proxies.iter().position(Proxy::leads);
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    /// A connection through each in turn.
    async fn connect(&self, number: usize) -> Client {
        self.proxies[number % self.proxies.len()].connect().await
    }

    fn events(&self) -> Vec<Vec<String>> {
        self.proxies.iter().map(Proxy::events).collect()
    }
}

/// What the workload has seen.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    stall: Mutex<Stall>,
}

/// The longest time in which nobody's write was acknowledged, since it was begun to look.
#[derive(Clone, Copy)]
struct Stall {
    last: Instant,
    longest: Duration,
    acknowledged: u64,
}

impl Default for Stall {
    fn default() -> Self {
        Self { last: Instant::now(), longest: Duration::ZERO, acknowledged: 0 }
    }
}

impl Seen {
    fn acknowledge(&self) {
        let mut stall = self.stall.lock().unwrap();
        let now = Instant::now();
        stall.longest = stall.longest.max(now - stall.last);
        stall.last = now;
        stall.acknowledged += 1;
    }

    fn begin(&self) {
        *self.stall.lock().unwrap() = Stall::default();
    }

    fn stall(&self) -> Stall {
        *self.stall.lock().unwrap()
    }
}

/// Writes numbers of its own, and returns those that were acknowledged.
async fn write(client: Client, first: i64, seen: Arc<Seen>) -> Vec<i64> {
    let (mut acknowledged, mut next) = (Vec::new(), first);
    while !seen.stop.load(Ordering::Relaxed) {
        if client.execute("INSERT INTO written VALUES ($1)", &[&next]).await.is_ok() {
            acknowledged.push(next);
            seen.acknowledge();
        }
        assert!(!client.is_closed(), "pgpilot has closed a client's connection");
        next += WRITERS;
    }
    acknowledged
}

/// Moves money about, in transactions of several statements.
async fn transfer(client: Client, seed: u64, seen: Arc<Seen>) {
    let mut dice = fastrand::Rng::with_seed(seed);
    while !seen.stop.load(Ordering::Relaxed) {
        let (from, to, amount) = (dice.i64(..ACCOUNTS), dice.i64(..ACCOUNTS), dice.i64(1..10));
        let whole = async {
            client.batch_execute("BEGIN").await?;
            client.execute("UPDATE accounts SET balance = balance - $1 WHERE id = $2", &[&amount, &from]).await?;
            client.execute("UPDATE accounts SET balance = balance + $1 WHERE id = $2", &[&amount, &to]).await?;
            client.batch_execute("COMMIT").await
        };
        if whole.await.is_err() {
            // Whatever became of it, it is over; between two tries something else may run.
            let _ = client.batch_execute("ROLLBACK").await;
        }
        assert!(!client.is_closed(), "pgpilot has closed a client's connection");
    }
}

async fn strike(stage: &Stage, fault: Fault, primary: &str) {
    let leader = stage.leader().await;
    let proxy = &stage.proxies[leader];
    let node = proxy.node(primary);
    match fault {
        Fault::Leader => {
            stage.ways[leader].cut();
            node.kill9(Scope::Node).await.unwrap();
        }
        Fault::Kill => node.kill9(Scope::Node).await.unwrap(),
        Fault::Freeze => node.freeze(Scope::Node).await.unwrap(),
        Fault::Switchover => {
            let order = Order::Switchover { to: None, run: Run::Real };
            let told = proxy.order(order).await;
            assert!(told.is_ok(), "{told:?}: {:#?}", stage.events());
        }
    }
}

/// Returns for how long no write was acknowledged because of each change.
#[allow(clippy::print_stdout, reason = "what was measured is what it is run for")]
async fn campaign(stage: &Stage, rounds: usize, fault_of: impl Fn(usize) -> Fault) -> Vec<(Fault, Duration)> {
    let client = stage.connect(0).await;
    client
        .batch_execute("CREATE TABLE written (n bigint); CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint)")
        .await
        .unwrap();
    let fill = format!("INSERT INTO accounts SELECT n, {DEPOSIT} FROM generate_series(0, {ACCOUNTS} - 1) n");
    client.batch_execute(&fill).await.unwrap();
    let seen = Arc::new(Seen::default());
    let mut writers = Vec::new();
    for first in 0..WRITERS {
        writers.push(tokio::spawn(write(stage.connect(writers.len()).await, first, seen.clone())));
    }
    let mut tellers = Vec::new();
    for seed in 0..TELLERS {
        tellers.push(tokio::spawn(transfer(stage.connect(seed).await, seed as u64, seen.clone())));
    }
    let mut times = Vec::new();
    for round in 0..rounds {
        let mut primary = None;
        wait_for("a primary", LIMIT, async || {
            primary = stage.proxies[0].primary();
            primary.is_some()
        })
        .await;
        let (old, fault) = (primary.unwrap(), fault_of(round));
        seen.begin();
        strike(stage, fault, &old).await;
        let changed = async || stage.proxies.iter().filter_map(Proxy::primary).any(|new| new != old);
        let in_time = tokio::time::timeout(LIMIT * 2, wait_for("another primary", LIMIT * 3, changed)).await;
        assert!(in_time.is_ok(), "{old} stays the primary: {:#?}", stage.events());
        let before = seen.stall().acknowledged;
        wait_for("a write to be acknowledged", LIMIT, async || seen.stall().acknowledged > before).await;
        times.push((fault, seen.stall().longest));
        // Whole again: three nodes, of which two follow.
        stage.ways.iter().for_each(Relay::mend);
        for proxy in &stage.proxies {
            proxy.wait_for_another_than(&old).await;
            proxy.wait_for_replicas(2).await;
        }
    }
    seen.stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    for teller in tellers {
        teller.await.unwrap();
    }
    let rows = client.query("/* pgpilot: primary */ SELECT n FROM written", &[]).await.unwrap();
    let there: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|n| !there.contains(n)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}: {:#?}", lost.len(), acknowledged.len(), stage.events());
    assert!(acknowledged.len() > rounds, "{} acknowledged", acknowledged.len());
    let sum = ask(&client, "/* pgpilot: primary */ SELECT sum(balance) FROM accounts").await;
    assert_eq!(sum, (ACCOUNTS * DEPOSIT).to_string(), "money was made or lost");
    println!("{rounds} changes of primary, {} acknowledged writes, none lost", acknowledged.len());
    times
}

/// With one of two standbys in each commit, nothing that was acknowledged is lost, whenever the primary dies.
#[tokio::test]
async fn with_synchronous_replication_no_acknowledged_commit_is_lost() {
    let stage = Stage::single().await;
    campaign(&stage, 3, |round| if round == 1 { Fault::Switchover } else { Fault::Kill }).await;
}

#[tokio::test]
#[ignore = "takes as long as it is told to: ./dev soak failover"]
async fn soak() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds = number("PGPILOT_SOAK_ROUNDS").unwrap_or(200);
    let one = [Fault::Kill, Fault::Kill, Fault::Switchover, Fault::Freeze];
    let several = [Fault::Kill, Fault::Leader, Fault::Switchover, Fault::Freeze];
    let (stage, all) = match number("PGPILOT_SOAK_INSTANCES").unwrap_or(1) {
        0 | 1 => (Stage::single().await, one),
        count => (Stage::several(count).await, several),
    };
    let times = campaign(&stage, rounds, |round| all[round % all.len()]).await;
    for fault in [Fault::Kill, Fault::Freeze, Fault::Switchover, Fault::Leader] {
        let mut own: Vec<_> = times.iter().filter(|(it, _)| *it == fault).map(|(_, time)| *time).collect();
        own.sort_unstable();
        let Some(last) = own.len().checked_sub(1) else { continue };
        let at = |percent: usize| own[last * percent / 100];
        println!(
            "{fault:?}: {} times, no write for: median {:?}, p99 {:?}, longest {:?}",
            own.len(),
            at(50),
            at(99),
            at(100)
        );
    }
}
