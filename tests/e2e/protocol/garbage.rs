//! Bytes that are no protocol, or almost: pgpilot does not stumble, and nobody else notices.

use bytes::BytesMut;
use fastrand::Rng;

use super::play::{SHOP, found};
use super::script::{Step, segments};
use crate::support::process::Process;
use crate::support::proxy::servers;
use crate::support::raw::Raw;

/// What is mutated: something of everything.
const SESSION: &str = "
query SELECT 1; SELECT n FROM t
parse s SELECT n FROM t WHERE n < $1
describe statement s
bind p s 4
describe portal p
execute p 2
close portal p
flush
close statement s
sync
query BEGIN
query COPY t FROM STDIN
data 10\\tten\\n
done
query COPY t TO STDOUT
query ROLLBACK
call 1397 -5
parse - INSERT INTO t VALUES ($1, 'x')
bind - - 20
execute -
sync
query PREPARE q AS SELECT 1
query EXECUTE q
query DEALLOCATE q
query SET work_mem = '1MB'";

const SESSIONS: u64 = 400;

#[tokio::test]
async fn mutated_sessions_harm_nobody() {
    let servers = servers().await;
    found(&servers).await;
    let mut process = Process::start(&servers, "[pool]\nmax_server_connections = 4\n").await;
    let mut bystander = process.connect().await;
    bystander.query("BEGIN; INSERT INTO t VALUES (100, 'mine')").await;
    let mut another = process.connect().await;
    let steps: Vec<Step> = SESSION.trim().lines().map(|line| line.parse().expect("a step")).collect();
    let valid = segments(&steps).remove(0).bytes;
    for seed in 0..SESSIONS {
        let mut rng = Rng::with_seed(seed);
        let mut client = Raw::connect(process.port(), SHOP).await;
        client.send(&mutate(&valid, &mut rng)).await;
        if rng.bool() {
            client.end_of_input().await;
            drop(client.rest_of_bytes().await);
        }
        drop(client);
        assert_eq!(another.ask("SHOW work_mem").await, "4MB", "seed {seed}");
        let mine = bystander.ask("SELECT s FROM t WHERE n = 100").await;
        assert_eq!(mine, "mine", "seed {seed}");
        process.assert_sound();
    }
    bystander.query("COMMIT").await;
    assert_eq!(another.ask("SELECT s FROM t WHERE n = 100").await, "mine");
}

#[tokio::test]
async fn random_bytes_harm_nobody() {
    let servers = servers().await;
    let mut process = Process::start(&servers, "").await;
    let mut bystander = process.connect().await;
    for seed in 0..SESSIONS {
        let mut rng = Rng::with_seed(seed);
        // Before the start-up packet, in place of a password, and in a session.
        let mut client = if rng.bool() { Raw::open(process.port()).await } else { process.connect().await };
        let length = rng.usize(1..2000);
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
        client.send(&bytes).await;
        client.end_of_input().await;
        drop(client.rest_of_bytes().await);
        assert_eq!(bystander.ask("SELECT 1").await, "1", "seed {seed}");
    }
    process.assert_sound();
}

/// Changes a few bytes, mostly in headers, or cuts, repeats, or leaves out a piece.
fn mutate(valid: &[u8], rng: &mut Rng) -> BytesMut {
    let mut bytes = valid.to_vec();
    let headers: Vec<usize> = headers(valid);
    for _ in 0..rng.usize(1..4) {
        let any = rng.usize(..bytes.len());
        let header = headers[rng.usize(..headers.len())].min(bytes.len() - 1);
        match rng.u8(..8) {
            0 => bytes[any] = rng.u8(..),
            1 => bytes[header] = b"QPBDECSHdcfFXpRZ\0\xff"[rng.usize(..18)],
            // A length that is a little, or very, wrong.
            2 => bytes.iter_mut().skip(header + 4).take(1).for_each(|byte| *byte = rng.u8(..)),
            3 => bytes[header..].iter_mut().skip(1).take(4).for_each(|byte| *byte = rng.u8(..)),
            4 => bytes.truncate(any.max(1)),
            5 => {
                let piece = bytes[any..(any + rng.usize(1..60)).min(bytes.len())].to_vec();
                let at = rng.usize(..bytes.len());
                bytes.splice(at..at, piece);
            }
            6 => drop(bytes.drain(any..(any + rng.usize(1..30)).min(bytes.len() - 1).max(any))),
            _ => bytes[any] ^= 1 << rng.u8(..8),
        }
    }
    BytesMut::from(&bytes[..])
}

/// Where the messages begin.
fn headers(bytes: &[u8]) -> Vec<usize> {
    let mut at = 0;
    let mut headers = Vec::new();
    while let Some(length) = bytes.get(at + 1..at + 5) {
        headers.push(at);
        at += 1 + u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
    }
    headers
}
