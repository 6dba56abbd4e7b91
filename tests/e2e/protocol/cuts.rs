//! Bytes come in whatever pieces the network makes of them: every message is cut at every byte.

use bytes::BytesMut;
use pgpilot::wire::backend;
use pgpilot::wire::startup::{PROTOCOL_3_0, put_startup};

use super::play::{Delivery, SHOP, found, play_on, show};
use super::script::{Step, segments};
use crate::support::proxy::{Proxy, USER};
use crate::support::raw::{Frame, Raw};

/// Every message that a client may send, in a session that leaves everything as it was.
const SESSION: &str = "
query SELECT 1
ready
parse s SELECT n FROM t WHERE n < $1 ORDER BY n
describe statement s
flush
await T
bind p s 4
describe portal p
execute p 2
close portal p
close statement s
sync
ready
query BEGIN
ready
query COPY t FROM STDIN
await G
data 10\\tten\\n
data 11\\televen\\n
done
ready
query COPY t FROM STDIN
await G
data 12\\ttwelve\\n
fail no
ready
query ROLLBACK
ready
call 1397 -5
ready
data stale\\n
fail stale
parse - SELEC
data stale\\n
bind - -
sync
ready";

#[tokio::test]
async fn every_message_may_be_cut_anywhere() {
    let proxy = Proxy::start().await;
    found(&proxy.servers).await;
    let steps: Vec<Step> = SESSION.trim().lines().map(|line| line.parse().expect("a step")).collect();
    let segments = segments(&steps);
    let mut client = Raw::connect(proxy.port(), SHOP).await;
    let whole = play_on(&mut client, &segments, Delivery::Whole).await;
    assert!(whole.len() > 25, "{whole:#?}");
    for (number, segment) in segments.iter().enumerate() {
        for at in 1..segment.bytes.len() {
            let cut = play_on(&mut client, &segments, Delivery::CutAt(number, at)).await;
            assert_eq!(cut, whole, "segment {number} cut at {at}");
        }
    }
    // Byte by byte.
    assert_eq!(play_on(&mut client, &segments, Delivery::Pieces(1)).await, whole);
}

/// Of a message that is larger than the buffer, the beginning alone is looked at.
#[tokio::test]
async fn a_large_message_may_be_cut_within_its_head() {
    let proxy = Proxy::shared("").await;
    let mut client = Raw::connect(proxy.port(), SHOP).await;
    let message = |tag: u8, body: &[u8]| {
        let length = i32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &length.to_be_bytes(), body].concat()
    };
    let parse = message(b'P', b"measured\0SELECT length($1::text)\0\0\0");
    client.send(&[parse, message(b'S', b"")].concat()).await;
    client.until(backend::READY_FOR_QUERY).await;
    let value = vec![b'x'; 400_000];
    let length = 400_000_i32.to_be_bytes();
    let bind = message(b'B', &[&b"\0measured\0\0\0\0\x01"[..], &length, &value, &b"\0\0"[..]].concat());
    let rest = [message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat();
    for at in 1..24 {
        client.send_taken(&bind[..at]).await;
        client.send(&bind[at..]).await;
        client.send(&rest).await;
        let shown = show(&client.until(backend::READY_FOR_QUERY).await, client.pid);
        assert!(shown.iter().any(|line| line.contains("400000")), "cut at {at}: {shown:?}");
    }
}

#[tokio::test]
async fn a_login_may_be_cut_anywhere() {
    let proxy = Proxy::start().await;
    let mut packet = BytesMut::new();
    put_startup(&mut packet, PROTOCOL_3_0, &[("user", USER), ("database", SHOP), ("application_name", "raw")]);
    let whole = greeting(&Raw::connect(proxy.port(), SHOP).await.greeting);
    for at in 1..packet.len() {
        let mut client = Raw::open(proxy.port()).await;
        client.send_taken(&packet[..at]).await;
        client.send(&packet[at..]).await;
        client.log_in().await.unwrap_or_else(|refusal| panic!("cut at {at}: {refusal:?}"));
        assert_eq!(greeting(&client.greeting), whole, "cut at {at}");
    }
    // SASLInitialResponse and SASLResponse.
    for at in 1.. {
        let mut client = Raw::open(proxy.port()).await;
        client.send(&packet).await;
        let cut = client.log_in_cut_at(at).await.unwrap_or_else(|refusal| panic!("cut at {at}: {refusal:?}"));
        assert_eq!(greeting(&client.greeting), whole, "cut at {at}");
        if !cut {
            assert!(at > 100, "{at}");
            break;
        }
    }
}

fn greeting(frames: &[Frame]) -> Vec<String> {
    let mut lines = show(frames, 0);
    lines.sort();
    lines
}
