//! Who gets a server connection, who waits, which one is closed.

mod book;

pub use book::{Actions, Asked, Book, Limits, PoolCounts, PoolIndex, Ticket};
