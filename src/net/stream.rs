//! One type for every kind of connection, so that the code above does not care.

use std::io::{self, BufRead as _, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::ops::DerefMut;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::ConnectionCommon;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// A connection to a client or a server. With TLS, written bytes are only on their way after a flush.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// We are the TLS server.
    ClientTls(Box<server::TlsStream<TcpStream>>),
    /// We are the TLS client.
    ServerTls(Box<client::TlsStream<TcpStream>>),
}

/// Ends a connection from outside of the task that uses it.
#[derive(Debug)]
pub struct Breaker(Socket);

impl Breaker {
    /// Whoever reads from the connection finds its end. One that has ended already is left alone.
    pub fn cut(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// What can be said of a connection without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Open, and nothing to read.
    Quiet,
    /// There is something to read.
    Readable,
    /// The other side has closed it, or it is broken.
    Closed,
}

/// What a new connection opens with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// A TLS handshake, without an SSLRequest before it.
    DirectTls,
    /// A start-up packet, an SSLRequest, a CancelRequest, or nonsense.
    Packet,
    /// Closed without a byte.
    Closed,
}

impl Stream {
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::ClientTls(_) | Self::ServerTls(_))
    }

    /// A handle for ending the connection from elsewhere. Takes a file descriptor.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn breaker(&self) -> io::Result<Breaker> {
        let socket = match self {
            Self::Tcp(socket) => SockRef::from(socket),
            Self::Unix(socket) => SockRef::from(socket),
            Self::ClientTls(stream) => SockRef::from(stream.get_ref().0),
            Self::ServerTls(stream) => SockRef::from(stream.get_ref().0),
        };
        socket.try_clone().map(Breaker)
    }

    /// Writes what can be written without waiting: a last word before the connection is dropped.
    pub fn say_at_once(&mut self, bytes: &[u8]) {
        let mut nobody = Context::from_waker(Waker::noop());
        // Whatever does not go out now is lost with the connection, which tells the other side as much.
        if let Poll::Ready(Ok(_)) = Pin::new(&mut *self).poll_write(&mut nobody, bytes) {
            let _ = Pin::new(self).poll_flush(&mut nobody);
        }
    }

    /// Looks whether there is anything to read, and consumes nothing. The socket itself is asked only if something has
    /// come since it was last read from, as far as the runtime knows; that lags behind by a turn of the event loop.
    pub fn probe(&mut self) -> Liveness {
        match self {
            Self::Tcp(socket) => liveness(|| socket.try_io(Interest::READABLE, || peek(&SockRef::from(&*socket)))),
            Self::Unix(socket) => liveness(|| socket.try_io(Interest::READABLE, || peek(&SockRef::from(&*socket)))),
            Self::ClientTls(stream) => {
                let (socket, session) = stream.get_mut();
                probe_tls(socket, session)
            }
            Self::ServerTls(stream) => {
                let (socket, session) = stream.get_mut();
                probe_tls(socket, session)
            }
        }
    }
}

/// Sets what every TCP connection has: no Nagle delay, and keep-alive packets every `keepalive` (zero: as the operating
/// system has them).
///
/// # Errors
/// If the socket is already dead.
pub fn tune(socket: &TcpStream, keepalive: Duration) -> io::Result<()> {
    socket.set_nodelay(true)?;
    if keepalive.is_zero() {
        return SockRef::from(socket).set_keepalive(true);
    }
    let settings = TcpKeepalive::new().with_time(keepalive).with_interval(keepalive);
    SockRef::from(socket).set_tcp_keepalive(&settings)
}

/// Waits for a new client's first byte and tells what it begins. Consumes nothing.
///
/// The first byte of a TLS handshake record is 0x16; as the first byte of a packet's length it would make a packet of
/// hundreds of megabytes (PostgreSQL `src/backend/tcop/backend_startup.c`, `ProcessSSLStartup`).
///
/// # Errors
/// Those of the socket.
///
/// # Cancel safety
/// Nothing is consumed, so nothing is lost.
pub async fn opening(socket: &TcpStream) -> io::Result<Opening> {
    let mut first = [0];
    Ok(match (socket.peek(&mut first).await?, first) {
        (0, _) => Opening::Closed,
        (_, [0x16]) => Opening::DirectTls,
        _ => Opening::Packet,
    })
}

fn peek(socket: &SockRef<'_>) -> io::Result<usize> {
    socket.peek(&mut [MaybeUninit::uninit()])
}

/// Asks the socket itself.
pub(super) fn probe_socket(socket: &SockRef<'_>) -> Liveness {
    liveness(|| peek(socket))
}

fn liveness(mut peek: impl FnMut() -> io::Result<usize>) -> Liveness {
    loop {
        match peek() {
            Ok(0) => return Liveness::Closed,
            Ok(_) => return Liveness::Readable,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Liveness::Quiet,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Liveness::Closed,
        }
    }
}

/// Bytes on the socket need not be data: session tickets and key updates come at any time. So they are decrypted; what
/// they turn out to hold stays in the session for the next read.
fn probe_tls<D>(socket: &TcpStream, session: &mut impl DerefMut<Target = ConnectionCommon<D>>) -> Liveness {
    loop {
        match session.reader().fill_buf() {
            Ok([]) => return Liveness::Closed,
            Ok(_) => return Liveness::Readable,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Liveness::Closed,
        }
        match session.read_tls(&mut Arrived(socket)) {
            Ok(0) => return Liveness::Closed,
            Ok(_) if session.process_new_packets().is_err() => return Liveness::Closed,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Liveness::Quiet,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Liveness::Closed,
        }
    }
}

/// What has come already, as a blocking reader would have it.
struct Arrived<'a>(&'a TcpStream);

impl Read for Arrived<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

/// Calls a method of whatever the stream is.
macro_rules! forward {
    ($stream:expr, $method:ident, $($argument:expr),*) => {
        match $stream.get_mut() {
            Stream::Tcp(inner) => Pin::new(inner).$method($($argument),*),
            Stream::Unix(inner) => Pin::new(inner).$method($($argument),*),
            Stream::ClientTls(inner) => Pin::new(inner).$method($($argument),*),
            Stream::ServerTls(inner) => Pin::new(inner).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_read, cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, poll_write, cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(self, poll_write_vectored, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(inner) => inner.is_write_vectored(),
            Self::Unix(inner) => inner.is_write_vectored(),
            Self::ClientTls(inner) => inner.is_write_vectored(),
            Self::ServerTls(inner) => inner.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_shutdown, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use crate::net::testing::{sockets, until};

    use super::*;

    #[tokio::test]
    async fn a_probe_consumes_nothing() {
        let (near, far) = sockets().await;
        let unix = UnixStream::pair().unwrap();
        for (near, far) in [(Stream::Tcp(near), Stream::Tcp(far)), (Stream::Unix(unix.0), Stream::Unix(unix.1))] {
            let (mut near, mut far) = (near, far);
            assert_eq!(near.probe(), Liveness::Quiet);
            far.write_all(b"x").await.unwrap();
            until("data arrives", || near.probe() == Liveness::Readable).await;
            assert_eq!(near.read_u8().await.unwrap(), b'x');
            assert_eq!(near.probe(), Liveness::Quiet);
            drop(far);
            until("the end arrives", || near.probe() == Liveness::Closed).await;
        }
    }

    #[tokio::test]
    async fn a_last_word_arrives() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut near = Stream::Unix(near);
        near.say_at_once(b"bye");
        drop(near);
        let mut heard = String::new();
        far.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "bye");
    }

    #[tokio::test]
    async fn the_first_byte_tells_what_a_client_opens_with() {
        for (bytes, expected) in
            [(&[0x16, 3, 1][..], Opening::DirectTls), (&[0, 0, 0, 8], Opening::Packet), (&[], Opening::Closed)]
        {
            let (mut client, server) = sockets().await;
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(opening(&server).await.unwrap(), expected);
            assert_eq!(opening(&server).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn every_connection_is_tuned() {
        let (near, _far) = sockets().await;
        tune(&near, Duration::from_secs(30)).unwrap();
        assert!(near.nodelay().unwrap());
        let socket = SockRef::from(&near);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(30));
    }
}
