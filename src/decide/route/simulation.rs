//! A cluster, two pgpilots that probe it, and their sessions, in simulated time and in ten thousand random orders: no read
//! may miss what its session wrote or saw, what its token promises, or, in mode `strong`, what anyone wrote before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::config::{Consistency, LagLimits, NodeName, OnAllLagging};
use crate::decide::health::{
    Answer, Applying, Event, Failure, Health, Limits, NodeSpec, Progress, Receiver, Recovery, Stage,
};
use crate::decide::position::{Lsn, Position, Timeline, WalGeometry};
use crate::decide::sql::Reason;

const NODES: usize = 4;
const INSTANCES: usize = 2;
/// One after another of the instances'.
const SESSIONS: usize = 4;

#[derive(Debug, Clone, Copy)]
enum Op {
    /// Someone else's write.
    Background(u64),
    /// A replica replays up to `share`/8 of what is left.
    Replay {
        node: usize,
        share: u64,
    },
    /// An instance sends a question.
    Ask {
        instance: usize,
        node: usize,
        whole: bool,
    },
    /// A server answers an instance's oldest question: the value is that of now.
    Reply {
        instance: usize,
        node: usize,
    },
    /// The oldest answer arrives.
    Deliver {
        instance: usize,
        node: usize,
    },
    Write {
        session: usize,
    },
    Read {
        session: usize,
        consistency: Consistency,
    },
    /// A session takes over another one's position by a token.
    Token {
        from: usize,
        to: usize,
    },
    /// A replica's server crashes and comes back at an older position.
    Crash {
        node: usize,
        loses: u64,
    },
    /// The primary dies and another is promoted; it need not be the one that has most.
    Promote {
        node: usize,
    },
    /// A follower of the dead primary follows the new one, if its history allows.
    Repoint {
        node: usize,
    },
    Wait(u64),
}

/// What is frequent in one schedule, and what is rare.
struct Shape {
    /// How much of what is left each node replays at once, of 8 parts.
    replays: [u64; NODES],
    /// Of a thousand events, so many are failovers.
    failovers: u32,
    writes: u32,
    longest_pause: u64,
}

impl Shape {
    fn any(random: &mut fastrand::Rng) -> Self {
        Self {
            replays: std::array::from_fn(|_| random.u64(0..=8)),
            failovers: random.u32(0..30),
            writes: random.u32(20..150),
            longest_pause: random.u64(2..100),
        }
    }

    fn op(&self, random: &mut fastrand::Rng) -> Op {
        let (instance, node, session) = (random.usize(..INSTANCES), random.usize(..NODES), random.usize(..SESSIONS));
        let mut chance = random.u32(..1000);
        let mut falls = |share: u32| {
            let falls = chance < share;
            chance = chance.saturating_sub(share) + if falls { 1000 } else { 0 };
            falls
        };
        if falls(self.failovers) {
            Op::Promote { node }
        } else if falls(self.writes) {
            Op::Write { session }
        } else if falls(20) {
            Op::Repoint { node }
        } else if falls(15) {
            Op::Crash { node, loses: random.u64(..200) }
        } else if falls(30) {
            Op::Token { from: session, to: random.usize(..SESSIONS) }
        } else if falls(40) {
            Op::Background(random.u64(1..100))
        } else if falls(50) {
            Op::Wait(random.u64(1..self.longest_pause))
        } else if falls(150) {
            Op::Replay { node, share: self.replays[node] }
        } else if falls(160) {
            Op::Ask { instance, node, whole: random.bool() }
        } else if falls(160) {
            Op::Reply { instance, node }
        } else if falls(160) {
            Op::Deliver { instance, node }
        } else {
            let consistency = match random.u32(..8) {
                0 => Consistency::Eventual,
                1 | 2 => Consistency::Strong,
                _ => Consistency::Session,
            };
            Op::Read { session, consistency }
        }
    }
}

/// A server as it really is.
#[derive(Debug, Clone)]
struct Server {
    timeline: u32,
    /// Written by the primary, replayed by a replica.
    lsn: u64,
    alive: bool,
    /// Of each instance.
    lines: [Line; INSTANCES],
}

/// What is on its way between an instance and a server.
#[derive(Debug, Clone, Default)]
struct Line {
    asked: VecDeque<(Instant, bool)>,
    answers: VecDeque<Event>,
}

#[derive(Default)]
struct Session {
    freshness: Freshness,
    /// What it must never fall behind, on the history that survives.
    floor: u64,
    /// The same for its token.
    token: u64,
    /// A read that waits.
    waiting: Option<Waiting>,
}

/// A read, from when it arrived.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    consistency: Consistency,
    arrived: Instant,
    /// What had been written by anyone.
    written: u64,
}

struct World {
    now: Instant,
    instances: [Health; INSTANCES],
    servers: Vec<Server>,
    primary: usize,
    /// Where each timeline after the first forked off.
    forks: Vec<u64>,
    sessions: Vec<Session>,
    dice: fastrand::Rng,
    replica_reads: usize,
    /// Reads that waited, and were answered.
    waits: usize,
    seed: u64,
    trace: Vec<Op>,
}

impl World {
    fn new(seed: u64) -> Self {
        let hour = Duration::from_secs(3600);
        let limits = Limits { failures: 3 };
        let spec = |i: usize| NodeSpec {
            name: NodeName::new(&format!("n{i}")).unwrap(),
            address: Arc::from(format!("host{i}:5432")),
            zone: None,
            weight: 1,
            lag: LagLimits::by_time(hour, hour),
        };
        let now = Instant::now();
        let instances = std::array::from_fn(|_| {
            let mut health = Health::new(limits);
            health.on(Event::Configured((0..NODES).map(spec).collect()), now);
            health
        });
        let server = Server { timeline: 1, lsn: 1000, alive: true, lines: Default::default() };
        let mut world = Self {
            now,
            instances,
            servers: vec![server; NODES],
            primary: 0,
            forks: Vec::new(),
            sessions: (0..SESSIONS).map(|_| Session::default()).collect(),
            dice: fastrand::Rng::with_seed(seed),
            replica_reads: 0,
            waits: 0,
            seed,
            trace: Vec::new(),
        };
        // Twice: the first answers of all tell which cluster it is.
        for node in (0..NODES).chain(0..NODES) {
            for instance in 0..INSTANCES {
                world.apply(Op::Ask { instance, node, whole: true });
                world.apply(Op::Reply { instance, node });
                world.apply(Op::Deliver { instance, node });
            }
        }
        world
    }

    fn tick(&mut self) -> Instant {
        self.now += Duration::from_micros(100);
        self.now
    }

    fn apply(&mut self, op: Op) {
        self.trace.push(op);
        self.tick();
        match op {
            Op::Background(bytes) => self.servers[self.primary].lsn += bytes,
            Op::Replay { node, share } => self.replay(node, share),
            Op::Ask { instance, node, whole } if self.servers[node].alive => {
                let question = (self.now, whole);
                self.servers[node].lines[instance].asked.push_back(question);
            }
            Op::Reply { instance, node } => self.reply(instance, node),
            Op::Deliver { instance, node } => {
                if let Some(event) = self.servers[node].lines[instance].answers.pop_front() {
                    self.instances[instance].on(event, self.now);
                }
            }
            // A session does one thing after another.
            Op::Write { session } if self.sessions[session].waiting.is_none() => {
                let primary = self.primary;
                if self.snapshot_of(session).primary == Some(id(primary)) {
                    self.servers[primary].lsn += 8;
                    self.sessions[session].floor = self.servers[primary].lsn;
                    let at = self.tick();
                    self.sessions[session].freshness.wrote(at);
                }
            }
            Op::Read { session, consistency } => {
                let (arrived, written) = (self.now, self.servers[self.primary].lsn);
                // A session has one read at a time.
                let fresh = Waiting { consistency, arrived, written };
                let waiting = self.sessions[session].waiting.take();
                self.waits += usize::from(waiting.is_some());
                self.read(session, waiting.unwrap_or(fresh));
            }
            Op::Token { from, to } => {
                let snapshot = self.snapshot_of(from);
                let position = self.sessions[from].freshness.position(&snapshot);
                if let Some(Position { timeline, lsn }) = position.filter(|p| p.timeline.0 == self.timeline()) {
                    self.sessions[to].freshness.require(Position { timeline, lsn });
                    // In place of the one before.
                    self.sessions[to].token = self.sessions[from].floor;
                }
            }
            Op::Crash { node, loses } if node != self.primary && self.servers[node].alive => {
                let server = &mut self.servers[node];
                server.lsn = server.lsn.saturating_sub(loses);
                self.cut(node);
            }
            Op::Promote { node } => self.promote(node),
            Op::Repoint { node } => {
                let (timeline, has) = (self.timeline(), self.has(node));
                let server = &mut self.servers[node];
                if server.alive && server.lsn == has {
                    server.timeline = timeline;
                }
            }
            Op::Wait(ms) => self.now += Duration::from_millis(ms),
            Op::Ask { .. } | Op::Crash { .. } | Op::Write { .. } => {}
        }
    }

    fn snapshot_of(&self, session: usize) -> Snapshot {
        self.instances[session % INSTANCES].snapshot()
    }

    fn timeline(&self) -> u32 {
        self.servers[self.primary].timeline
    }

    fn replay(&mut self, node: usize, share: u64) {
        let (end, timeline) = (self.servers[self.primary].lsn, self.timeline());
        let server = &mut self.servers[node];
        if node != self.primary && server.alive && server.timeline == timeline {
            server.lsn += end.saturating_sub(server.lsn) * share / 8;
        }
    }

    fn reply(&mut self, instance: usize, node: usize) {
        let primary = self.primary == node;
        let server = &mut self.servers[node];
        let Some((asked_at, whole)) = server.lines[instance].asked.pop_front() else { return };
        let lsn = Lsn(server.lsn);
        let event = if whole {
            let recovery = Recovery {
                replay: Some(lsn),
                receive: Some(lsn),
                applying: Applying::Busy,
                receiver: Some(Receiver { status: "streaming".to_owned(), silent_for: None, sender: None }),
                apply_delay: Duration::ZERO,
                receiver_timeout: Duration::ZERO,
            };
            let stage = if primary { Stage::Writable { insert: lsn, flush: lsn } } else { Stage::Recovering(recovery) };
            let timeline = Timeline(server.timeline);
            let answer = Answer {
                recovered: None,
                system_identifier: 7,
                server_version: 150_000,
                timeline,
                wal: WalGeometry { segment: u64::MAX, page: u64::MAX / 2 },
                stage,
                standby_name: String::new(),
                synchronous: String::new(),
                standbys: Vec::new(),
                marked: 0,
            };
            Event::Answered { node: id(node), asked_at, answer: Box::new(answer) }
        } else {
            let progress =
                if primary { Progress::Written { insert: lsn, flush: lsn } } else { Progress::Replayed(lsn) };
            Event::Sampled { node: id(node), asked_at, progress }
        };
        let answers = &mut server.lines[instance].answers;
        if self.dice.u8(..8) == 0 {
            answers.push_back(event.clone());
        }
        answers.push_back(event);
    }

    /// The control connections break; what was on its way is lost.
    fn cut(&mut self, node: usize) {
        self.servers[node].lines = Default::default();
        for health in &mut self.instances {
            health.on(Event::Failed { node: id(node), failure: Failure::Lost }, self.now);
        }
    }

    fn promote(&mut self, node: usize) {
        let timeline = self.timeline();
        if node == self.primary || !self.servers[node].alive || self.servers[node].timeline != timeline {
            return;
        }
        let dead = self.primary;
        self.servers[dead].alive = false;
        self.cut(dead);
        let fork = self.servers[node].lsn;
        self.forks.push(fork);
        self.primary = node;
        let server = &mut self.servers[node];
        server.timeline = timeline + 1;
        server.lines = Default::default();
        // What no one has any longer cannot be promised.
        for session in &mut self.sessions {
            session.floor = session.floor.min(fork);
            session.token = session.token.min(fork);
            if let Some(waiting) = &mut session.waiting {
                waiting.written = waiting.written.min(fork);
            }
        }
    }

    /// How much of the surviving history a server has.
    fn has(&self, node: usize) -> u64 {
        let server = &self.servers[node];
        let later = self.forks.iter().skip(server.timeline as usize - 1);
        later.fold(server.lsn, |has, &fork| has.min(fork))
    }

    fn read(&mut self, session: usize, read: Waiting) {
        let snapshot = self.snapshot_of(session);
        let Waiting { consistency, arrived, written } = read;
        let policy = Policy {
            consistency,
            on_all_lagging: OnAllLagging::Primary,
            replica_wait: if self.dice.bool() { Duration::ZERO } else { Duration::from_millis(5) },
            primary_wait: Duration::ZERO,
            reads_on_primary: false,
            zone: None,
        };
        let demand = Demand { need: Need::Read, reason: Reason::PlainRead, promise: None, arrived, avoid: None };
        let dice = self.dice.u64(..);
        let freshness = &mut self.sessions[session].freshness;
        let decision = route(&demand, freshness, &snapshot, &policy, |_| 0, dice, self.now);
        let node = match decision.route {
            Route::Primary(id) | Route::Replica(id) => usize::from(id.0),
            Route::Wait(_) => {
                self.sessions[session].waiting = Some(read);
                return;
            }
            Route::Refuse(_) => return,
        };
        if !self.servers[node].alive {
            return;
        }
        let has = self.has(node);
        let Session { floor, token, .. } = self.sessions[session];
        let required = match consistency {
            Consistency::Strong => written.max(floor),
            Consistency::Eventual => 0,
            Consistency::Session | Consistency::Primary => floor,
        };
        let required = required.max(token);
        assert!(
            has >= required,
            "schedule {}: node {node} has {has}, needed {required}: {decision:?}\n{snapshot:#?}\n{:?}",
            self.seed,
            &self.trace[self.trace.len().saturating_sub(40)..]
        );
        self.sessions[session].floor = floor.max(has);
        self.replica_reads += usize::from(matches!(decision.route, Route::Replica(_)));
        let at = self.tick();
        self.sessions[session].freshness.read_from(id(node), at);
    }
}

fn id(node: usize) -> NodeId {
    NodeId(u16::try_from(node).unwrap())
}

/// A part of the ten thousand schedules: as many threads as tests run at once share the work.
fn no_read_is_stale(seeds: std::ops::Range<u64>) {
    let (mut replica_reads, mut waits, mut promotions) = (0, 0, 0);
    for seed in seeds {
        let mut random = fastrand::Rng::with_seed(seed);
        let shape = Shape::any(&mut random);
        let mut world = World::new(seed);
        for _ in 0..random.usize(50..150) {
            let op = shape.op(&mut random);
            world.apply(op);
        }
        replica_reads += world.replica_reads;
        waits += world.waits;
        promotions += world.forks.len();
    }
    assert!(replica_reads > 5_000 && waits > 500 && promotions > 500, "{replica_reads} {waits} {promotions}");
}

#[test]
fn no_read_is_stale_in_the_first_half_of_ten_thousand_schedules() {
    no_read_is_stale(0..5_000);
}

#[test]
fn no_read_is_stale_in_the_second_half_of_ten_thousand_schedules() {
    no_read_is_stale(5_000..10_000);
}

/// The property would also hold of a router that never uses a replica.
#[test]
fn replicas_are_used() {
    let mut world = World::new(1);
    let (mut reads, mut random) = (0, fastrand::Rng::with_seed(3));
    for round in 0..2_000 {
        for node in 0..NODES {
            for instance in 0..INSTANCES {
                world.apply(Op::Ask { instance, node, whole: false });
                world.apply(Op::Reply { instance, node });
                // Answers come twice at times.
                world.apply(Op::Deliver { instance, node });
                world.apply(Op::Deliver { instance, node });
            }
            world.apply(Op::Replay { node, share: 8 });
        }
        let session = random.usize(..SESSIONS);
        if round % 5 == 0 {
            world.apply(Op::Write { session });
        }
        reads += 1;
        world.apply(Op::Read { session, consistency: Consistency::Session });
    }
    assert!(world.replica_reads * 10 > reads * 6, "{} of {reads} on replicas", world.replica_reads);
}
