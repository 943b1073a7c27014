//! Sends a test push to a device, for `ringback device push-test`. It has no route: who may invoke it, IAM decides. The push is one
//! that ends a call which does not exist, so no device rings.

use std::convert::Infallible;

use lambda_runtime::LambdaEvent;
use ringback::platform::invocation::InvocationContext;
use ringback::push::{PushMessage, PushServices};
use ringback::start::{Start, run};
use ringback::store::StoreError;
use ringback::store::devices::{Device, Devices};
use ringback_core::ids::{DeviceId, Extension};
use serde::Deserialize;
use serde_json::{Value, json};

/// Which device.
#[derive(Deserialize)]
struct Recipient {
    extension: Extension,
    device_id: DeviceId,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let start = Start::function()?;
    let (devices, services) = (start.devices()?, start.push_services()?);
    run(async |event: LambdaEvent<Recipient>| {
        let invocation = InvocationContext::begin(&event.context);
        let answer = match find(&devices, &event.payload).await {
            Ok(Some(device)) => test(&services, &device, invocation).await,
            Ok(None) => json!({ "success": false, "code": "no_such_device" }),
            Err(error) => {
                json!({ "success": false, "code": "unavailable", "error": error.to_string() })
            }
        };
        Ok::<_, Infallible>(answer)
    })
    .await
}

async fn find(devices: &Devices, wanted: &Recipient) -> Result<Option<Device>, StoreError> {
    let mut found = devices.latest_of(&wanted.extension).await?.into_iter();
    Ok(found.find(|device| device.device_id == wanted.device_id))
}

/// Sends the push to each address that takes one without ringing, and says what its push service answered.
async fn test(services: &PushServices, device: &Device, invocation: InvocationContext) -> Value {
    let message = PushMessage::test(invocation.now);
    let mut results = Vec::new();
    for address in device.addresses() {
        let platform = address.platform.as_str();
        if !address.platform.accepts_cancellations() {
            results.push(json!({ "platform": platform, "result": "not_sent" }));
            continue;
        }
        let sent = services.send(address, &message, invocation.deadline);
        let (result, via) = sent.await;
        let mut answer = json!({ "platform": platform, "via": via, "result": "accepted" });
        if let Err(error) = result {
            answer["result"] = "refused".into();
            answer["error"] = error.to_string().into();
        }
        results.push(answer);
    }
    json!({ "success": true, "results": results })
}
