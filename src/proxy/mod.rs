//! A client's life, in the order of the files: `accept`, `handshake`, then [`client`]'s one loop: gather a batch, route it, lease a server connection, forward,
//! exchange, settle.

mod accept;
mod assess;
mod batch;
mod cancel;
mod client;
mod contexts;
mod deallocate;
mod dispatch;
mod ending;
mod exchange;
mod fault;
mod forward;
mod gate;
mod handshake;
mod hold;
mod judged;
mod large;
mod link;
mod loss;
mod names;
mod own;
mod recent;
mod recipe;
mod registry;
mod reword;
mod scan;
mod sequences;
mod session;
mod settle;
mod shared;
mod shutdown;
mod statements;
mod verdicts;
mod verifiers;
mod vigil;
mod welcome;

pub use accept::{Listener, serve};
pub use gate::{Gate, Passage};
pub use hold::HoldError;
pub use judged::{Judged, RunCount};
pub use recipe::{CatalogueRecipe, Loaded};
pub use registry::{ClientInfo, ClientRow, Registry};
pub use shared::{Console, ConsoleLevel, ConsoleVisit, Pools, SetupError, Shared};
pub use shutdown::Shutdown;
pub use verdicts::{ShapeRow, Verdicts};
