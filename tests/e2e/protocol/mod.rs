//! The protocol, to the byte.

mod cuts;
mod play;
mod same;
mod script;
