//! Routing beside PostgreSQL itself: what pgpilot says of a text, and what a primary and its standby do with it.

mod corpus;
mod hidden;
mod judge;
mod large;
mod lockstep;
mod overloads;
mod paths;
mod script;
mod session;
mod shown;
mod strangers;
mod suite;
mod tally;
mod texts;
