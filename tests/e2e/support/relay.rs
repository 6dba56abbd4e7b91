//! A relay between two ends of a TCP connection, which delays or cuts it at will: a network for which nobody has to be root.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Ends with its last handle; connections through it end, too.
pub(crate) struct Relay {
    port: u16,
    wire: Arc<Wire>,
    accepting: JoinHandle<()>,
}

struct Wire {
    target: AtomicU16,
    delay_ms: AtomicU64,
    open: AtomicBool,
    /// Of what a far end sends on one connection, no more bytes go on.
    replies: AtomicU64,
    /// Counts the cuts: connections of an earlier one end.
    cuts: watch::Sender<u64>,
    tap: Tap,
    /// What each connection's near end has sent, in the order of the connections' beginnings.
    sent: Mutex<Vec<Vec<u8>>>,
}

/// Whether what passes is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tap {
    Off,
    On,
}

impl Relay {
    /// Listens on a port of its own; connections go on to `target` on this machine.
    pub(crate) async fn start(target: u16) -> Self {
        Self::tapped(target, Tap::Off).await
    }

    pub(crate) async fn tapped(target: u16, tap: Tap) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let wire = Arc::new(Wire {
            target: AtomicU16::new(target),
            delay_ms: AtomicU64::new(0),
            open: AtomicBool::new(true),
            replies: AtomicU64::new(u64::MAX),
            cuts: watch::Sender::new(0),
            tap,
            sent: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, wire.clone()));
        Self { port, wire, accepting }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What each connection's near end has sent so far.
    pub(crate) fn sent(&self) -> Vec<Vec<u8>> {
        self.wire.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections to come go there.
    pub(crate) fn point_to(&self, target: u16) {
        self.wire.target.store(target, Ordering::Relaxed);
    }

    /// What arrives from now on goes on so much later, in both directions.
    pub(crate) fn delay(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.wire.delay_ms.store(ms, Ordering::Relaxed);
    }

    /// On connections to come, what the far end sends stops behind so many bytes.
    pub(crate) fn limit_replies(&self, bytes: u64) {
        self.wire.replies.store(bytes, Ordering::Relaxed);
    }

    /// Ends all connections, and lets no new one through.
    pub(crate) fn cut(&self) {
        self.wire.open.store(false, Ordering::Relaxed);
        self.wire.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub(crate) fn mend(&self) {
        self.wire.open.store(true, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, wire: Arc<Wire>) {
    while let Ok((near, _)) = listener.accept().await {
        if wire.open.load(Ordering::Relaxed) {
            tokio::spawn(connect(near, wire.clone()));
        }
    }
}

async fn connect(near: TcpStream, wire: Arc<Wire>) {
    let mut cuts = wire.cuts.subscribe();
    let Ok(far) = TcpStream::connect(("127.0.0.1", wire.target.load(Ordering::Relaxed))).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        _ = cuts.changed() => {}
        () = pump(near_in, far_out, &wire, u64::MAX, wire.begin_tap()) => {}
        () = pump(far_in, near_out, &wire, wire.replies.load(Ordering::Relaxed), None) => {}
    }
}

impl Wire {
    /// Where the bytes of a new connection are kept.
    fn begin_tap(&self) -> Option<usize> {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        (self.tap == Tap::On).then(|| {
            sent.push(Vec::new());
            sent.len() - 1
        })
    }

    fn keep(&self, connection: usize, bytes: &[u8]) {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)[connection].extend_from_slice(bytes);
    }
}

/// Until one of the sides ends; no more than `limit` bytes.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, wire: &Wire, limit: u64, tap: Option<usize>) {
    let (sender, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let reading = async move {
        let mut buffer = vec![0; 64 * 1024];
        let mut passed = 0;
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if passed >= limit {
                std::future::pending::<()>().await;
            }
            passed += read as u64;
            if let Some(connection) = tap {
                wire.keep(connection, &buffer[..read]);
            }
            let due = Instant::now() + Duration::from_millis(wire.delay_ms.load(Ordering::Relaxed));
            if sender.send((due, buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        while let Some((due, bytes)) = queue.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}
