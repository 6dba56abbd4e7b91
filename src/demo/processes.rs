//! The operating-system processes of one server.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::error::Error;
use super::wait::until;

/// Which processes of a server an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The postmaster and all its children, orphans of an earlier postmaster included: the machine is gone.
    Node,
    /// The postmaster alone: its children go on. A backend that has lost its postmaster finishes its statement.
    Postmaster,
}

/// Every process of the server with this data directory. A server works in its data directory, and its children
/// inherit that; PostgreSQL gives each child its own process group, so that groups are of no use here.
pub(super) fn of(data: &Path) -> Vec<Pid> {
    match fs::read_dir("/proc") {
        Ok(entries) => entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|number: &i32| {
                let process = Path::new("/proc").join(number.to_string());
                let works_there = fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == data);
                works_there && fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "postgres")
            })
            .filter_map(Pid::from_raw)
            .collect(),
        Err(_) => family(data),
    }
}

/// Where there is no `/proc`: the postmaster and its children. Orphans are not found; they end by themselves as soon
/// as they wait for anything.
fn family(data: &Path) -> Vec<Pid> {
    let Some(postmaster) = lock_file(data).map(|lock| lock.pid) else { return Vec::new() };
    let output = Command::new("ps").args(["-axo", "pid=,ppid="]).output();
    let table = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut found = Vec::new();
    for line in table.lines() {
        let mut numbers = line.split_whitespace().map(str::parse);
        if let (Some(Ok(pid)), Some(Ok(parent))) = (numbers.next(), numbers.next())
            && (pid == postmaster || parent == postmaster)
        {
            found.extend(Pid::from_raw(pid));
        }
    }
    found
}

/// Stops every process (SIGSTOP). Returns when no more is found running: a child that was being made counts.
pub(super) async fn freeze(data: &Path, postmaster: Pid, scope: Scope) -> Result<(), Error> {
    signal(postmaster, Signal::STOP);
    if scope == Scope::Postmaster {
        return Ok(());
    }
    let mut frozen = vec![postmaster];
    until("every process is frozen", super::wait::LIMIT, async || {
        let new: Vec<Pid> = of(data).into_iter().filter(|pid| !frozen.contains(pid)).collect();
        new.iter().for_each(|&pid| signal(pid, Signal::STOP));
        frozen.extend(&new);
        Ok(new.is_empty().then_some(()))
    })
    .await
}

/// Lets every process go on (SIGCONT), the postmaster last.
pub(super) fn thaw(data: &Path, postmaster: Pid) {
    of(data).into_iter().filter(|&pid| pid != postmaster).for_each(|pid| signal(pid, Signal::CONT));
    signal(postmaster, Signal::CONT);
}

/// Ends them without a chance to do anything (SIGKILL). Returns when they are gone.
pub(super) async fn kill(data: &Path, postmaster: Option<Pid>, scope: Scope) -> Result<(), Error> {
    // Stopped first, it cannot make another child.
    postmaster.into_iter().for_each(|pid| signal(pid, Signal::STOP));
    postmaster.into_iter().for_each(|pid| signal(pid, Signal::KILL));
    until("the processes are gone", super::wait::LIMIT, async || {
        let rest = match scope {
            Scope::Node => of(data),
            Scope::Postmaster => of(data).into_iter().filter(|&pid| Some(pid) == postmaster).collect(),
        };
        rest.iter().for_each(|&pid| signal(pid, Signal::KILL));
        Ok(rest.is_empty().then_some(()))
    })
    .await
}

/// Sends a signal. That the process is gone already is no error.
pub(super) fn signal(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}

/// Gives back the System V shared memory that a killed server leaves, as the end of its machine would do.
pub(super) fn release_shared_memory(data: &Path) {
    let Some(segment) = lock_file(data).and_then(|lock| lock.segment) else { return };
    // Without `ipcrm` the segment, 56 bytes, stays.
    let _ = Command::new("ipcrm").args(["-m", &segment.to_string()]).stderr(Stdio::null()).status();
}

/// What `postmaster.pid` says. Source: `src/include/utils/pidfile.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LockFile {
    pub(super) pid: i32,
    pub(super) status: Status,
    /// The id of its segment of System V shared memory.
    segment: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Accepts connections; a standby: has reached a consistent state.
    Ready,
    /// Has been asked to end.
    Stopping,
    /// Everything else.
    Other,
}

/// `None`: there is none, so no server runs; or it is being written.
pub(super) fn lock_file(data: &Path) -> Option<LockFile> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    let segment = text.lines().nth(6).and_then(|keys| keys.split_whitespace().nth(1)?.parse().ok());
    let status = match text.lines().nth(7).map(str::trim) {
        Some("ready") => Status::Ready,
        Some("stopping") => Status::Stopping,
        _ => Status::Other,
    };
    Some(LockFile { pid, status, segment })
}
