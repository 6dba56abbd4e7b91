//! Who may connect, and the proof of it: host-based rules, SCRAM-SHA-256 in both roles, md5.
//!
//! Two machines, driven with message bodies by whoever owns the socket:
//!
//! - [`ClientAuth`] plays the server towards a client: [`ClientAuth::begin`], send the [`AuthRequest`], give each
//!   `p` message's body to [`ClientAuth::on_response`], until [`Next::Done`] hands over the [`Credential`] with which
//!   pgpilot logs in to the servers as this user.
//! - [`ServerLogin`] plays the client towards a server: give each `R` message's body to [`ServerLogin::on_request`],
//!   send what it returns, until [`LoginStep::Done`].
//!
//! A user that has only a SCRAM verifier can still be logged in to the servers: the client's proof reveals its
//! `ClientKey`, and a server that holds the same verifier accepts a proof made from that key.
//!
//! Randomness is an argument everywhere: [`Random`] for one exchange, [`MockSecret`] for the life of the process.

mod client_auth;
mod credential;
mod error;
mod md5;
mod request;
mod rules;
mod saslprep;
mod scram;
mod server_login;
#[cfg(test)]
mod tests;
mod verifier;

pub use client_auth::{Begin, ClientAuth, MAX_RESPONSE, Next, Random, check_certificate};
pub use credential::{Credential, ScramKeys};
pub use error::{AuthError, FailedBecause, LoginError};
pub use md5::Md5Hash;
pub use request::{AuthRequest, MalformedRequest};
pub use rules::{Encryption, Origin, Peer, admit, decide};
pub use server_login::{LoginStep, ServerLogin};
pub use verifier::{DEFAULT_ITERATIONS, MockSecret, NotAVerifier, ScramVerifier, Verifier};
