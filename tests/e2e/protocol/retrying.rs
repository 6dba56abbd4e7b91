//! A statement that a replica answers with an error that the primary might not give is run there. That costs no connection, and leaves none in another
//! state than its pool believes.

use super::play::{Delivery, SHOP, play_on};
use super::script::{Step, segments};
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;
use crate::support::{LIMIT, wait_for};

/// One line a message, as in `scripts.txt`.
fn steps(text: &str) -> Vec<Step> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| line.parse().expect("a step")).collect()
}

const FAILING: [&str; 6] = [
    "query SELECT * FROM nothing
     ready",
    "parse - SELECT * FROM nothing
     bind - -
     execute -
     sync
     ready",
    "query BEGIN READ ONLY
     ready
     query SELECT * FROM nothing
     ready
     query ROLLBACK
     ready",
    // What stands behind the error is skipped, and has not been prepared.
    "parse a SELECT 'a'
     parse x SELECT * FROM nothing
     parse b SELECT 'b'
     bind - a
     execute -
     sync
     ready
     bind - b
     sync
     ready
     close statement a
     sync
     ready",
    "query PREPARE q AS SELECT * FROM nothing
     ready
     query EXECUTE q
     ready",
    // The second and third are sent before the first has been answered.
    "parse s SELECT 's'
     parse f SELECT nothing()
     sync
     ready
     bind - s
     execute -
     sync
     bind - s
     execute -
     sync
     bind - s
     execute -
     sync
     ready
     await Z
     await Z
     close statement s
     sync
     ready",
];

const GOOD: &str = "parse a SELECT 'good'
    bind - a
    execute -
    close statement a
    sync
    ready
    parse b SELECT 'better'
    bind - b
    execute -
    close statement b
    sync
    ready
    query SELECT 1
    ready";

#[tokio::test]
async fn an_error_of_a_replica_costs_no_connection() {
    // What the primary has answered once may leave the replicas behind for longer than all this takes.
    let more = "[pool]\nmax_server_connections = 1\nmax_prepared = 2\n[routing]\nconsistency = \"eventual\"\n";
    let proxy = Proxy::with(more).await;
    let mut client = Raw::connect(proxy.port(), SHOP).await;
    wait_for("reads to go to replicas", LIMIT, async || {
        client.query("SELECT 1").await;
        proxy.counts().1 > 0
    })
    .await;
    let before = proxy.counts().1;
    let good = steps(GOOD);
    for round in 0..12 {
        for failing in FAILING {
            let replies = play_on(&mut client, &segments(&steps(failing)), Delivery::Whole).await;
            assert!(replies.iter().any(|reply| reply.starts_with("E ")), "round {round}: {failing}\n{replies:#?}");
            let replies = play_on(&mut client, &segments(&good), Delivery::Whole).await;
            assert!(replies.iter().all(|reply| !reply.starts_with("E ")), "round {round}: {failing}\n{replies:#?}");
        }
    }
    assert!(proxy.counts().1 > before, "nothing has run on a replica: {:?}", proxy.app.telemetry().metrics().routes());
    // To each node that was asked, the one connection that it may have was opened once.
    let dials: Vec<u64> = proxy.app.shared().pools.all().iter().map(|(_, pool)| pool.dials().0).collect();
    assert!(dials.iter().all(|&dials| dials <= 1), "{dials:?}");
}
