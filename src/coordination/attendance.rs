//! Taking part: the lease, the registration, the election, and learning what the others do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::etcd::{Change, Condition, EtcdError, Verdict};
use super::membership::{Membership, Session};
use super::view::{InstanceFacts, Number, Recorded, View, instance_key, leader_key, leader_value};
use crate::decide::failover::stands_back;

/// Between two tries to watch.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// Between two tries to register.
const JOIN_PAUSE: Duration = Duration::from_millis(500);

impl Membership {
    pub(super) async fn keep(self: Arc<Self>) {
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
            let pause = if self.number().is_some() { self.lease / 4 } else { JOIN_PAUSE.min(self.lease / 4) };
            let next = begun + pause;
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
        self.state.send_modify(|state| {
            // This instance may have left meanwhile.
            if let Some(own) = &mut state.session {
                *own = session;
            }
        });
        // The watch tells of changes at once, but not of its own end.
        self.refresh().await?;
        self.tend(session).await
    }

    pub(super) async fn look(&self) -> Result<View, EtcdError> {
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
        if stands_back(*self.sight.borrow(), view.sights(session.number)) {
            return self.stand_back(session, &view).await;
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

    /// Another instance sees nodes, and this one none: that one is to decide.
    async fn stand_back(&self, session: Session, view: &View) -> Result<(), EtcdError> {
        let Some(leader) = view.leader.as_ref().filter(|leader| leader.lease == session.lease) else { return Ok(()) };
        warn!("no node answers to this instance, but to another one: that one is to decide");
        let key = leader_key(&self.prefix);
        self.etcd.remove(&[Condition::Created(&key, leader.since)], &key, self.limit()).await?;
        self.refresh().await
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
            sight: *self.sight.borrow(),
        }
    }

    /// Learns of changes as they happen.
    pub(super) async fn follow(self: Arc<Self>) {
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

    fn happened(&self, changes: &[Change]) {
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
