//! Texts that do not mean what their bytes look like: other rules for backslashes, other encodings.

use bytes::BytesMut;
use pgpilot::decide::sql::Reason;
use pgpilot::wire::{backend, frontend};

use crate::support::proxy::{Proxy, ask};
use crate::support::raw::Raw;

/// With standard strings: one column, and a comment. Without: two columns, and a sequence is advanced.
const AMBIGUOUS: &str = "SELECT '\\'' , '/*' AS a --'\n , nextval('ticks') AS n -- */";

#[tokio::test]
async fn strings_with_backslashes_are_read_as_the_session_reads_them() {
    let proxy = Proxy::shared("[routing]\nconsistency = \"eventual\"\n").await;
    proxy.connect().await.batch_execute("CREATE SEQUENCE ticks").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    let (standard, other) = (proxy.connect().await, proxy.connect().await);
    other.batch_execute("SET standard_conforming_strings = off; SET escape_string_warning = off").await.unwrap();
    for n in 1..=3 {
        // The text, and its shape, are known from the session for which it is a read.
        for _ in 0..3 {
            let before = proxy.counts().1;
            assert_eq!(ask(&standard, AMBIGUOUS).await, "\\' , ");
            assert_eq!(proxy.counts().1, before + 1);
        }
        let (before, judged) = (proxy.counts().1, proxy.count_of(Reason::Encoding));
        assert_eq!(ask(&other, AMBIGUOUS).await, "'");
        assert_eq!(ask(&standard, "/* pgpilot: primary */ SELECT last_value FROM ticks").await, n.to_string());
        assert_eq!(ask(&other, "SELECT 'a\\'; DROP SEQUENCE ticks; --'").await, "a'; DROP SEQUENCE ticks; --");
        assert_eq!((proxy.counts().1, proxy.count_of(Reason::Encoding)), (before, judged + 2));
    }
    other.batch_execute("SET standard_conforming_strings = on").await.unwrap();
    let before = proxy.counts().1;
    assert_eq!(ask(&other, AMBIGUOUS).await, "\\' , ");
    assert_eq!(proxy.counts().1, before + 1);
    // A setting that begins with the session.
    let startup = proxy.connect_with("options='-c standard_conforming_strings=off'").await;
    assert_eq!(ask(&startup, AMBIGUOUS).await, "'");
    assert_eq!(proxy.counts().1, before + 1);
}

/// Characters whose second byte is a backslash, or (in UHC) a letter, and what they are in UTF-8.
const CHARACTERS: [(&str, &[u8], &str); 4] = [
    ("SJIS", b"\x83\x5c", "\u{30bd}"),
    ("BIG5", b"\xa5\x5c", "\u{529f}"),
    ("GBK", b"\x81\x5c", "\u{4e57}"),
    ("UHC", b"\x81\x41", "\u{ac02}"),
];

async fn query(client: &mut Raw, text: &[u8]) -> Vec<Vec<u8>> {
    let mut message = BytesMut::new();
    frontend::put_query(&mut message, text);
    client.send(&message).await;
    let frames = client.until(backend::READY_FOR_QUERY).await;
    let row = frames.iter().find(|frame| frame.tag == backend::DATA_ROW).unwrap_or_else(|| panic!("{frames:?}"));
    backend::data_row(&row.body).unwrap().into_iter().map(|value| value.unwrap_or_default().to_vec()).collect()
}

#[tokio::test]
async fn bytes_within_characters_are_no_quotes() {
    let proxy = Proxy::shared("[routing]\nconsistency = \"eventual\"\n").await;
    proxy.connect().await.batch_execute("CREATE SEQUENCE strokes").await.unwrap();
    let mut client = Raw::connect(proxy.port(), "shop").await;
    for (n, (encoding, character, utf8)) in (1..).zip(CHARACTERS) {
        client.query(&format!("SET client_encoding TO '{encoding}'")).await;
        let (before, judged) = (proxy.counts().1, proxy.count_of(Reason::Encoding));
        // Taken byte by byte, the constant goes on to the next quote and hides the call.
        let text = [b"SELECT E'", character, b"', nextval('strokes')--'"].concat();
        assert_eq!(query(&mut client, &text).await, [character.to_vec(), n.to_string().into_bytes()], "{encoding}");
        let text = [b"SELECT 'a", character, b"' || ascii('", character, b"')"].concat();
        let code = u32::from(utf8.chars().next().unwrap()).to_string();
        assert_eq!(query(&mut client, &text).await, [[b"a", character, code.as_bytes()].concat()], "{encoding}");
        assert_eq!((proxy.counts().1, proxy.count_of(Reason::Encoding)), (before, judged + 2), "{encoding}");
        client.query("SET client_encoding TO 'UTF8'").await;
        assert_eq!(query(&mut client, format!("SELECT ascii('{utf8}')").as_bytes()).await, [code.into_bytes()]);
        assert_eq!(proxy.counts().1, before + 1, "{encoding}");
    }
}
