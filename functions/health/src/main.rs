//! `GET /health`: whether this region can handle calls, for load balancers and Route 53.
//!
//! The route needs no credentials, and a check pings each PBX. So this process checks at most once a second and gives all
//! clients the same answer.

mod shared_answer;

use std::time::Duration;

use ringback::api::http::{self, ApiAnswer, ApiError};
use ringback::asterisk::{Asterisk, PbxHealth};
use ringback::start::Start;
use ringback::store::Table;
use serde_json::{Map, Value, json};
use shared_answer::SharedAnswer;

/// Route 53 waits 2 s for the first byte after connecting.
const CHECK_TIMEOUT: Duration = Duration::from_millis(1_500);

struct HealthHandler {
    table: Table,
    sqs: aws_sdk_sqs::Client,
    queue_url: String,
    asterisk: Asterisk,
    region: String,
    last_report: SharedAnswer<HealthReport>,
}

/// Whether this region can handle calls, and the answer's body with the state of each dependency.
#[derive(Clone)]
struct HealthReport {
    healthy: bool,
    body: Value,
}

impl HealthHandler {
    async fn handle(&self) -> Result<ApiAnswer, ApiError> {
        let HealthReport { healthy, body } = self.last_report.get_or(|| self.check()).await;
        if healthy {
            Ok(ApiAnswer::ok(body))
        } else {
            Err(ApiError::unhealthy(body))
        }
    }

    async fn check(&self) -> HealthReport {
        let (table, queue, pbxs) = futures::join!(
            in_time(self.table.is_reachable()),
            in_time(self.queue_answers()),
            self.asterisk.health(CHECK_TIMEOUT),
        );
        // One PBX is enough: calls go over those that answer.
        let asterisk = pbxs.iter().any(|(_, health)| *health == PbxHealth::Ok);
        let pbxs: Map<String, Value> = pbxs
            .into_iter()
            .map(|(name, health)| (name.to_string(), health.as_str().into()))
            .collect();
        let body = json!({
            "region": self.region,
            "version": env!("CARGO_PKG_VERSION"),
            "dependencies": {
                "dynamodb": state_text(table),
                "sqs": state_text(queue),
                "asterisk": state_text(asterisk),
            },
            "pbxs": pbxs,
        });
        // The queue is not required: without it, the EventBridge schedules still end calls, only later.
        let healthy = table && asterisk;
        HealthReport { healthy, body }
    }

    async fn queue_answers(&self) -> bool {
        self.sqs
            .get_queue_attributes()
            .queue_url(&self.queue_url)
            .send()
            .await
            .is_ok()
    }
}

async fn in_time(answers: impl Future<Output = bool>) -> bool {
    tokio::time::timeout(CHECK_TIMEOUT, answers)
        .await
        .unwrap_or(false)
}

const fn state_text(answers: bool) -> &'static str {
    if answers { "ok" } else { "unreachable" }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let start = Start::function()?;
    let this = HealthHandler {
        table: start.table()?,
        sqs: start.sqs(),
        queue_url: start.environment.required("TIMEOUT_QUEUE_URL")?,
        asterisk: start.asterisk()?,
        region: start.region().to_owned(),
        last_report: SharedAnswer::new(),
    };
    http::serve(|_request, _invocation| this.handle()).await
}
