//! What goes wrong meanwhile: replicas are paused, slowed, cut off, frozen, restarted and killed, and the primary is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgpilot::demo::{Error, LocalCluster, Node, Scope, Stop};
use tokio::time::{Instant, sleep_until};

use super::ledger::{COUNTERS, Counters, Ledger};
use super::tally::Tally;
use crate::support::relay::Relay;
use crate::support::{LIMIT, wait_for};

pub(super) struct Faults {
    servers: Arc<LocalCluster>,
    ledger: Arc<Ledger>,
    tally: Arc<Tally>,
    random: fastrand::Rng,
    primary: String,
    /// What each node receives the log through, while it is a replica.
    relays: BTreeMap<String, Relay>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Pause,
    /// Replay goes on in jerks.
    Stutter,
    Delay,
    Cut,
    Freeze,
    Restart,
    Kill,
    Failover,
}

impl Fault {
    const ALL: [Self; 8] =
        [Self::Pause, Self::Stutter, Self::Delay, Self::Cut, Self::Freeze, Self::Restart, Self::Kill, Self::Failover];

    fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Stutter => "stutter",
            Self::Delay => "delay",
            Self::Cut => "cut",
            Self::Freeze => "freeze",
            Self::Restart => "restart",
            Self::Kill => "kill",
            Self::Failover => "failover",
        }
    }
}

impl Faults {
    pub(super) async fn new(servers: Arc<LocalCluster>, ledger: Arc<Ledger>, tally: Arc<Tally>, seed: u64) -> Self {
        let primary = servers.primary().await.expect("a primary").name().to_owned();
        let mut faults =
            Self { servers, ledger, tally, random: fastrand::Rng::with_seed(seed), primary, relays: BTreeMap::new() };
        for node in faults.servers.nodes() {
            faults.relays.insert(node.name().to_owned(), Relay::start(faults.primary().port()).await);
        }
        for replica in faults.replicas() {
            faults.receive_through_relay(replica).await.expect("a replica follows through its relay");
        }
        faults
    }

    /// Any of them until the run is over; or, if some are planned, those in this order, and then it is over.
    pub(super) async fn run(mut self, planned: &[Fault]) {
        let mut next = planned.iter().copied();
        while self.tally.goes_on() {
            self.rest(100..500).await;
            let fault = match next.next() {
                Some(fault) => fault,
                None if !planned.is_empty() => return self.tally.stop(),
                None => Fault::ALL[self.random.usize(..Fault::ALL.len())],
            };
            if !self.tally.goes_on() {
                return;
            }
            tracing::debug!(fault = fault.name(), "begins");
            if let Err(error) = self.cause(fault).await {
                // The machinery of the test failed, which says nothing of what is tested; but the run is not what it should be.
                self.tally.violation(&format!("cannot cause {}: {error}", fault.name()));
                return;
            }
            tracing::debug!(fault = fault.name(), "is over");
            self.tally.fault(fault.name());
        }
    }

    async fn cause(&mut self, fault: Fault) -> Result<(), Error> {
        let servers = self.servers.clone();
        let replicas: Vec<&Node> = servers.nodes().iter().filter(|node| node.name() != self.primary).collect();
        let replica = replicas[self.random.usize(..replicas.len())];
        let relay = &self.relays[replica.name()];
        match fault {
            Fault::Pause => {
                replica.pause_replay().await?;
                self.rest(100..2_000).await;
                replica.resume_replay().await
            }
            Fault::Stutter => {
                for _ in 0..10 {
                    replica.pause_replay().await?;
                    self.rest(1..60).await;
                    replica.resume_replay().await?;
                    self.rest(1..30).await;
                }
                Ok(())
            }
            Fault::Delay => {
                relay.delay(Duration::from_millis(self.random.u64(1..200)));
                self.rest(200..2_000).await;
                self.relays[replica.name()].delay(Duration::ZERO);
                Ok(())
            }
            Fault::Cut => {
                relay.cut();
                self.rest(100..1_500).await;
                self.relays[replica.name()].mend();
                self.primary().wait_for_follower(replica).await
            }
            Fault::Freeze => {
                replica.freeze(Scope::Node).await?;
                self.rest(50..1_500).await;
                replica.thaw()
            }
            Fault::Restart => {
                replica.restart(Stop::Fast).await?;
                self.primary().wait_for_follower(replica).await
            }
            Fault::Kill => {
                replica.kill9(Scope::Node).await?;
                self.rest(10..500).await;
                replica.start().await?;
                self.primary().wait_for_follower(replica).await
            }
            Fault::Failover => self.fail_over(&replicas).await,
        }
    }

    /// The primary dies, the replica that has most is promoted, the other follows it, the old primary comes back as a
    /// replica.
    async fn fail_over(&mut self, replicas: &[&Node]) -> Result<(), Error> {
        let servers = self.servers.clone();
        let old = servers.node(&self.primary)?;
        old.kill9(Scope::Node).await?;
        let mut positions = Vec::new();
        for replica in replicas {
            positions.push((replayed_all(replica).await, *replica));
        }
        let (_, new) = *positions.iter().max_by_key(|(position, _)| *position).expect("replicas");
        self.ledger.failed_over(counters(new).await?);
        self.rest(0..300).await;
        self.primary = new.name().to_owned();
        self.relays.values().for_each(|relay| relay.point_to(new.port()));
        new.promote().await?;
        roll_back_prepared(new).await?;
        for other in replicas.iter().filter(|other| other.name() != new.name()) {
            // Its connection ended with the old primary; the relay leads it to the new one.
            new.wait_for_follower(other).await?;
        }
        self.rest(0..500).await;
        servers.rejoin(old, new).await?;
        self.receive_through_relay(old).await
    }

    fn primary(&self) -> &Node {
        self.servers.node(&self.primary).expect("the primary is a node")
    }

    fn replicas(&self) -> impl Iterator<Item = &Node> {
        self.servers.nodes().iter().filter(|node| node.name() != self.primary)
    }

    async fn receive_through_relay(&self, replica: &Node) -> Result<(), Error> {
        let conninfo = replica.value("SHOW primary_conninfo").await?.unwrap_or_default();
        let direct = format!("port='{}'", self.primary().port());
        assert!(conninfo.contains(&direct), "{conninfo}");
        let through = format!("port='{}'", self.relays[replica.name()].port());
        replica.set("primary_conninfo", &conninfo.replace(&direct, &through)).await?;
        self.primary().wait_for_follower(replica).await
    }

    async fn rest(&mut self, ms: std::ops::Range<u64>) {
        // How long a fault lasts is its own affair: nothing is hoped for meanwhile.
        sleep_until(Instant::now() + Duration::from_millis(self.random.u64(ms))).await;
    }
}

/// Waits until a replica that has lost its primary has replayed what it received; returns its position.
async fn replayed_all(replica: &Node) -> u64 {
    const POSITION: &str = "SELECT (pg_last_wal_replay_lsn() - '0/0')::bigint::text FROM pg_is_in_recovery() r
        WHERE NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')
          AND EXISTS (SELECT FROM pg_stat_activity
                      WHERE backend_type = 'startup' AND wait_event IN ('RecoveryRetrieveRetryInterval', 'RecoveryWalStream'))";
    let mut last = 0;
    wait_for("a replica to replay what it has", LIMIT, async || {
        let position = replica.value(POSITION).await.ok().flatten().and_then(|text| text.parse().ok());
        let still = position.is_some_and(|position| position == last);
        last = position.unwrap_or_default();
        still
    })
    .await;
    last
}

/// Of a transaction that was prepared and then committed, the failover may have lost the second alone: nobody knows of
/// it any longer, and what it has locked stays locked.
async fn roll_back_prepared(primary: &Node) -> Result<(), Error> {
    let sql_error = |source| Error::Sql { node: primary.name().to_owned(), source };
    let session = primary.connect_to("shop").await?;
    for row in session.query("SELECT gid FROM pg_prepared_xacts", &[]).await.map_err(sql_error)? {
        let name: String = row.get(0);
        // Its client may have ended it meanwhile.
        drop(session.batch_execute(&format!("ROLLBACK PREPARED '{name}'")).await);
    }
    Ok(())
}

async fn counters(node: &Node) -> Result<Counters, Error> {
    let session = node.connect_to("shop").await?;
    let rows = session.query("SELECT n FROM counters ORDER BY id", &[]).await;
    let rows = rows.map_err(|source| Error::Sql { node: node.name().to_owned(), source })?;
    assert_eq!(rows.len(), COUNTERS);
    let mut counters = Counters::default();
    for (counter, row) in counters.iter_mut().zip(&rows) {
        *counter = u64::try_from(row.get::<_, i64>(0)).expect("a count");
    }
    Ok(counters)
}
