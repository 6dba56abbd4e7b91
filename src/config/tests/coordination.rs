//! `[coordination]`: defaults, and what does not go with it.

use std::time::Duration;

use super::super::{EtcdEndpoint, Scheme};
use super::{NODE, parse, problems, warnings, with_node};

const ETCD: &str = "[coordination]\netcd = [\"http://10.0.0.11:2379\", \"https://[fd00::12]:2379/\"]\n";

#[test]
fn defaults() {
    assert_eq!(parse(NODE).unwrap().coordination, None);
    let config = parse(&with_node("", &format!("[failover]\nautomatic = true\n{ETCD}"))).unwrap();
    let it = config.coordination.unwrap();
    let member = |scheme, host: &str| EtcdEndpoint { scheme, host: host.to_owned(), port: 2379 };
    assert_eq!(it.etcd, [member(Scheme::Http, "10.0.0.11"), member(Scheme::Https, "fd00::12")]);
    assert_eq!(it.etcd.iter().map(ToString::to_string).collect::<Vec<_>>()[1], "https://[fd00::12]:2379");
    assert_eq!((it.prefix.as_str(), it.lease), ("/pgpilot/", Duration::from_secs(5)));
    assert_eq!((it.name, it.advertise, it.user, it.password.is_none()), (None, None, None, true));
}

#[test]
fn what_it_refuses() {
    for (sections, expected) in [
        (
            format!("[failover]\nstate_file = \"s\"\n{ETCD}"),
            "6:14: failover.state_file is for an instance that is alone; with [coordination] the record is kept in etcd",
        ),
        (format!("{ETCD}lease = \"1s\""), "7:9: coordination.lease is 1s; etcd grants none below 2s"),
        (
            format!("{ETCD}user = \"u\""),
            "7:8: coordination has only one of user and password; expected both or neither",
        ),
        (
            format!("{ETCD}prefix = \"/p\""),
            "7:10: coordination.prefix: found \"/p\", expected text that ends with \"/\", as in \"/pgpilot/\"",
        ),
        (
            format!("{ETCD}advertise = \"10.0.0.1\""),
            "7:13: coordination.advertise: found \"10.0.0.1\", expected \"host:port\", as in \"10.0.0.21:6432\" or \
             \"[fd00::21]:6432\"",
        ),
        (
            "[coordination]\netcd = []".to_owned(),
            "6:8: coordination.etcd is empty; expected at least one member of an etcd cluster",
        ),
        (
            "[coordination]\netcd = [\"10.0.0.11:2379\"]".to_owned(),
            "6:9: coordination.etcd: found \"10.0.0.11:2379\", expected \"http://host:port\" or \"https://host:port\"",
        ),
    ] {
        assert_eq!(problems(&with_node("", &sections)), [expected], "{sections}");
    }
    assert!(problems(&with_node("", "[coordination]\nname = \"a\""))[0].contains("coordination.etcd is missing"));
}

#[test]
fn certificates_without_https_deserve_a_second_look() {
    let look = |url: &str| {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let text = format!(
            "[[nodes]]\nname = \"pg2\"\nhost = \"10.0.0.2\"\n[auth.query]\n\
             [coordination]\netcd = [\"{url}\"]\nca = \"{file}\"\n"
        );
        warnings(&parse(&with_node("", &text)).unwrap())
    };
    assert_eq!(look("https://etcd:2379"), Vec::<String>::new());
    assert!(look("http://etcd:2379")[0].contains("of no use"), "{:?}", look("http://etcd:2379"));
}
