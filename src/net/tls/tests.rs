//! Both ends against each other over loopback, with certificates made on the spot.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm, date_time_ymd};
use rustls::ServerConfig;
use sha2::{Digest, Sha256, Sha384};
use socket2::SockRef;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::{ClientTls, ServerTls, SslMode};
use crate::net::stream::{Liveness, Stream, probe_socket};
use crate::net::testing::{sockets, until};

use super::identity::{Authorities, Identity};
use super::*;

/// A certificate authority, and a directory for what it issues.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: TempDir,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.crt"), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), directory }
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// A certificate for these alternative names; `change` makes it special.
    fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Files {
        self.issue_with(&rcgen::PKCS_ECDSA_P256_SHA256, names, change)
    }

    fn issue_with(
        &self,
        algorithm: &'static SignatureAlgorithm,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Files {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = match params.is_ca {
            IsCa::Ca(_) => params.self_signed(&key).unwrap(),
            _ => params.signed_by(&key, &self.issuer).unwrap(),
        };
        self.store(&certificate.pem(), &key)
    }

    fn store(&self, certificate: &str, key: &KeyPair) -> Files {
        let directory = tempfile::tempdir_in(self.directory.path()).unwrap().keep();
        let files = Files { certificate: directory.join("crt"), key: directory.join("key") };
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

fn acceptor(mode: SslMode, files: &Files, ca: Option<PathBuf>) -> Acceptor {
    let (certificate, key) = (Some(files.certificate.clone()), Some(files.key.clone()));
    Acceptor::new(&ClientTls { mode, certificate, key, ca }).unwrap().unwrap()
}

fn connector(mode: SslMode, files: Option<&Files>, ca: Option<PathBuf>) -> Connector {
    let certificate = files.map(|files| files.certificate.clone());
    let key = files.map(|files| files.key.clone());
    Connector::new(&ServerTls { mode, ca, certificate, key }).unwrap()
}

/// A negotiation as pgpilot's two halves have it: SSLRequest, its answer, the handshake, one byte each way.
async fn meet(
    connector: &Connector,
    host: &str,
    acceptor: &Acceptor,
) -> (Result<Secured, TlsError>, Result<Accepted, TlsError>) {
    let (client, mut server) = sockets().await;
    let attempt = connector.attempts()[0];
    let connect = async {
        let mut secured = connector.secure(client, host, attempt).await?;
        // With TLS 1.3 a client only learns with its first read that its certificate is refused.
        secured.stream.write_all(b"x").await?;
        secured.stream.flush().await?;
        secured.stream.read_u8().await?;
        Ok(secured)
    };
    let accept = async {
        let mut request = [0; 8];
        server.read_exact(&mut request).await?;
        assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
        let mut accepted = acceptor.accept(server, Start::Request { unread: &[] }).await?;
        accepted.stream.read_u8().await?;
        accepted.stream.write_all(b"x").await?;
        accepted.stream.flush().await?;
        Ok(accepted)
    };
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(connect, accept) }).await.unwrap()
}

#[tokio::test]
async fn every_mode_checks_what_libpq_checks() {
    use SslMode::{Prefer, Require, VerifyCa, VerifyFull};
    let (ours, theirs) = (Authority::new(), Authority::new());
    let expired = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    };
    let common_name_only = |params: &mut CertificateParams| {
        params.distinguished_name.push(DnType::CommonName, "db.example.com");
    };
    let good = ours.issue(&["db.example.com", "10.0.0.7"], |_| {});
    let expired = ours.issue(&["db.example.com"], expired);
    let stranger = theirs.issue(&["db.example.com"], |_| {});
    let named = ours.issue(&[], common_name_only);
    let misnamed = ours.issue(&["else.example.com"], common_name_only);
    let (ca, host) = (|| Some(ours.ca()), "db.example.com");
    let table = [
        // Without an authority anything goes, but only where nothing is to be verified.
        (&good, Prefer, None, host, true),
        (&stranger, Require, None, host, true),
        (&expired, Require, None, host, true),
        // With one, the chain is verified in every mode.
        (&good, Prefer, ca(), "elsewhere", true),
        (&stranger, Prefer, ca(), host, false),
        (&good, Require, ca(), "elsewhere", true),
        (&stranger, Require, ca(), host, false),
        (&expired, Require, ca(), host, false),
        (&good, VerifyCa, ca(), "elsewhere", true),
        (&good, VerifyCa, ca(), "not a name", true),
        (&stranger, VerifyCa, ca(), host, false),
        (&expired, VerifyCa, ca(), host, false),
        (&good, VerifyFull, ca(), host, true),
        (&good, VerifyFull, ca(), "10.0.0.7", true),
        (&good, VerifyFull, ca(), "10.0.0.8", false),
        (&good, VerifyFull, ca(), "elsewhere", false),
        (&good, VerifyFull, ca(), "not a name", false),
        (&stranger, VerifyFull, ca(), host, false),
        (&expired, VerifyFull, ca(), host, false),
        // The common name counts where there is no other.
        (&named, VerifyFull, ca(), host, true),
        (&named, VerifyFull, ca(), "elsewhere", false),
        (&misnamed, VerifyFull, ca(), host, false),
    ];
    for (number, (files, mode, ca, host, expected)) in table.into_iter().enumerate() {
        let acceptor = acceptor(Require, files, None);
        let (client, server) = meet(&connector(mode, None, ca), host, &acceptor).await;
        assert_eq!(client.is_ok(), expected, "row {number}: {mode:?} {host} {:?}", client.err());
        assert_eq!(server.is_ok(), expected, "row {number}");
        assert!(client.is_ok_and(|secured| secured.stream.is_encrypted()) == expected);
    }
}

#[tokio::test]
async fn a_listed_self_signed_certificate_is_trusted_while_it_is_valid() {
    let authority = Authority::new();
    let as_openssl_makes_it = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "db");
    };
    let valid = authority.issue(&[], as_openssl_makes_it);
    let expired = authority.issue(&[], |params| {
        as_openssl_makes_it(params);
        params.not_after = date_time_ymd(2002, 1, 1);
    });
    for (files, mode, host, expected) in [
        (&valid, SslMode::VerifyCa, "elsewhere", true),
        (&valid, SslMode::VerifyFull, "db", true),
        (&valid, SslMode::VerifyFull, "elsewhere", false),
        (&expired, SslMode::VerifyCa, "db", false),
    ] {
        let connector = connector(mode, None, Some(files.certificate.clone()));
        let (client, _) = meet(&connector, host, &acceptor(SslMode::Require, files, None)).await;
        assert_eq!(client.is_ok(), expected, "{mode:?} {host}");
    }
}

#[tokio::test]
async fn client_certificates_are_verified_by_mode() {
    use SslMode::{Allow, Require, VerifyCa, VerifyFull};
    let (ours, theirs) = (Authority::new(), Authority::new());
    let app = |params: &mut CertificateParams| params.distinguished_name.push(DnType::CommonName, "app");
    let server = ours.issue(&["db"], |_| {});
    let good = ours.issue(&[], app);
    let stranger = theirs.issue(&[], app);
    let ca = || Some(ours.ca());
    let table = [
        (Require, None, None, Some(None)),
        (Require, None, Some(&good), Some(None)),
        (Allow, ca(), None, Some(None)),
        (Require, ca(), None, Some(None)),
        (Require, ca(), Some(&good), Some(Some("app"))),
        (Require, ca(), Some(&stranger), None),
        (VerifyCa, ca(), None, None),
        (VerifyCa, ca(), Some(&good), Some(Some("app"))),
        (VerifyCa, ca(), Some(&stranger), None),
        (VerifyFull, ca(), None, None),
        (VerifyFull, ca(), Some(&good), Some(Some("app"))),
    ];
    for (number, (mode, ca, files, expected)) in table.into_iter().enumerate() {
        let acceptor = acceptor(mode, &server, ca);
        let (client, server) = meet(&connector(Require, files, None), "db", &acceptor).await;
        let seen = server.ok().map(|accepted| accepted.common_name);
        assert_eq!(seen, expected.map(|name| name.map(str::to_owned)), "row {number}");
        assert_eq!(client.is_ok(), expected.is_some(), "row {number}");
    }
}

#[tokio::test]
async fn both_ends_see_the_same_channel() {
    let authority = Authority::new();
    let hash = |files: &Files, digest: fn(&[u8]) -> Vec<u8>| {
        digest(&Authorities::load(&files.certificate).unwrap().certificates[0])
    };
    // Self-signed, for the signature has to be the algorithm's own.
    let make = |algorithm| {
        authority.issue_with(algorithm, &["db"], |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
    };
    let p256 = make(&rcgen::PKCS_ECDSA_P256_SHA256);
    let p384 = make(&rcgen::PKCS_ECDSA_P384_SHA384);
    let ed25519 = make(&rcgen::PKCS_ED25519);
    let expected = [
        (&p256, Some(hash(&p256, |der| Sha256::digest(der).to_vec()))),
        (&p384, Some(hash(&p384, |der| Sha384::digest(der).to_vec()))),
        (&ed25519, None),
    ];
    for (files, expected) in expected {
        let connector = connector(SslMode::Require, None, None);
        let (client, server) = meet(&connector, "db", &acceptor(SslMode::Require, files, None)).await;
        assert_eq!(client.unwrap().channel_binding, expected);
        assert_eq!(server.unwrap().channel_binding.as_deref(), expected.as_deref());
    }
}

/// What a server says to the SSLRequest, and what comes of it.
#[tokio::test]
async fn the_answer_to_the_ssl_request_is_taken_literally() {
    let answer = async |mode: SslMode, attempt: usize, reply: &[u8]| {
        let (client, mut server) = sockets().await;
        // Before the request, so that all of it is there when the first byte is read.
        server.write_all(reply).await.unwrap();
        let connector = connector(mode, None, None);
        let attempt = connector.attempts()[attempt];
        connector.secure(client, "db", attempt).await.map(|secured| secured.stream.is_encrypted())
    };
    assert!(matches!(answer(SslMode::Prefer, 0, b"N").await, Ok(false)));
    assert!(matches!(answer(SslMode::Prefer, 1, b"").await, Ok(false)));
    assert!(matches!(answer(SslMode::Allow, 0, b"").await, Ok(false)));
    assert!(matches!(answer(SslMode::Disable, 0, b"").await, Ok(false)));
    assert!(matches!(answer(SslMode::Allow, 1, b"N").await, Err(TlsError::Refused)));
    assert!(matches!(answer(SslMode::Require, 0, b"N").await, Err(TlsError::Refused)));
    assert!(matches!(answer(SslMode::Prefer, 0, b"E\0\0\0\x09SFAT").await, Err(TlsError::ServerError)));
    assert!(matches!(answer(SslMode::Prefer, 0, b"x").await, Err(TlsError::UnexpectedReply(b'x'))));
    assert!(matches!(answer(SslMode::Prefer, 0, b"SZ\0\0\0\x05I").await, Err(TlsError::UnencryptedData)));
}

#[tokio::test]
async fn bytes_behind_the_ssl_request_end_the_connection() {
    let authority = Authority::new();
    let acceptor = acceptor(SslMode::Require, &authority.issue(&["db"], |_| {}), None);
    let (_client, server) = sockets().await;
    let accepted = acceptor.accept(server, Start::Request { unread: b"Q\0\0" }).await;
    assert!(matches!(accepted, Err(TlsError::UnencryptedData)));
}

#[tokio::test]
async fn direct_tls_needs_the_protocol_name() {
    let authority = Authority::new();
    let acceptor = acceptor(SslMode::Require, &authority.issue(&["db"], |_| {}), None);
    let roots = Authorities::load(&authority.ca()).unwrap().roots;
    type Check = fn(&Result<Accepted, TlsError>) -> bool;
    let table: [(&[&[u8]], Check); 4] = [
        (&[b"postgresql"], |accepted| accepted.is_ok()),
        (&[b"h2", b"postgresql"], |accepted| accepted.is_ok()),
        (&[], |accepted| matches!(accepted, Err(TlsError::NoAlpn))),
        (&[b"h2"], |accepted| matches!(accepted, Err(TlsError::Handshake(_)))),
    ];
    for (protocols, expected) in table {
        let builder = rustls::ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let (client, server) = sockets().await;
        let connector = TlsConnector::from(Arc::new(config));
        let connect = connector.connect("db".try_into().unwrap(), client);
        let (_client, accepted) = tokio::join!(connect, acceptor.accept(server, Start::Direct));
        assert!(expected(&accepted), "{protocols:?} {:?}", accepted.err());
    }
}

#[tokio::test]
async fn settings_that_do_not_fit_are_refused() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(&["db"], |_| {}), authority.issue(&["db"], |_| {}));
    let accept = |mode, certificate: Option<&PathBuf>, key: Option<&PathBuf>| {
        let (certificate, key) = (certificate.cloned(), key.cloned());
        Acceptor::new(&ClientTls { mode, certificate, key, ca: None }).map(|acceptor| acceptor.is_some())
    };
    let (certificate, key) = (Some(&one.certificate), Some(&one.key));
    assert!(matches!(accept(SslMode::Disable, certificate, key), Ok(false)));
    assert!(matches!(accept(SslMode::Prefer, None, None), Ok(false)));
    assert!(matches!(accept(SslMode::Prefer, certificate, key), Ok(true)));
    assert!(matches!(accept(SslMode::Require, None, None), Err(TlsError::NoCertificate)));
    assert!(matches!(accept(SslMode::Prefer, certificate, None), Err(TlsError::NoCertificate)));
    assert!(matches!(accept(SslMode::VerifyCa, certificate, key), Err(TlsError::NoAuthority)));
    assert!(matches!(accept(SslMode::Require, certificate, Some(&other.key)), Err(TlsError::Certificate(_))));
    assert!(matches!(accept(SslMode::Require, certificate, certificate), Err(TlsError::Pem { .. })));
    let missing = authority.directory.path().join("missing");
    assert!(matches!(accept(SslMode::Require, certificate, Some(&missing)), Err(TlsError::File { .. })));
}

async fn exchange(near: &mut Stream, far: &mut Stream) {
    assert_eq!((near.probe(), far.probe()), (Liveness::Quiet, Liveness::Quiet));
    far.write_all(b"data").await.unwrap();
    far.flush().await.unwrap();
    until("data arrives", || near.probe() == Liveness::Readable).await;
    let mut data = [0; 4];
    near.read_exact(&mut data).await.unwrap();
    assert_eq!((&data, near.probe()), (b"data", Liveness::Quiet));
}

#[tokio::test]
async fn a_probe_sees_data_and_the_end_through_tls() {
    let authority = Authority::new();
    let acceptor = acceptor(SslMode::Require, &authority.issue(&["db"], |_| {}), None);
    let (client, server) = meet(&connector(SslMode::Require, None, None), "db", &acceptor).await;
    let (mut client, mut server) = (client.unwrap().stream, server.unwrap().stream);
    exchange(&mut client, &mut server).await;
    exchange(&mut server, &mut client).await;
    server.shutdown().await.unwrap();
    until("the end arrives", || client.probe() == Liveness::Closed).await;
    drop(client);
    until("the end arrives", || server.probe() == Liveness::Closed).await;
}

#[tokio::test]
async fn session_tickets_are_not_data() {
    let authority = Authority::new();
    let files = authority.issue(&["db"], |_| {});
    let identity = Identity::load(&files.certificate, &files.key).unwrap();
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(identity.chain, identity.key).unwrap();
    config.send_tls13_tickets = 4;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (client, mut server) = sockets().await;
    let accept = async {
        server.read_exact(&mut [0; 8]).await.unwrap();
        server.write_all(b"S").await.unwrap();
        acceptor.accept(server).await.unwrap()
    };
    let connector = connector(SslMode::Require, None, None);
    let (secured, mut server) = tokio::join!(connector.secure(client, "db", Attempt::Tls), accept);
    let Stream::ServerTls(stream) = secured.unwrap().stream else { panic!("not encrypted") };
    until("tickets arrive", || probe_socket(&SockRef::from(stream.get_ref().0)) == Liveness::Readable).await;
    let mut stream = Stream::ServerTls(stream);
    assert_eq!(stream.probe(), Liveness::Quiet);
    server.write_all(b"data").await.unwrap();
    server.flush().await.unwrap();
    until("data arrives", || stream.probe() == Liveness::Readable).await;
}

#[test]
fn a_file_that_is_renewed_makes_another_connector() {
    let authority = Authority::new();
    let Files { certificate, key } = authority.issue(&["client"], |_| {});
    let settings = ServerTls {
        mode: SslMode::VerifyCa,
        ca: Some(authority.ca()),
        certificate: Some(certificate.clone()),
        key: Some(key.clone()),
    };
    let connector = || Connector::new(&settings).unwrap();
    let before = connector();
    assert!(before.is_same(&connector()));
    let renewed = authority.issue(&["client"], |_| {});
    std::fs::copy(renewed.certificate, &certificate).unwrap();
    std::fs::copy(renewed.key, &key).unwrap();
    let after = connector();
    assert!(!before.is_same(&after) && after.is_same(&connector()));
    std::fs::copy(Authority::new().ca(), authority.ca()).unwrap();
    assert!(!after.is_same(&connector()));
}
