//! What it costs to know where a statement may run: by its text, by its shape, anew, and what a plain parse costs; with
//! `--features pg_query` also what a parse by PostgreSQL's own parser costs.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use pgpilot::cluster::catalogue::Database;
use pgpilot::config::Config;
use pgpilot::decide::sql::{Catalogue, Facts, FunctionLists, classify, shape};
use pgpilot::proxy::{Loaded, Verdicts};
use pgpilot::telemetry::Telemetry;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

const FILE: &str = "[[nodes]]\nname = \"a\"\nhost = \"localhost\"\n[health]\nuser = \"pilot\"\n";

/// About 100 bytes, 590 and 8,000.
fn texts() -> [(&'static str, String); 3] {
    let point = "SELECT id, name, email, city FROM customers WHERE id = 4711 AND city = 'Oslo' ORDER BY name LIMIT 10 ";
    let columns: Vec<String> = (0..24).map(|n| format!("\"o\".\"column_{n}\"")).collect();
    let join = format!(
        "SELECT {} FROM \"orders\" \"o\" INNER JOIN \"customers\" \"c\" ON (\"o\".\"customer_id\" = \"c\".\"id\") \
         WHERE (\"c\".\"country\" = 'NO' AND \"o\".\"placed\" > '2024-01-01'::timestamp) ORDER BY \"o\".\"id\" DESC LIMIT 21",
        columns.join(", ")
    );
    let list: Vec<String> = (100_000..101_000).map(|n| n.to_string()).collect();
    let long = format!("SELECT * FROM customers WHERE id IN ({})", list.join(", "));
    [("point select", point.to_owned()), ("join", join), ("IN of 1,000", long)]
}

fn verdicts(c: &mut Criterion) {
    let config = Config::parse(FILE, "bench.toml", &|_| None).expect("a topology file");
    let telemetry = Telemetry::new();
    let database = Arc::new(Database::fixed(Loaded::builtin()));
    let verdicts = Verdicts::new(&config.routing, database, telemetry.metrics().clone());
    let catalogue = Catalogue::builtin();
    let lists = FunctionLists::default();
    let facts = Facts::new(&catalogue, &lists, 64 * 1024);
    for (name, text) in texts() {
        let mut group = c.benchmark_group(format!("{name}, {} bytes", text.len()));
        (0..3).for_each(|_| drop(verdicts.of(text.as_bytes())));
        group.bench_function("verdict by text", |b| b.iter(|| verdicts.of(black_box(text.as_bytes()))));

        // Each text once: known by its shape alone.
        let mut n = 0_u32;
        let mut other = || {
            n += 1;
            let mut text = text.clone();
            text.push_str(&format!(" OFFSET {n}"));
            text
        };
        (0..3).for_each(|_| drop(verdicts.of(other().as_bytes())));
        group.bench_function("verdict by shape", |b| {
            b.iter_batched(&mut other, |text| verdicts.of(black_box(text.as_bytes())), BatchSize::SmallInput);
        });

        let mut buffer = Vec::with_capacity(text.len() * 2);
        group.bench_function("shape", |b| {
            b.iter(|| {
                buffer.clear();
                shape(black_box(text.as_bytes()), &mut buffer)
            });
        });
        group.bench_function("classify anew", |b| b.iter(|| classify(black_box(&text), &facts)));
        group.bench_function("sqlparser", |b| {
            b.iter(|| Parser::parse_sql(&PostgreSqlDialect {}, black_box(&text)).expect("it parses"));
        });
        #[cfg(feature = "pg_query")]
        group.bench_function("pg_query", |b| b.iter(|| pg_query::parse(black_box(&text), 0).expect("it parses")));
        group.finish();
    }
}

criterion_group!(benches, verdicts);
criterion_main!(benches);
