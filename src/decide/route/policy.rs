//! What the settings say about routes, for one user in one database.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Consistency, Database, OnAllLagging, Routing, User};

/// The routing settings that apply to a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub consistency: Consistency,
    pub on_all_lagging: OnAllLagging,
    /// How long a read may wait for a replica before it goes to the primary.
    pub replica_wait: Duration,
    /// How long a statement waits for a primary.
    pub primary_wait: Duration,
    pub reads_on_primary: bool,
    /// Replicas of this zone are preferred.
    pub zone: Option<Arc<str>>,
}

impl Policy {
    /// What is said of the user goes before what is said of the database, and that before what is said of all.
    pub fn new(routing: &Routing, user: Option<&User>, database: Option<&Database>) -> Self {
        let consistency = user
            .and_then(|user| user.consistency)
            .or_else(|| database.and_then(|database| database.consistency))
            .unwrap_or(routing.consistency);
        Self {
            consistency,
            on_all_lagging: routing.on_all_lagging,
            replica_wait: routing.replica_wait,
            primary_wait: routing.primary_wait,
            reads_on_primary: routing.reads_on_primary,
            zone: routing.zone.as_deref().map(Arc::from),
        }
    }
}
