//! What the simulation's servers do when a job is carried out on them.

use super::super::*;
use super::{SYSTEM, Simulation, State, TROUBLED, id, index};
use crate::decide::position::{Lsn, Timeline};
use crate::decide::route::{NodeId, Role};

impl Simulation {
    pub(super) fn carry_out(&mut self, job: Job) -> Outcome {
        match job {
            Job::Approve { .. }
            | Job::Ready { .. }
            | Job::Agree { .. }
            | Job::Sever { .. }
            | Job::Quiesce { .. }
            | Job::Announce { .. } => Ok(Fact::Done),
            Job::Fence { node } => self.fence(node),
            Job::Seal { node } => {
                let server = self.at(node)?;
                if self.servers[server].role != Role::Replica {
                    return Err("it is no replica".to_owned());
                }
                self.servers[server].upstream = None;
                Ok(Fact::Sealed(self.log(server)))
            }
            Job::Unseal { node } => {
                let primary = self.pilot.as_ref().map(|pilot| pilot.primary);
                let server = self.at(node)?;
                if self.servers[server].role == Role::Replica && self.servers[server].upstream.is_none() {
                    self.servers[server].upstream = primary;
                }
                Ok(Fact::Done)
            }
            Job::Stop { node, .. } => {
                let server = self.at(node)?;
                self.servers[server].read_only = true;
                Ok(Fact::Stopped(Some(self.log(server).end)))
            }
            Job::Resume { node } => {
                let server = self.at(node)?;
                self.servers[server].read_only = false;
                Ok(Fact::Done)
            }
            Job::CatchUp { node, lsn } => {
                let server = self.at(node)?;
                let log = self.log(server);
                if lsn.is_some_and(|lsn| log.end < lsn) { Err("too slow".to_owned()) } else { Ok(Fact::Sealed(log)) }
            }
            Job::Promote { node } => self.promote(node),
            Job::Follow { node, primary } => self.make_follow(node, primary),
            Job::Rejoin { node, primary } => self.rejoin(node, primary),
        }
    }

    fn at(&self, node: NodeId) -> Result<usize, String> {
        let server = index(node);
        if self.is_reached(server) { Ok(server) } else { Err("no connection".to_owned()) }
    }

    fn log(&self, server: usize) -> Log {
        let lsn = Lsn(self.servers[server].log.len() as u64);
        Log { timeline: Timeline(self.servers[server].timeline), end: lsn, replayed: lsn, tail: Tail::There }
    }

    fn fence(&mut self, node: NodeId) -> Outcome {
        if !self.fence {
            return Ok(Fact::Fenced(Proof::Attempted));
        }
        self.servers[index(node)].state = State::Dead;
        Ok(Fact::Fenced(Proof::Proven))
    }

    fn promote(&mut self, node: NodeId) -> Outcome {
        let server = self.at(node)?;
        let pilot = self.pilot.as_ref().ok_or("nobody asks for it")?;
        let epoch = pilot.machine.record().epoch;
        if self.servers[server].role == Role::Replica {
            let (end, alone) = (self.servers[server].log.len(), !self.synchronous);
            // What whoever chose it knew: what others had seen comes to light too late.
            let known = self.record.written.and_then(|written| usize::try_from(written.0).ok());
            // A switchover's candidate has had everything before this was written down.
            let handed_over = self.record.purpose == Purpose::Switchover && known.is_none();
            assert!(
                !alone || handed_over || known.is_some_and(|known| end >= known),
                "promoted beyond the guard: {}",
                self.describe()
            );
            if self.synchronous {
                let lost = self.acknowledged.iter().find(|write| !self.servers[server].has(**write));
                assert_eq!(lost, None, "an acknowledged commit is lost: {}", self.describe());
            } else {
                self.acknowledged.retain(|write| self.servers[server].has(*write));
            }
            let it = &mut self.servers[server];
            (it.role, it.upstream, it.read_only) = (Role::Primary, None, false);
            it.timeline += 1;
            self.promotions += 1;
        }
        let it = &mut self.servers[server];
        it.marked = epoch;
        let switched_at = Lsn(it.log.len() as u64);
        Ok(Fact::Promoted { system: SYSTEM, timeline: Timeline(it.timeline), switched_at })
    }

    fn make_follow(&mut self, node: NodeId, primary: NodeId) -> Outcome {
        let (server, upstream) = (self.at(node)?, self.at(primary)?);
        if self.servers[server].role != Role::Replica {
            return Err("it is no replica".to_owned());
        }
        self.servers[server].upstream = Some(upstream);
        if !self.servers[upstream].has_all_of(&self.servers[server]) {
            return Err("it has another history".to_owned());
        }
        Ok(Fact::Done)
    }

    /// It is stopped as long as it takes, if there is somebody to copy.
    pub(super) fn begin_rejoining(&mut self, node: NodeId, primary: NodeId) {
        // What is on disk may be older: that it has ended cannot always be written down.
        let decided = self.pilot.as_ref().map(|pilot| &pilot.machine.record().progress);
        assert!(
            !matches!(decided, Some(Progress::Promoting { .. })),
            "stopped before there is a new primary: {}",
            self.describe()
        );
        if self.servers[index(node)].reached && self.source(primary).is_ok() {
            self.servers[index(node)].state = State::Dead;
        }
    }

    fn source(&self, primary: NodeId) -> Result<usize, String> {
        let upstream = self.at(primary)?;
        let is_primary = self.servers[upstream].role == Role::Primary;
        is_primary.then_some(upstream).ok_or_else(|| "it is no primary".to_owned())
    }

    /// The hook for rejoining copies, and starts what it has copied.
    fn rejoin(&mut self, node: NodeId, primary: NodeId) -> Outcome {
        let upstream = self.source(primary)?;
        if !self.servers[index(node)].reached {
            return Err("no connection".to_owned());
        }
        if self.step < TROUBLED && self.dice.u8(..4) == 0 {
            return Err("no room on the disk".to_owned());
        }
        let of = self.servers[upstream].clone();
        let it = &mut self.servers[index(node)];
        (it.state, it.role, it.read_only, it.deaf) = (State::Running, Role::Replica, false, 0);
        (it.log, it.timeline, it.upstream) = (of.log, of.timeline, Some(index(primary)));
        it.marked = of.marked;
        debug_assert_ne!(id(upstream), node);
        Ok(Fact::Done)
    }
}
