//! Where an admin console is, and how to get there: what libpq's words in a URL say of TLS is for pgpilot's own TLS, the rest
//! is tokio-postgres's to read.

use std::path::PathBuf;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode as Spoken};

use super::arguments::Remote;
use super::exit::Failure;
use super::file;
use crate::config::{ADMIN_DATABASE, ServerTls, SslMode};
use crate::net::Target;
use crate::net::tls::Connector;

/// What the console calls somebody who comes in by the Unix socket of `admin.socket`.
const LOCAL_USER: &str = "pgpilot";

const DEFAULT_PORT: u16 = 5432;

pub(super) struct Place {
    /// Whom to log in as. It says nothing of TLS.
    pub(super) login: Config,
    /// To be tried in this order.
    pub(super) targets: Vec<Target>,
}

impl Place {
    pub(super) fn of(remote: &Remote) -> Result<Self, Failure> {
        let (mut login, tls) = match &remote.url {
            Some(url) => read(url)?,
            None => (socket(remote)?, ServerTls { mode: SslMode::Disable, ..NOTHING }),
        };
        if login.get_user().is_none() {
            login.user(LOCAL_USER);
        }
        login.dbname(ADMIN_DATABASE).application_name("pgpilot").ssl_mode(Spoken::Disable);
        let connector = Connector::new(&tls).map_err(Failure::usage)?;
        let targets = targets(&login, &connector);
        if targets.is_empty() {
            return Err(Failure::usage(anyhow::anyhow!("the URL names no host")));
        }
        Ok(Self { login, targets })
    }
}

const NOTHING: ServerTls = ServerTls { mode: SslMode::Prefer, ca: None, certificate: None, key: None };

fn socket(remote: &Remote) -> Result<Config, Failure> {
    let path = file::find(&remote.file)?;
    let settings = file::load(&path)?;
    let Some(socket) = &settings.admin.socket else {
        return Err(Failure::usage(anyhow::anyhow!(
            "{} sets no admin.socket; set it, or give --url or PGPILOT_URL",
            path.display()
        )));
    };
    let mut config = Config::new();
    config.host_path(socket).port(settings.socket_port());
    Ok(config)
}

/// Takes out of a URL what tokio-postgres does not know: authorities and certificates, and the modes that verify.
fn read(url: &str) -> Result<(Config, ServerTls), Failure> {
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut tls, mut others) = (None, NOTHING, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "sslmode" => mode = Some(mode_of(value)?),
            "sslrootcert" => tls.ca = Some(decoded(value)?),
            "sslcert" => tls.certificate = Some(decoded(value)?),
            "sslkey" => tls.key = Some(decoded(value)?),
            _ => others.push(pair),
        }
    }
    let rest = if others.is_empty() { place.to_owned() } else { format!("{place}?{}", others.join("&")) };
    // The error shows the parameter that is wrong, not the password.
    let config: Config = rest.parse().map_err(Failure::usage)?;
    // What is not written as a URL has been read by tokio-postgres.
    let spoken = match config.get_ssl_mode() {
        Spoken::Disable => SslMode::Disable,
        Spoken::Require => SslMode::Require,
        _ => SslMode::Prefer,
    };
    tls.mode = mode.unwrap_or(spoken);
    // libpq's word for the authorities of the system, which demands that the name is verified, too.
    if tls.ca.take_if(|ca| ca.as_os_str() == "system").is_some() {
        if mode.is_some_and(|mode| mode != SslMode::VerifyFull) {
            return Err(Failure::usage(anyhow::anyhow!("sslrootcert=system needs sslmode=verify-full")));
        }
        tls.mode = SslMode::VerifyFull;
    }
    Ok((config, tls))
}

fn mode_of(word: &str) -> Result<SslMode, Failure> {
    Ok(match word {
        "disable" => SslMode::Disable,
        "allow" => SslMode::Allow,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => {
            let text = "expected disable, allow, prefer, require, verify-ca or verify-full";
            return Err(Failure::usage(anyhow::anyhow!("sslmode={word}: {text}")));
        }
    })
}

/// A path, in which %xx stands for a byte.
fn decoded(text: &str) -> Result<PathBuf, Failure> {
    let wrong = || Failure::usage(anyhow::anyhow!("{text}: not a path as it is written in a URL"));
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or_else(wrong)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).map(PathBuf::from).map_err(|_| wrong())
}

fn targets(login: &Config, tls: &Connector) -> Vec<Target> {
    let named = login.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.to_string_lossy().into_owned(),
    });
    let mut hosts: Vec<String> = named.collect();
    if hosts.is_empty() {
        hosts.extend(login.get_hostaddrs().iter().map(ToString::to_string));
    }
    let ports = login.get_ports();
    let port_of = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
    let target = |(at, host)| Target { host, port: port_of(at), tls: tls.clone() };
    hosts.into_iter().enumerate().map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::FileArguments;
    use crate::cli::exit::Exit;

    fn of(url: &str) -> Result<Place, Failure> {
        Place::of(&Remote { url: Some(url.to_owned()), file: FileArguments { config: None } })
    }

    #[test]
    fn a_url_needs_no_more_than_a_host() {
        let Place { login, targets } = of("postgresql://localhost:7000").unwrap();
        assert_eq!((login.get_user(), login.get_dbname()), (Some("pgpilot"), Some("pgpilot")));
        assert_eq!((targets[0].host.as_str(), targets[0].port), ("localhost", 7000));
        let Place { login, targets } = of("postgresql://olga:pw@a,b:1/other?connect_timeout=3").unwrap();
        assert_eq!((login.get_user(), login.get_dbname()), (Some("olga"), Some("pgpilot")));
        assert_eq!(targets.iter().map(|target| target.host.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(of("nonsense=").err().unwrap().exit, Exit::Usage);
        assert_eq!(of("postgresql://").err().unwrap().exit, Exit::Usage);
    }

    #[test]
    fn what_a_url_says_of_tls_is_said_as_libpq_does() {
        let tls = |url: &str| read(url).map(|(_, tls)| (tls.mode, tls.ca));
        assert_eq!(tls("postgresql://h").unwrap(), (SslMode::Prefer, None));
        assert_eq!(tls("host=h sslmode=require").unwrap(), (SslMode::Require, None));
        let full = tls("postgresql://h/?sslrootcert=%2Fa%20b%2Fca.crt&sslmode=verify-full").unwrap();
        assert_eq!(full, (SslMode::VerifyFull, Some("/a b/ca.crt".into())));
        assert_eq!(tls("postgresql://h?sslrootcert=system").unwrap(), (SslMode::VerifyFull, None));
        for bad in ["?sslmode=full", "?sslrootcert=%zz", "?sslrootcert=%2", "?sslmode=require&sslrootcert=system"] {
            assert_eq!(tls(&format!("postgresql://h{bad}")).unwrap_err().exit, Exit::Usage, "{bad}");
        }
        assert_eq!(of("postgresql://h?sslmode=verify-ca&sslrootcert=/none").err().unwrap().exit, Exit::Usage);
    }
}
