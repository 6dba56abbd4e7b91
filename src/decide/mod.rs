//! What pgpilot decides, as pure code: the time is an argument, the dice are an argument, nothing here awaits or locks.

pub mod auth;
pub mod failover;
pub mod health;
pub mod pool;
pub mod position;
pub mod route;
pub mod session;
pub mod sql;
