//! Whether this instance decides, and whether it may write.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;
use tracing::{info, warn};

use super::Keeper;
use super::director::Director;
use crate::coordination::{Membership, Recorded, Reign, Session, State, Store};
use crate::decide::failover::{Event, Record, Writing};
use crate::decide::health;
use crate::decide::route::NodeId;
use crate::telemetry::Topic;

/// Where decisions are written down, and whose they are.
pub(super) enum Seat {
    /// This instance's, always.
    Alone(Arc<Store>),
    Member(Box<Member>),
}

/// One of several.
pub(super) struct Member {
    pub(super) membership: Arc<Membership>,
    states: watch::Receiver<State>,
    /// `None`: another instance decides, or none.
    pub(super) reign: Option<Arc<Reign>>,
    /// `None`: what was decided last is not known yet.
    known: Option<Known>,
    /// The machine follows `known`.
    obeys: Obeys,
    standing: Standing,
    bound: Option<NodeId>,
    /// Until then this instance does not begin to decide, even if it has been elected.
    rests_until: Option<Instant>,
}

/// An instance that could not begin to decide, or go on, lets so much time pass: etcd may need it.
const REST: Duration = Duration::from_secs(1);

/// What was decided last, as of a revision: what is seen as of an earlier one is older.
#[derive(Debug, Clone)]
struct Known {
    record: Record,
    as_of: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obeys {
    Yes,
    NotYet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing is sent to the primary.
    Barred,
    /// What has begun may end, until the lease is over.
    Holding,
    Admitted,
}

impl Seat {
    pub(super) fn new(keeper: Keeper) -> Self {
        match keeper {
            Keeper::Alone(store) => Self::Alone(Arc::new(store)),
            Keeper::Member(membership) => Self::Member(Box::new(Member {
                states: membership.subscribe(),
                membership,
                reign: None,
                known: None,
                obeys: Obeys::NotYet,
                standing: Standing::Barred,
                bound: None,
                rests_until: None,
            })),
        }
    }

    /// Returns when there is something to attend to. One that is alone has nothing.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn turn(&mut self) {
        let Self::Member(member) = self else { return pending().await };
        let due = member.due();
        let end = async {
            match due {
                Some(at) => sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            // The sender lives as long as the membership.
            _ = member.states.changed() => {}
            () = end => {}
        }
    }

    /// Writes a decision down. When this returns, it lasts.
    ///
    /// # Errors
    /// Why it is not written down, or may not be.
    pub(super) async fn write_down(&mut self, writing: &Writing) -> Result<(), String> {
        let (Writing::First(record) | Writing::Also(record)) = writing;
        match self {
            Self::Alone(store) => {
                let (store, record) = (store.clone(), record.clone());
                let written = spawn_blocking(move || store.store(&record)).await;
                written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            }
            Self::Member(member) => {
                let reign = member.reign.as_ref().ok_or("this instance does not decide")?;
                member.membership.store(reign, record).await.map_err(|error| error.to_string())?;
                member.known = Some(Known { record: record.clone(), as_of: reign.written() });
                Ok(())
            }
        }
    }
}

impl Member {
    /// When the lease has something to say.
    fn due(&self) -> Option<Instant> {
        let session = self.states.borrow().session?;
        match self.standing {
            Standing::Admitted => Some(session.hold_at()),
            Standing::Holding => Some(session.over_at()),
            Standing::Barred => None,
        }
    }
}

impl Director {
    /// Takes note of what the other instances have done, and of the own lease.
    pub(super) async fn attend(&mut self) {
        let Seat::Member(member) = &mut self.seat else { return };
        let state = member.states.borrow_and_update().clone();
        if member.standing == Standing::Admitted && member.membership.tenure().is_over() {
            // Unnoticed: it was stopped for a while. What was running belongs to a time that is over.
            self.bar("was stopped for longer than its lease");
        }
        let Seat::Member(member) = &mut self.seat else { return };
        let now = Instant::now();
        let session = state.session.filter(|session| now < session.hold_at());
        if member.reign.as_ref().is_some_and(|reign| session.is_none() || !reign.goes_on(&state)) {
            self.give_up("its lease has ended, or another instance has been elected");
        }
        self.obey(&state).await;
        self.admit(&state, session);
        let Seat::Member(member) = &mut self.seat else { return };
        let rests = member.rests_until.is_some_and(|until| now < until);
        if member.reign.is_some() || session.is_none() || state.own_leadership().is_none() || rests {
            return;
        }
        match member.membership.reign(&state).await {
            Ok((reign, record)) => {
                member.known = Some(Known { record: record.clone(), as_of: reign.written() });
                member.reign = Some(Arc::new(reign));
                let epoch = record.epoch;
                self.note(format!("this instance decides from now on, epoch {epoch}"));
                self.abandon_jobs();
                self.step(Event::Restored(record)).await;
            }
            Err(error) => {
                member.rests_until = Some(Instant::now() + REST);
                info!(%error, "elected, and cannot begin to decide yet");
            }
        }
    }

    /// Decides no longer. What it was about is for whoever decides next.
    pub(super) fn give_up(&mut self, why: &str) {
        let Seat::Member(member) = &mut self.seat else { return };
        if member.reign.take().is_none() {
            return;
        }
        member.obeys = Obeys::NotYet;
        member.rests_until = Some(Instant::now() + REST);
        self.note(format!("this instance decides no longer: {why}"));
        self.abandon_jobs();
        self.dismiss("this instance decides no longer; SHOW FAILOVER of the one that does tells how it goes on");
    }

    /// Nobody waits any longer for what becomes of an order.
    pub(super) fn dismiss(&mut self, why: &str) {
        for (_, waiting) in self.waiting.drain() {
            // Who does not wait any more does not need it.
            let _ = waiting.send(Err(why.to_owned()));
        }
    }

    async fn obey(&mut self, state: &State) {
        let Seat::Member(member) = &mut self.seat else { return };
        if member.reign.is_some() {
            return;
        }
        let told = match &state.view.record {
            _ if state.session.is_none() => None,
            Recorded::Written { record, .. } => Some(Record::clone(record)),
            Recorded::Nothing => Some(Record::default()),
            Recorded::Illegible(error) => {
                warn!(error, "what was decided cannot be read: is another version of pgpilot at work?");
                None
            }
        };
        let as_of = state.view.revision();
        if let Some(record) = told
            && member.known.as_ref().is_none_or(|known| known.as_of <= as_of)
        {
            if member.known.as_ref().is_none_or(|known| known.record != record) {
                member.obeys = Obeys::NotYet;
            }
            member.known = Some(Known { record, as_of });
        }
        if member.obeys == Obeys::NotYet
            && let Some(Known { record, .. }) = member.known.clone()
        {
            member.obeys = Obeys::Yes;
            self.abandon_jobs();
            self.step(Event::Followed(record)).await;
        }
    }

    fn admit(&mut self, state: &State, session: Option<Session>) {
        let Seat::Member(member) = &mut self.seat else { return };
        let legible = !matches!(state.view.record, Recorded::Illegible(_));
        let decided = self.machine.record().primary.is_some();
        let over = state.session.is_none_or(|session| Instant::now() >= session.over_at());
        match (member.standing, session.filter(|_| legible && decided)) {
            (Standing::Admitted, Some(session)) => session.admit_to(member.membership.tenure()),
            (Standing::Holding | Standing::Barred, Some(session)) => {
                session.admit_to(member.membership.tenure());
                member.standing = Standing::Admitted;
                self.cluster.board.report(health::Event::Admitted);
                self.note("may write: its lease is good".to_owned());
            }
            (Standing::Admitted, None) => {
                member.standing = Standing::Holding;
                self.cluster.board.report(health::Event::Barred);
                self.note("writes wait: its lease cannot be renewed".to_owned());
            }
            (Standing::Holding | Standing::Barred, None) => {}
        }
        let Seat::Member(member) = &self.seat else { return };
        if member.standing == Standing::Holding && over {
            self.bar("its lease is over");
        }
    }

    /// Nothing goes to the primary any more, whatever was running there.
    fn bar(&mut self, why: &str) {
        let Seat::Member(member) = &mut self.seat else { return };
        member.standing = Standing::Barred;
        member.membership.tenure().end();
        self.cluster.board.report(health::Event::Barred);
        let primary = self.cluster.snapshot().primary;
        let cut = primary.map_or(0, |primary| self.connections.sever(primary));
        self.note(format!("{why}: {cut} connections to the primary have been closed"));
    }

    /// Only who was decided upon is followed.
    pub(super) fn bind(&mut self) {
        let Seat::Member(member) = &mut self.seat else { return };
        let decided = self.machine.record().primary.as_ref();
        let bound = decided.and_then(|name| self.cluster.find(name.as_str()));
        if bound != member.bound {
            member.bound = bound;
            self.cluster.board.report(health::Event::Bound { node: bound });
        }
    }

    fn note(&self, text: String) {
        info!("{text}");
        self.cluster.journal().note(Topic::Failover, None, text);
    }
}
