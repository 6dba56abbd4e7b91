//! The data directory that all clusters of one PostgreSQL version are copied from: initdb takes most of the time that
//! a new cluster takes, so it is run once.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::account::{self, Account};
use super::binaries::Binaries;
use super::builder::{Passwords, User};
use super::error::{Doing, Error};
use super::home::{Home, lock};
use super::settings::{identifier, quote};

/// The superuser of every throwaway cluster, and its password on TCP.
pub(super) const SUPERUSER: &str = "postgres";
/// The role that replicas stream with, and its password.
pub(super) const REPLICATOR: &str = "replicator";

const UNFINISHED: &str = "new-";

/// The template for these programs; made if there is none.
pub(super) fn find(home: &Home, binaries: &Binaries, account: Account) -> Result<PathBuf, Error> {
    let templates = home.directory("templates")?;
    // Nothing is synced to disk, so what a crash of the machine leaves cannot be trusted: the name has the boot's id.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot: String = boot.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    let mut hasher = DefaultHasher::new();
    (binaries.directory(), account_number(account)).hash(&mut hasher);
    let template = templates.join(format!("{boot}-{}-{:016x}", binaries.version(), hasher.finish()));
    if template.is_dir() {
        return Ok(template.join("data"));
    }
    let _one_at_a_time = lock(&templates.join("making.lock"))?;
    if !template.is_dir() {
        remove_useless(&templates, &boot)?;
        make(&templates, &template, binaries, account)?;
    }
    Ok(template.join("data"))
}

fn account_number(account: Account) -> Option<u32> {
    match account {
        Account::Own => None,
        Account::Other { uid, .. } => Some(uid),
    }
}

fn make(templates: &Path, template: &Path, binaries: &Binaries, account: Account) -> Result<(), Error> {
    let unfinished = templates.join(format!("{UNFINISHED}{}", std::process::id()));
    account.private_directory(&unfinished)?;
    let mut initdb = account.command(binaries.tool("initdb")?);
    initdb.current_dir(&unfinished).args(["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=trust"]);
    account::run(initdb.args(["--username", SUPERUSER]).arg("-D").arg(unfinished.join("data")))?;
    fs::rename(&unfinished, template).doing("name the template", template)
}

/// Templates that were not finished, or are of an earlier boot.
fn remove_useless(templates: &Path, boot: &str) -> Result<(), Error> {
    for entry in fs::read_dir(templates).doing("list", templates)?.flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if path.is_dir() && !name.starts_with(&format!("{boot}-")) {
            fs::remove_dir_all(&path).doing("remove", &path)?;
        }
    }
    Ok(())
}

/// What every node of a new cluster holds, besides what the template holds.
pub(super) fn founding_sql(users: &[User], nodes: &[String], more: &[String]) -> Vec<String> {
    let mut sql = vec![
        format!("ALTER ROLE {} PASSWORD {}", identifier(SUPERUSER), quote(SUPERUSER)),
        format!("CREATE ROLE {} LOGIN REPLICATION PASSWORD {}", identifier(REPLICATOR), quote(REPLICATOR)),
        // pg_rewind's own needs, so that it can be run without being a superuser. Source: its documentation.
        format!(
            "GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), \
             pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO {}",
            identifier(REPLICATOR)
        ),
        // As it was before PostgreSQL 15: a throwaway cluster is for trying things out.
        "GRANT ALL ON SCHEMA public TO PUBLIC".to_owned(),
    ];
    for user in users {
        let encryption = match user.passwords {
            Passwords::Scram => "scram-sha-256",
            Passwords::Md5 => "md5",
        };
        sql.push(format!("SET password_encryption = {}", quote(encryption)));
        let (name, password) = (identifier(&user.name), quote(&user.password));
        sql.push(format!("CREATE ROLE {name} LOGIN PASSWORD {password} {}", user.options));
    }
    // A follower may have any node as its primary: each node has a slot for each.
    sql.extend(nodes.iter().map(|node| format!("SELECT pg_create_physical_replication_slot({})", quote(node))));
    sql.extend_from_slice(more);
    sql
}

/// Runs statements on a stopped server, in single-user mode (30 ms, where starting a server takes 150).
///
/// # Errors
/// [`Error::Tool`] with everything printed, if the server reports an error.
pub(super) fn run_sql(data: &Path, binaries: &Binaries, account: Account, sql: &[String]) -> Result<(), Error> {
    let input = data.with_file_name("founding.sql");
    // With -j a statement ends at a semicolon followed by an empty line.
    account.private_file(&input, sql.iter().map(|one| format!("{one};\n\n")).collect::<String>())?;
    let file = fs::File::open(&input).doing("open", &input)?;
    let program = binaries.tool("postgres")?;
    let mut server = account.command(&program);
    server.current_dir(data).args(["--single", "-j", "-F", "-c", "max_replication_slots=16", "-D"]).arg(data);
    let output = server.arg("postgres").stdin(Stdio::from(file)).output().doing("run", &program)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() && !["ERROR: ", "FATAL: ", "PANIC: "].iter().any(|level| said.contains(level)) {
        return fs::remove_file(&input).doing("remove", &input);
    }
    Err(Error::Tool { tool: "postgres --single".to_owned(), status: output.status, output: said.into_owned() })
}
