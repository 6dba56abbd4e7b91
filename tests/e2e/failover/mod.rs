//! pgpilot changes the primary itself: of its own accord when that is lost, and when it is asked to.
//!
//! What happens, and the test that shows what is done about it:
//!
//! - The primary is killed: `losing::a_killed_primary_is_replaced_in_about_a_second`. It is frozen, and thaws:
//!   `losing::a_frozen_primary_is_replaced_and_fenced_when_it_thaws`. Its postmaster alone is frozen:
//!   `guards::a_postmaster_that_is_frozen_alone_is_no_lost_primary`.
//! - pgpilot alone is cut off from it: `cut::a_primary_that_pgpilot_alone_cannot_reach_is_not_replaced`. Everybody is:
//!   `cut::a_primary_that_nobody_reaches_is_replaced_and_fenced_when_it_is_found`. pgpilot is cut off from all:
//!   `cut::a_pgpilot_that_sees_nothing_does_nothing`; an instance is, and another one is not:
//!   `several::dark::an_instance_that_sees_no_node_lets_another_one_decide`.
//! - All nodes die: `alive::when_all_are_dead_the_primary_is_waited_for`. The primary and a synchronous standby do:
//!   `guards::without_a_quorum_nobody_is_promoted_unless_loss_is_allowed`.
//! - The data disk is full: `alive::a_full_data_disk_is_for_operators`. The disk of the log is:
//!   `losing::a_primary_whose_log_has_no_room_is_replaced`.
//! - The primary is slow: `alive::a_slow_primary_is_waited_for`. It recovers (57P03):
//!   `alive::a_primary_that_recovers_is_waited_for_as_long_as_it_is_allowed_to_take`,
//!   `guards::a_primary_that_restarts_stays_the_primary`. It is lost again and again:
//!   `losing::a_primary_that_is_lost_again_and_again_is_left_to_operators`.
//! - The primary is cut off from its replicas:
//!   `cut::a_primary_that_is_cut_off_from_its_replicas_goes_on_and_serves_the_reads`. pgpilot is, from all but the primary:
//!   `cut::a_pgpilot_that_sees_the_primary_alone_sends_it_everything`.
//! - The candidate dies while it is promoted: `interrupted::a_candidate_that_dies_half_way_stays_the_candidate`,
//!   `interrupted::a_candidate_that_is_killed_while_it_is_promoted_is_replaced`, `giving_up` and the simulation in src/decide/failover.
//! - pgpilot is killed: before anybody was chosen,
//!   `interrupted::the_next_pgpilot_begins_anew_where_one_was_killed_before_it_had_chosen` and
//!   `interrupted::what_was_only_prepared_is_undone_by_the_next_pgpilot`; when somebody was,
//!   `losing::a_new_pgpilot_goes_on_with_a_promotion_that_was_begun`; at any moment, the simulation.
//! - pgpilot can write nothing down half-way: `interrupted::what_cannot_be_written_down_is_not_done`. A hook hangs:
//!   `interrupted::a_hook_that_hangs_does_not_hold_up_writes_for_longer_than_a_switchover_may_take`. A failover is called
//!   off: `interrupted::a_failover_that_is_called_off_lets_the_old_primary_write_again`.
//! - Somebody reads on the candidate: `losing::whoever_reads_on_a_candidate_does_not_hold_up_its_promotion`. It does not
//!   replay: `handing_over::a_candidate_that_does_not_replay_is_refused_before_anybody_waits`. A third node is frozen in a
//!   switchover: `handing_over::a_replica_that_hangs_is_not_waited_for`.
//! - Replicas of replicas: `chains`. One that lags on purpose: `guards::a_delayed_replica_is_no_candidate`. One of another
//!   cluster: `watching::a_node_of_another_cluster_is_rejected`. One that dies and comes back:
//!   `watching::a_killed_replica_is_out_at_once_and_back_when_caught_up`.
//! - A node has writes of its own: `apart::a_node_with_writes_of_its_own_is_quarantined`. The old primary comes back
//!   writable: `losing::an_old_primary_that_comes_back_writable_is_fenced_and_brought_back`. Somebody else promotes, too:
//!   `apart::of_two_promotions_the_one_that_was_written_down_counts`,
//!   `apart::a_node_that_left_before_the_last_epoch_takes_nobodys_place`; twice, to one timeline:
//!   `apart::a_second_promotion_to_the_same_timeline_is_followed_when_the_first_one_is_dead`. pgpilot is killed while it
//!   brings one back: `apart::the_next_pgpilot_brings_back_what_one_that_was_killed_had_stopped_for_that`.
//! - The record is another cluster's: `apart::what_was_decided_about_another_cluster_is_left_alone`.
//! - pgpilot's machine stands still: `alive::a_pgpilot_that_was_paused_does_not_take_its_pause_for_a_failure`.
//! - Clients wait meanwhile, or because of a PAUSE: `held`. Some listen: `listening`. Nothing acknowledged is lost: `campaign`.

mod alive;
mod apart;
mod campaign;
mod chains;
mod cut;
mod guards;
mod handing_over;
mod held;
mod interrupted;
mod listening;
mod losing;
mod several;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgpilot::admin::{Action, Refused};
use pgpilot::app::App;
use pgpilot::decide::failover::Order;
use pgpilot::decide::health::Stage;
use pgpilot::decide::route::{NodeId, State};
use pgpilot::demo::{Builder, Hooks, LocalCluster};
use pgpilot::telemetry::Count;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

use crate::support::proxy::{Proxy, recipe, topology};
use crate::support::{LIMIT, wait_for};

/// A primary that is frozen is missed by its replicas within two seconds.
fn attentive(builder: Builder) -> Builder {
    builder.setting("wal_receiver_timeout", "3s").setting("wal_receiver_status_interval", "1s")
}

/// A cluster whose nodes are fenced, demoted and brought back by hooks, behind a pgpilot.
struct Theatre {
    proxy: Proxy,
    _hooks: Hooks,
}

async fn with_hooks(builder: Builder, more: &str) -> Theatre {
    let servers = Arc::new(attentive(builder).start().await.unwrap());
    let hooks = servers.serve_hooks(Path::new(env!("CARGO_BIN_EXE_pgpilot"))).unwrap();
    let command = hooks.command();
    let section = format!(
        "{}automatic = true\nfence_command = {command:?}\ndemote_command = {command:?}\nrejoin_command = {command:?}\n{more}",
        section(&servers)
    );
    Theatre { proxy: Proxy::before(servers, &section).await, _hooks: hooks }
}

/// Nobody but pgpilot does anything about the nodes.
async fn without_hooks(builder: Builder, more: &str) -> Proxy {
    let servers = Arc::new(attentive(builder).start().await.unwrap());
    let automatic = if more.contains("automatic") { "" } else { "automatic = true\n" };
    let section = format!("{}{automatic}{more}", section(&servers));
    Proxy::before(servers, &section).await
}

fn section(servers: &LocalCluster) -> String {
    let state = servers.directory().join("failover.state");
    format!("[failover]\nuser = \"postgres\"\npassword = \"postgres\"\nmin_interval = \"0s\"\nstate_file = {state:?}\n")
}

/// The next pgpilot before these servers, whatever the one that has just been dropped has left.
async fn successor(servers: &Arc<LocalCluster>, section: &str) -> Proxy {
    let mut started = None;
    // The old one lets go of the record when its tasks have ended.
    wait_for("the record to be free", LIMIT, async || {
        started = App::start(topology(servers, section), None).await.ok();
        started.is_some()
    })
    .await;
    Proxy { app: started.unwrap(), servers: servers.clone() }
}

/// A client of a pgpilot that may be in the middle of something else.
async fn client_of(proxy: &Proxy) -> Client {
    let mut client = None;
    wait_for("a login", LIMIT * 2, async || {
        if let Ok((connected, connection)) = tokio_postgres::connect(&proxy.url(), NoTls).await {
            tokio::spawn(connection);
            client = Some(connected);
        }
        client.is_some()
    })
    .await;
    client.unwrap()
}

/// Writes the record of a pgpilot that was killed in epoch 7, which pg1 had begun as the primary.
async fn leave(servers: &LocalCluster, progress: &str) {
    let mut system = None;
    for node in servers.running() {
        system = node.value("SELECT system_identifier FROM pg_control_system()").await.unwrap();
    }
    let record = format!(
        "{{\"epoch\": 7, \"system\": {}, \"primary\": \"pg1\", \"timeline\": 1, \"synchronous\": \"\", \
         \"maintenance\": \"Off\", \"progress\": {progress}}}",
        system.unwrap()
    );
    std::fs::write(servers.directory().join("failover.state"), record).unwrap();
}

impl Proxy {
    fn epoch(&self) -> u64 {
        self.app.operations().failover().epoch
    }

    fn count(&self, count: Count) -> u64 {
        self.app.telemetry().metrics().total(count)
    }

    async fn wait_until_quarantined(&self, name: &str) {
        let apart = async || {
            let snapshot = self.app.shared().cluster.snapshot();
            snapshot.node(self.id(name)).is_some_and(|node| node.state == State::Quarantined)
        };
        let in_time = timeout(LIMIT, wait_for("a quarantine", LIMIT * 2, apart)).await;
        assert!(in_time.is_ok(), "{name} is not quarantined: {:#?}", self.events());
    }

    fn primary(&self) -> Option<String> {
        let snapshot = self.app.shared().cluster.snapshot();
        Some(snapshot.usable_primary()?.name.to_string())
    }

    fn id(&self, name: &str) -> NodeId {
        self.app.shared().cluster.find(name).unwrap()
    }

    /// Whether a replica streams the primary's history, as its newest probe tells.
    fn follows_primary(&self, name: &str) -> bool {
        let cluster = &self.app.shared().cluster;
        let (snapshot, answer) = (cluster.snapshot(), cluster.answer(self.id(name)));
        answer.is_some_and(|answer| {
            answer.timeline == snapshot.timeline
                && matches!(&answer.stage, Stage::Recovering(recovery) if recovery.receiver.is_some())
        })
    }

    async fn order(&self, order: Order) -> Result<Vec<String>, Refused> {
        self.app.operations().perform(Action::Order(order)).await.map(|outcome| outcome.notices)
    }

    /// What happened, for a test that fails.
    fn events(&self) -> Vec<String> {
        let journal = self.app.shared().cluster.journal().entries();
        journal.into_iter().map(|entry| format!("{} {}", entry.node.unwrap_or_default(), entry.text)).collect()
    }

    async fn wait_for_another_than(&self, old: &str) {
        let changed = async || self.primary().is_some_and(|new| new != old);
        let in_time = timeout(LIMIT, wait_for("another primary", LIMIT * 2, changed)).await;
        assert!(in_time.is_ok(), "{old} stays the primary: {:#?}", self.events());
    }

    /// Waits until operators are told something.
    async fn wait_for_event(&self, text: &str) {
        let told = async || self.events().iter().any(|event| event.contains(text));
        let in_time = timeout(LIMIT, wait_for(text, LIMIT * 2, told)).await;
        assert!(in_time.is_ok(), "nobody was told {text:?}: {:#?}", self.events());
    }
}

/// Writes until a write succeeds, and returns how long that took.
async fn until_written(client: &Client, sql: &str) -> Duration {
    let begun = Instant::now();
    loop {
        let outcome = timeout(LIMIT * 2, client.batch_execute(sql)).await.expect("an answer in time");
        let Err(error) = outcome else { return begun.elapsed() };
        assert!(begun.elapsed() < LIMIT, "{error:?}");
        assert!(!client.is_closed());
    }
}

/// A client, and a table `t` that every replica has.
async fn table(proxy: &Proxy) -> Client {
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    client
}

fn plain() -> Builder {
    recipe()
}
