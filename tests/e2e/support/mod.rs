//! What end-to-end tests have in common.

pub(crate) mod etcd;
pub(crate) mod plain;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod relay;
pub(crate) mod watch;

use std::time::Duration;

use pgpilot::demo::{LocalCluster, wait};
use tokio::time::timeout;

/// Long enough for a loaded machine; a test that fails takes this long.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The cluster that all tests of this process share. Do not stop, promote or reconfigure its nodes.
pub(crate) async fn cluster() -> &'static LocalCluster {
    LocalCluster::shared().await.expect("the shared cluster starts")
}

/// A cluster of one's own, with two replicas.
pub(crate) async fn own_cluster() -> LocalCluster {
    LocalCluster::builder().start().await.expect("a cluster starts")
}

/// Waits until the condition holds; panics with `what` after `limit`, or when the condition itself does not come to an end.
pub(crate) async fn wait_for(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let holds = wait::until(what, limit, async || Ok(condition().await.then_some(())));
    let outcome =
        timeout(limit * 2, holds).await.unwrap_or_else(|_| panic!("{what}: no word of it within {:?}", limit * 2));
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
