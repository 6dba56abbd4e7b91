//! What a file resolves to.

use std::time::Duration;

use super::super::*;
use super::{NODE, parse, warnings, with_node};

#[test]
fn defaults() {
    let config = parse(NODE).unwrap();
    assert_eq!(config.listen, [Listen::Tcp("127.0.0.1:6432".parse().unwrap())]);
    assert_eq!(config.metrics.listen, Some("127.0.0.1:9632".parse().unwrap()));
    assert_eq!((config.workers, config.drain_timeout), (None, Duration::from_secs(30)));
    assert_eq!(config.pool.mode, PoolMode::Transaction);
    assert_eq!(config.pool.max_server_connections, 50);
    assert_eq!(config.pool.checkout_timeout, Duration::from_secs(5));
    assert_eq!(config.routing.consistency, Consistency::Session);
    assert_eq!(config.routing.lag.max, Duration::from_secs(1));
    assert_eq!(config.routing.lag.recovery, Duration::from_millis(500));
    assert_eq!(config.routing.on_all_lagging, OnAllLagging::Primary);
    assert_eq!(config.routing.replica_wait, Duration::ZERO);
    assert_eq!(config.auth.rules.len(), 1);
    assert_eq!(
        (config.auth.rules[0].connection, config.auth.rules[0].method),
        (ConnectionKind::Any, AuthMethod::Scram)
    );
    assert_eq!(config.auth.query, None);
    assert_eq!(config.tls.mode, SslMode::Disable);
    assert_eq!(config.health.user, "pgpilot");
    let node = &config.nodes[0];
    assert_eq!((node.name.as_str(), node.host.as_str(), node.port, node.weight), ("pg1", "10.0.0.1", 5432, 1));
    assert_eq!(node.tls, ServerTls { mode: SslMode::Prefer, ca: None, certificate: None, key: None });
}

#[test]
fn a_file_with_most_of_it() {
    let text = "listen = [\"0.0.0.0:6432\", \"unix:/run/pgpilot\"]\nworkers = 0x10\n\
        nodes = [{ name = \"a\", host = \"h1\", zone = \"z\", weight = 0 }, { name = \"b\", host = \"h2\", port = 6432, tls = { mode = \"require\" } }]\n\
        metrics.listen = \"off\"\n\
        [server_tls]\nmode = \"verify-full\"\nca = \"Cargo.toml\"\n\
        [routing]\nconsistency = \"strong\"\nmax_lag = \"2s\"\nprimary_functions = [\"app.*\", \"f\"]\ncache = \"0B\"\n\
        [[auth.rules]]\nconnection = \"host\"\naddresses = [\"10.0.0.0/8\", \"::1\"]\nusers = [\"u\"]\ndatabases = [\"d\"]\nmethod = \"md5\"\n\
        [[users]]\nname = \"u\"\npassword = \"p\"\npool_mode = \"session\"\nconsistency = \"primary\"\nmax_server_connections = 3\n";
    let config = parse(text).unwrap();
    assert_eq!(config.listen[1], Listen::Unix("/run/pgpilot".into()));
    assert_eq!(config.socket_port(), 6432);
    assert_eq!((config.workers, config.metrics.listen), (Some(16), None));
    assert_eq!(config.nodes[0].tls.mode, SslMode::VerifyFull);
    assert_eq!(config.nodes[1].tls, ServerTls { mode: SslMode::Require, ..config.nodes[0].tls.clone() });
    assert_eq!(config.nodes[1].tls.ca, Some("Cargo.toml".into()));
    assert_eq!((config.nodes[0].zone.as_deref(), config.nodes[0].weight, config.nodes[1].port), (Some("z"), 0, 6432));
    assert_eq!(config.routing.lag.recovery, Duration::from_secs(1));
    assert_eq!(config.routing.primary_functions, ["app.*", "f"]);
    assert_eq!(config.routing.cache, ByteSize(0));
    let rule = &config.auth.rules[0];
    assert_eq!((rule.connection, rule.method), (ConnectionKind::Host, AuthMethod::Md5));
    assert_eq!(rule.addresses, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    assert_eq!(
        (rule.users.as_slice(), rule.databases.as_slice()),
        (["u".to_owned()].as_slice(), ["d".to_owned()].as_slice())
    );
    let user = &config.users[0];
    assert_eq!((user.pool_mode, user.consistency), (Some(PoolMode::Session), Some(Consistency::Primary)));
    assert_eq!((user.name.as_str(), user.max_server_connections), ("u", Some(3)));
}

#[test]
fn log_levels() {
    for level in ["off", "info", "warn,pgpilot=debug", "pgpilot::pool=trace"] {
        assert_eq!(parse(&with_node("", &format!("[log]\nlevel = '{level}'"))).unwrap().log.level, level);
    }
}

#[test]
fn what_a_reload_cannot_change() {
    let old = parse(NODE).unwrap();
    assert_eq!(old.changes_needing_restart(&old), Vec::<&str>::new());
    let new = parse(&with_node("", "[pool]\nmode = \"session\"\n[log]\nlevel = \"debug\"")).unwrap();
    assert_eq!(old.changes_needing_restart(&new), Vec::<&str>::new());
    let new = with_node(
        "listen = \"0.0.0.0:1\"\nworkers = 1",
        "[metrics]\nlisten = \"off\"\n[admin]\nsocket = \"/run/p\"\n[failover]\nstate_file = \"s\"",
    );
    let several = parse(&with_node("", "[coordination]\netcd = [\"http://e:1\"]")).unwrap();
    assert_eq!(old.changes_needing_restart(&several), ["coordination"]);
    assert_eq!(
        old.changes_needing_restart(&parse(&new).unwrap()),
        ["listen", "workers", "metrics.listen", "admin.socket", "failover.state_file"]
    );
}

#[test]
fn limits_of_lag_are_the_nodes_the_zones_and_everybodys() {
    let text = "[routing]\nmax_lag = \"2s\"\nlag_recovery = \"500ms\"\nmax_lag_bytes = \"1MiB\"\n\
        [[nodes]]\nname = \"a\"\nhost = \"h1\"\n\
        [[nodes]]\nname = \"b\"\nhost = \"h2\"\nzone = \"far\"\n\
        [[nodes]]\nname = \"c\"\nhost = \"h3\"\nzone = \"far\"\nmax_lag = \"1m\"\nlag_recovery_bytes = \"3MiB\"\n\
        [[nodes]]\nname = \"d\"\nhost = \"h4\"\nzone = \"near\"\nlag_recovery = \"1s\"\n\
        [[zones]]\nname = \"far\"\nmax_lag = \"10s\"\nmax_lag_bytes = \"4MiB\"\n";
    let config = parse(text).unwrap();
    let limits = |max, recovery, max_bytes: u64, recovery_bytes: u64| LagLimits {
        max: Duration::from_millis(max),
        recovery: Duration::from_millis(recovery),
        bytes: Some(ByteLimits { max: ByteSize(max_bytes << 10), recovery: ByteSize(recovery_bytes << 10) }),
    };
    let of_nodes: Vec<_> = config.nodes.iter().map(|node| node.lag).collect();
    assert_eq!(
        of_nodes,
        [
            limits(2_000, 500, 1024, 512),
            limits(10_000, 5_000, 4096, 2048),
            limits(60_000, 30_000, 4096, 3072),
            limits(2_000, 1_000, 1024, 512)
        ]
    );
    assert_eq!(config.zones, [Zone { name: "far".into(), lag: of_nodes[1] }]);
    assert_eq!(parse(&with_node("", "")).unwrap().nodes[0].lag, LagLimits::by_time(ms(1000), ms(500)));
    let unknown = parse(&with_node("", "[[zones]]\nname = \"b\"")).unwrap();
    assert_eq!(warnings(&unknown)[0], "6:8: zones.name: no node is in the zone \"b\"");
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
