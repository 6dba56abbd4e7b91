//! `pgpilot demo`: a throwaway primary with replicas, and pgpilot in front of them.

use std::fmt::Write as _;
use std::future::pending;
use std::io::{IsTerminal as _, stdout};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::arguments::DemoArguments;
use super::demo_view::View;
use super::exit::{Exit, Failure};
use super::{load, output};
use crate::admin::Sources;
use crate::app::App;
use crate::config::{Config, Listen};
use crate::decide::route::is_in_service;
use crate::demo::{Hooks, LocalCluster, User};
use crate::telemetry::logging;

/// Who pgpilot is on the servers; the password is the one of a cluster that is gone in a minute.
const PILOT: &str = "pgpilot";
/// Who the application is, and its database.
const APP: &str = "demo";
const DEFAULT_PORT: u16 = 6432;
/// Until pgpilot has found the primary and every replica.
const DISCOVERY: Duration = Duration::from_secs(30);

pub(super) fn run(arguments: &DemoArguments) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::failed)?;
    let demo = async {
        tokio::select! {
            outcome = demo(arguments) => outcome,
            ended = end(arguments.limit) => ended,
        }
    };
    // Whatever ends it, the servers go with the future that held them.
    let outcome = runtime.block_on(demo);
    outcome.map_err(|error| Failure { exit: Exit::Failed, error })?;
    output::say("\nEverything is stopped and removed.");
    Ok(Exit::Done)
}

/// Ctrl-C, SIGTERM, or the end of the time.
async fn end(limit: Option<Duration>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = async { match limit { Some(limit) => sleep(limit).await, None => pending().await } } => {}
    }
    Ok(())
}

/// Goes on until it is dropped.
async fn demo(arguments: &DemoArguments) -> anyhow::Result<()> {
    let replicas = usize::from(arguments.replicas);
    output::say(format!("Starting a primary and {replicas} streaming replicas .."));
    let servers = Arc::new(servers(replicas).await?);
    let hooks = servers.serve_hooks(&std::env::current_exe()?)?;
    let config = topology(&servers, &hooks, arguments.port)?;
    logging::apply(&config.log)?;
    let app = App::start(config, None).await?;
    let address = app.addresses().first().copied().context("pgpilot listens on TCP here")?;
    let sources = app.operations();
    discovered(&*sources, replicas).await?;
    output::say(welcome(&servers, address));
    let _load = arguments.load.then(|| AbortOnDropHandle::new(tokio::spawn(load::run(client(address)))));
    watch(&sources).await
}

async fn servers(replicas: usize) -> anyhow::Result<LocalCluster> {
    let cluster = LocalCluster::builder()
        .replicas(replicas)
        // A primary that freezes is missed within two seconds.
        .setting("wal_receiver_timeout", "4s")
        .user(User::scram(PILOT, PILOT).with("IN ROLE pg_monitor"))
        .user(User::scram(APP, APP))
        .sql(&format!("GRANT SELECT ON pg_catalog.pg_shadow TO {PILOT}"))
        .sql(&format!("CREATE DATABASE {APP} OWNER {APP}"));
    Ok(cluster.start().await?)
}

fn topology(servers: &LocalCluster, hooks: &Hooks, port: Option<u16>) -> anyhow::Result<Config> {
    // Any port will do if the usual one is taken, but not if one was asked for.
    let free = || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, DEFAULT_PORT)).is_ok();
    let port = port.unwrap_or_else(|| if free() { DEFAULT_PORT } else { 0 });
    let mut text = format!(
        "[health]\nuser = \"{PILOT}\"\npassword = \"{PILOT}\"\ninterval = \"250ms\"\n\
         [auth.query]\nuser = \"{PILOT}\"\npassword = \"{PILOT}\"\n[admin]\nusers = [\"{APP}\"]\n\
         [metrics]\nlisten = \"off\"\n[log]\nlevel = \"error\"\n"
    );
    if servers.nodes().len() > 1 {
        text.push_str(&failover(servers, hooks));
    }
    for node in servers.nodes() {
        let _ = write!(text, "[[nodes]]\nname = \"{}\"\nhost = \"127.0.0.1\"\nport = {}\n", node.name(), node.port());
    }
    let mut config = Config::parse(&text, "demo.toml", &|_| None)?;
    config.listen = vec![Listen::Tcp((Ipv4Addr::LOCALHOST, port).into())];
    Ok(config)
}

/// A killed primary is replaced, and comes back, again and again.
fn failover(servers: &LocalCluster, hooks: &Hooks) -> String {
    let command = hooks.command();
    let state = servers.directory().join("failover.state");
    format!(
        "[failover]\nautomatic = true\nmin_interval = \"1s\"\nuser = \"postgres\"\npassword = \"postgres\"\n\
         state_file = {state:?}\nfence_command = {command:?}\ndemote_command = {command:?}\nrejoin_command = {command:?}\n"
    )
}

async fn discovered(sources: &dyn Sources, replicas: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut ticks = interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        let snapshot = sources.snapshot();
        let fresh = snapshot.nodes.iter().filter(|node| is_in_service(node) && node.fresh).count();
        if snapshot.usable_primary().is_some() && fresh == replicas {
            return Ok(());
        }
        anyhow::ensure!(begun.elapsed() < DISCOVERY, "pgpilot did not find its servers within {DISCOVERY:?}");
    }
}

fn client(address: SocketAddr) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(address.ip().to_string()).port(address.port()).user(APP).password(APP).dbname(APP);
    config
}

fn url(address: SocketAddr, database: &str) -> String {
    format!("postgresql://{APP}:{APP}@{address}/{database}")
}

fn welcome(servers: &LocalCluster, address: SocketAddr) -> String {
    let direct: Vec<_> =
        servers.nodes().iter().map(|node| format!("{} on port {}", node.name(), node.port())).collect();
    let (database, console) = (url(address, APP), url(address, crate::config::ADMIN_DATABASE));
    let third = match servers.nodes() {
        [primary, _, ..] => format!(
            "3. Kill the primary; another takes over, and the killed one comes back as its replica:\n       kill -9 {}",
            primary.pid().unwrap_or_default()
        ),
        _ => format!("3. See what pgpilot knows of its servers:\n       psql {console} -c 'SHOW NODES'"),
    };
    format!(
        "\nThe servers: {}.\npgpilot is in front of them:\n\n    {database}\n\nThree things to try in another terminal:\n\n  \
         1. Reads are spread, writes are not, and nobody reads stale data of their own:\n       \
         psql {database} -c 'CREATE TABLE IF NOT EXISTS t (n int)' -c 'INSERT INTO t VALUES (1)' -c 'SELECT count(*) FROM t'\n  \
         2. Ask why a statement goes where it goes:\n       \
         psql {console} -c \"EXPLAIN ROUTE (DATABASE {APP}) SELECT nextval('s')\"\n  \
         {third}\n\nCtrl-C stops and removes everything.\n",
        direct.join(", ")
    )
}

/// Shows where statements go, for as long as somebody looks.
async fn watch(sources: &Arc<dyn Sources>) -> anyhow::Result<()> {
    let terminal = stdout().is_terminal();
    let mut ticks = interval(if terminal { Duration::from_secs(1) } else { Duration::from_secs(5) });
    let (mut view, mut lines) = (View::new(), 0);
    // The first tick comes at once, and there is nothing to see yet.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if terminal {
            let text = view.table(&**sources);
            output::replace(&text, &mut lines);
        } else {
            output::say(view.line(&**sources));
        }
    }
}
