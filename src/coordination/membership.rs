//! This instance among several.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::etcd::{Condition, Etcd, EtcdError, Verdict};
use super::tenure::Tenure;
use super::view::{InstanceFacts, Leader, Number, Recorded, View, instance_key, leader_key, leader_value, record_key};
use crate::config::Coordination;
use crate::decide::failover::Record;
use crate::net::tls::TlsError;

/// Between two tries to watch.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// Keeps a lease, registers, follows what the others do, and becomes the leader when there is none.
pub struct Membership {
    etcd: Etcd,
    prefix: String,
    lease: Duration,
    name: String,
    /// Where the others reach this instance: as configured, or its first TCP listener.
    advertise: Option<String>,
    listen: Option<SocketAddr>,
    state: watch::Sender<State>,
    tenure: Tenure,
    acknowledged: watch::Sender<u64>,
    /// There may be something to do before the next renewal.
    wake: Notify,
    leaving: AtomicBool,
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
    renewed: Instant,
    ttl: Duration,
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
        let last = reign.record.load(Ordering::Acquire);
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

    /// Waits until every other instance has acknowledged this epoch, or is gone.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn agreed(&self, reign: &Reign, epoch: u64) {
        let last = reign.record.load(Ordering::Acquire);
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
        self.tenure.end();
        let Some(session) = self.state.borrow().session else { return };
        if let Err(error) = self.etcd.revoke(session.lease, self.limit()).await {
            info!(%error, "the lease could not be given back: the others wait for its end");
        }
        self.state.send_modify(|state| state.session = None);
    }

    /// A call that takes longer has failed: there is time for another one before the lease ends.
    fn limit(&self) -> Duration {
        self.lease / 4
    }

    async fn keep(self: Arc<Self>) {
        let mut number = None;
        while !self.leaving.load(Ordering::Acquire) {
            let begun = Instant::now();
            let session = self.state.borrow().session;
            let outcome = match session {
                Some(session) => self.renew(session).await,
                None => self.join(number).await,
            };
            self.report(outcome);
            number = self.number().or(number);
            let next = begun + self.lease / 4;
            loop {
                tokio::select! {
                    () = sleep_until(next.into()) => break,
                    () = self.wake.notified() => {}
                }
                let session = self.state.borrow().session;
                if let Some(session) = session {
                    let outcome = self.tend(session).await;
                    self.report(outcome);
                }
            }
        }
    }

    /// Tells of trouble when it begins, and of its end.
    fn report(&self, outcome: Result<(), EtcdError>) {
        let trouble = outcome.err().map(|error| error.to_string());
        self.state.send_if_modified(|state| {
            match (&state.trouble, &trouble) {
                (None, Some(error)) => warn!(error, "etcd"),
                (Some(_), None) => info!("etcd answers again"),
                _ => {}
            }
            let news = state.trouble != trouble;
            state.trouble = trouble;
            news
        });
    }

    /// Gets a lease and a number. What has been decided is read after that: whoever decides something new sees us.
    async fn join(&self, before: Option<Number>) -> Result<(), EtcdError> {
        let sent = Instant::now();
        let (lease, ttl) = self.etcd.grant(self.lease, self.limit()).await?;
        let registered = self.register(lease, before).await;
        let session = match registered {
            Ok((number, view)) => {
                let session = Session { number, lease, renewed: sent, ttl };
                info!(number = number.0, "registered with etcd");
                self.state.send_modify(|state| {
                    state.session = Some(session);
                    state.view = Arc::new(view);
                });
                session
            }
            Err(error) => {
                // It would hold a place for nothing.
                let _ = self.etcd.revoke(lease, self.limit()).await;
                return Err(error);
            }
        };
        self.tend(session).await
    }

    async fn register(&self, lease: i64, before: Option<Number>) -> Result<(Number, View), EtcdError> {
        let view = self.look().await?;
        // The cancel keys that have been handed out have the number that this instance had.
        let before = before.filter(|number| !view.instances.contains_key(number));
        let full = || EtcdError::Malformed("all numbers of instances are taken".to_owned());
        let number = before.or_else(|| view.free_number()).ok_or_else(full)?;
        let key = instance_key(&self.prefix, number);
        match self.put_facts(&[Condition::Created(&key, 0)], number, lease).await? {
            Verdict::Written(_) => Ok((number, self.look().await?)),
            Verdict::Unmet => Err(EtcdError::Unreachable(format!("the number {} was taken by another one", number.0))),
        }
    }

    async fn renew(&self, session: Session) -> Result<(), EtcdError> {
        let sent = Instant::now();
        let Some(ttl) = self.etcd.keep_alive(session.lease, self.limit()).await? else {
            warn!("the lease has ended");
            self.state.send_modify(|state| state.session = None);
            return self.join(Some(session.number)).await;
        };
        let session = Session { renewed: sent, ttl, ..session };
        self.tenure.extend(session.lease, session.over_at());
        self.state.send_modify(|state| state.session = Some(session));
        // The watch tells of changes at once, but not of its own end.
        self.refresh().await?;
        self.tend(session).await
    }

    async fn look(&self) -> Result<View, EtcdError> {
        let keys = self.etcd.keys(&self.prefix, self.limit()).await?;
        Ok(View::new(&self.prefix, &keys))
    }

    async fn refresh(&self) -> Result<(), EtcdError> {
        let view = self.look().await?;
        self.state.send_if_modified(|state| {
            let news = view.revision >= state.view.revision;
            if news {
                state.view = Arc::new(view);
            }
            news
        });
        Ok(())
    }

    /// Sees to what has been put off: the own registration, and a leader if there is none.
    async fn tend(&self, session: Session) -> Result<(), EtcdError> {
        let view = self.state.borrow().view.clone();
        match view.instances.get(&session.number).filter(|own| own.lease == session.lease) {
            Some(own) if own.facts == self.facts() => {}
            Some(_) => drop(self.put_facts(&[], session.number, session.lease).await?),
            None => {
                // Somebody has removed it: nobody waits for this instance any more.
                self.state.send_modify(|state| state.session = None);
                let _ = self.etcd.revoke(session.lease, self.limit()).await;
                return Err(EtcdError::Unreachable("this instance's registration is gone".to_owned()));
            }
        }
        let legible = !matches!(view.record, Recorded::Illegible(_));
        if view.leader.is_none() && legible && Instant::now() < session.hold_at() {
            let key = leader_key(&self.prefix);
            let value = leader_value(session.number);
            let nobody = [Condition::Created(&key, 0)];
            self.etcd.write(&nobody, &key, &value, session.lease, self.limit()).await?;
            // Whoever it is now: what was decided before that is seen with it.
            self.refresh().await?;
        }
        Ok(())
    }

    async fn put_facts(&self, conditions: &[Condition<'_>], number: Number, lease: i64) -> Result<Verdict, EtcdError> {
        let value = serde_json::to_vec(&self.facts()).expect("facts can be written down");
        self.etcd.write(conditions, &instance_key(&self.prefix, number), &value, lease, self.limit()).await
    }

    fn facts(&self) -> InstanceFacts {
        let found = || {
            let listen = self.listen?;
            let ip = if listen.ip().is_unspecified() { self.etcd.local()? } else { listen.ip() };
            Some(SocketAddr::new(ip, listen.port()).to_string())
        };
        InstanceFacts {
            name: self.name.clone(),
            address: self.advertise.clone().or_else(found).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            acknowledged: *self.acknowledged.borrow(),
        }
    }

    /// Learns of changes as they happen.
    async fn follow(self: Arc<Self>) {
        let mut states = self.state.subscribe();
        loop {
            // The sender is `self`.
            let known = states.wait_for(|state| state.session.is_some()).await.map(|state| state.view.revision);
            let Ok(known) = known else { return };
            match self.etcd.watch(&self.prefix, known + 1, self.limit()).await {
                // One that says nothing for long may be dead.
                Ok(mut watch) => {
                    while let Ok(changes) = timeout(self.lease * 2, watch.next()).await {
                        match changes {
                            Ok(changes) => self.happened(&changes),
                            Err(error) => {
                                debug!(%error, "the watch has ended");
                                break;
                            }
                        }
                    }
                }
                Err(error) => debug!(%error, "cannot watch"),
            }
            sleep(WATCH_PAUSE).await;
        }
    }

    fn happened(&self, changes: &[super::etcd::Change]) {
        self.state.send_if_modified(|state| {
            let mut view = View::clone(&state.view);
            let news = view.apply(&self.prefix, changes);
            if news {
                state.view = Arc::new(view);
            }
            news
        });
        if self.state.borrow().view.leader.is_none() {
            self.wake.notify_one();
        }
    }
}
