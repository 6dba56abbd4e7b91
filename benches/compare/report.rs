//! Medians and ratios, as printed.

use std::fs;
use std::thread::available_parallelism;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::Arguments;
use crate::pgbench::Mode;
use crate::proxy::{Kind, Proxy};
use crate::rounds::{Case, Results, Run};
use crate::servers::Servers;

/// What the others are compared with.
const REFERENCE: Kind = Kind::Pgbouncer;

const HEADINGS: [&str; 10] = [
    "clients",
    "through",
    "tps",
    "least to most",
    "latency",
    "CPU per transaction",
    "memory",
    "primary's share",
    "tps, relative",
    "CPU, relative",
];

pub(crate) fn print_setup(arguments: &Arguments, servers: &Servers, proxies: &[Proxy], pool: u16) {
    let cores = available_parallelism().map_or(1, usize::from);
    let titles: Vec<&str> = proxies.iter().map(|proxy| proxy.title.as_str()).collect();
    println!("PostgreSQL {}, a primary and two replicas", servers.primary().binaries().version());
    println!("pgbench -S, scale {}, before: {}", arguments.scale, titles.join("; "));
    println!("{cores} cores ({}), shared by clients, proxies and servers", processor());
    println!(
        "{} rounds of {} s, medians; up to {pool} server connections to a node\n",
        arguments.rounds, arguments.seconds
    );
}

/// As the system calls it.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name"));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |name| name.trim_start_matches([' ', '\t', ':']).to_owned())
}

pub(crate) fn print_results(arguments: &Arguments, proxies: &[Proxy], results: &Results) {
    for &mode in &arguments.modes {
        println!("Mode {mode}\n");
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN).set_header(HEADINGS);
        for (at, column) in table.column_iter_mut().enumerate() {
            column.set_cell_alignment(if at == 1 { CellAlignment::Left } else { CellAlignment::Right });
        }
        for &clients in &arguments.clients {
            let figures = |kind| results.get(&Case { mode, clients, kind }).map(|runs| Figures::of(runs));
            let reference = figures(REFERENCE);
            for proxy in proxies {
                if let Some(own) = figures(proxy.kind) {
                    table.add_row(row(clients, proxy, mode, &own, reference.as_ref()));
                }
            }
        }
        println!("{table}\n");
    }
    println!("CPU: user and system time of the proxy's processes. Memory: what they hold, shared pages counted once.");
    println!("Primary's share: of the CPU time of all nodes. Relative: to {REFERENCE}.");
    if proxies.iter().any(|proxy| proxy.kind == REFERENCE && proxy.database(Mode::Prepared) != crate::servers::DATABASE)
    {
        println!(
            "{REFERENCE} of this version cannot do prepared statements in transaction mode: it is in session mode there."
        );
    }
}

fn row(clients: u16, proxy: &Proxy, mode: Mode, own: &Figures, reference: Option<&Figures>) -> Vec<String> {
    let through = match proxy.database(mode) == crate::servers::DATABASE {
        true => proxy.kind.to_string(),
        false => format!("{} (session mode)", proxy.kind),
    };
    let is_proxy = proxy.process.is_some();
    let of_proxy = |text: String| if is_proxy { text } else { "-".to_owned() };
    let relative = |own: f64, reference: Option<f64>| {
        reference
            .filter(|&reference| reference > 0.0)
            .map_or("-".to_owned(), |reference| format!("{:.2}", own / reference))
    };
    vec![
        clients.to_string(),
        through,
        format!("{:.0}", own.tps),
        format!("{:.0} to {:.0}", own.least, own.most),
        format!("{:.3} ms", own.latency),
        of_proxy(format!("{:.1} us", own.cpu)),
        of_proxy(format!("{:.1} MiB", own.memory)),
        format!("{:.0} %", own.primary * 100.0),
        relative(own.tps, reference.map(|reference| reference.tps)),
        of_proxy(relative(own.cpu, reference.map(|reference| reference.cpu))),
    ]
}

/// The medians of one case's runs.
struct Figures {
    tps: f64,
    least: f64,
    most: f64,
    /// Milliseconds.
    latency: f64,
    /// Microseconds of the proxy's CPU time for one transaction.
    cpu: f64,
    /// MiB.
    memory: f64,
    primary: f64,
}

impl Figures {
    fn of(runs: &[Run]) -> Self {
        let all = |value: fn(&Run) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let tps = all(|run| run.outcome.tps);
        Self {
            tps: median(&tps),
            least: tps.first().copied().unwrap_or_default(),
            most: tps.last().copied().unwrap_or_default(),
            latency: median(&all(|run| run.outcome.latency)),
            cpu: median(&all(cpu_per_transaction)),
            memory: median(&all(|run| run.memory as f64 / 1024.0)),
            primary: median(&all(|run| run.primary)),
        }
    }
}

fn cpu_per_transaction(run: &Run) -> f64 {
    run.cpu.as_secs_f64() * 1e6 / run.outcome.transactions.max(1) as f64
}

/// Of sorted values; the mean of the middle two of an even number.
fn median(sorted: &[f64]) -> f64 {
    let (Some(low), Some(high)) = (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2)) else {
        return f64::NAN;
    };
    f64::midpoint(*low, *high)
}
