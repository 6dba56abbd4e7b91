//! Each kind of problem: where it is found, and the words.

use super::{NODE, parse, problems, warnings, with_node};

/// The text of `with_node(top, sections)`, where `top` is line 1, the node lines 2 to 4, and sections begin on line 5.
#[track_caller]
fn one(top: &str, sections: &str, expected: &str) {
    assert_eq!(problems(&with_node(top, sections)), [expected], "{top:?} {sections:?}");
}

#[test]
fn values_of_each_kind() {
    one(
        r#"listen = "6432""#,
        "",
        r#"1:10: listen: found "6432", expected "address:port", as in "0.0.0.0:6432" or "[::]:6432", or "unix:/directory""#,
    );
    one(
        r#"listen = ["[::]:1", "unix:run"]"#,
        "",
        r#"1:21: listen: found "unix:run", expected "address:port", as in "0.0.0.0:6432" or "[::]:6432", or "unix:/directory"; a directory begins with '/'"#,
    );
    one(
        "listen = []",
        "",
        r#"1:10: listen: found an empty list, expected "address:port", as in "0.0.0.0:6432" or "[::]:6432", or "unix:/directory""#,
    );
    one("workers = 0", "", "1:11: workers: found 0, expected a whole number from 1 to 1024");
    one(r#"workers = "4""#, "", r#"1:11: workers: found "4", expected a whole number from 1 to 1024; without quotes"#);
    one("workers = 0x1_0000_0000", "", "1:11: workers: found 0x1_0000_0000, expected a whole number from 1 to 1024");
    one("workers = { a = 1 }", "", "1:11: workers: found a table, expected a whole number from 1 to 1024");
    one(
        "drain_timeout = 30",
        "",
        r#"1:17: drain_timeout: found 30, expected a duration above zero with its unit, as in "200ms", "5s" or "1m""#,
    );
    one(
        "",
        "[routing]\nreplica_wait = \"5 sec\"",
        r#"6:16: routing.replica_wait: found "5 sec", expected a duration with its unit, as in "200ms", "5s", "1m" or "0""#,
    );
    one(
        "",
        "[pool]\ncheckout_timeout = \"0\"",
        r#"6:20: pool.checkout_timeout: found "0", expected a duration above zero with its unit, as in "200ms", "5s" or "1m""#,
    );
    one(
        "",
        "[routing]\nmax_parse = \"64\"",
        r#"6:13: routing.max_parse: found "64", expected a size with its unit, as in "0B", "64KiB" or "1MB""#,
    );
    one(
        "",
        "[routing]\nconsistency = \"sesion\"",
        r#"6:15: routing.consistency: found "sesion", expected "eventual", "session", "strong" or "primary"; did you mean "session"?"#,
    );
    one("", "[routing]\nreads_on_primary = 1", "6:20: routing.reads_on_primary: found 1, expected true or false");
    one("", "[routing]\nzone = \"\"", "6:8: routing.zone: found \"\", expected text in quotes, not empty");
    one(
        "",
        "[routing]\nprimary_functions = \"f\"",
        "6:21: routing.primary_functions: found \"f\", expected a list in brackets, as in [..]",
    );
    one(
        "",
        "[metrics]\nlisten = false",
        r#"6:10: metrics.listen: found false, expected "address:port", as in "127.0.0.1:9632", or "off""#,
    );
    one(
        "",
        "[log]\nlevel = \"inof\"",
        r#"6:9: log.level: found "inof", expected a level ("off", "error", "warn", "info", "debug", "trace") or a filter, as in "info,pgpilot::pool=debug""#,
    );
    one(
        "",
        "[admin]\nsocket = \"run\"",
        "6:10: admin.socket: found \"run\", expected a directory in quotes, beginning with '/'; a directory begins with '/'",
    );
    one(
        "",
        "[auth.query]\nsql = \"SELECT 1\"",
        "6:7: auth.query.sql: found \"SELECT 1\", expected a query with the user's name as $1",
    );
    one(
        "",
        "[[auth.rules]]\nmethod = \"trust\"\nusers = [\"all\"]",
        "7:10: auth.rules.users: found \"all\", expected a name in quotes; to mean all of them, leave the key out",
    );
    one(
        "",
        "[[auth.rules]]\nmethod = \"trust\"\naddresses = [\"10/8\"]",
        r#"7:14: auth.rules.addresses: found "10/8", expected an address or a range of them, as in "10.0.0.0/8" or "::1""#,
    );
}

#[test]
fn hosts() {
    for (host, remark) in [
        ("10.0.0.1:5432", "; the port goes into `port`"),
        ("[::1]", "; an IPv6 address stands here without brackets"),
        ("a b", ""),
    ] {
        let text = format!("[[nodes]]\nname = 'a'\nhost = '{host}'\n");
        let expected = format!(
            "3:8: nodes.host: found '{host}', expected a host name, an address, or a directory with a Unix socket{remark}"
        );
        assert_eq!(problems(&text), [expected]);
    }
    for host in ["db-1.example.org", "::1", "/run/postgresql", "localhost", "bücher.example"] {
        let text = format!("[[nodes]]\nname = 'a'\nhost = '{host}'\n");
        assert_eq!(parse(&text).unwrap().nodes[0].host, host);
    }
}

#[test]
fn unknown_keys() {
    one("lisen = 1", "", "1:1: unknown key lisen; did you mean listen?");
    one(
        "",
        "[pool]\nmax-server-connection = 1",
        "6:1: unknown key pool.max-server-connection; did you mean max_server_connections?",
    );
    one("", "[pool]\nmax_lag = \"1s\"", "6:1: unknown key pool.max_lag; it belongs to [nodes], [zones] or [routing]");
    one(
        "max_server_connections = 5",
        "",
        "1:1: unknown key max_server_connections; it belongs to [users], [databases] or [pool]",
    );
    one("", "[metrics]\nqwertz = 1", "6:1: unknown key metrics.qwertz; expected one of listen");
    one("", "[rooting]\nmax_lag = \"1s\"", "5:2: unknown key rooting; did you mean routing?");
    one(
        "",
        "[nodes.tls]\nverify = true",
        "6:1: unknown key nodes.tls.verify; expected one of mode, ca, certificate, key",
    );
    one("pool.mod = \"session\"", "", "1:6: unknown key pool.mod; did you mean mode?");
}

#[test]
fn sections_of_the_wrong_shape() {
    assert_eq!(
        problems(&NODE.replace("[[nodes]]", "[nodes]")),
        ["1:1: nodes: found [nodes], expected sections [[nodes]]"]
    );
    one("", "[[pool]]\nmode = \"session\"", "5:1: pool: found [[pool]] or a list, expected the section [pool]");
    one("pool = 5", "", "1:8: pool: found integer, expected the section [pool]");
    one("users = [\"app\"]", "", "1:10: users: found string, expected sections [[users]]");
    one("users = \"app\"", "", "1:9: users: found string, expected sections [[users]]");
}

#[test]
fn what_is_missing() {
    assert_eq!(problems(""), ["1:1: [[nodes]] is missing; expected at least one"]);
    assert_eq!(problems("nodes = []"), ["1:1: [[nodes]] is missing; expected at least one"]);
    assert_eq!(
        problems("\n[[nodes]]\n"),
        [
            "2:1: nodes.name is missing; expected text, as in name = \"pg1\"",
            "2:1: nodes.host is missing; expected text, as in host = \"10.0.0.1\"",
        ]
    );
    one(
        "",
        "[[auth.rules]]",
        r#"5:1: auth.rules.method is missing; expected "trust" or "reject" or "scram-sha-256" or "md5" or "cert", as in method = "scram-sha-256""#,
    );
}

#[test]
fn contradictions_between_limits() {
    one(
        "",
        "[routing]\nlag_recovery = \"3s\"",
        "6:16: routing.lag_recovery is 3s, above routing.max_lag, 1s; a replica would come back before it left",
    );
    one(
        "",
        "max_lag = \"2s\"\nlag_recovery = \"2500ms\"",
        "6:16: nodes.lag_recovery is 2500ms, above nodes.max_lag, 2s; a replica would come back before it left",
    );
    one(
        "",
        "zone = \"b\"\nlag_recovery_bytes = \"2KiB\"\n[[zones]]\nname = \"b\"\nmax_lag_bytes = \"1KiB\"",
        "6:22: nodes.lag_recovery_bytes is 2KiB, above zones.max_lag_bytes, 1KiB; a replica would come back before it left",
    );
    one(
        "",
        "[routing]\nlag_recovery_bytes = \"2KiB\"",
        "6:22: routing.lag_recovery_bytes needs max_lag_bytes, there or in routing",
    );
    one(
        "",
        "max_lag_bytes = \"0B\"",
        "5:17: nodes.max_lag_bytes: found \"0B\", expected a size above zero with its unit, as in \"64KiB\" or \"16MiB\"",
    );
    one(
        "",
        "zone = \"b\"\n[[zones]]\nname = \"b\"\n[[zones]]\nname = \"b\"",
        "9:8: zones: the zone \"b\" is there twice",
    );
    one(
        "",
        "[pool]\nmax_server_connections = 5\nmin_idle = 6",
        "7:12: pool.min_idle is 6, above pool.max_server_connections, 5",
    );
    one(
        "",
        "[[users]]\nname = \"a\"\nmax_server_connections = 51",
        "7:26: users.max_server_connections is 51, above pool.max_server_connections, 50",
    );
    one(
        "",
        "[[databases]]\nname = \"a\"\nmax_server_connections = 51",
        "7:26: databases.max_server_connections is 51, above pool.max_server_connections, 50",
    );
    one(
        "",
        "[routing]\nprimary_functions = [\"f\"]\nreplica_functions = [\"g\", \"F\"]",
        "7:27: \"F\" is both in routing.primary_functions and in routing.replica_functions",
    );
}

#[test]
fn what_is_there_twice() {
    one("", "[[nodes]]\nname = \"pg1\"\nhost = \"10.0.0.2\"", "6:8: nodes: the name \"pg1\" is there twice");
    one(
        "",
        "[[nodes]]\nname = \"pg2\"\nhost = \"10.0.0.1\"\nport = 5432",
        "7:8: nodes: 10.0.0.1 port 5432 is there twice; expected each server once",
    );
    one("", "[[users]]\nname = \"a\"\n[[users]]\nname = \"a\"", "8:8: users: the user \"a\" is there twice");
    one(
        "",
        "[[databases]]\nname = \"a\"\n[[databases]]\nname = \"a\"",
        "8:8: databases: the database \"a\" is there twice",
    );
    one("listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "", "1:26: 127.0.0.1:1 is listened on twice");
    one(
        "listen = [\"127.0.0.1:1\", \"0.0.0.0:1\"]",
        "",
        "1:26: 0.0.0.0:1 is listened on already: 127.0.0.1:1 includes it, or the other way round",
    );
    one("listen = \"127.0.0.1:9632\"", "", "1:10: 127.0.0.1:9632 is listened on twice");
    one("", "[metrics]\nlisten = \"127.0.0.1:6432\"", "6:10: 127.0.0.1:6432 is listened on twice");
    one(
        "listen = \"unix:/run/p\"",
        "[admin]\nsocket = \"/run/p\"",
        "6:10: the directory /run/p is used for two sockets",
    );
    assert!(
        parse(&with_node("listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]", "")).is_ok(),
        "port 0 is a new one each time"
    );
    one("drain_timeout = \"1s\"\ndrain_timeout = \"2s\"", "", "2:1: not TOML: duplicate key");
}

#[test]
fn a_node_that_is_pgpilot_itself() {
    for (listen, host, port) in [
        ("127.0.0.1:6432", "127.0.0.1", 6432),
        ("127.0.0.1:6432", "localhost", 6432),
        ("0.0.0.0:5432", "127.0.0.1", 5432),
        ("unix:/run/p", "/run/p", 6432),
    ] {
        let text = format!("listen = '{listen}'\n[[nodes]]\nname = 'a'\nhost = '{host}'\nport = {port}\n");
        assert_eq!(problems(&text), [format!("4:8: nodes: {host} port {port} is where pgpilot itself listens")]);
    }
    assert!(parse("listen = '127.0.0.1:6432'\n[[nodes]]\nname = 'a'\nhost = 'localhost'\n").is_ok());
}

#[test]
fn tls() {
    one("", "[tls]\nmode = \"require\"", "6:8: tls.mode needs tls.certificate and tls.key");
    one("", "[tls]\ncertificate = \"Cargo.toml\"", "6:15: tls.certificate needs tls.key");
    one(
        "",
        "[tls]\nmode = \"verify-ca\"\ncertificate = \"Cargo.toml\"\nkey = \"Cargo.toml\"",
        "6:8: tls.mode needs tls.ca, to verify client certificates with",
    );
    one("", "[server_tls]\nkey = \"Cargo.toml\"", "6:7: server_tls.key needs server_tls.certificate");
    one(
        "",
        "[server_tls]\nmode = \"verify-ca\"",
        "6:8: server_tls.mode \"verify-ca\" needs server_tls.ca; \"verify-full\" can do without",
    );
    one(
        "",
        "[nodes.tls]\nmode = \"verify-ca\"",
        "6:8: nodes.tls.mode \"verify-ca\" needs nodes.tls.ca; \"verify-full\" can do without",
    );
    one(
        "",
        "[server_tls]\nca = \"missing.crt\"",
        "6:6: server_tls.ca: cannot read missing.crt: No such file or directory (os error 2)",
    );
    one("", "[server_tls]\nca = \"src\"", "6:6: server_tls.ca: cannot read src: not a plain file");
}

#[test]
fn who_may_do_what() {
    one(
        "",
        "[admin]\nusers = [\"root\"]",
        "6:10: admin: unknown user \"root\"; expected one of [[users]], or [auth.query] to look others up",
    );
    one(
        "",
        "[auth.query]\n[admin]\nusers = [\"a\"]\nreaders = [\"a\"]",
        "8:12: admin: \"a\" is both in admin.users and in admin.readers",
    );
    one(
        "",
        "[[databases]]\nname = \"pgpilot\"",
        "6:8: databases: \"pgpilot\" is the admin console; expected a database of the servers",
    );
    one(
        "",
        "[[auth.rules]]\nconnection = \"local\"\naddresses = [\"::1\"]\nmethod = \"trust\"",
        "7:13: auth.rules: a rule for \"local\" connections has no addresses",
    );
    assert_eq!(
        problems(&with_node("", "[[auth.rules]]\nmethod = \"cert\"")),
        [
            "6:10: auth.rules: method \"cert\" needs connection = \"hostssl\"",
            "6:10: auth.rules: method \"cert\" needs TLS with tls.ca"
        ]
    );
    assert!(parse(&with_node("", "[auth.query]\n[admin]\nusers = [\"root\"]")).is_ok());
    assert!(parse(&with_node("", "[[users]]\nname = \"root\"\npassword = \"x\"\n[admin]\nusers = [\"root\"]")).is_ok());
}

#[test]
fn everything_in_one_run() {
    let text = "lisen = \"::\"\nworkers = 0\ndrain_timeout = 5s\n[pool]\nmin_idle = 60\nmode = 'tx'\n[routing]\n\
                lag_recovery = '2s'\n[[nodes]]\nname = 'a b'\nhost = 'h'\n[[nodes]]\nname = 'b'\nhost = 'H'\nprot = 5\n";
    assert_eq!(
        problems(text),
        [
            "1:1: unknown key lisen; did you mean listen?",
            "2:11: workers: found 0, expected a whole number from 1 to 1024",
            "3:17: not TOML: string values must be quoted, expected literal string",
            "5:12: pool.min_idle is 60, above pool.max_server_connections, 50",
            "6:8: pool.mode: found 'tx', expected \"transaction\" or \"session\"",
            "8:16: routing.lag_recovery is 2s, above routing.max_lag, 1s; a replica would come back before it left",
            "10:8: nodes.name: found 'a b', expected 1 to 63 letters, digits, '_', '.' or '-', in quotes",
            "14:8: nodes: h port 5432 is there twice; expected each server once",
            "15:1: unknown key nodes.prot; did you mean port?",
        ]
    );
}

#[test]
fn a_refused_value_contradicts_nothing() {
    one(
        "",
        "[routing]\nmax_lag = \"x\"\nlag_recovery = \"5s\"",
        r#"6:11: routing.max_lag: found "x", expected a duration above zero with its unit, as in "200ms", "5s" or "1m""#,
    );
    one(
        "",
        "[tls]\nmode = \"require\"\ncertificate = 1\nkey = \"Cargo.toml\"",
        "7:15: tls.certificate: found 1, expected a path in quotes",
    );
    one(
        "listen = 1",
        "[metrics]\nlisten = \"127.0.0.1:6432\"",
        r#"1:10: listen: found 1, expected "address:port", as in "0.0.0.0:6432" or "[::]:6432", or "unix:/directory""#,
    );
    one(
        "",
        "[[users]]\nname = 1\n[admin]\nusers = [\"a\"]",
        "6:8: users.name: found 1, expected text in quotes, not empty",
    );
}

#[test]
fn columns_count_characters() {
    one("zähler = { ä = 1 }", "", "1:2: not TOML: invalid unquoted key, expected letters, numbers, `-`, `_`");
    assert_eq!(
        problems(&format!("\"ü\" = 1\n{NODE}zone = 'ä'; x = 1\n"))[0],
        "1:1: unknown key ü; expected one of listen, workers, drain_timeout, passfile, nodes, zones, server_tls, health, failover, coordination, auth, users, databases, routing, pool, clients, tls, admin, metrics, log"
    );
    assert_eq!(
        problems("nodes = [{ name = 'ääää', host = 1 }]")[1],
        "1:34: nodes.host: found 1, expected a host name, an address, or a directory with a Unix socket"
    );
}

#[test]
fn a_file_that_cannot_be_read() {
    let error = super::Config::load(std::path::Path::new("missing.toml")).unwrap_err();
    assert_eq!(error.to_string(), "missing.toml: cannot be read: No such file or directory (os error 2)");
    let error = super::Config::load(std::path::Path::new("src")).unwrap_err();
    assert_eq!(error.to_string(), "src: cannot be read: not a plain file");
}

#[test]
fn what_deserves_a_second_look() {
    let look = |sections: &str| warnings(&parse(&with_node("", sections)).unwrap());
    assert_eq!(look("[auth.query]"), Vec::<String>::new());
    let trust = |top: &str, rule: &str| {
        warnings(&parse(&with_node(top, &format!("[[auth.rules]]\nmethod = \"trust\"\n{rule}"))).unwrap())
    };
    let lets_in = ["6:10: auth.rules: \"trust\" lets anyone on the network in without a password"];
    assert_eq!(trust("listen = \"0.0.0.0:1\"", ""), lets_in);
    assert_eq!(trust("listen = \"0.0.0.0:1\"", "addresses = [\"127.0.0.1\", \"10.0.0.0/8\"]"), lets_in);
    assert_eq!(trust("listen = \"0.0.0.0:1\"", "addresses = [\"127.0.0.0/8\"]"), Vec::<String>::new());
    assert_eq!(trust("listen = \"0.0.0.0:1\"", "connection = \"local\""), Vec::<String>::new());
    assert_eq!(trust("", ""), Vec::<String>::new());
    assert_eq!(look(""), ["1:1: no client can log in: there are neither [[users]] with a password nor [auth.query]"]);
    assert_eq!(
        look("[[users]]\nname = \"a\""),
        ["6:8: users: \"a\" cannot log in: it has no password, and there is no [auth.query]"]
    );
    assert_eq!(look("[auth.query]\n[routing]\nzone = \"z\""), ["7:8: routing.zone: no node is in the zone \"z\""]);
    assert_eq!(
        look(
            "[auth.query]\n[[auth.rules]]\nmethod = \"scram-sha-256\"\n[[auth.rules]]\nconnection = \"hostssl\"\nmethod = \"md5\""
        ),
        [
            "9:14: auth.rules: a rule for \"hostssl\" never matches, as TLS is off",
            "10:10: auth.rules: never reached, as a rule above matches everything",
        ]
    );
}
