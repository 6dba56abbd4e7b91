//! The JDBC driver.

use std::env;
use std::path::PathBuf;

use tokio::process::Command;

use super::{BY_SESSION, BY_TRANSACTION, Site, script, succeeds};

/// Where Debian's package puts it; `PGPILOT_JDBC_JAR` names another one.
const DEBIAN: &str = "/usr/share/java/postgresql.jar";

#[tokio::test]
async fn jdbc_works() {
    let site = Site::start().await;
    let jar = env::var_os("PGPILOT_JDBC_JAR").map_or_else(|| PathBuf::from(DEBIAN), PathBuf::from);
    let mut compile = Command::new("javac");
    compile.arg("-cp").arg(&jar).arg("-d").arg(site.files.path()).arg(script("WithJdbc.java")).kill_on_drop(true);
    compile.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    succeeds(compile).await;
    let path = env::join_paths([site.files.path(), &jar]).unwrap();
    for database in [BY_TRANSACTION, BY_SESSION] {
        let before = site.proxy.counts();
        let mut command = site.through("java", database);
        command.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(&path).arg("WithJdbc");
        succeeds(command).await;
        let reads = site.reads_since(before);
        // Those right behind its own DDL run on the primary, until pgpilot has learnt of that.
        assert!(database == BY_SESSION || reads >= 10, "{reads} reads on replicas");
    }
}
