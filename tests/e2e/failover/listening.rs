//! Sessions that listen, through changes of primary.

use pgpilot::decide::failover::{Order, Run};
use pgpilot::demo::Scope;
use pgpilot::wire::backend::{NOTICE_RESPONSE, NOTIFICATION_RESPONSE};

use super::{plain, table, with_hooks, without_hooks};
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;

/// It says nothing while the primary changes, and hears what is notified from then on.
async fn through_a_change(proxy: &Proxy, change: impl AsyncFnOnce()) {
    let notifier = table(proxy).await;
    let mut listener = Raw::connect(proxy.port(), "shop").await;
    for statement in ["LISTEN gone", "LISTEN \"caf\u{e9} \\ \"\"x\"", "UNLISTEN gone"] {
        listener.query(statement).await;
    }
    assert_eq!(listener.ask("SHOW pgpilot.pins").await, "listen");
    change().await;
    let told = listener.until(NOTICE_RESPONSE).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].field(b'H').is_some_and(|hint| hint.contains("has not arrived")), "{told:?}");
    notifier.batch_execute("NOTIFY gone; NOTIFY \"caf\u{e9} \\ \"\"x\", 'here'").await.unwrap();
    let told = listener.until(NOTIFICATION_RESPONSE).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].body.ends_with("caf\u{e9} \\ \"x\0here\0".as_bytes()), "{told:?}");
    assert_eq!(listener.ask("SHOW pgpilot.pins").await, "listen");
    listener.query("UNLISTEN *").await;
    assert_eq!(listener.ask("SHOW pgpilot.pins").await, "");
}

#[tokio::test]
async fn a_session_that_listens_stays_through_a_switchover() {
    let proxy = without_hooks(plain(), "").await;
    let order = Order::Switchover { to: None, run: Run::Real };
    through_a_change(&proxy, async || drop(proxy.order(order).await.unwrap())).await;
}

#[tokio::test]
async fn a_session_that_listens_stays_when_its_primary_is_killed() {
    let stage = with_hooks(plain(), "").await;
    through_a_change(&stage.proxy, async || stage.proxy.node("pg1").kill9(Scope::Node).await.unwrap()).await;
}
