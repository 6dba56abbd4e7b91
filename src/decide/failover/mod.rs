//! When a replica becomes the primary, and how: the failover and the switchover state machines.
//!
//! [`Machine`] is told what the cluster looks like ([`World`]), what became of the jobs that it gave out, and what
//! operators ask for ([`Order`]). It answers with what is to be written down first ([`Record`]), which jobs are to be
//! done then, and where statements go meanwhile. Of several instances one decides; the machines of the others `follow`. `elect` says who may be promoted; `synchronous` which commits are safe.

mod change;
mod clock;
pub mod conninfo;
mod detection;
mod elect;
mod event;
mod follow;
mod machine;
mod order;
mod ordered;
mod promotion;
mod record;
mod repair;
mod sight;
#[cfg(test)]
mod simulation;
mod suspicion;
mod synchronous;
#[cfg(test)]
mod tests;
mod waking;
mod world;

pub use clock::WallClock;
pub use detection::Pace;
pub use elect::Unelectable;
pub use event::{Actions, Ended, Event, Fact, Job, Note, Outcome, Proof, Purpose, Routing, Severity, Ticket, Writing};
pub use machine::{Machine, Rules, Status};
pub use order::{Guards, Maintenance, Order, Run};
pub use record::{Progress, Record};
pub use sight::{Darkness, Sight, stands_back};
pub use synchronous::Synchronous;
pub use world::{Applies, Contact, Hearing, History, Log, Member, Profile, Tail, World, Zone};
