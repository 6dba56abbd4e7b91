//! What pgpilot itself asks a server for a client: nobody has to wait for it longer than for the client's own statements.

use std::sync::Arc;
use std::time::Duration;

use pgpilot::demo::Scope;
use pgpilot::wire::startup::PROTOCOL_3_0;

use super::waiting::{cancelled, code, query};
use crate::support::proxy::{Proxy, USER, servers, topology};
use crate::support::raw::{Raw, tags};
use crate::support::{LIMIT, wait_for};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

/// A client for which something has to be set on every connection.
async fn particular(proxy: &Proxy) -> Raw {
    let parameters = [("user", USER), ("database", "shop"), ("options", "-c work_mem=5MB")];
    Raw::connect_with(proxy.port(), PROTOCOL_3_0, &parameters).await.unwrap_or_else(|refusal| panic!("{refusal:?}"))
}

/// Waits until a server connection works for the client.
async fn holding(proxy: &Proxy, client: &Raw) {
    wait_for("the client to hold a connection", LIMIT, async || {
        proxy.app.shared().registry.rows().iter().any(|row| row.pid == client.pid && row.node.is_some())
    })
    .await;
}

/// A pgpilot whose one connection to the primary has to be prepared for the client; the primary is frozen, which is not noticed.
async fn frozen(own_limit: Duration) -> (Proxy, Raw) {
    let servers = Arc::new(servers().await);
    let mut config = topology(&servers, "[pool]\nmax_server_connections = 1\n");
    config.pool.connect_timeout = own_limit;
    config.routing.primary_wait = LONG;
    config.health.timeout = LONG;
    let proxy = Proxy::configured(servers, config).await;
    let client = particular(&proxy).await;
    // A connection is open, and in another state.
    let mut other = Raw::connect(proxy.port(), "shop").await;
    assert_eq!(other.ask("/* pgpilot: primary */ SELECT 1").await, "1");
    proxy.node("pg1").freeze(Scope::Node).await.unwrap();
    (proxy, client)
}

const ASK: &str = "/* pgpilot: primary */ SELECT current_setting('work_mem')";

#[tokio::test]
async fn a_connection_that_is_being_prepared_can_be_waited_for_in_vain() {
    let (proxy, mut client) = frozen(LONG).await;
    client.send(&query(ASK)).await;
    holding(&proxy, &client).await;
    let frames = cancelled(proxy.port(), &mut client).await;
    assert_eq!((code(&frames), &*tags(&frames)), (Some("57014"), "EZ"));
    proxy.node("pg1").thaw().unwrap();
    assert_eq!(client.ask(ASK).await, "5MB");
}

#[tokio::test]
async fn a_connection_that_is_being_prepared_can_be_severed() {
    let (proxy, mut client) = frozen(LONG).await;
    client.send(&query(ASK)).await;
    holding(&proxy, &client).await;
    let shared = proxy.app.shared();
    let primary = shared.cluster.snapshot().usable_primary().expect("it is not missed").id;
    assert_eq!(shared.registry.sever(primary), 1);
    // Nothing of the client's had been sent: it is sent on another connection.
    proxy.node("pg1").thaw().unwrap();
    let frames = client.until(b'Z').await;
    assert_eq!(tags(&frames), "TDCZ", "{frames:?}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_pgpilot_is_given_up() {
    let (proxy, mut client) = frozen(Duration::from_secs(5)).await;
    client.send(&query(ASK)).await;
    holding(&proxy, &client).await;
    wait_for("the connection to be given up", LIMIT, async || {
        proxy.app.shared().registry.rows().iter().any(|row| row.pid == client.pid && row.node.is_none())
    })
    .await;
    proxy.node("pg1").thaw().unwrap();
    let frames = client.until(b'Z').await;
    assert_eq!(tags(&frames), "TDCZ", "{frames:?}");
}
