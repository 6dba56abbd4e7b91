//! One server of a throwaway cluster.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::account::Account;
use super::binaries::Binaries;
use super::error::{Doing, Error};
use super::port::Port;
use super::processes::{self, Scope, Status};
use super::settings::{Settings, render};
use super::wait::{LIMIT, until};

/// A server: its process, its data directory, its port. All operations wait for their effect.
#[derive(Debug)]
pub struct Node {
    name: String,
    port: Port,
    directory: PathBuf,
    common: Arc<Common>,
    process: Mutex<Option<Child>>,
}

/// What the nodes of one cluster share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) binaries: Binaries,
    pub(super) account: Account,
    pub(super) sockets: PathBuf,
}

/// How a server is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ends sessions, writes a checkpoint, waits until its replicas have everything (SIGINT).
    Fast,
    /// As after a crash, recovery follows at the next start (SIGQUIT).
    Immediate,
    /// Waits for clients to disconnect first (SIGTERM).
    Smart,
}

/// How a server has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Properly, as a primary; the position of the last thing it wrote, the checkpoint of its shutdown.
    Primary { checkpoint: u64 },
    /// Properly, as a standby.
    Standby,
    /// There is something to recover; or it runs.
    Crash,
}

impl Node {
    pub(super) fn new(name: &str, port: Port, directory: PathBuf, common: Arc<Common>) -> Self {
        Self { name: name.to_owned(), port, directory, common, process: Mutex::new(None) }
    }

    /// Also its `cluster_name`, its `application_name` when it streams, and the name of its replication slot.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// On 127.0.0.1; it stays the same.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where its Unix socket is: nobody is asked for a password there.
    pub fn socket_directory(&self) -> &Path {
        &self.common.sockets
    }

    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub fn binaries(&self) -> &Binaries {
        &self.common.binaries
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn account(&self) -> Account {
        self.common.account
    }

    /// The postmaster's process id; `None`: the server does not run.
    pub fn pid(&self) -> Option<u32> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let child = process.as_mut()?;
        matches!(child.try_wait(), Ok(None)).then(|| child.id())
    }

    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Whether it has been asked to end, and has not done so yet.
    pub(super) fn is_stopping(&self) -> bool {
        let lock = processes::lock_file(&self.data_directory());
        self.is_running() && lock.is_some_and(|lock| lock.status == Status::Stopping)
    }

    /// Starts the server and waits until it accepts connections.
    ///
    /// # Errors
    /// [`Error::Ended`] or [`Error::Timeout`], both with the end of its log.
    pub async fn start(&self) -> Result<(), Error> {
        self.spawn()?;
        self.wait_until_ready().await
    }

    /// Starts the server without waiting: it may be one that is not going to accept connections.
    pub fn spawn(&self) -> Result<(), Error> {
        if self.is_running() {
            return Err(Error::Running { node: self.name.clone() });
        }
        let path = self.directory.join("log");
        let log = File::options().create(true).append(true).open(&path).doing("open", &path)?;
        let program = self.common.binaries.tool("postgres")?;
        let mut command = self.common.account.command(&program);
        // The configuration is outside of the data directory, where pg_rewind and base backups would replace it.
        command.current_dir(&self.directory).arg("-D").arg(self.data_directory());
        command.arg("-c").arg(format!("config_file={}", self.directory.join("postgresql.conf").display()));
        let also = log.try_clone().doing("open", &path)?;
        let child = command.stdout(log).stderr(also).spawn().doing("run", &program)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Waits until the server accepts connections (a standby: until its recovery is consistent).
    pub async fn wait_until_ready(&self) -> Result<(), Error> {
        let data = self.data_directory();
        let what = format!("node {} accepts connections", self.name);
        let outcome = until(&what, LIMIT, async || {
            if let Some(status) = self.exit_status() {
                return Err(Error::Ended { node: self.name.clone(), status, log: self.log_tail(40) });
            }
            let lock = processes::lock_file(&data);
            // A lock file of a process that was killed stays: compare the process.
            let ours = lock.filter(|lock| u32::try_from(lock.pid).ok() == self.pid());
            Ok(ours.filter(|lock| lock.status == Status::Ready).map(|_| ()))
        });
        outcome.await.map_err(|error| self.with_log(error))
    }

    /// Stops the server. A frozen one has to be thawed before.
    pub async fn stop(&self, how: Stop) -> Result<(), Error> {
        self.stop_within(LIMIT, how).await
    }

    /// As [`stop`](Self::stop). What does not end in time may still do so later.
    pub(super) async fn stop_within(&self, limit: Duration, how: Stop) -> Result<(), Error> {
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
            Stop::Smart => Signal::TERM,
        };
        processes::signal(self.postmaster()?, signal);
        self.wait_until_ended(limit).await
    }

    pub async fn restart(&self, how: Stop) -> Result<(), Error> {
        self.stop(how).await?;
        self.start().await
    }

    /// Kills it as `kill -9` does; with [`Scope::Node`] also what an earlier `kill9` of the postmaster left running.
    pub async fn kill9(&self, scope: Scope) -> Result<(), Error> {
        let postmaster = self.postmaster().ok();
        processes::kill(&self.data_directory(), postmaster, scope).await?;
        if postmaster.is_some() {
            self.wait_until_ended(LIMIT).await?;
        }
        if scope == Scope::Node {
            processes::release_shared_memory(&self.data_directory());
        }
        Ok(())
    }

    /// Stops its processes in their tracks: connections stay open, nothing answers. The kernel still accepts new
    /// ones for the frozen postmaster.
    pub async fn freeze(&self, scope: Scope) -> Result<(), Error> {
        processes::freeze(&self.data_directory(), self.postmaster()?, scope).await
    }

    /// Undoes [`freeze`](Self::freeze).
    pub fn thaw(&self) -> Result<(), Error> {
        processes::thaw(&self.data_directory(), self.postmaster()?);
        Ok(())
    }

    /// How it ended, by its control file. Source: `ControlFileData` and `DBState` in `src/include/catalog/pg_control.h`:
    /// the state, an int, follows 16 bytes of identifiers and versions; `checkPoint` is at 32, behind a time.
    pub(super) fn ending(&self) -> Result<Ending, Error> {
        let path = self.data_directory().join("global/pg_control");
        let control = fs::read(&path).doing("read", &path)?;
        let state = control.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let checkpoint = control.get(32..40).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
        Ok(match (state, checkpoint) {
            (Some(1), Some(checkpoint)) => Ending::Primary { checkpoint },
            (Some(2), _) => Ending::Standby,
            _ => Ending::Crash,
        })
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = fs::read(self.directory.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Writes its `postgresql.conf`.
    pub(super) fn configure(&self, settings: &Settings) -> Result<(), Error> {
        self.common.account.private_file(&self.directory.join("postgresql.conf"), render(settings))
    }

    /// Waits until the postmaster has ended.
    pub async fn wait_until_ended(&self, limit: Duration) -> Result<(), Error> {
        let what = format!("node {} ends", self.name);
        let outcome = until(&what, limit, async || Ok((!self.is_running()).then_some(())));
        outcome.await.map_err(|error| self.with_log(error))
    }

    /// Collects the status of a process that somebody else has ended, so that no zombie stays.
    pub(super) fn reap(&self) {
        for _ in 0..100 {
            if !self.is_running() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn postmaster(&self) -> Result<Pid, Error> {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        pid.ok_or_else(|| Error::NotRunning { node: self.name.clone() })
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.try_wait().ok()?
    }

    fn with_log(&self, error: Error) -> Error {
        match error {
            Error::Timeout { what, limit, .. } => Error::Timeout { what, limit, log: self.log_tail(40) },
            other => other,
        }
    }
}
