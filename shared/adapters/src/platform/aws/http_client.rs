//! The SDK's HTTP client: reqwest, as for all other systems. The SDK's own one contains HTTP/2, which no service here uses, and a second
//! TLS setup.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use reqwest::redirect::Policy;
use reqwest::retry;

use crate::platform::https;

/// The five roots of Amazon Trust Services. The certificate of every AWS endpoint has one of them.
///
/// <https://www.amazontrust.com/repository/>
const AMAZON: &[u8] = include_bytes!("amazon.pem");

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One client for all services, made at the first request. The SDK repeats and times its requests itself.
#[derive(Clone, Debug, Default)]
pub struct AwsHttpClient(Arc<OnceLock<SharedHttpConnector>>);

impl HttpClient for AwsHttpClient {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let connector = self
            .0
            .get_or_init(|| SharedHttpConnector::new(Connector(client())));
        connector.clone()
    }
}

fn client() -> Result<reqwest::Client, Arc<reqwest::Error>> {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(https::trusting(AMAZON))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(Policy::none())
        .retry(retry::never())
        .build();
    client.map_err(Arc::new)
}

#[derive(Debug)]
struct Connector(Result<reqwest::Client, Arc<reqwest::Error>>);

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new_boxed(Box::pin(async move {
            let client = client.map_err(|error| ConnectorError::user(error.into()))?;
            send(&client, request).await
        }))
    }
}

async fn send(
    client: &reqwest::Client,
    request: HttpRequest,
) -> Result<HttpResponse, ConnectorError> {
    let invalid = |error| ConnectorError::user(Box::new(error));
    let request = request
        .try_into_http1x()
        .map_err(|error| ConnectorError::user(error.into()))?
        .map(reqwest::Body::wrap);
    let request = reqwest::Request::try_from(request).map_err(invalid)?;
    let reply = client.execute(request).await.map_err(failure)?;
    let reply = http::Response::from(reply).map(SdkBody::from_body_1_x::<reqwest::Body, _>);
    HttpResponse::try_from(reply).map_err(|error| ConnectorError::other(error.into(), None))
}

/// The SDK repeats a request after both kinds.
fn failure(error: reqwest::Error) -> ConnectorError {
    let is_timeout = error.is_timeout();
    let source = error.without_url().into();
    if is_timeout {
        ConnectorError::timeout(source)
    } else {
        ConnectorError::io(source)
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
    use wiremock::matchers::{body_string, header, method, path};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;

    #[test]
    fn amazon_has_five_valid_root_certificates() {
        assert_eq!(https::roots_in(AMAZON).len(), 5);
    }

    fn request(url: &str) -> HttpRequest {
        let mut request = HttpRequest::new(SdkBody::from("a body"));
        request.set_method("PUT").unwrap();
        request.set_uri(url).unwrap();
        request.headers_mut().insert("x-amz-target", "A.B");
        request
    }

    #[tokio::test]
    async fn a_request_and_its_answer_arrive_whole() {
        let server = MockServer::start().await;
        Mock::given(method("PUT"))
            .and(path("/a/b%20c"))
            .and(header("x-amz-target", "A.B"))
            .and(body_string("a body"))
            .respond_with(
                ResponseTemplate::new(307)
                    .insert_header("location", "/elsewhere")
                    .set_body_string("an answer"),
            )
            .expect(1)
            .mount(&server)
            .await;
        let connector = Connector(client());
        let answer = connector.call(request(&format!("{}/a/b%20c", server.uri())));
        let answer = answer.await.unwrap();
        assert_eq!(answer.status().as_u16(), 307);
        assert_eq!(answer.headers().get("location"), Some("/elsewhere"));
        let body = reqwest::Body::wrap(answer.into_body());
        let text = http::Response::new(body);
        let text = reqwest::Response::from(text).text().await.unwrap();
        assert_eq!(text, "an answer");
    }

    #[tokio::test]
    async fn a_service_that_does_not_answer_is_an_error_that_the_sdk_repeats() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", closed.local_addr().unwrap());
        drop(closed);
        let error = Connector(client()).call(request(&url)).await.unwrap_err();
        assert!(error.is_io(), "{error:?}");
    }
}
