//! `pgpilot switchover`, `failover`, `maintenance`: an order, and what is seen of it while it is carried out.

use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::arguments::{FailoverArguments, Giving, MaintenanceArguments, Output, Switch, SwitchoverArguments};
use super::ask::quoted;
use super::exit::{Exit, Failure};
use super::output::Rows;
use super::remote::{Console, Notices};
use super::{block_on, output, remote};
use crate::wire::SqlState;

/// From one look at the events to the next.
const LOOK: Duration = Duration::from_millis(200);

/// The console answers at once, or something is wrong with the connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// What progress is made of; the rest of the events is about something else.
const TOPICS: [&str; 3] = ["failover", "primary", "node"];

pub(super) fn switchover(arguments: &SwitchoverArguments) -> Result<Exit, Failure> {
    give(&switchover_command(arguments), &arguments.giving)
}

pub(super) fn failover(arguments: &FailoverArguments) -> Result<Exit, Failure> {
    if !arguments.force && !arguments.dry_run {
        return Err(Failure::usage(anyhow::anyhow!(
            "a failover promotes a replica whether or not the primary is lost: say --force, or see with --dry-run what \
             would be done; `pgpilot switchover` hands over from a primary that is well, and loses nothing"
        )));
    }
    give(&failover_command(arguments), &arguments.giving)
}

pub(super) fn maintenance(arguments: &MaintenanceArguments) -> Result<Exit, Failure> {
    let switch = match arguments.switch {
        Switch::On => "ON",
        Switch::Off => "OFF",
    };
    give(&format!("MAINTENANCE {switch}"), &arguments.giving)
}

fn switchover_command(arguments: &SwitchoverArguments) -> String {
    join("SWITCHOVER", &arguments.to, &[("DRY RUN", arguments.dry_run)])
}

fn failover_command(arguments: &FailoverArguments) -> String {
    let clauses = [
        ("FORCE", arguments.force),
        ("ALLOW DATA LOSS", arguments.allow_data_loss),
        ("ALLOW UNFENCED", arguments.allow_unfenced),
        ("ALLOW LIVE PRIMARY", arguments.allow_live_primary),
        ("IGNORE INTERVAL", arguments.ignore_interval),
        ("DRY RUN", arguments.dry_run),
    ];
    join("FAILOVER", &arguments.to, &clauses)
}

fn join(verb: &str, to: &Option<String>, clauses: &[(&str, bool)]) -> String {
    let to = to.as_ref().map(|node| format!("TO {}", quoted(node)));
    let said = clauses.iter().filter(|(_, said)| *said).map(|(clause, _)| (*clause).to_owned());
    std::iter::once(verb.to_owned()).chain(to).chain(said).collect::<Vec<_>>().join(" ")
}

/// How an order ended, as far as it could be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    Done,
    /// The reason.
    Refused(String),
    /// It goes on, unseen; what the console said to that, if it was the console that stopped waiting.
    Running(Option<String>),
    /// The connection broke.
    Unknown(String),
}

impl Ending {
    fn of(outcome: &Result<(), tokio_postgres::Error>) -> Self {
        match outcome {
            Ok(()) => Self::Done,
            Err(error) => match error.as_db_error() {
                Some(said) if said.code().code() == SqlState::QUERY_CANCELED.as_str() => {
                    Self::Running(Some(said.message().to_owned()))
                }
                Some(_) => Self::Refused(remote::said(error).to_string()),
                None => Self::Unknown(remote::with_cause(error)),
            },
        }
    }

    fn label(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused(_) => "refused",
            Self::Running(_) => "running",
            Self::Unknown(_) => "unknown",
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Done => Exit::Done,
            Self::Refused(_) => Exit::Failed,
            Self::Running(_) => Exit::Running,
            Self::Unknown(_) => Exit::Unreachable,
        }
    }

    /// What is said on standard error.
    fn complaint(&self, epoch: &Value) -> Option<String> {
        const LOOK: &str = "`pgpilot status` and SHOW EVENTS tell how it goes on";
        match self {
            Self::Done => None,
            Self::Refused(why) => Some(why.clone()),
            Self::Running(Some(said)) => Some(said.clone()),
            Self::Running(None) => Some(format!("still running, epoch {epoch}; {LOOK}")),
            Self::Unknown(why) => Some(format!("{why}; whether the order is carried out is not known: {LOOK}")),
        }
    }
}

fn give(command: &str, giving: &Giving) -> Result<Exit, Failure> {
    block_on(async {
        let (notices, notes) = Notices::kept();
        let console = Console::connect_with(&giving.remote, notices).await?;
        let watcher = Console::connect(&giving.remote).await?;
        let mut progress = Progress::from_now(&watcher).await?;
        let outcome = obey(&console, command, giving.wait, &mut progress).await;
        let ending = outcome.as_ref().map_or(Ending::Running(None), Ending::of);
        let (status, notes) = (progress.status().await.unwrap_or(Value::Null), notes.take());
        let complaint = ending.complaint(&status["epoch"]);
        match giving.output {
            Output::Json => output::say(format!(
                "{:#}",
                json!({
                    "order": command, "result": ending.label(), "error": complaint, "notes": notes, "failover": status,
                })
            )),
            Output::Text if ending == Ending::Done => output::say(answer(&notes, &status)),
            Output::Text => notes.iter().for_each(|note| output::complain(&format!("note: {note}"))),
        }
        if let Some(complaint) = complaint {
            output::complain(&complaint);
        }
        Ok(ending.exit())
    })?
}

/// Gives the order and shows events until it is carried out. `None`: it was not within `wait`, or somebody pressed
/// Ctrl-C; it goes on.
async fn obey(
    console: &Console,
    command: &str,
    wait: Duration,
    progress: &mut Progress<'_>,
) -> Option<Result<(), tokio_postgres::Error>> {
    let mut order = pin!(console.try_run(command));
    let mut end = pin!(tokio::time::sleep(wait));
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut looks = tokio::time::interval(LOOK);
    let outcome = loop {
        tokio::select! {
            outcome = &mut order => break Some(outcome),
            () = &mut end => break None,
            _ = &mut interrupted => break None,
            _ = looks.tick() => progress.show().await,
        }
    };
    progress.show().await;
    outcome
}

/// What happens meanwhile, from a connection of its own.
struct Progress<'c> {
    watcher: &'c Console,
    /// Number of the last event that was seen.
    seen: i64,
}

impl<'c> Progress<'c> {
    async fn from_now(watcher: &'c Console) -> Result<Self, Failure> {
        let events = watcher.rows("SHOW EVENTS").await?.to_json();
        let seen = events.as_array().into_iter().flatten().filter_map(|event| event["number"].as_i64()).max();
        Ok(Self { watcher, seen: seen.unwrap_or(0) })
    }

    async fn show(&mut self) {
        self.news().await.iter().for_each(|line| output::progress(line));
    }

    /// What is new, a line each. Progress that cannot be seen is no reason to give up on the order.
    async fn news(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let Some(events) = self.look("SHOW EVENTS").await else { return lines };
        for event in events.to_json().as_array().into_iter().flatten() {
            let number = event["number"].as_i64().unwrap_or(0);
            if number > self.seen {
                self.seen = number;
                if TOPICS.iter().any(|topic| event["topic"] == *topic) {
                    lines.push(line(event));
                }
            }
        }
        lines
    }

    async fn status(&self) -> Option<Value> {
        self.look("SHOW FAILOVER").await?.to_json().as_array_mut()?.pop()
    }

    async fn look(&self, command: &str) -> Option<Rows> {
        timeout(PATIENCE, self.watcher.rows(command)).await.ok()?.ok()
    }
}

/// `12:34:56.789 failover pg2: the text`.
fn line(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let time = text("at").split_once('T').map_or("", |(_, time)| time.trim_end_matches('Z'));
    let node = event["node"].as_str().map(|node| format!(" {node}")).unwrap_or_default();
    format!("{time} {}{node}: {}", text("topic"), text("event"))
}

/// What the console says to it: what was done, or would be. When it says nothing, who the primary is.
fn answer(notes: &[String], status: &Value) -> String {
    if !notes.is_empty() {
        return notes.join("\n");
    }
    let primary = status["primary"].as_str().unwrap_or("no node");
    let maintenance = if status["maintenance"] == true { ", in maintenance" } else { "" };
    format!("{primary} is the primary, epoch {}{maintenance}", status["epoch"])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser as _;

    use super::*;
    use crate::admin::Level;
    use crate::admin::tests::{Fake, console::console};
    use crate::cli::arguments::{Arguments, Command};
    use crate::telemetry::Topic;

    fn command(words: &str) -> String {
        match Arguments::try_parse_from(words.split(' ')).unwrap_or_else(|error| panic!("{words}: {error}")).command {
            Command::Switchover(arguments) => switchover_command(&arguments),
            Command::Failover(arguments) => failover_command(&arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_clauses() {
        for (words, expected) in [
            ("pgpilot switchover", "SWITCHOVER"),
            ("pgpilot switchover --to a\"b --dry-run", "SWITCHOVER TO \"a\"\"b\" DRY RUN"),
            ("pgpilot failover --force", "FAILOVER FORCE"),
            (
                "pgpilot failover --ignore-interval --to pg2 --force --allow-data-loss --allow-unfenced --allow-live-primary",
                "FAILOVER TO \"pg2\" FORCE ALLOW DATA LOSS ALLOW UNFENCED ALLOW LIVE PRIMARY IGNORE INTERVAL",
            ),
            ("pgpilot failover --dry-run", "FAILOVER DRY RUN"),
        ] {
            assert_eq!(command(words), expected);
        }
    }

    #[test]
    fn every_ending_has_an_exit_code_and_only_success_is_silent() {
        let why = || "why".to_owned();
        for (ending, exit, complaint) in [
            (Ending::Done, Exit::Done, None),
            (Ending::Refused(why()), Exit::Failed, Some("why")),
            (Ending::Running(None), Exit::Running, Some("still running, epoch 8;")),
            (Ending::Running(Some("still running, epoch 9".into())), Exit::Running, Some("still running, epoch 9")),
            (Ending::Unknown(why()), Exit::Unreachable, Some("why; whether the order is carried out is not known")),
        ] {
            let said = ending.complaint(&json!(8));
            assert_eq!(ending.exit(), exit);
            assert_eq!(said.is_some(), complaint.is_some());
            assert!(said.unwrap_or_default().starts_with(complaint.unwrap_or_default()), "{ending:?}");
        }
    }

    /// A console that anybody may talk to, until the process ends; its address.
    fn console_of(fake: &Arc<Fake>) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (url, fake) = (format!("postgresql://{}", listener.local_addr().unwrap()), fake.clone());
        std::thread::spawn(move || {
            block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    tokio::spawn(console(Level::Admin, fake.clone(), socket));
                }
            })
        });
        url
    }

    fn giving(url: &str, wait: &str) -> Giving {
        let words = ["pgpilot", "maintenance", "on", "--url", url, "--wait", wait];
        match Arguments::try_parse_from(words).unwrap().command {
            Command::Maintenance(arguments) => arguments.giving,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_exit_code_tells_what_became_of_an_order() {
        let url = console_of(&Fake::new());
        for (command, wait, expected) in [
            ("SWITCHOVER TO pg2", "1m", Exit::Done),
            ("SWITCHOVER TO pg9", "1m", Exit::Failed),
            // Its console stops waiting.
            ("FAILOVER FORCE", "1m", Exit::Running),
            // It is nobody's turn to answer: the command stops waiting.
            ("PAUSE", "1ms", Exit::Running),
        ] {
            let exit = give(command, &giving(&url, wait)).unwrap_or_else(|failure| panic!("{failure}"));
            assert_eq!(exit, expected, "{command}");
        }
    }

    #[test]
    fn only_what_is_new_and_about_it_is_progress() {
        let fake = Fake::new();
        let url = console_of(&fake);
        fake.journal.note(Topic::Failover, Some("pg2"), "an old story");
        let lines = block_on(async {
            let watcher = Console::connect(&giving(&url, "1m").remote).await.unwrap();
            let mut progress = Progress::from_now(&watcher).await.unwrap();
            assert_eq!(progress.news().await, Vec::<String>::new());
            fake.journal.note(Topic::Lag, Some("pg3"), "behind");
            fake.journal.note(Topic::Failover, Some("pg2"), "sealed");
            fake.journal.note(Topic::Primary, None, "none");
            (progress.news().await, progress.news().await)
        });
        let (first, second) = lines.unwrap_or_else(|failure| panic!("{failure}"));
        assert!(first[0].ends_with(" failover pg2: sealed") && first[1].ends_with(" primary: none"), "{first:?}");
        assert_eq!((first.len(), second.len()), (2, 0));
    }

    #[test]
    fn events_are_lines() {
        let event = json!({"number": 3, "at": "2026-01-02T12:34:56.789Z", "topic": "failover", "node": "pg2", "event": "sealed"});
        assert_eq!(line(&event), "12:34:56.789 failover pg2: sealed");
        assert_eq!(line(&json!({"at": "x", "topic": "primary", "node": null, "event": "none"})), " primary: none");
        let status = json!({"primary": "pg2", "epoch": 4, "maintenance": true});
        assert_eq!(answer(&[], &status), "pg2 is the primary, epoch 4, in maintenance");
        assert_eq!(answer(&["one".into(), "two".into()], &status), "one\ntwo");
    }
}
