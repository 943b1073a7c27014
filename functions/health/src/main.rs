//! `GET /health`: whether calls can be handled here, for load balancers and Route 53.
//!
//! Anybody may ask, and asking pings each PBX. So an answer is good for a second, for everybody who asks this process.

mod shared_answer;

use std::time::Duration;

use ringback::api::http::{self, ApiAnswer, ApiError};
use ringback::asterisk::{Asterisk, Health as Pbx};
use ringback::start::Start;
use ringback::store::Table;
use serde_json::{Map, Value, json};
use shared_answer::SharedAnswer;

/// Route 53 waits 2 s for the first byte after connecting.
const PATIENCE: Duration = Duration::from_millis(1_500);

struct Health {
    table: Table,
    sqs: aws_sdk_sqs::Client,
    queue_url: String,
    asterisk: Asterisk,
    region: String,
    last: SharedAnswer<Report>,
}

/// Whether calls can be handled here, and the body that says why.
#[derive(Clone)]
struct Report {
    healthy: bool,
    body: Value,
}

impl Health {
    async fn handle(&self) -> Result<ApiAnswer, ApiError> {
        let Report { healthy, body } = self.last.find(|| self.check()).await;
        if healthy {
            Ok(ApiAnswer::ok(body))
        } else {
            Err(ApiError::unhealthy(body))
        }
    }

    async fn check(&self) -> Report {
        let (table, queue, pbxs) = futures::join!(
            in_time(self.table.is_reachable()),
            in_time(self.queue_answers()),
            self.asterisk.health(PATIENCE),
        );
        // What cannot be called over one PBX goes over the others.
        let asterisk = pbxs.iter().any(|(_, health)| *health == Pbx::Ok);
        let pbxs: Map<String, Value> = pbxs
            .into_iter()
            .map(|(name, health)| (name.to_string(), health.as_str().into()))
            .collect();
        let body = json!({
            "region": self.region,
            "version": env!("CARGO_PKG_VERSION"),
            "dependencies": { "dynamodb": word(table), "sqs": word(queue), "asterisk": word(asterisk) },
            "pbxs": pbxs,
        });
        // Without the queue the schedules still end calls, only later; without the other two there are no calls.
        let healthy = table && asterisk;
        Report { healthy, body }
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

async fn in_time(answer: impl Future<Output = bool>) -> bool {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .unwrap_or(false)
}

fn word(answers: bool) -> Value {
    if answers {
        "ok".into()
    } else {
        "unreachable".into()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let start = Start::function().await;
    let this = Health {
        table: start.table()?,
        sqs: start.sqs(),
        queue_url: start.environment.required("TIMEOUT_QUEUE_URL")?,
        asterisk: start.asterisk()?,
        region: start.region().to_owned(),
        last: SharedAnswer::new(),
    };
    http::serve(|_request, _invocation| this.handle()).await
}
