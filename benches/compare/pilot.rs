//! pgpilot before all nodes, as it comes: reads on the replicas.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use pgpilot::demo::account::Account;

use crate::guarded::{Ending, Guarded};
use crate::proxy::{Prepared, Started, free_port, version};
use crate::servers::{Servers, USER, WATCHER};

/// The program that Cargo has built along with this one, with the same profile.
pub(crate) const BUILT: &str = env!("CARGO_BIN_EXE_pgpilot");

/// Runs this program, in a directory of this name.
pub(crate) fn start(servers: &Servers, name: &str, program: &Path, pool: u16) -> anyhow::Result<Started> {
    let program = program.canonicalize().with_context(|| format!("cannot find {}", program.display()))?;
    let (major, minor) = version(&program)?;
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
    let directory = servers.directory(name, Account::Own)?;
    Account::Own.private_file(&directory.join("pgpilot.toml"), text)?;
    let mut command = Command::new(program);
    command.args(["serve", "--config", "pgpilot.toml"]);
    let process = Guarded::start(Account::Own, &command, &directory, Ending::Terminate)?;
    Ok(Started { title: format!("pgpilot {major}.{minor}"), port, process, prepared: Prepared::Shared })
}
