//! Sequences of messages that nobody has thought of: a server and pgpilot have to agree on them, too.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::play::{Delivery, SHOP, TWIN, difference, found, play, reset};
use super::script::Step;
use crate::support::proxy::Proxy;

/// Alone in a simple Query.
const QUERIES: [&str; 36] = [
    "SELECT 1",
    "SELECT n, s FROM t ORDER BY n",
    "SELECT count(*) FROM t",
    "SELECT 1/0",
    "SELEC",
    "SELECT nothing",
    "SELECT noisy(1)",
    "SELECT fails(1)",
    "SELECT adds(30)",
    "SELECT n, repeat('x', 3000) FROM generate_series(1, 5) n",
    "SELECT 1/(n - 3) FROM t ORDER BY n",
    "",
    ";",
    "SELECT 1; SELECT 2",
    "SELECT 1; SELECT 1/0; SELECT 2",
    "INSERT INTO t VALUES (10, 'ten')",
    "INSERT INTO t VALUES (1, 'again')",
    "UPDATE t SET s = 'x' WHERE n = 2",
    "INSERT INTO later VALUES (1)",
    "BEGIN",
    "BEGIN READ ONLY",
    "COMMIT",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "BEGIN; SELECT 1; COMMIT",
    "SELECT 1; BEGIN; INSERT INTO t VALUES (11, 'x')",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "SET DateStyle = 'German'",
    "SET LOCAL TimeZone = 'Europe/Berlin'",
    "RESET DateStyle",
    "SELECT '2020-02-03'::date",
    "PREPARE q AS SELECT 'q'",
    "EXECUTE q",
    "DEALLOCATE q",
    "COPY t TO STDOUT",
];

/// In a Parse.
const STATEMENTS: [&str; 14] = [
    "SELECT 1",
    "SELECT n FROM t ORDER BY n",
    "SELECT 'other'",
    "SELECT 1/(n - 3) FROM t ORDER BY n",
    "SELECT noisy(2)",
    "SELECT 10 / (n - 1) FROM t WHERE n = 1",
    "SELEC",
    "",
    "INSERT INTO t VALUES (20, 'twenty')",
    "INSERT INTO later VALUES (1)",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SET DateStyle = 'German'",
];

fn statement() -> impl Strategy<Value = String> {
    select(vec!["", "a", "b"]).prop_map(str::to_owned)
}

fn portal() -> impl Strategy<Value = String> {
    select(vec!["", "", "p"]).prop_map(str::to_owned)
}

fn extended() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (statement(), select(&STATEMENTS[..]))
            .prop_map(|(name, text)| Step::Parse { name, types: Vec::new(), text: text.to_owned() }),
        4 => (portal(), statement()).prop_map(|(portal, statement)| Step::Bind { portal, statement, values: Vec::new() }),
        4 => (portal(), select(vec![0, 0, 1, 2])).prop_map(|(portal, rows)| Step::Execute { portal, rows }),
        1 => statement().prop_map(|name| Step::Describe('S', name)),
        1 => portal().prop_map(|name| Step::Describe('P', name)),
        1 => statement().prop_map(|name| Step::Close('S', name)),
        1 => portal().prop_map(|name| Step::Close('P', name)),
        1 => Just(Step::Flush),
    ]
}

/// A statement that is prepared, bound and executed in one go, as drivers do.
fn whole() -> impl Strategy<Value = Vec<Step>> {
    (statement(), portal(), select(&STATEMENTS[..])).prop_map(|(name, portal, text)| {
        vec![
            Step::Parse { name: name.clone(), types: Vec::new(), text: text.to_owned() },
            Step::Bind { portal: portal.clone(), statement: name.clone(), values: Vec::new() },
            Step::Execute { portal, rows: 0 },
            Step::Close('S', name),
        ]
    })
}

fn query() -> impl Strategy<Value = Step> {
    select(&QUERIES[..]).prop_map(|text| Step::Query(text.to_owned()))
}

/// Lengths of texts: around those of pgpilot's buffers, and beyond. A client's messages are held up to 256 KiB, servers are written 64 KiB at a time.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![0_usize..200, 8_100_usize..8_300, 65_400_usize..65_600, 262_000_usize..262_300, 262_300_usize..600_000]
}

/// Messages that do not fit into the buffers, or just so.
fn large() -> impl Strategy<Value = Vec<Step>> {
    (length(), select(vec!["", "a"]).prop_map(str::to_owned), 0..5).prop_map(|(length, name, kind)| {
        let long = "x".repeat(length);
        let parse = |text: String| Step::Parse { name: name.clone(), types: vec![25], text };
        let bind = |value: &str| Step::Bind {
            portal: String::new(),
            statement: name.clone(),
            values: vec![Some(value.to_owned())],
        };
        let execute = Step::Execute { portal: String::new(), rows: 0 };
        match kind {
            0 => vec![Step::Query(format!("SELECT length('{long}')"))],
            1 => vec![Step::Query(format!("SELEC '{long}'"))],
            2 => vec![
                parse("SELECT length($1)".to_owned()),
                bind(&long),
                execute,
                Step::Close('S', name.clone()),
                Step::Sync,
            ],
            3 => vec![
                parse(format!("SELECT $1 || length('{long}')")),
                bind("x"),
                execute,
                Step::Close('S', name.clone()),
                Step::Sync,
            ],
            _ => {
                let rows = |n: usize| Step::Data(format!("{n}\t{long}\n"));
                vec![Step::Query("COPY t FROM STDIN".to_owned()), rows(50), rows(51), Step::Done]
            }
        }
    })
}

fn data() -> impl Strategy<Value = Vec<Step>> {
    let line = select(vec!["40\tforty\n", "41\tforty-one\n", "x\ty\n", "42\t"]).prop_map(str::to_owned);
    let end = prop_oneof![3 => Just(Step::Done), 1 => Just(Step::Fail("no".to_owned()))];
    (vec(line.prop_map(Step::Data), 0..3), end).prop_map(|(mut steps, end)| {
        steps.push(end);
        steps
    })
}

/// Messages after which the server is neither in a COPY nor waiting for a Sync.
fn unit() -> impl Strategy<Value = Vec<Step>> {
    let copy = || Step::Query("COPY t FROM STDIN".to_owned());
    let prepared_copy = || {
        let parse = Step::Parse { name: String::new(), types: Vec::new(), text: "COPY t FROM STDIN".to_owned() };
        let bind = Step::Bind { portal: String::new(), statement: String::new(), values: Vec::new() };
        vec![parse, bind, Step::Execute { portal: String::new(), rows: 0 }]
    };
    let synced = |mut steps: Vec<Step>| {
        steps.push(Step::Sync);
        steps
    };
    // No other unit is to run the statement: it sends no data.
    let forgotten = |mut steps: Vec<Step>| {
        steps.push(Step::Query(String::new()));
        steps
    };
    prop_oneof![
        6 => query().prop_map(|query| vec![query]),
        6 => vec(extended(), 0..7).prop_map(synced),
        3 => whole().prop_map(synced),
        2 => (whole(), whole()).prop_map(move |(a, b)| synced([a, b].concat())),
        // A Query in the midst of an extended batch.
        1 => (vec(extended(), 1..4), query(), vec(extended(), 0..3))
            .prop_map(move |(before, query, after)| synced([before, vec![query], after].concat())),
        1 => large(),
        1 => data().prop_map(move |data| [vec![copy()], data].concat()),
        1 => data().prop_map(move |data| forgotten(synced([prepared_copy(), data].concat()))),
        // As libpq does it: a Sync before the data, which a server that has begun to copy ignores.
        1 => data().prop_map(move |data| forgotten(synced([synced(prepared_copy()), data].concat()))),
        1 => Just(vec![Step::Call { function: 1397, arguments: vec!["-5".to_owned()] }]),
        1 => vec(select(vec![Step::Data("1\n".to_owned()), Step::Done, Step::Fail("x".to_owned())]), 1..3),
    ]
}

/// A session. Some units are waited for, others are not.
fn session() -> impl Strategy<Value = Vec<Step>> {
    vec((unit(), any::<bool>()), 1..8).prop_map(|units| {
        let mut steps = Vec::new();
        for (unit, wait) in units {
            let answered = matches!(unit.last(), Some(Step::Sync | Step::Query(_)));
            steps.extend(unit);
            if wait && answered {
                steps.push(Step::ready());
            }
        }
        steps
    })
}

fn delivery() -> impl Strategy<Value = Delivery> {
    prop_oneof![
        Just(Delivery::Whole),
        (1_usize..40).prop_map(Delivery::Pieces),
        (100_usize..100_000).prop_map(Delivery::Pieces)
    ]
}

#[test]
fn a_server_and_pgpilot_agree() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let proxy = runtime.block_on(Proxy::with("[pool]\nmax_server_connections = 2\nmax_prepared = 2\n"));
    runtime.block_on(found(&proxy.servers));
    let server = proxy.servers.nodes()[0].port();
    let config = Config { failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    // The same ones in every ordinary run; `./dev agree` looks for new ones.
    let mut runner = match std::env::var("CASES").ok().and_then(|text| text.parse().ok()) {
        Some(cases) => TestRunner::new(Config { cases, ..config }),
        None => {
            let config = Config { cases: 100, ..config };
            TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
        }
    };
    let outcome = runner.run(&(session(), delivery()), |(steps, how)| {
        let difference = runtime.block_on(async {
            let direct = play(server, TWIN, &steps, Delivery::Whole).await;
            let proxied = play(proxy.port(), SHOP, &steps, how).await;
            reset(&proxy.servers).await;
            difference(&direct, &proxied)
        });
        match difference {
            None => Ok(()),
            Some(difference) => Err(TestCaseError::fail(format!("{}\n{difference}", text(&steps)))),
        }
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

fn text(steps: &[Step]) -> String {
    let mut text = String::from("\n");
    for step in steps {
        let line = step.to_string();
        let _ = match line.split_at_checked(200) {
            Some((beginning, _)) => writeln!(text, "{beginning}.. ({} bytes)", line.len()),
            None => writeln!(text, "{line}"),
        };
    }
    text
}
