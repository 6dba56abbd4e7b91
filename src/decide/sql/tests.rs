//! The corpus, and what a corpus cannot say.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn with_builtin<T>(run: impl FnOnce(&Facts<'_>) -> T) -> T {
    let catalogue = Catalogue::builtin();
    run(&Facts { catalogue: &catalogue, overrides: &FunctionLists::default(), max_parse: 64 * 1024 })
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
        Intent::End(TransactionEnd::Chain) => "chain".to_owned(),
        Intent::WithinTransaction => "within".to_owned(),
        Intent::Session(SessionCommand::Set { names, scope: s }) => format!("set{}({})", scope(*s), names.join(",")),
        Intent::Session(SessionCommand::Reset { name }) => format!("reset({name})"),
        Intent::Session(SessionCommand::ResetAll) => "reset_all".to_owned(),
        Intent::Session(SessionCommand::DiscardAll) => "discard_all".to_owned(),
        Intent::Session(SessionCommand::DiscardSome) => "discard".to_owned(),
        Intent::Prepare { name, statement, .. } => format!("prepare({name},{})", statement.intent),
        Intent::Execute { name, .. } => format!("execute({name})"),
        Intent::Deallocate { name: Some(name) } => format!("deallocate({name})"),
        Intent::Deallocate { name: None } => "deallocate_all".to_owned(),
        Intent::Own(OwnCommand::Show { name }) => format!("own_show({name})"),
        Intent::Own(OwnCommand::Set { name, value, scope: s }) => {
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
