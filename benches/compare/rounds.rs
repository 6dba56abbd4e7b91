//! What is run in which order.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;

use crate::Arguments;
use crate::pgbench::{self, Mode, Outcome};
use crate::proxy::{Kind, Proxy};
use crate::servers::Servers;
use crate::usage::Processes;

/// What was run: the same key in every round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Case {
    pub(crate) mode: Mode,
    pub(crate) clients: u16,
    pub(crate) kind: Kind,
}

/// What one run found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) outcome: Outcome,
    /// The proxy's CPU time during the run.
    pub(crate) cpu: Duration,
    /// The proxy's memory in the middle of the run, in KiB.
    pub(crate) memory: u64,
    /// The primary's part of the CPU time of all nodes, 0 to 1.
    pub(crate) primary: f64,
}

pub(crate) type Results = HashMap<Case, Vec<Run>>;

/// Runs every case once in each round. What is compared runs one after the other, each time in another order, so that
/// what disturbs the machine hits all alike.
pub(crate) async fn run(arguments: &Arguments, servers: &Servers, proxies: &[Proxy]) -> anyhow::Result<Results> {
    warm_up(arguments, servers, proxies).await?;
    let mut results = Results::new();
    let mut first = 0;
    for round in 1..=arguments.rounds {
        for &mode in &arguments.modes {
            for &clients in &arguments.clients {
                progress(&format!("round {round} of {}: {mode}, {clients} clients", arguments.rounds));
                for proxy in proxies.iter().cycle().skip(first % proxies.len().max(1)).take(proxies.len()) {
                    let case = Case { mode, clients, kind: proxy.kind };
                    let run = measure(servers, proxy, case, Duration::from_secs(arguments.seconds.into())).await?;
                    results.entry(case).or_default().push(run);
                }
                first += 1;
            }
        }
    }
    progress("");
    Ok(results)
}

/// Opens the server connections, fills the caches. The first run of each has to log in to three servers for each client, for which
/// pgpool-II may take seconds.
async fn warm_up(arguments: &Arguments, servers: &Servers, proxies: &[Proxy]) -> anyhow::Result<()> {
    progress("warming up");
    let clients = arguments.clients.iter().copied().max().unwrap_or(1);
    for proxy in proxies {
        for (at, &mode) in arguments.modes.iter().enumerate() {
            let time = Duration::from_secs(if at == 0 { 6 } else { 1 });
            measure(servers, proxy, Case { mode, clients, kind: proxy.kind }, time).await?;
        }
    }
    Ok(())
}

async fn measure(servers: &Servers, proxy: &Proxy, case: Case, time: Duration) -> anyhow::Result<Run> {
    let mut command = servers.pgbench()?;
    command.args(["-p", &proxy.port.to_string(), proxy.database(case.mode)]);
    let pid = proxy.process.as_ref().map(crate::guarded::Guarded::pid);
    let cpu = |processes: &Processes| pid.map_or(Duration::ZERO, |pid| processes.cpu_below(pid));
    let half_way = async {
        tokio::time::sleep(time / 2).await;
        pid.map_or(0, |pid| Processes::read().memory_below(pid))
    };

    let before = Processes::read();
    let (outcome, memory) = tokio::join!(pgbench::run(command, case.mode, case.clients, time), half_way);
    let after = Processes::read();
    let outcome = outcome.with_context(|| format!("{}, {}, {} clients", case.kind, case.mode, case.clients))?;
    let [was, is] = [&before, &after].map(|processes| servers.cpu(processes));
    let spent = |was: Duration, is: Duration| is.saturating_sub(was).as_secs_f64();
    let primary = spent(was.0, is.0) / spent(was.1, is.1).max(f64::MIN_POSITIVE);
    Ok(Run { outcome, cpu: cpu(&after).saturating_sub(cpu(&before)), memory, primary })
}

/// One line that is overwritten, for somebody who watches.
fn progress(what: &str) {
    let mut screen = std::io::stderr();
    if screen.is_terminal() {
        let _ = write!(screen, "\r{what:<60}\r");
    }
}
