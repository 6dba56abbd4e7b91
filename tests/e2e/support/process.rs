//! pgpilot as a process of its own: its memory can be measured, and a panic in it leaves a trace.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use pgpilot::demo::LocalCluster;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::proxy::{PASSWORD, USER, topology_text};
use super::raw::Raw;
use super::{LIMIT, wait_for};

pub(crate) struct Process {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Process {
    /// Starts the program and waits until it serves.
    pub(crate) async fn start(servers: &LocalCluster, more: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let file = directory.path().join("pgpilot.toml");
        let text = format!("listen = \"127.0.0.1:{port}\"\n{}", topology_text(servers, more));
        fs::write(&file, text).expect("a file");
        let log = fs::File::create(directory.path().join("log")).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgpilot"));
        command.arg("serve").arg("--config").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("pgpilot starts");
        let process = Self { child, port, directory };
        let url = format!("host=127.0.0.1 port={port} user={USER} password={PASSWORD} dbname=shop");
        wait_for("pgpilot to serve", LIMIT, async || {
            match tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
                Err(_) => false,
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    client.simple_query("SELECT 1").await.is_ok()
                }
            }
        })
        .await;
        process
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(self.port, "shop").await
    }

    pub(crate) async fn freeze(&self) {
        freeze(&self.child).await;
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child");
    }

    /// Resident memory in bytes, at present.
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most resident memory since the last call of `forget_peak`, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// proc(5): 5 written there sets the peak to what is resident now.
    pub(crate) fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").expect("a process of one's own");
    }

    fn status(&self, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("pgpilot runs");
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a field of /proc/PID/status");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes * 1024
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Fails if a task has panicked: the process outlives that.
    pub(crate) fn assert_sound(&mut self) {
        let log = self.log();
        assert!(!log.contains("panicked"), "{log}");
        assert!(self.child.try_wait().expect("a child").is_none(), "pgpilot has ended\n{log}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().rev().take(20).collect();
            for line in lines.iter().rev() {
                let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("pgpilot: {line}\n"));
            }
        }
    }
}

/// Stops a process. It goes on until one of its threads comes to read the signal: this waits until all have stopped.
pub(super) async fn freeze(child: &Child) {
    kill_process(Pid::from_child(child), Signal::STOP).expect("a child");
    wait_for("all threads to stop", LIMIT, async || {
        let threads = fs::read_dir(format!("/proc/{}/task", child.id())).expect("a process of one's own");
        // proc(5): the state stands behind the name, which is in parentheses.
        let stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        threads.flatten().all(|thread| fs::read_to_string(thread.path().join("stat")).is_ok_and(stopped))
    })
    .await;
}
