//! The corpus, and what a corpus cannot say.

use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

mod hazards;

thread_local! {
    static BUILTIN: Catalogue = Catalogue::builtin();
}

fn with_builtin<T>(run: impl FnOnce(&Facts<'_>) -> T) -> T {
    BUILTIN.with(|catalogue| run(&Facts::new(catalogue, &FunctionLists::default(), 64 * 1024)))
}

fn verdicts(text: &str) -> Box<[Verdict]> {
    with_builtin(|facts| classify(text, facts)).statements
}

fn verdict(text: &str) -> Verdict {
    let all = verdicts(text);
    assert_eq!(all.len(), 1, "{text}");
    all[0].clone()
}

const CORPUS: &str = include_str!("../../../tests/corpus/routing.tsv");

fn corpus() -> impl Iterator<Item = (&'static str, String)> {
    CORPUS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(|line| {
        let (label, text) = line.split_once('\t').expect(line);
        (label, text.replace("\\\\", "\u{1}").replace("\\n", "\n").replace('\u{1}', "\\"))
    })
}

/// The verdict in the corpus's notation, with the reason if `label` has one.
fn labelled(verdict: &Verdict, label: &str) -> String {
    let scope = |scope: SetScope| if scope == SetScope::Local { "_local" } else { "" };
    let mut out = match &verdict.intent {
        Intent::Read => "read".to_owned(),
        Intent::Write => "write".to_owned(),
        Intent::Begin(_) => "begin".to_owned(),
        Intent::End(TransactionEnd::Commit) => "commit".to_owned(),
        Intent::End(TransactionEnd::Rollback) => "rollback".to_owned(),
        Intent::End(TransactionEnd::CommitAndChain) => "commit_and_chain".to_owned(),
        Intent::End(TransactionEnd::RollbackAndChain) => "rollback_and_chain".to_owned(),
        Intent::WithinTransaction => "within".to_owned(),
        Intent::Savepoint(Savepoint::Set(name)) => format!("savepoint({name})"),
        Intent::Savepoint(Savepoint::Release(name)) => format!("release({name})"),
        Intent::Savepoint(Savepoint::RollBackTo(name)) => format!("rollback_to({name})"),
        Intent::Session(SessionCommand::Set { names, scope: s }) => format!("set{}({})", scope(*s), names.join(",")),
        Intent::Session(SessionCommand::Reset { name, scope: s }) => format!("reset{}({name})", scope(*s)),
        Intent::Session(SessionCommand::ResetAll) => "reset_all".to_owned(),
        Intent::Session(SessionCommand::DiscardAll) => "discard_all".to_owned(),
        Intent::Session(SessionCommand::DiscardSome) => "discard".to_owned(),
        Intent::Prepare { name, statement, .. } => format!("prepare({name},{})", statement.intent),
        Intent::Execute { name, .. } => format!("execute({name})"),
        Intent::Deallocate { name: Some(name) } => format!("deallocate({name})"),
        Intent::Deallocate { name: None } => "deallocate_all".to_owned(),
        Intent::Own(OwnCommand::Show { name }) => format!("own_show({name})"),
        Intent::Own(OwnCommand::Set { name, value, scope: s, .. }) => {
            format!("own_set{}({name}{})", scope(*s), value.as_ref().map(|v| format!("={v}")).unwrap_or_default())
        }
    };
    if label.contains(':') {
        write!(out, ":{}", verdict.reason.label()).unwrap();
    }
    let mut effects: Vec<String> = verdict.effects.iter_names().map(|(name, _)| name.to_lowercase()).collect();
    if verdict.effects.contains(Effects::ANYTHING) {
        effects = vec!["anything".to_owned()];
    }
    effects.extend(verdict.hints.route.map(|hint| format!("hint_{hint:?}").to_lowercase()));
    effects.extend(verdict.hints.consistency.map(|mode| format!("hint_{}", mode.name())));
    effects.sort();
    effects.into_iter().fold(out, |out, effect| out + "+" + &effect)
}

/// A label with its effects in alphabetical order.
fn sorted(label: &str) -> String {
    let mut parts = label.split('+');
    let head = parts.next().unwrap_or_default().to_owned();
    let mut effects: Vec<&str> = parts.collect();
    effects.sort_unstable();
    effects.into_iter().fold(head, |out, effect| out + "+" + effect)
}

#[test]
fn the_corpus_is_judged_as_labelled() {
    let mut wrong = String::new();
    with_builtin(|facts| {
        for (label, text) in corpus() {
            let expected: Vec<String> = split_labels(label).map(sorted).collect();
            let found = classify(&text, facts);
            let found: Vec<String> = found
                .statements
                .iter()
                .zip(split_labels(label).chain(std::iter::repeat("")))
                .map(|(v, l)| labelled(v, l))
                .collect();
            if found != expected {
                writeln!(wrong, "{text}\n    expected {expected:?}\n    found    {found:?}").unwrap();
            }
        }
    });
    assert!(wrong.is_empty(), "{wrong}");
}

/// Labels are separated by blanks, outside parentheses.
fn split_labels(label: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    label.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ' ' && depth == 0
    })
}

#[test]
fn names_are_found_where_they_stand() {
    for (text, expected) in [
        ("PREPARE  Foo AS SELECT 1", "Foo"),
        ("/* é */ PREPARE \"a\"\"b\" (int) AS SELECT 1", "\"a\"\"b\""),
        ("EXECUTE foo(1)", "foo"),
        ("EXPLAIN (ANALYZE) EXECUTE U&\"f\\006fo\"", "U&\"f\\006fo\""),
        ("CREATE TEMP TABLE t AS EXECUTE foo", "foo"),
    ] {
        let (name, at) = match verdict(text).intent {
            Intent::Prepare { name, name_at, .. } | Intent::Execute { name, name_at } => (name, name_at),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(&text[at], expected, "{text}");
        assert!(["foo", "a\"b"].contains(&&*name), "{text}: {name}");
    }
}

#[test]
fn long_names_are_cut_as_the_server_cuts_them() {
    let name = |text: String| match verdict(&text).intent {
        Intent::Deallocate { name: Some(name) } => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(&*name(format!("DEALLOCATE {}", "x".repeat(70))), "x".repeat(63));
    assert_eq!(&*name(format!("DEALLOCATE {}é", "x".repeat(62))), "x".repeat(62));
}

#[test]
fn functions_name_the_settings_they_change() {
    let verdict = verdict("SELECT set_config('Work_Mem', '1', false), pg_catalog.set_config('a.b', $1, 'f')");
    assert_eq!(*verdict.settings, ["work_mem".into(), "a.b".into()]);
    assert!(!verdict.effects.contains(Effects::SETTINGS));
}

#[test]
fn what_runs_a_text_leaves_what_that_may_leave() {
    let any = Effects::SETTINGS | Effects::PINS | Effects::UNPINS;
    for (text, effects, settings) in [
        ("SELECT query_to_xml('SELECT 1', true, false, '')", any, ""),
        ("SELECT ts_stat($1)", any, ""),
        ("SELECT ts_rewrite(a, 'SELECT q, r, setseed(0.5) FROM s') FROM t", any | Effects::SEED, ""),
        ("SELECT * FROM ts_stat('SELECT set_config(''app.tenant'', ''x'', false)')", any, "app.tenant"),
        ("SELECT table_to_xml('a_view', true, false, '')", any, ""),
        ("INSERT INTO t SELECT query_to_xml('SELECT 1', true, false, '')", any | Effects::WRITES, ""),
    ] {
        let verdict = verdict(text);
        assert_eq!((verdict.intent, verdict.effects), (Intent::Write, effects), "{text}");
        assert_eq!(verdict.settings.join(" "), settings, "{text}");
    }
}

#[test]
fn transaction_modes_are_read() {
    let mode = |text| match verdict(text).intent {
        Intent::Begin(mode) => mode,
        other => panic!("{text}: {other:?}"),
    };
    let full =
        TransactionMode { access: Some(Access::ReadOnly), isolation: Some(Isolation::Serializable), deferrable: true };
    assert_eq!(mode("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"), full);
    assert_eq!(mode("start transaction read only, isolation level serializable, deferrable"), full);
    assert_eq!(mode("BEGIN"), TransactionMode::default());
}

#[test]
fn lists_overrule_the_catalogue() {
    let catalogue = Catalogue::builtin();
    let lists = FunctionLists::new(&["lower", "app.log_*"], &["my_read", "nextval"]);
    let facts = Facts::new(&catalogue, &lists, 1024);
    for (text, intent, reason) in [
        ("SELECT my_read()", Intent::Read, Reason::PlainRead),
        ("SELECT nextval('s')", Intent::Read, Reason::PlainRead),
        ("SELECT lower('A')", Intent::Write, Reason::ListedFunction),
        ("SELECT app.log_it()", Intent::Write, Reason::ListedFunction),
        ("SELECT other()", Intent::Write, Reason::UnknownFunction),
    ] {
        let verdict = classify(text, &facts).statements[0].clone();
        assert_eq!((verdict.intent, verdict.reason), (intent, reason), "{text}");
    }
}

#[test]
fn large_texts_are_only_skimmed() {
    let large = |prefix: &str, suffix: &str| verdict(&format!("{prefix} '{}' {suffix}", "x".repeat(70_000)));
    let effects = |prefix, suffix| {
        let verdict = large(prefix, suffix);
        assert_eq!((verdict.intent, verdict.reason), (Intent::Write, Reason::TooLarge));
        verdict.effects
    };
    assert_eq!(effects("INSERT INTO t VALUES (", ")"), Effects::SETTINGS | Effects::WRITES);
    assert!(effects("SELECT * INTO TEMP t FROM u WHERE a =", "").contains(Effects::PINS));
    assert_eq!(effects("SELECT", ""), Effects::SETTINGS);
    assert_eq!(effects("/* c */ select", " ; "), Effects::SETTINGS);
    assert!(effects("SELECT", ", pg_ADVISORY_lock(1)").contains(Effects::PINS));
    assert_eq!(effects("SELECT", "; SET a = 1"), Effects::ANYTHING);
    assert_eq!(effects("DO", ""), Effects::ANYTHING);
}

#[test]
fn what_depends_on_the_moment_is_known_as_such() {
    for (text, of_the_moment) in [
        ("SELECT now()", true),
        ("SELECT a FROM t WHERE b > CURRENT_TIMESTAMP(3) - interval '1 day'", true),
        ("SELECT pg_catalog.random(), localtime", true),
        ("SELECT * FROM t TABLESAMPLE system (1)", true),
        ("SELECT now, \"random\" AS now FROM t WHERE random = 'now()'", false),
        ("SELECT upper(a) FROM t", false),
    ] {
        let verdict = verdict(text);
        assert_eq!(
            (verdict.intent, verdict.effects.contains(Effects::MOMENT)),
            (Intent::Read, of_the_moment),
            "{text}"
        );
    }
}

#[test]
fn verdicts_read_well() {
    for (text, expected) in [
        ("SELECT 1", "read: nothing in it needs the primary"),
        ("SELECT public.f()", "write: function public.f() is not known"),
        ("SELECT nextval('s')", "write: function pg_catalog.nextval() needs the primary"),
        ("SELECT * FROM pg_locks", "write: only the primary answers for pg_catalog.pg_locks"),
        ("FOO", "write: \"FOO\" is not understood"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY", "begin serializable read only: controls the transaction"),
        ("SET LOCAL x.y = 1", "set local x.y: changes the session's state"),
        ("PREPARE p AS DELETE FROM t", "prepare p (write: modifies rows): concerns a prepared statement"),
    ] {
        assert_eq!(verdict(text).to_string(), expected);
    }
}

/// Texts that grow by repetition, each with a doubt in it, so that the parser has to look: (head, unit, tail).
const GROWING: [(&str, &str, &str); 43] = [
    ("SELECT 1", "+1", " FROM (VALUES (1)) v(a)"),
    ("SELECT a", "[1]", " FROM (VALUES (1)) v(a)"),
    ("SELECT a", "::int", " FROM (VALUES (1)) v(a)"),
    ("SELECT a", " AND b OR c", " FROM (VALUES (1)) v(a)"),
    ("SELECT a", " IS NULL", " FROM (VALUES (1)) v(a)"),
    ("SELECT a", " COLLATE \"C\"", " FROM (VALUES (1)) v(a)"),
    ("SELECT a", " AT TIME ZONE 'utc'", " FROM (VALUES (1)) v(a)"),
    ("SELECT a", "->'b'", " FROM (VALUES (1)) v(a)"),
    ("SELECT ", "NOT ", "true FROM (VALUES (1)) v(a)"),
    ("SELECT ", "- ", "1 FROM (VALUES (1)) v(a)"),
    ("SELECT v(a) ", "UNION SELECT 1 ", ""),
    ("SELECT v(a) FROM t ", "JOIN u USING (a) ", ""),
    ("SELECT v(a) FROM t ", "JOIN u ", ""),
    ("SELECT v(a) FROM t ", "LEFT jo\u{131}n u ", ""),
    ("SELECT v(a) FROM t ", "INNER JOIN LATERAL (u) ", ""),
    ("SELECT v(a) FROM t ", "NATURAL JOIN u ", ""),
    ("SELECT v(a) FROM t ", "CROSS JOIN u ", ""),
    ("SELECT v(a) FROM t ", "FULL JOIN u ", "NATURAL JOIN w"),
    ("SELECT v(a) FROM t ", ", u JOIN u ", "ON 1"),
    ("SELECT v(a) ", "UNION SELECT 1 INTERSECT SELECT 1 ", ""),
    ("SELECT v(a) FROM t MATCH_RECOGNIZE (PATTERN (", "{- ", "b"),
    ("SELECT v(a) FROM t MATCH_RECOGNIZE (PATTERN (b", " | c*", ") DEFINE b AS 1)"),
    ("SELECT v(a), x FROM JSON_TABLE(j, 'p' COLUMNS (", "NESTED PATH 'a' COLUMNS (", "b int PATH 'a'"),
    ("SELECT v(a), 1::int", "[]", ""),
    ("SELECT v(a), ", "INTERVAL ", "'1'"),
    ("SELECT v(a), 1 ", "BETWEEN 1 AND ", "1"),
    ("SELECT v(a), a", ".b", ""),
    ("SELECT v(a), a", ":b", ""),
    ("SELECT v(a), ", "CAST(", "1"),
    ("SELECT v(a), ", "ARRAY[", "1"),
    ("SELECT v(a), ", "{", "1"),
    ("SELECT v(a) FROM ", "LATERAL (SELECT * FROM ", "t"),
    ("SELECT v(a) -- \r FROM t ", "JOIN u ", ""),
    ("SELECT v(a), /* /* */ FROM t ", "JOIN u ", " */ 1"),
    ("SELECT v(a), U&'\\' ", "+ 1 ", ""),
    ("SELECT v(a), ", "(", "1"),
    ("SELECT v(a), ", "f(", "1"),
    ("SELECT v(a), ", "CASE WHEN ", "1"),
    ("SELECT v(a), ", "(SELECT ", "1"),
    ("SELECT v(a), ", "1 IN (SELECT (x, y) -> ", ""),
    ("SELECT v(a) FROM ", "(t JOIN ", "u"),
    ("WITH ", "x AS (WITH ", "v(a)"),
    ("SELECT v(a)", ", '', b(1)", ""),
];

/// What this thread has used: others may keep it waiting.
fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}

#[test]
fn growing_texts_neither_overflow_nor_take_long() {
    let check = || {
        with_builtin(|facts| {
            for (head, unit, tail) in GROWING {
                for n in [5, 9, 11, 12, 14, 22, 28, 40, 150, 199, 200, 350, 700, 1_400, 5_000, 60_000 / unit.len()] {
                    let open = unit.matches('(').count() - unit.matches(')').count();
                    for text in [
                        format!("{head}{}{tail}", unit.repeat(n)),
                        format!("{head}{}{tail}{}", unit.repeat(n), ")".repeat(n * open)),
                    ] {
                        let start = processor_time();
                        let found = classify(&text, facts);
                        assert_eq!(found.statements.len(), 1);
                        // Twenty milliseconds with optimisation; what grows without measure takes minutes.
                        let took = processor_time() - start;
                        assert!(took < Duration::from_secs(10), "{head}{unit}.. x {n}: {took:?}");
                    }
                }
            }
        });
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(check).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_long_chain_is_judged_by_its_tokens() {
    assert_eq!(verdict(&format!("SELECT 1{}", "+1".repeat(30_000))).intent, Intent::Read);
    let doubtful = verdict(&format!("SELECT f(1){}", "+1".repeat(30_000)));
    assert_eq!((doubtful.intent, doubtful.reason), (Intent::Write, Reason::UnknownFunction));
}

/// Text without a meaning for pgpilot, to be put between tokens.
fn blank() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(" ".to_owned()),
        Just("\n\t".to_owned()),
        Just("/* DELETE FROM t; */".to_owned()),
        Just(" /* a /* ' */ \" */ ".to_owned()),
        Just(" -- it's; $$\n".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_gets_a_verdict(text in "\\PC{0,200}") {
        let _ = verdicts(&text);
        shape(text.as_bytes(), &mut Vec::new());
    }

    #[test]
    fn mutated_statements_get_a_verdict(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        insert in "['\"$;()/*\\-E\\\\ a1é.,]{0,4}",
        cut in 0_usize..6,
    ) {
        let all: Vec<String> = corpus().map(|(_, text)| text).collect();
        let mut text: Vec<char> = which.get(&all).chars().collect();
        let at = at.index(text.len() + 1);
        let end = (at + cut).min(text.len());
        text.splice(at..end, insert.chars());
        let text: String = text.into_iter().collect();
        let _ = verdicts(&text);
        shape(text.as_bytes(), &mut Vec::new());
    }

    /// Comments and white space between tokens, and the case of words, change no verdict.
    #[test]
    fn spelling_does_not_matter(which in any::<prop::sample::Index>(), blank in blank(), upper in any::<bool>()) {
        let plain = |(label, text): &(&str, String)| !label.contains("hint") && !label.contains("anything") && !text.contains('\n');
        let all: Vec<(&str, String)> = corpus().filter(plain).collect();
        let (label, text) = which.get(&all);
        let tokens: Vec<lex::Token> = lex::Lexer::new(text).map(Result::unwrap).collect();
        let mut respelt = String::new();
        for token in tokens {
            let raw = &text[token.start as usize..token.end as usize];
            let word = token.kind == lex::Kind::Word;
            respelt += &if word && upper { raw.to_ascii_uppercase() } else { raw.to_owned() };
            respelt += &blank;
        }
        let found = verdicts(&respelt);
        let found: Vec<String> = found.iter().zip(split_labels(label)).map(|(v, l)| labelled(v, l)).collect();
        let expected: Vec<String> = split_labels(label).map(sorted).collect();
        prop_assert_eq!(found, expected, "{}", respelt);
    }

    /// Texts of one shape have one verdict.
    #[test]
    fn one_shape_one_verdict(
        which in any::<prop::sample::Index>(),
        string in "[a-z;' ]{0,9}",
        number in 0_u32..1_000_000,
    ) {
        let all: Vec<String> = corpus().map(|(_, text)| text).collect();
        let text = which.get(&all);
        let mut first = Vec::new();
        let minds = verdicts(text).iter().any(|verdict| verdict.depends.contains(Depends::LITERALS));
        if shape(text.as_bytes(), &mut first) == Shape::LiteralMatters || minds {
            return Ok(());
        }
        let mut other = String::new();
        for token in lex::Lexer::new(text).map(Result::unwrap) {
            other += &match token.kind {
                lex::Kind::Text => format!("'{}'", string.replace('\'', "''")),
                lex::Kind::Number => number.to_string(),
                _ => text[token.start as usize..token.end as usize].to_owned(),
            };
            other.push(' ');
        }
        let mut second = Vec::new();
        prop_assert_eq!(shape(other.as_bytes(), &mut second), Shape::Mergeable);
        prop_assert_eq!(&first, &second);
        prop_assert_eq!(verdicts(text), verdicts(&other), "{} / {}", text, other);
        // The shape is itself a text of its shape.
        prop_assert_eq!(verdicts(text), verdicts(std::str::from_utf8(&first).unwrap()));
    }
}

/// Each hazard in each clause, in several spellings; and the functions that are safe, which must not be lost.
#[test]
fn every_builtin_function_is_judged_wherever_it_is_called() {
    const CLAUSES: [&str; 9] = [
        "SELECT {}",
        "SELECT a, lower({}::text) FROM t",
        "SELECT * FROM {} AS f",
        "SELECT 1 FROM t JOIN u ON {} IS NOT NULL",
        "SELECT 1 FROM t WHERE EXISTS (SELECT 1 WHERE {} IS NULL)",
        "WITH c AS (SELECT {}) TABLE c",
        "SELECT 1 FROM t GROUP BY a HAVING {} IS NULL",
        "SELECT 1 FROM t ORDER BY CASE WHEN a THEN {} END",
        "VALUES ((({})))",
    ];
    let data = |text: &'static str| text.lines().filter(|line| !line.starts_with('#'));
    let hazards = data(include_str!("data/hazards.tsv")).filter_map(|line| line.split('\t').next());
    let safe = data(include_str!("data/safe.txt")).flat_map(str::split_ascii_whitespace);
    let names = hazards.map(|name| (name, Intent::Write)).chain(safe.map(|name| (name, Intent::Read)));
    with_builtin(|facts| {
        for (n, (name, expected)) in names.enumerate() {
            let quoted = format!("\"{name}\" ($1)");
            let calls = [quoted.clone(), format!("PG_CATALOG.{quoted}"), format!("pg_catalog/**/. {quoted}")];
            for (call, clause) in calls.iter().cycle().skip(n).zip(CLAUSES) {
                let text = clause.replace("{}", call);
                assert_eq!(classify(&text, facts).statements[0].intent, expected, "{text}");
            }
        }
    });
}
