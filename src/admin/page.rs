//! The status page: one HTML document without scripts, which the browser loads again every two seconds.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::readiness::{Readiness, readiness};
use super::sources::Sources;
use super::table::{Table, Value};
use super::views::{FAILOVER_AT_A_GLANCE, View, utc};
use crate::decide::failover::Maintenance;

/// Nothing is loaded from anywhere, and nobody may frame it.
pub(super) const SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>pgpilot</title>
<style>
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: 0; opacity: .75; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left; white-space: nowrap; }
th { font-weight: 600; opacity: .75; } td.n { text-align: right; }
.good { color: #1a7f37; } .bad { color: #d1242f; font-weight: 600; }
</style></head><body>
"#;

/// Which columns of a view are worth the room.
const SECTIONS: &[(&str, View, &[&str])] = &[
    (
        "Nodes",
        View::Nodes,
        &[
            "node",
            "address",
            "role",
            "state",
            "reads",
            "drained",
            "lag_ms",
            "lag_bytes",
            "lsn",
            "statements",
            "outstanding",
            "connections",
            "trouble",
        ],
    ),
    ("Failover", View::Failover, FAILOVER_AT_A_GLANCE),
    ("Instances", View::Instances, &["instance", "standing", "this", "address", "acknowledged"]),
    ("Where statements go", View::Routes, &["route", "reason", "statements", "percent"]),
    ("Pools", View::Pools, &["node", "user", "database", "idle", "leased", "connecting", "waiting"]),
];

/// States of a node, and of the failover, that somebody should look at.
const NOT_WELL: [&str; 4] = ["unknown", "suspect", "down", "quarantined"];

/// The last events that are shown.
const EVENTS: usize = 12;

pub(super) fn page(sources: &dyn Sources) -> String {
    let snapshot = sources.snapshot();
    let mut page = HEAD.to_owned();
    let (class, ready) = match readiness(sources) {
        Readiness::Ready => ("good", "ready".to_owned()),
        Readiness::NotReady(why) => ("bad", format!("not ready: {why}")),
    };
    let _ = write!(
        page,
        "<h1>pgpilot <span class=\"{class}\">{}</span></h1><p>{}{}, {} clients, epoch {}, version {}, {}</p>",
        escaped(&ready),
        sources.service().label(),
        if sources.failover().maintenance == Maintenance::On { ", in maintenance" } else { "" },
        sources.clients().len(),
        snapshot.epoch,
        env!("CARGO_PKG_VERSION"),
        utc(SystemTime::now()),
    );
    for (title, view, columns) in SECTIONS {
        section(&mut page, title, &view.table(sources), columns);
    }
    let mut events = View::Events.table(sources);
    events.rows.reverse();
    events.rows.truncate(EVENTS);
    section(&mut page, "Events", &events, &["at", "topic", "node", "event"]);
    page.push_str("</body></html>\n");
    page
}

fn section(page: &mut String, title: &str, table: &Table, columns: &[&str]) {
    let shown: Vec<usize> =
        columns.iter().filter_map(|name| table.columns.iter().position(|column| column.name == *name)).collect();
    let _ = write!(page, "<h2>{title}</h2>");
    if table.rows.is_empty() {
        page.push_str("<p>none</p>");
        return;
    }
    page.push_str("<div class=\"scroll\"><table><thead><tr>");
    for column in &shown {
        let _ = write!(page, "<th>{}</th>", table.columns[*column].name.replace('_', " "));
    }
    page.push_str("</tr></thead><tbody>");
    for row in &table.rows {
        page.push_str("<tr>");
        shown.iter().for_each(|column| cell(page, table.columns[*column].name, &row[*column]));
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>");
}

fn cell(page: &mut String, column: &str, value: &Value) {
    let _ = match (column, value) {
        (_, Value::Null) => write!(page, "<td></td>"),
        (_, Value::Flag(flag)) => write!(page, "<td>{}</td>", if *flag { "yes" } else { "no" }),
        (_, Value::Integer(_) | Value::Number(_)) => {
            write!(page, "<td class=\"n\">{}</td>", value.to_text().unwrap_or_default())
        }
        ("state", Value::Text(state)) if state == "up" => write!(page, "<td class=\"good\">up</td>"),
        ("state", Value::Text(state)) if NOT_WELL.contains(&state.as_str()) => {
            write!(page, "<td class=\"bad\">{state}</td>")
        }
        (_, Value::Text(text)) => write!(page, "<td>{}</td>", escaped(text)),
    };
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
