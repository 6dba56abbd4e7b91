//! A cluster that only exists in these tests.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::admin::*;
use crate::config::{Config, NodeName};
use crate::decide::failover::{Maintenance, Order, Run};
use crate::decide::pool::PoolCounts;
use crate::decide::position::{Lsn, Timeline};
use crate::decide::route::{Lag, NodeId, NodeView, Role, Sample, Snapshot, State};
use crate::decide::session::Pin;
use crate::decide::sql::{Catalogue, CatalogueSize, Facts, FunctionLists, Reason, classify};
use crate::telemetry::{Journal, Telemetry};

pub(crate) struct Fake {
    pub(crate) telemetry: Telemetry,
    pub(crate) journal: Journal,
    pub(crate) snapshot: Mutex<Snapshot>,
    pub(crate) service: Mutex<Service>,
    pub(crate) failover: Mutex<FailoverStatus>,
    pub(crate) actions: Mutex<Vec<Action>>,
    pub(crate) pools: Mutex<Vec<PoolRow>>,
    /// PAUSE waits for it.
    pub(crate) quiet: Notify,
}

impl Fake {
    /// pg1 is the primary, pg2 a fresh replica, pg3 one that lags.
    pub(crate) fn new() -> Arc<Self> {
        let node = |id: u16, role, lag: u64, fresh| NodeView {
            role,
            fresh,
            state: State::Up,
            position: Some(Sample { asked_at: Instant::now(), timeline: Timeline(3), lsn: Lsn(0x16_0000_0100) }),
            lag: Lag { bytes: Some(lag * 1000), time: Some(Duration::from_micros(lag * 1000)) },
            ..NodeView::new(NodeId(id), NodeName::new(&format!("pg{}", id + 1)).unwrap())
        };
        let nodes = vec![
            NodeView { lag: Lag::default(), ..node(0, Role::Primary, 0, false) },
            node(1, Role::Replica, 2, true),
            node(2, Role::Replica, 9000, false),
        ];
        let snapshot =
            Snapshot { epoch: 7, primary: Some(NodeId(0)), timeline: Timeline(3), nodes, ..Snapshot::default() };
        Arc::new(Self {
            telemetry: Telemetry::new(),
            journal: Journal::default(),
            snapshot: Mutex::new(snapshot),
            service: Mutex::new(Service::Running),
            failover: Mutex::new(FailoverStatus {
                automatic: true,
                maintenance: Maintenance::Off,
                state: "steady".into(),
                epoch: 9,
                candidate: Some(NodeId(2)),
                since: Some(Duration::from_millis(1500)),
                last: Some("failover to pg1 at epoch 9: done".into()),
                reason: None,
            }),
            actions: Mutex::default(),
            pools: Mutex::new(vec![PoolRow {
                node: NodeId(1),
                user: "<app>".into(),
                database: "db".into(),
                counts: PoolCounts { idle: 3, leased: 1, connecting: 0, waiting: 4 },
            }]),
            quiet: Notify::new(),
        })
    }
}

const FILE: &str = r#"
[[nodes]]
name = "pg1"
host = "10.0.0.1"
[[nodes]]
name = "pg2"
host = "10.0.0.2"
[health]
password = "do-not-show-1"
[[users]]
name = "app"
password = "do-not-show-2"
consistency = "eventual"
[[users]]
name = "desk"
pool_mode = "session"
"#;

impl Sources for Fake {
    fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn journal(&self) -> &Journal {
        &self.journal
    }

    fn config(&self) -> Arc<Config> {
        Arc::new(Config::parse(FILE, "pgpilot.toml", &|_| None).unwrap())
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(self.snapshot.lock().unwrap().clone())
    }

    fn node(&self, id: NodeId) -> NodeFacts {
        let address = format!("10.0.0.{}:5432", id.0 + 1);
        NodeFacts { address, server_version: Some(150_004), outstanding: 1, dials: 5, dial_failures: 2 }
    }

    fn pools(&self) -> Vec<PoolRow> {
        self.pools.lock().unwrap().clone()
    }

    fn held(&self) -> usize {
        0
    }

    fn clients(&self) -> Vec<ClientRow> {
        vec![ClientRow {
            pid: 42,
            user: "app".into(),
            database: "db".into(),
            address: Some([127, 0, 0, 1].into()),
            application: "a\0b".into(),
            since: Instant::now(),
            node: Some(NodeId(1)),
            pins: vec![Pin::Listen, Pin::AdvisoryLock],
        }]
    }

    fn servers(&self) -> Vec<ServerRow> {
        let row = |state, age| ServerRow {
            node: NodeId(9),
            user: "app".into(),
            database: "db".into(),
            state,
            backend: Some(77),
            age,
        };
        vec![row(ServerState::Idle, None), row(ServerState::Leased(Some(42)), Some(Duration::from_secs(3)))]
    }

    fn classify(&self, sql: &str, user: &str, _database: &str) -> Explained {
        let (catalogue, overrides) = (Catalogue::builtin(), FunctionLists::default());
        let classified = classify(sql, &Facts::new(&catalogue, &overrides, 1 << 16));
        Explained { classified, search_path: Some(format!("{user}, public")) }
    }

    fn shapes(&self) -> Vec<ShapeRow> {
        let row = |outline: &str, statements, offloaded, reason| ShapeRow {
            database: "db".into(),
            outline: outline.into(),
            offloaded,
            reason,
            statements,
            time: Duration::from_millis(3) * u32::try_from(statements).unwrap(),
            object: None,
        };
        vec![
            row("SELECT 0", 4, true, Reason::PlainRead),
            row("SELECT 0", 1, false, Reason::NotCaughtUp),
            row("DELETE FROM t WHERE a = '?'", 8, false, Reason::Dml),
        ]
    }

    fn catalogues(&self) -> Vec<CatalogueRow> {
        let size = CatalogueSize { functions: 7, relations: 2, bytes: 512 };
        vec![
            CatalogueRow { database: "db".into(), size: Some(size), trouble: None },
            CatalogueRow { database: "closed".into(), size: None, trouble: Some("the server refuses".into()) },
            CatalogueRow { database: "new".into(), size: None, trouble: None },
        ]
    }

    fn service(&self) -> Service {
        *self.service.lock().unwrap()
    }

    fn instances(&self) -> Vec<InstanceRow> {
        let row = |number: u16, standing| InstanceRow {
            number: Some(number),
            name: format!("proxy-{number}"),
            address: format!("10.0.1.{number}:6432"),
            version: "0.1.0".into(),
            acknowledged: 8,
            standing,
            is_this: number == 2,
        };
        vec![row(1, InstanceStanding::Leader), row(2, InstanceStanding::Follower)]
    }

    fn lease(&self) -> Option<Duration> {
        Some(Duration::from_millis(3500))
    }

    fn failover(&self) -> FailoverStatus {
        self.failover.lock().unwrap().clone()
    }

    fn perform(&self, action: Action) -> Performed<'_> {
        Box::pin(async move {
            self.actions.lock().unwrap().push(action);
            match action {
                Action::Pause => self.quiet.notified().await,
                Action::Resume => return Err(Refused::State("not paused".into())),
                Action::Order(Order::Failover { run: Run::Real, .. }) => {
                    return Err(Refused::StillRunning { epoch: 10 });
                }
                Action::Order(Order::Switchover { run: Run::Dry, .. }) => {
                    return Ok(Outcome { notices: vec!["pg2 would be promoted".into()] });
                }
                Action::Reload => {
                    return Ok(Outcome { notices: vec!["listen takes effect after a restart".into()] });
                }
                _ => {}
            }
            Ok(Outcome::default())
        })
    }
}
