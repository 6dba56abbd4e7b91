//! What `[coordination]` needs, and what does not go with it.

use std::time::Duration;

use crate::config::problem::{Findings, Place};
use crate::config::resolved::Scheme;
use crate::config::units::show_duration;
use crate::config::written::Root;

/// etcd grants none that is shorter by default: one and a half times its `election-timeout` of a second, in whole seconds
/// (`minLeaseTTL` in its `server.go`).
const SHORTEST_LEASE: Duration = Duration::from_secs(2);

pub(super) fn check(root: &Root, findings: &mut Findings<'_>) {
    let Some(written) = &root.coordination else { return };
    let state_file = &root.failover.state_file;
    if state_file.value.is_some() {
        findings.contradiction(&[state_file.place], || {
            "failover.state_file is for an instance that is alone; with [coordination] the record is kept in etcd"
                .to_owned()
        });
    }
    let lease = written.lease.value.0;
    if lease < SHORTEST_LEASE {
        findings.contradiction(&[written.lease.place], || {
            let (lease, shortest) = (show_duration(lease), show_duration(SHORTEST_LEASE));
            format!("coordination.lease is {lease}; etcd grants none below {shortest}")
        });
    }
    let Some(etcd) = &written.etcd.value else { return };
    if etcd.0.is_empty() && written.etcd.place != Place::Refused {
        findings.contradiction(&[written.etcd.place], || {
            "coordination.etcd is empty; expected at least one member of an etcd cluster".to_owned()
        });
    }
    let secrets = [written.password.place, written.password_env.place, written.password_file.place];
    let password = secrets.into_iter().find(|place| *place != Place::Default);
    if written.user.value.is_some() != password.is_some() {
        findings.contradiction(&[password.unwrap_or(written.user.place), written.user.place], || {
            "coordination has only one of user and password; expected both or neither".to_owned()
        });
    }
    if written.certificate.value.is_some() != written.key.value.is_some() {
        findings.contradiction(&[written.certificate.place, written.key.place], || {
            "coordination has only one of certificate and key; expected both or neither".to_owned()
        });
    }
    let https = etcd.0.iter().any(|url| url.value.0.scheme == Scheme::Https);
    if !https && (written.ca.value.is_some() || written.certificate.value.is_some()) {
        let message = "coordination: ca, certificate and key are of no use: no member of etcd is reached by https";
        findings.warning(&[written.ca.place, written.certificate.place], message.to_owned());
    }
}
