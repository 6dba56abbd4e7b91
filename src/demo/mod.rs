//! Throwaway PostgreSQL clusters: a real primary and real streaming replicas, made in about a second and removed
//! without trace, for `pgpilot demo`, the tests and the benches.
//!
//! - [`cluster`]: [`LocalCluster`], the whole of it; [`builder`] says what it shall be.
//! - [`node`]: [`Node`], one server: start, stop, kill, freeze; [`control`] talks SQL to it.
//! - [`replication`]: promote, repoint, rejoin, waiting for followers.
//! - [`hooks`]: the hooks that pgpilot runs in a failover.
//! - [`settings`]: the configuration files; [`template`]: the data directory that clusters are copied from.
//! - [`binaries`], [`account`]: what runs, and as whom.
//! - [`home`], [`guard`]: where it lives, and who cleans up when this process is gone.
//!
//! Nothing outlives the process: each cluster has a guard process that ends its servers and removes its directory as
//! soon as the pipe from this process closes, whether by `Drop`, by the end of the process, by a panic or by SIGKILL.

pub mod account;
pub mod binaries;
pub mod builder;
pub mod cluster;
pub mod control;
mod copy;
pub mod error;
mod guard;
mod home;
pub mod hooks;
pub mod node;
mod port;
pub mod processes;
pub mod replication;
mod settings;
mod template;
pub mod wait;

pub use binaries::{Binaries, Version};
pub use builder::{Builder, Durability, Passwords, Tls, User};
pub use cluster::LocalCluster;
pub use error::Error;
pub use hooks::Hooks;
pub use node::{Node, Stop};
pub use processes::Scope;
