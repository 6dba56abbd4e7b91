//! SHOW CONFIG: the settings in force. Every structure is taken apart as a whole, so that no new setting is forgotten.

use std::fmt::{Debug, Display};
use std::time::Duration;

use crate::admin::table::{Column, Value, text};
use crate::config::{
    Admin, Auth, AuthQuery, AuthRule, ClientTls, Clients, Config, Coordination, Database, Failover, Health, LagLimits,
    Listen, Log, Metrics, Node, Pool, Routing, Secret, ServerTls, User, Zone, show_duration,
};

pub(super) const CONFIG: &[Column] = &[text("key"), text("value")];

pub(super) fn config(config: &Config) -> Vec<Vec<Value>> {
    let Config {
        listen,
        clients,
        tls,
        auth,
        admin,
        metrics,
        pool,
        routing,
        health,
        failover,
        coordination,
        nodes,
        zones,
        users,
        databases,
        log,
        workers,
        drain_timeout,
        warnings: _,
    } = config;
    let mut list = List(Vec::new());
    list.all(
        "listen",
        listen.iter().map(|listen| match listen {
            Listen::Tcp(address) => address.to_string(),
            Listen::Unix(directory) => directory.display().to_string(),
        }),
    );
    list.maybe("workers", workers.as_ref());
    list.time("drain_timeout", *drain_timeout);
    serving(&mut list, clients, tls, log);
    access(&mut list, auth, admin, metrics);
    pooling(&mut list, pool);
    routes(&mut list, routing);
    probes(&mut list, health);
    failing_over(&mut list, failover);
    coordination.iter().for_each(|it| coordinating(&mut list, it));
    nodes.iter().for_each(|it| node(&mut list, it));
    zones.iter().for_each(|Zone { name, lag }| list.lag(&format!("zones.{name}"), *lag));
    users.iter().for_each(|it| user(&mut list, it));
    databases.iter().for_each(|it| database(&mut list, it));
    list.0
}

struct List(Vec<Vec<Value>>);

impl List {
    fn put(&mut self, key: impl Into<String>, value: impl Display) {
        self.0.push(vec![Value::Text(key.into()), Value::Text(value.to_string())]);
    }

    fn time(&mut self, key: &str, value: Duration) {
        self.put(key, show_duration(value));
    }

    /// A setting with a word for each of its values: those of the topology file.
    fn word(&mut self, key: impl Into<String>, value: impl Debug) {
        self.put(key, kebab(&format!("{value:?}")));
    }

    fn maybe(&mut self, key: impl Into<String>, value: Option<impl Display>) {
        match value {
            Some(value) => self.put(key, value),
            None => self.0.push(vec![Value::Text(key.into()), Value::Null]),
        }
    }

    fn all(&mut self, key: impl Into<String>, values: impl IntoIterator<Item = impl Display>) {
        let values: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
        self.put(key, values.join(", "));
    }

    fn lag(&mut self, section: &str, limits: LagLimits) {
        let LagLimits { max, recovery, bytes } = limits;
        self.time(&format!("{section}.max_lag"), max);
        self.time(&format!("{section}.lag_recovery"), recovery);
        self.maybe(format!("{section}.max_lag_bytes"), bytes.map(|bytes| bytes.max));
        self.maybe(format!("{section}.lag_recovery_bytes"), bytes.map(|bytes| bytes.recovery));
    }

    fn secret(&mut self, key: impl Into<String>, value: Option<&Secret>) {
        self.maybe(key, value.map(|_| "(set)"));
    }
}

/// `VerifyFull` as `verify-full`.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn serving(list: &mut List, clients: &Clients, tls: &ClientTls, log: &Log) {
    let Clients { max, max_logins, login_timeout, idle_timeout, idle_transaction_timeout, keepalive } = clients;
    list.put("clients.max", max);
    list.put("clients.max_logins", max_logins);
    list.time("clients.login_timeout", *login_timeout);
    list.time("clients.idle_timeout", *idle_timeout);
    list.time("clients.idle_transaction_timeout", *idle_transaction_timeout);
    list.time("clients.keepalive", *keepalive);
    let ClientTls { mode, certificate, key, ca } = tls;
    list.word("tls.mode", mode);
    for (name, path) in [("tls.certificate", certificate), ("tls.key", key), ("tls.ca", ca)] {
        list.maybe(name, path.as_ref().map(|path| path.display()));
    }
    let Log { level, format, slow_statement } = log;
    list.put("log.level", level);
    list.word("log.format", format);
    list.time("log.slow_statement", *slow_statement);
}

fn access(list: &mut List, auth: &Auth, admin: &Admin, metrics: &Metrics) {
    let Auth { rules, query, verifier_ttl } = auth;
    for (number, rule) in rules.iter().enumerate() {
        let AuthRule { connection, databases, users, addresses, method } = rule;
        let or_all = |names: &[String]| if names.is_empty() { "all".to_owned() } else { names.join(",") };
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let words = [
            kebab(&format!("{connection:?}")),
            or_all(databases),
            or_all(users),
            or_all(&addresses),
            kebab(&format!("{method:?}")),
        ];
        list.put(format!("auth.rules.{}", number + 1), words.join(" "));
    }
    if let Some(AuthQuery { user, password, database, sql }) = query {
        list.put("auth.query.user", user);
        list.secret("auth.query.password", password.as_ref());
        list.put("auth.query.database", database);
        list.put("auth.query.sql", sql);
    }
    list.time("auth.verifier_ttl", *verifier_ttl);
    let Admin { users, readers, socket } = admin;
    list.all("admin.users", users);
    list.all("admin.readers", readers);
    list.maybe("admin.socket", socket.as_ref().map(|path| path.display()));
    let Metrics { listen } = metrics;
    list.maybe("metrics.listen", listen.as_ref());
}

fn pooling(list: &mut List, pool: &Pool) {
    let Pool {
        mode,
        max_server_connections,
        min_idle,
        checkout_timeout,
        max_waiting,
        idle_timeout,
        max_lifetime,
        connect_timeout,
        max_connecting,
        max_prepared,
    } = pool;
    list.word("pool.mode", mode);
    list.put("pool.max_server_connections", max_server_connections);
    list.put("pool.min_idle", min_idle);
    list.time("pool.checkout_timeout", *checkout_timeout);
    list.put("pool.max_waiting", max_waiting);
    list.time("pool.idle_timeout", *idle_timeout);
    list.time("pool.max_lifetime", *max_lifetime);
    list.time("pool.connect_timeout", *connect_timeout);
    list.put("pool.max_connecting", max_connecting);
    list.put("pool.max_prepared", max_prepared);
}

fn routes(list: &mut List, routing: &Routing) {
    let Routing {
        mode,
        transactions,
        consistency,
        lag,
        on_all_lagging,
        replica_wait,
        primary_wait,
        max_held,
        max_held_bytes,
        reads_on_primary,
        zone,
        primary_functions,
        replica_functions,
        max_parse,
        cache,
    } = routing;
    list.word("routing.mode", mode);
    list.word("routing.transactions", transactions);
    list.word("routing.consistency", consistency);
    list.lag("routing", *lag);
    list.word("routing.on_all_lagging", on_all_lagging);
    list.time("routing.replica_wait", *replica_wait);
    list.time("routing.primary_wait", *primary_wait);
    list.put("routing.max_held", max_held);
    list.put("routing.max_held_bytes", max_held_bytes);
    list.put("routing.reads_on_primary", reads_on_primary);
    list.maybe("routing.zone", zone.as_ref());
    list.all("routing.primary_functions", primary_functions);
    list.all("routing.replica_functions", replica_functions);
    list.put("routing.max_parse", max_parse);
    list.put("routing.cache", cache);
}

fn probes(list: &mut List, health: &Health) {
    let Health { user, password, database, interval, timeout, failures } = health;
    list.put("health.user", user);
    list.secret("health.password", password.as_ref());
    list.put("health.database", database);
    list.time("health.interval", *interval);
    list.time("health.timeout", *timeout);
    list.put("health.failures", failures);
}

fn failing_over(list: &mut List, failover: &Failover) {
    let Failover {
        automatic,
        detect_after,
        refused_after,
        start_timeout,
        min_interval,
        step_timeout,
        switchover_timeout,
        max_data_loss,
        require_fence,
        user,
        password,
        state_file,
        fence_command,
        demote_command,
        rejoin_command,
        pre_promote,
        post_promote,
        hook_timeout,
    } = failover;
    list.put("failover.automatic", automatic);
    list.time("failover.detect_after", *detect_after);
    list.time("failover.refused_after", *refused_after);
    list.time("failover.start_timeout", *start_timeout);
    list.time("failover.min_interval", *min_interval);
    list.time("failover.step_timeout", *step_timeout);
    list.time("failover.switchover_timeout", *switchover_timeout);
    list.put("failover.max_data_loss", max_data_loss);
    list.put("failover.require_fence", require_fence);
    list.put("failover.user", user);
    list.secret("failover.password", password.as_ref());
    list.maybe("failover.state_file", state_file.as_ref().map(|path| path.display()));
    list.all("failover.fence_command", fence_command);
    list.all("failover.demote_command", demote_command);
    list.all("failover.rejoin_command", rejoin_command);
    list.all("failover.pre_promote", pre_promote);
    list.all("failover.post_promote", post_promote);
    list.time("failover.hook_timeout", *hook_timeout);
}

fn coordinating(list: &mut List, coordination: &Coordination) {
    let Coordination { etcd, prefix, name, advertise, lease, user, password, tls } = coordination;
    list.all("coordination.etcd", etcd);
    list.put("coordination.prefix", prefix);
    list.maybe("coordination.name", name.as_ref());
    list.maybe("coordination.advertise", advertise.as_ref());
    list.time("coordination.lease", *lease);
    list.maybe("coordination.user", user.as_ref());
    list.secret("coordination.password", password.as_ref());
    let ServerTls { mode: _, ca, certificate, key } = tls;
    for (what, path) in [("ca", ca), ("certificate", certificate), ("key", key)] {
        list.maybe(format!("coordination.{what}"), path.as_ref().map(|path| path.display()));
    }
}

fn node(list: &mut List, node: &Node) {
    let Node { name, host, port, zone, weight, priority, replication_host, replication_port, lag, tls } = node;
    list.put(format!("nodes.{name}.host"), host);
    list.put(format!("nodes.{name}.port"), port);
    list.maybe(format!("nodes.{name}.zone"), zone.as_ref());
    list.put(format!("nodes.{name}.weight"), weight);
    list.put(format!("nodes.{name}.priority"), priority);
    list.maybe(format!("nodes.{name}.replication_host"), replication_host.as_ref());
    list.maybe(format!("nodes.{name}.replication_port"), replication_port.as_ref());
    list.lag(&format!("nodes.{name}"), *lag);
    let ServerTls { mode, ca, certificate, key } = tls;
    list.word(format!("nodes.{name}.tls.mode"), mode);
    for (what, path) in [("ca", ca), ("certificate", certificate), ("key", key)] {
        list.maybe(format!("nodes.{name}.tls.{what}"), path.as_ref().map(|path| path.display()));
    }
}

fn user(list: &mut List, user: &User) {
    let User { name, password, pool_mode, consistency, max_server_connections } = user;
    list.secret(format!("users.{name}.password"), password.as_ref());
    list.maybe(format!("users.{name}.pool_mode"), pool_mode.map(|mode| kebab(&format!("{mode:?}"))));
    list.maybe(format!("users.{name}.consistency"), consistency.map(|mode| kebab(&format!("{mode:?}"))));
    list.maybe(format!("users.{name}.max_server_connections"), max_server_connections.as_ref());
}

fn database(list: &mut List, database: &Database) {
    let Database { name, pool_mode, consistency, max_server_connections } = database;
    list.maybe(format!("databases.{name}.pool_mode"), pool_mode.map(|mode| kebab(&format!("{mode:?}"))));
    list.maybe(format!("databases.{name}.consistency"), consistency.map(|mode| kebab(&format!("{mode:?}"))));
    list.maybe(format!("databases.{name}.max_server_connections"), max_server_connections.as_ref());
}
