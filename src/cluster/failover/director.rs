//! Between the machine and the world.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep_until, timeout_at};
use tracing::{info, warn};

use super::seat::Seat;
use super::workshop::{Facts, REJOIN, Workshop};
use super::{Connections, Keeper, Settings, Surroundings};
use crate::cluster::Cluster;
use crate::config;
use crate::coordination::Membership;
use crate::decide::failover::{
    Darkness, Ended, Event, Fact, Job, Machine, Note, Order, Outcome, Purpose, Record, Routing, Severity, Status,
    Ticket, World, Writing,
};
use crate::decide::health;
use crate::decide::position::Fork;
use crate::decide::route::Snapshot;
use crate::telemetry::{Count, Ending, Metrics, Topic};

/// While all is well, the machine looks at the cluster at most so often.
const CALM: Duration = Duration::from_millis(20);

/// An order, and who waits for what becomes of it.
pub(super) struct Request {
    pub(super) order: Order,
    pub(super) answer: oneshot::Sender<Result<String, String>>,
}

/// Feeds the machine, and sees to what it asks for.
pub(super) struct Director {
    pub(super) cluster: Arc<Cluster>,
    pub(super) machine: Machine,
    pub(super) seat: Seat,
    settings: watch::Receiver<Settings>,
    pub(super) connections: Arc<dyn Connections>,
    workshop: Arc<Workshop>,
    requests: mpsc::Receiver<Request>,
    pub(super) waiting: HashMap<Ticket, oneshot::Sender<Result<String, String>>>,
    tickets: Ticket,
    /// At most one of a kind for each node.
    jobs: JoinSet<Outcome>,
    names: HashMap<Id, Job>,
    status: watch::Sender<Status>,
    metrics: Arc<Metrics>,
    wake: Instant,
    /// What the cluster has been told of its history.
    forks: Vec<Fork>,
    marked: u64,
    darkness: Darkness,
}

impl Director {
    pub(super) fn new(
        around: Surroundings,
        machine: Machine,
        keeper: Keeper,
        settings: watch::Receiver<Settings>,
        requests: mpsc::Receiver<Request>,
        status: watch::Sender<Status>,
    ) -> Self {
        let Surroundings { cluster, connections, metrics } = around;
        Self {
            cluster,
            machine,
            seat: Seat::new(keeper),
            settings,
            connections,
            workshop: Arc::default(),
            requests,
            waiting: HashMap::new(),
            tickets: 0,
            jobs: JoinSet::new(),
            names: HashMap::new(),
            status,
            metrics,
            wake: Instant::now(),
            forks: Vec::new(),
            marked: 0,
            darkness: Darkness::default(),
        }
    }

    /// Runs until it is dropped.
    ///
    /// # Cancel safety
    /// Jobs end where they are; the record says what has been decided.
    pub(super) async fn run(mut self, record: Record) {
        match self.seat {
            Seat::Alone(_) => self.step(Event::Restored(record)).await,
            // Until it is known what was decided, and that this instance counts.
            Seat::Member(_) => self.cluster.board.report(health::Event::Barred),
        }
        loop {
            let looked = Instant::now();
            let snapshot = self.cluster.snapshot();
            let world = self.world(&snapshot, looked);
            self.tell_sight(&world, looked);
            self.step(Event::Seen(world)).await;
            self.attend().await;
            let steady = matches!(self.status.borrow().state, "steady" | "following" | "estranged");
            let calm = looked + if steady { CALM } else { Duration::ZERO };
            if !steady {
                // What the replicas said a moment ago is too old now.
                snapshot.nodes.iter().for_each(|node| self.cluster.nudge(node.id));
            }
            tokio::select! {
                () = change(&self.cluster, &snapshot, self.wake, calm) => {}
                () = self.seat.turn() => {}
                Some(ended) = self.jobs.join_next_with_id() => {
                    let (id, outcome) = match ended {
                        Ok((id, outcome)) => (id, outcome),
                        Err(error) => (error.id(), Err(error.to_string())),
                    };
                    if let Some(job) = self.names.remove(&id) {
                        self.step(Event::Ended { job, outcome }).await;
                    }
                }
                Some(Request { order, answer }) = self.requests.recv() => {
                    self.tickets += 1;
                    let ticket = self.tickets;
                    self.waiting.insert(ticket, answer);
                    // An order is about the cluster as it is now.
                    let world = self.world(&self.cluster.snapshot(), Instant::now());
                    self.step(Event::Seen(world)).await;
                    self.step(Event::Ordered { order, ticket }).await;
                }
                Ok(()) = self.settings.changed() => {
                    let rules = self.settings.borrow_and_update().rules();
                    self.machine.set_rules(rules);
                }
            }
        }
    }

    fn world(&self, snapshot: &Snapshot, now: Instant) -> World {
        let settings = self.settings.borrow();
        let profile = |id| settings.profile(&snapshot.node(id)?.name);
        World::new(snapshot, profile, |id| self.cluster.answer(id), now)
    }

    /// Tells the machine something, and does what it asks for.
    pub(super) async fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = self.machine.on(event, Instant::now());
            self.wake = actions.wake.unwrap_or_else(Instant::now);
            for note in &actions.notes {
                self.tell(note);
            }
            if let Some(writing) = actions.record
                && let Err(error) = self.seat.write_down(&writing).await
            {
                if let Seat::Member(_) = self.seat {
                    // It may be there all the same, or somebody else's is: what is there counts.
                    self.give_up(&error);
                    // Also if it has not decided before: what they ask for is not done.
                    self.dismiss(&format!("it cannot be written down: {error}"));
                    break;
                }
                let required = matches!(writing, Writing::First(_));
                events.push_back(Event::NotRecorded(writing, error));
                if required {
                    continue;
                }
            }
            if let (Some(epoch), Seat::Member(member)) = (actions.acknowledge, &self.seat) {
                member.membership.acknowledge(epoch);
            }
            if let Some(routing) = actions.routing {
                self.route(routing);
            }
            if let Some((purpose, ended)) = actions.ended {
                self.count(purpose, ended);
            }
            actions.jobs.into_iter().for_each(|job| self.begin(job));
            for (ticket, answer) in actions.answers {
                if let Some(waiting) = self.waiting.remove(&ticket) {
                    // Who does not wait any more sees it in the journal.
                    let _ = waiting.send(answer);
                }
            }
        }
        self.tell_history();
        self.bind();
        let status = self.machine.status();
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }

    /// The other instances are told whether this one sees anything.
    fn tell_sight(&mut self, world: &World, now: Instant) {
        if let Seat::Member(member) = &self.seat {
            let patience = self.settings.borrow().failover.detect_after;
            member.membership.sees(self.darkness.look(world, patience, now));
        }
    }

    fn tell_history(&mut self) {
        let forks = &self.machine.record().forks;
        if *forks != self.forks {
            self.forks.clone_from(forks);
            self.cluster.board.report(health::Event::Forked(forks.clone()));
        }
        let marked = self.machine.record().marked;
        if marked != self.marked {
            self.marked = marked;
            self.cluster.board.report(health::Event::Marked(marked));
        }
    }

    fn route(&self, routing: Routing) {
        if let Routing::Follow { node, .. } = routing
            && let Some(old) = self.cluster.snapshot().primary.filter(|&old| old != node)
        {
            // This instance may have missed how that one was left.
            self.connections.sever(old);
        }
        self.cluster.board.report(match routing {
            Routing::Hold => health::Event::Held,
            Routing::Release => health::Event::Released,
            Routing::Appoint { node, epoch, timeline } => health::Event::Appointed { node, epoch, timeline },
            Routing::Follow { node, epoch, timeline } => health::Event::Recorded { node, epoch, timeline },
        });
        self.cluster.snapshot().nodes.iter().for_each(|node| self.cluster.nudge(node.id));
    }

    /// Jobs that are under way end where they are, and nobody hears of it.
    pub(super) fn abandon_jobs(&mut self) {
        self.jobs.abort_all();
        self.names.clear();
    }

    fn begin(&mut self, job: Job) {
        let settings = self.settings.borrow().clone();
        let office = match &self.seat {
            Seat::Alone(_) => None,
            Seat::Member(member) => member.reign.clone().map(|reign| (member.membership.clone(), reign)),
        };
        let (deadline, hook_limit) =
            self.limits(job, office.as_ref().map(|(membership, _)| membership), &settings.failover);
        let facts = Facts {
            epoch: self.machine.record().epoch,
            system: self.machine.record().system,
            snapshot: self.cluster.snapshot(),
            cluster: self.cluster.clone(),
            connections: self.connections.clone(),
            settings,
            office,
            deadline,
            hook_limit,
        };
        let workshop = self.workshop.clone();
        let work = async move {
            info!(?job, "begins");
            let hooks = match job {
                Job::Rejoin { .. } => REJOIN,
                _ => facts.hook_limit,
            };
            // Each part has its limit; this one is for what has none.
            let end = facts.deadline + hooks * 2 + Duration::from_secs(5);
            let outcome: Outcome = match timeout_at(end.into(), workshop.carry_out(job, &facts)).await {
                Ok(outcome) => outcome,
                Err(_) => Err("it took too long".to_owned()),
            };
            match &outcome {
                Ok(Fact::Done) => info!(?job, "done"),
                Ok(fact) => info!(?job, ?fact, "done"),
                Err(error) => warn!(?job, error, "failed"),
            }
            outcome
        };
        let handle = self.jobs.spawn(work);
        self.names.insert(handle.id(), job);
    }

    /// Until when a job has to be done, and how long a hook may take for it.
    fn limits(
        &self,
        job: Job,
        membership: Option<&Arc<Membership>>,
        settings: &config::Failover,
    ) -> (Instant, Duration) {
        let now = Instant::now();
        let until = |limit: Duration| {
            let deadline = now + limit;
            self.machine.deadline().map_or(deadline, |end| deadline.min(end))
        };
        match job {
            // While nobody waits; the rest of the time is for those who do.
            Job::Ready { .. } => {
                let end = until(settings.switchover_timeout);
                (now + end.saturating_duration_since(now) / 2, Duration::ZERO)
            }
            // Transactions that are old already have been waited for before: the rest ends soon, or some other time.
            Job::Quiesce { .. } => {
                let end = until(settings.switchover_timeout);
                (now + end.saturating_duration_since(now) / 3, Duration::ZERO)
            }
            // Who does not answer has to be known to be gone.
            Job::Agree { .. } => {
                let patience = membership.map_or(Duration::ZERO, |membership| membership.patience());
                (now + patience + settings.step_timeout, Duration::ZERO)
            }
            Job::Approve { .. } | Job::Stop { .. } | Job::CatchUp { .. } => {
                let hook = until(settings.hook_timeout).saturating_duration_since(now);
                (until(settings.step_timeout), hook)
            }
            _ => (now + settings.step_timeout, settings.hook_timeout),
        }
    }

    fn count(&self, purpose: Purpose, ended: Ended) {
        let ending = match ended {
            Ended::Done => Ending::Done,
            Ended::CalledOff => Ending::RolledBack,
            Ended::Refused => Ending::Refused,
            Ended::Failed => Ending::Failed,
        };
        self.metrics.count(match purpose {
            Purpose::Failover | Purpose::Adoption => Count::Failover(ending),
            Purpose::Switchover => Count::Switchover(ending),
        });
    }

    fn tell(&self, note: &Note) {
        let snapshot = self.cluster.snapshot();
        let node = note.node.and_then(|id| snapshot.node(id)).map(|node| node.name.as_str());
        match note.severity {
            Severity::Info => info!(node, "{}", note.text),
            Severity::Alarm => warn!(node, "{}", note.text),
        }
        self.cluster.journal().note(Topic::Failover, node, note.text.clone());
    }
}

/// Returns when there is something new to see, or at `wake`; not before `calm`.
async fn change(cluster: &Cluster, seen: &Arc<Snapshot>, wake: Instant, calm: Instant) {
    cluster.wait_change(seen, wake).await;
    sleep_until(calm.into()).await;
}
