//! The topology file: as written (TOML, unknown keys refused), then resolved, with every problem reported at once.
//!
//! In reading order: `written` declares every section and key (with `section`, `scope`, `value` and `scalar` as its vocabulary),
//! `load` reads a file, `resolve` turns it into the settings of `resolved`, `checks` finds what contradicts itself,
//! `problem` collects what is wrong, and `reference` writes the sample and the documentation from the declarations.

mod checks;
mod files;
mod lag;
mod load;
mod passwords;
mod problem;
mod reference;
mod resolve;
mod resolved;
mod scalar;
mod scope;
mod section;
#[cfg(test)]
mod tests;
mod units;
mod value;
mod written;

pub use lag::{ByteLimits, LagLimits};
pub use problem::{Position, Problem, Problems, Warning};
pub use reference::{reference, sample};
pub use resolved::*;
pub use units::{ByteSize, NodeName, NotAQuantity, Secret, parse_duration, show_duration};
