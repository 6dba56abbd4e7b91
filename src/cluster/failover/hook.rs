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
/// The command is killed.
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
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    // So that what it has started can be ended with it.
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| format!("the {name} hook cannot be run: {error}"))?;
    let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    let mut said = Said { source: child.stderr.take(), text: Vec::new() };
    let ended = timeout(limit, async {
        tokio::select! {
            status = child.wait() => status,
            never = said.listen() => match never {},
        }
    });
    let Ok(status) = ended.await else {
        // It may have ended at this moment.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        return Err(format!("the {name} hook took longer than {limit:?}"));
    };
    let status = status.map_err(|error| format!("the {name} hook: {error}"))?;
    if status.success() {
        return Ok(());
    }
    // A server that it has started may keep the pipe open.
    let _ = timeout(REST, said.listen()).await;
    let said = String::from_utf8_lossy(&said.text);
    Err(format!("the {name} hook failed ({status}): {}", said.trim()))
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

    #[tokio::test]
    async fn a_hook_that_takes_too_long_has_failed() {
        let error = sh("exec tail -f /dev/null", Duration::from_millis(50)).await.unwrap_err();
        assert!(error.contains("took longer"), "{error}");
    }
}
