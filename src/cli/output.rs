//! Results for people and for programs.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value};

use super::arguments::Output;

/// Rows with named columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rows {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<Value>>,
}

/// Prints a text to standard output. Nobody reading it any more is no error.
pub(super) fn say(text: impl AsRef<str>) {
    let text = text.as_ref().trim_end();
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Prints a line to standard error.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "pgpilot: {}", text.trim_end());
}

/// Prints a line to standard error that is no complaint.
pub(super) fn progress(text: &str) {
    // A terminal must not be told what to do by the name of anything.
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Clears the screen and prints a text at its top; just the text if standard output is no terminal.
pub(super) fn redraw(text: &str) {
    let mut out = io::stdout().lock();
    // Erased line by line and then down to the end: no flicker.
    let text = if out.is_terminal() {
        format!("\x1b[H{}\x1b[J", text.trim_end().replace('\n', "\x1b[K\n") + "\x1b[K\n")
    } else {
        format!("{}\n", text.trim_end())
    };
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints a text over the one before it, which had `lines` lines, and counts its own. For a terminal.
pub(super) fn replace(text: &str, lines: &mut usize) {
    let up = if *lines > 0 { format!("\x1b[{lines}A") } else { String::new() };
    let text = text.trim_end();
    *lines = text.lines().count();
    let mut out = io::stdout().lock();
    let erased = text.replace('\n', "\x1b[K\n");
    let _ = write!(out, "{up}\r{erased}\x1b[K\n\x1b[J").and_then(|()| out.flush());
}

/// To be called before the first [`redraw`].
pub(super) fn clear_screen() {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        let _ = out.write_all(b"\x1b[2J");
    }
}

impl Rows {
    pub(super) fn show(&self, output: Output) -> String {
        match output {
            Output::Text => self.to_table(),
            Output::Json => format!("{:#}", self.to_json()),
        }
    }

    /// One object a row.
    pub(super) fn to_json(&self) -> Value {
        let object = |row: &Vec<Value>| self.columns.iter().cloned().zip(row.iter().cloned()).collect::<Map<_, _>>();
        self.rows.iter().map(|row| Value::Object(object(row))).collect()
    }

    pub(super) fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.columns.iter().map(|name| name.replace('_', " ")));
        for row in &self.rows {
            table.add_row(row.iter().map(cell));
        }
        for (number, column) in table.column_iter_mut().enumerate() {
            if self.rows.iter().any(|row| row[number].is_number()) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }

    /// The columns named, in that order; one that is not there is left out.
    #[must_use]
    pub(super) fn only(&self, names: &[&str]) -> Self {
        let index: Vec<usize> =
            names.iter().filter_map(|name| self.columns.iter().position(|column| column == name)).collect();
        Self {
            columns: index.iter().map(|column| self.columns[*column].clone()).collect(),
            rows: self.rows.iter().map(|row| index.iter().map(|column| row[*column].clone()).collect()).collect(),
        }
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        // A terminal must not be told what to do by a client's application name.
        Value::String(text) => text.chars().filter(|c| !c.is_control() || *c == '\n').collect(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows() -> Rows {
        let columns = ["node", "lag_ms", "reads", "trouble"].map(str::to_owned).to_vec();
        Rows { columns, rows: vec![vec![json!("pg\x1b[2J1"), json!(1.5), json!(true), Value::Null]] }
    }

    #[test]
    fn the_same_rows_for_people_and_for_programs() {
        let table = rows().show(Output::Text);
        assert!(table.contains("lag ms") && table.contains("yes") && !table.contains('\x1b'), "{table}");
        let parsed: Value = serde_json::from_str(&rows().show(Output::Json)).unwrap();
        assert_eq!(parsed, json!([{"node": "pg\x1b[2J1", "lag_ms": 1.5, "reads": true, "trouble": null}]));
        assert_eq!(rows().only(&["reads", "nonsense", "node"]).columns, ["reads", "node"]);
    }
}
