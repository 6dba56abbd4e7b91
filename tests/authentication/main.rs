//! Authentication and TLS against a real server, and a real libpq through both.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod server;

use std::time::Duration;

use pgpilot::config::{AuthMethod, ClientTls, Secret, ServerTls, SslMode};
use pgpilot::decide::auth::{
    AuthRequest, Begin, ClientAuth, Credential, LoginStep, Md5Hash, MockSecret, Next, Random, ServerLogin, Verifier,
};
use pgpilot::net::Stream;
use pgpilot::net::tls::{Acceptor, Attempt, Connector, Start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use server::{PASSWORD, Server};

fn random() -> Random {
    let mut bytes = [0; 22];
    getrandom::fill(&mut bytes).unwrap();
    let [nonce @ .., a, b, c, d] = bytes;
    Random { nonce, md5_salt: [a, b, c, d] }
}

async fn message(stream: &mut Stream) -> (u8, Vec<u8>) {
    let kind = stream.read_u8().await.unwrap();
    let length = stream.read_u32().await.unwrap() as usize;
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await.unwrap();
    (kind, body)
}

async fn send(stream: &mut Stream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

fn startup(user: &str) -> Vec<u8> {
    let body = format!("\0\x03\0\0user\0{user}\0database\0postgres\0\0");
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes(), body.as_bytes()].concat()
}

/// Logs in as pgpilot does. `Err` is the SQLSTATE of the server's refusal.
async fn log_in(
    server: &Server,
    tls: &ServerTls,
    attempt: Attempt,
    user: &str,
    credential: Credential,
) -> Result<(Stream, Credential), String> {
    let socket = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let secured = Connector::new(tls).unwrap().secure(socket, "localhost", attempt).await.unwrap();
    let mut stream = secured.stream;
    assert_eq!(stream.is_encrypted(), attempt == Attempt::Tls);
    assert_eq!(secured.channel_binding.is_some(), attempt == Attempt::Tls);
    send(&mut stream, &startup(user)).await;
    let mut login = ServerLogin::new(user, credential, secured.channel_binding, random().nonce);
    loop {
        let (kind, body) = message(&mut stream).await;
        if kind == b'E' {
            let fields = String::from_utf8_lossy(&body).into_owned();
            let code = fields.split('\0').find_map(|field| field.strip_prefix('C'));
            return Err(code.unwrap().to_owned());
        }
        assert_eq!(kind, b'R');
        login = match login.on_request(&body).unwrap() {
            LoginStep::Reply(next, reply) => {
                send(&mut stream, &reply).await;
                next
            }
            LoginStep::Expect(next) => next,
            LoginStep::Done(credential) => return Ok((stream, credential)),
        };
    }
}

fn tls(server: &Server, mode: SslMode) -> ServerTls {
    let (certificate, key) = (Some(server.certificate()), Some(server.key()));
    ServerTls { mode, ca: Some(server.certificate()), certificate, key }
}

fn password(text: &str) -> Credential {
    Credential::password(Secret::new(text.to_owned()))
}

#[tokio::test]
async fn a_real_server_lets_us_in_by_every_method() {
    let server = Server::start();
    let hash = |password| Credential::Md5(Md5Hash::of(password, "hashed"));
    let (encrypted, plain) = (Attempt::Tls, Attempt::Plain);
    let table = [
        ("scrammed", password(PASSWORD), encrypted, None),
        ("scrammed", password(PASSWORD), plain, None),
        ("scrammed", password("wrong"), encrypted, Some("28P01")),
        ("scrammed", password("wrong"), plain, Some("28P01")),
        ("hashed", password(PASSWORD), plain, None),
        ("hashed", password("wrong"), plain, Some("28P01")),
        ("hashed", hash(PASSWORD), encrypted, None),
        ("hashed", hash("wrong"), encrypted, Some("28P01")),
        ("in_clear", password(PASSWORD), encrypted, None),
        ("in_clear", password("wrong"), encrypted, Some("28P01")),
        ("unencrypted", Credential::Absent, plain, None),
        ("certified", Credential::Absent, encrypted, None),
        ("nobody", Credential::Absent, encrypted, Some("28000")),
    ];
    for (user, credential, attempt, expected) in table {
        let settings = tls(&server, SslMode::VerifyFull);
        let refusal = log_in(&server, &settings, attempt, user, credential.clone()).await.err();
        assert_eq!(refusal.as_deref(), expected, "{user} {credential:?} {attempt:?}");
    }
    // The keys of the first login serve the second.
    let settings = tls(&server, SslMode::Require);
    let (_, learned) = log_in(&server, &settings, encrypted, "scrammed", password(PASSWORD)).await.unwrap();
    assert!(matches!(learned, Credential::Password { keys: Some(_), .. }));
    assert!(log_in(&server, &settings, encrypted, "scrammed", learned).await.is_ok());
}

/// psql authenticates to us against the server's own verifier; with what it proves we log in to the server, and psql
/// talks to it through us.
async fn pass_through(server: &Server, listener: &TcpListener, user: &str) -> Result<(), String> {
    let stored = server.sql(&format!("SELECT passwd FROM pg_shadow WHERE usename = '{user}'"));
    let verifier = Verifier::parse(&stored).ok();
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut request = [0; 8];
    socket.read_exact(&mut request).await.unwrap();
    let (mode, ca) = (SslMode::Require, None);
    let settings = ClientTls { mode, ca, certificate: Some(server.certificate()), key: Some(server.key()) };
    let acceptor = Acceptor::new(&settings).unwrap().unwrap();
    let accepted = acceptor.accept(socket, Start::Request { unread: &[] }).await.unwrap();
    let mut client = accepted.stream;
    let length = client.read_u32().await.unwrap() as usize;
    client.read_exact(&mut vec![0; length - 4]).await.unwrap();
    let begin = Begin {
        method: AuthMethod::Md5,
        user,
        verifier: verifier.as_ref(),
        channel_binding: accepted.channel_binding.as_deref(),
        certificate_name: None,
        mock: &MockSecret([1; 32]),
        random: random(),
    };
    let mut next = ClientAuth::begin(begin).map_err(|error| error.to_string())?;
    let credential = loop {
        match next {
            Next::Ask(auth, request) => {
                send_request(&mut client, &request).await;
                let (kind, body) = message(&mut client).await;
                assert_eq!(kind, b'p');
                next = auth.on_response(&body).map_err(|error| error.to_string())?;
            }
            Next::Done { last, credential } => {
                for request in last.iter().chain([&AuthRequest::Ok]) {
                    send_request(&mut client, request).await;
                }
                break credential;
            }
        }
    };
    let settings = tls(server, SslMode::VerifyFull);
    let (mut backend, _) = log_in(server, &settings, Attempt::Tls, user, credential).await?;
    tokio::io::copy_bidirectional(&mut client, &mut backend).await.unwrap();
    Ok(())
}

async fn send_request(client: &mut Stream, request: &AuthRequest) {
    let mut bytes = Vec::new();
    request.write(&mut bytes);
    send(client, &bytes).await;
}

#[tokio::test]
async fn a_real_client_is_passed_through_without_its_password() {
    let server = Server::start();
    let table = [
        ("scrammed", PASSWORD, "require", true),
        ("scrammed", PASSWORD, "disable", true),
        ("scrammed", "wrong", "prefer", false),
        ("hashed", PASSWORD, "prefer", true),
        ("hashed", "wrong", "prefer", false),
        ("nobody", PASSWORD, "require", false),
    ];
    for (user, password, binding, expected) in table {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target =
            format!("host=127.0.0.1 port={port} user={user} dbname=postgres sslmode=require channel_binding={binding}");
        let mut psql = server.program("psql");
        psql.env("PGPASSWORD", password).args([&target, "-XAtc", "SELECT current_user"]);
        let psql = tokio::task::spawn_blocking(move || psql.output().unwrap());
        let limit = Duration::from_secs(30);
        let passed = tokio::time::timeout(limit, pass_through(&server, &listener, user)).await.unwrap();
        let output = psql.await.unwrap();
        assert_eq!(passed.is_ok(), expected, "{user} {binding}: {passed:?}");
        assert_eq!(output.status.success(), expected, "{user}: {}", String::from_utf8_lossy(&output.stderr));
        if expected {
            assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), user);
        }
    }
}
