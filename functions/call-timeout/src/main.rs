//! Handles timers that fire: a delayed SQS message on time, and an EventBridge schedule as the backstop. The queue also
//! brings versions of a call that replication between two regions has overwritten.

use lambda_runtime::{Error, LambdaEvent};
use ringback::platform::invocation::InvocationContext;
use ringback::start::{LiveSwitchboard, Start, run};
use ringback::switchboard::SwitchboardError;
use ringback::timers::TimerMessage;
use ringback_core::call::Event;
use ringback_core::ids::CallId;
use serde::Deserialize;
use serde_json::{Value, json};

/// What invokes this function.
#[derive(Deserialize)]
#[serde(untagged)]
enum TimerEvent {
    Queue {
        #[serde(rename = "Records")]
        messages: Vec<QueueMessage>,
    },
    Schedule(TimerMessage),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueueMessage {
    message_id: String,
    body: String,
    attributes: QueueAttributes,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct QueueAttributes {
    /// How often SQS has delivered the message, as text.
    approximate_receive_count: String,
}

impl QueueMessage {
    fn is_repeated(&self) -> bool {
        self.attributes.approximate_receive_count != "1"
    }
}

async fn handle(
    switchboard: &LiveSwitchboard,
    event: LambdaEvent<TimerEvent>,
) -> Result<Value, Error> {
    let invocation = InvocationContext::begin(&event.context);
    match event.payload {
        TimerEvent::Schedule(timer) => {
            fire(switchboard, timer, invocation).await?;
            Ok(json!({}))
        }
        TimerEvent::Queue { messages } => {
            let handled = messages
                .iter()
                .map(|message| handle_message(switchboard, message, invocation));
            let failures: Vec<Value> = futures::future::join_all(handled)
                .await
                .into_iter()
                .flatten()
                .map(|id| json!({ "itemIdentifier": id }))
                .collect();
            Ok(json!({ "batchItemFailures": failures }))
        }
    }
}

/// Returns the message's id if it failed, so that SQS delivers only this message again.
async fn handle_message<'a>(
    switchboard: &LiveSwitchboard,
    message: &'a QueueMessage,
    invocation: InvocationContext,
) -> Option<&'a str> {
    let id = &message.message_id;
    match serde_json::from_str::<TimerMessage>(&message.body) {
        Ok(timer) => {
            let call_id = timer.call_id;
            let mut fired = fire(switchboard, timer, invocation).await;
            if fired.is_ok() && message.is_repeated() {
                fired = handle_event(switchboard, call_id, &Event::TimerRepeated, invocation).await;
            }
            fired.err().map(|_| id.as_str())
        }
        Err(error) => {
            tracing::error!(message_id = id, %error, "message is not a timer");
            Some(id)
        }
    }
}

/// SQS or EventBridge retries a timer that failed.
async fn fire(
    switchboard: &LiveSwitchboard,
    timer: TimerMessage,
    invocation: InvocationContext,
) -> Result<(), Error> {
    handle_event(switchboard, timer.call_id, &timer.event(), invocation).await
}

/// Handles the event and logs a failure.
async fn handle_event(
    switchboard: &LiveSwitchboard,
    call_id: CallId,
    event: &Event,
    invocation: InvocationContext,
) -> Result<(), Error> {
    let InvocationContext { now, deadline } = invocation;
    let handling = switchboard.handle(call_id, event, now, deadline);
    let handled = tokio::time::timeout(invocation.time_left(now), handling).await;
    let error: Error = match handled {
        Ok(Ok(_)) => return Ok(()),
        // A timer is armed before its call is stored, and the item of an old call expires.
        Ok(Err(SwitchboardError::NoSuchCall)) => {
            tracing::warn!(%call_id, "timer of an unknown call");
            return Ok(());
        }
        Ok(Err(error)) => error.into(),
        Err(elapsed) => elapsed.into(),
    };
    tracing::error!(%call_id, %error, cause = ?error.source(), "timer failed");
    Err(error)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function()?;
    let switchboard = &start.switchboard_with_exotel()?;
    run(move |event| handle(switchboard, event)).await
}
