//! Host-based rules: which method a connection has to pass, as pg_hba.conf decides it.

use std::fmt;
use std::net::IpAddr;

use crate::config::{AuthMethod, AuthRule, ConnectionKind};

use super::error::AuthError;

/// A connection that wants in, as its start-up message and its socket describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer<'a> {
    pub origin: Origin,
    pub encryption: Encryption,
    pub user: &'a str,
    pub database: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A Unix socket.
    Local,
    Tcp(IpAddr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    None,
    Tls,
}

/// The method of the first rule that matches; `None` if none does.
pub fn decide(rules: &[AuthRule], who: &Peer<'_>) -> Option<AuthMethod> {
    rules.iter().find(|rule| matches(rule, who)).map(|rule| rule.method)
}

/// As [`decide`], with the answer for the client where it is not let in.
///
/// # Errors
/// [`AuthError::NoRule`], and [`AuthError::Rejected`] instead of `AuthMethod::Reject`.
pub fn admit(rules: &[AuthRule], who: &Peer<'_>) -> Result<AuthMethod, AuthError> {
    match decide(rules, who) {
        None => Err(AuthError::NoRule(who.to_string())),
        Some(AuthMethod::Reject) => Err(AuthError::Rejected(who.to_string())),
        Some(method) => Ok(method),
    }
}

fn matches(rule: &AuthRule, who: &Peer<'_>) -> bool {
    let listed = |list: &[String], name: &str| list.is_empty() || list.iter().any(|entry| entry == name);
    covers(rule.connection, who)
        && reaches(rule, who.origin)
        && listed(&rule.databases, who.database)
        && listed(&rule.users, who.user)
}

fn covers(kind: ConnectionKind, who: &Peer<'_>) -> bool {
    match (kind, who.origin, who.encryption) {
        (ConnectionKind::Any, _, _)
        | (ConnectionKind::Local, Origin::Local, _)
        | (ConnectionKind::Host, Origin::Tcp(_), _)
        | (ConnectionKind::HostSsl, Origin::Tcp(_), Encryption::Tls)
        | (ConnectionKind::HostNoSsl, Origin::Tcp(_), Encryption::None) => true,
        (ConnectionKind::Local | ConnectionKind::Host | ConnectionKind::HostSsl | ConnectionKind::HostNoSsl, _, _) => {
            false
        }
    }
}

fn reaches(rule: &AuthRule, origin: Origin) -> bool {
    match origin {
        Origin::Local => true,
        Origin::Tcp(address) => {
            // A listener on [::] sees IPv4 clients as ::ffff:a.b.c.d.
            let address = address.to_canonical();
            rule.addresses.is_empty() || rule.addresses.iter().any(|net| net.contains(&address))
        }
    }
}

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Local => f.write_str("a local socket")?,
            Origin::Tcp(address) => write!(f, "host \"{}\"", address.to_canonical())?,
        }
        let encryption = match self.encryption {
            Encryption::None => "no encryption",
            Encryption::Tls => "SSL encryption",
        };
        write!(f, ", user \"{}\", database \"{}\", {encryption}", self.user, self.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(connection: ConnectionKind, method: AuthMethod) -> AuthRule {
        AuthRule { connection, databases: vec![], users: vec![], addresses: vec![], method }
    }

    fn tcp(address: &str) -> Peer<'static> {
        Peer {
            origin: Origin::Tcp(address.parse().unwrap()),
            encryption: Encryption::None,
            user: "app",
            database: "shop",
        }
    }

    #[test]
    fn the_kind_of_connection_decides() {
        use ConnectionKind::{Any, Host, HostNoSsl, HostSsl, Local};
        let plain = tcp("10.0.0.1");
        let tls = Peer { encryption: Encryption::Tls, ..plain };
        let local = Peer { origin: Origin::Local, ..plain };
        let table = [
            (Any, [true, true, true]),
            (Local, [false, false, true]),
            (Host, [true, true, false]),
            (HostSsl, [false, true, false]),
            (HostNoSsl, [true, false, false]),
        ];
        for (kind, expected) in table {
            let rules = [rule(kind, AuthMethod::Scram)];
            let found = [plain, tls, local].map(|who| decide(&rules, &who).is_some());
            assert_eq!(found, expected, "{kind:?}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let mut narrow = rule(ConnectionKind::Host, AuthMethod::Trust);
        narrow.addresses = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        narrow.users = vec!["app".into(), "batch".into()];
        narrow.databases = vec!["shop".into()];
        let rules = [narrow, rule(ConnectionKind::Any, AuthMethod::Scram)];
        assert_eq!(decide(&rules, &tcp("10.9.9.9")), Some(AuthMethod::Trust));
        assert_eq!(decide(&rules, &tcp("::ffff:10.9.9.9")), Some(AuthMethod::Trust));
        assert_eq!(decide(&rules, &tcp("fd00::1")), Some(AuthMethod::Trust));
        assert_eq!(decide(&rules, &tcp("11.0.0.1")), Some(AuthMethod::Scram));
        assert_eq!(decide(&rules, &Peer { user: "App", ..tcp("10.9.9.9") }), Some(AuthMethod::Scram));
        assert_eq!(decide(&rules, &Peer { database: "other", ..tcp("10.9.9.9") }), Some(AuthMethod::Scram));
        assert_eq!(decide(&rules[..1], &tcp("11.0.0.1")), None);
    }

    #[test]
    fn addresses_do_not_concern_unix_sockets() {
        let mut any = rule(ConnectionKind::Any, AuthMethod::Trust);
        any.addresses = vec!["10.0.0.0/8".parse().unwrap()];
        let local = Peer { origin: Origin::Local, ..tcp("11.0.0.1") };
        assert_eq!(decide(&[any], &local), Some(AuthMethod::Trust));
    }

    #[test]
    fn who_is_turned_away_is_told_how_it_was_seen() {
        let error = admit(&[], &tcp("::ffff:10.0.0.1")).unwrap_err();
        assert_eq!(error.sqlstate(), "28000");
        assert_eq!(
            error.to_string(),
            "no authentication rule for host \"10.0.0.1\", user \"app\", database \"shop\", no encryption"
        );
        let rules = [rule(ConnectionKind::Any, AuthMethod::Reject)];
        assert!(matches!(admit(&rules, &tcp("10.0.0.1")), Err(AuthError::Rejected(_))));
    }
}
