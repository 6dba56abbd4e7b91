//! pgpilot before all nodes, as it comes: reads on the replicas. It is this very program, in a process of its own.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::anyhow;

use pgpilot::app::App;
use pgpilot::config::Config;
use pgpilot::demo::account::Account;

use crate::guarded::{Ending, Guarded};
use crate::proxy::{Prepared, Started, free_port};
use crate::servers::{Servers, USER, WATCHER};

pub(crate) fn start(servers: &Servers, pool: u16) -> anyhow::Result<Started> {
    let port = free_port()?;
    let mut text = format!(
        "listen = \"127.0.0.1:{port}\"\n\
         [metrics]\nlisten = \"off\"\n\
         [health]\nuser = \"{WATCHER}\"\npassword = \"{WATCHER}\"\n\
         [pool]\nmax_server_connections = {pool}\n\
         [[auth.rules]]\nmethod = \"trust\"\n\
         [[users]]\nname = \"{USER}\"\npassword = \"{USER}\"\n"
    );
    for node in servers.cluster.nodes() {
        write!(text, "[[nodes]]\nname = \"{}\"\nhost = \"127.0.0.1\"\nport = {}\n", node.name(), node.port())?;
    }
    // Our own account: it does not insist on another, which might not be allowed to read this program.
    let directory = servers.directory("pgpilot", Account::Own)?;
    Account::Own.private_file(&directory.join("pgpilot.toml"), text)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--serve", "pgpilot.toml"]);
    let process = Guarded::start(Account::Own, &command, &directory, Ending::Terminate)?;
    let title = format!("pgpilot {}", env!("CARGO_PKG_VERSION"));
    Ok(Started { title, port, process, prepared: Prepared::Shared })
}

/// Serves until it is ended.
pub(crate) fn serve(topology: &Path) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("info").with_writer(std::io::stderr).init();
    let config = Config::load(topology).map_err(|problems| anyhow!("{problems}"))?;
    let workers = config.workers.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    runtime.block_on(async {
        let _app = App::start(config, None).await?;
        std::future::pending().await
    })
}
