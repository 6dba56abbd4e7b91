//! The bodies of etcd's JSON gateway (etcd documentation, "gRPC gateway"; `rpc.proto`): 64-bit numbers are text, keys and
//! values are Base64, and what is zero is left out.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Header {
    #[serde(default, deserialize_with = "number")]
    pub revision: i64,
}

/// A key with its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(in crate::coordination) struct KeyValue {
    #[serde(deserialize_with = "text")]
    pub key: Vec<u8>,
    #[serde(default, deserialize_with = "text")]
    pub value: Vec<u8>,
    #[serde(default, deserialize_with = "number")]
    pub create_revision: i64,
    #[serde(default, deserialize_with = "number")]
    pub mod_revision: i64,
    /// 0: none.
    #[serde(default, deserialize_with = "number")]
    pub lease: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Range {
    pub header: Header,
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Grant {
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: i64,
    #[serde(default, rename = "TTL", deserialize_with = "number")]
    pub ttl: i64,
}

/// What comes on a stream is wrapped.
#[derive(Debug, Deserialize)]
pub(super) struct Streamed<T> {
    pub result: T,
}

#[derive(Debug, Deserialize)]
pub(super) struct Txn {
    pub header: Header,
    #[serde(default)]
    pub succeeded: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Token {
    pub token: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Watched {
    #[serde(default)]
    pub canceled: bool,
    #[serde(default)]
    pub events: Vec<Happening>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Happening {
    #[serde(default, rename = "type")]
    pub kind: HappeningKind,
    pub kv: KeyValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) enum HappeningKind {
    #[default]
    #[serde(rename = "PUT")]
    Put,
    #[serde(rename = "DELETE")]
    Delete,
}

/// What a transaction depends on.
#[derive(Debug, Clone, Copy)]
pub(in crate::coordination) enum Condition<'a> {
    /// The key was made in this revision; 0: it is not there.
    Created(&'a str, i64),
    /// .. was written last in this revision.
    Written(&'a str, i64),
}

impl Condition<'_> {
    pub(super) fn json(self) -> Value {
        match self {
            Self::Created(key, revision) => json!({
                "target": "CREATE", "result": "EQUAL", "key": encode(key), "create_revision": revision.to_string(),
            }),
            Self::Written(key, revision) => json!({
                "target": "MOD", "result": "EQUAL", "key": encode(key), "mod_revision": revision.to_string(),
            }),
        }
    }
}

/// `lease`: what the key lives as long as; 0: nothing.
pub(super) fn put(key: &str, value: &[u8], lease: i64) -> Value {
    json!({ "key": encode(key), "value": STANDARD.encode(value), "lease": lease.to_string() })
}

pub(super) fn delete(key: &str) -> Value {
    json!({ "key": encode(key) })
}

/// `key` and `range_end` of all keys that begin with `prefix`: up to the first that is greater than all of these.
pub(super) fn all_with(prefix: &str) -> (String, String) {
    let mut end = prefix.as_bytes().to_vec();
    // In UTF-8 no byte is 0xff.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (encode(prefix), STANDARD.encode(end))
}

pub(super) fn encode(text: impl AsRef<[u8]>) -> String {
    STANDARD.encode(text)
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => i64::from_str(&text).map_err(serde::de::Error::custom),
        Value::Number(number) => number.as_i64().ok_or_else(|| serde::de::Error::custom("a 64-bit number")),
        _ => Err(serde::de::Error::custom("a number")),
    }
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let encoded = String::deserialize(deserializer)?;
    STANDARD.decode(encoded).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_etcd_sends() {
        let range = r#"{"header":{"cluster_id":"32","revision":"9","raft_term":"2"},"kvs":[{"key":"L3AvYQ==",
            "create_revision":"2","mod_revision":"3","version":"1","value":"YQ==","lease":"2324035525475182087"}],"count":"1"}"#;
        let range: Range = serde_json::from_str(range).unwrap();
        let (key, value) = (b"/p/a".to_vec(), b"a".to_vec());
        let one = KeyValue { key, value, create_revision: 2, mod_revision: 3, lease: 2_324_035_525_475_182_087 };
        assert_eq!((range.header.revision, range.kvs), (9, vec![one]));
        // A lease that is gone has no time to live.
        let gone: Streamed<Grant> =
            serde_json::from_str(r#"{"result":{"header":{"revision":"2"},"ID":"77"}}"#).unwrap();
        assert_eq!((gone.result.id, gone.result.ttl), (77, 0));
        let deleted = r#"{"result":{"header":{"revision":"4"},"events":[{"type":"DELETE","kv":{"key":"YQ==","mod_revision":"4"}}]}}"#;
        let deleted: Streamed<Watched> = serde_json::from_str(deleted).unwrap();
        assert_eq!(deleted.result.events[0].kind, HappeningKind::Delete);
    }

    #[test]
    fn a_prefix_ends_where_its_keys_end() {
        assert_eq!(all_with("/p/"), (encode("/p/"), encode("/p0")));
    }
}
