//! RESET and its relatives go back to what the client's start-up packet said, and the client is told so before it may go on.

use pgpilot::wire::startup::PROTOCOL_3_0;

use super::play::{Delivery, SHOP, play_on};
use super::script::{Step, segments};
use crate::support::proxy::{Proxy, USER};
use crate::support::raw::Raw;

/// One a line, as in `scripts.txt`; each with its own wait.
const STEPS: [&str; 28] = [
    "query SHOW client_encoding",
    "query RESET ALL",
    "query SET client_encoding = 'UTF8'; SET work_mem = '5MB'",
    "query RESET client_encoding",
    "query SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET application_name = 'another'",
    "query DISCARD ALL",
    "query SHOW DateStyle",
    "query SET TIME ZONE 'UTC'",
    "query /* pgpilot: primary */ SHOW TimeZone",
    "query SET TIME ZONE DEFAULT",
    "query SET NAMES 'UTF8'",
    "query SET NAMES DEFAULT",
    "query SET client_encoding TO DEFAULT",
    "query RESET ALL; SET client_encoding = 'UTF8'",
    "query SELECT 1",
    "parse - RESET ALL\nbind - -\nexecute -\nsync",
    "query BEGIN",
    "query SET LOCAL TimeZone = 'UTC'",
    "query SET LOCAL TimeZone TO DEFAULT",
    "query SHOW TimeZone",
    "query SET client_encoding = 'UTF8'; RESET client_encoding; SET DateStyle = 'ISO'",
    "query RESET nothing",
    "query ROLLBACK",
    "query BEGIN; SET client_encoding = 'UTF8'; RESET client_encoding",
    "parse - RESET DateStyle\nbind - -\nexecute -\nsync",
    "query COMMIT",
    "query CREATE TEMP TABLE pins (n int); SET client_encoding = 'UTF8'; RESET ALL",
    "query DISCARD ALL",
];

#[tokio::test]
async fn a_reset_is_told_as_the_server_tells_it() {
    let proxy = Proxy::shared("").await;
    let began = [
        ("user", USER),
        ("database", SHOP),
        ("application_name", "raw"),
        ("client_encoding", "LATIN1"),
        ("TimeZone", "Asia/Kolkata"),
        ("options", "-c datestyle=German"),
    ];
    let connect = |port| Raw::connect_with(port, PROTOCOL_3_0, &began);
    let mut direct = connect(proxy.node("pg1").port()).await.expect("the server lets it in");
    let mut proxied = connect(proxy.port()).await.expect("pgpilot lets it in");
    for text in STEPS {
        let text = format!("{text}\nready");
        let steps: Vec<Step> = text.lines().map(|line| line.parse().expect("a step")).collect();
        let segments = segments(&steps);
        let [mut expected, mut found] = [
            play_on(&mut direct, &segments, Delivery::Whole).await,
            play_on(&mut proxied, &segments, Delivery::Whole).await,
        ];
        assert_eq!(expected.last(), found.last(), "{text}");
        // Servers tell of several parameters in any order.
        expected.sort();
        found.sort();
        assert_eq!(expected, found, "{text}");
    }
}
