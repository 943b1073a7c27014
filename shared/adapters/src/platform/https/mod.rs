//! HTTPS: whom we trust, and one client for all of AWS.
//!
//! Left to themselves, the SDK and reqwest read all authorities of the machine from its disk, the SDK for each of its services and
//! once more when a service is first asked: that took longer than all else that a function does before its first event. So the
//! authorities are compiled in, and the client for AWS is made once, with its first request.
//!
//! `SSL_CERT_FILE` names more authorities, for a proxy that opens TLS or for stand-ins.

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

/// Amazon Trust Services' five roots, one of which every AWS endpoint's certificate leads to.
///
/// <https://www.amazontrust.com/repository/>
const AMAZON: &[u8] = include_bytes!("amazon.pem");

/// HTTPS to AWS, once something has been asked.
#[derive(Debug, Default)]
pub(crate) struct Https(OnceLock<SharedHttpClient>);

impl HttpClient for Https {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let client = self.0.get_or_init(to_aws);
        client.http_connector(settings, components)
    }
}

fn to_aws() -> SharedHttpClient {
    let mut trusted = TrustStore::empty().with_pem_certificate(AMAZON);
    if let Some(more) = more_authorities() {
        trusted = trusted.with_pem_certificate(more);
    }
    let provider = Provider::Rustls(CryptoMode::AwsLc);
    let client = Builder::new().tls_provider(provider);
    match TlsContext::builder().with_trust_store(trusted).build() {
        Ok(context) => client.tls_context(context).build_https(),
        Err(error) => {
            tracing::error!(%error, "the authorities that were compiled in are of no use");
            client.build_https()
        }
    }
}

/// HTTPS to everybody but AWS: Mozilla's authorities, as they were when this was built.
pub(crate) fn public() -> ClientConfig {
    let mut trusted = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.into(),
    };
    let more = more_authorities().unwrap_or_default();
    trusted.add_parsable_certificates(CertificateDer::pem_slice_iter(&more).flatten());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_protocol_versions(VERSIONS);
    #[expect(
        clippy::expect_used,
        reason = "the provider and the versions are both compiled in"
    )]
    let config = versions.expect("aws-lc speaks TLS 1.2 and 1.3");
    config.with_root_certificates(trusted).with_no_client_auth()
}

const VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// What `SSL_CERT_FILE` names, if it is there and holds certificates: others would make the SDK panic.
fn more_authorities() -> Option<Vec<u8>> {
    let path = Environment::of_process().optional("SSL_CERT_FILE")?;
    let read = std::fs::read(&path);
    match read {
        Ok(pem) => Some(pem).filter(|pem| are_certificates(pem)),
        Err(error) => {
            tracing::warn!(%error, "SSL_CERT_FILE cannot be read, and nobody is trusted for it");
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
    fn amazons_roots_are_five_authorities() {
        let found = CertificateDer::pem_slice_iter(AMAZON).count();
        assert_eq!(found, 5);
        assert!(are_certificates(AMAZON));
    }

    #[test]
    fn what_is_no_certificate_is_not_trusted() {
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(!are_certificates(broken));
    }

    #[test]
    fn the_public_authorities_are_compiled_in() {
        assert!(webpki_roots::TLS_SERVER_ROOTS.len() > 100);
        assert!(!public().alpn_protocols.iter().any(|name| name == b"h2"));
    }
}
