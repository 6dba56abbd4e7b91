//! `pgpilot status`.

use std::time::Duration;

use serde_json::{Map, Value};

use super::arguments::{Output, StatusArguments};
use super::block_on;
use super::exit::{Exit, Failure};
use super::output::{self, Rows};
use super::remote::Console;
use crate::admin::FAILOVER_AT_A_GLANCE;

/// What is shown: title, command, and the columns that fit a terminal.
const SECTIONS: [(&str, &str, &[&str]); 6] = [
    ("service", "SHOW VERSION", &["version", "state", "primary", "epoch"]),
    (
        "nodes",
        "SHOW NODES",
        &[
            "node",
            "role",
            "state",
            "reads",
            "drained",
            "lag_ms",
            "lag_bytes",
            "lsn",
            "statements",
            "connections",
            "trouble",
        ],
    ),
    ("failover", "SHOW FAILOVER", FAILOVER_AT_A_GLANCE),
    ("instances", "SHOW INSTANCES", &["instance", "number", "standing", "this", "address", "acknowledged"]),
    ("pools", "SHOW POOLS", &["node", "user", "database", "idle", "leased", "connecting", "waiting"]),
    ("routes", "SHOW REASONS", &["route", "reason", "statements", "percent"]),
];

pub(super) fn run(arguments: &StatusArguments) -> Result<Exit, Failure> {
    block_on(async {
        let console = Console::connect(&arguments.remote).await?;
        if !arguments.watch {
            output::say(show(&console, arguments.output).await?);
            return Ok(Exit::Done);
        }
        watch(&console, arguments.output, arguments.interval).await
    })?
}

async fn watch(console: &Console, output: Output, interval: Duration) -> Result<Exit, Failure> {
    let mut ticks = tokio::time::interval(interval);
    output::clear_screen();
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Done),
            _ = ticks.tick() => {}
        }
        output::redraw(&show(console, output).await?);
    }
}

async fn show(console: &Console, output: Output) -> Result<String, Failure> {
    let mut sections: Vec<(&str, &[&str], Rows)> = Vec::new();
    for (title, command, columns) in SECTIONS {
        sections.push((title, columns, console.rows(command).await?));
    }
    Ok(match output {
        Output::Json => {
            let sections = sections.into_iter().map(|(title, _, rows)| (title.to_owned(), rows.to_json()));
            // One line a time, so that a program can read a watch line by line.
            Value::Object(sections.collect::<Map<_, _>>()).to_string()
        }
        Output::Text => {
            let tables = sections.iter().map(|(_, columns, rows)| rows.only(columns).to_table());
            tables.collect::<Vec<_>>().join("\n")
        }
    })
}
