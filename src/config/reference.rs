//! The sample topology file and the reference of its keys, made from the declarations.

use std::fmt::Write;

use super::section::{Absent, Count, Nested, Opt, Section, Written};
use super::written::Root;

/// A topology file with every key and its explanation, commented out at its default. Only the nodes have to be written.
pub fn sample() -> String {
    let mut out = String::new();
    explain(&mut out, Root::SECTION.doc);
    explain(
        &mut out,
        &["", " Every key stands below, commented out at its default or, where that is nothing, with an example."],
    );
    out.push('\n');
    options(&mut out, Root::SECTION.options, State::Live);
    sections(&mut out, "", Root::SECTION.sections, State::Live);
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// Whether a part of the sample counts, or is commented out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Live,
    Commented,
}

impl State {
    fn mark(self) -> &'static str {
        match self {
            State::Live => "",
            State::Commented => "#",
        }
    }
}

fn sections(out: &mut String, parent: &str, sections: &[Nested], parent_state: State) {
    for Nested { key, count, section } in sections {
        let path = join(parent, key);
        let state = match count {
            Count::Once | Count::Several => parent_state,
            Count::Optional | Count::Any => State::Commented,
        };
        let _ = writeln!(out, "# {:-<117}", "");
        explain(out, section.doc);
        let _ = writeln!(out, "{}{}\n", state.mark(), header(&path, *count));
        options(out, section.options, state);
        self::sections(out, &path, section.sections, state);
    }
}

fn options(out: &mut String, options: &[Opt], state: State) {
    for Opt { key, doc, absent, .. } in options {
        explain(out, doc);
        let _ = match absent {
            Absent::Default(default) => writeln!(out, "#{key} = {default}"),
            Absent::Unset { meaning, example } => writeln!(out, "# Default: {meaning}.\n#{key} = {example}"),
            Absent::Refused { example } => writeln!(out, "{}{key} = {example}", state.mark()),
        };
        out.push('\n');
    }
}

fn explain(out: &mut String, doc: &[&str]) {
    for line in doc {
        let _ = writeln!(out, "#{}", line.trim_end());
    }
}

/// Every section and key as a Markdown document.
pub fn reference() -> String {
    let mut out = "# The topology file\n\n".to_owned();
    section(&mut out, &Root::SECTION);
    subsections(&mut out, "", Root::SECTION.sections);
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn subsections(out: &mut String, parent: &str, sections: &[Nested]) {
    for Nested { key, count, section: inner } in sections {
        let path = join(parent, key);
        let often = match count {
            Count::Once => "",
            Count::Optional => " (optional)",
            Count::Any => " (any number)",
            Count::Several => " (at least one)",
        };
        let _ = writeln!(out, "## `{}`{often}\n", header(&path, *count));
        section(out, inner);
        subsections(out, &path, inner.sections);
    }
}

fn section(out: &mut String, section: &Section) {
    for line in section.doc {
        let _ = writeln!(out, "{}", line.trim());
    }
    out.push('\n');
    if section.options.is_empty() {
        return;
    }
    out.push_str("| key | value | default | |\n|---|---|---|---|\n");
    for Opt { key, doc, kind, absent } in section.options {
        let default = match absent {
            Absent::Default(default) => format!("`{default}`"),
            Absent::Unset { meaning, .. } => (*meaning).to_owned(),
            Absent::Refused { .. } => "required".to_owned(),
        };
        let text = doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        let cells = [format!("`{key}`"), kind().into_owned(), default, text].map(|cell| cell.replace('|', "\\|"));
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out.push('\n');
}

fn header(path: &str, count: Count) -> String {
    match count {
        Count::Once | Count::Optional => format!("[{path}]"),
        Count::Any | Count::Several => format!("[[{path}]]"),
    }
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}
