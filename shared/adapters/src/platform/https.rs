//! HTTPS: the trusted certificate authorities.
//!
//! By default, reqwest reads all authorities of the machine from its disk. That takes longer than the rest of a cold start, so they are
//! compiled in.
//!
//! `SSL_CERT_FILE` names further authorities, for a proxy that terminates TLS or for a test environment.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::platform::config::Environment;

/// TLS for all systems but AWS, with Mozilla's authorities as of the build.
pub(crate) fn public() -> ClientConfig {
    client_config(RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.into(),
    })
}

/// TLS that trusts these authorities, in PEM.
pub(crate) fn trusting(authorities: &[u8]) -> ClientConfig {
    client_config(roots_in(authorities))
}

/// The valid certificates of a PEM file.
pub(crate) fn roots_in(pem: &[u8]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
    roots
}

fn client_config(mut trusted: RootCertStore) -> ClientConfig {
    let more = more_authorities().unwrap_or_default();
    trusted.extend(roots_in(&more).roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_protocol_versions(VERSIONS);
    #[expect(clippy::expect_used, reason = "provider and versions are compiled in")]
    let config = versions.expect("aws-lc speaks TLS 1.2 and 1.3");
    config.with_root_certificates(trusted).with_no_client_auth()
}

const VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The file that `SSL_CERT_FILE` names, if it can be read.
fn more_authorities() -> Option<Vec<u8>> {
    let path = Environment::of_process().optional("SSL_CERT_FILE")?;
    match std::fs::read(&path) {
        Ok(pem) => Some(pem),
        Err(error) => {
            tracing::warn!(%error, "SSL_CERT_FILE not readable; its authorities are not trusted");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_certificate_is_not_trusted() {
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(roots_in(broken).is_empty());
    }

    #[test]
    fn the_public_authorities_are_compiled_in() {
        assert!(webpki_roots::TLS_SERVER_ROOTS.len() > 100);
        assert!(!public().alpn_protocols.iter().any(|name| name == b"h2"));
    }
}
