//! One change of primary after the other, under a workload that notes what was acknowledged, and by whom.
//!
//! `PGPILOT_SOAK_ROUNDS` says how many, `PGPILOT_SOAK_INSTANCES` before how many instances, `PGPILOT_SOAK_COMMITS` whether
//! commits wait for a standby (`synchronous`, as if not told otherwise) or not; `./dev soak failover` runs it for long.

mod bystanders;
mod single_writer;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgpilot::decide::failover::{Order, Run};
use pgpilot::demo::{Hooks, LocalCluster, Scope};
use tokio_postgres::Client;

use super::several::{self, Lease};
use super::{attentive, cut, plain, section};
use crate::support::etcd::Etcd;
use crate::support::proxy::{Proxy, ask, topology};
use crate::support::relay::Relay;
use crate::support::{LIMIT, wait_for};
use bystanders::Bystander;
use single_writer::{Written, single_writer};

const WRITERS: i64 = 6;
const TELLERS: usize = 2;
const ACCOUNTS: i64 = 20;
/// In each; transfers leave the sum as it is.
const DEPOSIT: i64 = 1000;
/// By so much may the median be longer than what is to be reached by a release build that has its machine to itself.
const SLACK: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Freeze,
    /// Nobody reaches the primary any more, nor its fence; but for one of the instances, if there are several, which does
    /// not decide. It lives, and takes what it is sent.
    Cut,
    /// Not a fault: the primary hands over.
    Switchover,
    /// The instance that decides loses etcd at the moment in which the primary dies.
    Leader,
}

impl Fault {
    const ALL: [Self; 5] = [Self::Kill, Self::Freeze, Self::Cut, Self::Switchover, Self::Leader];

    /// For how long no write is acknowledged, at the median.
    fn to_be_reached(self) -> Duration {
        Duration::from_millis(match self {
            Self::Kill => 1500,
            Self::Freeze | Self::Cut => 4000,
            Self::Switchover => 500,
            // The others wait for the end of its lease, which etcd looks for twice a second.
            Self::Leader => 1500 + 5000 + 500,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commits {
    /// Each is on one of the standbys before it is acknowledged.
    Synchronous,
    /// The last ones before a failover may be lost.
    Asynchronous,
}

/// The servers, and the instances before them.
struct Stage {
    servers: Arc<LocalCluster>,
    commits: Commits,
    proxies: Vec<Proxy>,
    /// From each instance to each node.
    links: Vec<Vec<Relay>>,
    /// From the replicas to each node, while they stream through it.
    streams: Vec<Relay>,
    /// To etcd, one for each instance; none, if there is a single one.
    ways: Vec<Relay>,
    /// As long as this file is there, nobody can be fenced.
    beyond: PathBuf,
    _etcd: Option<Etcd>,
    _hooks: Hooks,
}

impl Stage {
    async fn new(instances: usize, commits: Commits) -> Self {
        let builder = match commits {
            Commits::Synchronous => plain().synchronous(1),
            Commits::Asynchronous => plain(),
        };
        let servers = Arc::new(attentive(builder).start().await.unwrap());
        let _hooks = servers.serve_hooks(Path::new(env!("CARGO_BIN_EXE_pgpilot"))).unwrap();
        let beyond = servers.directory().join("beyond");
        let command = _hooks.command();
        let unless_beyond = format!("test ! -e {} && exec \"$@\"", beyond.display());
        let fence: Vec<_> = ["sh", "-c", &unless_beyond, "sh"].map(str::to_owned).into_iter().collect();
        let fence = [&fence, command].concat();
        let hooks = format!(
            "fence_command = {fence:?}\ndemote_command = {command:?}\nrejoin_command = {command:?}\n\
             max_data_loss = \"64MB\"\n"
        );
        let mut streams = Vec::new();
        for node in servers.nodes() {
            streams.push(Relay::start(node.port()).await);
        }
        let (mut proxies, mut links, mut ways) = (Vec::new(), Vec::new(), Vec::new());
        let etcd = if instances > 1 { Some(Etcd::start().await) } else { None };
        for number in 0..instances {
            let section = match &etcd {
                None => format!("{}automatic = true\n{hooks}", section(&servers)),
                Some(etcd) => {
                    let way = Relay::start(etcd.port()).await;
                    let section = several::section(&format!("i{number}"), way.port(), Lease::Usual);
                    ways.push(way);
                    section.replace("[coordination]", &format!("{hooks}[coordination]"))
                }
            };
            let (config, relays) = cut::through_relays(topology(&servers, &section)).await;
            proxies.push(Proxy::configured(servers.clone(), config).await);
            links.push(relays);
        }
        Self { servers, commits, proxies, links, streams, ways, beyond, _etcd: etcd, _hooks }
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

    async fn strike(&self, fault: Fault, primary: &str) {
        let leader = self.leader().await;
        let node = self.servers.node(primary).unwrap();
        match fault {
            Fault::Leader => {
                self.ways[leader].cut();
                node.kill9(Scope::Node).await.unwrap();
            }
            Fault::Kill => node.kill9(Scope::Node).await.unwrap(),
            Fault::Freeze => node.freeze(Scope::Node).await.unwrap(),
            Fault::Cut => self.cut(primary, leader).await,
            Fault::Switchover => {
                let order = Order::Switchover { to: None, run: Run::Real };
                let told = self.proxies[leader].order(order).await;
                assert!(told.is_ok(), "{told:?}: {:#?}", self.events());
            }
        }
    }

    async fn cut(&self, primary: &str, leader: usize) {
        let index = self.servers.nodes().iter().position(|node| node.name() == primary).unwrap();
        for replica in self.servers.nodes().iter().filter(|node| node.name() != primary) {
            cut::stream_through(replica, &self.streams[index]).await;
        }
        fs::write(&self.beyond, "").unwrap();
        let spared = (leader + 1) % self.proxies.len();
        for (instance, links) in self.links.iter().enumerate() {
            if instance == leader || instance != spared {
                links[index].cut();
            }
        }
        self.streams[index].cut();
    }

    fn mend(&self) {
        let _ = fs::remove_file(&self.beyond);
        self.links.iter().flatten().chain(&self.streams).chain(&self.ways).for_each(Relay::mend);
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
async fn write(client: Client, first: i64, seen: Arc<Seen>) -> Vec<Written> {
    let (mut written, mut number) = (Vec::new(), first);
    let insert = "INSERT INTO written VALUES ($1) RETURNING inet_server_port(), pg_walfile_name(pg_current_wal_lsn())";
    while !seen.stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        if let Ok(row) = client.query_one(insert, &[&number]).await {
            let acknowledged = Instant::now();
            let timeline = u32::from_str_radix(&row.get::<_, String>(1)[..8], 16).unwrap();
            written.push(Written { number, node: row.get(0), timeline, sent, acknowledged });
            seen.acknowledge();
        }
        assert!(!client.is_closed(), "pgpilot has closed a client's connection");
        number += WRITERS;
    }
    written
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
    for (number, bystander) in Bystander::ALL.into_iter().enumerate() {
        tellers.push(tokio::spawn(bystander.work(stage.connect(number).await, seen.clone())));
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
        stage.strike(fault, &old).await;
        let changed = async || stage.proxies.iter().filter_map(Proxy::primary).any(|new| new != old);
        let in_time = tokio::time::timeout(LIMIT * 2, wait_for("another primary", LIMIT * 3, changed)).await;
        assert!(in_time.is_ok(), "{old} stays the primary: {:#?}", stage.events());
        let before = seen.stall().acknowledged;
        wait_for("a write to be acknowledged", LIMIT, async || seen.stall().acknowledged > before).await;
        times.push((fault, seen.stall().longest));
        println!("{round}: {fault:?} of {old}: no write for {:?}", seen.stall().longest);
        // Whole again: three nodes, of which two follow.
        stage.mend();
        for proxy in &stage.proxies {
            proxy.wait_for_another_than(&old).await;
            proxy.wait_for_replicas(2).await;
        }
    }
    seen.stop.store(true, Ordering::Relaxed);
    let mut written = Vec::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    for teller in tellers {
        teller.await.unwrap();
    }
    stage.judge(&client, &written).await;
    assert!(written.len() > rounds, "{} acknowledged", written.len());
    times
}

impl Stage {
    #[allow(clippy::print_stdout, reason = "what was found is what it is run for")]
    async fn judge(&self, client: &Client, written: &[Written]) {
        let rows = client.query("/* pgpilot: primary */ SELECT n FROM written", &[]).await.unwrap();
        let there: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let lost: Vec<_> = written.iter().filter(|write| !there.contains(&write.number)).collect();
        println!("{} acknowledged writes, of which {} are lost", written.len(), lost.len());
        let may_lose = self.commits == Commits::Asynchronous;
        assert!(may_lose || lost.is_empty(), "{} are lost: {lost:?}: {:#?}", lost.len(), self.events());
        single_writer(written).unwrap_or_else(|why| panic!("{why}: {:#?}", self.events()));
        let sum = ask(client, "/* pgpilot: primary */ SELECT sum(balance) FROM accounts").await;
        assert_eq!(sum, (ACCOUNTS * DEPOSIT).to_string(), "money was made or lost");
    }
}

/// With one of two standbys in each commit, nothing that was acknowledged is lost, whenever the primary dies.
#[tokio::test]
async fn with_synchronous_replication_no_acknowledged_commit_is_lost() {
    let stage = Stage::new(1, Commits::Synchronous).await;
    campaign(&stage, 3, |round| if round == 1 { Fault::Switchover } else { Fault::Kill }).await;
}

#[tokio::test]
#[ignore = "takes as long as it is told to: ./dev soak failover"]
#[allow(clippy::print_stdout, reason = "what was measured is what it is run for")]
async fn soak() {
    let word = |name: &str| std::env::var(name).unwrap_or_default();
    let number = |name: &str| word(name).parse().ok();
    let rounds = number("PGPILOT_SOAK_ROUNDS").unwrap_or(200);
    let instances = number("PGPILOT_SOAK_INSTANCES").unwrap_or(1).max(1);
    let commits = match word("PGPILOT_SOAK_COMMITS").as_str() {
        "asynchronous" => Commits::Asynchronous,
        _ => Commits::Synchronous,
    };
    let one = [Fault::Kill, Fault::Cut, Fault::Switchover, Fault::Freeze, Fault::Kill];
    let several = [Fault::Kill, Fault::Cut, Fault::Switchover, Fault::Freeze, Fault::Leader];
    let stage = Stage::new(instances, commits).await;
    let all = if instances > 1 { several } else { one };
    let times = campaign(&stage, rounds, |round| all[round % all.len()]).await;
    let mut slow = Vec::new();
    for fault in Fault::ALL {
        let mut own: Vec<_> = times.iter().filter(|(it, _)| *it == fault).map(|(_, time)| *time).collect();
        own.sort_unstable();
        let Some(last) = own.len().checked_sub(1) else { continue };
        let at = |percent: usize| own[last * percent / 100];
        let (median, p99, longest) = (at(50), at(99), at(100));
        println!("{fault:?}: {} times, no write for: median {median:?}, p99 {p99:?}, longest {longest:?}", own.len());
        if median > fault.to_be_reached() * SLACK {
            slow.push(format!("{fault:?}: {median:?} at the median, for {:?}", fault.to_be_reached()));
        }
        // Nothing has failed there: that goes for nearly all of them.
        if fault == Fault::Switchover && p99 > fault.to_be_reached() * SLACK {
            slow.push(format!("{fault:?}: {p99:?} at the 99th percentile, for {:?}", fault.to_be_reached()));
        }
    }
    assert!(slow.is_empty(), "{slow:?}");
}
