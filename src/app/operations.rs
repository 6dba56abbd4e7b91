//! What operators see of a running pgpilot, and what they can do to it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::admin::{
    Action, CatalogueRow, ClientRow, ConsoleUser, Explained, FailoverStatus, InstanceRow, InstanceStanding, Level,
    NodeFacts, Outcome, Performed, PoolRow, Refused, ServerRow, ServerState, Service, ShapeRow, Sources, console,
};
use crate::cluster::failover::{self, Connections, Failover};
use crate::config::Config;
use crate::coordination::{Membership, State};
use crate::decide::failover::Order;
use crate::decide::route::{NodeId, Snapshot};
use crate::decide::session::Pin;
use crate::decide::sql::Classified;
use crate::proxy::{ClientInfo, Console, ConsoleLevel, ConsoleVisit, Handover, Passage, RunCount, Shared, Way};
use crate::telemetry::{Journal, Telemetry, Topic, logging};

/// The operators' side of a running pgpilot.
pub(super) struct Operations {
    pub shared: Arc<Shared>,
    pub telemetry: Arc<Telemetry>,
    pub failover: Failover,
    /// The topology file, to be read again; `None`: there is none.
    pub file: Option<PathBuf>,
    /// Cancelled when an operator asks pgpilot to end.
    pub asked_to_stop: CancellationToken,
}

/// A PAUSE gives up waiting for statements after so long; the pause itself stays.
const PAUSE_WAIT: Duration = Duration::from_secs(30);
const PAUSE_POLL: Duration = Duration::from_millis(5);

impl Sources for Operations {
    fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn journal(&self) -> &Journal {
        self.shared.cluster.journal()
    }

    fn config(&self) -> Arc<Config> {
        self.shared.config.load_full()
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.cluster.snapshot()
    }

    fn node(&self, id: NodeId) -> NodeFacts {
        let config = self.shared.config.load();
        let snapshot = self.shared.cluster.snapshot();
        let settings = snapshot.node(id).and_then(|view| config.nodes.iter().find(|node| node.name == view.name));
        let pools = self.shared.pools.all();
        let pool = pools.iter().find(|(node, _)| *node == id).map(|(_, pool)| pool);
        let (dials, dial_failures) = pool.map_or((0, 0), |pool| pool.dials());
        NodeFacts {
            address: settings.map(|node| format!("{}:{}", node.host, node.port)).unwrap_or_default(),
            server_version: self.shared.cluster.answer(id).map(|answer| answer.server_version),
            outstanding: pool.map_or(0, |pool| pool.load()),
            dials,
            dial_failures,
        }
    }

    fn pools(&self) -> Vec<PoolRow> {
        let mut rows = Vec::new();
        for (node, pool) in self.shared.pools.all() {
            rows.extend(pool.counts().into_iter().map(|(key, counts)| PoolRow {
                node,
                user: key.user,
                database: key.database,
                counts,
            }));
        }
        rows
    }

    fn held(&self) -> usize {
        self.shared.held().0
    }

    fn clients(&self) -> Vec<ClientRow> {
        let rows = self.shared.registry.rows().into_iter();
        rows.map(|row| ClientRow {
            pid: row.pid,
            user: row.info.user,
            database: row.info.database,
            address: row.info.address,
            application: row.info.application,
            since: row.info.since,
            node: row.node,
            pins: row.pins,
        })
        .collect()
    }

    fn servers(&self) -> Vec<ServerRow> {
        let leased = self.shared.registry.rows().into_iter().filter_map(|row| {
            Some(ServerRow {
                node: row.node?,
                user: row.info.user,
                database: row.info.database,
                state: ServerState::Leased(Some(row.pid)),
                backend: row.backend,
                age: None,
            })
        });
        let idle = self.pools().into_iter().flat_map(|pool| {
            let row = ServerRow {
                node: pool.node,
                user: pool.user,
                database: pool.database,
                state: ServerState::Idle,
                backend: None,
                age: None,
            };
            std::iter::repeat_n(row, pool.counts.idle)
        });
        leased.chain(idle).collect()
    }

    fn classify(&self, sql: &str, user: &str, database: &str) -> Explained {
        let (judged, search_path) = self.shared.verdicts(&Arc::from(database)).of_newcomer(sql.as_bytes(), user);
        Explained { classified: Classified::clone(&judged), search_path }
    }

    fn shapes(&self) -> Vec<ShapeRow> {
        let mut rows = Vec::new();
        for (database, kept) in self.shared.shapes() {
            let (offloaded, RunCount { statements, time }) = (kept.way == Way::Replica, kept.runs);
            let (outline, reason, object) = (kept.outline, kept.reason, kept.object);
            rows.push(ShapeRow { database, outline, offloaded, reason, statements, time, object });
        }
        rows
    }

    fn catalogues(&self) -> Vec<CatalogueRow> {
        let all = self.shared.catalogues.all().into_iter();
        let rows = all.map(|(database, known)| CatalogueRow {
            database: database.into(),
            size: known.read().size(),
            trouble: known.trouble(),
        });
        rows.collect()
    }

    fn service(&self) -> Service {
        if self.shared.shutdown.has_begun() || self.asked_to_stop.is_cancelled() {
            Service::Draining
        } else if self.shared.gate.state() == Passage::Closed {
            Service::Paused
        } else {
            Service::Running
        }
    }

    fn failover(&self) -> FailoverStatus {
        let status = self.failover.status();
        let trouble = self.shared.membership.get().and_then(|membership| membership.state().trouble);
        FailoverStatus {
            automatic: self.shared.config.load().failover.automatic,
            maintenance: status.maintenance,
            state: status.state.to_owned(),
            epoch: status.epoch,
            candidate: status.candidate,
            since: status.since.map(|since| since.elapsed()),
            last: status.last,
            reason: status.reason.or(trouble),
        }
    }

    fn instances(&self) -> Vec<InstanceRow> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let Some(membership) = self.shared.membership.get() else {
            let standing = InstanceStanding::Alone;
            let (name, address) = (Membership::host_name(), String::new());
            return vec![InstanceRow {
                number: None,
                name,
                address,
                version,
                acknowledged: 0,
                standing,
                is_this: true,
            }];
        };
        let State { view, session, .. } = membership.state();
        let leader = view.leader.as_ref().map(|leader| leader.number);
        let rows = view.instances.iter().map(|(&number, instance)| {
            let leads = leader == Some(number);
            let facts = instance.facts.clone();
            InstanceRow {
                number: Some(number.0),
                name: facts.name,
                address: facts.address,
                version: facts.version,
                acknowledged: facts.acknowledged,
                standing: if leads { InstanceStanding::Leader } else { InstanceStanding::Follower },
                is_this: session.is_some_and(|own| own.number == number),
            }
        });
        rows.collect()
    }

    fn lease(&self) -> Option<Duration> {
        self.shared.membership.get().map(|membership| membership.tenure().remaining())
    }

    fn perform(&self, action: Action) -> Performed<'_> {
        Box::pin(async move {
            match action {
                Action::Drain(node) => self.shared.cluster.drain(node),
                Action::Undrain(node) => self.shared.cluster.undrain(node),
                Action::Pause => return self.pause().await,
                Action::Resume => {
                    if self.shared.gate.set(Passage::Open) == Passage::Open {
                        return Err(Refused::State("pgpilot is not paused".to_owned()));
                    }
                }
                Action::Reload => return self.reload(),
                Action::Shutdown => self.asked_to_stop.cancel(),
                Action::Order(order) => {
                    let losses = match order {
                        Order::Switchover { .. } => self.state_on_primary(),
                        Order::Failover { .. } | Order::Maintenance(_) => None,
                    };
                    let said = self.failover.order(order).await.map_err(Refused::State)?;
                    return Ok(Outcome { notices: std::iter::once(said).chain(losses).collect() });
                }
            }
            Ok(Outcome::default())
        })
    }
}

/// The clients' connections, as changes of primary see them.
pub(super) struct Links(pub Arc<Shared>);

impl Connections for Links {
    fn sever(&self, node: NodeId) -> usize {
        self.turn_away(node);
        self.0.registry.sever(node)
    }

    fn busy(&self, node: NodeId) -> usize {
        // A lease is there before its client is entered as the one that works with it.
        let leased = usize::try_from(self.0.pools.leased(node)).unwrap_or(usize::MAX);
        let resting = self.0.registry.rows().iter().filter(|row| !row.working && row.node == Some(node)).count();
        leased.saturating_sub(resting)
    }

    fn at_work(&self, node: NodeId) -> HashMap<u32, String> {
        let working = self.0.registry.rows().into_iter().filter(|row| row.working && row.node == Some(node));
        let who = working.filter_map(|row| {
            let ClientInfo { user, database, application, .. } = &row.info;
            Some((row.backend?, format!("client {} ({user} in {database}, {application:?})", row.pid)))
        });
        who.collect()
    }

    fn hands_over(&self, node: NodeId, heir: Option<&str>) {
        let handover = heir.map(|heir| Arc::new(Handover { node, heir: heir.to_owned() }));
        self.0.handover.store(handover);
    }

    fn turn_away(&self, node: NodeId) {
        let pools = self.0.pools.all();
        pools.iter().filter(|(id, _)| *id == node).for_each(|(_, pool)| pool.clear());
    }
}

impl Operations {
    async fn pause(&self) -> Result<Outcome, Refused> {
        if self.shared.gate.set(Passage::Closed) == Passage::Closed {
            return Err(Refused::State("pgpilot is paused already".to_owned()));
        }
        let until = Instant::now() + PAUSE_WAIT;
        loop {
            let working = self.shared.registry.rows().iter().filter(|row| row.working).count();
            if working == 0 {
                return Ok(Outcome::default());
            }
            if Instant::now() >= until {
                let notice = format!("{working} clients are still in a transaction; new ones wait");
                return Ok(Outcome { notices: vec![notice] });
            }
            tokio::time::sleep(PAUSE_POLL).await;
        }
    }

    /// What sessions keep on the primary that no other server can be given, in words.
    fn state_on_primary(&self) -> Option<String> {
        let snapshot = self.shared.cluster.snapshot();
        let primary = snapshot.node(snapshot.primary?)?;
        let rows = self.shared.registry.rows();
        let held = rows.iter().filter(|row| row.node == Some(primary.id));
        let lost = |pin: &&Pin| !matches!(pin, Pin::SessionMode | Pin::SequenceState | Pin::Listen);
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        let mut sessions = 0;
        for row in held.filter(|row| row.pins.iter().any(|pin| lost(&pin))) {
            sessions += 1;
            row.pins.iter().filter(lost).for_each(|pin| *kinds.entry(pin.label()).or_default() += 1);
        }
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
        let text = format!("sessions that lose what they keep on {}: {sessions} ({})", primary.name, kinds.join(", "));
        (sessions > 0).then_some(text)
    }

    /// Reads the topology file again and takes over what can change while pgpilot runs.
    pub(super) fn reload(&self) -> Result<Outcome, Refused> {
        let Some(file) = &self.file else {
            return Err(Refused::State("there is no topology file to read again".to_owned()));
        };
        let config = Config::load(file).map_err(|problems| Refused::Config(problems.to_string()))?;
        let restart = self.shared.config.load().changes_needing_restart(&config);
        let mut notices: Vec<String> =
            restart.iter().map(|what| format!("a change of {what} needs a restart")).collect();
        notices.extend(config.warnings.iter().map(ToString::to_string));
        let (failover, log) = (failover::Settings::from(&config), config.log.clone());
        self.shared.reload(config).map_err(|error| Refused::Config(error.to_string()))?;
        if let Err(error) = logging::apply(&log) {
            notices.push(error.to_string());
        }
        self.failover.reload(failover);
        self.journal().note(Topic::Service, None, "the topology file was read again");
        Ok(Outcome { notices })
    }
}

/// The console's door.
pub(super) struct Door(pub Arc<Operations>);

impl Console for Door {
    fn serve(&self, visit: ConsoleVisit) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let ConsoleVisit { stream, input, user, level } = visit;
        let level = match level {
            ConsoleLevel::Admin => Level::Admin,
            ConsoleLevel::Reader => Level::Reader,
        };
        let who = ConsoleUser { name: user.into(), level };
        Box::pin(async move {
            let closing = self.0.shared.shutdown.begins();
            if let Err(error) = console::serve(stream, input, who, self.0.clone(), closing).await {
                tracing::info!(%error, "a console session ended");
            }
        })
    }
}
