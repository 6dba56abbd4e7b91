//! Limits of lag under which a replica would come back before it left.

use std::time::Duration;

use crate::config::problem::{Findings, Place};
use crate::config::units::{ByteSize, show_duration};
use crate::config::value::At;
use crate::config::written::Root;

/// What one section says of lag, and where.
struct Keys {
    section: &'static str,
    max: Option<(Duration, Place)>,
    recovery: Option<(Duration, Place)>,
    max_bytes: Option<(ByteSize, Place)>,
    recovery_bytes: Option<(ByteSize, Place)>,
}

macro_rules! keys {
    ($section:literal, $written:expr) => {
        Keys {
            section: $section,
            max: placed(&$written.max_lag, |max| max.0),
            recovery: placed(&$written.lag_recovery, |recovery| recovery.0),
            max_bytes: placed(&$written.max_lag_bytes, |max| max.0),
            recovery_bytes: placed(&$written.lag_recovery_bytes, |recovery| *recovery),
        }
    };
}

fn placed<T, V>(at: &At<Option<T>>, value: impl FnOnce(&T) -> V) -> Option<(V, Place)> {
    at.value.as_ref().map(|written| (value(written), at.place))
}

pub(super) fn check(root: &Root, findings: &mut Findings<'_>) {
    let written = &root.routing;
    let routing = || Keys {
        section: "routing",
        max: Some((written.max_lag.value.0, written.max_lag.place)),
        recovery: placed(&written.lag_recovery, |recovery| recovery.0),
        max_bytes: placed(&written.max_lag_bytes, |max| max.0),
        recovery_bytes: placed(&written.lag_recovery_bytes, |recovery| *recovery),
    };
    judge(&[routing()], findings);
    for zone in &root.zones {
        judge(&[keys!("zones", zone), routing()], findings);
    }
    for node in &root.nodes.0 {
        let is_its_own = |name: &Option<String>| name.is_some() && *name == node.zone.value;
        let zone = root.zones.iter().find(|zone| is_its_own(&zone.name.value)).map(|zone| keys!("zones", zone));
        let sections: Vec<_> = std::iter::once(keys!("nodes", node)).chain(zone).chain([routing()]).collect();
        judge(&sections, findings);
    }
}

/// `sections`: the one to judge, and those in which it finds what it does not say itself, the nearest first.
fn judge(sections: &[Keys], findings: &mut Findings<'_>) {
    let own = &sections[0];
    let time = sections.iter().find_map(|keys| Some((keys.section, keys.max?)));
    let bytes = sections.iter().find_map(|keys| Some((keys.section, keys.max_bytes?)));
    let why = "a replica would come back before it left";
    if let (Some((recovery, place)), Some((section, (max, limit)))) = (own.recovery, time)
        && recovery > max
    {
        findings.contradiction(&[place, limit], || {
            let (recovery, max) = (show_duration(recovery), show_duration(max));
            format!("{}.lag_recovery is {recovery}, above {section}.max_lag, {max}; {why}", own.section)
        });
    }
    let Some((recovery, place)) = own.recovery_bytes else { return };
    match bytes {
        Some((section, (max, limit))) if recovery > max => findings.contradiction(&[place, limit], || {
            format!("{}.lag_recovery_bytes is {recovery}, above {section}.max_lag_bytes, {max}; {why}", own.section)
        }),
        Some(_) => {}
        None => findings.contradiction(&[place], || {
            format!("{}.lag_recovery_bytes needs max_lag_bytes, there or in routing", own.section)
        }),
    }
}
