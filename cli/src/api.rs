//! The deployment's HTTP API, as an admin or an operator uses it.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::deployment::{Deployment, sentence};
use crate::failure::{Failure, Result};

/// The longest wait for an answer. A function that starts cold answers within 2 s.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The API with a token.
#[derive(Debug)]
pub(crate) struct Api {
    http: Client,
    base: String,
    token: SecretString,
}

/// The entry that a change replaces. The deployment refuses the change of any other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expects {
    /// Whatever it is.
    Anything,
    /// There is none.
    Nothing,
    /// It has this `ETag`.
    Entry(String),
}

/// An answer that is not 2xx.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    /// The body.
    pub(crate) answer: Value,
}

impl Api {
    /// The API of a deployment.
    pub(crate) fn new(deployment: &Deployment, token: SecretString) -> Result<Self> {
        let http = http_client(TIMEOUT)?;
        Ok(Self {
            http,
            base: deployment.http_url.clone(),
            token,
        })
    }

    /// Reads what is at a path.
    pub(crate) async fn read(&self, path: &str) -> Result<Value> {
        let answer = self.send(Method::GET, path, None, None).await?;
        answer.map_err(Refusal::into_failure)
    }

    /// Reads what is at a path; `None` if there is nothing.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<Value>> {
        match self.send(Method::GET, path, None, None).await? {
            Ok(answer) => Ok(Some(answer)),
            Err(refusal) if refusal.is("no_such_entry") => Ok(None),
            Err(refusal) => Err(refusal.into_failure()),
        }
    }

    /// Reads all pages of a list. `add` gets each page, and says whether it wants the next one.
    pub(crate) async fn read_pages(
        &self,
        path: &str,
        mut add: impl FnMut(&Value) -> bool,
    ) -> Result<()> {
        let mut page = self.read(path).await?;
        while add(&page) {
            let Some(next) = page["next"].as_str() else {
                return Ok(());
            };
            let separator = if path.contains('?') { '&' } else { '?' };
            let next = encoded(next);
            page = self.read(&format!("{path}{separator}next={next}")).await?;
        }
        Ok(())
    }

    /// Creates or replaces an entry, or deletes it (`None`), if it is as expected.
    pub(crate) async fn write(
        &self,
        path: &str,
        value: Option<&Value>,
        expects: &Expects,
    ) -> Result<std::result::Result<Value, Refusal>> {
        let method = match value {
            Some(_) => Method::PUT,
            None => Method::DELETE,
        };
        self.send(method, path, Some(expects), value).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        expects: Option<&Expects>,
        body: Option<&Value>,
    ) -> Result<std::result::Result<Value, Refusal>> {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method, url);
        request = request.bearer_auth(self.token.expose_secret());
        request = match expects {
            None | Some(Expects::Anything) => request,
            Some(Expects::Nothing) => request.header("if-none-match", "*"),
            Some(Expects::Entry(etag)) => request.header("if-match", etag),
        };
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request
            .send()
            .await
            .map_err(|error| self.no_answer(&error))?;
        let status = answer.status();
        let body = answer
            .bytes()
            .await
            .map_err(|error| self.no_answer(&error))?;
        let is_success = status.is_success();
        match serde_json::from_slice(&body) {
            Ok(answer) if is_success => Ok(Ok(answer)),
            Err(_) if is_success => Err(Failure::not_reachable(format!(
                "{} is not Ringback's API: its answer is not JSON.",
                self.base
            ))),
            answer => Ok(Err(Refusal {
                status,
                answer: answer.unwrap_or_default(),
            })),
        }
    }

    fn no_answer(&self, error: &reqwest::Error) -> Failure {
        let problem = match error.is_timeout() {
            true => "did not answer in time",
            false => "cannot be reached",
        };
        Failure::not_reachable(format!(
            "{} {problem}: check your network and `{}/health`.",
            self.base, self.base
        ))
    }
}

impl Refusal {
    /// Whether the answer has this code.
    pub(crate) fn is(&self, code: &str) -> bool {
        self.answer["code"] == code
    }

    /// Says why the command fails.
    pub(crate) fn into_failure(self) -> Failure {
        let error = self.answer["error"].as_str();
        let error = error.or_else(|| self.answer["message"].as_str());
        match self.status {
            StatusCode::UNAUTHORIZED => Failure::wrong_token(),
            status if status.is_server_error() => Failure::not_reachable(format!(
                "The deployment answered {}: {} Try again.",
                status.as_u16(),
                sentence(error.unwrap_or("no reason"))
            )),
            StatusCode::TOO_MANY_REQUESTS => {
                Failure::not_reachable("The deployment gets too many requests now: try again.")
            }
            status => Failure::refused(format!(
                "The deployment refused with {}: {}",
                status.as_u16(),
                sentence(error.unwrap_or("no reason"))
            )),
        }
    }
}

/// Text as a part of a path or query.
pub(crate) fn encoded(text: &str) -> String {
    // In a path, `+` would be a plus sign.
    let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
    encoded.replace('+', "%20")
}

/// A client with a time limit for each request.
pub(crate) fn http_client(timeout: Duration) -> Result<Client> {
    let client = Client::builder().timeout(timeout).build();
    client.map_err(|error| Failure::not_reachable(format!("There is no HTTPS client: {error}.")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_is_encoded_for_a_path() {
        assert_eq!(encoded("+91 80474"), "%2B91%2080474");
    }

    #[test]
    fn a_refusal_says_what_the_deployment_says() {
        let refusal = |status, answer| {
            let failure = Refusal { status, answer }.into_failure();
            (failure.number(), failure.to_string())
        };
        let (code, text) = refusal(
            StatusCode::BAD_REQUEST,
            json!({ "error": "number must be one", "code": "bad_field" }),
        );
        assert_eq!(code, 1);
        assert_eq!(text, "The deployment refused with 400: number must be one.");
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, Value::Null).0, 3);
        let (code, text) = refusal(
            StatusCode::UNAUTHORIZED,
            json!({ "message": "Unauthorized" }),
        );
        assert_eq!(code, 1);
        assert!(text.contains("ringback token"), "{text}");
    }
}
