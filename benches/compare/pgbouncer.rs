//! PgBouncer before the primary, in transaction mode, otherwise as it comes.

use std::fmt::Write as _;
use std::process::Command;

use crate::guarded::{Ending, Guarded};
use crate::proxy::{Absent, Prepared, Started, find, free_port, version};
use crate::servers::{DATABASE, Servers, USER};

/// Since this version it keeps prepared statements apart in transaction mode.
const PREPARED: (u16, u16) = (1, 21);

/// The same database in session mode.
const SESSION: &str = "bench_session";

pub(crate) fn start(servers: &Servers, pool: u16) -> anyhow::Result<Result<Started, Absent>> {
    let program = match find("pgbouncer") {
        Ok(program) => program,
        Err(absent) => return Ok(Err(absent)),
    };
    let (major, minor) = version(&program)?;
    let (port, node) = (free_port()?, servers.primary().port());
    let mut text = format!(
        "[databases]\n\
         {DATABASE} = host=127.0.0.1 port={node} dbname={DATABASE}\n\
         {SESSION} = host=127.0.0.1 port={node} dbname={DATABASE} pool_mode=session\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = trust\n\
         auth_file = users.txt\n\
         pool_mode = transaction\n\
         default_pool_size = {pool}\n\
         max_client_conn = 2000\n\
         ignore_startup_parameters = extra_float_digits\n"
    );
    let prepared = if (major, minor) >= PREPARED {
        writeln!(text, "max_prepared_statements = 200")?;
        Prepared::Shared
    } else {
        Prepared::Session(SESSION)
    };
    let directory = servers.directory("pgbouncer", servers.account)?;
    servers.account.private_file(&directory.join("users.txt"), format!("\"{USER}\" \"{USER}\"\n"))?;
    servers.account.private_file(&directory.join("pgbouncer.ini"), text)?;
    let mut command = Command::new(program);
    command.arg("pgbouncer.ini");
    let process = Guarded::start(servers.account, &command, &directory, Ending::Terminate)?;
    Ok(Ok(Started { title: format!("PgBouncer {major}.{minor}"), port, process, prepared }))
}
