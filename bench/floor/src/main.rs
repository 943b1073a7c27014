//! The least work for an event with requests to AWS, for comparison: a function on the same runtime crate that sends signed requests one
//! after the other over one connection, with hyper and rustls alone.

#![expect(
    clippy::disallowed_methods,
    reason = "this program has no configuration or clock of its own"
)]

use std::env;
use std::sync::Arc;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// How many requests the function sends.
#[derive(Deserialize)]
struct Event {
    requests: usize,
}

struct Floor {
    /// `host:port` of DynamoDB.
    address: String,
    region: String,
    credentials: Credentials,
    body: Bytes,
    connection: Mutex<SendRequest<Full<Bytes>>>,
}

impl Floor {
    async fn start() -> Result<Self, Error> {
        let url = env::var("AWS_ENDPOINT_URL_DYNAMODB")?;
        let address = url.trim_start_matches("https://").to_owned();
        let key = json!({ "pk": { "S": "CALL#floor" }, "sk": { "S": "CALL" } });
        let body = json!({ "TableName": env::var("TABLE_NAME")?, "Key": key });
        Ok(Self {
            region: env::var("AWS_REGION")?,
            credentials: Credentials::new(
                env::var("AWS_ACCESS_KEY_ID")?,
                env::var("AWS_SECRET_ACCESS_KEY")?,
                env::var("AWS_SESSION_TOKEN").ok(),
                None,
                "environment",
            ),
            body: body.to_string().into(),
            connection: Mutex::new(connect(&address).await?),
            address,
        })
    }

    async fn handle(&self, event: Event) -> Result<Value, Error> {
        for _ in 0..event.requests {
            let request = self.request()?;
            let mut connection = self.connection.lock().await;
            let answer = connection.send_request(request).await?;
            let body = answer.into_body().collect().await?.to_bytes();
            let _item: Value = serde_json::from_slice(&body)?;
        }
        Ok(json!({ "statusCode": 200 }))
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::post(format!("https://{}/", self.address))
            .header("host", &self.address)
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", "DynamoDB_20120810.GetItem")
            .body(Full::new(self.body.clone()))?;
        let identity = self.credentials.clone().into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("dynamodb")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?;
        let url = request.uri().to_string();
        let headers = request.headers().iter();
        let headers =
            headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let body = SignableBody::Bytes(&self.body);
        let signable = SignableRequest::new("POST", &url, headers, body)?;
        let (instructions, _signature) = sign(signable, &params.into())?.into_parts();
        instructions.apply_to_request_http1x(&mut request);
        *request.uri_mut() = "/".parse()?;
        Ok(request)
    }
}

async fn connect(address: &str) -> Result<SendRequest<Full<Bytes>>, Error> {
    let mut trusted = RootCertStore::empty();
    let authorities = CertificateDer::pem_file_iter(env::var("SSL_CERT_FILE")?)?;
    trusted.add_parsable_certificates(authorities.flatten());
    let config = ClientConfig::builder()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let host = address.split(':').next().unwrap_or_default().to_owned();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector
        .connect(ServerName::try_from(host)?, stream)
        .await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let floor = &Floor::start().await?;
    let handle = |event: LambdaEvent<Event>| floor.handle(event.payload);
    lambda_runtime::run(service_fn(handle)).await
}
