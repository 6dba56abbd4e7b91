//! What holds for any text.

use std::time::Duration;

use proptest::prelude::*;

use super::super::section::{Nested, Section, Written};
use super::super::written::Root;
use super::super::{ByteSize, parse_duration, show_duration};
use super::{parse, with_node};

/// Pieces of topology files in any order: they reach deeper than any text does.
fn shuffled() -> impl Strategy<Value = String> {
    fn go(path: &str, section: &Section, pieces: &mut Vec<String>) {
        pieces.extend(section.options.iter().map(|option| format!("{} = ", option.key)));
        for Nested { key, section, .. } in section.sections {
            let path = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
            pieces.extend([format!("\n[{path}]\n"), format!("\n[[{path}]]\n"), format!("{key} = ")]);
            go(&path, section, pieces);
        }
    }
    let mut pieces = Vec::new();
    go("", &Root::SECTION, &mut pieces);
    let values = [
        "1",
        "\"a\"",
        "'127.0.0.1:6432'",
        "[",
        "]",
        "{",
        "}",
        "\"5s\"",
        "true",
        "1.5",
        "\n",
        ",",
        "\"",
        "'''",
        "ä",
        "0x",
        ".",
        "2020-01-01",
        "\"require\"",
        "#",
    ];
    pieces.extend(values.map(|value| format!("{value}\n")));
    pieces.extend(values.map(str::to_owned));
    prop::collection::vec(prop::sample::select(pieces), 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s).{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_shuffled_file_panics(text in shuffled()) {
        if let Err(problems) = parse(&text) {
            prop_assert!(problems.iter().count() > 0);
            let lines = text.lines().count().max(1) + 1;
            prop_assert!(problems.iter().all(|p| p.at.is_none_or(|at| (1..=lines).contains(&at.line))));
        }
    }

    #[test]
    fn durations_are_read_as_they_are_shown(micros in prop_oneof![0..2_000_000_u64, 0..315_360_000_000_000_u64], whole in prop::sample::select(vec![1_u64, 1000, 1_000_000, 3_600_000_000])) {
        let duration = Duration::from_micros(micros / whole * whole);
        prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
    }

    #[test]
    fn sizes_are_read_as_they_are_shown(bytes: u64, shift in 0..64_u32) {
        let size = ByteSize(bytes >> shift << (shift / 2));
        prop_assert_eq!(size.to_string().parse(), Ok(size));
    }
}

#[test]
fn quantities() {
    for (text, micros) in [
        ("0", 0),
        ("0s", 0),
        ("1us", 1),
        ("200ms", 200_000),
        ("5 s", 5_000_000),
        ("1m", 60_000_000),
        ("1min", 60_000_000),
        ("2h", 7_200_000_000),
        ("1d", 86_400_000_000),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_micros(micros)), "{text}");
    }
    for text in [
        "",
        "5",
        "s",
        "-1s",
        "1.5s",
        "1S",
        "5  s",
        "5s ",
        "1m30s",
        "3651d",
        "18446744073709551616s",
        "99999999999999999999d",
        "+1s",
    ] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
    for (text, bytes) in [
        ("0B", 0),
        ("64KiB", 65_536),
        ("1MB", 1_000_000),
        ("1kB", 1000),
        ("1KB", 1000),
        ("2 GiB", 2 << 30),
        ("1TiB", 1 << 40),
    ] {
        assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
    }
    for text in ["", "0", "1", "B", "1b", "1mb", "1.5MB", "-1B", "16777216TiB"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
    for (shown, bytes) in [("0B", 0), ("64KiB", 65_536), ("1MB", 1_000_000), ("1GiB", 1 << 30), ("1001B", 1001)] {
        assert_eq!(ByteSize(bytes).to_string(), shown);
    }
    assert_eq!(show_duration(Duration::from_secs(90)), "90s");
    assert_eq!(show_duration(Duration::from_secs(120)), "2m");
}

#[test]
fn deep_nesting_is_refused() {
    assert!(parse(&with_node(&format!("listen = {}", "[".repeat(100_000)), "")).is_err());
}
