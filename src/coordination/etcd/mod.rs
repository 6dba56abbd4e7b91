//! A small client of etcd, by its JSON gateway.

mod http;
mod messages;

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use http::EtcdError;
pub(in crate::coordination) use messages::{Condition, KeyValue};

use crate::config::{Coordination, Secret};
use crate::net::tls::TlsError;
use http::{Http, Lines};
use messages::{Grant, HappeningKind, Range, Streamed, Token, Txn, Watched, all_with, delete, put};

/// gRPC's code for a login that does not hold any more.
const UNAUTHENTICATED: u32 = 16;

/// The members of one etcd cluster. A request that fails may have been carried out.
pub(in crate::coordination) struct Etcd {
    http: Http,
    login: Option<(String, Secret)>,
    token: Mutex<Option<String>>,
}

/// Keys with a common prefix, as they were in `revision`.
pub(in crate::coordination) struct Keys {
    pub revision: i64,
    pub all: Vec<KeyValue>,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::coordination) enum Change {
    Put(KeyValue),
    Deleted { key: Vec<u8>, revision: i64 },
}

impl Change {
    /// The one that it brought about.
    pub(in crate::coordination) fn revision(&self) -> i64 {
        match self {
            Self::Put(pair) => pair.mod_revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// Changes as they happen.
pub(in crate::coordination) struct Watch(Lines);

/// Whether a transaction's conditions held; if not, nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::coordination) enum Verdict {
    /// In this revision.
    Written(i64),
    Unmet,
}

impl Etcd {
    /// # Errors
    /// TLS files that cannot be used.
    pub(in crate::coordination) fn new(settings: &Coordination) -> Result<Self, TlsError> {
        let login = settings.user.clone().zip(settings.password.clone());
        Ok(Self { http: Http::new(settings)?, login, token: Mutex::default() })
    }

    /// The address of this host from which etcd was reached last.
    pub(in crate::coordination) fn local(&self) -> Option<IpAddr> {
        self.http.local()
    }

    /// A new lease, and for how long it was granted, from some time after the call on.
    ///
    /// # Errors
    /// Nobody answers in time.
    pub(in crate::coordination) async fn grant(
        &self,
        ttl: Duration,
        limit: Duration,
    ) -> Result<(i64, Duration), EtcdError> {
        let grant: Grant = self.ask("/v3/lease/grant", &json!({ "TTL": ttl.as_secs().to_string() }), limit).await?;
        Ok((grant.id, seconds(grant.ttl)))
    }

    /// For how long the lease is good again, from some time after the call on; `None`: it has ended.
    ///
    /// # Errors
    /// Nobody answers in time.
    pub(in crate::coordination) async fn keep_alive(
        &self,
        lease: i64,
        limit: Duration,
    ) -> Result<Option<Duration>, EtcdError> {
        let body = json!({ "ID": lease.to_string() });
        let renewed: Streamed<Grant> = self.ask("/v3/lease/keepalive", &body, limit).await?;
        Ok((renewed.result.ttl > 0).then(|| seconds(renewed.result.ttl)))
    }

    /// Ends a lease, and with it the keys that live by it.
    ///
    /// # Errors
    /// Nobody answers in time, or it has ended already.
    pub(in crate::coordination) async fn revoke(&self, lease: i64, limit: Duration) -> Result<(), EtcdError> {
        self.ask::<Value>("/v3/lease/revoke", &json!({ "ID": lease.to_string() }), limit).await.map(drop)
    }

    /// All keys that begin with `prefix`: everything that was acknowledged to anybody before is there.
    ///
    /// # Errors
    /// Nobody answers in time.
    pub(in crate::coordination) async fn keys(&self, prefix: &str, limit: Duration) -> Result<Keys, EtcdError> {
        let (key, end) = all_with(prefix);
        let range: Range = self.ask("/v3/kv/range", &json!({ "key": key, "range_end": end }), limit).await?;
        Ok(Keys { revision: range.header.revision, all: range.kvs })
    }

    /// Writes one key, if all conditions hold. `lease`: what it lives as long as; 0: nothing.
    ///
    /// # Errors
    /// Nobody answers in time; it may have been written.
    pub(in crate::coordination) async fn write(
        &self,
        conditions: &[Condition<'_>],
        key: &str,
        value: &[u8],
        lease: i64,
        limit: Duration,
    ) -> Result<Verdict, EtcdError> {
        let compare: Vec<Value> = conditions.iter().map(|condition| condition.json()).collect();
        let body = json!({ "compare": compare, "success": [{ "request_put": put(key, value, lease) }] });
        let txn: Txn = self.ask("/v3/kv/txn", &body, limit).await?;
        Ok(if txn.succeeded { Verdict::Written(txn.header.revision) } else { Verdict::Unmet })
    }

    /// Removes one key, if all conditions hold.
    ///
    /// # Errors
    /// Nobody answers in time; it may have been removed.
    pub(in crate::coordination) async fn remove(
        &self,
        conditions: &[Condition<'_>],
        key: &str,
        limit: Duration,
    ) -> Result<(), EtcdError> {
        let compare: Vec<Value> = conditions.iter().map(|condition| condition.json()).collect();
        let body = json!({ "compare": compare, "success": [{ "request_delete_range": delete(key) }] });
        self.ask::<Txn>("/v3/kv/txn", &body, limit).await.map(drop)
    }

    /// What happens to the keys that begin with `prefix`, from this revision on.
    ///
    /// # Errors
    /// Nobody answers in time.
    pub(in crate::coordination) async fn watch(
        &self,
        prefix: &str,
        from: i64,
        limit: Duration,
    ) -> Result<Watch, EtcdError> {
        let (key, end) = all_with(prefix);
        let body = json!({ "create_request": { "key": key, "range_end": end, "start_revision": from.to_string() } });
        let body = Bytes::from(body.to_string());
        let token = self.token(limit).await?;
        Ok(Watch(self.http.stream("/v3/watch", &body, token.as_deref(), limit).await?))
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, body: &Value, limit: Duration) -> Result<T, EtcdError> {
        let body = Bytes::from(body.to_string());
        let token = self.token(limit).await?;
        let answer = match self.http.post(path, &body, token.as_deref(), limit).await {
            Err(EtcdError::Refused { code: UNAUTHENTICATED, .. }) if token.is_some() => {
                *self.lock() = None;
                let token = self.token(limit).await?;
                self.http.post(path, &body, token.as_deref(), limit).await?
            }
            answer => answer?,
        };
        // A stream of one answer is a line.
        serde_json::from_slice(&answer).map_err(|error| EtcdError::Malformed(error.to_string()))
    }

    /// What a login has brought; `None`: there is no login.
    async fn token(&self, limit: Duration) -> Result<Option<String>, EtcdError> {
        let Some((name, password)) = &self.login else { return Ok(None) };
        let known = self.lock().clone();
        if known.is_some() {
            return Ok(known);
        }
        let body = Bytes::from(json!({ "name": name, "password": password.expose() }).to_string());
        let answer = self.http.post("/v3/auth/authenticate", &body, None, limit).await?;
        let Token { token } =
            serde_json::from_slice(&answer).map_err(|error| EtcdError::Malformed(error.to_string()))?;
        *self.lock() = Some(token.clone());
        Ok(Some(token))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// The next changes, in order. All of one revision come together.
    ///
    /// # Errors
    /// The connection is lost, or etcd has ended the watch: what happens from now on has to be found out anew.
    ///
    /// # Cancel safety
    /// Safe.
    pub(in crate::coordination) async fn next(&mut self) -> Result<Vec<Change>, EtcdError> {
        let ended = || EtcdError::Unreachable("etcd has ended the watch".to_owned());
        let line = self.0.next().await?.ok_or_else(ended)?;
        let watched: Streamed<Watched> =
            serde_json::from_slice(&line).map_err(|error| EtcdError::Malformed(error.to_string()))?;
        let Watched { canceled, events } = watched.result;
        if canceled {
            return Err(ended());
        }
        let changes = events.into_iter().map(|happening| match happening.kind {
            HappeningKind::Put => Change::Put(happening.kv),
            HappeningKind::Delete => Change::Deleted { key: happening.kv.key, revision: happening.kv.mod_revision },
        });
        Ok(changes.collect())
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or_default())
}
