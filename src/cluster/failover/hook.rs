//! The operators' commands.

use std::convert::Infallible;
use std::future::pending;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStderr, Command};
use tokio::time::timeout;

/// What a command is for; it finds the name in `PGPILOT_HOOK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Fence,
    Demote,
    Rejoin,
    PrePromote,
    PostPromote,
}

impl Hook {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::Demote => "demote",
            Self::Rejoin => "rejoin",
            Self::PrePromote => "pre_promote",
            Self::PostPromote => "post_promote",
        }
    }
}

/// Of what a command says, so much is kept: its end, where the error is.
const KEPT: usize = 2000;
/// For what it said last.
const REST: Duration = Duration::from_millis(50);

/// Runs a command until it ends.
///
/// # Errors
/// It cannot be run, says no, or takes longer than `limit`, upon which it is killed.
///
/// # Cancel safety
/// The command is killed, and what it has started.
pub(super) async fn run(
    hook: Hook,
    command: &[String],
    environment: &[(&str, String)],
    limit: Duration,
) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let name = hook.name();
    let mut command = Command::new(program);
    command.args(arguments).env("PGPILOT_HOOK", name).envs(environment.iter().map(|(key, value)| (key, value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // So that what it has started can be ended with it.
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| format!("the {name} hook cannot be run: {error}"))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)));
    let mut said = Said { source: child.stderr.take(), text: Vec::new() };
    let ended = timeout(limit, async {
        tokio::select! {
            status = child.wait() => status,
            never = said.listen() => match never {},
        }
    });
    let Ok(status) = ended.await else {
        return Err(format!("the {name} hook took longer than {limit:?}"));
    };
    // What it leaves behind is meant to stay: it may be a server.
    group.0 = None;
    let status = status.map_err(|error| format!("the {name} hook: {error}"))?;
    if status.success() {
        return Ok(());
    }
    // A server that it has started may keep the pipe open.
    let _ = timeout(REST, said.listen()).await;
    let said = String::from_utf8_lossy(&said.text);
    Err(format!("the {name} hook failed ({status}): {}", said.trim()))
}

/// A command, and what it has started: all of that ends with this.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended at this moment.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The end of what a command says on its standard error.
struct Said {
    source: Option<ChildStderr>,
    text: Vec<u8>,
}

impl Said {
    /// Reads on for ever.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn listen(&mut self) -> Infallible {
        let mut piece = [0; 512];
        while let Some(source) = &mut self.source {
            match source.read(&mut piece).await {
                Ok(length @ 1..) => {
                    self.text.extend_from_slice(&piece[..length]);
                    self.text.drain(..self.text.len().saturating_sub(KEPT));
                }
                _ => self.source = None,
            }
        }
        pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, limit: Duration) -> Result<(), String> {
        let command = ["sh", "-c", script].map(str::to_owned);
        run(Hook::Fence, &command, &[("PGPILOT_EPOCH", "7".to_owned())], limit).await
    }

    #[tokio::test]
    async fn a_hook_is_told_the_facts_and_answers_by_its_status() {
        let limit = Duration::from_secs(20);
        assert_eq!(sh("test \"$PGPILOT_HOOK/$PGPILOT_EPOCH\" = fence/7", limit).await, Ok(()));
        let error = sh("yes | head -c 100000 >&2; echo no fence >&2; exit 3", limit).await.unwrap_err();
        assert!(error.ends_with("no fence") && error.contains("exit status: 3") && error.len() < KEPT + 100, "{error}");
        let missing = run(Hook::Rejoin, &["/no/such/command".to_owned()], &[], limit).await.unwrap_err();
        assert!(missing.contains("cannot be run"), "{missing}");
        assert_eq!(run(Hook::Rejoin, &[], &[], limit).await, Ok(()));
    }

    /// Both the shell and what it waits for can write to the pipe: it ends when both have.
    #[tokio::test]
    async fn a_hook_that_nobody_waits_for_any_more_ends_with_what_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().await.unwrap().success());
        let mut reader = Command::new("cat").arg(&pipe).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let script = format!("exec > '{}'; echo begun; (tail -f /dev/null; true)", pipe.display());
        let output = reader.stdout.as_mut().unwrap();
        let mut begun = [0; 6];
        tokio::select! {
            ended = sh(&script, Duration::from_secs(600)) => panic!("{ended:?}"),
            read = output.read_exact(&mut begun) => assert_eq!((read.unwrap(), &begun), (6, b"begun\n")),
        }
        let mut rest = Vec::new();
        let ended = timeout(Duration::from_secs(60), output.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "what it has started goes on");
    }

    #[tokio::test]
    async fn a_hook_that_takes_too_long_has_failed() {
        let error = sh("exec tail -f /dev/null", Duration::from_millis(50)).await.unwrap_err();
        assert!(error.contains("took longer"), "{error}");
    }
}
