//! psql.

use rustix::process::{Pid, Signal, kill_process};

use super::{BY_SESSION, BY_TRANSACTION, Site, ends, script, succeeds};
use crate::support::{LIMIT, wait_for};

#[tokio::test]
async fn psql_prints_what_it_prints_without_pgpilot() {
    let site = Site::start().await;
    for database in [BY_TRANSACTION, BY_SESSION] {
        let mut said = Vec::new();
        for mut command in [site.through(site.tool("psql"), database), site.directly(site.tool("psql"), database)] {
            command.args(["-X", "-e", "-L", "said", "-f"]).arg(script("with_psql.sql")).env("PSQL_PAGER", "");
            // The log has results and errors in the order in which they came; what psql complains of itself is not in it.
            let output = ends(&mut command).await;
            let log = std::fs::read_to_string(site.files.path().join("said")).unwrap();
            std::fs::remove_file(site.files.path().join("said")).unwrap();
            said.push(without_pids(
                &(log + &String::from_utf8_lossy(&output.stdout) + &String::from_utf8_lossy(&output.stderr)),
            ));
            assert!(output.status.success(), "{}", said.last().unwrap());
        }
        let (through, directly) = (said[0].lines(), said[1].lines());
        for (number, (found, expected)) in through.zip(directly).enumerate() {
            assert_eq!(found, expected, "line {number} of\n{}", said[0]);
        }
        assert_eq!(said[0].len(), said[1].len());
    }
}

#[tokio::test]
async fn what_psql_reads_is_read_on_replicas() {
    let site = Site::start().await;
    // The first reads may find a replica that has not caught up with the founding of the cluster.
    wait_for("psql to read on a replica", LIMIT, async || {
        let before = site.proxy.counts();
        let mut command = site.through(site.tool("psql"), BY_TRANSACTION);
        command.arg("-X").args((0..10).flat_map(|n| ["-c".to_owned(), format!("SELECT {n}")]));
        succeeds(command).await;
        site.reads_since(before) == 10
    })
    .await;
}

/// The process that a notification came from is another one each time.
fn without_pids(text: &str) -> String {
    let mut parts = text.split("with PID ");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str("with PID ..");
        kept.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    kept
}

#[tokio::test]
async fn psql_logs_in_in_every_way() {
    let site = Site::start().await;
    let ca = site.ca();
    let ca = ca.display();
    let tls = format!("host=localhost hostaddr=127.0.0.1 sslrootcert={ca}");
    for (words, expected) in [
        ("sslmode=disable".to_owned(), Ok("app f")),
        ("sslmode=disable gssencmode=disable channel_binding=disable".to_owned(), Ok("app f")),
        ("sslmode=require channel_binding=require".to_owned(), Ok("app t")),
        (format!("sslmode=verify-full channel_binding=require {tls}"), Ok("app t")),
        (format!("sslmode=verify-full channel_binding=disable {tls}"), Ok("app t")),
        ("user=old password=old-secret sslmode=disable".to_owned(), Ok("old f")),
        ("user=old password=old-secret sslmode=require".to_owned(), Ok("old t")),
        ("user=old password=wrong".to_owned(), Err("password authentication failed for user \"old\"")),
        ("password=wrong".to_owned(), Err("password authentication failed for user \"app\"")),
        ("sslmode=disable channel_binding=require".to_owned(), Err("channel binding required")),
        ("sslmode=verify-full host=127.0.0.1 sslrootcert=server.crt".to_owned(), Err("certificate verify failed")),
        ("dbname=nowhere".to_owned(), Err("database \"nowhere\" does not exist")),
        ("options='-c nonsense=1'".to_owned(), Err("unrecognized configuration parameter \"nonsense\"")),
    ] {
        // psql knows whether its own connection is encrypted; the server's view is of pgpilot's.
        let mut command = site.through(site.tool("psql"), BY_TRANSACTION);
        command.args(["-XAt", "-c", "SELECT current_user", "-c", "\\conninfo", &words]);
        let output = ends(&mut command).await;
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match expected {
            Ok(expected) => {
                assert!(output.status.success(), "{words}: {complained}");
                let encrypted = if said.contains("SSL connection (protocol: TLSv1.3") { "t" } else { "f" };
                assert_eq!(format!("{} {encrypted}", said.lines().next().unwrap_or_default()), expected, "{words}");
            }
            Err(expected) => {
                assert_eq!(output.status.code(), Some(2), "{words}: {said}");
                assert!(complained.contains(expected), "{words}: {complained}");
            }
        }
    }
}

#[tokio::test]
async fn ctrl_c_cancels() {
    let site = Site::start().await;
    for database in [BY_TRANSACTION, BY_SESSION] {
        let mut command = site.through(site.tool("psql"), database);
        command.args(["-XAt", "-c", "SELECT pg_sleep(60), 'interrupted'"]);
        let running = command.spawn().unwrap();
        let pid = Pid::from_raw(running.id().unwrap().cast_signed()).unwrap();
        wait_for("the statement to run", LIMIT, async || {
            let asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60), ''interrupted%' \
                         AND pid <> pg_backend_pid()";
            for node in site.proxy.servers.nodes() {
                if node.value(asked).await.unwrap().as_deref() == Some("1") {
                    return true;
                }
            }
            false
        })
        .await;
        kill_process(pid, Signal::INT).unwrap();
        let output = tokio::time::timeout(LIMIT, running.wait_with_output()).await.expect("it ends").unwrap();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(complained.contains("canceling statement due to user request"), "{complained}");
    }
    succeeds({
        let mut command = site.through(site.tool("psql"), BY_TRANSACTION);
        command.args(["-X", "-c", "SELECT 1"]);
        command
    })
    .await;
}
