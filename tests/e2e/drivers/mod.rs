//! Everyday work of the drivers and tools that applications use, through pgpilot. Their scripts are in `tests/drivers`; they find the server by
//! the `PG*` variables, and end with an error at the first difference.

mod jdbc;
mod native;
mod psql;
mod python;
mod tls;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::support::proxy::{self, PASSWORD, Proxy, USER};

/// A pgpilot with TLS, and two databases of the same content: one is pooled by transaction, the other by session.
pub(crate) struct Site {
    pub(crate) proxy: Proxy,
    pub(crate) files: TempDir,
}

pub(crate) const BY_TRANSACTION: &str = "shop";
pub(crate) const BY_SESSION: &str = "desk";

/// One driver's script takes a few seconds; the machine may be busy.
const SCRIPT: Duration = Duration::from_secs(600);

impl Site {
    pub(crate) async fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        issue(files.path());
        let servers = proxy::servers().await;
        let primary = servers.node("pg1").unwrap();
        primary.sql(&format!("CREATE DATABASE {BY_SESSION} OWNER {USER}")).await.unwrap();
        servers.wait_caught_up(primary).await.unwrap();
        let more = format!(
            "[tls]\ncertificate = {:?}\nkey = {:?}\n[admin]\nreaders = [\"{USER}\"]\n\
             [[auth.rules]]\nusers = [\"old\"]\nmethod = \"md5\"\n\
             [[auth.rules]]\nmethod = \"scram-sha-256\"\n\
             [[databases]]\nname = \"{BY_SESSION}\"\npool_mode = \"session\"\n",
            files.path().join("server.crt"),
            files.path().join("server.key"),
        );
        Self { proxy: Proxy::before(servers, &more).await, files }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.files.path().join("ca.crt")
    }

    /// A program that connects to this database through pgpilot.
    pub(crate) fn through(&self, program: impl AsRef<Path>, database: &str) -> Command {
        self.at(self.proxy.port(), program, database)
    }

    /// The same program, connected to the primary itself.
    pub(crate) fn directly(&self, program: impl AsRef<Path>, database: &str) -> Command {
        self.at(self.proxy.servers.node("pg1").unwrap().port(), program, database)
    }

    fn at(&self, port: u16, program: impl AsRef<Path>, database: &str) -> Command {
        let mut command = Command::new(program.as_ref());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", port.to_string())
            .env("PGUSER", USER)
            .env("PGPASSWORD", PASSWORD)
            .env("PGDATABASE", database)
            .env("PGSSLROOTCERT", self.ca())
            .env("LC_ALL", "C.UTF-8")
            .current_dir(self.files.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Path of one of PostgreSQL's programs.
    pub(crate) fn tool(&self, name: &'static str) -> PathBuf {
        let binaries = self.proxy.servers.nodes()[0].binaries();
        // A directory of links to the server's programs alone leads to the others.
        let server = binaries.tool("postgres").unwrap();
        let server = server.canonicalize().unwrap();
        let beside = server.with_file_name(name);
        if beside.is_file() { beside } else { binaries.tool(name).unwrap_or_else(|_| elsewhere(name)) }
    }

    /// The major version of the servers.
    pub(crate) fn version(&self) -> u16 {
        self.proxy.servers.nodes()[0].binaries().version().major
    }

    /// Statements that replicas have run since `before`, a result of `proxy.counts()`.
    pub(crate) fn reads_since(&self, before: (u64, u64)) -> u64 {
        self.proxy.counts().1 - before.1
    }
}

/// One of PostgreSQL's programs from another installation: some consist of a server alone. Clients of one version work with servers of others.
fn elsewhere(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|path| path.is_file());
    found.sort();
    // Or on the PATH.
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

/// A script of `tests/drivers`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers").join(name)
}

/// Runs a program to its end; what it printed is shown if it fails.
pub(crate) async fn succeeds(mut command: Command) -> String {
    let output = ends(&mut command).await;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?}: {}\n{said}\n{complained}", command.as_std(), output.status);
    said.into_owned() + &complained
}

pub(crate) async fn ends(command: &mut Command) -> Output {
    let mut running = command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.as_std()));
    let (mut out, mut err) = (running.stdout.take().expect("piped"), running.stderr.take().expect("piped"));
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended = tokio::time::timeout(SCRIPT, async {
        tokio::join!(out.read_to_end(&mut stdout), err.read_to_end(&mut stderr), running.wait())
    })
    .await;
    let Ok((_, _, status)) = ended else {
        let (said, complained) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        panic!("{:?} does not end\n{said}\n{complained}", command.as_std());
    };
    Output { status: status.unwrap(), stdout, stderr }
}

/// An authority, and a certificate of its for this host.
fn issue(directory: &Path) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "localhost");
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    fs::write(directory.join("ca.crt"), authority.pem()).unwrap();
    fs::write(directory.join("server.crt"), certificate.pem()).unwrap();
    fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();
}
