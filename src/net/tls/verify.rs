//! Whether a server is the one it should be, by libpq's rules (`sslmode`).

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::identity::{Authorities, common_name};

/// How far a server's certificate is looked at.
pub(super) enum Trust {
    /// Any certificate will do: protects against eavesdropping alone.
    Anyone,
    /// It has to come from one of the authorities.
    Chain(Authorities),
    /// .. and carry the host's name.
    ChainAndName(Authorities),
}

pub(super) struct Verifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(trust: Trust, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { trust, algorithms }
    }

    fn verify_chain(
        &self,
        authorities: &Authorities,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // The self-signed certificate that PostgreSQL's documentation makes calls itself an authority, which webpki takes
        // in no server's hands. Where it is listed itself, there is no chain to verify.
        if authorities.certificates.iter().any(|listed| listed == end_entity) {
            return verify_validity(end_entity, now);
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let (roots, algorithms) = (&authorities.roots, self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.trust {
            Trust::Anyone => "Verifier::Anyone",
            Trust::Chain(_) => "Verifier::Chain",
            Trust::ChainAndName(_) => "Verifier::ChainAndName",
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Anyone => {}
            Trust::Chain(authorities) => self.verify_chain(authorities, end_entity, intermediates, now)?,
            Trust::ChainAndName(authorities) => {
                self.verify_chain(authorities, end_entity, intermediates, now)?;
                verify_name(end_entity, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !matches!(self.trust, Trust::Anyone) {
            return verify_tls13_signature(message, certificate, signature, &self.algorithms);
        }
        // Certificates that webpki does not parse (version 1, as `openssl x509 -req` has long made them) are good enough
        // where nothing is asked of them but their key.
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn verify_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).map_err(|_| CertificateError::Expired)?;
    if now < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// The alternative names decide; only a certificate without any is known by its common name (libpq
/// `pq_verify_peer_name_matches_certificate`). Many a PostgreSQL server has such a certificate.
fn verify_name(certificate: &CertificateDer<'_>, host: &ServerName<'_>) -> Result<(), Error> {
    let verdict = verify_server_name(&ParsedCertificate::try_from(certificate)?, host);
    let matches = || common_name(certificate).is_some_and(|name| covers(&name, &host.to_str()));
    match verdict {
        Err(_) if !has_alternative_names(certificate) && matches() => Ok(()),
        verdict => verdict,
    }
}

fn has_alternative_names(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return true };
    match parsed.subject_alternative_name() {
        Ok(Some(names)) => {
            let counts = |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
            names.value.general_names.iter().any(counts)
        }
        Ok(None) => false,
        Err(_) => true,
    }
}

/// Whether a common name covers a host; `*` stands for the first label alone.
fn covers(name: &str, host: &str) -> bool {
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((_, rest))) => {
            rest.eq_ignore_ascii_case(domain) && host.parse::<std::net::IpAddr>().is_err()
        }
        (Some(_), None) => false,
        (None, _) => name.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_common_name_covers_its_host_alone() {
        for (name, host, expected) in [
            ("db.example.com", "db.example.com", true),
            ("DB.example.com", "db.Example.com", true),
            ("db.example.com", "x.db.example.com", false),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*", "db", false),
            ("*.", "db", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("*.0.0.1", "10.0.0.1", false),
            ("", "db", false),
        ] {
            assert_eq!(covers(name, host), expected, "{name} {host}");
        }
    }
}
