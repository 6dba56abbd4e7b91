//! A cancel request that arrives at another instance than the one that it means.

use bytes::BytesMut;
use pgpilot::wire::backend::READY_FOR_QUERY;
use pgpilot::wire::frontend::put_query;
use pgpilot::wire::startup::{PROTOCOL_3_0, PROTOCOL_3_2, Via, put_cancel_via};

use super::{servers, two};
use crate::support::etcd::Etcd;
use crate::support::proxy::USER;
use crate::support::raw::Raw;
use crate::support::{LIMIT, wait_for};

const LONG: &str = "SELECT pg_sleep(600)";

/// Sends the request and waits until it has been dealt with.
async fn cancel(port: u16, client: &Raw, key: &[u8], via: Via) {
    let mut packet = BytesMut::new();
    put_cancel_via(&mut packet, client.pid, key, via);
    let mut connection = Raw::open(port).await;
    connection.send(&packet).await;
    assert!(connection.rest_of_bytes().await.is_empty(), "a cancel request has no answer");
}

#[tokio::test]
async fn a_request_is_passed_on_to_the_instance_that_it_means() {
    let (servers, etcd) = (servers().await, Etcd::start().await);
    let (a, b) = two(&servers, &etcd).await;
    let running = async || {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '{LONG}'");
        let mut count = 0;
        for node in servers.nodes() {
            count += node.value(&sql).await.unwrap().unwrap().parse::<u32>().unwrap();
        }
        count
    };
    for version in [PROTOCOL_3_0, PROTOCOL_3_2] {
        let parameters = [("user", USER), ("database", "shop")];
        let mut client = Raw::connect_with(a.port(), version, &parameters).await.unwrap();
        let mut message = BytesMut::new();
        put_query(&mut message, LONG.as_bytes());
        client.send(&message).await;
        wait_for("the statement to run", LIMIT, async || running().await == 1).await;
        let mut wrong = client.key.clone();
        *wrong.last_mut().unwrap() ^= 1;
        cancel(b.port(), &client, &wrong, Via::Client).await;
        // What has been passed on once stays where it is.
        cancel(b.port(), &client, &client.key, Via::Instance).await;
        assert_eq!(running().await, 1);
        cancel(b.port(), &client, &client.key, Via::Client).await;
        let frames = client.until(READY_FOR_QUERY).await;
        let code = frames.iter().find_map(|frame| frame.field(b'C').filter(|_| frame.tag == b'E'));
        assert_eq!(code, Some("57014"));
        assert_eq!(client.ask("SELECT 1").await, "1");
    }
}
