//! The trace of an invocation in AWS X-Ray, if the deployment has `TRACING=Active`. Each request to another system is a
//! subsegment, and each call that the invocation handles is a subsegment with the annotation `call_id`.
//!
//! Lambda runs X-Ray's daemon next to a function. A subsegment is one datagram to the daemon; the function waits for nothing.
//! Without `TRACING=Active` there is no socket. If X-Ray does not sample an invocation, no document is built.
//!
//! <https://docs.aws.amazon.com/xray/latest/devguide/xray-api-segmentdocuments.html>

use std::net::UdpSocket;
use std::sync::OnceLock;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::platform::clock;
use crate::platform::config::Environment;
use crate::telemetry::call_log_fields;
use ringback_core::timestamp::Timestamp;

/// The daemon expects this line before each document.
const HEADER: &str = "{\"format\": \"json\", \"version\": 1}\n";

static DAEMON: OnceLock<UdpSocket> = OnceLock::new();

tokio::task_local! {
    /// The trace of the invocation that this task handles.
    static TRACE: TraceContext;
}

/// Connects to the daemon at `AWS_XRAY_DAEMON_ADDRESS`, which Lambda sets, if this deployment has tracing.
pub(crate) fn start(environment: &Environment) {
    if environment.optional("TRACING").as_deref() != Some("Active") {
        return;
    }
    let Some(address) = environment.optional("AWS_XRAY_DAEMON_ADDRESS") else {
        return;
    };
    match daemon_at(&address) {
        Ok(daemon) => {
            let _first = DAEMON.set(daemon);
        }
        Err(error) => tracing::warn!(%error, "tracing not available"),
    }
}

fn daemon_at(address: &str) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    // A datagram that the daemon has no room for is lost. No call may wait for it.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Runs an invocation, with tracing if X-Ray samples it. `header` is its `X-Amzn-Trace-Id`.
pub(crate) async fn trace_invocation<T>(
    header: Option<&str>,
    invocation: impl Future<Output = T>,
) -> T {
    let trace = DAEMON.get().and(header).and_then(TraceContext::sampled);
    let Some(trace) = trace else {
        return invocation.await;
    };
    let result = TRACE.scope(trace.clone(), invocation).await;
    for (call, began) in call_log_fields::noted_calls() {
        let mut document = trace.document("call", began, clock::now());
        document["annotations"] = json!({ "call_id": call });
        send_to_daemon(&document);
    }
    result
}

/// Sends a request to a system outside AWS, with a subsegment for it. `doing` names the operation.
pub(crate) async fn trace_request<T, E>(
    system: &'static str,
    doing: &'static str,
    sending: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let subsegment = Subsegment::begin(|| (system.to_owned(), RemoteOperation::Other(doing)));
    let answer = sending.await;
    if let Some(subsegment) = subsegment {
        subsegment.end(answer.is_err());
    }
    answer
}

/// The trace and the segment that an invocation belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TraceContext {
    root: String,
    parent: String,
}

impl TraceContext {
    /// Reads `Root=1-…;Parent=…;Sampled=1`, in any order and among other fields. `None` if X-Ray does not sample it.
    fn sampled(header: &str) -> Option<Self> {
        let field = |wanted: &str| {
            let mut fields = header.split(';').filter_map(|field| field.split_once('='));
            fields.find(|(name, _)| name.trim() == wanted)
        };
        let (_, sampled) = field("Sampled")?;
        if sampled != "1" {
            return None;
        }
        Some(Self {
            root: field("Root")?.1.to_owned(),
            parent: field("Parent")?.1.to_owned(),
        })
    }

    /// A subsegment between these times.
    fn document(&self, name: &str, began: Timestamp, ended: Timestamp) -> Value {
        let (_, random) = Uuid::now_v7().as_u64_pair();
        json!({
            "type": "subsegment",
            "trace_id": self.root,
            "parent_id": self.parent,
            "id": format!("{random:016x}"),
            "name": name,
            "start_time": seconds(began),
            "end_time": seconds(ended),
        })
    }
}

/// The subsegment of a request in progress.
#[derive(Clone, Debug)]
pub(crate) struct Subsegment {
    trace: TraceContext,
    system: String,
    operation: RemoteOperation,
    began: Timestamp,
}

/// The operation of a request.
#[derive(Clone, Debug)]
pub(crate) enum RemoteOperation {
    /// An operation of an AWS API.
    Aws(String),
    /// An operation of another system.
    Other(&'static str),
}

impl Subsegment {
    /// Begins a subsegment, if this invocation is traced. Only then it calls `request` for the system and the operation.
    pub(crate) fn begin(request: impl FnOnce() -> (String, RemoteOperation)) -> Option<Self> {
        let trace = TRACE.try_with(TraceContext::clone).ok()?;
        let (system, operation) = request();
        let began = clock::now();
        Some(Self {
            trace,
            system,
            operation,
            began,
        })
    }

    /// Sends the subsegment at the end of the request. `failed` means that the system did not answer.
    pub(crate) fn end(&self, failed: bool) {
        send_to_daemon(&self.document(clock::now(), failed));
    }

    fn document(&self, now: Timestamp, failed: bool) -> Value {
        let mut document = self.trace.document(&self.system, self.began, now);
        match &self.operation {
            RemoteOperation::Aws(operation) => {
                document["namespace"] = "aws".into();
                document["aws"] = json!({ "operation": operation });
            }
            RemoteOperation::Other(doing) => {
                document["namespace"] = "remote".into();
                document["annotations"] = json!({ "doing": doing });
            }
        }
        if failed {
            document["fault"] = true.into();
        }
        document
    }
}

fn send_to_daemon(document: &Value) {
    if let Some(daemon) = DAEMON.get() {
        let _lost = daemon.send(format!("{HEADER}{document}").as_bytes());
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 fit into 53 bits"
)]
fn seconds(at: Timestamp) -> f64 {
    at.as_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_250);

    fn trace() -> TraceContext {
        TraceContext::sampled(
            "Root=1-65f2f7c0-0123456789abcdef01234567;Parent=53995c3f42cd8ad8;Sampled=1",
        )
        .unwrap()
    }

    #[test]
    fn only_sampled_invocations_are_traced() {
        assert_eq!(trace().parent, "53995c3f42cd8ad8");
        for header in [
            "",
            "Root=1-a-b;Parent=c",
            "Root=1-a-b;Parent=c;Sampled=0",
            "Root=1-a-b;Parent=c;Sampled=?",
            "Parent=c;Sampled=1",
            "Sampled=1;;=;Root",
        ] {
            assert_eq!(TraceContext::sampled(header), None, "{header}");
        }
        let any_order = "Lineage=1:a:0;Sampled=1;Parent=c; Root=1-a-b";
        assert_eq!(TraceContext::sampled(any_order).unwrap().root, "1-a-b");
    }

    #[test]
    fn a_subsegment_has_the_documented_format() {
        let subsegment = Subsegment {
            trace: trace(),
            system: "DynamoDB".to_owned(),
            operation: RemoteOperation::Aws("UpdateItem".to_owned()),
            began: NOW,
        };
        let mut document = subsegment.document(Timestamp::from_millis(1_710_417_600_300), false);
        let id = document["id"].take();
        let id = id.as_str().unwrap();
        assert!(id.len() == 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let expected = json!({
            "type": "subsegment", "name": "DynamoDB", "namespace": "aws", "aws": { "operation": "UpdateItem" }, "id": null,
            "trace_id": "1-65f2f7c0-0123456789abcdef01234567", "parent_id": "53995c3f42cd8ad8",
            "start_time": 1_710_417_600.25, "end_time": 1_710_417_600.3,
        });
        assert_eq!(document, expected);
    }

    #[tokio::test]
    async fn without_tracing_no_document_is_built() {
        let sampled = "Root=1-a-b;Parent=c;Sampled=1";
        let built = trace_invocation(Some(sampled), async {
            Subsegment::begin(|| unreachable!("there is no daemon")).is_some()
        });
        assert!(!built.await);
        assert!(DAEMON.get().is_none());
    }
}
