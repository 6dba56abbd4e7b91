//! Whether a lost primary is missed soon enough.

use std::time::Duration;

use super::{Findings, Grade};
use crate::config::Config;
use crate::decide::failover::Pace;

/// What `pgpilot check` holds to be soon enough.
const KILLED: Duration = Duration::from_millis(1500);
const FROZEN: Duration = Duration::from_secs(4);

const ABOUT: &str = "failover";

/// `receivers`: the `wal_receiver_timeout` of every node that may be a replica.
pub(super) fn check(config: &Config, receivers: Vec<Duration>, findings: &mut Findings) {
    let (health, failover) = (&config.health, &config.failover);
    let pace = Pace {
        interval: health.interval,
        timeout: health.timeout,
        refused_after: failover.refused_after,
        detect_after: failover.detect_after,
        receivers,
    };
    let seconds = |duration: Duration| format!("{:.1} s", duration.as_secs_f64());
    let (killed, frozen) = (pace.killed(), pace.frozen());
    if killed <= KILLED && frozen.is_some_and(|frozen| frozen <= FROZEN) {
        let frozen = frozen.map(seconds).unwrap_or_default();
        let text = format!("a killed primary is missed after {}, a frozen one after {frozen}", seconds(killed));
        return findings.add(Grade::Good, ABOUT, text);
    }
    if killed > KILLED {
        let (killed, limit) = (seconds(killed), seconds(KILLED));
        let text = format!("a killed primary is missed after {killed}, {limit} is good: failover.refused_after");
        findings.add(Grade::Warning, ABOUT, text);
    }
    let text = match (frozen, pace.last_heard()) {
        (Some(frozen), _) if frozen <= FROZEN => return,
        (Some(frozen), Some(heard)) => format!(
            "a frozen primary is missed after {}, {} is good: health.interval + health.timeout + failover.detect_after \
             are {}, and by wal_receiver_timeout its replicas believe in it for {}",
            seconds(frozen),
            seconds(FROZEN),
            seconds(pace.lost_patience()),
            seconds(heard)
        ),
        _ => {
            "a frozen primary is never missed: a replica whose wal_receiver_timeout is 0 believes in it for ever".into()
        }
    };
    findings.add(Grade::Warning, ABOUT, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "[[nodes]]\nname = \"pg1\"\nhost = \"h\"\n[[nodes]]\nname = \"pg2\"\nhost = \"h\"\nport = 2\n";

    fn found(settings: &str, receivers: &[u64]) -> Vec<(Grade, String)> {
        let config = Config::parse(&format!("{NODES}{settings}"), "f", &|_| None).unwrap();
        let mut findings = Findings::default();
        check(&config, receivers.iter().copied().map(Duration::from_millis).collect(), &mut findings);
        findings.0.into_iter().map(|it| (it.grade, it.text)).collect()
    }

    #[test]
    fn the_parts_are_added_up() {
        let good = found("", &[4000, 4000]);
        let text = "a killed primary is missed after 0.6 s, a frozen one after 3.6 s";
        assert_eq!(good, [(Grade::Good, text.to_owned())]);
        for (settings, receivers, word) in [
            ("[failover]\nrefused_after = \"1500ms\"\n", [4000, 4000], "killed primary is missed after 1.6 s"),
            ("[failover]\ndetect_after = \"3s\"\n", [4000, 4000], "frozen primary is missed after 4.6 s"),
            ("[health]\ninterval = \"1s\"\n", [4000, 4000], "frozen primary is missed after 4.1 s"),
            ("[health]\ntimeout = \"2s\"\n", [4000, 4000], "timeout + failover.detect_after are 4.5 s"),
            ("", [4000, 8000], "frozen primary is missed after 4.4 s"),
            ("", [60_000, 4000], "believe in it for 30.3 s"),
            ("", [4000, 0], "never missed"),
        ] {
            let found = found(settings, &receivers);
            assert!(found.len() == 1 && found[0].0 == Grade::Warning && found[0].1.contains(word), "{word}: {found:?}");
        }
    }
}
