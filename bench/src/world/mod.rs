//! Everything around the functions, on this machine: DynamoDB, SQS, Scheduler, Secrets Manager, `@connections`, FCM, Google's
//! tokens and ARI, each behind TLS on a port of its own, and each answering at once.
//!
//! They stand in for the time that the others take, which is none of Ringback's; what they are asked for is counted.

mod expression;
mod server;
mod table;
mod units;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use ringback_local::credentials::{Certificate, ServiceAccount};
use serde_json::{Value, json};

use server::Server;
pub use table::{Change, Table, Units};
pub use units::Item;

/// The table's name.
pub const TABLE: &str = "ringback-bench";

/// What the events in `events/` are signed with (see the README there).
pub const JWT_SECRET: &str = "ringback-events-jwt-secret-not-for-any-deployment";
/// What Exotel's events there show.
pub const WEBHOOK_SECRET: &str = "ringback-events-webhook-secret-not-for-any-deployment";
/// What the PBX's events there show.
pub const HOOK_SECRET: &str = "ringback-events-hook-secret-not-for-any-deployment";
/// Signs call ids.
pub const SIGNING_SECRET: &str = "ringback-events-signing-secret-not-for-any-deployment";

/// Longer than any part of the bench takes, so that no ring is over before it is meant to be.
const RING_SECONDS: &str = "890";

/// A system that the functions ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are what they are called")]
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

    /// As the page calls it.
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

/// A request, as it came.
#[derive(Debug)]
struct Asked {
    system: System,
    /// Of AWS's JSON protocols.
    operation: Option<String>,
    method: Method,
    path: String,
    body: Bytes,
}

/// A request that was answered.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Who was asked.
    pub system: System,
    /// For what: an AWS operation, or method and path.
    pub what: String,
    /// When it had come.
    pub began: Instant,
    /// When its answer went out.
    pub ended: Instant,
    /// What DynamoDB charges for it.
    pub units: Units,
}

/// The systems, as long as this lives.
#[derive(Debug)]
pub struct World {
    state: Arc<State>,
    servers: BTreeMap<System, Server>,
    trusted: String,
}

#[derive(Debug)]
struct State {
    table: Mutex<Table>,
    secrets: Mutex<BTreeMap<String, Value>>,
    seen: Mutex<Option<Vec<Seen>>>,
    connected: Mutex<BTreeMap<System, usize>>,
    delay: Mutex<fn(System) -> Duration>,
}

impl World {
    /// Starts all of them. The file with the authorities that the functions are to trust is written into `folder`.
    ///
    /// # Errors
    /// When a certificate or a key cannot be made, or there is no port.
    pub async fn start(folder: &Path) -> Result<Self> {
        let certificate = Certificate::generate()?;
        let state = Arc::new(State {
            table: Mutex::default(),
            secrets: Mutex::default(),
            seen: Mutex::default(),
            connected: Mutex::default(),
            delay: Mutex::new(|_| Duration::ZERO),
        });
        let tls = server::tls(&certificate)?;
        let mut servers = BTreeMap::new();
        for system in System::ALL {
            let server = Server::start(system, tls.clone(), Arc::clone(&state)).await?;
            servers.insert(system, server);
        }
        let trusted = folder.join("trusted.pem");
        std::fs::write(&trusted, &certificate.ca_pem)?;
        let world = Self {
            state,
            servers,
            trusted: trusted.to_str().context("a path in UTF-8")?.to_owned(),
        };
        world.keep_secrets(&certificate)?;
        Ok(world)
    }

    fn keep_secrets(&self, certificate: &Certificate) -> Result<()> {
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
                    "ari_username": "ringback", "ari_password": "bench",
                    "ari_ca_pem": certificate.ca_pem,
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

    /// The key file of the account that pushes are sent with.
    ///
    /// # Errors
    /// When there is none.
    pub fn service_account(&self) -> Result<Value> {
        let secrets = lock(&self.state.secrets);
        secrets.get("fcm").cloned().context("no account")
    }

    /// The file with the authority that clients are to trust besides the public ones.
    #[must_use]
    pub fn trusted(&self) -> &str {
        &self.trusted
    }

    /// Where a system listens.
    #[must_use]
    pub fn url(&self, system: System) -> &str {
        self.servers.get(&system).map_or("", |server| &server.url)
    }

    /// What the functions find in their environment: as `template.yaml` has it, with this world in it.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<String, String> {
        let of_system = |system, path: &str| format!("{}{path}", self.url(system));
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
            ("FCM_BASE_URL", System::Fcm, ""),
            ("ARI_URL", System::Ari, "/ari"),
            ("EXOTEL_BASE_URL", System::Exotel, ""),
            ("EXOTEL_WEBHOOK_URL", System::Exotel, "/webhook"),
        ];
        let urls = urls.map(|(name, system, path)| (name, of_system(system, path)));
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
            ("LOG_LEVEL", "info"),
            ("RING_TIMEOUT_SECONDS", RING_SECONDS),
            ("SSL_CERT_FILE", &self.trusted),
            ("NODE_EXTRA_CA_CERTS", &self.trusted),
        ];
        let texts = texts.map(|(name, value)| (name, value.to_owned()));
        let all = urls.into_iter().chain(texts);
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The table, to be looked at or changed by hand.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.state.table)
    }

    /// From now on each request to a system takes so long to be answered.
    pub fn hold_back(&self, delay: fn(System) -> Duration) {
        *lock(&self.state.delay) = delay;
    }

    /// From now on each request is answered at once.
    pub fn hurry(&self) {
        self.hold_back(|_| Duration::ZERO);
    }

    /// From now on each request is noted.
    pub fn watch(&self) {
        *lock(&self.state.seen) = Some(Vec::new());
    }

    /// The requests since [`Self::watch`], in the order in which they were answered. None is noted after that.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).take().unwrap_or_default()
    }

    /// How many connections have been made to a system.
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

impl State {
    fn connected(&self, system: System) {
        *lock(&self.connected).entry(system).or_default() += 1;
    }

    async fn answer(&self, asked: &Asked) -> (StatusCode, Vec<u8>) {
        let began = Instant::now();
        let delay = *lock(&self.delay);
        let delay = delay(asked.system);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let (status, body, units) = match self.reply(asked) {
            Ok(reply) => reply,
            // A request that nobody plays here: the function logs what it was answered.
            Err(error) => {
                let body = json!({ "__type": "NotPlayed", "message": error.to_string() });
                (StatusCode::NOT_IMPLEMENTED, body, Units::default())
            }
        };
        if let Some(seen) = lock(&self.seen).as_mut() {
            let what = match &asked.operation {
                Some(operation) => operation.clone(),
                None => format!("{} {}", asked.method, asked.path),
            };
            seen.push(Seen {
                system: asked.system,
                what,
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

    fn reply(&self, asked: &Asked) -> Result<(StatusCode, Value, Units)> {
        let body = match asked.system {
            System::DynamoDb => {
                let request = serde_json::from_slice(&asked.body)?;
                let operation = asked.operation.as_deref().context("no operation")?;
                let reply = lock(&self.table).answer(operation, &request)?;
                if std::env::var_os("TRACE").is_some() {
                    eprintln!("DDB {operation} {} -> {} {:?}", request, reply.status, reply.units);
                }
                return Ok((StatusCode::from_u16(reply.status)?, reply.body, reply.units));
            }
            System::Secrets => {
                let request: Value = serde_json::from_slice(&asked.body)?;
                let name = request["SecretId"].as_str().context("no SecretId")?;
                let value = lock(&self.secrets).get(name).map(Value::to_string);
                json!({ "Name": name, "SecretString": value.context("no such secret")?, "VersionId": "1" })
            }
            System::Sqs if asked.operation.as_deref() == Some("GetQueueAttributes") => {
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
            System::Ari if asked.method == Method::DELETE => {
                return Ok((StatusCode::NO_CONTENT, Value::Null, Units::default()));
            }
            System::Ari if asked.path.contains("/endpoints/") => json!({ "state": "online" }),
            System::Ari => json!({ "id": "bench", "state": "Up" }),
            System::Exotel => json!({ "Call": { "Sid": "bench", "Status": "in-progress" } }),
        };
        Ok((StatusCode::OK, body, Units::default()))
    }
}
