//! The first packets: versions, options, encryption requests, refusals.

use bytes::{BufMut, BytesMut};
use pgpilot::wire::backend;
use pgpilot::wire::startup::{PROTOCOL_3_0, PROTOCOL_3_2, put_startup};

use super::play::show;
use crate::support::proxy::{Proxy, USER};
use crate::support::raw::{Frame, Raw, Refusal, tags};
use crate::support::{LIMIT, wait_for};

const SHOP: [(&str, &str); 2] = [("user", USER), ("database", "shop")];

fn version(major: i32, minor: i32) -> i32 {
    major << 16 | minor
}

fn request(code: i32) -> BytesMut {
    let mut packet = BytesMut::new();
    packet.put_i32(8);
    packet.put_i32(code);
    packet
}

fn ssl_request() -> BytesMut {
    request(1234 << 16 | 5679)
}

fn gss_request() -> BytesMut {
    request(1234 << 16 | 5680)
}

/// NegotiateProtocolVersion: the newest version, and the options that are not known.
fn negotiation(frame: &Frame) -> (i32, Vec<String>) {
    assert_eq!(frame.tag, backend::NEGOTIATE_PROTOCOL_VERSION);
    let newest = i32::from_be_bytes(frame.body[..4].try_into().unwrap());
    let count = i32::from_be_bytes(frame.body[4..8].try_into().unwrap());
    let names: Vec<String> = frame.body[8..]
        .split_inclusive(|byte| *byte == 0)
        .map(|name| String::from_utf8_lossy(&name[..name.len() - 1]).into_owned())
        .collect();
    assert_eq!(names.len(), usize::try_from(count).unwrap());
    (newest, names)
}

#[tokio::test]
async fn versions_are_negotiated() {
    let proxy = Proxy::start().await;
    let with_option = [SHOP[0], SHOP[1], ("_pq_.nothing", "1"), ("_pq_.more", "x")];
    let table: [(i32, &[(&str, &str)], usize, Option<(i32, &[&str])>); 7] = [
        (PROTOCOL_3_0, &SHOP, 4, None),
        (PROTOCOL_3_2, &SHOP, 32, None),
        (version(3, 3), &SHOP, 32, Some((PROTOCOL_3_2, &[]))),
        (version(3, 9), &SHOP, 32, Some((PROTOCOL_3_2, &[]))),
        // What clients send on purpose, so that nobody forgets to negotiate.
        (version(3, 9999), &SHOP, 32, Some((PROTOCOL_3_2, &[]))),
        (PROTOCOL_3_0, &with_option, 4, Some((PROTOCOL_3_0, &["_pq_.nothing", "_pq_.more"]))),
        (PROTOCOL_3_2, &with_option, 32, Some((PROTOCOL_3_2, &["_pq_.nothing", "_pq_.more"]))),
    ];
    for (version, parameters, key, expected) in table {
        let mut client = Raw::connect_with(proxy.port(), version, parameters).await.unwrap();
        assert_eq!(client.key.len(), key, "{version:x}");
        let negotiated = client.greeting.iter().find(|frame| frame.tag == backend::NEGOTIATE_PROTOCOL_VERSION);
        let expected = expected.map(|(newest, names)| (newest, names.iter().map(|name| (*name).to_owned()).collect()));
        assert_eq!(negotiated.map(negotiation), expected, "{version:x}");
        assert_eq!(client.ask("SELECT 1").await, "1");
    }
}

#[tokio::test]
async fn what_cannot_be_served_is_refused() {
    let proxy = Proxy::start().await;
    let mut bystander = Raw::connect(proxy.port(), "shop").await;
    let table: [(i32, &[(&str, &str)], &str); 15] = [
        (version(2, 0), &SHOP, "0A000"),
        (version(4, 0), &SHOP, "0A000"),
        (version(0, 0), &SHOP, "0A000"),
        (PROTOCOL_3_0, &[], "28000"),
        (PROTOCOL_3_0, &[("database", "shop")], "28000"),
        (PROTOCOL_3_0, &[("user", "")], "28000"),
        (PROTOCOL_3_0, &[SHOP[0], ("database", "nothing")], "3D000"),
        (PROTOCOL_3_0, &[SHOP[0], SHOP[1], ("replication", "true")], "0A000"),
        (PROTOCOL_3_0, &[SHOP[0], SHOP[1], ("replication", "database")], "0A000"),
        (PROTOCOL_3_0, &[SHOP[0], SHOP[1], ("nothing", "1")], "42704"),
        (PROTOCOL_3_0, &[SHOP[0], SHOP[1], ("work_mem", "nonsense")], "22023"),
        (PROTOCOL_3_0, &[SHOP[0], SHOP[1], ("options", "-c nothing=1")], "42704"),
        (PROTOCOL_3_0, &[SHOP[0], SHOP[1], ("options", "--nonsense")], "42601"),
        (PROTOCOL_3_0, &[SHOP[0], SHOP[1], ("options", "-c pgpilot.route=nowhere")], "22023"),
        (PROTOCOL_3_0, &[SHOP[0], ("database", "pgpilot")], "42501"),
    ];
    for (version, parameters, code) in table {
        let refusal = Raw::connect_with(proxy.port(), version, parameters).await.err();
        let refusal = refusal.unwrap_or_else(|| panic!("{parameters:?} is served"));
        assert_eq!(refusal.code(), code, "{parameters:?}: {refusal:?}");
        let Refusal::Error(frame) = refusal else { panic!("no error") };
        assert_eq!(frame.field(b'S'), Some("FATAL"));
    }
    // Not a replication connection after all.
    let off = [SHOP[0], SHOP[1], ("replication", "off")];
    assert!(Raw::connect_with(proxy.port(), PROTOCOL_3_0, &off).await.is_ok());
    assert_eq!(bystander.ask("SELECT 1").await, "1");
}

#[tokio::test]
async fn settings_come_with_the_start_up_packet() {
    let proxy = Proxy::start().await;
    let parameters = [
        SHOP[0],
        SHOP[1],
        ("options", "-c work_mem=5MB --statement-timeout=7s -csearch_path=a,\\ b -c pgpilot.route=primary"),
        ("DateStyle", "German"),
        ("TimeZone", "Europe/Berlin"),
        ("client_encoding", "LATIN1"),
    ];
    let mut client = Raw::connect_with(proxy.port(), PROTOCOL_3_0, &parameters).await.unwrap();
    let told = |name: &str| {
        let parameters = client.greeting.iter().filter(|frame| frame.tag == backend::PARAMETER_STATUS);
        let mut pairs = parameters.filter_map(|frame| backend::parameter_status(&frame.body).ok());
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
    };
    assert_eq!(told("DateStyle").as_deref(), Some("German, DMY"));
    assert_eq!(told("TimeZone").as_deref(), Some("Europe/Berlin"));
    assert_eq!(told("client_encoding").as_deref(), Some("LATIN1"));
    for (name, value) in [
        ("work_mem", "5MB"),
        ("statement_timeout", "7s"),
        ("search_path", "a, b"),
        ("DateStyle", "German, DMY"),
        ("pgpilot.route", "primary"),
    ] {
        assert_eq!(client.ask(&format!("SHOW {name}")).await, value);
    }
}

#[tokio::test]
async fn encryption_requests_are_answered_in_any_order() {
    let proxy = Proxy::start().await;
    for requests in [
        vec![gss_request()],
        vec![ssl_request()],
        vec![gss_request(), ssl_request()],
        vec![ssl_request(), gss_request()],
    ] {
        let mut client = Raw::open(proxy.port()).await;
        for request in &requests {
            client.send(request).await;
            assert_eq!(client.byte().await, b'N');
        }
        let mut packet = BytesMut::new();
        put_startup(&mut packet, PROTOCOL_3_0, &SHOP);
        client.send(&packet).await;
        client.log_in().await.unwrap();
        assert_eq!(client.ask("SELECT 1").await, "1");
    }
    // Not for ever.
    let mut client = Raw::open(proxy.port()).await;
    for _ in 0..8 {
        client.send(&ssl_request()).await;
    }
    let answers = client.rest_of_bytes().await;
    assert!(answers.len() < 400, "{}", answers.escape_ascii());
}

#[tokio::test]
async fn what_comes_before_the_answer_about_encryption_is_refused() {
    let proxy = Proxy::shared("").await;
    for mut packets in [ssl_request(), gss_request()] {
        put_startup(&mut packets, PROTOCOL_3_0, &SHOP);
        let mut client = Raw::open(proxy.port()).await;
        client.send(&packets).await;
        assert_eq!(client.byte().await, b'N');
        let frames = client.rest().await;
        assert_eq!((frames.len(), frames[0].field(b'C'), frames[0].field(b'S')), (1, Some("08P01"), Some("FATAL")));
    }
}

#[tokio::test]
async fn a_client_without_a_name_has_none() {
    let proxy = Proxy::shared("").await;
    let direct = Raw::connect_with(proxy.node("pg1").port(), PROTOCOL_3_0, &SHOP).await.unwrap();
    let mut client = Raw::connect_with(proxy.port(), PROTOCOL_3_0, &SHOP).await.unwrap();
    let told = |client: &Raw| {
        let mut told = show(&client.greeting, client.pid);
        told.retain(|line| line.starts_with("S "));
        told.sort();
        told
    };
    assert_eq!(told(&client), told(&direct));
    assert_eq!(client.ask("SHOW application_name").await, "");
    client.query("SET application_name = 'x'").await;
    client.query("RESET application_name").await;
    assert_eq!(client.ask("SHOW application_name").await, "");
}

#[tokio::test]
async fn nonsense_instead_of_a_start_up_packet_ends_the_connection() {
    let proxy = Proxy::start().await;
    let mut bystander = Raw::connect(proxy.port(), "shop").await;
    let packet = |length: i32, rest: &[u8]| [&length.to_be_bytes(), rest].concat();
    let start = PROTOCOL_3_0.to_be_bytes();
    let table = [
        packet(0, b""),
        packet(4, b""),
        packet(7, b"\0\0\0"),
        packet(-1, &start),
        packet(i32::MAX, &start),
        packet(10_001, &start),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        // No terminator, or no value.
        packet(12, &[&start[..], b"user"].concat()),
        packet(14, &[&start[..], b"user\0\0"].concat()),
        packet(13, &[&start[..], b"user\0"].concat()),
        // Something behind the terminator.
        packet(17, &[&start[..], b"user\0a\0\0x"].concat()),
        // Not UTF-8.
        packet(16, &[&start[..], b"user\0\xff\0\0"].concat()),
        // Cancel requests with keys that are too short and too long.
        packet(15, &[&80_877_102_i32.to_be_bytes()[..], &[0; 7]].concat()),
        packet(12 + 257, &[&80_877_102_i32.to_be_bytes()[..], &[0; 4 + 257]].concat()),
    ];
    for bytes in table {
        let mut client = Raw::open(proxy.port()).await;
        client.send(&bytes).await;
        let answer = client.rest_of_bytes().await;
        let text = answer.escape_ascii().to_string();
        assert!(answer.is_empty() || (answer[0] == b'E' && text.contains("FATAL")), "{bytes:?}: {text}");
        assert_eq!(bystander.ask("SELECT 1").await, "1");
    }
}

#[tokio::test]
async fn who_speaks_otherwise_is_told_so() {
    let proxy = Proxy::shared("").await;
    // Protocol 2 has its names in places of fixed length.
    let mut second = BytesMut::zeroed(296);
    second[..8].copy_from_slice(&[0, 0, 1, 40, 0, 2, 0, 0]);
    second[8..12].copy_from_slice(b"shop");
    second[72..75].copy_from_slice(USER.as_bytes());
    let mut latin = BytesMut::new();
    put_startup(&mut latin, PROTOCOL_3_0, &[("user", "m??ller")]);
    let at = latin.iter().position(|byte| *byte == b'?').unwrap();
    latin[at..at + 2].copy_from_slice(b"\xfc\xff");
    for (packet, code) in [(second, "0A000"), (latin, "08P01")] {
        let mut client = Raw::open(proxy.port()).await;
        client.send(&packet).await;
        let frames = client.rest().await;
        let frame = frames.last().unwrap_or_else(|| panic!("{code}: closed without a word"));
        assert_eq!((frame.field(b'S'), frame.field(b'C')), (Some("FATAL"), Some(code)));
    }
}

#[tokio::test]
async fn nonsense_instead_of_a_password_ends_the_connection() {
    let proxy = Proxy::start().await;
    let mut packet = BytesMut::new();
    put_startup(&mut packet, PROTOCOL_3_0, &SHOP);
    let table: [&[u8]; 7] = [
        b"Q\0\0\0\rSELECT 1\0",
        b"p\0\0\0\x03",
        b"p\x7f\xff\xff\xff",
        b"p\0\0\0\x08xxxx",
        b"p\0\0\0\x12SCRAM-SHA-256\0",
        b"p\0\0\0\x17SCRAM-SHA-256\0\x7f\xff\xff\xffx",
        b"p\0\0\0\x22SCRAM-SHA-1\0\0\0\0\x0cn,,n=,r=abcdef",
    ];
    for message in table {
        let mut client = Raw::open(proxy.port()).await;
        client.send(&packet).await;
        assert_eq!(tags(&client.until(backend::AUTHENTICATION).await), "R");
        client.send(message).await;
        let frames = client.rest().await;
        let code = frames.last().and_then(|frame| frame.field(b'C'));
        assert!(matches!(code, Some("08P01" | "28P01" | "28000")), "{message:?}: {frames:?}");
    }
}

#[tokio::test]
async fn who_does_not_log_in_in_time_is_disconnected() {
    let proxy = Proxy::with("[clients]\nlogin_timeout = \"300ms\"\n").await;
    let mut packet = BytesMut::new();
    put_startup(&mut packet, PROTOCOL_3_0, &SHOP);
    // Nothing at all, half a packet, and no password.
    for bytes in [&b""[..], &packet[..10], &packet] {
        let mut client = Raw::open(proxy.port()).await;
        client.send(bytes).await;
        drop(client.rest_of_bytes().await);
    }
    assert_eq!(Raw::connect(proxy.port(), "shop").await.ask("SELECT 1").await, "1");
}

#[tokio::test]
async fn only_so_many_clients_are_let_in() {
    let proxy = Proxy::with("[clients]\nmax = 2\n").await;
    let mut first = Raw::connect(proxy.port(), "shop").await;
    let second = Raw::connect(proxy.port(), "shop").await;
    let refusal = Raw::connect_with(proxy.port(), PROTOCOL_3_0, &SHOP).await.err().expect("a refusal");
    assert_eq!(refusal.code(), "53300");
    assert_eq!(first.ask("SELECT 1").await, "1");
    drop(second);
    wait_for("a place", LIMIT, async || Raw::connect_with(proxy.port(), PROTOCOL_3_0, &SHOP).await.is_ok()).await;
}
