//! HTTPS requests to the REST interface (ARI) of a PBX. All PBXs share one user and password.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;

use super::error::AsteriskError;
use crate::platform::https;
use crate::platform::secrets::{AriCredentials, Secret};
use crate::telemetry::requests;
use crate::telemetry::xray;

/// The name in metrics and traces.
pub(super) const SYSTEM: &str = "Asterisk";

/// Asterisk answers an originate at once, without waiting for the phone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// The REST interface of one PBX.
#[derive(Debug)]
pub(super) struct AriClient {
    url: String,
    access: Arc<AriAccess>,
}

/// The credentials and the HTTP client, which all PBXs share.
#[derive(Debug)]
pub(super) struct AriAccess {
    secret: Secret<AriCredentials>,
    client: Mutex<Option<TrustingClient>>,
}

/// An HTTP client, with the certificate authority that it trusts.
#[derive(Debug)]
struct TrustingClient {
    client: Client,
    ari_ca_pem: Option<String>,
}

/// A request without its credentials, so that it can be repeated with other ones.
struct AriRequest<'a> {
    doing: &'static str,
    method: Method,
    path: &'a str,
    body: Option<&'a Value>,
}

impl AriClient {
    pub(super) const fn new(url: String, access: Arc<AriAccess>) -> Self {
        Self { url, access }
    }

    /// The certificate authority that the last request trusted.
    #[cfg(test)]
    pub(super) async fn trusted_ca(&self) -> Option<String> {
        let cached = self.access.client.lock().await;
        cached.as_ref()?.ari_ca_pem.clone()
    }

    /// Sends a request. If Asterisk rejects the credentials, and the secret has newer ones, sends it once more with those.
    /// A rejected request has had no effect, so repeating it is safe.
    pub(super) async fn request(
        &self,
        doing: &'static str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response, AsteriskError> {
        let request = AriRequest {
            doing,
            method,
            path,
            body,
        };
        let secret = self.access.secret.value().await?;
        let reply = self.request_with(&secret, &request).await;
        let Some(rejection) = credential_rejection(&reply) else {
            return reply;
        };
        match self.access.secret.after_rejection(&secret).await {
            Some(newer) => {
                requests::log_retry(SYSTEM, rejection);
                self.request_with(&newer, &request).await
            }
            None => reply,
        }
    }

    async fn request_with(
        &self,
        secret: &AriCredentials,
        request: &AriRequest<'_>,
    ) -> Result<Response, AsteriskError> {
        let client = self.access.client(secret).await?;
        let url = format!("{}{}", self.url, request.path);
        let password = secret.ari_password.expose_secret();
        let mut builder = client
            .request(request.method.clone(), url)
            .basic_auth(&secret.ari_username, Some(password));
        if let Some(body) = request.body {
            builder = builder.json(body);
        }
        send(builder, request.doing).await
    }
}

impl AriAccess {
    pub(super) fn new(secret: Secret<AriCredentials>) -> Self {
        Self {
            secret,
            client: Mutex::default(),
        }
    }

    /// Fetches the secret and builds the client, if that has not been done yet. Ignores failures: the request that follows
    /// reports them.
    pub(super) async fn get_ready(&self) {
        if let Ok(secret) = self.secret.value().await {
            let _client = self.client(&secret).await;
        }
    }

    /// The client with its open connections. A new one is built when the secret names another certificate authority.
    async fn client(&self, secret: &AriCredentials) -> Result<Client, AsteriskError> {
        let mut cached = self.client.lock().await;
        if let Some(cached) = cached.as_ref()
            && cached.ari_ca_pem == secret.ari_ca_pem
        {
            return Ok(cached.client.clone());
        }
        let client = build_client(secret)?;
        *cached = Some(TrustingClient {
            client: client.clone(),
            ari_ca_pem: secret.ari_ca_pem.clone(),
        });
        Ok(client)
    }
}

/// Why a newer secret may help: Asterisk rejected the password, or its certificate is not trusted, or `ari_ca_pem` is
/// unusable. reqwest reports an untrusted certificate and a PBX that is down in the same way, so both count.
fn credential_rejection(reply: &Result<Response, AsteriskError>) -> Option<String> {
    let error = match reply {
        Ok(reply) => {
            let rejected = reply.status() == StatusCode::UNAUTHORIZED;
            return rejected.then(|| "unauthorized".to_owned());
        }
        Err(error) => error,
    };
    let may_be_trust = match error {
        AsteriskError::Unreachable(_, error) => error.is_connect() && !error.is_timeout(),
        error => matches!(error, AsteriskError::BadCertificate(_)),
    };
    may_be_trust.then(|| requests::error_chain(error))
}

/// Sends a request, and once more if the connection breaks.
///
/// Asterisk closes a connection that has been idle for 15 s (`session_keep_alive` in `http.conf`). A function that Lambda
/// has frozen meanwhile notices that only after it has sent its next request. Every ARI request here may be repeated.
async fn send(request: RequestBuilder, doing: &'static str) -> Result<Response, AsteriskError> {
    let copy = request.try_clone();
    let reply = match (
        xray::trace_request(SYSTEM, doing, request.send()).await,
        copy,
    ) {
        (Err(error), Some(copy)) if !error.is_timeout() && !error.is_connect() => {
            requests::log_retry(SYSTEM, requests::error_chain(&error.without_url()));
            xray::trace_request(SYSTEM, doing, copy.send()).await
        }
        (reply, _) => reply,
    };
    let unreachable =
        |error: reqwest::Error| AsteriskError::Unreachable(doing, error.without_url());
    let reply = reply.map_err(unreachable)?;
    match reply.status() {
        // Asterisk replies 503 while it boots. A proxy replies with one of these when Asterisk is down.
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            reply.error_for_status().map_err(unreachable)
        }
        _ => Ok(reply),
    }
}

/// Parses the JSON body of a reply.
pub(super) async fn parse_json<T: DeserializeOwned>(
    reply: Response,
    doing: &'static str,
) -> Result<T, AsteriskError> {
    let parsed = reply.json().await;
    parsed.map_err(|error| AsteriskError::Unreachable(doing, error.without_url()))
}

/// Fails unless the reply has one of these status codes.
pub(super) fn expect_status(
    reply: &Response,
    doing: &'static str,
    expected: &[StatusCode],
) -> Result<(), AsteriskError> {
    let status = reply.status();
    if expected.contains(&status) {
        Ok(())
    } else {
        Err(AsteriskError::Refused { doing, status })
    }
}

fn build_client(secret: &AriCredentials) -> Result<Client, AsteriskError> {
    let builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REPLY_TIMEOUT);
    let builder = match &secret.ari_ca_pem {
        Some(pem) => builder.tls_certs_only(certificate_authorities(pem)?),
        None => builder.tls_backend_preconfigured(https::public()),
    };
    builder.build().map_err(bad_certificate)
}

fn certificate_authorities(pem: &str) -> Result<Vec<Certificate>, AsteriskError> {
    let authorities = Certificate::from_pem_bundle(pem.as_bytes()).map_err(bad_certificate)?;
    // Without this check, the client would trust no certificate, and the PBX would seem unreachable.
    if authorities.is_empty() {
        return Err(AsteriskError::BadCertificate(None));
    }
    Ok(authorities)
}

fn bad_certificate(error: reqwest::Error) -> AsteriskError {
    AsteriskError::BadCertificate(Some(error))
}
