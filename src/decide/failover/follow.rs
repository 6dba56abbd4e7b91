//! What an instance does while another one decides, and when somebody else has promoted a node.

use std::time::Instant;

use super::change::Step;
use super::elect::Terms;
use super::event::{Actions, Job, Outcome, Purpose, Routing};
use super::machine::{Machine, Phase};
use super::world::Contact;
use super::{Guards, Progress, Record};
use crate::decide::route::{NodeId, Role};

/// Why nothing can be ordered here.
pub(super) const ELSEWHERE: &str = "another instance decides, or none: SHOW INSTANCES tells which one to ask";

/// Whether what was decided elsewhere is already obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obedience {
    /// The nodes are not known yet.
    Due,
    Done,
    /// It is about another cluster than these nodes.
    Refused,
}

impl Machine {
    /// Another instance decides. What was under way here ends where it is: whoever decides next goes on from the record.
    pub(super) fn followed(&mut self, record: Record, now: Instant, actions: &mut Actions) {
        if let Phase::Changing(change) = &self.phase {
            let gone = "this instance decides no longer; SHOW EVENTS of the one that does tells how it goes on";
            actions.answers.extend(change.ticket.map(|ticket| (ticket, Err(gone.to_owned()))));
        }
        if self.record.primary.is_some() && record.primary != self.record.primary {
            self.changed_at = Some(now);
        }
        self.repairs.forget();
        (self.unsaved, self.not_before) = (None, None);
        self.record = record;
        self.phase = Phase::Following(Obedience::Due);
        self.obey_still(Obedience::Due, actions);
    }

    /// The world has changed: it may have turned out whose nodes they are.
    pub(super) fn obey_still(&mut self, obedience: Obedience, actions: &mut Actions) {
        match (obedience, self.strangeness()) {
            (Obedience::Due | Obedience::Done, Some(why)) => {
                actions.alarm(None, why);
                actions.routing = Some(Routing::Hold);
                self.phase = Phase::Following(Obedience::Refused);
            }
            (Obedience::Due | Obedience::Refused, None) => self.obey(actions),
            (Obedience::Done, None) | (Obedience::Refused, Some(_)) => {}
        }
    }

    pub(super) fn obey(&mut self, actions: &mut Actions) {
        if self.world.nodes.is_empty() {
            actions.routing = Some(Routing::Hold);
            return;
        }
        self.phase = Phase::Following(Obedience::Done);
        let primary = self.record.primary.as_ref().and_then(|name| self.world.find(name));
        let (Some(node), Some(name)) = (primary, &self.record.primary) else {
            if let Some(name) = &self.record.primary {
                actions.alarm(None, format!("the primary is {name}, which is not in this topology file: writes wait"));
            }
            actions.routing = Some(Routing::Hold);
            return;
        };
        let (epoch, timeline) = (self.record.epoch, self.record.timeline);
        match (&self.record.progress, self.record.purpose) {
            (Progress::Steady, _) => {
                actions.routing = Some(Routing::Follow { node, epoch, timeline });
                return;
            }
            // What runs may end in peace.
            (Progress::Preparing, Purpose::Switchover) => actions.jobs.push(Job::Quiesce { node }),
            (Progress::Preparing | Progress::Promoting { .. }, _) => actions.jobs.push(Job::Sever { node }),
        }
        actions.inform(Some(node), format!("hands over to another primary, epoch {epoch}: {name} gets no statements"));
        actions.routing = Some(Routing::Hold);
    }

    /// Nothing of this instance writes to the old primary any more, or something still does.
    pub(super) fn let_go(&mut self, job: Job, outcome: &Outcome, actions: &mut Actions) {
        let (Job::Sever { node } | Job::Quiesce { node }) = job else { return };
        match outcome {
            Ok(_) => actions.acknowledge = Some(self.record.epoch),
            Err(error) => actions.inform(Some(node), format!("cannot hand over yet: {error}")),
        }
    }

    /// A node that somebody else has promoted, and the primary that it replaces: that one is out of reach, or is none any
    /// more. With a single instance the probes have followed it already.
    pub(super) fn successor(&self) -> Option<(NodeId, NodeId)> {
        if self.record.progress != Progress::Steady || self.world.primary_contact() == Some(Contact::Up) {
            return None;
        }
        let old = self.record.primary.as_ref().and_then(|name| self.world.find(name))?;
        let newer = self.world.nodes.iter().filter(|node| {
            let timeline = node.log.map(|log| log.timeline);
            // One that was given up is none once another has become the primary.
            let given_up = self.record.abandoned.get(&node.name).is_some_and(|&at| at != self.record.timeline);
            node.id != old
                && !given_up
                && node.contact == Contact::Up
                && node.role == Role::Stray
                && node.marked >= self.record.marked
                && timeline.is_some_and(|timeline| timeline > self.record.timeline)
        });
        let mut newer = newer.map(|node| node.id);
        match (newer.next(), newer.next()) {
            (Some(new), None) => Some((old, new)),
            _ => None,
        }
    }

    /// Takes a node that somebody else has promoted for the primary, once nobody writes to the old one any more.
    pub(super) fn adopt(&mut self, old: NodeId, new: NodeId, now: Instant, actions: &mut Actions) {
        if self.not_before.is_some_and(|at| now < at) {
            return;
        }
        let terms = Terms { waived: Guards::all(), to: Some(new), max_data_loss: u64::MAX };
        actions.alarm(Some(new), "has been promoted by somebody else: it becomes the primary");
        self.begin(Purpose::Adoption, old, terms, None, now, actions);
        // Nothing is left to be approved of, and the old primary is no business of ours yet.
        let jobs = [Job::Sever { node: old }, Job::Agree { node: old }];
        actions.jobs = jobs.to_vec();
        if let Phase::Changing(change) = &mut self.phase {
            change.step = Step::Fencing { waiting: jobs.into_iter().collect(), sealing: None };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::NodeName;
    use crate::decide::failover::{
        Applies, Event, Fact, Hearing, History, Log, Maintenance, Member, Order, Rules, Run, Tail, WallClock, World,
        Writing, Zone,
    };
    use crate::decide::position::{Lsn, Timeline};

    fn rules() -> Rules {
        let second = Duration::from_secs(1);
        Rules {
            automatic: true,
            detect_after: second,
            refused_after: second,
            start_timeout: second * 10,
            min_interval: second,
            switchover_timeout: second * 5,
            max_data_loss: 0,
            require_fence: false,
        }
    }

    /// pg1 leads, and pg2 follows it; or pg2 has been promoted on timeline 2.
    fn world(contact: Contact, second: Role) -> World {
        let heard = if contact == Contact::Up { Hearing::Primary } else { Hearing::Nothing };
        let member = |number: u16, contact, role, timeline| Member {
            id: NodeId(number),
            name: NodeName::new(&format!("pg{}", number + 1)).unwrap(),
            zone: Zone::Own,
            priority: 100,
            contact,
            role,
            log: Some(Log { timeline: Timeline(timeline), end: Lsn(100), replayed: Lsn(100), tail: Tail::There }),
            hearing: if number == 1 { heard } else { Hearing::Unknown },
            applies: Applies::AtOnce,
            standby_name: String::new(),
            marked: 0,
            drained: false,
            history: History::Common,
        };
        let timeline = if second == Role::Replica { 1 } else { 2 };
        World {
            primary: Some(NodeId(0)),
            timeline: Timeline(1),
            system: Some(7),
            systems: [7].into(),
            nodes: vec![member(0, contact, Role::Primary, 1), member(1, Contact::Up, second, timeline)],
            written: Some(Lsn(100)),
            synchronous: Some(String::new()),
            strangers: Some(0),
        }
    }

    fn record(epoch: u64, progress: Progress) -> Record {
        let primary = Some(NodeName::new("pg1").unwrap());
        Record { epoch, system: Some(7), primary, timeline: Timeline(1), progress, ..Record::default() }
    }

    fn machine(world: World, now: Instant) -> Machine {
        let mut machine = Machine::new(rules(), WallClock { unix: 0, at: now });
        machine.on(Event::Seen(world), now);
        machine
    }

    #[test]
    fn a_decision_is_obeyed_and_acknowledged_when_nothing_writes_any_more() {
        let now = Instant::now();
        let mut machine = machine(world(Contact::Up, Role::Replica), now);
        let (node, timeline) = (NodeId(0), Timeline(1));
        let actions = machine.on(Event::Followed(record(3, Progress::Steady)), now);
        assert_eq!(actions.routing, Some(Routing::Follow { node, epoch: 3, timeline }));
        assert!(actions.jobs.is_empty() && actions.record.is_none());

        let actions = machine.on(Event::Followed(record(4, Progress::Preparing)), now);
        assert_eq!((actions.routing, &actions.jobs[..]), (Some(Routing::Hold), &[Job::Sever { node }][..]));
        assert_eq!(actions.acknowledge, None);
        let actions = machine.on(Event::Ended { job: Job::Sever { node }, outcome: Ok(Fact::Done) }, now);
        assert_eq!(actions.acknowledge, Some(4));

        let orderly = Record { purpose: Purpose::Switchover, ..record(5, Progress::Preparing) };
        let actions = machine.on(Event::Followed(orderly), now);
        assert_eq!(&actions.jobs[..], [Job::Quiesce { node }]);
        let late = Err("2 transactions did not end in time".to_owned());
        let actions = machine.on(Event::Ended { job: Job::Quiesce { node }, outcome: late }, now);
        assert_eq!(actions.acknowledge, None);
        // It was called off.
        let actions = machine.on(Event::Followed(record(5, Progress::Steady)), now);
        assert_eq!(actions.routing, Some(Routing::Follow { node, epoch: 5, timeline }));
    }

    #[test]
    fn who_follows_decides_nothing() {
        let now = Instant::now();
        let mut machine = machine(world(Contact::Refused, Role::Replica), now);
        machine.on(Event::Followed(record(3, Progress::Steady)), now);
        for second in 0..60 {
            let seen = Event::Seen(world(Contact::Refused, Role::Replica));
            let actions = machine.on(seen, now + Duration::from_secs(second));
            assert!(actions.record.is_none() && actions.jobs.is_empty() && actions.routing.is_none(), "{actions:?}");
        }
        for order in [Order::Switchover { to: None, run: Run::Dry }, Order::Maintenance(Maintenance::On)] {
            let actions = machine.on(Event::Ordered { order, ticket: 1 }, now);
            assert_eq!(actions.answers, [(1, Err(ELSEWHERE.to_owned()))]);
        }
        // Elected, it does.
        machine.on(Event::Restored(record(3, Progress::Steady)), now);
        machine.on(Event::Seen(world(Contact::Refused, Role::Replica)), now);
        let later = now + Duration::from_secs(5);
        let actions = machine.on(Event::Seen(world(Contact::Refused, Role::Replica)), later);
        assert!(matches!(&actions.record, Some(Writing::First(record)) if record.epoch == 4), "{actions:?}");
    }

    #[test]
    fn a_primary_that_is_not_in_the_topology_file_gets_nothing() {
        let now = Instant::now();
        let mut machine = machine(world(Contact::Up, Role::Replica), now);
        let primary = Some(NodeName::new("pg9").unwrap());
        let actions = machine.on(Event::Followed(Record { primary, ..record(3, Progress::Steady) }), now);
        assert_eq!(actions.routing, Some(Routing::Hold));
        assert!(actions.notes[0].text.contains("pg9"));
    }

    #[test]
    fn nobody_is_promoted_without_the_agreement_of_all() {
        let now = Instant::now();
        let mut machine = machine(world(Contact::Refused, Role::Replica), now);
        machine.on(Event::Restored(record(3, Progress::Steady)), now);
        machine.on(Event::Seen(world(Contact::Refused, Role::Replica)), now);
        let later = now + Duration::from_secs(5);
        machine.on(Event::Seen(world(Contact::Refused, Role::Replica)), later);
        let (old, node) = (NodeId(0), NodeId(0));
        let ended = |job, outcome| Event::Ended { job, outcome };
        let actions = machine.on(ended(Job::Approve { old, candidate: None }, Ok(Fact::Done)), later);
        assert!(actions.jobs.contains(&Job::Agree { node }), "{:?}", actions.jobs);
        let unproven = Ok(Fact::Fenced(crate::decide::failover::Proof::Attempted));
        machine.on(ended(Job::Sever { node }, Ok(Fact::Done)), later);
        assert!(machine.on(ended(Job::Fence { node }, unproven), later).jobs.is_empty());
        let actions = machine.on(ended(Job::Agree { node }, Err("b has not".to_owned())), later);
        let undone = [Job::Unseal { node: NodeId(1) }, Job::Resume { node }];
        assert_eq!((machine.status().state, &actions.jobs[..]), ("undoing", &undone[..]));
    }

    #[test]
    fn a_node_that_was_promoted_by_hand_is_adopted_when_nobody_writes_to_the_old_primary() {
        let now = Instant::now();
        let mut machine = machine(world(Contact::Refused, Role::Stray), now);
        machine.on(Event::Restored(record(3, Progress::Steady)), now);
        let actions = machine.on(Event::Seen(world(Contact::Refused, Role::Stray)), now);
        let (node, new) = (NodeId(0), NodeId(1));
        assert!(matches!(&actions.record, Some(Writing::First(record)) if record.epoch == 4), "{actions:?}");
        assert_eq!(&actions.jobs[..], [Job::Sever { node }, Job::Agree { node }]);
        machine.on(Event::Ended { job: Job::Sever { node }, outcome: Ok(Fact::Done) }, now);
        let actions = machine.on(Event::Ended { job: Job::Agree { node }, outcome: Ok(Fact::Done) }, now);
        assert_eq!(&actions.jobs[..], [Job::Promote { node: new }]);
        let (timeline, switched_at) = (Timeline(2), Lsn(100));
        let promoted = Ok(Fact::Promoted { system: 7, timeline, switched_at });
        let actions = machine.on(Event::Ended { job: Job::Promote { node: new }, outcome: promoted }, now);
        assert_eq!(actions.routing, Some(Routing::Appoint { node: new, epoch: 4, timeline }));
        // Its epoch is in its database: a second promotion, to whichever timeline, of a node that lacks that is none of its
        // successors, but has left before.
        let mut marked = world(Contact::Up, Role::Primary);
        (marked.primary, marked.timeline, marked.nodes[1].marked) = (Some(new), timeline, 4);
        (marked.nodes[0].contact, marked.nodes[0].role) = (Contact::Refused, Role::Unknown);
        machine.on(Event::Seen(marked.clone()), now);
        (marked.nodes[0].contact, marked.nodes[0].role) = (Contact::Up, Role::Stray);
        marked.nodes[1].contact = Contact::Refused;
        for (timeline, has) in [(2, 0), (3, 0), (2, 4), (3, 4)] {
            marked.nodes[0].marked = has;
            marked.nodes[0].log = marked.nodes[0].log.map(|log| Log { timeline: Timeline(timeline), ..log });
            let actions = machine.on(Event::Seen(marked.clone()), now);
            assert_eq!(!actions.jobs.is_empty(), (timeline, has) == (3, 4), "{timeline} {has}: {actions:?}");
        }
    }
}
