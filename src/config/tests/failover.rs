//! `[failover]`: defaults, what it needs, and where its login comes from.

use std::path::Path;
use std::time::Duration;

use super::super::{ByteSize, Config, Secret};
use super::{NODE, parse, problems, warnings, with_node};

/// A second node, and who may log in, so that nothing else deserves a second look.
const REST: &str = "[[nodes]]\nname = \"pg2\"\nhost = \"10.0.0.2\"\n[auth.query]\n";

#[test]
fn defaults() {
    let config = parse(&with_node("", "[health]\nuser = \"h\"\npassword = \"x\"")).unwrap();
    let failover = &config.failover;
    assert!(!failover.automatic && !failover.require_fence);
    assert_eq!(failover.detect_after, Duration::from_secs(2));
    assert_eq!(failover.refused_after, Duration::from_millis(500));
    assert_eq!(failover.start_timeout, Duration::from_secs(60));
    assert_eq!(failover.min_interval, Duration::from_secs(60));
    assert_eq!(
        (failover.step_timeout, failover.switchover_timeout),
        (Duration::from_secs(10), Duration::from_secs(10))
    );
    assert_eq!((failover.max_data_loss, failover.hook_timeout), (ByteSize(0), Duration::from_secs(30)));
    assert_eq!((failover.user.as_str(), &failover.password), ("h", &config.health.password));
    assert_eq!(failover.password.as_ref().map(Secret::expose), Some("x"));
    assert_eq!(failover.state_file, None);
    assert_eq!(failover.commands().count(), 0);
    let node = &config.nodes[0];
    assert_eq!((node.priority, &node.replication_host, node.replication_port), (100, &None, None));
}

#[test]
fn all_of_it() {
    let text = format!(
        "{NODE}priority = 0\nreplication_host = \"10.1.0.1\"\nreplication_port = 5433\n{REST}\
         [failover]\nautomatic = true\nstate_file = \"state\"\nmax_data_loss = \"1MiB\"\nrequire_fence = true\n\
         user = \"f\"\npassword_env = \"P\"\nfence_command = [\"./fence\", \"-x\", \"./y\"]\npost_promote = [\"notify\"]\n"
    );
    let env = |name: &str| (name == "P").then(|| "geheim".to_owned());
    let config = Config::parse(&text, "/etc/pgpilot/t.toml", &env).unwrap();
    let failover = &config.failover;
    assert_eq!(failover.state_file.as_deref(), Some(Path::new("/etc/pgpilot/state")));
    let commands: Vec<_> = failover.commands().map(|(key, words)| (key, words.join(" "))).collect();
    assert_eq!(
        commands,
        [("fence_command", "/etc/pgpilot/./fence -x ./y".to_owned()), ("post_promote", "notify".to_owned())]
    );
    assert_eq!((failover.user.as_str(), failover.max_data_loss), ("f", ByteSize(1 << 20)));
    assert_eq!(failover.password.as_ref().map(Secret::expose), Some("geheim"));
    let node = &config.nodes[0];
    assert_eq!(
        (node.priority, node.replication_host.as_deref(), node.replication_port),
        (0, Some("10.1.0.1"), Some(5433))
    );
}

#[test]
fn what_it_needs() {
    for (sections, expected) in [
        (
            "[failover]\nautomatic = true",
            "6:13: failover.automatic needs failover.state_file or [coordination], to remember what was decided",
        ),
        (
            "[failover]\nrequire_fence = true",
            "6:17: failover.require_fence needs failover.fence_command, to fence with",
        ),
        ("[failover]\npassword = \"x\"", "6:12: failover has a password, but no user; expected both or neither"),
        (
            "[failover]\nuser = \"f\"\npassword = \"x\"\npassword_env = \"P\"",
            "8:16: failover: expected only one of password, password_env and password_file",
        ),
        (
            "[failover]\nfence_command = \"fence me\"",
            "6:17: failover.fence_command: found \"fence me\", expected a list in brackets, as in [..]",
        ),
        (
            "[failover]\ndetect_after = \"0\"",
            "6:16: failover.detect_after: found \"0\", expected a duration above zero with its unit, as in \"200ms\", \"5s\" or \"1m\"",
        ),
        ("[health]\ndetect_after = \"2s\"", "6:1: unknown key health.detect_after; it belongs to [failover]"),
        ("[failover]\npriority = 1", "6:1: unknown key failover.priority; it belongs to [nodes]"),
    ] {
        assert_eq!(problems(&with_node("", sections)), [expected], "{sections}");
    }
    assert_eq!(
        problems(&format!("{NODE}priority = -1\n")),
        ["4:12: nodes.priority: found -1, expected a whole number from 0 to 1000"]
    );
}

#[test]
fn what_deserves_a_second_look() {
    let look = |sections: &str| warnings(&parse(&with_node("", &format!("{REST}{sections}"))).unwrap());
    let automatic = "[failover]\nautomatic = true\nstate_file = \"s\"\n";
    assert_eq!(look(automatic), Vec::<String>::new());
    assert_eq!(
        look("[failover]\nrefused_after = \"3s\""),
        ["10:17: failover.refused_after is 3s, above failover.detect_after, 2s; a refusal says more than silence"]
    );
    assert_eq!(
        look(&format!("{automatic}[routing]\nprimary_wait = \"1s\"")),
        [
            "13:16: routing.primary_wait is 1s, and failover.detect_after 2s; statements fail before a new primary is there"
        ]
    );
    let one = parse(&with_node("", &format!("[auth.query]\n{automatic}"))).unwrap();
    assert_eq!(
        warnings(&one),
        ["7:13: failover.automatic: it takes two nodes with a priority above 0 for one to follow the other"]
    );
}
