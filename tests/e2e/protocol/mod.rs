//! The protocol, to the byte.

mod play;
mod same;
mod script;
