//! The trace of an invocation, for AWS X-Ray, where a deployment asks for it (`TRACING=Active`): each request to another system
//! is a part of it, and each call that was dealt with is annotated as `call_id`.
//!
//! Lambda runs X-Ray's daemon beside a function; a part is one datagram to it, and waits for nothing. Where nobody has asked, or
//! X-Ray does not sample an invocation, nothing is built, and without `TRACING=Active` there is no socket.
//!
//! <https://docs.aws.amazon.com/xray/latest/devguide/xray-api-segmentdocuments.html>

use crate::platform::clock;
use std::net::UdpSocket;
use std::sync::OnceLock;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::platform::config::Environment;
use crate::telemetry::subject;
use ringback_core::timestamp::Timestamp;

/// What the daemon wants before each document.
const HEADER: &str = "{\"format\": \"json\", \"version\": 1}\n";

static DAEMON: OnceLock<UdpSocket> = OnceLock::new();

tokio::task_local! {
    /// Of the invocation that this task deals with.
    static HERE: Place;
}

/// Finds the daemon, if this deployment is traced: at `AWS_XRAY_DAEMON_ADDRESS`, which Lambda sets.
pub(crate) fn begin(environment: &Environment) {
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
        Err(error) => tracing::warn!(%error, "nothing is traced"),
    }
}

fn daemon_at(address: &str) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    // What the daemon has no room for is lost; no call waits for it.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Deals with an invocation, traced if Lambda says so: `header` is its `X-Amzn-Trace-Id`.
pub(crate) async fn traced<T>(header: Option<&str>, dealing: impl Future<Output = T>) -> T {
    let here = DAEMON.get().and(header).and_then(Place::sampled);
    let Some(here) = here else {
        return dealing.await;
    };
    let result = HERE.scope(here.clone(), dealing).await;
    for (call, began) in subject::calls() {
        let mut document = here.document("call", began, clock::now());
        document["annotations"] = json!({ "call_id": call });
        tell(&document);
    }
    result
}

/// A request to a system, as a part of the trace.
pub(crate) async fn part<T, E>(
    system: &'static str,
    doing: &'static str,
    sending: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let part = Part::begin(|| (system.to_owned(), Of::Remote(doing)));
    let answer = sending.await;
    if let Some(part) = part {
        part.end(answer.is_err());
    }
    answer
}

/// Where in a trace an invocation is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    root: String,
    parent: String,
}

impl Place {
    /// `Root=1-…;Parent=…;Sampled=1`, in any order; what else stands there is not for us.
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

    /// A part of the trace here, between these moments.
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

/// A request that is under way.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    here: Place,
    system: String,
    of: Of,
    began: Timestamp,
}

/// What kind of system a request goes to, and what it is for.
#[derive(Clone, Debug)]
pub(crate) enum Of {
    /// AWS, by operation.
    Aws(String),
    /// Another one.
    Remote(&'static str),
}

impl Part {
    /// Begins a part, if this invocation is traced.
    pub(crate) fn begin(what: impl FnOnce() -> (String, Of)) -> Option<Self> {
        let here = HERE.try_with(Place::clone).ok()?;
        let (system, of) = what();
        let began = clock::now();
        Some(Self {
            here,
            system,
            of,
            began,
        })
    }

    /// It is over; `failed`, if there was no answer.
    pub(crate) fn end(&self, failed: bool) {
        tell(&self.document(clock::now(), failed));
    }

    fn document(&self, now: Timestamp, failed: bool) -> Value {
        let mut document = self.here.document(&self.system, self.began, now);
        match &self.of {
            Of::Aws(operation) => {
                document["namespace"] = "aws".into();
                document["aws"] = json!({ "operation": operation });
            }
            Of::Remote(doing) => {
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

fn tell(document: &Value) {
    if let Some(daemon) = DAEMON.get() {
        let _lost = daemon.send(format!("{HEADER}{document}").as_bytes());
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 have room in 53 bits"
)]
fn seconds(at: Timestamp) -> f64 {
    at.as_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_250);

    fn here() -> Place {
        Place::sampled("Root=1-65f2f7c0-0123456789abcdef01234567;Parent=53995c3f42cd8ad8;Sampled=1")
            .unwrap()
    }

    #[test]
    fn only_what_is_sampled_is_traced() {
        assert_eq!(here().parent, "53995c3f42cd8ad8");
        for header in [
            "",
            "Root=1-a-b;Parent=c",
            "Root=1-a-b;Parent=c;Sampled=0",
            "Root=1-a-b;Parent=c;Sampled=?",
            "Parent=c;Sampled=1",
            "Sampled=1;;=;Root",
        ] {
            assert_eq!(Place::sampled(header), None, "{header}");
        }
        let any_order = "Lineage=1:a:0;Sampled=1;Parent=c; Root=1-a-b";
        assert_eq!(Place::sampled(any_order).unwrap().root, "1-a-b");
    }

    #[test]
    fn a_part_is_a_subsegment_as_x_ray_documents_it() {
        let part = Part {
            here: here(),
            system: "DynamoDB".to_owned(),
            of: Of::Aws("UpdateItem".to_owned()),
            began: NOW,
        };
        let mut document = part.document(Timestamp::from_millis(1_710_417_600_300), false);
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
    async fn where_nobody_has_asked_nothing_is_built() {
        let sampled = "Root=1-a-b;Parent=c;Sampled=1";
        let built = traced(Some(sampled), async {
            Part::begin(|| unreachable!("no daemon was looked for")).is_some()
        });
        assert!(!built.await);
        assert!(DAEMON.get().is_none());
    }
}
