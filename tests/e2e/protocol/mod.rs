//! The protocol, to the byte.

mod budget;
mod cancelling;
mod cuts;
mod garbage;
mod own_queries;
mod parting;
mod play;
mod random;
mod resets;
mod retrying;
mod same;
mod script;
mod startup;
mod streaming;
mod torn;
mod vanishing;
mod waiting;

use pgpilot::demo::LocalCluster;

/// How many servers' processes run a statement with this text.
async fn active(servers: &LocalCluster, text: &str) -> usize {
    let text = text.replace('\'', "''");
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '{text}'");
    let mut count = 0;
    for node in servers.nodes() {
        let value = node.value(&sql).await.expect("a node answers").expect("a count");
        count += value.parse::<usize>().expect("a number");
    }
    count
}
