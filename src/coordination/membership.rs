//! This instance among several.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::etcd::{Condition, Etcd, EtcdError, Verdict};
use super::tenure::Tenure;
use super::view::{Leader, Number, Recorded, View, leader_key, record_key};
use crate::config::Coordination;
use crate::decide::failover::{Record, Sight};
use crate::net::tls::TlsError;

/// Keeps a lease, registers, follows what the others do, and becomes the leader when there is none.
pub struct Membership {
    pub(super) etcd: Etcd,
    pub(super) prefix: String,
    pub(super) lease: Duration,
    pub(super) name: String,
    /// Where the others reach this instance: as configured, or its first TCP listener.
    pub(super) advertise: Option<String>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) state: watch::Sender<State>,
    pub(super) tenure: Tenure,
    pub(super) acknowledged: watch::Sender<u64>,
    pub(super) sight: watch::Sender<Sight>,
    /// There may be something to do before the next renewal.
    pub(super) wake: Notify,
    pub(super) leaving: AtomicBool,
}

/// What is known at present.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// `None`: this instance is not registered.
    pub session: Option<Session>,
    pub view: Arc<View>,
    /// Why etcd could not be asked, if that is so.
    pub trouble: Option<String>,
}

/// A registration, which lives as long as its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    pub number: Number,
    pub(super) lease: i64,
    /// When the newest renewal that was granted was sent: the lease lives at least for `ttl` from then on.
    pub(super) renewed: Instant,
    pub(super) ttl: Duration,
}

/// The time in which this instance decides, from its election to the end of its lease.
#[derive(Debug)]
pub struct Reign {
    number: Number,
    lease: i64,
    since: i64,
    /// The revision in which the record was written last; 0: never.
    record: AtomicI64,
}

/// A decision that is not written down, or may not be.
#[derive(Debug, thiserror::Error)]
pub enum NotStored {
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error("another instance decides by now")]
    Deposed,
}

impl Session {
    /// From then on no new transaction may begin to write. Clocks may run at slightly different speeds, and what has
    /// begun needs some time to end.
    pub fn hold_at(&self) -> Instant {
        self.renewed + self.ttl * 7 / 10
    }

    /// From then on nothing may be sent to the primary.
    pub fn over_at(&self) -> Instant {
        self.renewed + self.ttl * 9 / 10
    }

    /// Begins to write with it, after having obeyed what is known by now.
    pub fn admit_to(&self, tenure: &Tenure) {
        tenure.admit(self.lease, self.over_at());
    }
}

impl State {
    /// Who decides, if that is this instance.
    pub fn own_leadership(&self) -> Option<&Leader> {
        self.view.leader.as_ref().filter(|leader| self.session.is_some_and(|own| own.lease == leader.lease))
    }
}

impl Reign {
    /// The revision in which this instance has written a decision down last; 0: nobody has ever.
    pub fn written(&self) -> i64 {
        self.record.load(Ordering::Acquire)
    }

    /// Whether it goes on, as far as `state` knows.
    pub fn goes_on(&self, state: &State) -> bool {
        state.own_leadership().is_some_and(|leader| leader.since == self.since && leader.lease == self.lease)
    }
}

impl Membership {
    /// `listen`: where clients connect.
    ///
    /// # Errors
    /// TLS files that cannot be used.
    pub fn new(settings: &Coordination, listen: Option<SocketAddr>) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self {
            etcd: Etcd::new(settings)?,
            prefix: settings.prefix.clone(),
            lease: settings.lease,
            name: settings.name.clone().unwrap_or_else(Self::host_name),
            advertise: settings.advertise.clone(),
            listen,
            state: watch::Sender::default(),
            tenure: Tenure::new(),
            acknowledged: watch::Sender::new(0),
            sight: watch::Sender::default(),
            wake: Notify::new(),
            leaving: AtomicBool::new(false),
        }))
    }

    /// Begins to take part, until the handles are dropped. Needs to be called within a runtime.
    pub fn start(self: &Arc<Self>) -> [AbortOnDropHandle<()>; 2] {
        [
            AbortOnDropHandle::new(tokio::spawn(self.clone().keep())),
            AbortOnDropHandle::new(tokio::spawn(self.clone().follow())),
        ]
    }

    /// The names of the instances that run, without taking part.
    ///
    /// # Errors
    /// etcd does not answer, or refuses.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn others(&self) -> Result<Vec<String>, EtcdError> {
        let view = self.look().await?;
        if let Recorded::Illegible(error) = view.record {
            return Err(EtcdError::Malformed(format!("the record below {}: {error}", self.prefix)));
        }
        Ok(view.instances.into_values().map(|instance| instance.facts.name).collect())
    }

    /// What an instance is called that has no name of its own.
    pub fn host_name() -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// This instance's number, as long as it is registered.
    pub fn number(&self) -> Option<Number> {
        Some(self.state.borrow().session?.number)
    }

    /// Where another instance is reached.
    pub fn address_of(&self, number: Number) -> Option<String> {
        let state = self.state.borrow();
        let address = &state.view.instances.get(&number)?.facts.address;
        (!address.is_empty()).then(|| address.clone())
    }

    /// Begins to decide, if this instance has been elected: from what was decided last, which is returned.
    ///
    /// # Errors
    /// It has not been elected, or etcd does not answer.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn reign(&self, state: &State) -> Result<(Reign, Record), NotStored> {
        let Leader { number, lease, since } = *state.own_leadership().ok_or(NotStored::Deposed)?;
        let view = self.look().await?;
        let (record, revision) = match view.record {
            Recorded::Written { record, revision } => (*record, revision),
            Recorded::Nothing => (Record::default(), 0),
            Recorded::Illegible(_) => return Err(NotStored::Deposed),
        };
        let reign = Reign { number, lease, since, record: AtomicI64::new(revision) };
        if revision > 0 {
            // Something that this instance wrote before may still be on its way: it comes too late from now on.
            self.store(&reign, &record).await?;
        }
        Ok((reign, record))
    }

    /// Writes a decision down, unless another instance decides by now.
    ///
    /// # Errors
    /// It is not written down, or that is not known.
    ///
    /// # Cancel safety
    /// It may have been written down.
    pub async fn store(&self, reign: &Reign, record: &Record) -> Result<(), NotStored> {
        let value = serde_json::to_vec(record).expect("a record can be written down");
        let (leader, key) = (leader_key(&self.prefix), record_key(&self.prefix));
        let last = reign.written();
        let conditions = [Condition::Created(&leader, reign.since), Condition::Written(&key, last)];
        let failure = match self.etcd.write(&conditions, &key, &value, 0, self.limit()).await {
            Ok(Verdict::Written(revision)) => {
                reign.record.store(revision, Ordering::Release);
                return Ok(());
            }
            Ok(Verdict::Unmet) => NotStored::Deposed,
            Err(error) => error.into(),
        };
        // A try that seemed to fail may have succeeded.
        let keys = self.etcd.keys(&self.prefix, self.limit()).await?;
        let view = View::new(&self.prefix, &keys);
        let leads = view.leader.as_ref().is_some_and(|leader| leader.since == reign.since);
        match view.record {
            Recorded::Written { record: found, revision } if leads && *found == *record => {
                reign.record.store(revision, Ordering::Release);
                Ok(())
            }
            _ => Err(failure),
        }
    }

    /// Says that this instance has stopped writing for this epoch's change, and let go of the old primary.
    pub fn acknowledge(&self, epoch: u64) {
        self.acknowledged.send_replace(epoch);
        self.wake.notify_one();
    }

    /// Says whether any node answers: who sees none lets another one decide.
    pub fn sees(&self, sight: Sight) {
        let changed = self.sight.send_if_modified(|known| std::mem::replace(known, sight) != sight);
        if changed {
            self.wake.notify_one();
        }
    }

    /// Waits until every other instance has acknowledged this epoch, or is gone.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn agreed(&self, reign: &Reign, epoch: u64) {
        let last = reign.written();
        // Who registers later reads what has been decided before it writes anything.
        let agreed =
            |state: &State| state.view.revision >= last && state.view.missing(epoch, reign.number).next().is_none();
        // The sender is `self`.
        let _ = self.state.subscribe().wait_for(agreed).await;
    }

    /// The names of those who have not acknowledged this epoch.
    pub fn missing(&self, reign: &Reign, epoch: u64) -> Vec<String> {
        let state = self.state.borrow();
        state.view.missing(epoch, reign.number).map(|(_, instance)| instance.facts.name.clone()).collect()
    }

    /// How long it takes at most until an instance that is gone is known to be gone.
    pub fn patience(&self) -> Duration {
        // etcd looks for leases that have ended twice a second, and counts anew when its own leader changes.
        self.lease * 2 + Duration::from_secs(1)
    }

    /// Ends the lease, so that another instance can take over at once. Writes nothing from now on.
    pub async fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        let mut session = None;
        self.state.send_modify(|state| session = state.session.take());
        self.tenure.end();
        let Some(session) = session else { return };
        if let Err(error) = self.etcd.revoke(session.lease, self.limit()).await {
            info!(%error, "the lease could not be given back: the others wait for its end");
        }
    }

    /// A call that takes longer has failed: there is time for another one before the lease ends.
    pub(super) fn limit(&self) -> Duration {
        self.lease / 4
    }
}
