//! A throwaway etcd.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{LIMIT, wait_for};

/// One member on loopback ports of its own; ends with its handle, and with the thread that started it.
pub(crate) struct Etcd {
    child: Option<Child>,
    port: u16,
    peer: u16,
    directory: TempDir,
}

/// Somebody else may take a port before etcd does.
const TRIES: usize = 5;

impl Etcd {
    pub(crate) async fn start() -> Self {
        for _ in 0..TRIES {
            let directory = in_memory().unwrap_or_else(|| tempfile::tempdir().expect("a directory"));
            let mut etcd = Self { child: None, port: free_port(), peer: free_port(), directory };
            etcd.run();
            if etcd.answers().await {
                return etcd;
            }
        }
        panic!("etcd does not start: is Debian's etcd-server installed?");
    }

    /// Once more, after [`Etcd::kill`], on the same port and with the same data.
    pub(crate) async fn restart(&mut self) {
        self.run();
        assert!(self.answers().await, "etcd does not start again");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It answers nobody, and does not close its connections.
    pub(crate) async fn freeze(&self) {
        super::process::freeze(self.child.as_ref().expect("etcd runs")).await;
    }

    pub(crate) fn thaw(&self) {
        let child = self.child.as_ref().expect("etcd runs");
        kill_process(Pid::from_child(child), Signal::CONT).expect("a child");
    }

    fn run(&mut self) {
        let (client, peer) = (format!("http://127.0.0.1:{}", self.port), format!("http://127.0.0.1:{}", self.peer));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "etcd", "--name", "one", "--log-level", "error", "--data-dir"]);
        command.arg(self.directory.path().join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("one={peer}")]);
        // It elects itself the sooner.
        command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = command.spawn().ok();
    }

    async fn answers(&mut self) -> bool {
        let (port, mut ended) = (self.port, self.child.is_none());
        wait_for("etcd to listen", LIMIT, async || {
            ended |= self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            ended || TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        !ended
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// etcd waits for its disk with each write, which can take long where others write, too.
fn in_memory() -> Option<TempDir> {
    tempfile::tempdir_in("/dev/shm").ok()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}
