//! What can stand behind a key.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use super::resolved::{
    AuthMethod, ConnectionKind, Consistency, EtcdEndpoint, Listen, LogFormat, OnAllLagging, PoolMode, RoutingMode,
    Scheme, SslMode, Transactions,
};
use super::units::{ByteSize, NodeName, Secret, parse_duration};
use super::value::{Echo, Scalar, near};

/// Implements [`Scalar`] for what is written as text.
macro_rules! text {
    ($type:ty, $kind:literal, $expected:literal, $from:expr $(, echo $echo:ident)?) => {
        impl Scalar for $type {
            $(const ECHO: Echo = Echo::$echo;)?
            fn kind() -> Cow<'static, str> {
                $kind.into()
            }
            fn expected() -> Cow<'static, str> {
                $expected.into()
            }
            fn from_toml(value: &DeValue<'_>) -> Result<Self, Cow<'static, str>> {
                let from: fn(&str) -> Result<Self, Cow<'static, str>> = $from;
                from(value.as_str().ok_or("")?)
            }
        }
    };
}

/// Implements [`Scalar`] for an enum whose variants have names in the topology file.
macro_rules! words {
    ($type:ident { $($word:literal => $variant:ident),* $(,)? }) => {
        impl Scalar for $type {
            fn kind() -> Cow<'static, str> {
                [$(concat!("\"", $word, "\"")),*].join(" or ").into()
            }
            fn expected() -> Cow<'static, str> {
                alternatives(&[$($word),*]).into()
            }
            fn from_toml(value: &DeValue<'_>) -> Result<Self, Cow<'static, str>> {
                match value.as_str().ok_or("")? {
                    $($word => Ok(Self::$variant),)*
                    other => Err(near(other, [$($word),*]).map_or("".into(), |w| format!("did you mean \"{w}\"?").into())),
                }
            }
        }
    };
}

words!(SslMode {
    "disable" => Disable, "allow" => Allow, "prefer" => Prefer, "require" => Require,
    "verify-ca" => VerifyCa, "verify-full" => VerifyFull,
});
words!(ConnectionKind {
    "any" => Any, "local" => Local, "host" => Host, "hostssl" => HostSsl, "hostnossl" => HostNoSsl,
});
words!(AuthMethod {
    "trust" => Trust, "reject" => Reject, "scram-sha-256" => Scram, "md5" => Md5, "cert" => Cert,
});
words!(PoolMode { "transaction" => Transaction, "session" => Session });
words!(Consistency { "eventual" => Eventual, "session" => Session, "strong" => Strong, "primary" => Primary });
words!(RoutingMode { "split" => Split, "shadow" => Shadow });
words!(Transactions { "primary" => Primary, "optimistic" => Optimistic });
words!(OnAllLagging { "primary" => Primary, "error" => Error, "stale" => Stale });
words!(LogFormat { "text" => Text, "json" => Json });

text!(String, "text", "text in quotes, not empty", |text| filled(text).map(str::to_owned));
text!(PathBuf, "path", "a path in quotes", |text| filled(text).map(PathBuf::from));
text!(Secret, "text", "a password in quotes, not empty", |text| filled(text).map(|t| Secret::new(t.to_owned())), echo Hidden);
text!(Duration, "duration", "a duration with its unit, as in \"200ms\", \"5s\", \"1m\" or \"0\"", |text| {
    parse_duration(text).map_err(|_| "".into())
});
text!(ByteSize, "size", "a size with its unit, as in \"0B\", \"64KiB\" or \"1MB\"", |text| {
    text.parse().map_err(|_| "".into())
});
text!(NodeName, "text", "1 to 63 letters, digits, '_', '.' or '-', in quotes", |text| {
    NodeName::new(text).map_err(|_| "".into())
});
text!(Listen, "address", "\"address:port\", as in \"0.0.0.0:6432\" or \"[::]:6432\", or \"unix:/directory\"", |text| {
    match text.strip_prefix("unix:") {
        Some(directory) => filled(directory).and_then(absolute).map(Listen::Unix),
        None => text.parse().map(Listen::Tcp).map_err(|_| "".into()),
    }
});
text!(IpNet, "address range", "an address or a range of them, as in \"10.0.0.0/8\" or \"::1\"", |text| {
    text.parse::<IpNet>().or_else(|_| text.parse().map(|ip: IpAddr| ip.into())).map_err(|_| match text {
        "all" => "without `addresses`, a rule is about all of them".into(),
        _ => "".into(),
    })
});

fn filled(text: &str) -> Result<&str, Cow<'static, str>> {
    // PostgreSQL's protocol ends its strings with a zero byte, and so do the operating system's paths.
    if text.is_empty() || text.contains('\0') { Err("".into()) } else { Ok(text) }
}

fn absolute(text: &str) -> Result<PathBuf, Cow<'static, str>> {
    if text.starts_with('/') { Ok(PathBuf::from(text)) } else { Err("a directory begins with '/'".into()) }
}

/// A directory for Unix sockets.
#[derive(Debug, Clone)]
pub(super) struct SocketDirectory(pub(super) PathBuf);
text!(SocketDirectory, "path", "a directory in quotes, beginning with '/'", |text| {
    filled(text).and_then(absolute).map(Self)
});

/// An address for HTTP, or none.
#[derive(Debug, Clone)]
pub(super) struct Endpoint(pub(super) Option<SocketAddr>);
text!(Endpoint, "address or \"off\"", "\"address:port\", as in \"127.0.0.1:9632\", or \"off\"", |text| match text {
    "off" => Ok(Self(None)),
    _ => text.parse().map(|address| Self(Some(address))).map_err(|_| "".into()),
});

/// Where a server is.
#[derive(Debug, Clone)]
pub(super) struct Host(pub(super) String);
text!(Host, "text", "a host name, an address, or a directory with a Unix socket", |text| {
    let host = filled(text)?;
    if host.starts_with('/') || host.parse::<IpAddr>().is_ok() {
        return Ok(Self(host.to_owned()));
    }
    if host.starts_with('[') {
        return Err("an IPv6 address stands here without brackets".into());
    }
    if host.contains(':') {
        return Err("the port goes into `port`".into());
    }
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if host.chars().all(allowed) { Ok(Self(host.to_owned())) } else { Err("".into()) }
});

/// Where a member of an etcd cluster listens for its clients.
#[derive(Debug, Clone)]
pub(super) struct EtcdUrl(pub(super) EtcdEndpoint);
text!(EtcdUrl, "URL", "\"http://host:port\" or \"https://host:port\"", |text| {
    let (scheme, place) = match text.split_once("://") {
        Some(("http", place)) => (Scheme::Http, place),
        Some(("https", place)) => (Scheme::Https, place),
        _ => return Err("".into()),
    };
    let (host, port) = host_and_port(place.strip_suffix('/').unwrap_or(place)).ok_or("")?;
    Ok(Self(EtcdEndpoint { scheme, host, port }))
});

/// Where other instances of pgpilot reach this one.
#[derive(Debug, Clone)]
pub(super) struct Peer(pub(super) String);
text!(Peer, "host and port", "\"host:port\", as in \"10.0.0.21:6432\" or \"[fd00::21]:6432\"", |text| {
    host_and_port(text).map(|_| Self(text.to_owned())).ok_or("".into())
});

/// A host, without the brackets of an IPv6 address, and a port.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port| port > 0)?;
    let host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').filter(|address| address.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => host,
    };
    let named = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let sound = host.parse::<IpAddr>().is_ok() || (!host.is_empty() && host.chars().all(named));
    sound.then(|| (host.to_owned(), port))
}

/// The beginning of keys in etcd.
#[derive(Debug, Clone)]
pub(super) struct Prefix(pub(super) String);
text!(Prefix, "text", "text that ends with \"/\", as in \"/pgpilot/\"", |text| match filled(text)?.ends_with('/') {
    true => Ok(Self(text.to_owned())),
    false => Err("".into()),
});

/// Names one user or database; the catch-all of pg_hba.conf is left out instead.
#[derive(Debug, Clone)]
pub(super) struct Name(pub(super) String);
text!(Name, "text", "a name in quotes", |text| match filled(text)? {
    "all" => Err("to mean all of them, leave the key out".into()),
    name => Ok(Self(name.to_owned())),
});

/// The query that reads a verifier.
#[derive(Debug, Clone)]
pub(super) struct LookUp(pub(super) String);
text!(LookUp, "text", "a query with the user's name as $1", |text| {
    if filled(text)?.contains("$1") { Ok(Self(text.to_owned())) } else { Err("".into()) }
});

/// A filter of the log. `EnvFilter` itself takes a misspelt level for the name of a module, and shows everything of it.
#[derive(Debug, Clone)]
pub(super) struct Level(pub(super) String);
text!(
    Level,
    "text",
    "a level (\"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\") or a filter, as in \"info,pgpilot::pool=debug\"",
    |text| {
        let levelled =
            |part: &str| part.rsplit_once('=').map_or(part, |(_, level)| level).trim().parse::<LevelFilter>().is_ok();
        let sound = text.split(',').all(levelled) && EnvFilter::builder().parse(text).is_ok();
        if sound { Ok(Self(text.to_owned())) } else { Err("".into()) }
    }
);

/// A duration above zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Positive(pub(super) Duration);
text!(
    Positive,
    "duration above zero",
    "a duration above zero with its unit, as in \"200ms\", \"5s\" or \"1m\"",
    |text| { parse_duration(text).ok().filter(|d| !d.is_zero()).map(Self).ok_or("".into()) }
);

/// A size above zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct PositiveSize(pub(super) ByteSize);
text!(PositiveSize, "size above zero", "a size above zero with its unit, as in \"64KiB\" or \"16MiB\"", |text| {
    text.parse().ok().filter(|size: &ByteSize| size.0 > 0).map(Self).ok_or("".into())
});

/// A whole number within bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<const MIN: u32, const MAX: u32> Scalar for Whole<MIN, MAX> {
    fn kind() -> Cow<'static, str> {
        format!("{MIN} to {MAX}").into()
    }

    fn expected() -> Cow<'static, str> {
        format!("a whole number from {MIN} to {MAX}").into()
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, Cow<'static, str>> {
        let DeValue::Integer(integer) = value else {
            let number = value.as_str().is_some_and(|text| text.parse::<u32>().is_ok());
            return Err(if number { "without quotes" } else { "" }.into());
        };
        let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        number.filter(|n| (MIN..=MAX).contains(n)).map(Self).ok_or("".into())
    }
}

impl Scalar for bool {
    fn kind() -> Cow<'static, str> {
        "true or false".into()
    }

    fn expected() -> Cow<'static, str> {
        "true or false".into()
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, Cow<'static, str>> {
        value.as_bool().ok_or("".into())
    }
}

fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|w| format!("\"{w}\"")).collect();
    let (last, rest) = quoted.split_last().expect("an enum has variants");
    format!("{} or {last}", rest.join(", "))
}
