//! `ringback device`: the devices of an extension, and a test of the pushes to one.

use clap::Subcommand;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::api::{Api, encoded};
use crate::deployment::{Deployment, sentence};
use crate::failure::{Failure, Result};
use crate::lambda;
use crate::output::{Output, columns};
use crate::token::{self, Claims, Role};
use crate::words;

#[derive(Subcommand, Debug)]
pub(crate) enum DeviceCommand {
    /// List the devices of an extension: their push services, and their SIP accounts
    #[command(after_help = "Example:\n  ringback device list --extension 1001")]
    List {
        /// The extension
        #[arg(long)]
        extension: String,
    },
    /// Send a test push to a device, and print what its push services answer
    #[command(
        after_help = "The push ends a call that does not exist, so the device neither rings nor shows anything. A VoIP push of iOS cannot be \
                      tested: the app has to ring for each one.\n\nExample:\n  ringback device push-test --extension 1001 my-pixel-8"
    )]
    PushTest {
        /// The device, as `device list` names it
        device: String,
        /// Its extension
        #[arg(long)]
        extension: String,
    },
}

/// Runs `ringback device`.
pub(crate) async fn run(
    deployment: &Deployment,
    given: Option<&SecretString>,
    command: DeviceCommand,
    output: Output,
) -> Result<()> {
    match command {
        DeviceCommand::List { extension } => {
            let claims = Claims::of_role(Role::Admin);
            let token = token::for_command(deployment, given, claims).await?;
            list(&Api::new(deployment, token)?, &extension, output).await
        }
        DeviceCommand::PushTest { device, extension } => {
            push_test(deployment, &extension, &device, output).await
        }
    }
}

/// The devices of an extension, as the admin API lists them.
pub(crate) async fn devices(api: &Api, extension: &str) -> Result<Vec<Value>> {
    let path = format!("/api/admin/devices/{}", encoded(extension));
    let mut answer = api.read(&path).await?;
    match answer["devices"].take() {
        Value::Array(devices) => Ok(devices),
        _ => Err(Failure::not_reachable(
            "The answer of the deployment is not that of Ringback.",
        )),
    }
}

async fn list(api: &Api, extension: &str, output: Output) -> Result<()> {
    let devices = devices(api, extension).await?;
    let rows: Vec<[String; 4]> = devices.iter().map(row).collect();
    let document = json!({ "devices": devices });
    if rows.is_empty() {
        output.note("The extension has no device.");
    }
    let heading = ["DEVICE", "PUSHES", "SIP ACCOUNT", "REGISTERED"];
    output.print_table(&document, heading, rows)
}

fn row(device: &Value) -> [String; 4] {
    let text = |name: &str| device[name].as_str().unwrap_or("-").to_owned();
    let platforms = device["platforms"].as_array().into_iter().flatten();
    let platforms: Vec<&str> = platforms.filter_map(Value::as_str).collect();
    let pushes = match platforms.is_empty() {
        true => "-".to_owned(),
        false => platforms.join(","),
    };
    let registered = words::time(&device["registered_at"]).map(words::utc);
    [
        text("device_id"),
        pushes,
        text("sip_account"),
        registered.unwrap_or_default(),
    ]
}

async fn push_test(
    deployment: &Deployment,
    extension: &str,
    device: &str,
    output: Output,
) -> Result<()> {
    let request = json!({ "extension": extension, "device_id": device });
    let answer = lambda::invoke(deployment, "push-test", &request).await?;
    if answer["success"] != true {
        return Err(match answer["error"].as_str() {
            Some(error) => Failure::not_reachable(sentence(error)),
            None => Failure::refused(format!(
                "{extension} has no device {device}: `ringback device list --extension {extension}` lists its devices."
            )),
        });
    }
    let results = answer["results"].as_array().into_iter().flatten();
    let results: Vec<&Value> = results.collect();
    let lines = columns(results.iter().map(|result| line(result)).collect());
    let any = |wanted: &str| results.iter().any(|result| result["result"] == wanted);
    if any("refused") {
        return Err(Failure::refused(format!(
            "A push service did not accept the push.\n{lines}"
        )));
    }
    if !any("accepted") {
        return Err(Failure::refused(format!(
            "{device} has no push address to test: it rings only over the WebSocket, or by VoIP push.\n{lines}"
        )));
    }
    output.print(&json!({ "results": results }), &lines)
}

/// What became of the push to one address.
fn line(result: &Value) -> [String; 2] {
    let text = |name: &str| result[name].as_str().unwrap_or_default();
    let became = match text("result") {
        "accepted" => format!("accepted by {}", text("via")),
        "not_sent" => "not tested, because the app would have to ring".to_owned(),
        _ => format!("{}: {}", text("via"), text("error")),
    };
    [text("platform").to_owned(), became]
}
