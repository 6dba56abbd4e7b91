//! Carrying out changes of primary.
//!
//! - [`Failover`]: what the rest of pgpilot holds; `director`: feeds the machine of
//!   [`decide::failover`](crate::decide::failover) and sees to what it asks for; `seat`: whether this instance decides.
//! - `workshop`: one job from beginning to end; `server`: what is done on one server by SQL; `hook`: the operators'
//!   commands.

mod director;
mod hook;
mod seat;
mod server;
mod workshop;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{Cluster, Memory};
use crate::config::{self, Config};
use crate::coordination::{Membership, StateFile, StateFileError, Store};
use crate::decide::failover::{Machine, Order, Profile, Progress, Record, Rules, Status, WallClock, Zone};
use crate::decide::route::{NodeId, Writes};
use crate::telemetry::Metrics;

use director::{Director, Request};

/// Orders that may wait to be looked at. One more waits outside.
const ORDERS: usize = 8;

/// What a change of primary needs of the clients' side.
pub trait Connections: Send + Sync + 'static {
    /// Ends all connections to a node, also those in use. Returns how many of these there were.
    fn sever(&self, node: NodeId) -> usize;

    /// Sends those away who wait for a connection to a node: they are routed anew.
    fn turn_away(&self, node: NodeId);

    /// Clients that have a statement or a transaction under way on a node, or are about to.
    fn busy(&self, node: NodeId) -> usize;

    /// Those of them that are known by now, by the process that serves them there: who they are, in words.
    fn at_work(&self, node: NodeId) -> HashMap<u32, String>;

    /// From now on, what sessions lose on `node` they lose because it hands over to `heir`; `None`: because it is lost.
    fn hands_over(&self, node: NodeId, heir: Option<&str>);
}

/// What changes of primary are about.
pub struct Surroundings {
    pub cluster: Arc<Cluster>,
    pub connections: Arc<dyn Connections>,
    pub metrics: Arc<Metrics>,
}

/// What changes of primary go by.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub failover: config::Failover,
    pub health: config::Health,
    pub nodes: Vec<config::Node>,
    /// pgpilot's own.
    pub zone: Option<String>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let (failover, health) = (config.failover.clone(), config.health.clone());
        Self { failover, health, nodes: config.nodes.clone(), zone: config.routing.zone.clone() }
    }
}

impl Settings {
    fn rules(&self) -> Rules {
        let it = &self.failover;
        Rules {
            automatic: it.automatic,
            detect_after: it.detect_after,
            refused_after: it.refused_after,
            start_timeout: it.start_timeout,
            min_interval: it.min_interval,
            switchover_timeout: it.switchover_timeout,
            max_data_loss: it.max_data_loss.0,
            require_fence: it.require_fence,
        }
    }

    fn profile(&self, name: &config::NodeName) -> Option<Profile> {
        let node = self.nodes.iter().find(|node| node.name == *name)?;
        let own = self.zone.is_none() || node.zone == self.zone;
        Some(Profile {
            priority: node.priority,
            zone: if own { Zone::Own } else { Zone::Other },
            host: node.replication_host.clone().unwrap_or_else(|| node.host.clone()),
            port: node.replication_port.unwrap_or(node.port),
        })
    }
}

/// What was decided before pgpilot was started, and where decisions are written down.
pub struct Past {
    keeper: Keeper,
    record: Record,
}

/// Who writes decisions down.
enum Keeper {
    Alone(Store),
    Member(Arc<Membership>),
}

impl Past {
    /// Takes the state file, if there is to be one.
    ///
    /// # Errors
    /// It is in use by another pgpilot, or is none.
    pub fn open(failover: &config::Failover) -> Result<Self, StateFileError> {
        let store = match &failover.state_file {
            Some(path) => Store::File(StateFile::open(path)?),
            None => Store::Memory,
        };
        let record = store.load()?;
        Ok(Self { keeper: Keeper::Alone(store), record })
    }

    /// Several instances decide together: what they have decided is yet to be learnt.
    pub fn shared(membership: Arc<Membership>) -> Self {
        Self { keeper: Keeper::Member(membership), record: Record::default() }
    }

    /// The primary that it tells of.
    pub fn memory(&self) -> Option<Memory> {
        let primary = self.record.primary.clone()?;
        let writes = if self.record.progress == Progress::Steady { Writes::Open } else { Writes::Held };
        let Record { timeline, marked, ref forks, .. } = self.record;
        Some(Memory { primary, timeline, marked, forks: forks.clone(), writes })
    }
}

/// Changes of primary, automatic and ordered.
pub struct Failover {
    orders: mpsc::Sender<Request>,
    status: watch::Receiver<Status>,
    settings: watch::Sender<Settings>,
}

impl Failover {
    /// Begins to watch over the primary, until the handle is dropped. Needs to be called within a runtime.
    pub fn start(around: Surroundings, settings: Settings, past: Past) -> (Self, AbortOnDropHandle<()>) {
        let Past { keeper, record } = past;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let machine = Machine::new(settings.rules(), WallClock { unix, at: Instant::now() });
        let (orders, requests) = mpsc::channel(ORDERS);
        let (status, seen) = watch::channel(machine.status());
        let (settings, changed) = watch::channel(settings);
        let director = Director::new(around, machine, keeper, changed, requests, status);
        let task = AbortOnDropHandle::new(tokio::spawn(director.run(record)));
        (Self { orders, status: seen, settings }, task)
    }

    /// Takes over new settings. Another state file needs a restart.
    pub fn reload(&self, settings: Settings) {
        self.settings.send_replace(settings);
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Carries an order out. Returns what was done, or would be, in words.
    ///
    /// # Errors
    /// Why it was not done.
    ///
    /// # Cancel safety
    /// What has begun goes on.
    pub async fn order(&self, order: Order) -> Result<String, String> {
        let (answer, answered) = oneshot::channel();
        let gone = || "pgpilot is stopping".to_owned();
        self.orders.send(Request { order, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// A time limit that is shared by the steps of one job.
#[derive(Debug, Clone, Copy)]
struct Deadline(Instant);

impl Deadline {
    /// # Errors
    /// It has passed.
    async fn limit<T>(self, what: &str, work: impl Future<Output = T>) -> Result<T, String> {
        tokio::select! {
            // First of all, as what is waited for is often limited by the same instant in its steps.
            biased;
            () = tokio::time::sleep_until(self.0.into()) => Err(format!("{what} took too long")),
            done = work => Ok(done),
        }
    }
}
