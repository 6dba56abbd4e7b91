//! The tables of SHOW.

mod counts;
mod failover;
mod instances;
mod nodes;
mod pools;
mod routes;
mod service;
mod sessions;
mod settings;

pub use failover::FAILOVER_AT_A_GLANCE;
pub(super) use nodes::{millis, present, takes_reads};
pub(super) use service::utc;

use super::sources::Sources;
use super::table::{Column, Table};
use crate::decide::route::{NodeId, Snapshot};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Nodes,
    Pools,
    Clients,
    Servers,
    Stats,
    Lag,
    Config,
    Routes,
    Reasons,
    Catalogues,
    Pins,
    Failover,
    Instances,
    Events,
    Version,
    Help,
}

impl View {
    pub(super) const ALL: [View; 16] = [
        View::Nodes,
        View::Pools,
        View::Clients,
        View::Servers,
        View::Stats,
        View::Lag,
        View::Config,
        View::Routes,
        View::Reasons,
        View::Catalogues,
        View::Pins,
        View::Failover,
        View::Instances,
        View::Events,
        View::Version,
        View::Help,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Pools => "pools",
            Self::Clients => "clients",
            Self::Servers => "servers",
            Self::Stats => "stats",
            Self::Lag => "lag",
            Self::Config => "config",
            Self::Routes => "routes",
            Self::Reasons => "reasons",
            Self::Catalogues => "catalogues",
            Self::Pins => "pins",
            Self::Failover => "failover",
            Self::Instances => "instances",
            Self::Events => "events",
            Self::Version => "version",
            Self::Help => "help",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|view| view.name() == name)
    }

    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            Self::Nodes => nodes::NODES,
            Self::Lag => nodes::LAG,
            Self::Pools => pools::POOLS,
            Self::Servers => pools::SERVERS,
            Self::Clients => sessions::CLIENTS,
            Self::Pins => sessions::PINS,
            Self::Stats => counts::STATS,
            Self::Routes => routes::ROUTES,
            Self::Reasons => counts::REASONS,
            Self::Catalogues => routes::CATALOGUES,
            Self::Config => settings::CONFIG,
            Self::Failover => failover::FAILOVER,
            Self::Instances => instances::INSTANCES,
            Self::Events => service::EVENTS,
            Self::Version => service::VERSION,
            Self::Help => service::HELP,
        }
    }

    pub(super) fn table(self, sources: &dyn Sources) -> Table {
        let rows = match self {
            Self::Nodes => nodes::nodes(sources),
            Self::Lag => nodes::lag(sources),
            Self::Pools => pools::pools(sources),
            Self::Servers => pools::servers(sources),
            Self::Clients => sessions::clients(sources),
            Self::Pins => sessions::pins(sources),
            Self::Stats => counts::stats(sources),
            Self::Routes => routes::routes(sources),
            Self::Reasons => counts::reasons(sources),
            Self::Catalogues => routes::catalogues(sources),
            Self::Config => settings::config(&sources.config()),
            Self::Failover => failover::failover(sources),
            Self::Instances => instances::instances(sources),
            Self::Events => service::events(sources),
            Self::Version => service::version(sources),
            Self::Help => service::help(),
        };
        debug_assert!(rows.iter().all(|row| row.len() == self.columns().len()), "{}", self.name());
        Table { columns: self.columns(), rows }
    }
}

/// A node's name; a number that the snapshot does not know, yet or any more, is shown as such.
pub(super) fn node_name(snapshot: &Snapshot, id: NodeId) -> String {
    snapshot.node(id).map_or_else(|| format!("#{}", id.0), |node| node.name.to_string())
}
