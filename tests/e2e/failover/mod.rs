//! pgpilot changes the primary itself: of its own accord when that is lost, and when it is asked to.

mod alive;
mod apart;
mod campaign;
mod chains;
mod cut;
mod guards;
mod handing_over;
mod held;
mod interrupted;
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
use tokio_postgres::Client;

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
        let in_time = tokio::time::timeout(LIMIT, wait_for("a quarantine", LIMIT * 2, apart)).await;
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
        let in_time = tokio::time::timeout(LIMIT, wait_for("another primary", LIMIT * 2, changed)).await;
        assert!(in_time.is_ok(), "{old} stays the primary: {:#?}", self.events());
    }

    /// Waits until operators are told something.
    async fn wait_for_event(&self, text: &str) {
        let told = async || self.events().iter().any(|event| event.contains(text));
        let in_time = tokio::time::timeout(LIMIT, wait_for(text, LIMIT * 2, told)).await;
        assert!(in_time.is_ok(), "nobody was told {text:?}: {:#?}", self.events());
    }
}

/// Writes until a write succeeds, and returns how long that took.
async fn until_written(client: &Client, sql: &str) -> Duration {
    let begun = Instant::now();
    while let Err(error) = client.batch_execute(sql).await {
        assert!(begun.elapsed() < LIMIT, "{error:?}");
        assert!(!client.is_closed());
    }
    begun.elapsed()
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
