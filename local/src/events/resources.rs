//! AWS resources for a function under test, separate from the stack's own: a table with the route of one number, a
//! queue, a schedule group, and secrets with the values that the event files are signed with.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};

use crate::cloud::region::PRIMARY;
use crate::cloud::replica;
use crate::cloud::seed::aws_config;
use crate::settings::{LOOPBACK, STACK_NAME};
use crate::stack::Stack;

/// The resources of one test run.
#[derive(Debug)]
pub struct FunctionResources {
    name: String,
    sdk: SdkConfig,
    queue_url: String,
    stack: Stack,
    /// The name by which the functions find this machine.
    host: String,
}

impl FunctionResources {
    /// Creates the resources for functions that run as processes of this machine. `secrets` has the values by name.
    pub async fn create(stack: Stack, secrets: &BTreeMap<String, String>) -> Result<Self> {
        Self::create_for(LOOPBACK, stack, secrets).await
    }

    /// The same for functions that find this machine by another name.
    pub async fn create_for(
        host: &str,
        stack: Stack,
        secrets: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let sdk = aws_config(PRIMARY).await;
        let name = format!("ringback-events-{}", uuid::Uuid::new_v4().simple());
        let queue = aws_sdk_sqs::Client::new(&sdk)
            .create_queue()
            .queue_name(&name)
            .send()
            .await?;
        let queue_url = queue.queue_url.context("the new queue has no URL")?;
        let resources = Self {
            name,
            sdk,
            queue_url,
            stack,
            host: host.to_owned(),
        };
        resources.make_table().await?;
        resources.make_secrets(secrets).await?;
        let scheduler = aws_sdk_scheduler::Client::new(&resources.sdk);
        scheduler
            .create_schedule_group()
            .name(&resources.name)
            .send()
            .await?;
        Ok(resources)
    }

    async fn make_table(&self) -> Result<()> {
        let dynamodb = aws_sdk_dynamodb::Client::new(&self.sdk);
        let deployed = &self.stack.aws.table;
        replica::copy_schema(&dynamodb, deployed, &dynamodb, &self.name, None).await?;
        dynamodb
            .put_item()
            .table_name(&self.name)
            .item("pk", AttributeValue::S("NUMBERS".to_owned()))
            .item("sk", AttributeValue::S("+918047491899".to_owned()))
            .item("extension", AttributeValue::S("1001".to_owned()))
            .send()
            .await?;
        Ok(())
    }

    async fn make_secrets(&self, secrets: &BTreeMap<String, String>) -> Result<()> {
        let ari = &self.stack.ari;
        let values = [
            ("app", json!({ "jwt_secret": secrets.get("jwt_secret") })),
            (
                "webhook",
                json!({ "webhook_secret": secrets.get("webhook_secret") }),
            ),
            ("hook", json!({ "hook_secret": secrets.get("hook_secret") })),
            (
                "asterisk",
                json!({
                    "ari_username": ari.username,
                    "ari_password": ari.password,
                    "ari_ca_pem": ari.ca_pem,
                }),
            ),
            (
                "signing",
                json!({ "signing_secret": secrets.get("signing_secret") }),
            ),
            ("fcm", self.service_account().await?),
        ];
        let manager = aws_sdk_secretsmanager::Client::new(&self.sdk);
        for (whose, value) in values {
            manager
                .create_secret()
                .name(self.secret(whose))
                .secret_string(value.to_string())
                .send()
                .await?;
        }
        Ok(())
    }

    /// The stack's own service account, because the stand-in for FCM knows its key.
    async fn service_account(&self) -> Result<Value> {
        let manager = aws_sdk_secretsmanager::Client::new(&self.sdk);
        let secret = manager.get_secret_value();
        let secret = secret.secret_id(format!("{STACK_NAME}/fcm")).send().await?;
        let text = secret
            .secret_string
            .context("the stack has no FCM secret")?;
        Ok(serde_json::from_str(&self.as_seen_by_functions(&text))?)
    }

    fn as_seen_by_functions(&self, text: &str) -> String {
        text.replace(LOOPBACK, &self.host)
    }

    fn secret(&self, whose: &str) -> String {
        format!("{}/{whose}", self.name)
    }

    /// The environment variables that point a function at the resources.
    pub fn variables(&self) -> BTreeMap<&'static str, String> {
        let stack = &self.stack;
        let function =
            "arn:aws:lambda:ap-south-1:000000000000:function:ringback-events-call-timeout";
        let variables = BTreeMap::from([
            ("AWS_ENDPOINT_URL", stack.aws.endpoint.clone()),
            ("AWS_REGION", stack.aws.region.clone()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("TABLE_NAME", self.name.clone()),
            // This API has no connections, so each post to a client fails with `GoneException`.
            (
                "WS_MANAGEMENT_URL",
                format!(
                    "{}/_aws/execute-api/events/exotel-stream",
                    stack.aws.endpoint
                ),
            ),
            ("WEBSOCKET_URL", stack.ws_url.clone()),
            ("TIMEOUT_QUEUE_URL", self.queue_url.clone()),
            ("REPLAY_QUEUE_URL", self.queue_url.clone()),
            ("TIMEOUT_FUNCTION_ARN", function.to_owned()),
            ("SCHEDULE_GROUP", self.name.clone()),
            (
                "SCHEDULER_ROLE_ARN",
                "arn:aws:iam::000000000000:role/ringback-events-scheduler".to_owned(),
            ),
            ("ARI_URL", stack.ari.url.clone()),
            (
                "FCM_BASE_URL",
                stack.requests.fcm.trim_end_matches("/requests").to_owned(),
            ),
            (
                "EXOTEL_BASE_URL",
                stack
                    .requests
                    .exotel
                    .trim_end_matches("/requests")
                    .to_owned(),
            ),
            (
                "EXOTEL_WEBHOOK_URL",
                format!("{}/exotel/webhook", stack.http_url),
            ),
            ("HTTP_URL", stack.http_url.clone()),
            ("EXOTEL_STREAM_URL", stack.ws_url.clone()),
            ("APP_SECRET_ARN", self.secret("app")),
            ("WEBHOOK_SECRET_ARN", self.secret("webhook")),
            ("HOOK_SECRET_ARN", self.secret("hook")),
            ("EXOTEL_SECRET_ARN", self.secret("exotel")),
            ("ASTERISK_SECRET_ARN", self.secret("asterisk")),
            ("SIGNING_SECRET_ARN", self.secret("signing")),
            ("FCM_SECRET_ARN", self.secret("fcm")),
            ("LOG_LEVEL", "debug".to_owned()),
            ("METRICS_NAMESPACE", self.name.clone()),
            // Short, because no phone registers in these tests.
            ("RING_TIMEOUT_SECONDS", "5".to_owned()),
            ("CONNECT_TIMEOUT_SECONDS", "5".to_owned()),
        ]);
        let variables = variables.into_iter();
        variables
            .map(|(name, value)| (name, self.as_seen_by_functions(&value)))
            .collect()
    }

    /// Deletes the resources.
    pub async fn delete(self) -> Result<()> {
        aws_sdk_dynamodb::Client::new(&self.sdk)
            .delete_table()
            .table_name(&self.name)
            .send()
            .await?;
        aws_sdk_sqs::Client::new(&self.sdk)
            .delete_queue()
            .queue_url(&self.queue_url)
            .send()
            .await?;
        aws_sdk_scheduler::Client::new(&self.sdk)
            .delete_schedule_group()
            .name(&self.name)
            .send()
            .await?;
        let manager = aws_sdk_secretsmanager::Client::new(&self.sdk);
        for whose in ["app", "webhook", "hook", "asterisk", "signing", "fcm"] {
            let secret = manager.delete_secret().secret_id(self.secret(whose));
            secret.force_delete_without_recovery(true).send().await?;
        }
        Ok(())
    }
}
