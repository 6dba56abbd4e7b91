//! What is right value by value and wrong together.

mod coordination;
mod failover;
mod lag;

use std::collections::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::config::problem::{Findings, Place};
use crate::config::resolved::*;
use crate::config::scalar::Host;
use crate::config::value::At;
use crate::config::written::{self, Root};

/// Reports every contradiction of the file. `config` is what it resolves to so far.
pub(in crate::config) fn check(root: &Root, config: &Config, findings: &mut Findings<'_>) {
    limits(root, findings);
    lag::check(root, findings);
    functions(&root.routing, findings);
    zone(root, findings);
    addresses(root, findings);
    nodes(root, findings);
    names(root, findings);
    client_tls(&root.tls, findings);
    server_tls(root, findings);
    rules(root, config, findings);
    logins(root, config, findings);
    failover::check(root, config, findings);
    coordination::check(root, findings);
}

fn limits(root: &Root, findings: &mut Findings<'_>) {
    let whole = &root.pool.max_server_connections;
    let min_idle = &root.pool.min_idle;
    if min_idle.value.0 > whole.value.0 {
        findings.contradiction(&[min_idle.place, whole.place], || {
            format!("pool.min_idle is {}, above pool.max_server_connections, {}", min_idle.value.0, whole.value.0)
        });
    }
    let users = root.users.iter().map(|user| ("users", &user.max_server_connections));
    let databases = root.databases.iter().map(|database| ("databases", &database.max_server_connections));
    for (section, part) in users.chain(databases) {
        let Some(limit) = part.value.filter(|limit| limit.0 > whole.value.0) else { continue };
        findings.contradiction(&[part.place, whole.place], || {
            let (part, whole) = (limit.0, whole.value.0);
            format!("{section}.max_server_connections is {part}, above pool.max_server_connections, {whole}")
        });
    }
}

fn functions(routing: &written::Routing, findings: &mut Findings<'_>) {
    for function in &routing.replica_functions.value.0 {
        if routing.primary_functions.value.0.iter().any(|other| other.value.eq_ignore_ascii_case(&function.value)) {
            findings.contradiction(&[function.place], || {
                format!("{:?} is both in routing.primary_functions and in routing.replica_functions", function.value)
            });
        }
    }
}

fn zone(root: &Root, findings: &mut Findings<'_>) {
    let sections = root.zones.iter().map(|zone| ("zones.name", &zone.name));
    for (key, at) in std::iter::once(("routing.zone", &root.routing.zone)).chain(sections) {
        let Some(zone) = &at.value else { continue };
        if !root.nodes.0.iter().any(|node| node.zone.value.as_ref() == Some(zone)) {
            findings.warning(&[at.place], format!("{key}: no node is in the zone {zone:?}"));
        }
    }
}

/// What pgpilot binds: no address twice.
fn addresses(root: &Root, findings: &mut Findings<'_>) {
    let mut tcp: Vec<(SocketAddr, Place)> = Vec::new();
    let mut directories = Vec::new();
    for listen in &root.listen.value.0 {
        match &listen.value {
            Listen::Tcp(address) => tcp.push((*address, listen.place)),
            Listen::Unix(directory) => directories.push((directory.clone(), listen.place)),
        }
    }
    let metrics = &root.metrics.listen;
    tcp.extend(metrics.value.0.map(|address| (address, metrics.place)));
    let socket = &root.admin.socket;
    directories.extend(socket.value.clone().map(|directory| (directory.0, socket.place)));
    for (i, (address, place)) in tcp.iter().enumerate() {
        if let Some((other, other_place)) = tcp[..i].iter().find(|(other, _)| overlap(*other, *address)) {
            findings.contradiction(&[*place, *other_place], || match address == other {
                true => format!("{address} is listened on twice"),
                false => format!("{address} is listened on already: {other} includes it, or the other way round"),
            });
        }
    }
    let places = directories.iter().map(|(directory, place)| (directory, *place));
    twice(places, findings, |directory| format!("the directory {} is used for two sockets", directory.display()));
}

/// Whether one of the two cannot be bound besides the other. Port 0 is a new one each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let same_host = a.ip() == b.ip() || (same_family && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() != 0 && a.port() == b.port() && same_host
}

fn nodes(root: &Root, findings: &mut Findings<'_>) {
    let mut servers = Vec::new();
    for node in &root.nodes.0 {
        let Some(Host(host)) = &node.host.value else { continue };
        let port = node.port.value.0;
        if node.port.place == Place::Refused {
            continue;
        }
        servers.push(((host.to_ascii_lowercase(), port), node.host.place));
        let own = root.listen.value.0.iter().any(|listen| match &listen.value {
            Listen::Tcp(address) => u32::from(address.port()) == port && reaches(host, address.ip()),
            Listen::Unix(directory) => directory.to_str() == Some(host) && port == socket_port(root),
        });
        if own {
            findings.contradiction(&[node.host.place, root.listen.place], || {
                format!("nodes: {host} port {port} is where pgpilot itself listens")
            });
        }
    }
    let places = servers.iter().map(|(server, place)| (server, *place));
    twice(places, findings, |(host, port)| {
        format!("nodes: {host} port {port} is there twice; expected each server once")
    });
}

/// Whether a connection to `host` surely ends at a listener on `listen`.
fn reaches(host: &str, listen: IpAddr) -> bool {
    let host =
        if host.eq_ignore_ascii_case("localhost") { Some(IpAddr::from([127, 0, 0, 1])) } else { host.parse().ok() };
    host.is_some_and(|host| host == listen || (listen.is_unspecified() && host.is_loopback()))
}

fn socket_port(root: &Root) -> u32 {
    let listen: Vec<_> = root.listen.value.0.iter().map(|listen| listen.value.clone()).collect();
    u32::from(crate::config::resolved::socket_port(&listen))
}

fn names(root: &Root, findings: &mut Findings<'_>) {
    let nodes = root.nodes.0.iter().filter_map(|node| entry(&node.name));
    twice(nodes, findings, |name| format!("nodes: the name {:?} is there twice", name.as_str()));
    let users = root.users.iter().filter_map(|user| entry(&user.name));
    twice(users, findings, |name| format!("users: the user {name:?} is there twice"));
    let zones = root.zones.iter().filter_map(|zone| entry(&zone.name));
    twice(zones, findings, |name| format!("zones: the zone {name:?} is there twice"));
    let databases = root.databases.iter().filter_map(|database| entry(&database.name));
    twice(databases.clone(), findings, |name| format!("databases: the database {name:?} is there twice"));
    for (_, place) in databases.filter(|(name, _)| *name == ADMIN_DATABASE) {
        findings.contradiction(&[place], || {
            format!("databases: {ADMIN_DATABASE:?} is the admin console; expected a database of the servers")
        });
    }
}

fn entry<T>(at: &At<Option<T>>) -> Option<(&T, Place)> {
    at.value.as_ref().map(|value| (value, at.place))
}

/// Reports what occurs more than once, at its later places.
fn twice<'v, T: Eq + Hash + 'v>(
    values: impl Iterator<Item = (&'v T, Place)>,
    findings: &mut Findings<'_>,
    message: impl Fn(&T) -> String,
) {
    let mut seen = HashSet::new();
    for (value, place) in values {
        if !seen.insert(value) {
            findings.contradiction(&[place], || message(value));
        }
    }
}

fn client_tls(tls: &written::Tls, findings: &mut Findings<'_>) {
    pair("tls", &tls.certificate, &tls.key, findings);
    let Some(mode) = tls.mode.value else { return };
    if mode != SslMode::Disable && tls.certificate.value.is_none() && tls.key.value.is_none() {
        findings.contradiction(&[tls.mode.place, tls.certificate.place, tls.key.place], || {
            "tls.mode needs tls.certificate and tls.key".to_owned()
        });
    }
    if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) && tls.ca.value.is_none() {
        findings.contradiction(&[tls.mode.place, tls.ca.place], || {
            "tls.mode needs tls.ca, to verify client certificates with".to_owned()
        });
    }
}

fn server_tls(root: &Root, findings: &mut Findings<'_>) {
    // As libpq has it: any of the system's many authorities could vouch for any server whose name is not looked at.
    let message =
        |section: &str| format!("{section}.mode \"verify-ca\" needs {section}.ca; \"verify-full\" can do without");
    let shared = &root.server_tls;
    pair("server_tls", &shared.certificate, &shared.key, findings);
    if shared.mode.value == SslMode::VerifyCa && shared.ca.value.is_none() {
        findings.contradiction(&[shared.mode.place, shared.ca.place], || message("server_tls"));
    }
    for tls in root.nodes.0.iter().map(|node| &node.tls) {
        pair("nodes.tls", &tls.certificate, &tls.key, findings);
        if tls.mode.value == Some(SslMode::VerifyCa) && tls.ca.value.is_none() && shared.ca.value.is_none() {
            findings.contradiction(&[tls.mode.place, tls.ca.place, shared.ca.place], || message("nodes.tls"));
        }
    }
}

/// A certificate and its private key only make sense together, and in one section.
fn pair(section: &str, certificate: &At<Option<PathBuf>>, key: &At<Option<PathBuf>>, findings: &mut Findings<'_>) {
    let places = [certificate.place, key.place];
    match (&certificate.value, &key.value) {
        (Some(_), None) => findings.contradiction(&places, || format!("{section}.certificate needs {section}.key")),
        (None, Some(_)) => findings.contradiction(&places, || format!("{section}.key needs {section}.certificate")),
        _ => {}
    }
}

fn rules(root: &Root, config: &Config, findings: &mut Findings<'_>) {
    let mut catch_all = false;
    for rule in &root.auth.rules {
        let (connection, addresses) = (&rule.connection, &rule.addresses);
        if connection.value == ConnectionKind::Local && !addresses.value.0.is_empty() {
            findings.contradiction(&[addresses.place, connection.place], || {
                "auth.rules: a rule for \"local\" connections has no addresses".to_owned()
            });
        }
        if rule.method.value == Some(AuthMethod::Cert) {
            certificate_rule(rule, &root.tls, findings);
        } else if connection.value == ConnectionKind::HostSsl && config.tls.mode == SslMode::Disable {
            let message = "auth.rules: a rule for \"hostssl\" never matches, as TLS is off".to_owned();
            findings.warning(&[connection.place], message);
        }
        if rule.method.value == Some(AuthMethod::Trust) && lets_strangers_in(rule, config) {
            let message = "auth.rules: \"trust\" lets anyone on the network in without a password".to_owned();
            findings.warning(&[rule.method.place], message);
        }
        if catch_all {
            findings.warning(
                &[rule.method.place],
                "auth.rules: never reached, as a rule above matches everything".to_owned(),
            );
        }
        let anyone = rule.databases.value.0.is_empty() && rule.users.value.0.is_empty();
        catch_all |= anyone && addresses.value.0.is_empty() && connection.value == ConnectionKind::Any;
    }
}

/// Whether the rule is about connections from other machines, and there can be any.
fn lets_strangers_in(rule: &written::Rule, config: &Config) -> bool {
    let remote = |listen: &Listen| matches!(listen, Listen::Tcp(address) if !address.ip().is_loopback());
    let addresses = &rule.addresses.value.0;
    let elsewhere = addresses.is_empty() || addresses.iter().any(|range| !range.value.network().is_loopback());
    rule.connection.value != ConnectionKind::Local && elsewhere && config.listen.iter().any(remote)
}

fn certificate_rule(rule: &written::Rule, tls: &written::Tls, findings: &mut Findings<'_>) {
    if rule.connection.value != ConnectionKind::HostSsl {
        findings.contradiction(&[rule.method.place, rule.connection.place], || {
            "auth.rules: method \"cert\" needs connection = \"hostssl\"".to_owned()
        });
    }
    if tls.ca.value.is_none() || tls.mode.value == Some(SslMode::Disable) {
        findings.contradiction(&[rule.method.place, tls.ca.place, tls.mode.place], || {
            "auth.rules: method \"cert\" needs TLS with tls.ca".to_owned()
        });
    }
}

/// Who is named, and cannot log in.
fn logins(root: &Root, config: &Config, findings: &mut Findings<'_>) {
    let by_password = |rule: &AuthRule| !matches!(rule.method, AuthMethod::Trust | AuthMethod::Cert);
    let listed_only = config.auth.query.is_none() && config.auth.rules.iter().all(by_password);
    let users: Vec<_> = root.users.iter().map(|user| user.name.place).collect();
    for name in root.admin.users.value.0.iter().chain(&root.admin.readers.value.0) {
        if listed_only && !config.users.iter().any(|user| user.name == name.value) {
            let places: Vec<_> = std::iter::once(name.place).chain(users.iter().copied()).collect();
            findings.contradiction(&places, || {
                format!(
                    "admin: unknown user {:?}; expected one of [[users]], or [auth.query] to look others up",
                    name.value
                )
            });
        }
    }
    for reader in &root.admin.readers.value.0 {
        if root.admin.users.value.0.iter().any(|user| user.value == reader.value) {
            let message = || format!("admin: {:?} is both in admin.users and in admin.readers", reader.value);
            findings.contradiction(&[reader.place], message);
        }
    }
    if listed_only && config.users.is_empty() {
        let message = "no client can log in: there are neither [[users]] with a password nor [auth.query]".to_owned();
        findings.warning(&[], message);
    }
    for (written, user) in root.users.iter().filter(|user| user.name.value.is_some()).zip(&config.users) {
        if listed_only && user.password.is_none() {
            let message =
                format!("users: {:?} cannot log in: it has no password, and there is no [auth.query]", user.name);
            findings.warning(&[written.name.place], message);
        }
    }
}
