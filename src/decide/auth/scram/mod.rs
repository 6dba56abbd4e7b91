//! SCRAM-SHA-256 (RFC 5802, RFC 7677): the arithmetic, and a machine for each role.

mod attributes;
mod client;
mod server;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::credential::ScramKeys;
use super::saslprep;

pub(super) use attributes::iteration_count;
pub(super) use client::{AwaitServerFinal, AwaitServerFirst, ChannelSupport, Secret};
pub(super) use server::{AwaitClientFinal, AwaitClientFirst, Binding, Verdict};

pub(super) const MECHANISM: &str = "SCRAM-SHA-256";
pub(super) const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// The gs2 header of an exchange bound to the server's certificate (RFC 5929 section 4).
const GS2_END_POINT: &[u8] = b"p=tls-server-end-point,,";
/// Random bytes in a nonce, before base64 (PostgreSQL's `SCRAM_RAW_NONCE_LEN`).
pub(super) const NONCE: usize = 18;
/// The most iterations that pgpilot computes because a server says so: about half a second.
pub(super) const MAX_ITERATIONS: u32 = 1_000_000;

/// 32 secret bytes, wiped when dropped, compared in constant time.
#[derive(Clone)]
pub(crate) struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// `StoredKey := H(ClientKey)`
    pub(super) fn hash(&self) -> Self {
        Self::from(<[u8; 32]>::from(Sha256::digest(*self.0)))
    }

    fn hmac(&self, parts: &[&[u8]]) -> Self {
        Self::from(hmac(&*self.0, parts))
    }

    /// `ClientProof := ClientKey XOR ClientSignature`, and the way back.
    fn xor(&self, other: &Self) -> Self {
        let mut result = self.clone();
        result.0.iter_mut().zip(*other.0).for_each(|(a, b)| *a ^= b);
        result
    }

    fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Key {
    fn from(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for Key {}

/// The keys of a password, which is prepared first. Takes `iterations` times two hash blocks.
///
/// # Panics
/// If `iterations` is 0.
pub(super) fn derive(password: &str, salt: &[u8], iterations: u32) -> ScramKeys {
    assert!(iterations > 0, "the result of no iteration is not a key");
    let salted = salted_password(saslprep::prepare(password).as_bytes(), salt, iterations);
    ScramKeys {
        salt: salt.into(),
        iterations,
        client_key: salted.hmac(&[b"Client Key"]),
        server_key: salted.hmac(&[b"Server Key"]),
    }
}

/// `Hi()` of RFC 5802: PBKDF2 with HMAC-SHA-256 and one block.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let mac = keyed(password);
    let mut last = mac.clone().chain_update(salt).chain_update(1_u32.to_be_bytes()).finalize().into_bytes();
    let mut sum = Key::from(<[u8; 32]>::from(last));
    for _ in 1..iterations {
        last = mac.clone().chain_update(last).finalize().into_bytes();
        sum.0.iter_mut().zip(last).for_each(|(a, b)| *a ^= b);
    }
    sum
}

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(keyed(key), |mac, part| mac.chain_update(part)).finalize().into_bytes().into()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}
