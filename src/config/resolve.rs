//! From the file as written to the settings.

use std::path::{Path, PathBuf};

use super::checks;
use super::files::{private, readable};
use super::lag::{LagKeys, LagLimits};
use super::passwords::{Login, Sources, Vault, sources};
use super::problem::Findings;
use super::resolved::*;
use super::scalar::Whole;
use super::units::Secret;
use super::value::{At, List};
use super::written::{self, Root};

/// The settings that `root` means. What is refused is reported to `findings` and left out, so that one run finds everything.
pub(super) fn resolve(
    root: &Root,
    env: &dyn Fn(&str) -> Option<String>,
    base: &Path,
    findings: &mut Findings<'_>,
) -> Config {
    let mut resolver = Resolver { vault: Vault::open(env, base, &root.passfile, findings), base, findings };
    let nodes = resolver.nodes(root);
    let servers: Vec<_> = nodes.iter().map(|node| (node.host.clone(), node.port)).collect();
    let health = resolver.health(&root.health, &servers);
    let failover = resolver.failover(&root.failover, &health, &servers);
    let config = Config {
        listen: values(&root.listen.value.0),
        clients: clients(&root.clients),
        tls: resolver.client_tls(&root.tls),
        auth: resolver.auth(root, &health, &servers),
        admin: admin(&root.admin),
        metrics: Metrics { listen: root.metrics.listen.value.0 },
        pool: pool(&root.pool),
        routing: routing(&root.routing),
        coordination: resolver.coordination(root.coordination.as_ref()),
        health,
        failover,
        nodes,
        zones: zones(root),
        users: resolver.users(root, &servers),
        databases: root.databases.iter().filter_map(database).collect(),
        log: log(&root.log),
        workers: value(&root.workers).map(count),
        drain_timeout: root.drain_timeout.value.0,
        warnings: Vec::new(),
    };
    checks::check(root, &config, findings);
    config
}

/// What a section with the keys of lag says of it.
macro_rules! lag_keys {
    ($section:expr) => {
        LagKeys {
            max: value(&$section.max_lag).map(|max| max.0),
            recovery: value(&$section.lag_recovery).map(|recovery| recovery.0),
            max_bytes: value(&$section.max_lag_bytes).map(|max| max.0),
            recovery_bytes: value(&$section.lag_recovery_bytes),
        }
    };
}

/// The parts of resolving that look at files or the environment.
struct Resolver<'r, 's> {
    vault: Vault<'r>,
    base: &'r Path,
    findings: &'r mut Findings<'s>,
}

impl Resolver<'_, '_> {
    fn client_tls(&mut self, tls: &written::Tls) -> ClientTls {
        let certificate = self.readable("tls.certificate", &tls.certificate);
        let offered = if certificate.is_some() { SslMode::Prefer } else { SslMode::Disable };
        ClientTls {
            mode: value(&tls.mode).unwrap_or(offered),
            certificate,
            key: self.private("tls.key", &tls.key),
            ca: self.readable("tls.ca", &tls.ca),
        }
    }

    fn nodes(&mut self, root: &Root) -> Vec<Node> {
        let shared = ServerTls {
            mode: root.server_tls.mode.value,
            ca: self.readable("server_tls.ca", &root.server_tls.ca),
            certificate: self.readable("server_tls.certificate", &root.server_tls.certificate),
            key: self.private("server_tls.key", &root.server_tls.key),
        };
        root.nodes.0.iter().filter_map(|node| self.node(root, node, &shared)).collect()
    }

    fn node(&mut self, root: &Root, node: &written::Node, shared: &ServerTls) -> Option<Node> {
        let tls = ServerTls {
            mode: value(&node.tls.mode).unwrap_or(shared.mode),
            ca: self.readable("nodes.tls.ca", &node.tls.ca).or_else(|| shared.ca.clone()),
            certificate: self
                .readable("nodes.tls.certificate", &node.tls.certificate)
                .or_else(|| shared.certificate.clone()),
            key: self.private("nodes.tls.key", &node.tls.key).or_else(|| shared.key.clone()),
        };
        Some(Node {
            name: value(&node.name)?,
            host: value(&node.host)?.0,
            // The bounds of the key are those of a port.
            port: u16::try_from(node.port.value.0).ok()?,
            zone: value(&node.zone),
            weight: node.weight.value.0,
            priority: node.priority.value.0,
            replication_host: value(&node.replication_host).map(|host| host.0),
            replication_port: value(&node.replication_port).and_then(|port| u16::try_from(port.0).ok()),
            lag: zone_lag(root, node.zone.value.as_deref()).with(lag_keys!(node)),
            tls,
        })
    }

    fn health(&mut self, health: &written::Health, servers: &[(String, u16)]) -> Health {
        let database = health.database.value.clone();
        let user = &health.user;
        let login = Login { servers, database: Some(&database), user: &user.value, place: user.place };
        let password = self.vault.find(&sources!("health", health), &login, self.findings);
        Health {
            user: health.user.value.clone(),
            password,
            database,
            interval: health.interval.value.0,
            timeout: health.timeout.value.0,
            failures: health.failures.value.0,
        }
    }

    fn auth(&mut self, root: &Root, health: &Health, servers: &[(String, u16)]) -> Auth {
        let everything = AuthRule {
            connection: ConnectionKind::Any,
            databases: Vec::new(),
            users: Vec::new(),
            addresses: Vec::new(),
            method: AuthMethod::Scram,
        };
        let rules = if root.auth.rules.is_empty() {
            vec![everything]
        } else {
            root.auth.rules.iter().filter_map(rule).collect()
        };
        let query = root.auth.query.as_ref().map(|query| self.auth_query(query, health, servers));
        Auth { rules, query, verifier_ttl: root.auth.verifier_ttl.value }
    }

    fn auth_query(&mut self, query: &written::AuthQuery, health: &Health, servers: &[(String, u16)]) -> AuthQuery {
        let database = query.database.value.clone();
        let of_query = OwnLogin { sources: sources!("auth.query", query), user: &query.user, database: &database };
        let (user, password) = self.own_login(&of_query, health, servers);
        AuthQuery { user, password, database, sql: query.sql.value.0.clone() }
    }

    fn failover(&mut self, failover: &written::Failover, health: &Health, servers: &[(String, u16)]) -> Failover {
        let sources = sources!("failover", failover);
        let of_failover = OwnLogin { sources, user: &failover.user, database: &health.database };
        let (user, password) = self.own_login(&of_failover, health, servers);
        Failover {
            automatic: failover.automatic.value,
            detect_after: failover.detect_after.value.0,
            refused_after: failover.refused_after.value.0,
            start_timeout: failover.start_timeout.value,
            min_interval: failover.min_interval.value,
            step_timeout: failover.step_timeout.value.0,
            switchover_timeout: failover.switchover_timeout.value.0,
            max_data_loss: failover.max_data_loss.value,
            require_fence: failover.require_fence.value,
            user,
            password,
            state_file: failover.state_file.value.as_ref().map(|path| self.base.join(path)),
            fence_command: self.command(&failover.fence_command),
            demote_command: self.command(&failover.demote_command),
            rejoin_command: self.command(&failover.rejoin_command),
            pre_promote: self.command(&failover.pre_promote),
            post_promote: self.command(&failover.post_promote),
            hook_timeout: failover.hook_timeout.value.0,
        }
    }

    fn coordination(&mut self, written: Option<&written::Coordination>) -> Option<Coordination> {
        let written = written?;
        let etcd = written.etcd.value.as_ref()?;
        let sources = sources!("coordination", written);
        let password = if sources.written() { self.vault.named(&sources, self.findings) } else { None };
        let tls = ServerTls {
            mode: SslMode::VerifyFull,
            ca: self.readable("coordination.ca", &written.ca),
            certificate: self.readable("coordination.certificate", &written.certificate),
            key: self.private("coordination.key", &written.key),
        };
        Some(Coordination {
            etcd: values(&etcd.0).into_iter().map(|url| url.0).collect(),
            prefix: written.prefix.value.0.clone(),
            name: value(&written.name),
            advertise: value(&written.advertise).map(|peer| peer.0),
            lease: written.lease.value.0,
            user: value(&written.user),
            password,
            tls,
        })
    }

    /// An argument vector. A program whose path is relative is one beside the topology file, as are all files it names.
    fn command(&self, words: &At<List<String>>) -> Vec<String> {
        let mut words = values(&words.value.0);
        if let Some(program) = words.first_mut().filter(|program| program.contains('/')) {
            let path = self.base.join(&*program);
            // Both parts were text, and so is the whole, unless the directory of the file has a name that is none.
            *program = path.to_str().map_or(program.clone(), str::to_owned);
        }
        words
    }

    /// User and password of a section; without a user, those of `health`.
    fn own_login(
        &mut self,
        own: &OwnLogin<'_>,
        health: &Health,
        servers: &[(String, u16)],
    ) -> (String, Option<Secret>) {
        let Some(user) = &own.user.value else {
            if let Some(place) = own.sources.places().next() {
                let section = own.sources.section;
                let message = || format!("{section} has a password, but no user; expected both or neither");
                self.findings.contradiction(&[place, own.user.place], message);
            }
            return (health.user.clone(), health.password.clone());
        };
        let login = Login { servers, database: Some(own.database), user, place: own.user.place };
        (user.clone(), self.vault.find(&own.sources, &login, self.findings))
    }

    fn users(&mut self, root: &Root, servers: &[(String, u16)]) -> Vec<User> {
        root.users.iter().filter_map(|user| self.user(user, servers)).collect()
    }

    fn user(&mut self, user: &written::User, servers: &[(String, u16)]) -> Option<User> {
        let name = user.name.value.as_ref()?;
        let login = Login { servers, database: None, user: name, place: user.name.place };
        let password = self.vault.find(&sources!("users", user), &login, self.findings);
        Some(User {
            name: name.clone(),
            password,
            pool_mode: value(&user.pool_mode),
            consistency: value(&user.consistency),
            max_server_connections: value(&user.max_server_connections).map(count),
        })
    }

    fn readable(&mut self, key: &str, path: &At<Option<PathBuf>>) -> Option<PathBuf> {
        let full = path.value.as_ref().map(|path| self.base.join(path))?;
        readable(key, &full, path.place, self.findings);
        Some(full)
    }

    fn private(&mut self, key: &str, path: &At<Option<PathBuf>>) -> Option<PathBuf> {
        let full = path.value.as_ref().map(|path| self.base.join(path))?;
        private(key, &full, path.place, self.findings);
        Some(full)
    }
}

/// Who a section says logs in, which may be nobody of its own.
struct OwnLogin<'w> {
    sources: Sources<'w>,
    user: &'w At<Option<String>>,
    database: &'w str,
}

fn rule(rule: &written::Rule) -> Option<AuthRule> {
    let names = |list: &List<super::scalar::Name>| list.0.iter().map(|name| name.value.0.clone()).collect();
    Some(AuthRule {
        connection: rule.connection.value,
        databases: names(&rule.databases.value),
        users: names(&rule.users.value),
        addresses: values(&rule.addresses.value.0),
        method: value(&rule.method)?,
    })
}

fn clients(clients: &written::Clients) -> Clients {
    Clients {
        max: count(clients.max.value),
        max_logins: count(clients.max_logins.value),
        login_timeout: clients.login_timeout.value.0,
        idle_timeout: clients.idle_timeout.value,
        idle_transaction_timeout: clients.idle_transaction_timeout.value,
        keepalive: clients.keepalive.value,
    }
}

fn admin(admin: &written::Admin) -> Admin {
    Admin {
        users: values(&admin.users.value.0),
        readers: values(&admin.readers.value.0),
        socket: value(&admin.socket).map(|directory| directory.0),
    }
}

fn pool(pool: &written::Pool) -> Pool {
    Pool {
        mode: pool.mode.value,
        max_server_connections: count(pool.max_server_connections.value),
        min_idle: count(pool.min_idle.value),
        checkout_timeout: pool.checkout_timeout.value.0,
        max_waiting: count(pool.max_waiting.value),
        idle_timeout: pool.idle_timeout.value,
        max_lifetime: pool.max_lifetime.value,
        connect_timeout: pool.connect_timeout.value.0,
        max_connecting: count(pool.max_connecting.value),
        max_prepared: count(pool.max_prepared.value),
    }
}

fn routing(routing: &written::Routing) -> Routing {
    Routing {
        mode: routing.mode.value,
        transactions: routing.transactions.value,
        consistency: routing.consistency.value,
        lag: routing_lag(routing),
        on_all_lagging: routing.on_all_lagging.value,
        replica_wait: routing.replica_wait.value,
        primary_wait: routing.primary_wait.value,
        max_held: count(routing.max_held.value),
        max_held_bytes: routing.max_held_bytes.value,
        reads_on_primary: routing.reads_on_primary.value,
        zone: value(&routing.zone),
        primary_functions: values(&routing.primary_functions.value.0),
        replica_functions: values(&routing.replica_functions.value.0),
        max_parse: routing.max_parse.value,
        cache: routing.cache.value,
    }
}

fn routing_lag(routing: &written::Routing) -> LagLimits {
    let max = routing.max_lag.value.0;
    let recovery = value(&routing.lag_recovery).map_or(max / 2, |recovery| recovery.0);
    let max_bytes = value(&routing.max_lag_bytes).map(|size| size.0);
    let bytes = LagKeys { max_bytes, recovery_bytes: value(&routing.lag_recovery_bytes), ..LagKeys::default() };
    LagLimits::by_time(max, recovery).with(bytes)
}

/// How far behind a replica of this zone may be.
fn zone_lag(root: &Root, zone: Option<&str>) -> LagLimits {
    let whole = routing_lag(&root.routing);
    let section = root.zones.iter().find(|section| zone.is_some() && section.name.value.as_deref() == zone);
    section.map_or(whole, |section| whole.with(lag_keys!(section)))
}

fn zones(root: &Root) -> Vec<Zone> {
    let names = root.zones.iter().filter_map(|section| value(&section.name));
    names.map(|name| Zone { lag: zone_lag(root, Some(&name)), name }).collect()
}

fn database(database: &written::Database) -> Option<Database> {
    Some(Database {
        name: value(&database.name)?,
        pool_mode: value(&database.pool_mode),
        consistency: value(&database.consistency),
        max_server_connections: value(&database.max_server_connections).map(count),
    })
}

fn log(log: &written::Log) -> Log {
    Log { level: log.level.value.0.clone(), format: log.format.value, slow_statement: log.slow_statement.value }
}

fn value<T: Clone>(at: &At<Option<T>>) -> Option<T> {
    at.value.clone()
}

fn values<T: Clone>(list: &[At<T>]) -> Vec<T> {
    list.iter().map(|at| at.value.clone()).collect()
}

fn count<const MIN: u32, const MAX: u32>(whole: Whole<MIN, MAX>) -> usize {
    whole.0 as usize
}
