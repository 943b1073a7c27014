//! HTTPS: the trusted certificate authorities, and one client for all of AWS.
//!
//! By default, the SDK and reqwest read all authorities of the machine from its disk. The SDK does so for each of its services, and
//! again at a service's first request. That took longer than the rest of a cold start, so the authorities are compiled in, and all
//! services of AWS share one client, made at the first request.
//!
//! `SSL_CERT_FILE` names further authorities, for a proxy that terminates TLS or for a test environment.

use std::sync::{Arc, OnceLock};

use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::platform::config::Environment;

/// The five roots of Amazon Trust Services. The certificate of every AWS endpoint has one of them.
///
/// <https://www.amazontrust.com/repository/>
const AMAZON: &[u8] = include_bytes!("amazon.pem");

/// The HTTPS client for AWS, made at the first request.
#[derive(Debug, Default)]
pub(crate) struct AwsHttpClient(OnceLock<SharedHttpClient>);

impl HttpClient for AwsHttpClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let client = self.0.get_or_init(aws_client);
        client.http_connector(settings, components)
    }
}

fn aws_client() -> SharedHttpClient {
    let mut trusted = TrustStore::empty().with_pem_certificate(AMAZON);
    if let Some(more) = more_authorities() {
        trusted = trusted.with_pem_certificate(more);
    }
    let provider = Provider::Rustls(CryptoMode::AwsLc);
    let client = Builder::new().tls_provider(provider);
    match TlsContext::builder().with_trust_store(trusted).build() {
        Ok(context) => client.tls_context(context).build_https(),
        Err(error) => {
            tracing::error!(%error, "compiled-in certificate authorities not usable");
            client.build_https()
        }
    }
}

/// TLS for all systems but AWS, with Mozilla's authorities as of the build.
pub(crate) fn public() -> ClientConfig {
    let mut trusted = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.into(),
    };
    let more = more_authorities().unwrap_or_default();
    trusted.add_parsable_certificates(CertificateDer::pem_slice_iter(&more).flatten());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_protocol_versions(VERSIONS);
    #[expect(clippy::expect_used, reason = "provider and versions are compiled in")]
    let config = versions.expect("aws-lc speaks TLS 1.2 and 1.3");
    config.with_root_certificates(trusted).with_no_client_auth()
}

const VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The file that `SSL_CERT_FILE` names, if it exists and has valid certificates. Invalid ones would make the SDK panic.
fn more_authorities() -> Option<Vec<u8>> {
    let path = Environment::of_process().optional("SSL_CERT_FILE")?;
    let read = std::fs::read(&path);
    match read {
        Ok(pem) => Some(pem).filter(|pem| are_certificates(pem)),
        Err(error) => {
            tracing::warn!(%error, "SSL_CERT_FILE not readable; its authorities are not trusted");
            None
        }
    }
}

fn are_certificates(pem: &[u8]) -> bool {
    let mut roots = RootCertStore::empty();
    let mut certificates = CertificateDer::pem_slice_iter(pem);
    certificates.all(|certificate| certificate.is_ok_and(|one| roots.add(one).is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amazon_has_five_valid_root_certificates() {
        let found = CertificateDer::pem_slice_iter(AMAZON).count();
        assert_eq!(found, 5);
        assert!(are_certificates(AMAZON));
    }

    #[test]
    fn a_malformed_certificate_is_not_trusted() {
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(!are_certificates(broken));
    }

    #[test]
    fn the_public_authorities_are_compiled_in() {
        assert!(webpki_roots::TLS_SERVER_ROOTS.len() > 100);
        assert!(!public().alpn_protocols.iter().any(|name| name == b"h2"));
    }
}
