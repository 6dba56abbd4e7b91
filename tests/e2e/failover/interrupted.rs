//! A change of primary that does not come to its end is undone whole.

use std::time::{Duration, Instant};

use pgpilot::admin::Action;
use pgpilot::decide::failover::{Guards, Order, Run, conninfo};
use pgpilot::demo::{Scope, User};
use pgpilot::telemetry::{Count, Ending};

use super::cut::{behind_relays, cluster};
use super::{client_of, leave, plain, section, successor, table, until_written, without_hooks};
use crate::support::proxy::{Proxy, ask, recipe, topology};
use crate::support::{LIMIT, wait_for};

const SWITCHOVER: Order = Order::Switchover { to: None, run: Run::Real };
const NO_RECEIVER: &str = "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)";

/// As it is left by a pgpilot that is killed when it has cut off a replica and stopped the writes.
#[tokio::test]
async fn what_was_only_prepared_is_undone_by_the_next_pgpilot() {
    let proxy = without_hooks(plain(), "").await;
    table(&proxy).await;
    let servers = proxy.servers.clone();
    drop(proxy);
    let [primary, replica] = ["pg1", "pg2"].map(|name| servers.node(name).unwrap());
    primary.set("default_transaction_read_only", "on").await.unwrap();
    let before = replica.value("SHOW primary_conninfo").await.unwrap().unwrap();
    replica.set("primary_conninfo", &conninfo::sealed(&before)).await.unwrap();
    replica.wait_for_truth("it is cut off", NO_RECEIVER).await.unwrap();
    leave(&servers, "\"Preparing\"").await;
    let proxy = successor(&servers, &format!("{}automatic = true\n", section(&servers))).await;
    until_written(&client_of(&proxy).await, "INSERT INTO t VALUES (1)").await;
    proxy.wait_for_replicas(2).await;
    assert_eq!((proxy.primary().as_deref(), proxy.epoch()), (Some("pg1"), 7), "{:#?}", proxy.events());
    let record = std::fs::read_to_string(servers.directory().join("failover.state")).unwrap();
    assert!(record.contains("Steady"), "{record}");
}

/// A pgpilot is killed while its fence is at work.
#[tokio::test]
async fn the_next_pgpilot_begins_anew_where_one_was_killed_before_it_had_chosen() {
    let hangs = "fence_command = [\"tail\", \"-f\", \"/dev/null\"]\nhook_timeout = \"10m\"\n";
    let proxy = without_hooks(plain(), hangs).await;
    table(&proxy).await;
    let servers = proxy.servers.clone();
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    wait_for("the fence", LIMIT, async || proxy.app.operations().failover().state == "fencing").await;
    drop(proxy);
    let proxy = successor(&servers, &format!("{}automatic = true\n", section(&servers))).await;
    until_written(&client_of(&proxy).await, "INSERT INTO t VALUES (1)").await;
    assert_ne!(proxy.primary().as_deref(), Some("pg1"), "{:#?}", proxy.events());
}

#[tokio::test]
async fn a_hook_that_hangs_does_not_hold_up_writes_for_longer_than_a_switchover_may_take() {
    let proxy = without_hooks(plain(), "").await;
    table(&proxy).await;
    let servers = proxy.servers.clone();
    drop(proxy);
    for hook in ["pre_promote", "demote_command"] {
        let hangs = format!("{hook} = [\"tail\", \"-f\", \"/dev/null\"]\nhook_timeout = \"10m\"\n");
        let section = format!("{}automatic = true\nswitchover_timeout = \"2s\"\n{hangs}", section(&servers));
        let proxy = successor(&servers, &section).await;
        proxy.wait_for_replicas(2).await;
        let client = client_of(&proxy).await;
        let begun = Instant::now();
        let error = proxy.order(SWITCHOVER).await.unwrap_err().to_string();
        assert!(error.contains("took longer") || error.contains("its time was over"), "{hook}: {error}");
        until_written(&client, "INSERT INTO t VALUES (1)").await;
        assert!(begun.elapsed() < LIMIT, "{hook}: {:?}", begun.elapsed());
        assert_eq!(proxy.primary().as_deref(), Some("pg1"), "{hook}: {:#?}", proxy.events());
        assert_eq!(proxy.count(Count::Switchover(Ending::RolledBack)), 1, "{hook}");
    }
}

/// The old primary has been shut down when the hook hangs, and so does the one that is to start it again.
#[tokio::test]
async fn a_hook_that_hangs_while_a_switchover_is_undone_does_not_hold_up_writes_either() {
    let proxy = without_hooks(plain(), "").await;
    table(&proxy).await;
    let servers = proxy.servers.clone();
    drop(proxy);
    let file = servers.node("pg1").unwrap().data_directory().join("postmaster.pid");
    let stops = format!("kill -INT $(head -n 1 '{}'); exec tail -f /dev/null", file.display());
    let hangs = format!(
        "hook_timeout = \"1s\"\ndemote_command = [\"sh\", \"-c\", {stops:?}]\n\
         rejoin_command = [\"tail\", \"-f\", \"/dev/null\"]\n"
    );
    let proxy = successor(&servers, &format!("{}automatic = true\n{hangs}", section(&servers))).await;
    proxy.wait_for_replicas(2).await;
    let client = client_of(&proxy).await;
    let ordered = tokio::time::timeout(LIMIT, proxy.order(SWITCHOVER)).await.expect("an answer in time");
    let error = ordered.unwrap_err().to_string();
    assert!(error.contains("took longer"), "{error}");
    // Whoever brings a node back may copy it for a day; not here, where all writes wait for it.
    proxy.wait_for_event("is still read-only, or shut down: the rejoin hook took longer than 1s").await;
    assert_eq!(proxy.count(Count::Switchover(Ending::Failed)), 1, "{:#?}", proxy.events());
    // What is left is a primary that is lost.
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    assert_ne!(proxy.primary().as_deref(), Some("pg1"), "{:#?}", proxy.events());
}

/// The record cannot be written when the candidate has been chosen: then nobody is promoted.
#[tokio::test]
async fn what_cannot_be_written_down_is_not_done() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    let servers = proxy.servers.clone();
    drop((client, proxy));
    let (here, gone) = (servers.directory().join("state"), servers.directory().join("state.gone"));
    std::fs::create_dir(&here).unwrap();
    let file = here.join("failover.state");
    let section = format!(
        "[failover]\nuser = \"postgres\"\npassword = \"postgres\"\nautomatic = true\nstate_file = {file:?}\n\
         pre_promote = [\"mv\", {here:?}, {gone:?}]\n"
    );
    let proxy = successor(&servers, &section).await;
    proxy.wait_for_replicas(2).await;
    let client = client_of(&proxy).await;
    let error = proxy.order(SWITCHOVER).await.unwrap_err().to_string();
    assert!(error.contains("cannot be written down"), "{error}");
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(proxy.primary().as_deref(), Some("pg1"), "{:#?}", proxy.events());
    for replica in ["pg2", "pg3"] {
        assert_eq!(proxy.node(replica).value("SELECT pg_is_in_recovery()").await.unwrap().as_deref(), Some("t"));
    }
    // Who could write it down then, does.
    std::fs::rename(&gone, &here).unwrap();
    let written = async || std::fs::read_to_string(&file).is_ok_and(|record| record.contains("Steady"));
    wait_for("the record", LIMIT, written).await;
}

/// The old primary lives, and is fenced by SQL; then there is nobody to be promoted.
#[tokio::test]
async fn a_failover_that_is_called_off_lets_the_old_primary_write_again() {
    let servers = cluster().await;
    let go = servers.directory().join("go");
    let script = format!("until [ -e '{}' ]; do sleep 0.02; done", go.display());
    let (proxy, relays) = behind_relays(&servers, &format!("pre_promote = [\"sh\", \"-c\", {script:?}]\n")).await;
    let client = table(&proxy).await;
    let stranger = proxy.node("pg1").connect_to("shop").await.unwrap();
    let waived = Guards::LIVE_PRIMARY | Guards::DATA_LOSS;
    let operations = proxy.app.operations();
    let order = Action::Order(Order::Failover { to: None, waived, run: Run::Real });
    let ordered = tokio::spawn(async move { operations.perform(order).await.map(drop) });
    wait_for("it to begin", LIMIT, async || proxy.app.operations().failover().state == "approving").await;
    relays[1..].iter().for_each(crate::support::relay::Relay::cut);
    std::fs::write(&go, "").unwrap();
    let error = ordered.await.unwrap().unwrap_err();
    assert!(stranger.is_closed(), "there was no fence: {error}: {:#?}", proxy.events());
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    assert_eq!(proxy.primary().as_deref(), Some("pg1"), "{:#?}", proxy.events());
    let setting = proxy.node("pg1").value("SHOW default_transaction_read_only").await.unwrap();
    assert_eq!(setting.as_deref(), Some("off"));
    assert_eq!(proxy.count(Count::Failover(Ending::RolledBack)), 1);
    relays[1..].iter().for_each(crate::support::relay::Relay::mend);
    proxy.wait_for_replicas(2).await;
}

/// A role that may do all that a switchover takes, and is no superuser, cannot end a superuser's session.
#[tokio::test]
async fn who_cannot_stop_a_superuser_does_not_hand_over() {
    let keeper = User::scram("keeper", "keeper-secret").with("REPLICATION IN ROLE pg_monitor, pg_signal_backend");
    let servers = super::attentive(recipe().user(keeper))
        .sql("GRANT EXECUTE ON FUNCTION pg_promote, pg_reload_conf TO keeper")
        .sql("GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, default_transaction_read_only TO keeper")
        .sql("GRANT CREATE ON DATABASE postgres TO keeper");
    let servers = std::sync::Arc::new(servers.start().await.unwrap());
    let section =
        section(&servers).replace("\"postgres\"\npassword = \"postgres\"", "\"keeper\"\npassword = \"keeper-secret\"");
    let proxy = Proxy::before(servers, &section).await;
    let client = table(&proxy).await;
    let superuser = proxy.node("pg1").connect_to("shop").await.unwrap();
    let error = proxy.order(SWITCHOVER).await.unwrap_err().to_string();
    assert!(error.contains("sessions of superusers can go on writing"), "{error}");
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    superuser.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(proxy.primary().as_deref(), Some("pg1"), "{:#?}", proxy.events());
    drop(superuser);
    let handed_over = async || proxy.order(SWITCHOVER).await.is_ok();
    wait_for("a switchover", Duration::from_secs(60), handed_over).await;
    until_written(&client, "INSERT INTO t VALUES (3)").await;
    assert_ne!(proxy.primary().as_deref(), Some("pg1"), "{:#?}", proxy.events());
}

/// It may have been promoted, and nobody can ask: so nobody else is, and it is waited for.
#[tokio::test]
async fn a_candidate_that_dies_half_way_stays_the_candidate() {
    let servers = cluster().await;
    leave(&servers, "{\"Promoting\": {\"candidate\": \"pg3\", \"decided\": \"0/1\"}}").await;
    for node in ["pg1", "pg3"] {
        servers.node(node).unwrap().kill9(Scope::Node).await.unwrap();
    }
    let section = format!("{}automatic = true\nstart_timeout = \"500ms\"\n", section(&servers));
    let proxy = successor(&servers, &section).await;
    proxy.wait_for_event("may have taken writes before pgpilot was restarted: it is waited for").await;
    assert_eq!(proxy.primary(), None, "{:#?}", proxy.events());
    servers.node("pg3").unwrap().start().await.unwrap();
    let client = client_of(&proxy).await;
    until_written(&client, "CREATE TABLE t (n int)").await;
    assert_eq!((proxy.primary().as_deref(), proxy.epoch()), (Some("pg3"), 7), "{:#?}", proxy.events());
}

/// .. and when it is known to be gone, another one is promoted.
#[tokio::test]
async fn a_candidate_that_is_killed_while_it_is_promoted_is_replaced() {
    let servers = cluster().await;
    let begun = servers.node("pg2").unwrap().data_directory().join("begun");
    // The end of its recovery is the last thing before it takes writes: it does not come to that.
    let hangs = format!("touch {}; while kill -0 $PPID; do sleep 0.1; done", begun.display());
    servers.node("pg2").unwrap().set("recovery_end_command", &hangs).await.unwrap();
    let more = "automatic = true\nstart_timeout = \"500ms\"\nfence_command = [\"true\"]\n";
    let mut config = topology(&servers, &format!("{}{more}", section(&servers)));
    config.nodes[1].priority = 200;
    let proxy = Proxy::configured(servers.clone(), config).await;
    let client = table(&proxy).await;
    for n in 1..=100 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({n})")).await.unwrap();
    }
    servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    wait_for("the promotion to begin", LIMIT, async || begun.exists()).await;
    proxy.node("pg2").kill9(Scope::Node).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (0)").await;
    assert_eq!(proxy.primary().as_deref(), Some("pg3"), "{:#?}", proxy.events());
    let all = ask(&client, "/* pgpilot: primary */ SELECT format('%s %s', count(*), sum(n)) FROM t").await;
    assert_eq!(all, "101 5050", "{:#?}", proxy.events());
}
