//! Tokens by every protocol, alone and within a pipeline.

use pgpilot::decide::position::Position;

use super::connection::{Connection, Reply};
use crate::support::plain::TRUST;
use crate::support::proxy::{Proxy, ask};

fn values(replies: &[Reply]) -> Vec<&str> {
    replies
        .iter()
        .flat_map(|reply| match &reply.error {
            Some((code, _)) => vec![code.as_str()],
            None => reply.values.iter().map(String::as_str).collect(),
        })
        .collect()
}

#[tokio::test]
async fn a_token_is_told_and_taken_by_every_protocol() {
    const SHOW: &str = "SHOW pgpilot.lsn";
    let proxy = Proxy::shared(TRUST).await;
    let mut writer = Connection::open(proxy.port()).await.unwrap();
    let mut reader = Connection::open(proxy.port()).await.unwrap();
    writer.query("CREATE TABLE told (n int); INSERT INTO told VALUES (0)");
    writer.parse("raise", "UPDATE told SET n = n + 1 RETURNING n").sync().parse("show", SHOW).sync();
    let replies = writer.exchange().await.unwrap();
    assert_eq!(values(&replies), [""; 0]);
    for way in 0..6 {
        let put = &mut writer;
        match way {
            0 => drop(put.query("UPDATE told SET n = n + 1 RETURNING n").query(SHOW)),
            1 => drop(put.execute("raise", &[]).sync().query(SHOW)),
            2 => drop(put.execute("raise", &[]).sync().parse("", SHOW).execute("", &[]).sync()),
            3 => drop(put.execute("raise", &[]).sync().execute("show", &[]).sync()),
            4 => drop(put.query("BEGIN").execute("raise", &[]).sync().query("COMMIT").execute("show", &[]).sync()),
            _ => drop(put.execute("raise", &[]).sync().query(SHOW).execute("raise", &[]).sync().query(SHOW)),
        }
        let replies = put.exchange().await.unwrap();
        let told = values(&replies);
        assert!(told[1].contains(":0/"), "way {way}: {told:?}");
        let (written, token) = (told[told.len() - 2], told[told.len() - 1]);
        let set = format!("SET pgpilot.min_lsn = '{token}'");
        let put = &mut reader;
        match way {
            0 => drop(put.query(&set).query("SELECT n FROM told")),
            1 => drop(put.query(&set).parse("", "SELECT n FROM told").execute("", &[]).sync()),
            _ => drop(put.parse("", &set).execute("", &[]).sync().query("SELECT n FROM told")),
        }
        let replies = put.exchange().await.unwrap();
        assert_eq!(values(&replies), [written], "way {way}");
    }
}

/// One that only passes tokens on hands out none that is older.
#[tokio::test]
async fn a_token_is_handed_on() {
    let proxy = Proxy::shared("").await;
    let (writer, between) = (proxy.connect().await, proxy.connect().await);
    writer.batch_execute("CREATE TABLE handed (n int)").await.unwrap();
    ask(&between, "SELECT 1").await;
    for _ in 0..3 {
        writer.batch_execute("INSERT INTO handed VALUES (1)").await.unwrap();
        let token = ask(&writer, "SHOW pgpilot.lsn").await;
        between.batch_execute(&format!("SET pgpilot.min_lsn = '{token}'")).await.unwrap();
        assert_eq!(ask(&between, "SHOW pgpilot.min_lsn").await, token);
        let (given, told): (Position, Position) =
            (token.parse().unwrap(), ask(&between, "SHOW pgpilot.lsn").await.parse().unwrap());
        assert!(told.lsn >= given.lsn, "{told} of {given}");
    }
}
