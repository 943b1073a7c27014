//! ARI over HTTPS: how one Asterisk is asked. All of them know us by the same user and password.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;

use super::AsteriskError;
use crate::platform::https;
use crate::platform::secrets::{AriCredentials, Secret};
use crate::telemetry::requests;
use crate::telemetry::xray;

/// As metrics and traces call it.
pub(super) const SYSTEM: &str = "Asterisk";

/// Asterisk answers an originate at once, and lives near us.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// The REST interface of one Asterisk.
#[derive(Debug)]
pub(super) struct Ari {
    url: String,
    access: Arc<Access>,
}

/// What opens ARI, and whom we take for Asterisk: the same for all of them.
#[derive(Debug)]
pub(super) struct Access {
    secret: Secret<AriCredentials>,
    client: Mutex<Option<Trusting>>,
}

/// A client, and the certificate authority that it trusts.
#[derive(Debug)]
struct Trusting {
    client: Client,
    ari_ca_pem: Option<String>,
}

impl Ari {
    /// The authority that the last request trusted.
    #[cfg(test)]
    pub(super) async fn trusts(&self) -> Option<String> {
        let held = self.access.client.lock().await;
        held.as_ref()?.ari_ca_pem.clone()
    }

    pub(super) const fn at(url: String, access: Arc<Access>) -> Self {
        Self { url, access }
    }

    /// Asks with the password that we have and, if Asterisk does not take that, with the one that has replaced it. A
    /// refused request has done nothing, so asking again is safe.
    pub(super) async fn ask(
        &self,
        doing: &'static str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response, AsteriskError> {
        let asking = Asking {
            doing,
            method,
            path,
            body,
        };
        let secret = self.access.secret.value().await?;
        let answer = self.ask_with(&secret, &asking).await;
        let Some(refusal) = refusal(&answer) else {
            return answer;
        };
        match self.access.secret.after_rejection(&secret).await {
            Some(newer) => {
                requests::log_retry(SYSTEM, refusal);
                self.ask_with(&newer, &asking).await
            }
            None => answer,
        }
    }

    async fn ask_with(
        &self,
        secret: &AriCredentials,
        asking: &Asking<'_>,
    ) -> Result<Response, AsteriskError> {
        let client = self.access.client(secret).await?;
        let url = format!("{}{}", self.url, asking.path);
        let password = secret.ari_password.expose_secret();
        let mut request = client
            .request(asking.method.clone(), url)
            .basic_auth(&secret.ari_username, Some(password));
        if let Some(body) = asking.body {
            request = request.json(body);
        }
        send(request, asking.doing).await
    }
}

impl Access {
    pub(super) fn by(secret: Secret<AriCredentials>) -> Self {
        Self {
            secret,
            client: Mutex::default(),
        }
    }

    /// Fetches the secret and makes the client, if that has not been done yet. A request says what comes of it.
    pub(super) async fn get_ready(&self) {
        if let Ok(secret) = self.secret.value().await {
            let _client = self.client(&secret).await;
        }
    }

    /// The client, with its open connections, for as long as it trusts whom the secret says.
    async fn client(&self, secret: &AriCredentials) -> Result<Client, AsteriskError> {
        let mut held = self.client.lock().await;
        if let Some(held) = held.as_ref()
            && held.ari_ca_pem == secret.ari_ca_pem
        {
            return Ok(held.client.clone());
        }
        let client = client(secret)?;
        *held = Some(Trusting {
            client: client.clone(),
            ari_ca_pem: secret.ari_ca_pem.clone(),
        });
        Ok(client)
    }
}

/// A request of ARI, but for who asks.
struct Asking<'a> {
    doing: &'static str,
    method: Method,
    path: &'a str,
    body: Option<&'a Value>,
}

/// Why a newer secret may help: the password was refused, or we do not trust Asterisk's certificate, or were not
/// able to say whom to trust. A certificate that is not trusted is not told from an Asterisk that is not there.
fn refusal(answer: &Result<Response, AsteriskError>) -> Option<String> {
    let error = match answer {
        Ok(answer) => {
            let refused = answer.status() == StatusCode::UNAUTHORIZED;
            return refused.then(|| "unauthorized".to_owned());
        }
        Err(error) => error,
    };
    let may_be_trust = match error {
        AsteriskError::Unreachable(_, error) => error.is_connect() && !error.is_timeout(),
        error => matches!(error, AsteriskError::BadCertificate(_)),
    };
    may_be_trust.then(|| requests::error_chain(error))
}

/// Asterisk closes a connection that has been idle for 15 s, which a function that was frozen meanwhile notices only
/// when it has sent the next request. So what breaks off is sent again; every request here may be.
async fn send(request: RequestBuilder, doing: &'static str) -> Result<Response, AsteriskError> {
    let again = request.try_clone();
    let answer = match (
        xray::trace_request(SYSTEM, doing, request.send()).await,
        again,
    ) {
        (Err(error), Some(again)) if !error.is_timeout() && !error.is_connect() => {
            requests::log_retry(SYSTEM, requests::error_chain(&error.without_url()));
            xray::trace_request(SYSTEM, doing, again.send()).await
        }
        (answer, _) => answer,
    };
    let unreachable =
        |error: reqwest::Error| AsteriskError::Unreachable(doing, error.without_url());
    let answer = answer.map_err(unreachable)?;
    match answer.status() {
        // Asterisk says 503 while it starts, and the proxy says these for an Asterisk that is not there.
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            answer.error_for_status().map_err(unreachable)
        }
        _ => Ok(answer),
    }
}

pub(super) async fn read<T: DeserializeOwned>(
    answer: Response,
    doing: &'static str,
) -> Result<T, AsteriskError> {
    let read = answer.json().await;
    read.map_err(|error| AsteriskError::Unreachable(doing, error.without_url()))
}

fn client(secret: &AriCredentials) -> Result<Client, AsteriskError> {
    let builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REPLY_TIMEOUT);
    let builder = match &secret.ari_ca_pem {
        Some(pem) => builder.tls_certs_only(authorities(pem)?),
        None => builder.tls_backend_preconfigured(https::public()),
    };
    builder.build().map_err(bad_certificate)
}

/// What holds no certificate would be taken for trust in nobody, and show as an Asterisk that cannot be reached.
fn authorities(pem: &str) -> Result<Vec<Certificate>, AsteriskError> {
    let authorities = Certificate::from_pem_bundle(pem.as_bytes()).map_err(bad_certificate)?;
    if authorities.is_empty() {
        return Err(AsteriskError::BadCertificate(None));
    }
    Ok(authorities)
}

fn bad_certificate(error: reqwest::Error) -> AsteriskError {
    AsteriskError::BadCertificate(Some(error))
}

pub(super) fn expect(
    answer: &Response,
    doing: &'static str,
    expected: &[StatusCode],
) -> Result<(), AsteriskError> {
    let status = answer.status();
    if expected.contains(&status) {
        Ok(())
    } else {
        Err(AsteriskError::Refused { doing, status })
    }
}
