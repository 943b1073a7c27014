//! Stand-ins for the systems that the functions use: DynamoDB, SQS, Scheduler, Secrets Manager, SNS, `@connections`, FCM,
//! Google's tokens, ARI and Exotel.
//!
//! Each listens on its own port, with TLS by default, sends canned answers without delay and counts the requests. So the figures show what
//! Ringback costs, not how long the systems take.

mod items;
mod units;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use ringback_local::credentials::{Certificate, ServiceAccount};
use serde_json::{Value, json};

use crate::server::{self, Answers, Server};
pub use items::{ItemChange, StoredItems};
pub use units::{Item, RequestUnits};

/// The table's name.
pub const TABLE: &str = "ringback-bench";

/// The secret that signs the tokens in `events/` (see the README there).
pub const JWT_SECRET: &str = "ringback-events-jwt-secret-not-for-any-deployment";
/// The secret in Exotel's events there.
pub const WEBHOOK_SECRET: &str = "ringback-events-webhook-secret-not-for-any-deployment";
/// The secret in the PBX's events there.
pub const HOOK_SECRET: &str = "ringback-events-hook-secret-not-for-any-deployment";
/// The secret that signs call ids.
pub const SIGNING_SECRET: &str = "ringback-events-signing-secret-not-for-any-deployment";

/// The ARI user.
pub const ARI_USERNAME: &str = "ringback";
/// The ARI password.
pub const ARI_PASSWORD: &str = "bench";

/// Longer than any part of the bench takes, so that no call times out on its own.
const RING_SECONDS: &str = "890";

/// A system that the functions send requests to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum System {
    DynamoDb,
    Sqs,
    Scheduler,
    Secrets,
    Sns,
    Connections,
    Fcm,
    GoogleToken,
    Ari,
    Exotel,
}

impl System {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::DynamoDb,
        Self::Sqs,
        Self::Scheduler,
        Self::Secrets,
        Self::Sns,
        Self::Connections,
        Self::Fcm,
        Self::GoogleToken,
        Self::Ari,
        Self::Exotel,
    ];

    /// Its name in the results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DynamoDb => "DynamoDB",
            Self::Sqs => "SQS",
            Self::Scheduler => "Scheduler",
            Self::Secrets => "Secrets Manager",
            Self::Sns => "SNS",
            Self::Connections => "@connections",
            Self::Fcm => "FCM",
            Self::GoogleToken => "Google's tokens",
            Self::Ari => "ARI",
            Self::Exotel => "Exotel",
        }
    }
}

/// A request to a stand-in.
#[derive(Debug)]
struct ReceivedRequest {
    system: System,
    /// The operation of one of AWS's JSON protocols.
    operation: Option<String>,
    method: Method,
    path: String,
    body: Bytes,
}

/// The items in a request to DynamoDB, by the kinds in their keys.
fn named_items(request: &Value) -> Vec<String> {
    let kind = |key: &Value| {
        let text = key["S"].as_str().unwrap_or_default();
        let end = text.find('#').map_or(text.len(), |hash| hash + 1);
        text[..end].to_owned()
    };
    let key = |of: &Value| format!("{} {}", kind(&of["pk"]), kind(&of["sk"]));
    let transaction = request["TransactItems"].as_array().into_iter().flatten();
    let parts =
        transaction.flat_map(|part| part.as_object().into_iter().flat_map(|it| it.values()));
    let written = std::iter::once(request).chain(parts).flat_map(|part| {
        let keys = [&part["Key"], &part["Item"]].into_iter();
        keys.filter(|key| key.is_object()).map(key)
    });
    let partition = &request["ExpressionAttributeValues"][":pk"];
    let queried = partition
        .is_object()
        .then(|| format!("{} …", kind(partition)));
    written.chain(queried).collect()
}

/// A request that a stand-in has answered.
#[derive(Clone, Debug)]
pub struct AnsweredRequest {
    /// The system.
    pub system: System,
    /// The AWS operation, or method and path.
    pub operation: String,
    /// The items that DynamoDB reads or writes, as `pk sk` without ids.
    pub items: Vec<String>,
    /// When the whole request had arrived.
    pub began: Instant,
    /// When the answer was ready.
    pub ended: Instant,
    /// What DynamoDB charges for it.
    pub units: RequestUnits,
}

/// How the functions reach the stand-ins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTPS, as in a deployment.
    Tls,
    /// HTTP.
    Plain,
}

/// The running stand-ins. Dropping this stops them.
#[derive(Debug)]
pub struct StandIns {
    state: Arc<State>,
    servers: BTreeMap<System, Server>,
    certificate: Certificate,
    ca_file: String,
}

/// One of them.
#[derive(Debug)]
struct StandIn {
    system: System,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    items: Mutex<StoredItems>,
    secrets: Mutex<BTreeMap<String, Value>>,
    recorded: Mutex<Option<Vec<AnsweredRequest>>>,
    connected: Mutex<BTreeMap<System, usize>>,
    delay: Mutex<fn(System) -> Duration>,
}

impl StandIns {
    /// Starts all stand-ins. Writes the certificate authority that the functions need into `folder`.
    ///
    /// # Errors
    /// When a certificate or a key cannot be generated, or no port is free.
    pub async fn start(folder: &Path, transport: Transport) -> Result<Self> {
        let certificate = Certificate::generate()?;
        let state = Arc::new(State {
            items: Mutex::default(),
            secrets: Mutex::default(),
            recorded: Mutex::default(),
            connected: Mutex::default(),
            delay: Mutex::new(|_| Duration::ZERO),
        });
        let tls = match transport {
            Transport::Tls => Some(server::tls(&certificate)?),
            Transport::Plain => None,
        };
        let mut servers = BTreeMap::new();
        for system in System::ALL {
            let stand_in = StandIn {
                system,
                state: Arc::clone(&state),
            };
            let server = Server::start(tls.clone(), Arc::new(stand_in)).await;
            servers.insert(system, server.context(system.name())?);
        }
        let ca_file = folder.join("ca.pem");
        std::fs::write(&ca_file, &certificate.ca_pem)?;
        let stand_ins = Self {
            state,
            servers,
            certificate,
            ca_file: ca_file.to_str().context("a path in UTF-8")?.to_owned(),
        };
        stand_ins.set_secrets()?;
        Ok(stand_ins)
    }

    fn set_secrets(&self) -> Result<()> {
        let token_uri = format!("{}/token", self.url(System::GoogleToken));
        let account = ServiceAccount::generate(&token_uri)?;
        let values = [
            ("app", json!({ "jwt_secret": JWT_SECRET })),
            ("exotel", json!({})),
            ("webhook", json!({ "webhook_secret": WEBHOOK_SECRET })),
            ("hook", json!({ "hook_secret": HOOK_SECRET })),
            ("signing", json!({ "signing_secret": SIGNING_SECRET })),
            (
                "asterisk",
                json!({
                    "ari_username": ARI_USERNAME, "ari_password": ARI_PASSWORD,
                    "ari_ca_pem": self.certificate.ca_pem,
                }),
            ),
            (
                "fcm",
                json!({
                    "type": "service_account",
                    "project_id": account.project_id, "client_email": account.client_email,
                    "private_key_id": account.private_key_id, "private_key": account.private_key_pem,
                    "token_uri": account.token_uri,
                }),
            ),
        ];
        let values = values.map(|(name, value)| (name.to_owned(), value));
        lock(&self.state.secrets).extend(values);
        Ok(())
    }

    /// The key file of FCM's service account.
    ///
    /// # Errors
    /// When there is none.
    pub fn service_account(&self) -> Result<Value> {
        let secrets = lock(&self.state.secrets);
        secrets.get("fcm").cloned().context("no account")
    }

    /// The certificate of the stand-ins.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The file with the certificate authority of the stand-ins.
    #[must_use]
    pub fn ca_file(&self) -> &str {
        &self.ca_file
    }

    /// The base URL of a stand-in.
    #[must_use]
    pub fn url(&self, system: System) -> &str {
        self.servers.get(&system).map_or("", |server| &server.url)
    }

    /// The environment variables of the functions, as in `template.yaml`, with the addresses of the stand-ins.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<String, String> {
        let function = "arn:aws:lambda:ap-south-1:000000000000:function:bench-call-timeout";
        let role = "arn:aws:iam::000000000000:role/bench-scheduler";
        let urls = [
            ("AWS_ENDPOINT_URL_DYNAMODB", System::DynamoDb, ""),
            ("AWS_ENDPOINT_URL_SQS", System::Sqs, ""),
            ("AWS_ENDPOINT_URL_SCHEDULER", System::Scheduler, ""),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", System::Secrets, ""),
            ("AWS_ENDPOINT_URL_SNS", System::Sns, ""),
            ("WS_MANAGEMENT_URL", System::Connections, "/exotel-stream"),
            ("TIMEOUT_QUEUE_URL", System::Sqs, "/000000000000/timeouts"),
            ("REPLAY_QUEUE_URL", System::Sqs, "/000000000000/replays"),
            ("FCM_BASE_URL", System::Fcm, ""),
            ("ARI_URL", System::Ari, "/ari"),
            ("EXOTEL_BASE_URL", System::Exotel, ""),
            ("EXOTEL_WEBHOOK_URL", System::Exotel, "/webhook"),
        ];
        let urls = urls.map(|(name, system, path)| (name, format!("{}{path}", self.url(system))));
        let texts = [
            ("AWS_REGION", "ap-south-1"),
            ("AWS_ACCESS_KEY_ID", "bench"),
            ("AWS_SECRET_ACCESS_KEY", "bench"),
            ("AWS_SESSION_TOKEN", "bench"),
            ("TABLE_NAME", TABLE),
            ("TIMEOUT_FUNCTION_ARN", function),
            ("SCHEDULE_GROUP", "bench"),
            ("SCHEDULER_ROLE_ARN", role),
            ("APP_SECRET_ARN", "app"),
            ("EXOTEL_SECRET_ARN", "exotel"),
            ("WEBHOOK_SECRET_ARN", "webhook"),
            ("HOOK_SECRET_ARN", "hook"),
            ("ASTERISK_SECRET_ARN", "asterisk"),
            ("FCM_SECRET_ARN", "fcm"),
            ("SIGNING_SECRET_ARN", "signing"),
            ("HTTP_URL", "https://calls.example.com"),
            ("EXOTEL_STREAM_URL", "wss://calls.example.com/exotel-stream"),
            ("LOG_LEVEL", "info"),
            ("RING_TIMEOUT_SECONDS", RING_SECONDS),
            ("SSL_CERT_FILE", &self.ca_file),
            ("NODE_EXTRA_CA_CERTS", &self.ca_file),
        ];
        let texts = texts.map(|(name, value)| (name, value.to_owned()));
        let all = urls.into_iter().chain(texts);
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The items that the DynamoDB stand-in answers with.
    pub fn items(&self) -> MutexGuard<'_, StoredItems> {
        lock(&self.state.items)
    }

    /// Delays each answer by this much from now on.
    pub fn delay_answers(&self, delay: fn(System) -> Duration) {
        *lock(&self.state.delay) = delay;
    }

    /// Answers without delay from now on.
    pub fn answer_at_once(&self) {
        self.delay_answers(|_| Duration::ZERO);
    }

    /// Records each request from now on.
    pub fn start_recording(&self) {
        *lock(&self.state.recorded) = Some(Vec::new());
    }

    /// Stops recording. Returns the requests since [`Self::start_recording`], in the order of their answers.
    #[must_use]
    pub fn recorded(&self) -> Vec<AnsweredRequest> {
        lock(&self.state.recorded).take().unwrap_or_default()
    }

    /// How many connections the functions have opened to a system.
    #[must_use]
    pub fn connections_to(&self, system: System) -> usize {
        lock(&self.state.connected)
            .get(&system)
            .copied()
            .unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Answers for StandIn {
    fn connected(&self) {
        *lock(&self.state.connected).entry(self.system).or_default() += 1;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let target = head.headers.get("x-amz-target");
        let request = ReceivedRequest {
            system: self.system,
            operation: target
                .and_then(|target| target.to_str().ok()?.rsplit_once('.'))
                .map(|(_, operation)| operation.to_owned()),
            method: head.method,
            path: head.uri.path().to_owned(),
            body: server::whole(body).await,
        };
        let (status, body) = self.state.answer(&request).await;
        let kind = match self.system {
            System::DynamoDb => "application/x-amz-json-1.0",
            _ => "application/json",
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static(kind));
        response
    }
}

impl State {
    async fn answer(&self, request: &ReceivedRequest) -> (StatusCode, Vec<u8>) {
        let began = Instant::now();
        let delay = *lock(&self.delay);
        let delay = delay(request.system);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let (status, body, units) = match self.canned_answer(request) {
            Ok(answer) => answer,
            // The function logs this answer.
            Err(error) => {
                let body = json!({ "__type": "NoCannedAnswer", "message": error.to_string() });
                (StatusCode::NOT_IMPLEMENTED, body, RequestUnits::default())
            }
        };
        if let Some(recorded) = lock(&self.recorded).as_mut() {
            let operation = match &request.operation {
                Some(operation) => operation.clone(),
                None => format!("{} {}", request.method, request.path),
            };
            recorded.push(AnsweredRequest {
                system: request.system,
                operation,
                items: serde_json::from_slice(&request.body)
                    .map(|body| named_items(&body))
                    .unwrap_or_default(),
                began,
                ended: Instant::now(),
                units,
            });
        }
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        (status, body)
    }

    fn canned_answer(
        &self,
        request: &ReceivedRequest,
    ) -> Result<(StatusCode, Value, RequestUnits)> {
        let body = match request.system {
            System::DynamoDb => {
                let body = serde_json::from_slice(&request.body)?;
                let operation = request.operation.as_deref().context("no operation")?;
                let answer = lock(&self.items).answer(operation, &body)?;
                return Ok((
                    StatusCode::from_u16(answer.status)?,
                    answer.body,
                    answer.units,
                ));
            }
            System::Secrets => {
                let body: Value = serde_json::from_slice(&request.body)?;
                let name = body["SecretId"].as_str().context("no SecretId")?;
                let value = lock(&self.secrets).get(name).map(Value::to_string);
                json!({ "Name": name, "SecretString": value.context("no such secret")?, "VersionId": "1" })
            }
            System::Sqs if request.operation.as_deref() == Some("GetQueueAttributes") => {
                json!({ "Attributes": {} })
            }
            System::Sqs => json!({ "MessageId": "bench" }),
            System::Scheduler => {
                json!({ "ScheduleArn": "arn:aws:scheduler:ap-south-1:000000000000:schedule/bench/1" })
            }
            System::Connections | System::Sns => json!({}),
            System::Fcm => json!({ "name": "projects/bench/messages/1" }),
            System::GoogleToken => {
                json!({ "access_token": "bench", "expires_in": 3599, "token_type": "Bearer" })
            }
            System::Ari if request.method == Method::DELETE => {
                return Ok((StatusCode::NO_CONTENT, Value::Null, RequestUnits::default()));
            }
            System::Ari if request.path.contains("/endpoints/") => json!({ "state": "online" }),
            // The progress of a phone's leg. Its caller exists.
            System::Ari if request.path.ends_with("/variable") => {
                json!({ "value": "Ringing 1 sip:1001@192.0.2.10:5060" })
            }
            System::Ari => json!({ "id": "bench", "state": "Up" }),
            System::Exotel => json!({ "Call": { "Sid": "bench", "Status": "in-progress" } }),
        };
        Ok((StatusCode::OK, body, RequestUnits::default()))
    }
}
