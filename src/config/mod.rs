//! The topology file: as written (TOML, unknown keys refused), then resolved, with every problem reported at once.

mod resolved;
mod units;

pub use resolved::*;
pub use units::{ByteSize, NodeName, Secret};
