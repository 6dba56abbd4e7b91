//! A cancel request hits the statement that it was meant for, or none.

use std::time::{Duration, Instant};

use crate::support::plain::{Raw, TRUST, errors, values};
use crate::support::proxy::{Proxy, ask};
use crate::support::{LIMIT, wait_for};

#[tokio::test]
async fn a_cancel_in_time_cancels() {
    let proxy = Proxy::shared("").await;
    let client = proxy.connect().await;
    let token = client.cancel_token();
    for sql in ["SELECT pg_sleep(30)", "/* pgpilot: primary */ SELECT pg_sleep(30)"] {
        let begun = Instant::now();
        let (outcome, ()) = tokio::join!(client.simple_query(sql), async {
            let running = async || {
                let rows = proxy.app.shared().registry.rows();
                rows.iter().any(|row| row.node.is_some())
            };
            wait_for("the statement to run", LIMIT, running).await;
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        });
        assert_eq!(outcome.unwrap_err().code().map(|code| code.code()), Some("57014"), "{sql}");
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(ask(&client, "SELECT 1").await, "1");
    }
}

#[tokio::test]
async fn a_late_cancel_hits_nobody_else() {
    const ROUNDS: usize = 300;
    let proxy = Proxy::shared(&format!("[pool]\nmax_server_connections = 1\n{TRUST}")).await;
    let port = proxy.port();
    let (mut hasty, mut next) = (Raw::connect(port).await, Raw::connect(port).await);
    let (pid, key) = (hasty.pid, hasty.key.clone());
    let mut hit = 0;
    for n in 0..ROUNDS {
        // The request is under way while the statement ends and the connection goes to the next client.
        let cancelling = {
            let key = key.clone();
            tokio::spawn(async move { Raw::cancel(port, pid, &key).await })
        };
        let first = hasty.query("/* pgpilot: primary */ SELECT 1").await;
        match errors(&first).as_slice() {
            [] => assert_eq!(values(&first), ["1"]),
            [code] => {
                assert_eq!(code, "57014");
                hit += 1;
            }
            more => panic!("{more:?}"),
        }
        let second = next.query("/* pgpilot: primary */ SELECT pg_sleep(0.003), 2").await;
        assert!(errors(&second).is_empty(), "round {n}: {second:?}");
        cancelling.await.unwrap();
    }
    println!("{hit} of {ROUNDS} requests came in time");
    // A wrong key is no key.
    Raw::cancel(port, next.pid, &[0; 4]).await;
    let slept = next.query("/* pgpilot: primary */ SELECT pg_sleep(0.05), 3").await;
    assert!(errors(&slept).is_empty(), "{slept:?}");
}
