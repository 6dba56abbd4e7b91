//! The HTTP endpoint.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::admin::Service;
use crate::admin::http::serve;
use crate::decide::route::State;

struct Endpoint {
    address: std::net::SocketAddr,
    fake: Arc<Fake>,
    _server: AbortOnDropHandle<std::convert::Infallible>,
}

impl Endpoint {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, fake) = (listener.local_addr().unwrap(), Fake::new());
        let server = AbortOnDropHandle::new(tokio::spawn(serve(listener, fake.clone())));
        Self { address, fake, _server: server }
    }

    /// Sends bytes and reads until the end.
    async fn raw(&self, request: &[u8]) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        // The server may refuse before it has read everything.
        let _ = socket.write_all(request).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await;
        (answer[9..12].parse().unwrap(), answer)
    }
}

#[tokio::test]
async fn every_page_answers_and_nothing_else_does() {
    let endpoint = Endpoint::start().await;
    assert_eq!(endpoint.get("/healthz").await.0, 200);
    assert_eq!(endpoint.get("/metrics/x").await.0, 404);
    let refused =
        endpoint.raw(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc").await;
    assert!(refused.starts_with("HTTP/1.1 405") && refused.contains("allow: GET, HEAD"), "{refused}");
    let head = endpoint.raw(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn the_metrics_tell_what_the_console_tells() {
    let endpoint = Endpoint::start().await;
    let (status, text) = endpoint.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        r#"pgpilot_pool_connections{node="pg2",user="<app>",database="db",state="idle"} 3"#,
        r#"pgpilot_pool_waiting{node="pg2",user="<app>",database="db"} 4"#,
        r#"pgpilot_replica_lag_seconds{node="pg2"} 0.002"#,
        r#"pgpilot_replica_lag_bytes{node="pg3"} 9000000"#,
        r#"pgpilot_node_role{node="pg1",role="primary"} 1"#,
        r#"pgpilot_node_role{node="pg2",role="primary"} 0"#,
        r#"pgpilot_node_takes_reads{node="pg3"} 0"#,
        r#"pgpilot_dials_total{node="pg1",result="failed"} 2"#,
        r#"pgpilot_pinned_sessions{cause="listen"} 1"#,
        r#"pgpilot_pinned_sessions{cause="session_mode"} 0"#,
        "pgpilot_epoch 7",
        "pgpilot_clients 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(!text.contains(r#"lag_seconds{node="pg1"}"#), "a primary has no lag");
    for metric in crate::telemetry::names::ALL.iter().filter(|metric| metric.name != "pgpilot_statements_total") {
        assert!(text.contains(&format!("# HELP {} {}", metric.name, metric.help)), "{} in\n{text}", metric.name);
    }
    // A removed node leaves no series behind.
    endpoint.fake.snapshot.lock().unwrap().nodes[2].state = State::Removed;
    assert!(!endpoint.get("/metrics").await.1.contains("pg3"));
}

#[tokio::test]
async fn ready_means_that_someone_can_be_served() {
    let endpoint = Endpoint::start().await;
    assert_eq!(endpoint.get("/readyz").await.0, 200);
    *endpoint.fake.service.lock().unwrap() = Service::Draining;
    assert_eq!(endpoint.get("/readyz").await.0, 503);
    *endpoint.fake.service.lock().unwrap() = Service::Running;
    for node in &mut endpoint.fake.snapshot.lock().unwrap().nodes {
        node.state = State::Down;
    }
    assert_eq!(endpoint.get("/readyz").await.0, 503);
    assert_eq!(endpoint.get("/healthz").await.0, 200);
    endpoint.fake.snapshot.lock().unwrap().nodes[2].state = State::Up;
    assert_eq!(endpoint.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn the_page_shows_what_others_named_as_text() {
    let endpoint = Endpoint::start().await;
    let (status, page) = endpoint.get("/").await;
    assert_eq!(status, 200);
    for part in ["pg1", "16/100", "&lt;app&gt;", "content-security-policy: default-src 'none'"] {
        assert!(page.contains(part), "{part} in\n{page}");
    }
    assert!(!page.contains("<app>") && !page.contains("<script"));
}

#[tokio::test]
async fn oversized_requests_are_refused() {
    let endpoint = Endpoint::start().await;
    let mut request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ".to_vec();
    request.resize(64 << 10, b'x');
    let answer = endpoint.raw(&request).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}
