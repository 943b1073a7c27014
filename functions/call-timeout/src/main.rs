//! Timers fire: a delayed message from SQS, on time, or a schedule of EventBridge, as the backstop. The queue also brings
//! what replication between two regions has overwritten.

use lambda_runtime::{Error, LambdaEvent};
use ringback::platform::invocation::InvocationContext;
use ringback::start::{LiveSwitchboard, Start, run};
use ringback::switchboard::SwitchboardError;
use ringback::timers::Timer;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(untagged)]
enum Fired {
    Messages {
        #[serde(rename = "Records")]
        records: Vec<Message>,
    },
    Schedule(Timer),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    message_id: String,
    body: String,
}

async fn handle(switchboard: &LiveSwitchboard, event: LambdaEvent<Fired>) -> Result<Value, Error> {
    let invocation = InvocationContext::begin(&event.context);
    match event.payload {
        Fired::Schedule(timer) => {
            fire(switchboard, timer, invocation).await?;
            Ok(json!({}))
        }
        Fired::Messages { records } => {
            let fires = records
                .iter()
                .map(|message| fire_message(switchboard, message, invocation));
            let failures: Vec<Value> = futures::future::join_all(fires)
                .await
                .into_iter()
                .flatten()
                .map(|id| json!({ "itemIdentifier": id }))
                .collect();
            Ok(json!({ "batchItemFailures": failures }))
        }
    }
}

/// The message's id if it failed: SQS brings that one again, and no other.
async fn fire_message<'a>(
    switchboard: &LiveSwitchboard,
    message: &'a Message,
    invocation: InvocationContext,
) -> Option<&'a str> {
    let id = &message.message_id;
    match serde_json::from_str::<Timer>(&message.body) {
        Ok(timer) => fire(switchboard, timer, invocation)
            .await
            .err()
            .map(|_| id.as_str()),
        Err(error) => {
            tracing::error!(message_id = id, %error, "a message is no timer");
            Some(id)
        }
    }
}

/// What fails is told here, and brought again by whoever brought it.
async fn fire(
    switchboard: &LiveSwitchboard,
    timer: Timer,
    invocation: InvocationContext,
) -> Result<(), Error> {
    let call_id = timer.call_id;
    let fired = look_at(switchboard, timer, invocation).await;
    if let Err(error) = &fired {
        tracing::error!(%call_id, %error, cause = ?error.source(), "timer failed");
    }
    fired
}

async fn look_at(
    switchboard: &LiveSwitchboard,
    timer: Timer,
    invocation: InvocationContext,
) -> Result<(), Error> {
    let (call_id, event) = (timer.call_id, timer.event());
    let now = invocation.now;
    let handled = switchboard.handle(call_id, &event, now, invocation.deadline);
    let time_left = invocation.time_left(now);
    match tokio::time::timeout(time_left, handled).await? {
        Ok(_) => Ok(()),
        Err(SwitchboardError::NoSuchCall) => {
            tracing::warn!(%call_id, "timer of a call that is not there");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function().await;
    let switchboard = &start.switchboard_with_exotel()?;
    run(move |event| handle(switchboard, event)).await
}
