//! EXPLAIN ROUTE: the verdict on each statement, and where the whole would go now.

use std::collections::BTreeSet;
use std::time::Instant;

use super::sources::{Explained, Sources};
use super::table::{Column, Table, Value, integer, number, text};
use super::views::{millis, node_name, takes_reads};
use crate::config::{Config, Consistency, PoolMode, Routing, RoutingMode, Transactions};
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
    // What the answer supposes that the question has not said.
    text("note"),
];

/// `database`: `None` is the one that is in use, if there is but one.
pub(super) fn explain(sources: &dyn Sources, sql: &str, user: &str, database: Option<&str>) -> Table {
    let config = sources.config();
    let supposed = database.is_none().then(|| the_one_in_use(sources, &config));
    let own = config.health.database.as_str();
    let (database, note) = match (database, &supposed) {
        (Some(named), _) => (named, None),
        (None, Some(Some(used))) => (&**used, None),
        (None, _) => (own, Some(NOT_NAMED)),
    };
    let Explained { classified: verdicts, search_path } = sources.classify(sql, user, database);
    let of_user = config.users.iter().find(|it| it.name == user);
    let of_database = config.databases.iter().find(|it| it.name == database);
    let policy = Policy::new(&config.routing, of_user, of_database);
    let snapshot = sources.snapshot();
    let mode = of_user.and_then(|user| user.pool_mode).or(of_database.and_then(|database| database.pool_mode));
    let mode = mode.unwrap_or(config.pool.mode);
    let whole = whole(sources, &snapshot, &verdicts.statements, &policy, mode);
    let asker: [Value; 4] =
        [user.to_owned().into(), database.to_owned().into(), search_path.into(), note.map(Value::from).into()];
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

const NOT_NAMED: &str = "no DATABASE was named, and not just one is in use: this is about the one of [health]";

/// The database that all clients use; where there are none, the only one that has a section in the topology file.
fn the_one_in_use(sources: &dyn Sources, config: &Config) -> Option<String> {
    let (clients, pools) = (sources.clients(), sources.pools());
    let used = clients.iter().map(|client| &*client.database).chain(pools.iter().map(|pool| &*pool.database));
    let mut names: BTreeSet<&str> = used.collect();
    if names.is_empty() {
        names.extend(config.databases.iter().map(|database| database.name.as_str()));
    }
    let only = names.pop_first().filter(|_| names.is_empty());
    only.map(str::to_owned)
}

fn whole(
    sources: &dyn Sources,
    snapshot: &Snapshot,
    verdicts: &[Verdict],
    policy: &Policy,
    mode: PoolMode,
) -> [Value; 7] {
    let mut needs = Needs::default();
    verdicts.iter().for_each(|verdict| needs.add(verdict, Defaults::default(), &|_| None));
    let promise = needs.promise.over(policy.consistency);
    let consistency = promise.unwrap_or(policy.consistency).name();
    let Some((need, reason)) = wants(&sources.config().routing, verdicts, &needs, policy, mode) else {
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

/// What a session that has set nothing would make of what the statements need, as the client's loop does. `None`: no server.
fn wants(
    routing: &Routing,
    verdicts: &[Verdict],
    needs: &Needs,
    policy: &Policy,
    mode: PoolMode,
) -> Option<(Need, Reason)> {
    let (mut need, mut reason) = needs.server?;
    if need == Need::Primary && needs.opens.is_some_and(|mode| needs.may_begin(mode, Defaults::default())) {
        (need, reason) = (Need::Read, Reason::ReadOnlyTransaction);
    }
    let ventures = routing.transactions == Transactions::Optimistic
        && matches!(policy.consistency, Consistency::Eventual | Consistency::Session)
        && matches!(verdicts, [Verdict { intent: Intent::Begin(mode), .. }] if mode.is_plain());
    if ventures && reason == Reason::ReadWriteTransaction {
        (need, reason) = (Need::Read, Reason::Optimistic);
    }
    let promised = needs.promise.over(policy.consistency).unwrap_or(policy.consistency);
    // A BEGIN alone waits for what takes the snapshot.
    let takes_snapshot = needs.promise.reads() || verdicts.len() == 1;
    let outlasts = needs.opens.is_some_and(|mode| !(mode.sees_one_snapshot() && takes_snapshot));
    let outlasts = outlasts && promised == Consistency::Strong;
    if outlasts && need != Need::Primary {
        (need, reason) = (Need::Primary, Reason::Consistency);
    }
    if mode == PoolMode::Session && need == Need::Read {
        (need, reason) = (Need::Primary, Reason::Pinned);
    }
    if routing.mode == RoutingMode::Shadow && need != Need::Primary {
        (need, reason) = (Need::Primary, Reason::Shadow);
    }
    Some((need, reason))
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
