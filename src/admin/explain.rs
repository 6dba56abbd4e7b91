//! EXPLAIN ROUTE: the verdict on each statement, and where the whole would go now.

use std::time::Instant;

use super::sources::{Explained, Sources};
use super::table::{Column, Table, Value, integer, number, text};
use super::views::{millis, node_name, takes_reads};
use crate::config::{Consistency, RoutingMode, Transactions};
use crate::decide::route::{
    Decision, Demand, Freshness, Need, NodeId, Policy, Route, Snapshot, WaitFor, is_in_service, route,
};
use crate::decide::session::{Defaults, Needs};
use crate::decide::sql::{Intent, Reason, Verdict};

/// The first five are about a statement; the others about the whole text, which is routed as one.
pub(super) const COLUMNS: &[Column] = &[
    integer("statement"),
    text("intent"),
    text("reason"),
    text("object"),
    text("verdict"),
    text("route"),
    text("route_reason"),
    // One of the candidates: which one, is decided anew each time.
    text("node"),
    number("lag_ms"),
    text("candidates"),
    text("consistency"),
    // Replicas in service that lag too much, each with the measure.
    text("left_out"),
    // By what the verdict was given: names are looked for where a session of this user that has set nothing does. NULL: that
    // is not known, and they may mean anything.
    text("user"),
    text("database"),
    text("search_path"),
];

/// `database`: `None` is that of `[health]`.
pub(super) fn explain(sources: &dyn Sources, sql: &str, user: &str, database: Option<&str>) -> Table {
    let config = sources.config();
    let database = database.unwrap_or(&config.health.database);
    let Explained { classified: verdicts, search_path } = sources.classify(sql, user, database);
    let of_user = config.users.iter().find(|it| it.name == user);
    let of_database = config.databases.iter().find(|it| it.name == database);
    let policy = Policy::new(&config.routing, of_user, of_database);
    let snapshot = sources.snapshot();
    let whole = whole(sources, &snapshot, &verdicts.statements, &policy);
    let asker: [Value; 3] = [user.to_owned().into(), database.to_owned().into(), search_path.into()];
    let whole: Vec<Value> = whole.into_iter().chain(asker).collect();
    let mut rows: Vec<Vec<Value>> = Vec::new();
    for (number, verdict) in verdicts.statements.iter().enumerate() {
        let statement: [Value; 5] = [
            (number + 1).into(),
            verdict.intent.to_string().into(),
            verdict.reason.label().into(),
            verdict.object.as_deref().map(Value::from).into(),
            verdict.to_string().into(),
        ];
        rows.push(statement.into_iter().chain(whole.iter().cloned()).collect());
    }
    if rows.is_empty() {
        let nothing: [Value; 5] = [0_u32.into(), "nothing".into(), "empty".into(), Value::Null, "no statement".into()];
        rows.push(nothing.into_iter().chain(whole).collect());
    }
    Table { columns: COLUMNS, rows }
}

fn whole(sources: &dyn Sources, snapshot: &Snapshot, verdicts: &[Verdict], policy: &Policy) -> [Value; 7] {
    let mut needs = Needs::default();
    verdicts.iter().for_each(|verdict| needs.add(verdict, Defaults::default(), &|_| None));
    let promise = needs.promise.over(policy.consistency);
    let consistency = promise.unwrap_or(policy.consistency).name();
    let Some((need, reason)) = needs.server else {
        let consistency = consistency.into();
        let none = Value::Null;
        return [
            "own".into(),
            "answered by pgpilot".into(),
            none.clone(),
            none.clone(),
            none.clone(),
            consistency,
            none,
        ];
    };
    let ventures = sources.config().routing.transactions == Transactions::Optimistic
        && matches!(policy.consistency, Consistency::Eventual | Consistency::Session)
        && matches!(verdicts, [Verdict { intent: Intent::Begin(mode), .. }] if mode.is_plain());
    let (need, reason) = if ventures && reason == Reason::ReadWriteTransaction {
        (Need::Read, Reason::Optimistic)
    } else {
        (need, reason)
    };
    let outlasts = needs.opens.is_some_and(|mode| !mode.sees_one_snapshot());
    let outlasts = outlasts && promise.unwrap_or(policy.consistency) == Consistency::Strong && need != Need::Primary;
    let (need, reason) = if outlasts { (Need::Primary, Reason::Consistency) } else { (need, reason) };
    let shadow = sources.config().routing.mode == RoutingMode::Shadow && need != Need::Primary;
    let (need, reason) = if shadow { (Need::Primary, Reason::Shadow) } else { (need, reason) };
    let now = Instant::now();
    let demand = Demand { need, reason, promise, arrived: now, avoid: None };
    let load = |node| sources.node(node).outstanding;
    // A session that has written nothing and seen nothing yet.
    let decision = route(&demand, &mut Freshness::default(), snapshot, policy, load, fastrand::u64(..), now);
    let (route, node) = shown(&decision);
    let candidates = match decision.route {
        Route::Replica(_) => {
            let candidates = snapshot.nodes.iter().filter(|node| takes_reads(node));
            Some(candidates.map(|node| node.name.as_str()).collect::<Vec<_>>().join(", "))
        }
        _ => None,
    };
    [
        route.into(),
        decision.reason.label().into(),
        node.map(|node| node_name(snapshot, node)).into(),
        millis(node.and_then(|node| snapshot.node(node)?.lag.time)).into(),
        candidates.into(),
        consistency.into(),
        left_out(snapshot).into(),
    ]
}

fn left_out(snapshot: &Snapshot) -> Option<String> {
    let lagging = snapshot.nodes.iter().filter(|node| is_in_service(node));
    let lagging = lagging.filter_map(|node| Some(format!("{} ({})", node.name, node.excess()?.label())));
    let names: Vec<_> = lagging.collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn shown(decision: &Decision) -> (String, Option<NodeId>) {
    match &decision.route {
        Route::Primary(node) => ("primary".to_owned(), Some(*node)),
        Route::Replica(node) => ("replica".to_owned(), Some(*node)),
        Route::Wait(WaitFor::Primary { .. }) => ("wait for a primary".to_owned(), None),
        Route::Wait(WaitFor::Replica { .. }) => ("wait for a replica".to_owned(), None),
        Route::Refuse(refusal) => (format!("refuse: {refusal}"), None),
    }
}
