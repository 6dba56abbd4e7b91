//! The HTTP endpoint: `/metrics`, `/healthz`, `/readyz`, and the status page at `/`.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::exposition;
use super::page;
use super::readiness::{Readiness, readiness};
use super::sources::Sources;

/// Connections at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// A request's line and headers; hyper's own minimum. Bodies are never read.
const MAX_REQUEST: usize = 8 << 10;
/// From the first byte of a request to the end of its headers, and between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection lives so long at most, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// After an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until it is dropped, and its connections with it.
///
/// # Cancel safety
/// Dropped, it closes its connections.
pub async fn serve(listener: TcpListener, sources: Arc<dyn Sources>) -> Infallible {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = reap(&mut connections) => unreachable!("reaping goes on"),
        };
        match accepted {
            Ok((socket, _)) => {
                let sources = Arc::clone(&sources);
                connections.spawn(async move {
                    connection(socket, sources).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the HTTP endpoint cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Forgets connections that have ended.
async fn reap(connections: &mut JoinSet<()>) {
    loop {
        if connections.join_next().await.is_none() {
            pending::<()>().await;
        }
    }
}

async fn connection(socket: TcpStream, sources: Arc<dyn Sources>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &*sources);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_REQUEST)
        .serve_connection(TokioIo::new(socket), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        tracing::debug!(%error, "a connection to the HTTP endpoint ended");
    }
}

fn answer(method: &Method, path: &str, sources: &dyn Sources) -> Response<Full<Bytes>> {
    let known = matches!(path, "/" | "/metrics" | "/healthz" | "/readyz");
    if !known {
        return response(StatusCode::NOT_FOUND, TEXT, "not found\n");
    }
    // hyper leaves the body of an answer to HEAD away by itself.
    if method != Method::GET && method != Method::HEAD {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/metrics" => response(StatusCode::OK, METRICS, exposition::metrics(sources)),
        "/healthz" => response(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => match readiness(sources) {
            Readiness::Ready => response(StatusCode::OK, TEXT, "ready\n"),
            Readiness::NotReady(why) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {why}\n")),
        },
        _ => {
            let mut page = response(StatusCode::OK, HTML, page::page(sources));
            let policy = HeaderValue::from_static(page::SECURITY_POLICY);
            page.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
            page
        }
    }
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
