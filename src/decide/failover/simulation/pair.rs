//! The same with two instances of which one decides, by a lease: either is killed, frozen, cut off from etcd or from nodes,
//! and loses its lease at any moment of a change.
//!
//! What `coordination` and the seat of `cluster::failover` do between the machine and etcd is done here in few words, with
//! the same limits: when to hold, when to send nothing any more, when another one may be elected.

use std::collections::BTreeMap;

use super::super::*;
use super::{CALM, NODES, Pilot, STEP, Simulation, State, TROUBLED, name, runs};
use crate::decide::position::Timeline;

/// Steps.
const LEASE: u32 = 60;
const HOLD: u32 = LEASE * 7 / 10;
const OVER: u32 = LEASE * 9 / 10;
const REST: u32 = 20;
/// How long an instance that is gone is waited for.
const PATIENCE: u32 = LEASE * 2 + 60;

/// A registration, which lives as long as its lease.
#[derive(Debug, Clone, Copy)]
struct Registration {
    acknowledged: u64,
    ends: u32,
}

/// What etcd holds, and how often that has changed.
#[derive(Debug, Clone, Default)]
struct Etcd {
    revision: u32,
    record: Option<(Record, u32)>,
    /// Whose registration it is, and since when.
    leader: Option<(u32, u32)>,
    registered: BTreeMap<u32, Registration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Barred,
    Holding,
    Admitted,
}

/// One pgpilot: what of it is not the machine, nor the probes.
struct Instance {
    pilot: Option<Pilot>,
    frozen: bool,
    /// From etcd.
    cut: bool,
    reaches: [bool; NODES as usize],
    /// The registration, and when the newest renewal was sent.
    session: Option<(u32, u32)>,
    view: Etcd,
    /// Since which revision it leads, and in which one it has written the record last.
    reign: Option<(u32, u32)>,
    /// The decision that is obeyed.
    obeyed: Option<Record>,
    /// Decisions of earlier revisions are older than the one that is known.
    known: u32,
    standing: Standing,
    /// Nothing is sent to the primary from then on.
    tenure: u32,
    acknowledged: u64,
    rests_until: u32,
    /// Since when the others' agreement is waited for.
    asks_since: Option<u32>,
}

struct Pair {
    world: Simulation,
    etcd: Etcd,
    instances: [Instance; 2],
    /// The newest epoch in which anybody has written, and where.
    written: (u64, usize),
    elections: u32,
}

impl Instance {
    fn new() -> Self {
        Self {
            pilot: None,
            frozen: false,
            cut: false,
            reaches: [true; NODES as usize],
            session: None,
            view: Etcd::default(),
            reign: None,
            obeyed: None,
            known: 0,
            standing: Standing::Barred,
            tenure: 0,
            acknowledged: 0,
            rests_until: 0,
            asks_since: None,
        }
    }

    fn abandon_jobs(&mut self, world: &mut Simulation) {
        self.asks_since = None;
        if let Some(pilot) = &mut world.pilot {
            pilot.jobs.clear();
        }
    }

    fn own_leadership(&self) -> Option<u32> {
        let (own, _) = self.session?;
        self.view.leader.filter(|(leader, _)| *leader == own).map(|(_, since)| since)
    }

    fn give_up(&mut self, world: &mut Simulation) {
        if self.reign.take().is_some() {
            self.obeyed = None;
            self.rests_until = world.step + REST;
            self.abandon_jobs(world);
        }
    }
}

impl Etcd {
    fn next(&mut self) -> u32 {
        self.revision += 1;
        self.revision
    }

    /// What has ended by now is gone, with all that hung on it.
    fn expire(&mut self, step: u32) {
        self.registered.retain(|_, it| it.ends > step);
        self.leader = self.leader.filter(|(leader, _)| self.registered.contains_key(leader));
    }
}

impl Pair {
    fn new(seed: u64) -> Self {
        let world = Simulation::new(seed);
        let instances = [Instance::new(), Instance::new()];
        Self { world, etcd: Etcd::default(), instances, written: (0, 0), elections: 0 }
    }

    fn run(&mut self) {
        while self.world.step < TROUBLED {
            match self.world.dice.u32(..60) {
                0 => self.trouble_servers(),
                1 => self.trouble_instance(),
                _ => {}
            }
            self.advance();
        }
        for server in &mut self.world.servers {
            (server.linked, server.state) = (true, State::Running);
        }
        for it in &mut self.instances {
            (it.frozen, it.cut, it.reaches) = (false, false, [true; NODES as usize]);
        }
        let (mut whole, before) = (0, self.world.acknowledged.len());
        while whole < 20 {
            assert!(self.world.step < TROUBLED + CALM, "not whole again: {}", self.describe());
            self.advance();
            whole = if self.is_whole() { whole + 1 } else { 0 };
        }
        assert!(self.world.acknowledged.len() > before, "no write succeeds: {}", self.describe());
    }

    fn trouble_servers(&mut self) {
        // What it orders goes to whoever decides.
        let leader = self.instances.iter().position(|it| it.reign.is_some() && !it.frozen && it.pilot.is_some());
        match leader {
            Some(leader) => self.with(leader, |pair, _| pair.world.trouble()),
            None => self.world.trouble(),
        }
    }

    fn trouble_instance(&mut self) {
        let (which, node) = (self.world.dice.usize(..2), self.world.dice.usize(..usize::from(NODES)));
        let it = &mut self.instances[which];
        match self.world.dice.u8(..10) {
            0 => it.pilot = None,
            1 | 2 => it.frozen = true,
            3 | 4 => it.cut = true,
            5 => it.reaches[node] = false,
            6 => {
                // It sees no node any more, and lets another one decide; it learns that later than that one.
                self.etcd.leader =
                    self.etcd.leader.filter(|(leader, _)| it.session.map(|(own, _)| own) != Some(*leader));
                self.etcd.next();
            }
            _ => (it.frozen, it.cut, it.reaches) = (false, false, [true; NODES as usize]),
        }
    }

    fn advance(&mut self) {
        self.world.step += 1;
        self.world.now += STEP;
        self.world.replicate();
        self.etcd.expire(self.world.step);
        let first = self.world.dice.usize(..2);
        for which in [first, 1 - first] {
            if !self.instances[which].frozen {
                self.with(which, Self::turn);
            }
        }
        self.world.record = self.etcd.record.as_ref().map(|(record, _)| record.clone()).unwrap_or_default();
    }

    /// Lets one instance act: the world is what it reaches of it.
    fn with(&mut self, which: usize, act: impl FnOnce(&mut Self, &mut Instance)) {
        let mut it = std::mem::replace(&mut self.instances[which], Instance::new());
        for (server, reached) in self.world.servers.iter_mut().zip(it.reaches) {
            server.reached = reached;
        }
        if it.pilot.is_none() {
            // It is started anew, and remembers nothing.
            let (cut, reaches) = (it.cut, it.reaches);
            it = Instance { cut, reaches, pilot: self.new_pilot(), ..Instance::new() };
        }
        self.world.pilot = it.pilot.take();
        act(self, &mut it);
        it.pilot = self.world.pilot.take();
        self.instances[which] = it;
    }

    fn new_pilot(&self) -> Option<Pilot> {
        let servers = 0..self.world.servers.len();
        let primary = servers.filter(|&node| self.world.is_reached(node)).find(|&node| {
            let server = &self.world.servers[node];
            server.role == crate::decide::route::Role::Primary
        })?;
        let clock = WallClock { unix: u64::from(self.world.step) / 20, at: self.world.now };
        let machine = Machine::new(Simulation::rules(), clock);
        let timeline = self.world.servers[primary].timeline;
        let (jobs, wake) = (Vec::new(), self.world.now);
        Some(Pilot { machine, jobs, wake, primary, timeline, held: true, epoch: 0, sampled: None })
    }

    fn turn(&mut self, it: &mut Instance) {
        if self.world.pilot.is_none() {
            return;
        }
        // What a client has asked for may be the first thing that goes on after a pause.
        self.write(it);
        if !it.cut {
            self.keep_up(it);
        }
        self.attend(it);
        self.finish_jobs(it);
        let is_due = self.world.pilot.as_ref().is_some_and(|pilot| pilot.wake <= self.world.now);
        if is_due || self.world.dice.bool() {
            let seen = self.world.world();
            self.tell(it, Event::Seen(seen));
        }
    }

    fn write(&mut self, it: &mut Instance) {
        if it.standing != Standing::Admitted || self.world.step >= it.tenure {
            return;
        }
        let before = self.world.writes;
        self.world.write();
        let Some(pilot) = &self.world.pilot else { return };
        if self.world.writes == before {
            return;
        }
        let (epoch, node) = self.written;
        assert!(
            pilot.primary == node || pilot.epoch > epoch,
            "{} is written to in epoch {}, after {} in epoch {epoch}: {}",
            name(pilot.primary),
            pilot.epoch,
            name(node),
            self.describe()
        );
        self.written = self.written.max((pilot.epoch, pilot.primary));
    }

    /// The lease, the registration, the election, and what the others do.
    fn keep_up(&mut self, it: &mut Instance) {
        let step = self.world.step;
        let registered = it.session.and_then(|(own, _)| Some((own, self.etcd.registered.get_mut(&own)?)));
        let ends = step + LEASE + self.world.dice.u32(..10);
        match registered {
            Some((own, registration)) => {
                if self.world.dice.u8(..8) == 0 {
                    registration.ends = ends;
                    it.session = Some((own, step));
                }
                if self.world.dice.bool() {
                    registration.acknowledged = it.acknowledged;
                }
            }
            None => {
                let own = self.etcd.next();
                self.etcd.registered.insert(own, Registration { acknowledged: it.acknowledged, ends });
                it.session = Some((own, step));
                // What has been decided is read after that.
                it.view = self.etcd.clone();
            }
        }
        let Some((own, renewed)) = it.session else { return };
        if self.etcd.leader.is_none() && step < renewed + HOLD && self.world.dice.u8(..4) == 0 {
            let since = self.etcd.next();
            self.etcd.leader = Some((own, since));
        }
        if self.world.dice.u8(..4) > 0 {
            it.view = self.etcd.clone();
        }
    }

    fn attend(&mut self, it: &mut Instance) {
        let step = self.world.step;
        if it.standing == Standing::Admitted && step >= it.tenure {
            it.standing = Standing::Barred;
        }
        let session = it.session.filter(|(_, renewed)| step < renewed + HOLD);
        let goes_on = it.reign.is_some_and(|(since, _)| it.own_leadership() == Some(since));
        if session.is_none() || !goes_on {
            it.give_up(&mut self.world);
        }
        if it.reign.is_none() && it.session.is_some() && it.view.revision >= it.known {
            let told = it.view.record.as_ref().map(|(record, _)| record.clone()).unwrap_or_default();
            if it.obeyed.as_ref() != Some(&told) {
                (it.obeyed, it.known) = (Some(told.clone()), it.view.revision);
                it.abandon_jobs(&mut self.world);
                self.tell(it, Event::Followed(told));
            }
        }
        self.admit(it, session);
        if it.reign.is_none() && session.is_some() && it.own_leadership().is_some() && step >= it.rests_until {
            self.reign(it);
        }
    }

    fn admit(&mut self, it: &mut Instance, session: Option<(u32, u32)>) {
        let Some(pilot) = &self.world.pilot else { return };
        let decided = pilot.machine.record().primary.is_some();
        match session.filter(|_| decided) {
            Some((_, renewed)) => (it.standing, it.tenure) = (Standing::Admitted, renewed + OVER),
            None if it.standing == Standing::Admitted => it.standing = Standing::Holding,
            None => {}
        }
        if it.standing == Standing::Holding && self.world.step >= it.tenure {
            it.standing = Standing::Barred;
        }
    }

    /// Begins to decide: from then on nobody else writes anything down.
    fn reign(&mut self, it: &mut Instance) {
        let Some(since) = it.own_leadership() else { return };
        if it.cut || self.etcd.leader.map(|(_, since)| since) != Some(since) {
            it.rests_until = self.world.step + REST;
            return;
        }
        let mut written = 0;
        if self.etcd.record.is_some() {
            written = self.etcd.next();
        }
        self.etcd.record = self.etcd.record.take().map(|(record, _)| (record, written));
        let record = self.etcd.record.as_ref().map(|(record, _)| record.clone()).unwrap_or_default();
        it.reign = Some((since, written));
        (it.obeyed, it.known) = (Some(record.clone()), self.etcd.revision);
        self.elections += 1;
        it.abandon_jobs(&mut self.world);
        self.tell(it, Event::Restored(record));
    }

    fn finish_jobs(&mut self, it: &mut Instance) {
        let step = self.world.step;
        let Some(pilot) = &mut self.world.pilot else { return };
        let due: Vec<Job> = pilot.jobs.extract_if(.., |(due, _)| *due <= step).map(|(_, job)| job).collect();
        for job in due {
            let outcome = if it.reign.is_some() && step >= it.tenure {
                Err("the lease is over".to_owned())
            } else if let Job::Agree { .. } = job {
                match self.agreed(it) {
                    Some(outcome) => outcome,
                    None => {
                        self.world.pilot.iter_mut().for_each(|pilot| pilot.jobs.push((step + 1, job)));
                        continue;
                    }
                }
            } else {
                self.world.carry_out(job)
            };
            if self.world.trace {
                println!("{step}: {job:?}: {outcome:?}");
            }
            self.tell(it, Event::Ended { job, outcome });
        }
    }

    /// Whether nobody else writes to the old primary any more; `None`: it is waited for.
    fn agreed(&self, it: &mut Instance) -> Option<Outcome> {
        let (Some((_, written)), Some(pilot)) = (it.reign, &self.world.pilot) else { return Some(Ok(Fact::Done)) };
        let (epoch, own) = (pilot.machine.record().epoch, it.session.map(|(own, _)| own));
        let mut others = it.view.registered.iter().filter(|(other, _)| Some(**other) != own);
        if it.view.revision >= written && others.all(|(_, other)| other.acknowledged >= epoch) {
            it.asks_since = None;
            return Some(Ok(Fact::Done));
        }
        let since = *it.asks_since.get_or_insert(self.world.step);
        (self.world.step >= since + PATIENCE).then(|| {
            it.asks_since = None;
            Err("somebody has not acknowledged".to_owned())
        })
    }

    fn tell(&mut self, it: &mut Instance, event: Event) {
        let Some(mut actions) = self.world.hear(event) else { return };
        if let Some(Writing::First(record) | Writing::Also(record)) = actions.record.take()
            && !self.write_down(it, record)
        {
            it.give_up(&mut self.world);
            return;
        }
        if self.world.step < TROUBLED && self.world.dice.u16(..400) == 0 {
            // Killed just when it had written something down.
            self.world.pilot = None;
            return;
        }
        if let Some(epoch) = actions.acknowledge {
            it.acknowledged = epoch;
        }
        self.world.act(actions);
        self.bind();
    }

    /// `false`: it is not written down, or nobody knows.
    fn write_down(&mut self, it: &mut Instance, record: Record) -> bool {
        let Some((since, last)) = it.reign.filter(|_| !it.cut) else { return false };
        let written = self.etcd.record.as_ref().map_or(0, |(_, revision)| *revision);
        if self.etcd.leader.map(|(_, since)| since) != Some(since) || written != last {
            return false;
        }
        let revision = self.etcd.next();
        self.etcd.record = Some((record.clone(), revision));
        self.world.record = record;
        it.reign = Some((since, revision));
        // Its answer may be lost.
        self.world.step >= TROUBLED || self.world.dice.u8(..30) > 0
    }

    /// Only who was decided upon is followed.
    fn bind(&mut self) {
        let Some(pilot) = &mut self.world.pilot else { return };
        let record = pilot.machine.record();
        let decided = (0..self.world.servers.len()).find(|node| record.primary.as_ref() == Some(&name(*node)));
        if let Some(decided) = decided.filter(|decided| *decided != pilot.primary) {
            (pilot.primary, pilot.timeline) = (decided, record.timeline.max(Timeline(1)).0);
        }
    }

    fn is_whole(&mut self) -> bool {
        let Some(leader) = self.instances.iter().position(|it| it.reign.is_some()) else { return false };
        self.world.pilot = self.instances[leader].pilot.take();
        let whole = self.world.is_whole();
        self.instances[leader].pilot = self.world.pilot.take();
        let primary = |it: &Instance| it.pilot.as_ref().map(|pilot| (pilot.held, pilot.primary));
        let [one, other] = &self.instances;
        let writes = |it: &Instance| it.standing == Standing::Admitted && self.world.step < it.tenure;
        whole && primary(one) == primary(other) && writes(one) && writes(other)
    }

    fn describe(&self) -> String {
        let instances: Vec<_> = self
            .instances
            .iter()
            .map(|it| {
                let status = it.pilot.as_ref().map(|pilot| (pilot.machine.status(), pilot.primary, pilot.held));
                (status, it.frozen, it.cut, it.reaches, it.session, it.reign, it.standing, it.tenure)
            })
            .collect();
        format!("{}, {instances:?}, {:?}", self.world.describe(), self.etcd)
    }
}

#[test]
fn two_instances_keep_their_promises_whoever_decides() {
    let seeds = runs::seeds(500, &[]);
    let mut elections = 0;
    runs::run_all(&seeds, |seed| {
        let mut pair = Pair::new(seed);
        pair.world.trace = seeds.len() == 1;
        pair.run();
        elections += pair.elections;
        (pair.world.promotions, pair.world.acknowledged.len())
    });
    println!("{elections} elections");
    assert!(seeds.len() < 100 || elections as usize > seeds.len(), "{elections} elections");
}
