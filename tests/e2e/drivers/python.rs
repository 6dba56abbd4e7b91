//! psycopg 3 and asyncpg.

use std::path::Path;

use super::{BY_SESSION, BY_TRANSACTION, Site, script, succeeds};

/// Where Debian's packages of the drivers are installed; a `python3` of one's own may stand before it in `PATH`.
const DEBIAN: &str = "/usr/bin/python3";

async fn works(name: &str, more: &[&str]) {
    let site = Site::start().await;
    let python = if Path::new(DEBIAN).exists() { DEBIAN } else { "python3" };
    for database in [BY_TRANSACTION, BY_SESSION] {
        let before = site.proxy.counts();
        let mut command = site.through(python, database);
        command.arg(script(name)).args(more).env("PYTHONDONTWRITEBYTECODE", "1");
        succeeds(command).await;
        let reads = site.reads_since(before);
        // In session mode a session keeps its first connection, which has to be able to do everything.
        assert!(database == BY_SESSION || reads > 0, "nothing was read on a replica");
    }
}

#[tokio::test]
async fn psycopg_works() {
    works("with_psycopg.py", &[]).await;
}

#[tokio::test]
async fn asyncpg_works() {
    works("with_asyncpg.py", &["pgpilot"]).await;
}
