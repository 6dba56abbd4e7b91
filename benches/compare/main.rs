//! Compares pgpilot with PgBouncer, pgpool-II and no proxy at all, under `pgbench -S` before one throwaway cluster.
//!
//! `cargo bench --bench compare -- --help` lists the options; `docs/benchmarks.md` says how to read the result.
//!
//! - [`rounds`]: what is run in which order; [`pgbench`]: one run.
//! - [`servers`]: the cluster; [`proxy`]: a proxy before it; [`pilot`], [`pgbouncer`], [`pgpool`]: how each is set up.
//! - [`guarded`]: a process that does not outlive this one; [`usage`]: what a family of processes costs.
//! - [`report`]: medians and ratios, as printed.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is what it is for")]

mod guarded;
mod pgbench;
mod pgbouncer;
mod pgpool;
mod pilot;
mod proxy;
mod report;
mod rounds;
mod servers;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use clap::Parser;

use pgbench::Mode;
use proxy::{Absent, Kind, Proxy};
use servers::Servers;

#[derive(Debug, Clone, Parser)]
#[command(name = "compare", about = "pgpilot beside PgBouncer and pgpool-II, under pgbench -S")]
struct Arguments {
    /// How long one run lasts.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How often each run is repeated; the medians count.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64", value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: Vec<u16>,
    /// Query protocols.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "simple,extended,prepared")]
    modes: Vec<Mode>,
    /// What is measured.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "direct,pgbouncer,pgpool,pgpilot")]
    only: Vec<Kind>,
    /// Server connections that a proxy may have to one node; unless said otherwise, as many as clients.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pool: Option<u16>,
    /// pgbench's scale factor: 100 000 rows each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    scale: u16,
    /// Another build of pgpilot, to be measured beside this one.
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
    /// Cargo gives this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match drive(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Stopped with Ctrl-C, it takes everything down that it started.
fn drive(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            outcome = compare(arguments) => outcome,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

async fn compare(arguments: &Arguments) -> anyhow::Result<()> {
    let begin = Instant::now();
    let pool = arguments.pool.unwrap_or_else(|| arguments.clients.iter().copied().max().unwrap_or(1));
    let servers = Servers::start(arguments).await?;
    let mut proxies = Vec::new();
    let other = arguments.against.as_ref().map(|_| Kind::Other);
    for kind in arguments.only.iter().copied().chain(other) {
        match Proxy::start(kind, &servers, arguments, pool).await? {
            Ok(proxy) => proxies.push(proxy),
            Err(Absent { program }) => {
                eprintln!("{program} is not installed, so {kind} is left out; ./dev bench installs it");
            }
        }
    }
    report::print_setup(arguments, &servers, &proxies, pool);
    let results = rounds::run(arguments, &servers, &proxies).await?;
    report::print_results(arguments, &proxies, &results);
    println!("\nThe whole of it took {:.0} s.", begin.elapsed().as_secs_f64());
    Ok(())
}
