//! Cleaning up, whatever happens to this process.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::error::{Doing, Error};

/// A small shell process that waits for a pipe from this process to close. The operating system closes it when this
/// process ends in any way, so servers never outlive it.
#[derive(Debug)]
pub(super) struct Guard {
    process: Child,
    pipe: Option<ChildStdin>,
}

const SCRIPT: &str = include_str!("guard.sh");

impl Guard {
    /// Guards one cluster's directory.
    pub(super) fn start(directory: &Path) -> Result<Self, Error> {
        let mut process = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "pgpilot-guard"])
            .arg(directory)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .doing("start the guard of", directory)?;
        let pipe = process.stdin.take();
        Ok(Self { process, pipe })
    }

    /// Ends the servers and removes the directory now; returns when that is done (at most about 6 s).
    pub(super) fn finish(&mut self) {
        drop(self.pipe.take());
        if let Err(error) = self.process.wait() {
            tracing::warn!(%error, "the guard of a throwaway cluster is gone");
        }
    }
}
