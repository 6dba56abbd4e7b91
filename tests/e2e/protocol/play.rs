//! Playing a script to a proxy and to a server, and comparing what they say.

use std::fmt::Write as _;
use std::time::Duration;

use pgpilot::demo::LocalCluster;
use pgpilot::wire::{backend, frontend};
use tokio::time::timeout;

use super::script::{Segment, Step, segments};
use crate::support::raw::{Frame, Raw};

/// Where a script is played directly.
pub(crate) const TWIN: &str = "twin";
/// The database behind the proxy.
pub(crate) const SHOP: &str = "shop";

/// What every script finds. Nothing else lives from one to the next. Without statistics, plans are the same in both databases.
const FOUNDATION: &str = "
    CREATE TABLE t (n int PRIMARY KEY, s text) WITH (autovacuum_enabled = off);
    CREATE TABLE later (n int UNIQUE DEFERRABLE INITIALLY DEFERRED) WITH (autovacuum_enabled = off);
    CREATE FUNCTION noisy(n int) RETURNS int LANGUAGE plpgsql AS
        $$BEGIN RAISE NOTICE 'at %', n USING DETAIL = 'loud', HINT = 'listen'; RETURN n; END$$;
    CREATE FUNCTION fails(n int) RETURNS int LANGUAGE plpgsql AS
        $$BEGIN RAISE EXCEPTION 'never at %', n USING ERRCODE = 'AB123'; END$$;
    CREATE FUNCTION adds(n int) RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES (n, ''added'') RETURNING n';
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
    ALTER TABLE t OWNER TO app; ALTER TABLE later OWNER TO app";

const RESET: &str = "
    TRUNCATE t, later;
    DROP TABLE IF EXISTS made;
    INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 5) n;
    INSERT INTO later VALUES (1)";

/// Makes both databases what scripts begin with.
pub(crate) async fn found(servers: &LocalCluster) {
    let primary = &servers.nodes()[0];
    primary.sql(&format!("CREATE DATABASE {TWIN} OWNER app")).await.expect("a database");
    for database in [SHOP, TWIN] {
        let session = primary.connect_to(database).await.expect("the primary");
        session.batch_execute(FOUNDATION).await.expect("tables");
    }
    reset(servers).await;
}

/// Makes both databases what scripts begin with, again, on every node.
pub(crate) async fn reset(servers: &LocalCluster) {
    let primary = &servers.nodes()[0];
    for database in [SHOP, TWIN] {
        let session = primary.connect_to(database).await.expect("the primary");
        session.batch_execute(RESET).await.expect("what a script left can be removed");
    }
    servers.wait_caught_up(primary).await.expect("the replicas follow");
}

/// How the bytes are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Delivery {
    Whole,
    /// Segment and offset of one cut: the second part is sent when the first has been read.
    CutAt(usize, usize),
    /// In pieces of so many bytes, one right after the other.
    Pieces(usize),
}

/// What happens between two batches.
pub(crate) enum Meanwhile<'a> {
    Nothing,
    /// Another client does something else, over the same server connections.
    Others(&'a mut Raw),
}

/// Plays the script on a connection of its own, says goodbye, and returns every reply.
pub(crate) async fn play(port: u16, database: &str, steps: &[Step], how: Delivery) -> Vec<String> {
    play_among(port, database, steps, how, Meanwhile::Nothing).await
}

pub(crate) async fn play_among(
    port: u16,
    database: &str,
    steps: &[Step],
    how: Delivery,
    mut meanwhile: Meanwhile<'_>,
) -> Vec<String> {
    let mut client = Raw::connect(port, database).await;
    let mut replies = show(&client.greeting, client.pid);
    replies.sort();
    for (number, segment) in segments(steps).iter().enumerate() {
        deliver(&mut client, segment, number, how).await;
        let Some(until) = segment.until else { continue };
        let frames = listen(&mut client, until, &mut replies).await;
        if frames.last().is_none_or(|frame| frame.tag != until) {
            return replies;
        }
        let idle = frames.last().is_some_and(|frame| (frame.tag, &frame.body[..]) == (backend::READY_FOR_QUERY, b"I"));
        if let (Meanwhile::Others(other), true) = (&mut meanwhile, idle) {
            disturb(other, number).await;
        }
    }
    let mut goodbye = bytes::BytesMut::new();
    frontend::put_terminate(&mut goodbye);
    client.send(&goodbye).await;
    listen(&mut client, 0, &mut replies).await;
    replies
}

/// Servers and proxies that are asked something answer in a fraction of this, also on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Adds the replies up to one of the type, or to the end of the connection, or of the patience.
async fn listen(client: &mut Raw, until: u8, replies: &mut Vec<String>) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    let end = loop {
        match timeout(PATIENCE, client.frame()).await {
            Err(_) => break Some("silence"),
            Ok(None) => break Some("the end of the connection"),
            Ok(Some(frame)) => frames.push(frame),
        }
        if frames.last().is_some_and(|frame| frame.tag == until) {
            break None;
        }
    };
    replies.extend(show(&frames, client.pid));
    replies.extend(end.map(str::to_owned));
    frames
}

/// Plays one script on an open session, every segment of which has to end in a wait.
pub(crate) async fn play_on(client: &mut Raw, segments: &[Segment], how: Delivery) -> Vec<String> {
    let mut replies = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        deliver(client, segment, number, how).await;
        let frames = client.until(segment.until.expect("a wait")).await;
        replies.extend(show(&frames, client.pid));
    }
    replies
}

async fn deliver(client: &mut Raw, segment: &Segment, number: usize, how: Delivery) {
    match how {
        Delivery::CutAt(cut, at) if cut == number => {
            client.send_taken(&segment.bytes[..at]).await;
            client.send(&segment.bytes[at..]).await;
        }
        Delivery::Pieces(size) => {
            for piece in segment.bytes.chunks(size) {
                client.send(piece).await;
            }
        }
        _ => client.send(&segment.bytes).await,
    }
}

/// Uses the server connections in a way that a session must not see.
async fn disturb(other: &mut Raw, number: usize) {
    let steps = [
        "parse - SELECT 'the other''s unnamed statement'\nbind - -\nexecute -\nsync",
        "parse s SELECT 'the other''s s'\nbind p s\nexecute p\nclose statement s\nsync",
        "query SET extra_float_digits = 0; SET DateStyle = 'German'; SET application_name = 'other'",
        "query RESET ALL; SET extra_float_digits = 2",
        "query SELECT 1/0",
    ];
    let text = steps[number % steps.len()];
    let steps: Vec<Step> = text.lines().map(|line| line.parse().expect("a step")).collect();
    for segment in segments(&steps) {
        other.send(&segment.bytes).await;
    }
    other.until(backend::READY_FOR_QUERY).await;
}

/// Replies as text, without what differs from one run to the next; `pid` is the process ID that the client was given.
pub(crate) fn show(frames: &[Frame], pid: u32) -> Vec<String> {
    frames.iter().filter_map(|frame| line(frame, pid)).collect()
}

fn line(frame: &Frame, pid: u32) -> Option<String> {
    match frame.tag {
        backend::PARAMETER_STATUS => {
            let (name, value) = backend::parameter_status(&frame.body).expect("a parameter");
            // Behind one port there is one database, which is writable.
            (name != "in_hot_standby").then(|| format!("S {name} = {value}"))
        }
        backend::ERROR_RESPONSE | backend::NOTICE_RESPONSE => {
            let mut text = char::from(frame.tag).to_string();
            // Not the place in the server's source, which also tells apart what pgpilot says itself.
            for (kind, value) in frame.fields().filter(|(kind, _)| !b"FLR".contains(kind)) {
                // For a COPY into a read-only transaction a standby has two reasons, of which it names the other one.
                let value = value.replace("COPY during recovery", "COPY FROM in a read-only transaction");
                let _ = write!(text, " {}={value}", char::from(kind));
            }
            Some(text)
        }
        backend::ROW_DESCRIPTION => Some(format!("T {}", columns(&frame.body).escape_ascii())),
        backend::NOTIFICATION_RESPONSE => {
            let by = if frame.body[..4] == pid.to_be_bytes() { "itself" } else { "another" };
            Some(format!("A by {by} {}", frame.body[4..].escape_ascii()))
        }
        _ => Some(format!("{frame:?}")),
    }
}

/// A RowDescription without the tables' numbers.
fn columns(body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    let mut at = 2;
    while let Some(end) = body[at..].iter().position(|byte| *byte == 0) {
        let table = at + end + 1;
        if body[table..table + 4] != [0; 4] {
            body[table..table + 4].copy_from_slice(b"some");
        }
        at = table + 18;
    }
    body
}

/// Where two sequences of replies part; `None` if they are the same.
pub(crate) fn difference(direct: &[String], proxied: &[String]) -> Option<String> {
    if direct == proxied {
        return None;
    }
    let same = direct.iter().zip(proxied).take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    for line in &direct[same.saturating_sub(3)..same] {
        let _ = writeln!(text, "    {line}");
    }
    for (sign, lines) in [("server", direct), ("pgpilot", proxied)] {
        for line in lines[same..].iter().take(6) {
            let _ = writeln!(text, "  {sign}: {line}");
        }
        if lines.len() == same {
            let _ = writeln!(text, "  {sign}: (nothing more)");
        }
    }
    Some(text)
}
