//! The IAM actions of the requests that a function sends to AWS.

use axum::http::Method;
use serde_json::Value;

use ringback_e2e::recording_proxy::Request;

/// The IAM actions of one request, such as `dynamodb:PutItem`. An unknown request stands for itself, and no role
/// allows it.
pub(crate) fn actions(request: &Request) -> Vec<String> {
    let target = request
        .headers
        .get("x-amz-target")
        .and_then(|target| target.to_str().ok());
    let (method, path) = (&request.method, request.uri.path());
    match target.and_then(|target| target.split_once('.')) {
        Some(("DynamoDB_20120810", "TransactWriteItems")) => in_transaction(&request.body),
        Some(("DynamoDB_20120810", operation)) => vec![format!("dynamodb:{operation}")],
        Some(("AmazonSQS", operation)) => vec![format!("sqs:{operation}")],
        Some(("secretsmanager", operation)) => vec![format!("secretsmanager:{operation}")],
        Some((service, operation)) => vec![format!("{service}.{operation}")],
        None if path.starts_with("/schedules/") => on_schedule(method),
        None if path.contains("/@connections/") => vec!["execute-api:ManageConnections".to_owned()],
        None => {
            let mut fields = form_urlencoded::parse(&request.body);
            let action = fields
                .find(|(name, _)| name == "Action")
                .map(|(_, action)| format!("sns:{action}"));
            vec![action.unwrap_or_else(|| format!("{method} {path}"))]
        }
    }
}

fn in_transaction(body: &[u8]) -> Vec<String> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let items = body["TransactItems"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object);
    items
        .flat_map(serde_json::Map::keys)
        .map(|write| match write.as_str() {
            "ConditionCheck" => "dynamodb:ConditionCheckItem".to_owned(),
            write => format!("dynamodb:{write}Item"),
        })
        .collect()
}

/// Creating a schedule passes a role to the Scheduler.
fn on_schedule(method: &Method) -> Vec<String> {
    let actions: &[&str] = match *method {
        Method::POST => &["scheduler:CreateSchedule", "iam:PassRole"],
        Method::PUT => &["scheduler:UpdateSchedule", "iam:PassRole"],
        Method::DELETE => &["scheduler:DeleteSchedule"],
        _ => &["scheduler:GetSchedule"],
    };
    actions.iter().map(|action| (*action).to_owned()).collect()
}
