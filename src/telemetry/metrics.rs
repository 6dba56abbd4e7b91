//! What the client loops count: no look-up by name, no lock.

use std::time::Duration;

use super::counters::Counters;
use super::histogram::Histograms;
use super::names::{self, Metric};
use super::sheet::Sheet;
use crate::decide::route::NodeId;
use crate::decide::session::Pin;
use crate::decide::sql::Reason;

/// Counters and histograms of one proxy. Counting costs a few nanoseconds; a statement, with its latency, some tens.
pub struct Metrics {
    counters: Counters<SLOTS>,
    histograms: Histograms<{ CHECKOUT + 1 }>,
}

/// Where a batch of statements was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    Primary(NodeId),
    Replica(NodeId),
    /// By pgpilot itself.
    Own,
}

/// Why a read ran a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// The replica says that it is a standby.
    Refused,
    /// Replay ended the statement or its session.
    RecoveryConflict,
    ConnectionLost,
    /// A server knew it as it was before DDL.
    StalePlan,
}

/// What became of a transaction that began on a replica, though it might have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Optimistic {
    /// It did not write.
    Stayed,
    /// It went on on the primary, which had the same rows.
    Moved,
    /// The primary had others.
    Diverged,
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Backend,
    Operator,
    Us,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    Accepted,
    Refused,
}

/// A verdict was in the cache, for this very text or for its shape, or was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    Hit,
    Shape,
    Miss,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    FromClients,
    ToClients,
}

/// How a change of primary ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Done,
    /// A guard stood in the way, or no node would do: nothing was begun.
    Refused,
    /// Begun, and undone whole.
    RolledBack,
    /// Given up half-way.
    Failed,
}

/// What a session depends on that a change of primary may have lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// What it wrote.
    Write,
    /// What it wrote so late that nobody knows whether it was lost.
    Unknown,
    /// The position in its `pgpilot.min_lsn`.
    Token,
}

/// Something that is counted, besides statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A connection was accepted.
    Connection,
    Login(Login),
    Retry(RetryCause),
    Optimistic(Optimistic),
    Error(Side),
    /// A session became pinned.
    Pin(Pin),
    Verdict(Lookup),
    Unparsable,
    /// A comment is meant for pgpilot, which does not know what it says.
    UnknownHint,
    /// A session was found to depend on what a change of primary has lost.
    Lost(Lost),
    /// Automatic or forced.
    Failover(Ending),
    Switchover(Ending),
    /// Bytes, by [`Metrics::add`].
    Bytes(Direction),
}

const ROUTES: usize = 3;
const REASONS: usize = Reason::ALL.len();
/// Nodes that have counters of their own; one that a long series of reloads numbers higher is only part of the sums.
const NODES: usize = 64;

const NODE_SLOTS: usize = ROUTES * REASONS;
const TIME_SLOTS: usize = NODE_SLOTS + NODES;
const COUNT_SLOTS: usize = TIME_SLOTS + ROUTES;
const SLOTS: usize = COUNT_SLOTS + Count::FIXED.len() + Pin::ALL.len();

/// The histogram of check-outs, behind those of the routes' latencies.
const CHECKOUT: usize = ROUTES;

const ROUTE_LABELS: [&str; ROUTES] = ["primary", "replica", "own"];

impl Served {
    fn index(self) -> usize {
        match self {
            Self::Primary(_) => 0,
            Self::Replica(_) => 1,
            Self::Own => 2,
        }
    }

    fn node(self) -> Option<usize> {
        match self {
            Self::Primary(node) | Self::Replica(node) => Some(usize::from(node.0)).filter(|node| *node < NODES),
            Self::Own => None,
        }
    }
}

impl Ending {
    pub fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::RolledBack => "rolled_back",
            Self::Failed => "failed",
        }
    }
}

impl Count {
    /// All but the pins, in the order of their slots.
    const FIXED: [Count; 32] = [
        Count::Connection,
        Count::Login(Login::Accepted),
        Count::Login(Login::Refused),
        Count::Retry(RetryCause::Refused),
        Count::Retry(RetryCause::RecoveryConflict),
        Count::Retry(RetryCause::ConnectionLost),
        Count::Retry(RetryCause::StalePlan),
        Count::Error(Side::Client),
        Count::Error(Side::Backend),
        Count::Error(Side::Operator),
        Count::Error(Side::Us),
        Count::Verdict(Lookup::Hit),
        Count::Verdict(Lookup::Shape),
        Count::Verdict(Lookup::Miss),
        Count::Unparsable,
        Count::Bytes(Direction::FromClients),
        Count::Bytes(Direction::ToClients),
        Count::Failover(Ending::Done),
        Count::Failover(Ending::Refused),
        Count::Failover(Ending::RolledBack),
        Count::Failover(Ending::Failed),
        Count::Switchover(Ending::Done),
        Count::Switchover(Ending::Refused),
        Count::Switchover(Ending::RolledBack),
        Count::Switchover(Ending::Failed),
        Count::UnknownHint,
        Count::Lost(Lost::Write),
        Count::Lost(Lost::Unknown),
        Count::Lost(Lost::Token),
        Count::Optimistic(Optimistic::Stayed),
        Count::Optimistic(Optimistic::Moved),
        Count::Optimistic(Optimistic::Diverged),
    ];

    /// In the order of their slots.
    fn all() -> impl Iterator<Item = Count> {
        Self::FIXED.into_iter().chain(Pin::ALL.into_iter().map(Count::Pin))
    }

    fn index(self) -> usize {
        match self {
            Self::Connection => 0,
            Self::Login(login) => 1 + login as usize,
            Self::Retry(cause) => 3 + cause as usize,
            Self::Error(side) => 7 + side as usize,
            Self::Verdict(lookup) => 11 + lookup as usize,
            Self::Unparsable => 14,
            Self::Bytes(direction) => 15 + direction as usize,
            Self::Failover(ending) => 17 + ending as usize,
            Self::Switchover(ending) => 21 + ending as usize,
            Self::UnknownHint => 25,
            Self::Lost(what) => 26 + what as usize,
            Self::Optimistic(outcome) => 29 + outcome as usize,
            Self::Pin(pin) => Self::FIXED.len() + pin as usize,
        }
    }

    /// The metric, and the value of its label if it has one.
    fn series(self) -> (Metric, Option<&'static str>) {
        match self {
            Self::Connection => (names::CONNECTIONS, None),
            Self::Login(Login::Accepted) => (names::LOGINS, Some("accepted")),
            Self::Login(Login::Refused) => (names::LOGINS, Some("refused")),
            Self::Retry(RetryCause::Refused) => (names::RETRIES, Some("refused")),
            Self::Retry(RetryCause::RecoveryConflict) => (names::RETRIES, Some("recovery_conflict")),
            Self::Retry(RetryCause::ConnectionLost) => (names::RETRIES, Some("connection_lost")),
            Self::Retry(RetryCause::StalePlan) => (names::RETRIES, Some("stale_plan")),
            Self::Error(Side::Client) => (names::ERRORS, Some("client")),
            Self::Error(Side::Backend) => (names::ERRORS, Some("backend")),
            Self::Error(Side::Operator) => (names::ERRORS, Some("operator")),
            Self::Error(Side::Us) => (names::ERRORS, Some("us")),
            Self::Pin(pin) => (names::PINS, Some(pin.label())),
            Self::Verdict(Lookup::Hit) => (names::VERDICTS, Some("hit")),
            Self::Verdict(Lookup::Shape) => (names::VERDICTS, Some("shape")),
            Self::Verdict(Lookup::Miss) => (names::VERDICTS, Some("miss")),
            Self::Unparsable => (names::UNPARSABLE, None),
            Self::UnknownHint => (names::UNKNOWN_HINTS, None),
            Self::Lost(Lost::Write) => (names::LOST_WRITES, Some("write")),
            Self::Lost(Lost::Unknown) => (names::LOST_WRITES, Some("unknown")),
            Self::Lost(Lost::Token) => (names::LOST_WRITES, Some("token")),
            Self::Optimistic(Optimistic::Stayed) => (names::OPTIMISTIC, Some("stayed")),
            Self::Optimistic(Optimistic::Moved) => (names::OPTIMISTIC, Some("moved")),
            Self::Optimistic(Optimistic::Diverged) => (names::OPTIMISTIC, Some("diverged")),
            Self::Failover(ending) => (names::FAILOVERS, Some(ending.label())),
            Self::Switchover(ending) => (names::SWITCHOVERS, Some(ending.label())),
            Self::Bytes(Direction::FromClients) => (names::BYTES, Some("from_clients")),
            Self::Bytes(Direction::ToClients) => (names::BYTES, Some("to_clients")),
        }
    }
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self { counters: Counters::new(), histograms: Histograms::new() }
    }

    /// A batch of statements has been answered; `latency` counts from its arrival.
    #[inline]
    pub fn statement(&self, served: Served, reason: Reason, latency: Duration) {
        let route = served.index();
        self.counters.add(route * REASONS + reason as usize, 1);
        if let Some(node) = served.node() {
            self.counters.add(NODE_SLOTS + node, 1);
        }
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.counters.add(TIME_SLOTS + route, micros);
        self.histograms.record(route, latency);
    }

    /// A client asked for a server connection and had to wait for so long, zero included.
    #[inline]
    pub fn checkout(&self, waited: Duration) {
        self.histograms.record(CHECKOUT, waited);
    }

    #[inline]
    pub fn count(&self, count: Count) {
        self.add(count, 1);
    }

    #[inline]
    pub fn add(&self, count: Count, amount: u64) {
        self.counters.add(COUNT_SLOTS + count.index(), amount);
    }

    pub fn total(&self, count: Count) -> u64 {
        self.counters.get(COUNT_SLOTS + count.index())
    }

    /// Batches that ran on a node.
    pub fn on_node(&self, node: NodeId) -> u64 {
        let node = usize::from(node.0);
        if node < NODES { self.counters.get(NODE_SLOTS + node) } else { 0 }
    }

    /// Batches by route and reason, where there were any.
    pub fn routes(&self) -> Vec<RouteCount> {
        let all = ROUTE_LABELS.iter().enumerate().flat_map(|(index, route)| {
            Reason::ALL.iter().map(move |reason| RouteCount {
                route,
                reason: *reason,
                statements: self.counters.get(index * REASONS + *reason as usize),
            })
        });
        all.filter(|count| count.statements > 0).collect()
    }

    /// Batches by route, and the time they took in all.
    pub fn latencies(&self) -> [(&'static str, u64, Duration); ROUTES] {
        std::array::from_fn(|route| {
            let statements = (0..REASONS).map(|reason| self.counters.get(route * REASONS + reason)).sum();
            (ROUTE_LABELS[route], statements, Duration::from_micros(self.counters.get(TIME_SLOTS + route)))
        })
    }

    /// Every counter that is no statement's: metric, label value, value.
    pub fn totals(&self) -> impl Iterator<Item = (Metric, Option<&'static str>, u64)> {
        Count::all().map(|count| {
            let (metric, label) = count.series();
            (metric, label, self.total(count))
        })
    }

    pub(super) fn write_to(&self, sheet: &mut Sheet) {
        for RouteCount { route, reason, statements } in self.routes() {
            sheet.counter(&names::STATEMENTS, &[route, reason.label()], statements);
        }
        for (metric, label, value) in self.totals() {
            sheet.counter(&metric, label.as_slice(), value);
        }
    }
}

impl Metrics {
    pub(super) fn histograms(&self) -> String {
        let mut text = String::new();
        let routes: Vec<_> = (0..ROUTES).map(|route| (route, &ROUTE_LABELS[route..=route])).collect();
        self.histograms.render(&mut text, &names::STATEMENT_SECONDS, routes);
        self.histograms.render(&mut text, &names::CHECKOUT_SECONDS, [(CHECKOUT, &[][..])]);
        text
    }
}

/// One row of SHOW REASONS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteCount {
    pub route: &'static str,
    pub reason: Reason,
    pub statements: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;

    #[test]
    fn every_count_has_a_slot_and_a_series_of_its_own() {
        let mut series = std::collections::BTreeSet::new();
        for (slot, count) in Count::all().enumerate() {
            assert_eq!(count.index(), slot, "{count:?}");
            let (metric, label) = count.series();
            assert_eq!(metric.labels.len(), usize::from(label.is_some()), "{count:?}");
            assert!(series.insert((metric.name, label)), "{count:?}");
        }
    }

    #[test]
    fn what_is_counted_is_exposed() {
        let telemetry = Telemetry::new();
        let metrics = telemetry.metrics();
        metrics.statement(Served::Replica(NodeId(1)), Reason::PlainRead, Duration::from_micros(300));
        metrics.statement(Served::Replica(NodeId(1)), Reason::PlainRead, Duration::from_micros(40));
        metrics.statement(Served::Own, Reason::Show, Duration::ZERO);
        metrics.statement(Served::Primary(NodeId(9999)), Reason::Dml, Duration::from_secs(20));
        metrics.checkout(Duration::from_millis(3));
        metrics.count(Count::Retry(RetryCause::Refused));
        metrics.add(Count::Bytes(Direction::ToClients), 512);
        assert_eq!((metrics.on_node(NodeId(1)), metrics.on_node(NodeId(9999))), (2, 0));
        assert_eq!(metrics.latencies()[1], ("replica", 2, Duration::from_micros(340)));
        let text = telemetry.render(Sheet::new());
        for line in [
            r#"pgpilot_statements_total{route="replica",reason="plain_read"} 2"#,
            r#"pgpilot_statements_total{route="primary",reason="dml"} 1"#,
            r#"pgpilot_statement_seconds_bucket{route="replica",le="0.00005"} 1"#,
            r#"pgpilot_statement_seconds_bucket{route="replica",le="0.00035"} 2"#,
            r#"pgpilot_statement_seconds_bucket{route="primary",le="10"} 0"#,
            r#"pgpilot_statement_seconds_count{route="primary"} 1"#,
            r#"pgpilot_checkout_seconds_bucket{le="0.005"} 1"#,
            r#"pgpilot_retries_total{cause="refused"} 1"#,
            r#"pgpilot_bytes_total{direction="to_clients"} 512"#,
            "# TYPE pgpilot_statements_total counter",
            "# TYPE pgpilot_statement_seconds histogram",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn two_proxies_in_one_process_count_apart() {
        let (first, second) = (Telemetry::new(), Telemetry::new());
        first.metrics().count(Count::Connection);
        assert_eq!(first.metrics().total(Count::Connection), 1);
        assert_eq!(second.metrics().total(Count::Connection), 0);
        assert!(second.render(Sheet::new()).contains("pgpilot_client_connections_total 0"));
    }
}
