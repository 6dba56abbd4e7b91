//! What a write costs in each mode: counted on the wire to the primary.

use pgpilot::app::App;
use pgpilot::wire::{HEADER_LEN, Header};

use super::connection::Connection;
use crate::support::plain::TRUST;
use crate::support::proxy::{Proxy, USER, servers, topology};
use crate::support::relay::{Relay, Tap};

const WRITES: usize = 20;
/// The request code of SSLRequest (protocol chapter, "Message Formats").
const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();

/// The types of the messages on connections of the application's user to the primary.
fn tags(relay: &Relay) -> Vec<String> {
    let user = format!("user\0{USER}\0");
    let ours = |bytes: &&Vec<u8>| bytes.windows(user.len()).take(64).any(|window| window == user.as_bytes());
    let mut all = Vec::new();
    for bytes in relay.sent().iter().filter(ours) {
        // SSLRequest and the start-up packet have a length and no type.
        let mut rest = &bytes[..];
        loop {
            let (length, ssl) = (u32::from_be_bytes(rest[..4].try_into().unwrap()), rest[4..8] == SSL_REQUEST);
            rest = &rest[usize::try_from(length).unwrap()..];
            if !ssl {
                break;
            }
        }
        let mut tags = String::new();
        while let Ok(Some(header)) = Header::peek(rest) {
            if rest.len() < header.frame_len().max(HEADER_LEN) {
                break;
            }
            tags.push(char::from(header.tag));
            rest = &rest[header.frame_len()..];
        }
        // A login with SCRAM.
        all.push(tags.trim_start_matches('p').to_owned());
    }
    all
}

/// What has been sent since.
fn since(before: &[String], relay: &Relay) -> String {
    let now = tags(relay);
    now.iter().enumerate().map(|(n, tags)| &tags[before.get(n).map_or(0, String::len)..]).collect()
}

/// What writes in other shapes than that of one statement in three messages cost: each is answered with one wait, and
/// BEGIN travels with what comes behind it.
async fn shapes_cost_no_more(client: &mut Connection, relay: &Relay, mode: &str) {
    const WRITE: &str = "UPDATE t SET n = n + 1";
    let before = tags(relay);
    for _ in 0..WRITES {
        client.query(WRITE).exchange().await.unwrap();
    }
    assert_eq!(since(&before, relay), "Q".repeat(WRITES), "{mode}: one Query each");
    client.query("BEGIN").exchange().await.unwrap();
    client.query(WRITE).query("COMMIT").exchange().await.unwrap();
    let before = tags(relay);
    for _ in 0..WRITES {
        for statement in ["BEGIN", WRITE, "COMMIT"] {
            client.query(statement).exchange().await.unwrap();
        }
    }
    assert_eq!(since(&before, relay), "BECQQ".repeat(WRITES), "{mode}: transactions, of three Queries");
    client.parse("begin", "BEGIN").sync().parse("commit", "COMMIT").sync().exchange().await.unwrap();
    for _ in 0..2 {
        client.execute("begin", &[]).execute("write", &[]).execute("commit", &[]).sync().exchange().await.unwrap();
    }
    let before = tags(relay);
    for _ in 0..WRITES {
        client.execute("begin", &[]).execute("write", &[]).execute("commit", &[]).sync().exchange().await.unwrap();
    }
    assert_eq!(since(&before, relay), "BEBEBES".repeat(WRITES), "{mode}: transactions, of one pipeline");
}

#[tokio::test]
async fn a_write_costs_no_message_more_in_any_mode() {
    let servers = std::sync::Arc::new(servers().await);
    let setup = servers.node("pg1").unwrap().connect_to("shop").await.unwrap();
    setup.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (0); ALTER TABLE t OWNER TO app").await.unwrap();
    for mode in ["eventual", "session", "strong"] {
        let relay = Relay::tapped(servers.node("pg1").unwrap().port(), Tap::On).await;
        let mut config = topology(&servers, &format!("[routing]\nconsistency = \"{mode}\"\n{TRUST}"));
        config.nodes[0].port = relay.port();
        let proxy = Proxy { app: App::start(config, None).await.unwrap(), servers: servers.clone() };
        proxy.wait_for_replicas(2).await;
        proxy.wait_for_read("SELECT n FROM t").await;
        let mut client = Connection::open(proxy.port()).await.unwrap();
        client.parse("write", "UPDATE t SET n = n + 1 RETURNING n").parse("read", "SELECT n FROM t").sync();
        client.exchange().await.unwrap();
        for _ in 0..WRITES {
            let replies = client.execute("write", &[]).sync().exchange().await.unwrap();
            assert_eq!(replies[0].error, None);
        }
        // One round trip each: Bind, Execute and Sync, and nothing before, between or behind them.
        let sent = tags(&relay);
        let writes: String = sent.iter().map(|tags| tags.trim_start_matches(['Q', 'P', 'S', 'p'])).collect();
        assert_eq!(writes, "BES".repeat(WRITES), "{mode}: {sent:?}");
        // With reads between them it stays so: what is there beside the writes are reads that ran on the primary.
        let before = proxy.counts().0;
        for _ in 0..WRITES {
            client.execute("write", &[]).sync().exchange().await.unwrap();
            client.execute("read", &[]).sync().exchange().await.unwrap();
        }
        let on_primary = usize::try_from(proxy.counts().0 - before).unwrap();
        let between = since(&sent, &relay);
        assert_eq!(between.replacen('P', "", 1), "BES".repeat(on_primary), "{mode}: the read is taught once");
        shapes_cost_no_more(&mut client, &relay, mode).await;
    }
}
