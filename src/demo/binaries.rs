//! PostgreSQL's programs: where they are, and which version they are.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{Doing, Error};

/// One installation of PostgreSQL's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    directory: PathBuf,
    version: Version,
}

/// A version, `15.18`. Those before 10 had three parts; they are not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u16,
    /// 0 for a version that is not released yet (`19devel`).
    pub minor: u16,
}

/// Without these nothing works. `pg_rewind`, `psql` and others are looked for when they are needed.
const NEEDED: [&str; 2] = ["initdb", "postgres"];

impl Binaries {
    /// The first of: the directory that `PGPILOT_PG_BIN` names, the directories of `PATH`, the places where packages
    /// of the distributions put them, newest version first.
    ///
    /// # Errors
    /// [`Error::NoBinaries`] says what to install.
    pub fn find() -> Result<Self, Error> {
        if let Some(directory) = env::var_os("PGPILOT_PG_BIN").filter(|value| !value.is_empty()) {
            return Self::at(Path::new(&directory));
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let searched = Self::usual_places();
        env::split_paths(&path)
            .chain(searched.clone())
            .find(|directory| missing(directory).is_none())
            .map_or(Err(Error::NoBinaries { searched }), |directory| Self::at(&directory))
    }

    /// The installation in this directory.
    pub fn at(directory: &Path) -> Result<Self, Error> {
        if let Some(missing) = missing(directory) {
            return Err(Error::NotBinaries { directory: directory.to_owned(), missing });
        }
        // A relative path would be resolved in the working directory of the server.
        let mut directory = directory.canonicalize().doing("find", directory)?;
        // Links to some of the programs: where they lead to are the others, too.
        let real = directory.join("postgres").canonicalize().doing("find", &directory)?;
        if let Some(home) = real.parent().filter(|home| missing(home).is_none()) {
            directory = home.to_owned();
        }
        let program = directory.join("postgres");
        let output = Command::new(&program).arg("--version").output().doing("run", &program)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = Version::parse(&said).ok_or(Error::Version { program, output: said })?;
        Ok(Self { directory, version })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The path of one of PostgreSQL's programs. Not every installation has all of them.
    pub fn tool(&self, tool: &'static str) -> Result<PathBuf, Error> {
        let path = self.directory.join(tool);
        if path.is_file() { Ok(path) } else { Err(Error::NoTool { tool, directory: self.directory.clone() }) }
    }

    fn usual_places() -> Vec<PathBuf> {
        let mut places = Vec::new();
        // Debian and Ubuntu; Red Hat (PostgreSQL's own packages); Homebrew on Apple and on Intel processors.
        places.extend(newest_first("/usr/lib/postgresql", ""));
        places.extend(newest_first("/usr", "pgsql-"));
        places.push(PathBuf::from("/usr/bin"));
        places.extend(newest_first("/opt/homebrew/opt", "postgresql@"));
        places.extend(newest_first("/usr/local/opt", "postgresql@"));
        places.push(PathBuf::from("/usr/local/pgsql/bin"));
        places
    }
}

/// `<parent>/<prefix><number>/bin` for each number there is, the highest first.
fn newest_first(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

fn missing(directory: &Path) -> Option<&'static str> {
    // An empty element of PATH means the working directory: not a place to run servers from.
    if directory.as_os_str() == OsStr::new("") {
        return Some(NEEDED[0]);
    }
    NEEDED.into_iter().find(|program| !directory.join(program).is_file())
}

impl Version {
    /// Parses what `postgres --version` prints: `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    pub fn parse(said: &str) -> Option<Self> {
        let number = said.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
        let major: String = number.chars().take_while(char::is_ascii_digit).collect();
        let minor: String =
            number[major.len()..].strip_prefix('.').unwrap_or("0").chars().take_while(char::is_ascii_digit).collect();
        let major = major.parse().ok().filter(|&major| major >= 10)?;
        Some(Self { major, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_versions() {
        let version = |said: &str| Version::parse(said).map(|v| (v.major, v.minor));
        assert_eq!(version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some((15, 18)));
        assert_eq!(version("postgres (PostgreSQL) 18.4\n"), Some((18, 4)));
        assert_eq!(version("postgres (PostgreSQL) 19devel\n"), Some((19, 0)));
        assert_eq!(version("postgres (PostgreSQL) 18beta1\n"), Some((18, 0)));
        assert_eq!(version("postgres (PostgreSQL) 9.6.24\n"), None);
        assert_eq!(version("psql: error"), None);
    }

    #[test]
    fn a_directory_without_a_server_is_refused_by_name() {
        let empty = tempfile::tempdir().unwrap();
        let error = Binaries::at(empty.path()).unwrap_err().to_string();
        assert!(error.ends_with("has no initdb"), "{error}");
    }

    #[test]
    fn newer_versions_come_first() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["pgsql-9", "pgsql-18", "pgsql-x", "other"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        let found = newest_first(parent.path().to_str().unwrap(), "pgsql-");
        assert_eq!(found, [parent.path().join("pgsql-18/bin"), parent.path().join("pgsql-9/bin")]);
    }
}
