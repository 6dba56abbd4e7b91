//! The settings, checked and complete: what the rest of pgpilot reads.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::lag::LagLimits;
use super::problem::Warning;
use super::units::{ByteSize, NodeName, Secret};

/// The database that is the admin console. No database of the servers can be reached under this name.
pub const ADMIN_DATABASE: &str = "pgpilot";

/// The port in the name of Unix socket files when pgpilot listens on no TCP address.
const SOCKET_PORT: u16 = 6432;

/// Everything the topology file says, with defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where clients connect: TCP addresses, and directories for Unix sockets (`<dir>/.s.PGSQL.<port of the first TCP address>`).
    pub listen: Vec<Listen>,
    pub clients: Clients,
    pub tls: ClientTls,
    pub auth: Auth,
    pub admin: Admin,
    pub metrics: Metrics,
    pub pool: Pool,
    pub routing: Routing,
    pub health: Health,
    pub failover: Failover,
    /// `None`: this instance is alone.
    pub coordination: Option<Coordination>,
    pub nodes: Vec<Node>,
    pub zones: Vec<Zone>,
    pub users: Vec<User>,
    pub databases: Vec<Database>,
    pub log: Log,
    /// Worker threads; `None`: one per core.
    pub workers: Option<usize>,
    /// After SIGTERM, clients in a transaction get this long to finish it.
    pub drain_timeout: Duration,
    /// What deserves a look before it is relied on, found while the file was read.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// The port in the names of Unix socket files.
    pub fn socket_port(&self) -> u16 {
        socket_port(&self.listen)
    }

    /// Connections that the pool of this user and database may have on each node.
    pub fn server_connections(&self, user: &str, database: &str) -> usize {
        let user = self.users.iter().find(|known| known.name == user).and_then(|user| user.max_server_connections);
        let databases = self.databases.iter().find(|known| known.name == database);
        let database = databases.and_then(|database| database.max_server_connections);
        [user, database].into_iter().flatten().min().unwrap_or(self.pool.max_server_connections)
    }

    /// The keys that `new` changes and that only take effect after a restart; a reload applies everything else.
    pub fn changes_needing_restart(&self, new: &Self) -> Vec<&'static str> {
        let changes = [
            ("listen", self.listen != new.listen),
            ("workers", self.workers != new.workers),
            ("metrics.listen", self.metrics.listen != new.metrics.listen),
            ("admin.socket", self.admin.socket != new.admin.socket),
            ("failover.state_file", self.failover.state_file != new.failover.state_file),
            ("coordination", self.coordination != new.coordination),
        ];
        changes.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
    }
}

pub(super) fn socket_port(listen: &[Listen]) -> u16 {
    let tcp = |listen: &Listen| if let Listen::Tcp(address) = listen { Some(address.port()) } else { None };
    listen.iter().find_map(tcp).unwrap_or(SOCKET_PORT)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Limits on clients.
#[derive(Debug, Clone, PartialEq)]
pub struct Clients {
    /// Above it a new client gets 53300.
    pub max: usize,
    /// Clients that have not logged in yet. One more waits.
    pub max_logins: usize,
    /// From accept to authenticated.
    pub login_timeout: Duration,
    /// A client that sends nothing outside a transaction for so long is disconnected; zero: never.
    pub idle_timeout: Duration,
    /// A client that sends nothing inside a transaction for so long loses it; zero: never.
    pub idle_transaction_timeout: Duration,
    /// TCP keep-alive interval; zero: the operating system's.
    pub keepalive: Duration,
}

/// What libpq calls `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// TLS towards clients. `mode`: `Disable` refuses TLS; `Allow` and `Prefer` offer it; `Require` demands it; `VerifyCa` demands a client
/// certificate signed by `ca`; `VerifyFull` also that its common name is the user's name.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientTls {
    pub mode: SslMode,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub ca: Option<PathBuf>,
}

/// TLS towards a server, as in libpq.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerTls {
    pub mode: SslMode,
    /// Roots; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate and key.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    /// First match decides, as in pg_hba.conf. Default: one rule, everything, scram-sha-256.
    pub rules: Vec<AuthRule>,
    /// Who reads verifiers of users that have no password here; `None`: such users cannot log in.
    pub query: Option<AuthQuery>,
    /// How long a verifier read from the server is used before it is read again. A failed login reads it again at once (at most once a second per user).
    pub verifier_ttl: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AuthQuery {
    pub user: String,
    pub password: Option<Secret>,
    pub database: String,
    /// One parameter, the user's name; one row of (name, verifier). Its default lets nobody in whose password has expired (`VALID UNTIL`).
    pub sql: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AuthRule {
    pub connection: ConnectionKind,
    /// Empty: all.
    pub databases: Vec<String>,
    /// Empty: all.
    pub users: Vec<String>,
    /// Empty: all addresses. Ignored for Unix sockets.
    pub addresses: Vec<IpNet>,
    pub method: AuthMethod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionKind {
    /// Unix sockets and TCP.
    Any,
    Local,
    /// TCP with or without TLS.
    Host,
    HostSsl,
    HostNoSsl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    Trust,
    Reject,
    /// SCRAM only.
    Scram,
    /// md5 where the verifier is an md5 hash or a password in clear, SCRAM where it is a SCRAM verifier (as PostgreSQL's own `md5`).
    Md5,
    /// TLS client certificate whose common name is the user's name.
    Cert,
}

/// The admin console (database `pgpilot`).
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// May do everything. They authenticate as any user does.
    pub users: Vec<String>,
    /// May only look.
    pub readers: Vec<String>,
    /// A Unix socket directory on which the operating-system user that runs pgpilot is let in without a password, for the CLI; `None`: off.
    pub socket: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// `None`: no HTTP endpoint.
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    Transaction,
    Session,
}

/// Connection pools. There is one per (node, user, database); limits are per node unless they say otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pub mode: PoolMode,
    pub max_server_connections: usize,
    /// Kept open per (node, user, database) once that pool has been used.
    pub min_idle: usize,
    /// From asking for a connection to getting one; then the client gets 53300.
    pub checkout_timeout: Duration,
    /// Clients that may wait per node; one more gets 53300 at once.
    pub max_waiting: usize,
    /// An idle connection above `min_idle` is closed after so long; zero: never.
    pub idle_timeout: Duration,
    /// A connection is not leased again after so long (with up to 10 % of jitter); zero: no limit.
    pub max_lifetime: Duration,
    /// From dialling to ready; and for each statement of pgpilot's own on a connection (settings, the inventory).
    pub connect_timeout: Duration,
    /// Dials in flight per node.
    pub max_connecting: usize,
    /// Prepared statements kept per server connection; the least recently used one is closed.
    pub max_prepared: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Consistency {
    Eventual,
    Session,
    Strong,
    Primary,
}

impl Consistency {
    /// The weakest promise first.
    pub const ALL: [Self; 4] = [Self::Eventual, Self::Session, Self::Strong, Self::Primary];

    /// As it is written wherever it can be set.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eventual => "eventual",
            Self::Session => "session",
            Self::Strong => "strong",
            Self::Primary => "primary",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAllLagging {
    Primary,
    Error,
    Stale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutingMode {
    /// Reads go to replicas.
    Split,
    /// Everything goes to the primary; what would have gone to a replica is counted.
    Shadow,
}

/// Where a transaction begins that may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transactions {
    Primary,
    /// On a replica: it moves when it writes.
    Optimistic,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Routing {
    pub mode: RoutingMode,
    pub transactions: Transactions,
    pub consistency: Consistency,
    /// How far behind a replica may be of which neither its own section nor its zone's says otherwise.
    pub lag: LagLimits,
    pub on_all_lagging: OnAllLagging,
    /// How long a session's read may wait for a replica to reach its position before it goes to the primary. Default zero.
    pub replica_wait: Duration,
    /// How long a statement waits for a primary to appear.
    pub primary_wait: Duration,
    /// Clients that may wait for a primary at a time ..
    pub max_held: usize,
    /// .. and the size of what they have sent.
    pub max_held_bytes: ByteSize,
    /// Whether reads may also go to the primary when replicas are fine. Default false.
    pub reads_on_primary: bool,
    /// pgpilot's own zone; replicas of it are preferred.
    pub zone: Option<String>,
    /// Functions that need the primary whatever the catalogue says. Names or `*` patterns, with or without a schema.
    pub primary_functions: Vec<String>,
    /// Functions that are safe on a replica whatever the catalogue says.
    pub replica_functions: Vec<String>,
    /// A Query or Parse above this size is not parsed: it goes to the primary.
    pub max_parse: ByteSize,
    /// Memory for the verdict cache.
    pub cache: ByteSize,
}

/// The probes.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// Who probes. Needs no privilege beyond `pg_monitor`.
    pub user: String,
    pub password: Option<Secret>,
    pub database: String,
    pub interval: Duration,
    /// A probe that takes longer has failed.
    pub timeout: Duration,
    /// Consecutive failures until a node counts as down.
    pub failures: u32,
}

/// What happens when the primary is lost, and how a switchover goes.
///
/// A command is an argument vector, run without a shell, with the facts in its environment; exit status 0 means done and
/// proven; empty: none.
#[derive(Debug, Clone, PartialEq)]
pub struct Failover {
    /// Whether a replica is promoted without being asked when the primary is lost.
    pub automatic: bool,
    /// A primary that is silent (time-outs) for so long is taken for lost, if the replicas do not hear it either.
    pub detect_after: Duration,
    /// .. and one whose host refuses connections, or whose connections broke, after so long.
    pub refused_after: Duration,
    /// A primary that recovers from a crash (SQLSTATE 57P03) is waited for so long.
    pub start_timeout: Duration,
    /// Between two automatic failovers.
    pub min_interval: Duration,
    /// Each step (seal, promote, verify, ..) is given so long.
    pub step_timeout: Duration,
    /// A switchover that has not reached the promotion within this time is rolled back.
    pub switchover_timeout: Duration,
    /// With asynchronous replication: how far behind the primary's last known position a candidate may be.
    pub max_data_loss: ByteSize,
    /// No promotion unless `fence_command` has proven that the old primary is fenced.
    pub require_fence: bool,
    /// Who promotes and repoints.
    pub user: String,
    pub password: Option<Secret>,
    /// Where a single pgpilot keeps the record of its decisions; locked against a second one. There whenever `automatic` is.
    pub state_file: Option<PathBuf>,
    /// Makes sure that the old primary can neither commit nor be reached.
    pub fence_command: Vec<String>,
    /// In a switchover: shuts the old primary down cleanly before the promotion.
    pub demote_command: Vec<String>,
    /// Brings the old primary back as a standby.
    pub rejoin_command: Vec<String>,
    /// Before a promotion, which it can veto.
    pub pre_promote: Vec<String>,
    pub post_promote: Vec<String>,
    /// A command that takes longer is ended and has failed; `rejoin_command` may take a day.
    pub hook_timeout: Duration,
}

impl Failover {
    /// Whether the topology file asks for anything of this, more than that a switchover can be ordered.
    pub fn in_use(&self) -> bool {
        self.automatic || self.state_file.is_some() || self.commands().next().is_some()
    }

    /// The commands that are set, with the names of their keys.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        let commands = [
            ("fence_command", &self.fence_command),
            ("demote_command", &self.demote_command),
            ("rejoin_command", &self.rejoin_command),
            ("pre_promote", &self.pre_promote),
            ("post_promote", &self.post_promote),
        ];
        commands.into_iter().filter(|(_, command)| !command.is_empty()).map(|(key, command)| (key, command.as_slice()))
    }
}

/// How several instances agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Coordination {
    /// Tried in turn; not empty.
    pub etcd: Vec<EtcdEndpoint>,
    /// What the names of all keys begin with; ends with a slash.
    pub prefix: String,
    /// `None`: the host's name.
    pub name: Option<String>,
    /// Host and port under which the other instances reach this one; `None`: to be found out.
    pub advertise: Option<String>,
    /// An instance that cannot renew it for so long counts as gone.
    pub lease: Duration,
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// For `https` alone.
    pub tls: ServerTls,
}

/// A member of an etcd cluster, as its clients reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdEndpoint {
    pub scheme: Scheme,
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for EtcdEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self;
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}"),
            false => write!(f, "{scheme}://{host}:{port}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub name: NodeName,
    /// A host name, an address, or a directory with a Unix socket.
    pub host: String,
    pub port: u16,
    pub zone: Option<String>,
    /// 0: no reads.
    pub weight: u32,
    /// Among candidates with the same log the highest is promoted; 0: never promoted.
    pub priority: u32,
    /// Where the other nodes reach it for replication, when that is not `host` and `port`.
    pub replication_host: Option<String>,
    pub replication_port: Option<u16>,
    /// What its own section, its zone's and `routing` make of it together.
    pub lag: LagLimits,
    pub tls: ServerTls,
}

/// A zone whose replicas may be otherwise behind than the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    pub name: String,
    /// What its section and `routing` make of it together.
    pub lag: LagLimits,
}

/// Users that need more than the defaults. A user that is not listed may log in when `auth.query` finds a verifier.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    pub name: String,
    /// For authenticating the client and logging in to the servers; `None`: the verifier is read by `auth.query`.
    pub password: Option<Secret>,
    pub pool_mode: Option<PoolMode>,
    pub consistency: Option<Consistency>,
    /// Server connections per node for this user.
    pub max_server_connections: Option<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    pub name: String,
    pub pool_mode: Option<PoolMode>,
    pub consistency: Option<Consistency>,
    pub max_server_connections: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// A `tracing` filter: `"info"`, `"pgpilot=debug"`.
    pub level: String,
    pub format: LogFormat,
    /// Statements slower than this are logged (their shape, never their literals); zero: off.
    pub slow_statement: Duration,
}
