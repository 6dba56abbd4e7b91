//! Prepared statements that both protocols speak of: what a server knows by a name, it knows in either.

use crate::support::plain::{Messages, Raw, Reply, TRUST, errors, tags, values};
use crate::support::proxy::Proxy;

/// What a client sends, message by message, each up to a ReadyForQuery.
fn conversations() -> Vec<Vec<Messages>> {
    let run = |messages: Messages, sql: &str| messages.parse("", sql).bind("", &[]).execute();
    let bound = |name: &str| Messages::new().bind(name, &[]).execute().sync();
    let query = |sql: &str| Messages::new().query(sql);
    let prepare = || run(Messages::new(), "PREPARE q AS SELECT 7");
    let parse = |sql: &str| Messages::new().parse("s", sql).sync();
    vec![
        // Prepared by SQL, in the extended protocol.
        vec![run(prepare(), "EXECUTE q").sync(), bound("q"), query("EXECUTE q")],
        vec![prepare().bind("q", &[]).execute().sync(), query("EXECUTE q"), run(Messages::new(), "EXECUTE q").sync()],
        vec![prepare().sync(), bound("q"), Messages::new().close("q").sync(), bound("q"), prepare().sync(), bound("q")],
        vec![prepare().sync(), query("DEALLOCATE q"), bound("q"), query("SELECT 1")],
        vec![run(prepare().close("q").bind("q", &[]).execute(), "SELECT 1").sync(), query("EXECUTE q")],
        // Prepared by the protocol, and executed by SQL among other statements.
        vec![
            parse("SELECT 8"),
            query("SELECT 1; EXECUTE s"),
            bound("s"),
            query("EXECUTE s"),
            query("EXECUTE s; SELECT 2"),
        ],
        vec![
            parse("SELECT $1 + 1"),
            run(Messages::new(), "EXECUTE s (4)").bind("s", &["5"]).execute().sync(),
            query("BEGIN; EXECUTE s (6); EXECUTE s (7); COMMIT"),
            Messages::new().close("s").sync(),
            query("SELECT 1; EXECUTE s (8)"),
        ],
        vec![parse("SELECT 9"), query("EXECUTE s; DEALLOCATE s"), bound("s"), parse("SELECT 10"), bound("s")],
        vec![query("BEGIN"), parse("SELECT 11"), query("SELECT 1; EXECUTE s"), query("ROLLBACK"), bound("s")],
        vec![query("SELECT 1; EXECUTE nobody"), bound("nobody"), run(Messages::new(), "EXECUTE nobody").sync()],
    ]
}

fn told(replies: &[Reply]) -> (String, Vec<String>, Vec<String>) {
    (tags(replies), values(replies), errors(replies))
}

#[tokio::test]
async fn a_statement_is_known_by_its_name_in_both_protocols() {
    let proxy = Proxy::shared(TRUST).await;
    for (n, conversation) in conversations().into_iter().enumerate() {
        let mut direct = Raw::direct(proxy.node("pg1")).await;
        let mut client = Raw::connect(proxy.port()).await;
        for (at, messages) in conversation.into_iter().enumerate() {
            let expected = told(&direct.ask(messages.clone()).await);
            assert_eq!(told(&client.ask(messages).await), expected, "step {at} of conversation {n}");
        }
    }
}

/// What it does there is not known: it may write.
#[tokio::test]
async fn what_is_bound_by_a_name_that_only_the_server_knows_may_write() {
    let proxy = Proxy::shared(TRUST).await;
    let mut client = Raw::connect(proxy.port()).await;
    client.query("CREATE TABLE known_there (n int)").await;
    let prepare = "PREPARE put AS INSERT INTO known_there VALUES (1)";
    client.ask(Messages::new().parse("", prepare).bind("", &[]).execute().sync()).await;
    for rows in 1..20 {
        assert_eq!(tags(&client.ask(Messages::new().bind("put", &[]).execute().sync()).await), "2CZ");
        assert_eq!(values(&client.query("SELECT count(*) FROM known_there").await), [rows.to_string()]);
    }
    // Nobody binds what somebody else has prepared, whatever the server calls it.
    let mut other = Raw::connect(proxy.port()).await;
    other.ask(Messages::new().parse("mine", "SELECT 1").sync()).await;
    for n in 1..20 {
        let replies = client.ask(Messages::new().bind(&format!("pgpilot_{n}"), &[]).execute().sync()).await;
        assert_eq!(errors(&replies), ["26000"]);
    }
}
