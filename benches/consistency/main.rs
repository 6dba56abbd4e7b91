//! What consistency costs: pgbench's TPC-B-like transactions among its plain reads, through pgpilot in mode `session` and
//! in mode `eventual`, which waits for nothing and promises nothing.
//!
//! It prints which share of the reads the primary had to serve because no replica had caught up, and the CPU time that
//! pgpilot took for a transaction in each mode. `cargo bench --bench consistency -- --help` lists the options.
//!
//! - [`pilot`]: pgpilot before the cluster; [`load`]: one run of pgbench.
//! - [`guarded`], [`usage`]: as in the comparison with other proxies.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is what it is for")]

#[path = "../compare/guarded.rs"]
#[expect(dead_code, reason = "of the ways to end a program, the comparison has more")]
mod guarded;
mod load;
mod pilot;
#[path = "../compare/usage.rs"]
#[expect(dead_code, reason = "the comparison counts memory, too")]
mod usage;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use pgpilot::demo::{LocalCluster, User};

use load::Mix;
use pilot::{Pilot, Routes};
use usage::Processes;

#[derive(Debug, Parser)]
#[command(name = "consistency", about = "What consistency costs, under pgbench's TPC-B-like transactions and reads")]
struct Arguments {
    /// How long one run lasts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How often each run is repeated; the medians count.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// Of a hundred transactions, so many write.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100))]
    writes: u32,
    /// Transactions per second of all clients together; without it, as many as there can be.
    #[arg(long)]
    rate: Option<u32>,
    /// pgbench's scale factor: 100 000 rows each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    scale: u16,
    /// Cargo gives this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

const MODES: [&str; 3] = ["eventual", "session", "strong"];

/// What one run in one mode came to.
#[derive(Debug, Clone, Copy)]
struct Result {
    tps: f64,
    /// pgpilot's CPU time for a transaction, in microseconds.
    cpu: f64,
    /// The same of pgpilot and all servers together.
    all_cpu: f64,
    routes: Routes,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(measure(&arguments))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("consistency: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let cluster = LocalCluster::builder()
        .user(User::scram(load::USER, load::USER))
        .user(User::scram(pilot::WATCHER, pilot::WATCHER).with("IN ROLE pg_monitor"))
        .sql(&format!("CREATE DATABASE {0} OWNER {0}", load::USER))
        .setting("max_connections", "1000")
        .setting("shared_buffers", "256MB")
        .start()
        .await?;
    load::fill(&cluster, arguments.scale).await?;
    let mut pilots = Vec::new();
    for mode in MODES {
        pilots.push(Pilot::start(&cluster, mode, arguments.clients).await?);
    }
    let mix = Mix { clients: arguments.clients, writes: arguments.writes, rate: arguments.rate };
    let time = Duration::from_secs(arguments.seconds.into());
    let mut results = vec![Vec::new(); MODES.len()];
    for _ in 0..arguments.rounds {
        // In turns, so that a machine that gets slower or faster does so for all of them.
        for (pilot, results) in pilots.iter().zip(&mut results) {
            let (cpu, servers, routes) = (pilot.cpu(), cpu_of(&cluster), pilot.routes().await?);
            let outcome = load::run(&cluster, pilot.port, mix, time).await?;
            let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / outcome.transactions.max(1.0);
            let cpu = each(pilot.cpu().saturating_sub(cpu));
            let servers = each(cpu_of(&cluster).saturating_sub(servers));
            let routes = pilot.routes().await?.since(routes);
            results.push(Result { tps: outcome.tps, cpu, all_cpu: cpu + servers, routes });
        }
    }
    println!(
        "{} clients, {} % of the transactions write, medians of {} runs of {time:?}",
        arguments.clients, arguments.writes, arguments.rounds
    );
    println!(
        "{:<10}{:>10}{:>12}{:>18}{:>24}{:>18}",
        "mode", "tps", "CPU us/tx", "with servers", "behind their session", "behind max_lag"
    );
    let (mut cpus, mut all_cpus) = (Vec::new(), Vec::new());
    for (mode, results) in MODES.iter().zip(&results) {
        let of = |of: fn(&Result) -> f64| median(results, of).context("a round");
        let (tps, cpu, all_cpu) = (of(|r| r.tps)?, of(|r| r.cpu)?, of(|r| r.all_cpu)?);
        let (behind, lagging) = (of(|r| r.routes.behind())?, of(|r| r.routes.lagging())?);
        println!("{mode:<10}{tps:>10.0}{cpu:>12.2}{all_cpu:>18.1}{behind:>22.1} %{lagging:>16.1} %");
        cpus.push(cpu);
        all_cpus.push(all_cpu);
    }
    let over = |cpus: &[f64]| (cpus[1] / cpus[0] - 1.0) * 100.0;
    println!("CPU of session over eventual: pgpilot {:+.1} %, with servers {:+.1} %", over(&cpus), over(&all_cpus));
    Ok(())
}

fn cpu_of(cluster: &LocalCluster) -> Duration {
    let processes = Processes::read();
    cluster.nodes().iter().filter_map(|node| node.pid()).map(|pid| processes.cpu_of(pid)).sum()
}

fn median(results: &[Result], of: impl Fn(&Result) -> f64) -> Option<f64> {
    let mut values: Vec<f64> = results.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
