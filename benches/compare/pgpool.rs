//! pgpool-II before all nodes, with load balancing, otherwise as it comes.

use std::fmt::Write as _;
use std::process::Command;

use crate::guarded::{Ending, Guarded};
use crate::proxy::{Absent, Prepared, Started, find, free_port, version};
use crate::servers::{Servers, USER, WATCHER};

/// One process serves one client: so many more than clients, for those that are just ending.
const SPARE: u16 = 8;

pub(crate) fn start(servers: &Servers, clients: &[u16]) -> anyhow::Result<Result<Started, Absent>> {
    let program = match find("pgpool") {
        Ok(program) => program,
        Err(absent) => return Ok(Err(absent)),
    };
    let (major, minor) = version(&program)?;
    let (port, control) = (free_port()?, free_port()?);
    let directory = servers.directory("pgpool", servers.account)?;
    let here = directory.display();
    // The setting has got a new name.
    let sockets = if (major, minor) >= (4, 4) { "unix_socket_directories" } else { "socket_dir" };
    let processes = clients.iter().copied().max().unwrap_or(1).max(32 - SPARE) + SPARE;
    let mut text = format!(
        "backend_clustering_mode = 'streaming_replication'\n\
         listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         {sockets} = '{here}'\n\
         pcp_listen_addresses = '127.0.0.1'\n\
         pcp_port = {control}\n\
         pcp_socket_dir = '{here}'\n\
         pid_file_name = '{here}/pgpool.pid'\n\
         logdir = '{here}'\n\
         enable_pool_hba = on\n\
         pool_passwd = '{here}/pool_passwd'\n\
         num_init_children = {processes}\n\
         load_balance_mode = on\n\
         sr_check_user = '{WATCHER}'\n\
         sr_check_password = '{WATCHER}'\n\
         sr_check_database = 'postgres'\n"
    );
    for (number, node) in servers.cluster.nodes().iter().enumerate() {
        writeln!(text, "backend_hostname{number} = '127.0.0.1'")?;
        writeln!(text, "backend_port{number} = {}", node.port())?;
        writeln!(text, "backend_weight{number} = 1")?;
        writeln!(text, "backend_flag{number} = 'DISALLOW_TO_FAILOVER'")?;
    }
    let account = servers.account;
    account.private_file(&directory.join("pgpool.conf"), text)?;
    account.private_file(&directory.join("pool_passwd"), format!("{USER}:TEXT{USER}\n{WATCHER}:TEXT{WATCHER}\n"))?;
    account.private_file(&directory.join("pool_hba.conf"), "host all all 127.0.0.1/32 trust\n")?;
    account.private_file(&directory.join("pcp.conf"), "")?;
    let mut command = Command::new(program);
    command.args(["-n", "-f", "pgpool.conf", "-a", "pool_hba.conf", "-F", "pcp.conf"]);
    let process = Guarded::start(account, &command, &directory, Ending::Interrupt)?;
    Ok(Ok(Started { title: format!("pgpool-II {major}.{minor}"), port, process, prepared: Prepared::Shared }))
}
