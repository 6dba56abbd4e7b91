//! Statements of pgpilot's own in the midst of what a client sends: they are part of its transaction, and it hears nothing of them unless they fail.

use super::link::Link;
use super::statements::Statements;
use crate::decide::session::{Fate, Kind, Origin};
use crate::wire::frontend::{self, BindHead, Parse};

/// No client has a portal of this name.
const PORTAL: &[u8] = b"pgpilot_aside";

/// Prepares a statement by the protocol, under a name of the client's and without a Sync. Returns the message's number.
pub(super) fn prepare(link: &mut Link, statements: &Statements, name: &str, query: &[u8], types: &[u8]) -> u64 {
    // The server has it for this session alone: to others it is none that it knows.
    let id = statements.single(Origin::Parse { query: query.into(), types: types.into() }).id;
    Parse { name: name.as_bytes(), query, types }.put(&mut link.lease.output);
    link.dues.push(Kind::Parse(id), Fate::Us)
}

/// Runs a text in the extended protocol, without a Sync: should it fail, what follows is skipped. Returns the number of the message that runs it.
pub(super) fn run(link: &mut Link, statements: &Statements, text: &str) -> u64 {
    let parse = Parse { name: b"", query: text.as_bytes(), types: &[0, 0] };
    let id = statements.single(Origin::Parse { query: parse.query.into(), types: parse.types.into() }).id;
    let out = &mut link.lease.output;
    parse.put(out);
    BindHead::put(out, PORTAL, b"", 6);
    out.extend_from_slice(&[0; 6]);
    frontend::put_execute(out, PORTAL);
    frontend::put_portal_target(out, frontend::CLOSE, PORTAL);
    link.lease.unnamed = None;
    link.dues.push(Kind::Parse(id), Fate::Us);
    link.dues.push(Kind::Bind, Fate::Us);
    let number = link.dues.push(Kind::Execute, Fate::Us);
    link.dues.push(Kind::Close(None), Fate::Us);
    number
}
