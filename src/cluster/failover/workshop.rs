//! One job from beginning to end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout, timeout_at};

use super::hook::{self, Hook};
use super::server::{OldTransaction, Server};
use super::{Connections, Deadline, Settings};
use crate::cluster::Cluster;
use crate::config;
use crate::coordination::{Membership, Reign};
use crate::decide::failover::{Contact, Fact, Job, Outcome, Profile, Proof};
use crate::decide::position::WalGeometry;
use crate::decide::route::{NodeId, Role, Snapshot, State};
use crate::telemetry::Topic;

/// How often it is looked whether the clients' transactions have ended.
const QUIESCE_POLL: Duration = Duration::from_millis(2);
/// So many looks in a row have to find nobody.
const QUIET: u32 = 5;
/// A hook that copies a whole server may take so long.
pub(super) const REJOIN: Duration = Duration::from_secs(24 * 3600);
/// Writing the epoch down may not hold up a failover for longer.
const MARK: Duration = Duration::from_secs(1);
/// A fence without a hook is an attempt, for which a failover does not wait long.
const SQL_FENCE: Duration = Duration::from_secs(2);

/// A candidate that takes longer to replay what has just been written has something to catch up.
const PROMPT: Duration = Duration::from_millis(250);
/// A replica of which nothing is heard for so long, though there is news for it, hangs.
const HANGING: Duration = Duration::from_secs(1);

/// A transaction that is open for so long may well stay so.
const OLD: Duration = Duration::from_secs(1);
/// How often it is looked whether it still is.
const OLD_POLL: Duration = Duration::from_millis(20);

/// Where jobs are done: those for one node in the order in which they were given out.
#[derive(Default)]
pub(super) struct Workshop {
    benches: Mutex<HashMap<NodeId, Arc<Semaphore>>>,
    /// Connections that were opened before they are needed.
    kept: Mutex<HashMap<NodeId, Server>>,
}

/// What a job goes by.
pub(super) struct Facts {
    pub(super) epoch: u64,
    /// The cluster that all this is about, if it is known.
    pub(super) system: Option<u64>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) connections: Arc<dyn Connections>,
    pub(super) settings: Settings,
    /// By which right this instance acts, if it is one of several and decides.
    pub(super) office: Option<(Arc<Membership>, Arc<Reign>)>,
    pub(super) deadline: Instant,
    /// For a hook other than that for rejoining.
    pub(super) hook_limit: Duration,
}

impl Workshop {
    pub(super) async fn carry_out(&self, job: Job, facts: &Facts) -> Outcome {
        let bench = match job {
            // They only look, or may not wait.
            Job::Approve { .. }
            | Job::Ready { .. }
            | Job::Agree { .. }
            | Job::Sever { .. }
            | Job::Quiesce { .. }
            | Job::Announce { .. } => None,
            Job::Fence { node }
            | Job::Seal { node }
            | Job::Unseal { node }
            | Job::Stop { node, .. }
            | Job::Resume { node }
            | Job::CatchUp { node, .. }
            | Job::Promote { node }
            | Job::Follow { node, .. }
            | Job::Rejoin { node, .. } => Some(self.bench(node)),
        };
        let _turn = match &bench {
            Some(bench) => Some(bench.acquire().await.map_err(|error| error.to_string())?),
            None => None,
        };
        facts.check_office()?;
        match job {
            Job::Approve { old, candidate } => {
                facts.hook(Hook::PrePromote, candidate.unwrap_or(old), old, candidate).await
            }
            Job::Announce { old, primary } => {
                self.kept().clear();
                facts.announce(old, primary).await
            }
            Job::Ready { node, to, sender } => self.ready(node, to, sender, facts).await,
            Job::Sever { node } => {
                facts.connections.hands_over(node, None);
                facts.connections.sever(node);
                Ok(Fact::Done)
            }
            Job::Agree { .. } => facts.agree().await,
            Job::Quiesce { node } => facts.quiesce(node).await,
            Job::Fence { node } => facts.fence(node).await,
            Job::Seal { node } => facts.server(node).await?.seal().await.map(Fact::Sealed),
            Job::Unseal { node } => facts.server(node).await?.unseal().await.map(|()| Fact::Done),
            Job::Stop { node, to } => {
                let ready = self.take(node, facts);
                facts.connections.hands_over(node, Some(facts.name(to)));
                facts.stop(node, to, ready).await
            }
            Job::Resume { node } => {
                self.kept().clear();
                facts.connections.hands_over(node, None);
                facts.resume(node).await
            }
            Job::CatchUp { node, lsn } => {
                let server = self.server(node, facts).await?;
                let log = server.catch_up(lsn).await?;
                self.keep(node, server);
                Ok(Fact::Sealed(log))
            }
            Job::Promote { node } => {
                let server = self.server(node, facts).await?;
                facts.check_office()?;
                let promoted = server.promote(facts.system).await?;
                facts.mark(node, &server).await;
                Ok(promoted)
            }
            Job::Follow { node, primary } => facts.follow(node, primary).await,
            Job::Rejoin { node, primary } => facts.rejoin(node, primary).await,
        }
    }

    /// Opens the connections that are going to be needed, sees whether the candidate keeps up, and has the old primary write
    /// out what it would have to write when it is shut down. A replica that hangs would hold that up: a server that shuts
    /// down waits for those that stream from it (`WalSndWaitStopping` in walsender.c).
    async fn ready(&self, node: NodeId, to: NodeId, sender: Option<NodeId>, facts: &Facts) -> Outcome {
        self.kept().clear();
        if let Some(sender) = sender {
            facts.straighten(to, sender, node).await?;
        }
        let (old, new) = tokio::join!(facts.server(node), facts.server(to));
        let (old, new) = (old?, new?);
        rehearse(&old, &new).await.map_err(|why| format!("{} {why}", facts.name(to)))?;
        if facts.has(Hook::Demote) {
            let limit = facts.deadline.saturating_duration_since(Instant::now()).saturating_sub(HANGING * 2);
            // Without it, the shutdown only takes longer.
            if !matches!(timeout(limit, old.checkpoint()).await, Ok(Ok(()))) {
                tracing::info!("there was no checkpoint in time before the old primary's");
            }
            facts.leave_behind(node, old.end_hanging_senders(HANGING).await?);
        }
        facts.outlast(node, &old).await?;
        self.keep(node, old);
        self.keep(to, new);
        Ok(Fact::Done)
    }

    async fn server(&self, node: NodeId, facts: &Facts) -> Result<Server, String> {
        match self.take(node, facts) {
            Some(server) => Ok(server),
            None => facts.server(node).await,
        }
    }

    /// A connection that was opened earlier, if it is still of use.
    fn take(&self, node: NodeId, facts: &Facts) -> Option<Server> {
        self.kept().remove(&node)?.lent_until(Deadline(facts.deadline))
    }

    fn keep(&self, node: NodeId, server: Server) {
        self.kept().insert(node, server);
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<NodeId, Server>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bench(&self, node: NodeId) -> Arc<Semaphore> {
        let mut benches = self.benches.lock().unwrap_or_else(PoisonError::into_inner);
        benches.entry(node).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
    }
}

/// The old primary writes something, and the candidate has to have replayed it; once more if that took long, for then it
/// may have had much to catch up.
async fn rehearse(old: &Server, new: &Server) -> Result<(), String> {
    for _ in 0..2 {
        let begun = Instant::now();
        new.replays(old.mark().await?).await?;
        if begun.elapsed() < PROMPT {
            break;
        }
    }
    Ok(())
}

impl Facts {
    fn name(&self, id: NodeId) -> &str {
        self.snapshot.node(id).map_or("?", |view| view.name.as_str())
    }

    /// Waits for transactions that have been open for long, while everybody else goes on: held for one of them, all
    /// would wait as long as that one takes.
    async fn outlast(&self, node: NodeId, server: &Server) -> Result<(), String> {
        let clients = self.connections.at_work(node);
        let pids: Vec<u32> = clients.keys().copied().collect();
        let mut old = server.old_transactions(&pids, OLD).await?;
        let who = |it: &OldTransaction| {
            let client = clients.get(&it.pid).map_or("a client", String::as_str);
            format!("{client} has had a transaction open for {} s", it.age.as_secs())
        };
        if let Some(oldest) = old.first() {
            let text = format!("waits, and holds nobody yet: {}; {} such in all", who(oldest), old.len());
            self.cluster.journal().note(Topic::Failover, Some(self.name(node)), text);
        }
        while let Some(oldest) = old.first() {
            if Instant::now() + OLD_POLL >= self.deadline {
                return Err(who(oldest));
            }
            sleep(OLD_POLL).await;
            let Ok(now) = server.old_transactions(&pids, OLD).await else { return Err(who(oldest)) };
            old = now.into_iter().filter(|it| old.iter().any(|old| old.is_same_as(it))).collect();
        }
        Ok(())
    }

    /// Has a candidate stream from the old primary itself. That one, when it is shut down, sends those who stream from it
    /// all that it has, and ends; a replica between them would go on, and nobody could tell that it has no more.
    async fn straighten(&self, to: NodeId, sender: NodeId, primary: NodeId) -> Result<(), String> {
        let (name, sender, primary_name) = (self.name(to), self.name(sender), self.name(primary));
        let followed = self.follow(to, primary).await;
        followed.map_err(|why| format!("{name} streams from {sender}, and not yet from {primary_name}: {why}"))?;
        let text = format!("streams from {primary_name}, no more from {sender}: it is to take over");
        self.cluster.journal().note(Topic::Failover, Some(name), text);
        Ok(())
    }

    /// Operators are told which replicas the old primary does not wait for.
    fn leave_behind(&self, node: NodeId, hanging: Vec<String>) {
        for name in hanging {
            let text = format!("{name} streams from it and does not answer: it is not waited for");
            self.cluster.journal().note(Topic::Failover, Some(self.name(node)), text);
        }
    }

    fn node(&self, id: NodeId) -> Result<&config::Node, String> {
        let view = self.snapshot.node(id).ok_or("the node is gone")?;
        let node = self.settings.nodes.iter().find(|node| node.name == view.name);
        node.ok_or_else(|| format!("{} is not in the topology file any more", view.name))
    }

    fn profile(&self, id: NodeId) -> Result<Profile, String> {
        let node = self.node(id)?;
        self.settings.profile(&node.name).ok_or_else(|| "the node is gone".to_owned())
    }

    async fn server(&self, id: NodeId) -> Result<Server, String> {
        Server::connect(&self.settings, self.node(id)?, Deadline(self.deadline)).await
    }

    /// Whether this instance may still act on what was decided.
    fn check_office(&self) -> Result<(), String> {
        match &self.office {
            Some((membership, _)) if membership.tenure().is_over() => Err("the lease is over".to_owned()),
            _ => Ok(()),
        }
    }

    async fn agree(&self) -> Outcome {
        let Some((membership, reign)) = &self.office else { return Ok(Fact::Done) };
        let agreed = timeout_at(self.deadline.into(), membership.agreed(reign, self.epoch)).await;
        agreed.map(|()| Fact::Done).map_err(|_| {
            let missing = membership.missing(reign, self.epoch);
            format!("these instances have not acknowledged that they write nothing any more: {}", missing.join(", "))
        })
    }

    fn has(&self, hook: Hook) -> bool {
        !self.command(hook).is_empty()
    }

    fn command(&self, hook: Hook) -> &[String] {
        let failover = &self.settings.failover;
        match hook {
            Hook::Fence => &failover.fence_command,
            Hook::Demote => &failover.demote_command,
            Hook::Rejoin => &failover.rejoin_command,
            Hook::PrePromote => &failover.pre_promote,
            Hook::PostPromote => &failover.post_promote,
        }
    }

    async fn hook(&self, hook: Hook, node: NodeId, old: NodeId, primary: Option<NodeId>) -> Outcome {
        let limit = if hook == Hook::Rejoin { REJOIN } else { self.hook_limit };
        self.hook_within(limit, hook, node, old, primary).await
    }

    /// Runs a hook about `node`. One that is not set approves of everything.
    async fn hook_within(
        &self,
        limit: Duration,
        hook: Hook,
        node: NodeId,
        old: NodeId,
        primary: Option<NodeId>,
    ) -> Outcome {
        if !self.has(hook) {
            return Ok(Fact::Done);
        }
        let it = self.node(node)?;
        let mut facts = vec![
            ("PGPILOT_EPOCH", self.epoch.to_string()),
            ("PGPILOT_NODE", it.name.to_string()),
            ("PGPILOT_NODE_HOST", it.host.clone()),
            ("PGPILOT_NODE_PORT", it.port.to_string()),
            ("PGPILOT_OLD", self.node(old)?.name.to_string()),
            ("PGPILOT_TIMELINE", self.snapshot.timeline.0.to_string()),
        ];
        if let Some(position) = self.snapshot.node(primary.unwrap_or(old)).and_then(|view| view.position) {
            facts.push(("PGPILOT_LSN", position.lsn.to_string()));
        }
        if let Some(primary) = primary {
            // Where the other nodes reach it.
            let (name, profile) = (self.node(primary)?.name.to_string(), self.profile(primary)?);
            facts.push(("PGPILOT_PRIMARY", name));
            facts.push(("PGPILOT_PRIMARY_HOST", profile.host));
            facts.push(("PGPILOT_PRIMARY_PORT", profile.port.to_string()));
        }
        hook::run(hook, self.command(hook), &facts, limit).await.map(|()| Fact::Done)
    }

    async fn quiesce(&self, node: NodeId) -> Outcome {
        self.connections.turn_away(node);
        let mut quiet = 0;
        while quiet < QUIET {
            let busy = self.connections.busy(node);
            // Who was sent there just before the hold may not have got there yet.
            quiet = if busy == 0 { quiet + 1 } else { 0 };
            if busy > 0 && Instant::now() >= self.deadline {
                return Err(format!("{busy} transactions did not end in time"));
            }
            sleep(QUIESCE_POLL).await;
        }
        Ok(Fact::Done)
    }

    fn geometry(&self, node: NodeId) -> WalGeometry {
        self.cluster.answer(node).map(|answer| answer.wal).unwrap_or_default()
    }

    /// By the hook, whose word is taken for it; else by SQL, as far as that goes.
    async fn fence(&self, node: NodeId) -> Outcome {
        if self.has(Hook::Fence) {
            let primary = self.snapshot.primary.filter(|&primary| primary != node);
            self.hook(Hook::Fence, node, node, primary).await?;
            return Ok(Fact::Fenced(Proof::Proven));
        }
        if self.contact(node) == Contact::Up {
            let deadline = self.deadline.min(Instant::now() + SQL_FENCE);
            let server = Server::connect(&self.settings, self.node(node)?, Deadline(deadline)).await?;
            if !server.is_replica().await? {
                server.stop_writes(self.geometry(node)).await?;
            }
        }
        Ok(Fact::Fenced(Proof::Attempted))
    }

    fn contact(&self, node: NodeId) -> Contact {
        match self.cluster.snapshot().node(node).map(|view| view.state) {
            Some(State::Up | State::Quarantined) => Contact::Up,
            _ => Contact::Refused,
        }
    }

    async fn stop(&self, node: NodeId, to: NodeId, ready: Option<Server>) -> Outcome {
        let stopped = if self.has(Hook::Demote) {
            drop(ready);
            self.hook(Hook::Demote, node, node, Some(to)).await?;
            None
        } else {
            let server = match ready {
                Some(server) => server,
                None => self.server(node).await?,
            };
            Some(server.stop_writes(self.geometry(node)).await?)
        };
        // Sessions that keep something there, outside a transaction: they are told with their next statement.
        self.connections.sever(node);
        Ok(Fact::Stopped(stopped))
    }

    /// One that a hook has shut down is started again by the hook that makes it a replica: of nobody, in this case. There
    /// is nothing to be copied, and the clients' writes wait for it.
    async fn resume(&self, node: NodeId) -> Outcome {
        let mut deadline = self.deadline;
        if self.has(Hook::Demote) && self.has(Hook::Rejoin) && self.contact(node) != Contact::Up {
            self.hook_within(self.hook_limit, Hook::Rejoin, node, node, Some(node)).await?;
            // A time limit of its own: the hook may have taken longer than the one that was given.
            deadline = Instant::now() + self.settings.failover.step_timeout;
        }
        Server::connect(&self.settings, self.node(node)?, Deadline(deadline))
            .await?
            .allow_writes()
            .await
            .map(|()| Fact::Done)
    }

    async fn follow(&self, node: NodeId, primary: NodeId) -> Outcome {
        let replica = self.server(node).await?;
        if !replica.is_replica().await? {
            return Err("it is no replica".to_owned());
        }
        if let Some(slot) = replica.slot().await? {
            self.server(primary).await?.make_slot(&slot).await?;
        }
        replica.follow(&self.profile(primary)?).await.map(|()| Fact::Done)
    }

    async fn rejoin(&self, node: NodeId, primary: NodeId) -> Outcome {
        // Before anything is stopped: without a source it would stay so, and may be the last that is left.
        if self.server(primary).await?.is_replica().await? {
            return Err(format!("{} is no primary that it could be made a replica of", self.name(primary)));
        }
        let now = self.cluster.snapshot();
        let view = now.node(node);
        if view.is_some_and(|view| view.state == State::Up && view.role == Role::Replica) {
            let followed = self.follow(node, primary).await;
            if followed.is_ok() || !self.has(Hook::Rejoin) {
                return followed;
            }
        }
        if let Err(error) = self.fence(node).await {
            // Without a fence it may still take commits of others; the hook for rejoining stops it first.
            tracing::warn!(error, "a node that is to rejoin is not fenced");
        }
        self.connections.sever(node);
        if !self.has(Hook::Rejoin) {
            return Err("there is no rejoin_command: it has to be brought back by hand".to_owned());
        }
        self.hook(Hook::Rejoin, node, node, Some(primary)).await
    }

    /// The epoch is the first thing that is written to a new primary: whoever has it has all that was before.
    async fn mark(&self, primary: NodeId, server: &Server) {
        let Ok(node) = self.node(primary) else { return };
        let writing = server.write_epoch(self.epoch, node.name.as_str());
        match timeout(MARK, writing).await {
            Ok(Ok(())) => {}
            // A role that may not do it promotes all the same.
            Ok(Err(error)) => tracing::warn!(error, "the epoch could not be written to the new primary"),
            Err(_) => tracing::warn!("the epoch could not be written to the new primary in time"),
        }
    }

    async fn announce(&self, old: NodeId, primary: NodeId) -> Outcome {
        self.hook(Hook::PostPromote, primary, old, Some(primary)).await
    }
}
