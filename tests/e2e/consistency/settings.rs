//! Where the mode can be set, and where such settings end.

use pgpilot::decide::sql::Reason;

use crate::support::proxy::{Proxy, ask};

#[tokio::test]
async fn the_mode_is_set_for_all_for_a_database_a_user_a_connection_and_a_transaction() {
    const SHOW: &str = "SHOW pgpilot.consistency";
    let global = "[routing]\nconsistency = \"eventual\"\n";
    let database = "[[databases]]\nname = \"shop\"\nconsistency = \"primary\"\n";
    let user = "[[users]]\nname = \"app\"\npassword = \"app-secret\"\nconsistency = \"strong\"\n";
    for (more, mode) in [
        (String::new(), "session"),
        (global.to_owned(), "eventual"),
        (format!("{global}{database}"), "primary"),
        (format!("{global}{database}{user}"), "strong"),
    ] {
        let proxy = Proxy::shared(&more).await;
        let client = proxy.connect().await;
        assert_eq!(ask(&client, SHOW).await, mode);
        let other = proxy.connect_with("options='-c pgpilot.consistency=eventual'").await;
        assert_eq!(ask(&other, SHOW).await, "eventual");
        client.batch_execute("SET pgpilot.consistency = 'session'").await.unwrap();
        assert_eq!(ask(&client, SHOW).await, "session");
        client.batch_execute("BEGIN READ ONLY").await.unwrap();
        client.batch_execute("SET LOCAL pgpilot.consistency = 'primary'").await.unwrap();
        let before = proxy.count_of(Reason::Consistency);
        assert_eq!(ask(&client, SHOW).await, "primary");
        ask(&client, "SELECT 1").await;
        client.batch_execute("COMMIT").await.unwrap();
        assert!(proxy.count_of(Reason::Consistency) > before);
        assert_eq!(ask(&client, SHOW).await, "session", "SET LOCAL ends with the transaction");
        // Outside one it does nothing.
        client.batch_execute("SET LOCAL pgpilot.consistency = 'primary'").await.unwrap();
        assert_eq!(ask(&client, SHOW).await, "session");
        client.batch_execute("RESET pgpilot.consistency").await.unwrap();
        assert_eq!(ask(&client, SHOW).await, mode);
    }
}

/// pgpilot's own settings end where a server's would.
#[tokio::test]
async fn own_settings_are_undone_by_a_rollback_and_by_discard_all() {
    let proxy = Proxy::shared("").await;
    let client = proxy.connect().await;
    let now = async || {
        let mode = ask(&client, "SHOW pgpilot.consistency").await;
        format!("{mode} {} {}", ask(&client, "SHOW pgpilot.route").await, ask(&client, "SHOW pgpilot.min_lsn").await)
    };
    let before = now().await;
    let set = "SET pgpilot.consistency = 'eventual'; SET pgpilot.route = 'primary'; SET pgpilot.min_lsn = '1:0/1'";
    for (end, after) in [
        ("ROLLBACK", before.as_str()),
        ("SELECT 1 / 0; COMMIT", &before),
        ("SET LOCAL pgpilot.consistency = 'strong'; ROLLBACK", &before),
        ("COMMIT", "eventual primary 1:0/1"),
        ("SET LOCAL pgpilot.consistency = 'strong'; COMMIT", "eventual primary 1:0/1"),
    ] {
        for begin in ["BEGIN", "BEGIN; SELECT 1 FROM pg_class LIMIT 1"] {
            for statement in [begin, set, end].iter().flat_map(|part| part.split("; ")) {
                let _ = client.batch_execute(statement).await;
            }
            assert_eq!(now().await, after, "{begin}; ..; {end}");
            client.batch_execute("DISCARD ALL").await.unwrap();
            assert_eq!(now().await, before, "DISCARD ALL");
        }
    }
    client.batch_execute("SET pgpilot.consistency = 'eventual'").await.unwrap();
    client.batch_execute("RESET ALL").await.unwrap();
    assert_eq!(now().await, before, "RESET ALL");
}

/// As RESET does on a server, which pools of clients send whenever a connection comes back to them.
#[tokio::test]
async fn a_reset_goes_back_to_what_the_connection_was_started_with() {
    let proxy = Proxy::shared("").await;
    let all = "-c pgpilot.consistency=strong -c pgpilot.route=primary -c pgpilot.min_lsn=1:0/1";
    let client = proxy.connect_with(&format!("options='{all}'")).await;
    let now = async || {
        let mode = ask(&client, "SHOW pgpilot.consistency").await;
        format!("{mode} {} {}", ask(&client, "SHOW pgpilot.route").await, ask(&client, "SHOW pgpilot.min_lsn").await)
    };
    let each = |before: &str, behind: &str| {
        ["consistency", "route", "min_lsn"].map(|name| format!("{before} pgpilot.{name} {behind}")).join("; ")
    };
    let (reset, default) = (each("RESET", ""), each("SET", "TO DEFAULT"));
    for back in ["RESET ALL", "DISCARD ALL", reset.as_str(), &default] {
        let set = "SET pgpilot.consistency = 'eventual'; SET pgpilot.route = 'auto'; SET pgpilot.min_lsn = ''";
        for statement in set.split("; ") {
            client.batch_execute(statement).await.unwrap();
        }
        assert_eq!(now().await, "eventual auto ");
        for statement in back.split("; ") {
            client.batch_execute(statement).await.unwrap();
        }
        assert_eq!(now().await, "strong primary 1:0/1", "{back}");
    }
}

/// And where the next transaction begins with the end of the one before it.
#[tokio::test]
async fn own_settings_end_with_their_transaction_when_another_one_follows() {
    const SHOW: &str = "SHOW pgpilot.route";
    let proxy = Proxy::shared("").await;
    let client = proxy.connect().await;
    let (local, whole) = ("SET LOCAL pgpilot.route = 'primary'", "SET pgpilot.route = 'primary'");
    let failed = format!("{whole}; SELECT 1 / 0");
    for (set, end, after) in [
        (local, "COMMIT AND CHAIN", "auto"),
        (local, "ROLLBACK AND CHAIN", "auto"),
        (whole, "COMMIT AND CHAIN", "primary"),
        (whole, "ROLLBACK AND CHAIN", "auto"),
        (&failed, "COMMIT AND CHAIN", "auto"),
    ] {
        for begin in ["BEGIN", "BEGIN; SELECT 1", "BEGIN READ ONLY; SELECT 1"] {
            for statement in [begin, set, end].iter().flat_map(|part| part.split("; ")) {
                let _ = client.batch_execute(statement).await;
            }
            let what = format!("{begin}; {set}; {end}");
            assert_eq!(ask(&client, SHOW).await, after, "{what}");
            // What is set in the second is undone with it.
            client.batch_execute("SET pgpilot.route = 'replica'").await.unwrap();
            client.batch_execute("ROLLBACK").await.unwrap();
            assert_eq!(ask(&client, SHOW).await, after, "{what}; ROLLBACK");
            client.batch_execute("RESET pgpilot.route").await.unwrap();
        }
    }
}
