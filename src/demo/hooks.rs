//! The hooks of a throwaway cluster: fence, demote and rejoin, for a failover that makes it whole again.
//!
//! A hook is a program that pgpilot runs, but its nodes are children of the process that made them. So the program
//! (`pgpilot demo-hook`) only hands the facts of its environment to that process, over a Unix socket, and ends as it is
//! told. The exchange: one line of JSON each way; see [`Request`] and [`Answer`].

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::{Mutex, oneshot};
use tokio::task::{JoinSet, LocalSet};

use super::cluster::LocalCluster;
use super::error::{Doing, Error};
use super::node::{Ending, Node, Stop};
use super::processes::Scope;
use super::replication::Rejoin;

/// The subcommand of pgpilot that is the hook.
pub const SUBCOMMAND: &str = "demo-hook";

/// A primary that does not end in time waits for something: it is to be the primary again soon, and has to be killed for
/// that.
const DEMOTION: Duration = Duration::from_secs(8);

/// What all facts in a hook's environment begin with.
const PREFIX: &str = "PGPILOT_";

/// Serves the hooks of one cluster until it is dropped.
#[derive(Debug)]
pub struct Hooks {
    command: Vec<String>,
    /// Dropped, it ends the server.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The facts that a hook was called with: the names of its environment, without the prefix.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    facts: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    Failed(String),
}

impl Hooks {
    /// The argument vector of every hook alike: which one it is, its environment says.
    pub fn command(&self) -> &[String] {
        &self.command
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        drop(self.stop.take());
        // What it may be in the middle of is dropped: only a copy of files is waited for.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl LocalCluster {
    /// Lets `program`, a pgpilot, carry out hooks on this cluster's nodes.
    ///
    /// The meaning of the hooks: *fence* kills every process of the node, *demote* shuts it down fast and fails if that
    /// is not a clean end, or the candidate does not get all of it, *rejoin* has it stream from the primary, by pg_rewind (which leaves it as it is if it has
    /// nothing of its own), else from a new copy; if it is itself the primary, it is started again. *pre_promote* and *post_promote* do nothing.
    ///
    /// # Errors
    /// [`Error::Io`]: no socket can be made in the cluster's directory.
    pub fn serve_hooks(self: &Arc<Self>, program: &Path) -> Result<Hooks, Error> {
        let socket = self.directory().join("hooks.sock");
        // Of a server that was dropped.
        let _ = fs::remove_file(&socket);
        // On a thread of its own: pgpilot and its clients must not wait for copies, nor hooks for them.
        let runtime = Builder::new_current_thread().enable_all().build().doing("serve", &socket)?;
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(&socket).doing("listen on", &socket)?
        };
        // The cluster is gone when its owner drops it, not when this server does.
        let cluster = Arc::downgrade(self);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            LocalSet::new().block_on(&runtime, async {
                tokio::select! {
                    () = serve(&listener, &cluster) => {}
                    _ = stopped => {}
                }
            });
        });
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let command = vec![text(program), SUBCOMMAND.to_owned(), "--control".to_owned(), text(&socket)];
        Ok(Hooks { command, stop: Some(stop), thread: Some(thread) })
    }

    /// Carries out one hook. Done again, it finds that there is nothing left to do.
    async fn carry_out(&self, facts: &BTreeMap<String, String>) -> Result<(), Error> {
        let fact = |name: &'static str| facts.get(name).ok_or(Error::NoFact(name));
        let node = self.node(fact("NODE")?)?;
        match fact("HOOK")?.as_str() {
            "fence" => node.kill9(Scope::Node).await,
            "demote" => demote(node, self.node(fact("PRIMARY")?)?).await,
            "rejoin" => self.bring_back(node, self.node(fact("PRIMARY")?)?).await,
            "pre_promote" | "post_promote" => Ok(()),
            other => Err(Error::NoHook(other.to_owned())),
        }
    }

    async fn bring_back(&self, node: &Node, primary: &Node) -> Result<(), Error> {
        if node.name() == primary.name() {
            if node.is_stopping() {
                // It may wait for a replica that hangs, for as long as `wal_sender_timeout` says.
                node.kill9(Scope::Node).await?;
            }
            return if node.is_running() { Ok(()) } else { node.start().await };
        }
        if node.is_running() && primary.is_followed_by(node).await? {
            return Ok(());
        }
        match self.rejoin(node, primary).await {
            // What it would take to rewind may be gone.
            Err(error @ (Error::Tool { .. } | Error::Ended { .. } | Error::Timeout { .. })) => {
                tracing::info!(%error, node = node.name(), "a new copy of the primary instead");
                self.rejoin_by(Rejoin::Copy, node, primary).await
            }
            other => other,
        }
    }
}

/// Done when the candidate has the last thing that the node wrote: only a replica that is connected is sent it.
async fn demote(node: &Node, candidate: &Node) -> Result<(), Error> {
    if node.is_running() {
        node.stop_within(DEMOTION, Stop::Fast).await?;
    }
    let Ending::Primary { checkpoint } = node.ending()? else {
        return Err(Error::NotClean { node: node.name().to_owned() });
    };
    let last = format!("'{:X}/{:X}'", checkpoint >> 32, checkpoint & 0xFFFF_FFFF);
    let sql = format!("SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) > {last}");
    candidate.wait_for_truth("it has received everything", &sql).await
}

/// Whose turn it is at which node.
type Turns = Rc<RefCell<HashMap<String, Rc<Mutex<()>>>>>;

/// Hooks of one node one after the other, those of others beside them: while one waits for a frozen primary to copy from,
/// that primary can be fenced. A hook that pgpilot gives up in the middle is carried out to its end, so the next one finds
/// no half-made node.
async fn serve(listener: &UnixListener, cluster: &Weak<LocalCluster>) {
    let (turns, mut running) = (Turns::default(), JoinSet::new());
    loop {
        tokio::select! {
            Some(ended) = running.join_next() => {
                if let Ok(Err(error)) = ended {
                    tracing::warn!(%error, "a hook went away");
                }
            }
            Ok((stream, _)) = listener.accept() => {
                running.spawn_local(answer(stream, cluster.clone(), turns.clone()));
            }
            else => return,
        }
    }
}

async fn answer(stream: UnixStream, cluster: Weak<LocalCluster>, turns: Turns) -> std::io::Result<()> {
    let mut stream = tokio::io::BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let Request { facts } = serde_json::from_str(&line)?;
    let node = facts.get("NODE").cloned().unwrap_or_default();
    let turn = turns.borrow_mut().entry(node).or_default().clone();
    let _turn = turn.lock().await;
    let outcome = match cluster.upgrade() {
        Some(cluster) => cluster.carry_out(&facts).await.map_err(|error| error.to_string()),
        None => Err("the cluster is gone".to_owned()),
    };
    let answer = outcome.map_or_else(Answer::Failed, |()| Answer::Done);
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// What the program of a hook does: has the facts of its environment acted upon by the process behind `control`.
///
/// # Errors
/// [`Error::Io`] if that process is gone, [`Error::Hook`] with its word if it failed.
pub fn call(control: &Path) -> Result<(), Error> {
    let facts = env::vars().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_owned(), value))).collect();
    let mut stream = BlockingStream::connect(control).doing("connect to", control)?;
    let mut line = serde_json::to_vec(&Request { facts }).doing("write to", control)?;
    line.push(b'\n');
    stream.write_all(&line).doing("write to", control)?;
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said).doing("read from", control)?;
    match serde_json::from_str(&said).doing("understand", control)? {
        Answer::Done => Ok(()),
        Answer::Failed(why) => Err(Error::Hook(why)),
    }
}
