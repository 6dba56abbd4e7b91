//! The account that servers run as: our own, unless we are root, as whom PostgreSQL refuses to run.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::error::{Doing, Error};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// This process's own.
    Own,
    Other {
        uid: u32,
        gid: u32,
    },
}

/// Tried in this order when we are root.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

impl Account {
    /// Our own account; as root, that of `postgres`, else of `nobody`.
    ///
    /// # Errors
    /// [`Error::NoAccount`].
    pub fn choose() -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        CANDIDATES.iter().find_map(|name| Self::named(name)).ok_or(Error::NoAccount)
    }

    /// Asks `id`, which knows every source of accounts that this machine is set up for.
    fn named(name: &str) -> Option<Self> {
        let id = |what: &str| -> Option<u32> {
            let output = Command::new("id").args([what, name]).stderr(Stdio::null()).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        Some(Self::Other { uid: id("-u")?, gid: id("-g")? })
    }

    /// A command that runs as this account, in its own process group (so that Ctrl-C at a terminal does not reach
    /// it), with an environment in which no `PG*` variable changes what it does.
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").process_group(0).stdin(Stdio::null());
        for kept in ["PATH", "LD_LIBRARY_PATH", "TMPDIR"] {
            if let Some(value) = env::var_os(kept) {
                command.env(kept, value);
            }
        }
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Makes a directory that only this account can look into.
    pub fn private_directory(self, path: &Path) -> Result<(), Error> {
        fs::create_dir(path).doing("make the directory", path)?;
        fs::set_permissions(path, Permissions::from_mode(0o700)).doing("protect", path)?;
        self.give(path)
    }

    /// Writes a file that only this account can read.
    pub fn private_file(self, path: &Path, contents: impl AsRef<[u8]>) -> Result<(), Error> {
        fs::write(path, contents).doing("write", path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).doing("protect", path)?;
        self.give(path)
    }

    /// Makes this account the owner.
    pub fn give(self, path: &Path) -> Result<(), Error> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(uid), Some(gid)).doing("change the owner of", path),
        }
    }
}

/// Runs a tool to its end.
///
/// # Errors
/// [`Error::Tool`] with all it printed, if it did not succeed.
pub(super) fn run(command: &mut Command) -> Result<(), Error> {
    let program = Path::new(command.get_program()).to_owned();
    let output = command.output().doing("run", &program)?;
    if output.status.success() {
        return Ok(());
    }
    let tool = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let said = [output.stdout, output.stderr].concat();
    Err(Error::Tool { tool, status: output.status, output: String::from_utf8_lossy(&said).into_owned() })
}
