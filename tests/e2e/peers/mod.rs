//! What comparable systems get wrong: writes that look like reads, pipelines, state that leaks between clients, stale reads, servers that go and come.

mod cancelling;
mod failing_over;
mod freshness;
mod leaks;
mod limits;
mod losing_servers;
mod pipelines;
mod prepared;
mod sessions;
mod statements;
