//! What `[failover]` promises and the rest of the file does not allow.

use crate::config::problem::Findings;
use crate::config::resolved::Config;
use crate::config::units::show_duration;
use crate::config::written::Root;

pub(super) fn check(root: &Root, config: &Config, findings: &mut Findings<'_>) {
    let written = &root.failover;
    let automatic = written.automatic.value;
    if automatic && written.state_file.value.is_none() && root.coordination.is_none() {
        findings.contradiction(&[written.automatic.place, written.state_file.place], || {
            "failover.automatic needs failover.state_file or [coordination], to remember what was decided".to_owned()
        });
    }
    if written.require_fence.value && written.fence_command.value.0.is_empty() {
        findings.contradiction(&[written.require_fence.place, written.fence_command.place], || {
            "failover.require_fence needs failover.fence_command, to fence with".to_owned()
        });
    }
    if automatic && config.nodes.iter().filter(|node| node.priority > 0).count() < 2 {
        let message = "failover.automatic: it takes two nodes with a priority above 0 for one to follow the other";
        findings.warning(&[written.automatic.place], message.to_owned());
    }
    durations(root, config, findings);
}

fn durations(root: &Root, config: &Config, findings: &mut Findings<'_>) {
    let (written, failover) = (&root.failover, &config.failover);
    if failover.refused_after > failover.detect_after {
        let (refused, silent) = (show_duration(failover.refused_after), show_duration(failover.detect_after));
        let message = format!(
            "failover.refused_after is {refused}, above failover.detect_after, {silent}; a refusal says more than silence"
        );
        findings.warning(&[written.refused_after.place, written.detect_after.place], message);
    }
    let wait = config.routing.primary_wait;
    if failover.automatic && wait <= failover.detect_after {
        let (wait, detect) = (show_duration(wait), show_duration(failover.detect_after));
        let message = format!(
            "routing.primary_wait is {wait}, and failover.detect_after {detect}; statements fail before a new primary is there"
        );
        findings.warning(&[root.routing.primary_wait.place, written.detect_after.place], message);
    }
}
