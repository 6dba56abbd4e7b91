//! SHOW EVENTS, SHOW VERSION, SHOW HELP.

use std::time::SystemTime;

use crate::admin::command::COMMANDS;
use crate::admin::sources::Sources;
use crate::admin::table::{Column, Value, integer, text};
use crate::telemetry::Entry;

pub(super) const EVENTS: &[Column] = &[integer("number"), text("at"), text("topic"), text("node"), text("event")];

pub(super) fn events(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let row = |Entry { number, at, topic, node, text }: Entry| {
        vec![number.into(), utc(at).into(), topic.label().into(), node.into(), text.into()]
    };
    sources.journal().entries().into_iter().map(row).collect()
}

pub(super) const VERSION: &[Column] = &[text("version"), text("state"), integer("epoch"), text("primary")];

pub(super) fn version(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let snapshot = sources.snapshot();
    vec![vec![
        concat!("pgpilot ", env!("CARGO_PKG_VERSION")).into(),
        sources.service().label().into(),
        snapshot.epoch.into(),
        snapshot.primary.map(|node| super::node_name(&snapshot, node)).into(),
    ]]
}

pub(super) const HELP: &[Column] = &[text("command"), text("purpose")];

pub(super) fn help() -> Vec<Vec<Value>> {
    COMMANDS.iter().map(|(syntax, purpose)| vec![(*syntax).into(), (*purpose).into()]).collect()
}

/// RFC 3339, in UTC, with milliseconds.
pub(in crate::admin) fn utc(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// Year, month, day from days since 1970-01-01: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_shown_as_rfc_3339() {
        let at = |millis| utc(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_251_200_000), "2024-03-01T00:00:00.000Z");
        assert_eq!(at(1_798_761_599_001), "2026-12-31T23:59:59.001Z");
    }
}
