//! What CloudFormation and DynamoDB do for a second region.

use std::collections::BTreeMap;

use aws_config::SdkConfig;
use aws_sdk_cloudformation::Client;
use aws_sdk_cloudformation::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_cloudformation::types::{Capability, Parameter};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::deployment::{Deployment, aws_failure, innermost, sentence};
use crate::failure::{Failure, Result};

/// A type of each service that the template uses and that is not in all regions.
const NEEDED_TYPES: [&str; 6] = [
    "AWS::ApiGatewayV2::Api",
    "AWS::DynamoDB::GlobalTable",
    "AWS::Lambda::Function",
    "AWS::Scheduler::ScheduleGroup",
    "AWS::SecretsManager::Secret",
    "AWS::SQS::Queue",
];

/// An update of a stack that this command has started.
#[derive(Debug)]
pub(super) struct Update(String);

/// The account may use the region, and it has the services. CloudFormation recognizes only the types of services that its region has.
pub(super) async fn check_services(aws: &SdkConfig, region: &str) -> Result<()> {
    let types = NEEDED_TYPES.iter().enumerate();
    let resources: serde_json::Map<String, Value> = types
        .map(|(number, name)| (format!("Needed{number}"), json!({ "Type": name })))
        .collect();
    let template = json!({ "Resources": resources }).to_string();
    let validated = Client::new(aws)
        .validate_template()
        .template_body(template)
        .send();
    let Err(error) = validated.await else {
        return Ok(());
    };
    Err(match (error.code(), error.message()) {
        (Some("ValidationError"), message) => Failure::refused(format!(
            "{region} has not all services that Ringback needs. CloudFormation there says: {}",
            sentence(message.unwrap_or("no reason"))
        )),
        // The login is right: the first region has accepted it.
        (Some("InvalidClientTokenId" | "OptInRequired" | "AuthFailure"), _) => {
            Failure::refused(format!(
                "{region} is not enabled in this account: run `aws account enable-opt-in-region --region-name {region}`, and wait until it is."
            ))
        }
        (None, _) if matches!(error, SdkError::DispatchFailure(_)) => {
            Failure::not_reachable(format!(
                "CloudFormation in {region} does not answer: check the name of the region. {}",
                sentence(&innermost(&error))
            ))
        }
        _ => aws_failure("CloudFormation", &error),
    })
}

/// Starts the update that gives the table its replica. AWS recommends that nothing else changes with it.
pub(super) async fn update(deployment: &Deployment, other: &str) -> Result<Update> {
    let parameters = deployment.parameters().map(|(name, _)| {
        let parameter = Parameter::builder().parameter_key(name);
        match name {
            "OtherRegion" => parameter.parameter_value(other).build(),
            _ => parameter.use_previous_value(true).build(),
        }
    });
    let token = Uuid::new_v4().to_string();
    let update = Client::new(&deployment.aws)
        .update_stack()
        .stack_name(&deployment.name)
        .use_previous_template(true)
        .set_parameters(Some(parameters.collect()))
        .capabilities(Capability::CapabilityIam)
        // The template has the transform of SAM.
        .capabilities(Capability::CapabilityAutoExpand)
        .client_request_token(&token);
    match update.send().await {
        Ok(_) => Ok(Update(token)),
        Err(error) => Err(aws_failure("CloudFormation", &error)),
    }
}

/// Why CloudFormation has rolled an update back: the first resource that failed.
pub(super) async fn reason_of_rollback(deployment: &Deployment, update: &Update) -> Result<String> {
    let events = Client::new(&deployment.aws)
        .describe_stack_events()
        .stack_name(&deployment.name);
    let events = events.send().await;
    let events = events.map_err(|error| aws_failure("CloudFormation", &error))?;
    // The newest event comes first.
    let first = events.stack_events().iter().rfind(|event| {
        let status = event.resource_status().map(|status| status.as_str());
        event.client_request_token() == Some(&update.0)
            && status.is_some_and(|status| status.ends_with("_FAILED"))
    });
    let reason = first.map(|event| {
        let resource = event.logical_resource_id().unwrap_or("a resource");
        let reason = event.resource_status_reason().unwrap_or("no reason");
        format!("{resource}: {}", sentence(reason))
    });
    Ok(reason.unwrap_or_else(|| "the events of the stack name no reason.".to_owned()))
}

/// The state of the table's replica in this region, as the first region knows it.
pub(super) async fn replica(deployment: &Deployment, other: &str) -> Result<Option<String>> {
    let table = deployment.output("TableName")?;
    let client = aws_sdk_dynamodb::Client::new(&deployment.aws);
    let described = client.describe_table().table_name(table).send().await;
    let table = described
        .map_err(|error| aws_failure("DynamoDB", &error))?
        .table;
    let replicas = table.and_then(|table| table.replicas).unwrap_or_default();
    let replica = replicas
        .into_iter()
        .find(|it| it.region_name() == Some(other));
    Ok(replica.map(|replica| {
        let status = replica
            .replica_status()
            .map_or("of unknown state", |it| it.as_str());
        let percent = replica.replica_status_percent_progress();
        let percent = percent.map_or_else(String::new, |percent| format!(" {percent} %"));
        format!("{status}{percent}")
    }))
}

/// The label of the table's stream in a region. `None`: there is no such table, or it has no stream.
pub(super) async fn stream_label(aws: &SdkConfig, table: &str) -> Result<Option<String>> {
    let client = aws_sdk_dynamodb::Client::new(aws);
    match client.describe_table().table_name(table).send().await {
        Ok(described) => Ok(described.table.and_then(|table| table.latest_stream_label)),
        Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(None),
        Err(error) => Err(aws_failure("DynamoDB", &error)),
    }
}

/// The defaults of the template's parameters.
pub(super) async fn defaults(deployment: &Deployment) -> Result<BTreeMap<String, String>> {
    let client = Client::new(&deployment.aws);
    let summary = client.get_template_summary().stack_name(&deployment.name);
    let summary = summary.send().await;
    let summary = summary.map_err(|error| aws_failure("CloudFormation", &error))?;
    let parameters = summary.parameters.unwrap_or_default().into_iter();
    Ok(parameters
        .filter_map(|one| Some((one.parameter_key?, one.default_value?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use aws_config::{BehaviorVersion, Region};
    use aws_sdk_cloudformation::types::{Output, Stack, StackStatus};
    use aws_sdk_secretsmanager::config::{Credentials, SharedCredentialsProvider};
    use ringback::platform::aws::AwsHttpClient;
    use wiremock::matchers::any;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;

    /// A CloudFormation that gives this answer to every request.
    async fn answering(status: u16, xml: &str) -> MockServer {
        let server = MockServer::start().await;
        let answer = ResponseTemplate::new(status).set_body_raw(xml, "text/xml");
        Mock::given(any()).respond_with(answer).mount(&server).await;
        server
    }

    fn aws(server: &MockServer) -> SdkConfig {
        let credentials = Credentials::new("test", "test", None, None, "test");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(server.uri())
            .region(Region::new("ap-south-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(AwsHttpClient::default())
            .build()
    }

    fn deployment(server: &MockServer) -> Deployment {
        let output = |key: &str| {
            Output::builder()
                .output_key(key)
                .output_value("url")
                .build()
        };
        let parameter = |key: &str, value: &str| {
            let parameter = Parameter::builder().parameter_key(key);
            parameter.parameter_value(value).build()
        };
        let stack = Stack::builder()
            .stack_name("calls")
            .stack_status(StackStatus::UpdateComplete)
            .outputs(output("HttpUrl"))
            .outputs(output("WebSocketUrl"))
            .parameters(parameter("AriUrl", "https://pbx.acme.in/ari"))
            .parameters(parameter("OtherRegion", ""))
            .parameters(parameter("TokenIssuer", ""))
            .build();
        Deployment::of(stack, "calls", aws(server)).unwrap()
    }

    fn error(code: &str, message: &str) -> String {
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        )
    }

    #[tokio::test]
    async fn the_update_keeps_the_template_and_changes_only_other_region() {
        let answer = "<UpdateStackResponse><UpdateStackResult><StackId>id</StackId></UpdateStackResult></UpdateStackResponse>";
        let server = answering(200, answer).await;
        let update = update(&deployment(&server), "ap-southeast-1")
            .await
            .unwrap();
        let requests = server.received_requests().await.unwrap();
        let sent: Vec<(String, String)> = form_urlencoded::parse(&requests[0].body)
            .into_owned()
            .collect();
        let expected = [
            ("Action", "UpdateStack"),
            ("Version", "2010-05-15"),
            ("StackName", "calls"),
            ("UsePreviousTemplate", "true"),
            ("Parameters.member.1.ParameterKey", "AriUrl"),
            ("Parameters.member.1.UsePreviousValue", "true"),
            ("Parameters.member.2.ParameterKey", "OtherRegion"),
            ("Parameters.member.2.ParameterValue", "ap-southeast-1"),
            ("Parameters.member.3.ParameterKey", "TokenIssuer"),
            ("Parameters.member.3.UsePreviousValue", "true"),
            ("Capabilities.member.1", "CAPABILITY_IAM"),
            ("Capabilities.member.2", "CAPABILITY_AUTO_EXPAND"),
            ("ClientRequestToken", &update.0),
        ];
        assert_eq!(
            sent,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[tokio::test]
    async fn a_region_without_a_service_or_not_enabled_is_refused() {
        let unknown =
            "Template format error: Unrecognized resource types: [AWS::ApiGatewayV2::Api]";
        for (code, message, expected) in [
            ("ValidationError", unknown, "[AWS::ApiGatewayV2::Api]"),
            (
                "InvalidClientTokenId",
                "The security token is invalid",
                "enable-opt-in-region",
            ),
        ] {
            let server = answering(400, &error(code, message)).await;
            let refused = check_services(&aws(&server), "ap-south-2").await;
            let failure = refused.unwrap_err();
            assert_eq!(failure.number(), 1);
            assert!(failure.to_string().contains(expected), "{failure}");
        }
        let valid =
            "<ValidateTemplateResponse><ValidateTemplateResult/></ValidateTemplateResponse>";
        let server = answering(200, valid).await;
        assert_eq!(check_services(&aws(&server), "ap-south-2").await, Ok(()));
        let requests = server.received_requests().await.unwrap();
        let body = String::from_utf8_lossy(&requests[0].body);
        assert!(body.contains("AWS%3A%3AApiGatewayV2%3A%3AApi"), "{body}");
    }

    #[tokio::test]
    async fn a_rollback_is_explained_by_the_first_failure_of_the_own_update() {
        let event = |token: &str, resource: &str, reason: &str| {
            format!(
                "<member><ClientRequestToken>{token}</ClientRequestToken><LogicalResourceId>{resource}</LogicalResourceId>\
                 <ResourceStatus>UPDATE_FAILED</ResourceStatus><ResourceStatusReason>{reason}</ResourceStatusReason></member>"
            )
        };
        let events = [
            event("own", "AdminFunction", "Resource update cancelled"),
            event(
                "own",
                "CallsTable",
                "One or more replicas already existed as tables",
            ),
            event("earlier", "TimeoutQueue", "another reason"),
        ];
        let answer = format!(
            "<DescribeStackEventsResponse><DescribeStackEventsResult><StackEvents>{}</StackEvents>\
             </DescribeStackEventsResult></DescribeStackEventsResponse>",
            events.concat()
        );
        let server = answering(200, &answer).await;
        let update = Update("own".to_owned());
        let reason = reason_of_rollback(&deployment(&server), &update).await;
        let expected = "CallsTable: One or more replicas already existed as tables.";
        assert_eq!(reason.unwrap(), expected);
    }
}
