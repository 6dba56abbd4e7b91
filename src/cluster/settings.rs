//! The part of the settings that the probes need.

use crate::config::{Config, Health, Node};
use crate::decide::health::Limits;

/// What is watched, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub nodes: Vec<Node>,
    pub health: Health,
    pub limits: Limits,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let limits = Limits { failures: config.health.failures };
        Self { nodes: config.nodes.clone(), health: config.health.clone(), limits }
    }
}
