//! Who gets a server connection, who waits, which one is closed.
