//! A cluster, its probes and its sessions, in simulated time and in every order that proptest thinks of: no read may miss
//! what its session wrote or saw.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::config::{Consistency, NodeName, OnAllLagging};
use crate::decide::health::{
    Answer, Applying, Event, Failure, Health, Limits, NodeSpec, Progress, Receiver, Recovery, Stage,
};
use crate::decide::position::{Lsn, Position, Timeline, WalGeometry};
use crate::decide::sql::Reason;

const NODES: usize = 4;
const SESSIONS: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Op {
    /// Someone else's write.
    Background(u64),
    /// A replica replays up to `share`/8 of what is left.
    Replay {
        node: usize,
        share: u64,
    },
    /// A question is sent.
    Ask {
        node: usize,
        whole: bool,
    },
    /// A server answers the oldest question: the value is that of now.
    Reply {
        node: usize,
    },
    /// The oldest answer arrives.
    Deliver {
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

fn op() -> impl Strategy<Value = Op> {
    let node = 0..NODES;
    let session = 0..SESSIONS;
    let consistency = prop_oneof![
        8 => Just(Consistency::Session),
        1 => Just(Consistency::Eventual),
        1 => Just(Consistency::Strong),
    ];
    prop_oneof![
        3 => (1_u64..100).prop_map(Op::Background),
        8 => (node.clone(), 0_u64..=8).prop_map(|(node, share)| Op::Replay { node, share }),
        10 => (node.clone(), any::<bool>()).prop_map(|(node, whole)| Op::Ask { node, whole }),
        10 => node.clone().prop_map(|node| Op::Reply { node }),
        10 => node.clone().prop_map(|node| Op::Deliver { node }),
        4 => session.clone().prop_map(|session| Op::Write { session }),
        14 => (session.clone(), consistency).prop_map(|(session, consistency)| Op::Read { session, consistency }),
        1 => (session.clone(), session).prop_map(|(from, to)| Op::Token { from, to }),
        1 => (node.clone(), 0_u64..200).prop_map(|(node, loses)| Op::Crash { node, loses }),
        1 => node.clone().prop_map(|node| Op::Promote { node }),
        2 => node.prop_map(|node| Op::Repoint { node }),
        3 => (1_u64..50).prop_map(Op::Wait),
    ]
}

/// A server as it really is.
#[derive(Debug, Clone)]
struct Server {
    timeline: u32,
    /// Written by the primary, replayed by a replica.
    lsn: u64,
    alive: bool,
    asked: VecDeque<(Instant, bool)>,
    answers: VecDeque<Event>,
}

struct Session {
    freshness: Freshness,
    /// What it must never fall behind, on the history that survives.
    floor: u64,
}

struct World {
    now: Instant,
    health: Health,
    servers: Vec<Server>,
    primary: usize,
    /// Where each timeline after the first forked off.
    forks: Vec<u64>,
    sessions: Vec<Session>,
    dice: fastrand::Rng,
    replica_reads: usize,
}

impl World {
    fn new() -> Self {
        let hour = Duration::from_secs(3600);
        let mut health = Health::new(Limits { failures: 3, max_lag: hour, lag_recovery: hour });
        let spec = |i: usize| NodeSpec {
            name: NodeName::new(&format!("n{i}")).unwrap(),
            address: Arc::from(format!("host{i}:5432")),
            zone: None,
            weight: 1,
        };
        let now = Instant::now();
        health.on(Event::Configured((0..NODES).map(spec).collect()), now);
        let server = Server { timeline: 1, lsn: 1000, alive: true, asked: VecDeque::new(), answers: VecDeque::new() };
        let session = || Session { freshness: Freshness::default(), floor: 0 };
        let mut world = Self {
            now,
            health,
            servers: vec![server; NODES],
            primary: 0,
            forks: Vec::new(),
            sessions: (0..SESSIONS).map(|_| session()).collect(),
            dice: fastrand::Rng::with_seed(1),
            replica_reads: 0,
        };
        for node in (0..NODES).chain(0..NODES) {
            world.apply(Op::Ask { node, whole: true });
            world.apply(Op::Reply { node });
            world.apply(Op::Deliver { node });
        }
        world
    }

    fn tick(&mut self) -> Instant {
        self.now += Duration::from_micros(100);
        self.now
    }

    fn apply(&mut self, op: Op) {
        self.tick();
        match op {
            Op::Background(bytes) => self.servers[self.primary].lsn += bytes,
            Op::Replay { node, share } => self.replay(node, share),
            Op::Ask { node, whole } if self.servers[node].alive => {
                let question = (self.now, whole);
                self.servers[node].asked.push_back(question);
            }
            Op::Reply { node } => self.reply(node),
            Op::Deliver { node } => {
                if let Some(event) = self.servers[node].answers.pop_front() {
                    self.health.on(event, self.now);
                }
            }
            Op::Write { session } => {
                let primary = self.primary;
                if self.health.snapshot().primary == Some(id(primary)) {
                    self.servers[primary].lsn += 8;
                    self.sessions[session].floor = self.servers[primary].lsn;
                    let at = self.tick();
                    self.sessions[session].freshness.wrote(at);
                }
            }
            Op::Read { session, consistency } => self.read(session, consistency),
            Op::Token { from, to } => {
                let snapshot = self.health.snapshot();
                let position = self.sessions[from].freshness.position(&snapshot);
                if let Some(Position { timeline, lsn }) = position.filter(|p| p.timeline.0 == self.timeline()) {
                    self.sessions[to].freshness.require(Position { timeline, lsn });
                    self.sessions[to].floor = self.sessions[to].floor.max(self.sessions[from].floor);
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
            Op::Ask { .. } | Op::Crash { .. } => {}
        }
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

    fn reply(&mut self, node: usize) {
        let primary = self.primary == node;
        let server = &mut self.servers[node];
        let Some((asked_at, whole)) = server.asked.pop_front() else { return };
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
                system_identifier: 7,
                server_version: 150_000,
                timeline,
                wal: WalGeometry { segment: u64::MAX, page: u64::MAX / 2 },
                stage,
                standby_name: String::new(),
                synchronous: String::new(),
            };
            Event::Answered { node: id(node), asked_at, answer }
        } else {
            let progress =
                if primary { Progress::Written { insert: lsn, flush: lsn } } else { Progress::Replayed(lsn) };
            Event::Sampled { node: id(node), asked_at, progress }
        };
        server.answers.push_back(event.clone());
        if self.dice.u8(..8) == 0 {
            server.answers.push_back(event);
        }
    }

    /// The control connection breaks; what was on its way is lost.
    fn cut(&mut self, node: usize) {
        self.servers[node].asked.clear();
        self.servers[node].answers.clear();
        self.health.on(Event::Failed { node: id(node), failure: Failure::Lost }, self.now);
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
        server.asked.clear();
        server.answers.clear();
        // What no one has any longer cannot be promised.
        self.sessions.iter_mut().for_each(|session| session.floor = session.floor.min(fork));
    }

    /// How much of the surviving history a server has.
    fn has(&self, node: usize) -> u64 {
        let server = &self.servers[node];
        let later = self.forks.iter().skip(server.timeline as usize - 1);
        later.fold(server.lsn, |has, &fork| has.min(fork))
    }

    fn read(&mut self, session: usize, consistency: Consistency) {
        let snapshot = self.health.snapshot();
        let policy = Policy {
            consistency,
            on_all_lagging: OnAllLagging::Primary,
            replica_wait: Duration::ZERO,
            primary_wait: Duration::ZERO,
            reads_on_primary: false,
            zone: None,
        };
        let demand = Demand { need: Need::Read, reason: Reason::PlainRead, arrived: self.now };
        let written = self.servers[self.primary].lsn;
        let dice = self.dice.u64(..);
        let freshness = &mut self.sessions[session].freshness;
        let decision = route(&demand, freshness, &snapshot, &policy, |_| 0, dice, self.now);
        let node = match decision.route {
            Route::Primary(id) | Route::Replica(id) => usize::from(id.0),
            Route::Wait(_) | Route::Refuse(_) => return,
        };
        if !self.servers[node].alive {
            return;
        }
        let has = self.has(node);
        let floor = self.sessions[session].floor;
        let required = match consistency {
            Consistency::Strong => written,
            Consistency::Eventual => 0,
            Consistency::Session | Consistency::Primary => floor,
        };
        assert!(has >= required, "node {node} has {has}, needed {required}: {decision:?}\n{snapshot:#?}");
        self.sessions[session].floor = floor.max(has);
        self.replica_reads += usize::from(matches!(decision.route, Route::Replica(_)));
        let at = self.tick();
        self.sessions[session].freshness.read_from(id(node), at);
    }
}

fn id(node: usize) -> NodeId {
    NodeId(u16::try_from(node).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn no_read_is_stale(ops in proptest::collection::vec(op(), 1..400)) {
        let mut world = World::new();
        ops.into_iter().for_each(|op| world.apply(op));
    }
}

/// The property would also hold of a router that never uses a replica.
#[test]
fn replicas_are_used() {
    let mut world = World::new();
    let (mut reads, mut random) = (0, fastrand::Rng::with_seed(3));
    for round in 0..2_000 {
        for node in 0..NODES {
            world.apply(Op::Ask { node, whole: false });
            world.apply(Op::Reply { node });
            // Answers come twice at times.
            world.apply(Op::Deliver { node });
            world.apply(Op::Deliver { node });
            world.apply(Op::Replay { node, share: 8 });
        }
        let session = random.usize(..SESSIONS);
        if round % 5 == 0 {
            world.apply(Op::Write { session });
        }
        reads += 1;
        world.apply(Op::Read { session, consistency: Consistency::Session });
    }
    assert!(world.replica_reads * 10 > reads * 7, "{} of {reads} on replicas", world.replica_reads);
}
