//! A PostgreSQL server of our own, with TLS and a user for each way to authenticate.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rcgen::{CertificateParams, DnType, KeyPair};
use tempfile::TempDir;

pub(crate) const PASSWORD: &str = "p\u{e4}ss w\u{f6}rd";

const RULES: &str = "
hostssl all in_clear    all password
host    all hashed      all md5
host    all scrammed    all scram-sha-256
host    all unencrypted all trust
hostssl all certified   all cert
local   all postgres    trust
";

pub(crate) struct Server {
    pub(crate) port: u16,
    directory: TempDir,
    bin: PathBuf,
}

impl Server {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { port, directory, bin: bin() };
        if let Some(owner) = owner() {
            chown(server.directory.path(), Some(owner), None).unwrap();
        }
        let data = server.data();
        server.run("initdb", &["-D", &data, "-U", "postgres", "-E", "UTF8", "--locale=C", "-N", "-A", "trust"]);
        server.configure();
        let log = server.path("log");
        server.run("pg_ctl", &["-D", &data, "-l", &log, "-w", "start"]);
        server.sql(&format!(
            "CREATE ROLE in_clear LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE scrammed LOGIN PASSWORD '{PASSWORD}';
             CREATE ROLE unencrypted LOGIN; CREATE ROLE certified LOGIN;
             SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN PASSWORD '{PASSWORD}'"
        ));
        server
    }

    /// The certificate of the server, of a client called `certified`, and the authority of both.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.path().join("server.crt")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.directory.path().join("server.key")
    }

    pub(crate) fn sql(&self, text: &str) -> String {
        let (socket, port) = (self.path(""), self.port.to_string());
        let arguments = ["-h", &socket, "-p", &port, "-U", "postgres", "-XAtqv", "ON_ERROR_STOP=1", "-c", text];
        String::from_utf8(self.run("psql", &arguments).stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        // libpq looks for certificates in the home directory, which is another user's.
        command.current_dir("/").env("HOME", self.directory.path()).env("PGCLIENTENCODING", "UTF8");
        if let Some(owner) = owner() {
            command.uid(owner);
        }
        command
    }

    fn configure(&self) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "certified");
        std::fs::write(self.certificate(), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(self.key(), key.serialize_pem()).unwrap();
        std::fs::set_permissions(self.key(), PermissionsExt::from_mode(0o600)).unwrap();
        if let Some(owner) = owner() {
            chown(self.key(), Some(owner), None).unwrap();
        }
        let settings = format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\nssl = on\n\
             ssl_cert_file = '{1}server.crt'\nssl_key_file = '{1}server.key'\nssl_ca_file = '{1}server.crt'\n",
            self.port,
            self.path(""),
        );
        let file = Path::new(&self.data()).join("postgresql.conf");
        let written = std::fs::read_to_string(&file).unwrap() + &settings;
        std::fs::write(file, written).unwrap();
        std::fs::write(Path::new(&self.data()).join("pg_hba.conf"), RULES).unwrap();
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Output {
        // A server that is started inherits what the program was given: no pipes then.
        let mut command = self.program(name);
        command.args(arguments);
        let output = if arguments.contains(&"start") {
            let status = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
            Output { status: status.unwrap(), stdout: Vec::new(), stderr: Vec::new() }
        } else {
            command.output().unwrap()
        };
        let log = || std::fs::read_to_string(self.path("log")).unwrap_or_default();
        assert!(output.status.success(), "{name}: {}{}", String::from_utf8_lossy(&output.stderr), log());
        output
    }

    fn data(&self) -> String {
        self.path("data")
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory.path().display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data();
        self.run("pg_ctl", &["-D", &data, "-m", "immediate", "-w", "stop"]);
    }
}

/// PostgreSQL refuses to run as root: the user `postgres` runs it then.
fn owner() -> Option<u32> {
    let id = |arguments: &[&str]| -> u32 {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    (id(&["-u"]) == 0).then(|| id(&["-u", "postgres"]))
}

/// Where PostgreSQL's programs are: where Debian puts the newest version, or in the PATH.
fn bin() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    versions.sort();
    let mut candidates = versions.into_iter().rev().chain(std::env::split_paths(&path));
    let complete = |directory: &PathBuf| ["initdb", "pg_ctl", "psql"].iter().all(|name| directory.join(name).exists());
    candidates.find(complete).expect("PostgreSQL's programs are nowhere to be found")
}
