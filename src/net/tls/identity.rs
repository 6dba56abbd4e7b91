//! Certificates and keys: from files, and what is read out of them.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::der_parser::oid;
use x509_parser::oid_registry as known;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::AlgorithmIdentifier;

use super::error::TlsError;

/// A chain, the end entity first, and the key of the end entity.
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Identity {
    pub(super) fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = load_certificates(certificate)?;
        let pem = read(key)?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| malformed(key, &error))?;
        Ok(Self { chain, key })
    }
}

/// Certificate authorities as files hold them.
pub(super) struct Authorities {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) roots: RootCertStore,
}

impl Authorities {
    pub(super) fn load(path: &Path) -> Result<Self, TlsError> {
        let certificates = load_certificates(path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|error| malformed(path, &error))?;
        }
        Ok(Self { certificates, roots })
    }

    /// Those of the operating system; what it has but we cannot read is left out.
    pub(super) fn of_the_system() -> Result<Self, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(TlsError::NoSystemRoots(errors.join("; ")));
        }
        Ok(Self { certificates: Vec::new(), roots })
    }
}

/// Tells what files hold from what they held before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of<const N: usize>(files: [&Option<PathBuf>; N]) -> Result<Self, TlsError> {
        let mut all = Sha256::new();
        for file in files {
            // A hash of each, so that what ends one file cannot be taken for the beginning of the next.
            match file {
                Some(path) => all.update(Sha256::digest(&*read(path)?)),
                None => all.update([0; 32]),
            }
        }
        Ok(Self(all.finalize().into()))
    }
}

fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(malformed(path, &"no certificate in it")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(malformed(path, &error)),
    }
}

fn read(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, TlsError> {
    std::fs::read(path).map(Into::into).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn malformed(path: &Path, what: &dyn std::fmt::Display) -> TlsError {
    TlsError::Pem { path: path.to_owned(), what: what.to_string() }
}

/// The channel binding data `tls-server-end-point` (RFC 5929 section 4.1): the server's certificate, hashed with the
/// hash of its own signature, or with SHA-256 where that is MD5 or SHA-1. `None` where the signature has no such hash
/// (Ed25519): there is no channel binding then, neither with PostgreSQL (`be_tls_get_certificate_hash`).
pub(super) fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(match signature_hash(&parsed.signature_algorithm)? {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

fn signature_hash(algorithm: &AlgorithmIdentifier<'_>) -> Option<Hash> {
    // 1.2.840.10045.4.1 is ecdsa-with-SHA1.
    let table = [
        (known::OID_PKCS1_MD5WITHRSAENC, Hash::Sha256),
        (known::OID_PKCS1_SHA1WITHRSA, Hash::Sha256),
        (oid!(1.2.840.10045.4.1), Hash::Sha256),
        (known::OID_PKCS1_SHA224WITHRSA, Hash::Sha224),
        (known::OID_SIG_ECDSA_WITH_SHA224, Hash::Sha224),
        (known::OID_PKCS1_SHA256WITHRSA, Hash::Sha256),
        (known::OID_SIG_ECDSA_WITH_SHA256, Hash::Sha256),
        (known::OID_PKCS1_SHA384WITHRSA, Hash::Sha384),
        (known::OID_SIG_ECDSA_WITH_SHA384, Hash::Sha384),
        (known::OID_PKCS1_SHA512WITHRSA, Hash::Sha512),
        (known::OID_SIG_ECDSA_WITH_SHA512, Hash::Sha512),
    ];
    if algorithm.algorithm == known::OID_PKCS1_RSASSAPSS {
        return pss_hash(algorithm);
    }
    table.into_iter().find(|(oid, _)| *oid == algorithm.algorithm).map(|(_, hash)| hash)
}

/// RSASSA-PSS names its hash in the parameters; SHA-1 where it does not (RFC 4055 section 3.1).
fn pss_hash(algorithm: &AlgorithmIdentifier<'_>) -> Option<Hash> {
    let parameters = RsaSsaPssParams::try_from(algorithm.parameters.as_ref()?).ok()?;
    let table = [
        (known::OID_HASH_SHA1, Hash::Sha256),
        (known::OID_NIST_HASH_SHA256, Hash::Sha256),
        (known::OID_NIST_HASH_SHA384, Hash::Sha384),
        (known::OID_NIST_HASH_SHA512, Hash::Sha512),
    ];
    table.into_iter().find(|(oid, _)| oid == parameters.hash_algorithm_oid()).map(|(_, hash)| hash)
}

/// The subject's common name; `None` if there is none, or one that is not plain text.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    // A name with a zero byte means one thing to us and another to whoever issued it (CVE-2009-4034).
    (!name.contains('\0')).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digests are OpenSSL's: `openssl x509 -outform der | openssl dgst`.
    #[test]
    fn the_hash_is_that_of_the_signature() {
        let table = [
            (
                &include_bytes!("testdata/rsa-pss-sha256.crt")[..],
                "b03fa51b546f5ba13f2ea056fa1263c36a360764dee272f29100ce510acf5d25",
            ),
            (
                include_bytes!("testdata/rsa-pss-sha384.crt"),
                "86af7780c59792ed03d5e83eb066f1d63f8a9014e0409b14ecf50922557f9229f65e8d5e402463de7994be770977608f",
            ),
            (
                include_bytes!("testdata/rsa-sha1.crt"),
                "47be20bd2296dac42c813cf11ae4679a3067a0f769ae259a85be3046ef2383ba",
            ),
        ];
        for (pem, expected) in table {
            let certificate = CertificateDer::from_pem_slice(pem).unwrap();
            let hash = end_point_hash(&certificate).unwrap();
            assert_eq!(hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
        }
        assert_eq!(end_point_hash(b"no certificate"), None);
    }

    #[test]
    fn the_common_name_is_read() {
        let certificate = CertificateDer::from_pem_slice(include_bytes!("testdata/rsa-sha1.crt")).unwrap();
        assert_eq!(common_name(&certificate).as_deref(), Some("old"));
        assert_eq!(common_name(b"no certificate"), None);
    }
}
