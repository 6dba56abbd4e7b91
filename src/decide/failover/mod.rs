//! When a replica becomes the primary, and how: the failover and the switchover state machines.

mod order;

pub use order::{Guards, Maintenance, Order, Run};
