//! A client's life, in the order of the files: `accept`, `handshake`, then [`client`]'s one loop: gather a batch, route it, lease a server connection, forward,
//! exchange, settle.

mod accept;
mod assess;
mod batch;
mod client;
mod exchange;
mod fault;
mod forward;
mod handshake;
mod large;
mod link;
mod own;
mod registry;
mod scan;
mod settle;
mod shared;
mod statements;
mod verdicts;
mod verifiers;

pub use accept::serve;
pub use registry::{ClientInfo, Registry};
pub use shared::{Pools, Shared};
pub use verdicts::Verdicts;
