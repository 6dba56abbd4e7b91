//! Thousands of failovers in virtual time: a machine before three servers that die, freeze, are cut off and come back at
//! random, while it is itself killed and its record cannot always be written.
//!
//! `PGPILOT_SCHEDULES` says how many runs; a failure prints its seed, and `PGPILOT_SEED` replays it.

mod jobs;
mod pair;
mod runs;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::*;
use crate::config::NodeName;
use crate::decide::position::{Lsn, Timeline};
use crate::decide::route::{NodeId, Role};

const STEP: Duration = Duration::from_millis(50);
/// Steps with faults, and then without, in which everything has to become whole again.
const TROUBLED: u32 = 1200;
const CALM: u32 = 4000;
/// What is not heard for so many steps is silent.
const DEAF: u32 = 30;
const SYSTEM: u64 = 7;
const NODES: u16 = 3;

/// One server. Its log is the list of the writes that are in it.
#[derive(Debug, Clone)]
struct Server {
    state: State,
    /// pgpilot reaches it.
    reached: bool,
    role: Role,
    log: Vec<u32>,
    timeline: u32,
    upstream: Option<usize>,
    /// The network between it and its upstream works.
    linked: bool,
    read_only: bool,
    /// The epoch that is written down in its database.
    marked: u64,
    /// Steps since it last heard its upstream.
    deaf: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Frozen,
    Dead,
}

/// What of pgpilot is not the machine.
struct Pilot {
    machine: Machine,
    jobs: Vec<(u32, Job)>,
    wake: Instant,
    primary: usize,
    timeline: u32,
    held: bool,
    epoch: u64,
    /// The end of the primary's log when it was last seen.
    sampled: Option<usize>,
}

struct Simulation {
    dice: Rng,
    now: Instant,
    step: u32,
    servers: Vec<Server>,
    pilot: Option<Pilot>,
    /// What is on disk.
    record: Record,
    synchronous: bool,
    fence: bool,
    writes: u32,
    acknowledged: Vec<u32>,
    /// Who was routed to as primary, by epoch.
    routed: BTreeMap<u64, usize>,
    promotions: u32,
    trace: bool,
}

impl Server {
    fn runs(&self) -> bool {
        self.state == State::Running
    }

    /// Writes are numbered in their order.
    fn has(&self, write: u32) -> bool {
        self.log.binary_search(&write).is_ok()
    }

    /// Histories that agree on one write agree on all before it.
    fn has_all_of(&self, other: &Self) -> bool {
        other.log.last().is_none_or(|last| self.log.get(other.log.len() - 1) == Some(last))
    }
}

fn id(node: usize) -> NodeId {
    NodeId(u16::try_from(node).unwrap())
}

fn index(node: NodeId) -> usize {
    usize::from(node.0)
}

fn name(node: usize) -> NodeName {
    NodeName::new(&format!("pg{}", node + 1)).unwrap()
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut dice = Rng::with_seed(seed);
        let server = |node: usize| Server {
            state: State::Running,
            reached: true,
            role: if node == 0 { Role::Primary } else { Role::Replica },
            log: Vec::new(),
            timeline: 1,
            upstream: (node > 0).then_some(0),
            linked: true,
            read_only: false,
            marked: 0,
            deaf: 0,
        };
        Self {
            now: Instant::now(),
            step: 0,
            servers: (0..usize::from(NODES)).map(server).collect(),
            pilot: None,
            record: Record::default(),
            synchronous: dice.bool(),
            fence: dice.bool(),
            writes: 0,
            acknowledged: Vec::new(),
            routed: BTreeMap::new(),
            promotions: 0,
            trace: false,
            dice,
        }
    }

    fn rules() -> Rules {
        Rules {
            automatic: true,
            detect_after: Duration::from_secs(2),
            refused_after: Duration::from_millis(500),
            start_timeout: Duration::from_secs(10),
            min_interval: Duration::from_secs(1),
            switchover_timeout: Duration::from_secs(5),
            max_data_loss: 0,
            require_fence: false,
        }
    }

    fn run(&mut self) {
        while self.step < TROUBLED {
            if self.dice.u32(..40) == 0 {
                self.trouble();
            }
            self.advance();
        }
        for server in &mut self.servers {
            (server.reached, server.linked) = (true, true);
            server.state = State::Running;
        }
        let (mut whole, before) = (0, self.acknowledged.len());
        while whole < 20 {
            assert!(self.step < TROUBLED + CALM, "not whole again: {}", self.describe());
            self.advance();
            whole = if self.is_whole() { whole + 1 } else { 0 };
        }
        assert!(self.acknowledged.len() > before, "no write succeeds: {}", self.describe());
    }

    fn is_whole(&self) -> bool {
        let Some(pilot) = &self.pilot else { return false };
        let primary = &self.servers[pilot.primary];
        let upstream = |node: usize| self.servers[node].upstream;
        // One may stream from another replica.
        let follows = |node: usize| {
            let reaches =
                upstream(node) == Some(pilot.primary) || upstream(node).and_then(upstream) == Some(pilot.primary);
            reaches && self.servers[node].timeline == primary.timeline
        };
        !pilot.held
            && pilot.machine.status().state == "steady"
            && primary.role == Role::Primary
            && !primary.read_only
            && (0..self.servers.len()).all(|node| node == pilot.primary || follows(node))
    }

    fn describe(&self) -> String {
        let status = self.pilot.as_ref().map(|pilot| (pilot.machine.status(), pilot.primary, pilot.held));
        let servers: Vec<_> = self
            .servers
            .iter()
            .map(|it| (it.state, it.role, it.timeline, it.log.len(), it.upstream, it.read_only, it.deaf))
            .collect();
        format!("step {}, {status:?}, {servers:?}, {:?}", self.step, self.record)
    }

    fn trouble(&mut self) {
        let node = self.dice.usize(..self.servers.len());
        let server = &mut self.servers[node];
        match self.dice.u8(..14) {
            0 | 1 => server.state = State::Dead,
            2 => server.state = State::Frozen,
            3..=6 => server.state = State::Running,
            7 => server.reached = !server.reached,
            8 => server.linked = !server.linked,
            9 => self.pilot = None,
            10..=12 => (server.reached, server.linked) = (true, true),
            _ => {
                let promotes = self.record.progress != Progress::Steady && self.dice.bool();
                let order = if promotes {
                    // An operator who is sure that a candidate will not come back, and may be wrong.
                    Order::Failover { to: None, waived: Guards::FENCE, run: Run::Real }
                } else {
                    Order::Switchover { to: Some(id(node)), run: Run::Real }
                };
                self.tell(Event::Ordered { order, ticket: 0 });
            }
        }
    }

    fn advance(&mut self) {
        self.step += 1;
        self.now += STEP;
        self.replicate();
        if self.pilot.is_none() {
            self.start_pilot();
        }
        self.finish_jobs();
        self.follow();
        if self.pilot.as_ref().is_some_and(|pilot| pilot.wake <= self.now) || self.dice.bool() {
            let world = self.world();
            self.tell(Event::Seen(world));
        }
        self.write();
    }

    fn start_pilot(&mut self) {
        let known = self.record.primary.as_ref();
        // As the probes find it: the remembered one, unless another was promoted since.
        let writable = |node: &usize| self.servers[*node].role == Role::Primary && self.is_reached(*node);
        let remembered = (0..self.servers.len()).find(|node| known == Some(&name(*node)));
        let newer = |node: &usize| remembered.is_none() || self.servers[*node].timeline > self.record.timeline.0;
        let found =
            (0..self.servers.len()).filter(writable).filter(newer).max_by_key(|&node| self.servers[node].timeline);
        let Some(primary) = found.or(remembered) else { return };
        let pilot = Pilot {
            machine: Machine::new(Self::rules(), WallClock { unix: u64::from(self.step) / 20, at: self.now }),
            jobs: Vec::new(),
            wake: self.now,
            primary,
            timeline: self.record.timeline.0.max(1),
            held: self.record.progress != Progress::Steady,
            epoch: self.record.epoch,
            // It has heard nobody yet.
            sampled: None,
        };
        self.pilot = Some(pilot);
        self.tell(Event::Restored(self.record.clone()));
    }

    fn is_reached(&self, node: usize) -> bool {
        self.servers[node].runs() && self.servers[node].reached
    }

    fn replicate(&mut self) {
        for node in 0..self.servers.len() {
            let Some(upstream) = self.servers[node].upstream else {
                self.servers[node].deaf = DEAF;
                continue;
            };
            let (from, to) = (&self.servers[upstream], &self.servers[node]);
            let streams = from.runs() && to.runs() && to.linked && from.has_all_of(to);
            if !streams {
                let gone = from.state == State::Dead;
                self.servers[node].deaf = if gone { DEAF } else { self.servers[node].deaf + 1 };
                continue;
            }
            let missing = from.log.len() - to.log.len();
            let end = from.log.len() - self.dice.usize(..=missing.min(2));
            let (more, timeline, marked) = (from.log[to.log.len()..end].to_vec(), from.timeline, from.marked);
            let to = &mut self.servers[node];
            to.log.extend(more);
            (to.deaf, to.timeline, to.marked) = (0, timeline, marked);
        }
    }

    /// A write of a client, if there is a primary for it.
    fn write(&mut self) {
        let Some(pilot) = &self.pilot else { return };
        let (node, epoch) = (pilot.primary, pilot.epoch);
        if pilot.held || !self.is_reached(node) || self.servers[node].role != Role::Primary {
            return;
        }
        if self.servers[node].read_only {
            return;
        }
        let before = self.routed.insert(epoch, node);
        assert!(before.is_none_or(|before| before == node), "two primaries in epoch {epoch}: {}", self.describe());
        self.writes += 1;
        let write = self.writes;
        self.servers[node].log.push(write);
        if self.synchronous {
            self.replicate();
            let confirmed = |server: &Server| server.upstream == Some(node) && server.has(write);
            if self.servers.iter().any(confirmed) {
                self.acknowledged.push(write);
            }
        } else {
            self.acknowledged.push(write);
        }
    }

    /// What the probes make of the servers when nobody holds them: a promoted node is followed when the primary is gone.
    fn follow(&mut self) {
        let Some(pilot) = &mut self.pilot else { return };
        if pilot.held {
            return;
        }
        let primary = &self.servers[pilot.primary];
        let holds_on = primary.runs() && primary.reached && primary.role == Role::Primary;
        if !holds_on {
            let newer = |server: &Server| {
                server.runs() && server.reached && server.role == Role::Primary && server.timeline > pilot.timeline
            };
            if let Some(node) = self.servers.iter().position(newer) {
                pilot.primary = node;
                pilot.timeline = self.servers[node].timeline;
            }
        }
    }

    fn world(&mut self) -> World {
        let Some(mut pilot) = self.pilot.take() else { return World::default() };
        let primary = pilot.primary;
        // What comes to light when the choice has been made is too late for it.
        if self.is_reached(primary) && !pilot.held {
            pilot.sampled = Some(self.servers[primary].log.len());
        }
        let (timeline, sampled) = (pilot.timeline, pilot.sampled);
        self.pilot = Some(pilot);
        let member = |node: usize| {
            let server = &self.servers[node];
            let up = self.is_reached(node);
            let hearing = match server.upstream {
                _ if !up => Hearing::Unknown,
                Some(upstream) if server.deaf < DEAF && upstream == primary => Hearing::Primary,
                Some(upstream) if server.deaf < DEAF => Hearing::Replica(id(upstream)),
                _ => Hearing::Nothing,
            };
            let lsn = Lsn(server.log.len() as u64);
            Member {
                id: id(node),
                name: name(node),
                zone: Zone::Own,
                priority: 100,
                contact: match server.state {
                    State::Running if server.reached => Contact::Up,
                    State::Dead if server.reached => Contact::Refused,
                    _ => Contact::Silent,
                },
                role: match server.role {
                    Role::Primary if node != primary => Role::Stray,
                    role => role,
                },
                log: Some(Log { timeline: Timeline(server.timeline), end: lsn, replayed: lsn, tail: Tail::There }),
                hearing,
                history: History::Common,
                applies: Applies::AtOnce,
                standby_name: name(node).to_string(),
                marked: server.marked,
                drained: false,
            }
        };
        World {
            primary: Some(id(primary)),
            timeline: Timeline(timeline),
            system: Some(SYSTEM),
            systems: [SYSTEM].into(),
            nodes: (0..self.servers.len()).map(member).collect(),
            written: sampled.map(|log| Lsn(log as u64)),
            synchronous: Some(if self.synchronous { "ANY 1 (pg1, pg2, pg3)" } else { "" }.to_owned()),
            strangers: Some(0),
        }
    }

    fn hear(&mut self, event: Event) -> Option<Actions> {
        let pilot = self.pilot.as_mut()?;
        let actions = pilot.machine.on(event, self.now);
        pilot.wake = actions.wake.unwrap();
        if self.trace && !(actions.notes.is_empty() && actions.record.is_none() && actions.routing.is_none()) {
            let notes: Vec<_> = actions.notes.iter().map(|note| (note.node, &note.text)).collect();
            println!("{}: {notes:?} {:?} {:?}", self.step, actions.record, actions.routing);
        }
        Some(actions)
    }

    fn tell(&mut self, event: Event) {
        let Some(mut actions) = self.hear(event) else { return };
        if let Some(writing) = actions.record.take() {
            let (record, permits) = match &writing {
                Writing::First(record) => (record.clone(), true),
                Writing::Also(record) => (record.clone(), false),
            };
            if self.step < TROUBLED && self.dice.u8(..20) == 0 {
                self.tell(Event::NotRecorded(writing, "disk full".to_owned()));
                if permits {
                    return;
                }
            } else {
                self.record = record;
                if self.dice.u8(..40) == 0 && self.step < TROUBLED {
                    // Killed just when it had written it down.
                    self.pilot = None;
                    return;
                }
            }
        }
        self.act(actions);
    }

    /// Does what was decided, and is written down.
    fn act(&mut self, actions: Actions) {
        let Some(pilot) = &mut self.pilot else { return };
        match actions.routing {
            Some(Routing::Hold) => pilot.held = true,
            Some(Routing::Release) => pilot.held = false,
            Some(Routing::Appoint { node, epoch, timeline } | Routing::Follow { node, epoch, timeline }) => {
                pilot.held = false;
                (pilot.primary, pilot.epoch, pilot.timeline) = (index(node), epoch, timeline.0);
            }
            None => {}
        }
        // While a switchover is only prepared, the old primary's epoch goes on.
        if !pilot.held && pilot.machine.record().progress == Progress::Steady {
            pilot.epoch = pilot.machine.record().epoch;
        }
        for job in actions.jobs {
            let due = self.step + self.dice.u32(1..8);
            let Some(pilot) = &mut self.pilot else { return };
            pilot.jobs.push((due, job));
            if let Job::Rejoin { node, primary } = job {
                self.begin_rejoining(node, primary);
            }
        }
    }

    fn finish_jobs(&mut self) {
        let Some(pilot) = &mut self.pilot else { return };
        let due: Vec<Job> = pilot.jobs.extract_if(.., |(due, _)| *due <= self.step).map(|(_, job)| job).collect();
        for job in due {
            let outcome = self.carry_out(job);
            if self.trace {
                println!("{}: {job:?}: {outcome:?}", self.step);
            }
            self.tell(Event::Ended { job, outcome });
        }
    }
}
