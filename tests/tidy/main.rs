//! What the compiler does not check: the direction of dependencies, the purity of the layers that decide, sizes, and
//! what must not be in the repository.

mod source;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use source::{Source, repository, rust_files};

/// A module uses only modules that stand before it. The code map in `lib.rs` lists them in this order.
const ORDER: [&str; 14] = [
    "wire",
    "config",
    "decide",
    "telemetry",
    "net",
    "pool",
    "coordination",
    "cluster",
    "proxy",
    "admin",
    "demo",
    "app",
    "cli",
    "main",
];

/// The layers that know and decide. Their tests may do what they like.
const PURE: [&str; 3] = ["wire", "config", "decide"];

/// Time is an argument there, dice are an argument, and nothing waits.
const IMPURE: [&str; 13] = [
    "tokio",
    "async",
    "await",
    "Instant::now",
    "SystemTime",
    "rand",
    "fastrand",
    "getrandom",
    "Mutex",
    "RwLock",
    "OnceLock",
    "sleep",
    "spawn",
];

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
/// A test may be a table of cases.
const TEST_LINES: usize = 100;

/// Larger than [`FILE_LINES`]: tables, not code.
const TABLES: [&str; 0] = [];

/// Where the time of day is looked at: to be shown, or written down for people and for the next pgpilot. It may jump, so
/// nothing is waited for, or taken to be over, by it.
const CALENDARS: [&str; 4] =
    ["src/admin/page.rs", "src/admin/views/service.rs", "src/cluster/failover/mod.rs", "src/telemetry/journal.rs"];

/// Where tests wait for a condition: between two looks they sleep.
const WAITERS: [&str; 1] = ["src/net/testing.rs"];

/// Fails with all problems at once.
fn report(rule: &str, problems: &[String]) {
    let mut text = format!("{rule}:\n");
    problems.iter().for_each(|problem| writeln!(text, "  {problem}").expect("a string takes anything"));
    assert!(problems.is_empty(), "{text}");
}

#[test]
fn dependencies_point_backwards() {
    let rank = |module: &str| ORDER.iter().position(|&name| name == module);
    let mut problems = Vec::new();
    for file in rust_files("src") {
        let module = file.module();
        if module == "lib" {
            continue;
        }
        let Some(own) = rank(&module) else {
            problems.push(format!("{}: module {module} has no place in ORDER", file.name));
            continue;
        };
        for (line, used) in file.uses() {
            // What is not a module of the crate's top level is an item of `lib.rs`: there are none but modules.
            if rank(&used).is_none_or(|rank| rank > own) {
                problems.push(format!("{}:{line}: {module} uses {used}", file.name));
            }
        }
    }
    report("a module uses only those before it in ORDER", &problems);
}

#[test]
fn the_code_map_lists_every_module_in_order() {
    let lib = Source::read(&repository().join("src/lib.rs"));
    let mapped: Vec<&str> = lib
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("//! - [`")?.split_once("`]:").map(|(name, _)| name))
        .collect();
    let expected: Vec<&str> = ORDER.into_iter().filter(|name| mapped.contains(name)).collect();
    assert_eq!(mapped, expected, "the code map of lib.rs is not in ORDER");

    let declared = lib.code.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let missing: Vec<String> = declared.filter(|name| !mapped.contains(name)).map(str::to_owned).collect();
    report("modules that are not in the code map of lib.rs", &missing);
}

#[test]
fn what_decides_is_pure() {
    let mut problems = Vec::new();
    for file in rust_files("src").iter().filter(|file| PURE.contains(&file.module().as_str())) {
        for (number, line) in file.product_lines() {
            for word in IMPURE.iter().filter(|word| contains_word(line, word)) {
                problems.push(format!("{}:{number}: {word}", file.name));
            }
        }
    }
    report("wire, config and decide have no clock, no dice, no lock and do not wait", &problems);
}

#[test]
fn nothing_is_timed_by_the_time_of_day() {
    let mut problems = Vec::new();
    for file in rust_files("src").iter().filter(|file| !CALENDARS.contains(&file.name.as_str())) {
        for (number, line) in file.product_lines() {
            for word in ["SystemTime", "UNIX_EPOCH", "chrono"].iter().filter(|word| contains_word(line, word)) {
                problems.push(format!("{}:{number}: {word}", file.name));
            }
        }
    }
    report("the clock that may be set is looked at only where CALENDARS says", &problems);
}

#[test]
fn files_and_functions_are_short() {
    let mut problems = Vec::new();
    for file in all_rust() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES && !TABLES.contains(&file.name.as_str()) {
            problems.push(format!("{}: {lines} lines, {FILE_LINES} at most", file.name));
        }
        for (name, line, lines) in file.functions() {
            let most = if line < file.first_test_line { FUNCTION_LINES } else { TEST_LINES };
            if lines > most {
                problems.push(format!("{}:{line}: fn {name} has {lines} lines, {most} at most", file.name));
            }
        }
    }
    report("long ones are two", &problems);
}

#[test]
fn tests_wait_for_conditions() {
    let mut problems = Vec::new();
    for file in all_rust().iter().filter(|file| !WAITERS.contains(&file.name.as_str())) {
        for (number, _) in file.test_lines().into_iter().filter(|(_, line)| contains_word(line, "sleep")) {
            problems.push(format!("{}:{number}", file.name));
        }
    }
    report("tests do not sleep: they wait for a condition, with a limit", &problems);
}

#[test]
fn nothing_unfinished_and_no_path_of_one_machine() {
    // In two parts, or this file would be found.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let paths = [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "tmp/"), concat!("/", "home/")];
    let mut problems = Vec::new();
    for (name, text) in text_files() {
        for (number, line) in (1..).zip(text.lines()) {
            for word in words.iter().filter(|word| contains_word(line, word)) {
                problems.push(format!("{name}:{number}: {word}"));
            }
            for path in paths.iter().filter(|path| absolute(line, path)) {
                problems.push(format!("{name}:{number}: {path}"));
            }
        }
    }
    report("unfinished, or of one machine alone", &problems);
}

fn all_rust() -> Vec<Source> {
    let there = ["src", "tests", "benches"].into_iter().filter(|name| repository().join(name).is_dir());
    there.flat_map(rust_files).collect()
}

fn contains_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(part) && !line[at + word.len()..].chars().next().is_some_and(part)
    })
}

/// Whether the path stands at its beginning, not somewhere within a longer one.
fn absolute(line: &str, path: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || "_-.}*~".contains(c);
    line.match_indices(path).any(|(at, _)| !line[..at].chars().next_back().is_some_and(part))
}

/// What is written by hand: name and text.
fn text_files() -> Vec<(String, String)> {
    let skipped = |name: &str| matches!(name, "target" | ".git" | "Cargo.lock" | "node_modules" | "fuzz-corpus");
    let mut found = Vec::new();
    let mut todo = vec![repository().to_owned()];
    while let Some(path) = todo.pop() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if skipped(&name) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).expect("a directory").flatten().map(|entry| entry.path()));
        } else if let Ok(text) = fs::read_to_string(&path) {
            found.push((relative(&path), text));
        }
    }
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap_or(path).to_string_lossy().into_owned()
}
