//! SNS, played by a server that speaks its query protocol.

use std::collections::HashMap;
use std::time::Duration;

use wiremock::matchers::{body_string_contains, method};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::form_fields::FormFields;
use crate::testing;
use ringback_core::call::Call;
use ringback_core::timestamp::Timestamp;

const FCM: &str = "arn:aws:sns:ap-south-1:123456789012:endpoint/GCM/ringback/e1";
const APNS: &str = "arn:aws:sns:ap-south-1:123456789012:endpoint/APNS/ringback/e2";
const VOIP: &str = "arn:aws:sns:ap-south-1:123456789012:endpoint/APNS_VOIP/ringback/e3";
const VOIP_SANDBOX: &str =
    "arn:aws:sns:ap-south-1:123456789012:endpoint/APNS_VOIP_SANDBOX/ringback/e4";
const APPLICATION: &str = "arn:aws:sns:ap-south-1:123456789012:app/APNS_VOIP/ringback";

const RANG_AT: Timestamp = Timestamp::from_millis(1_710_417_600_000);

struct Service {
    server: MockServer,
    sns: Sns,
}

impl Service {
    /// SNS with an application for VoIP pushes alone.
    async fn start() -> Self {
        let server = MockServer::start().await;
        let sns = Sns {
            apns_voip_application: Some(APPLICATION.to_owned()),
            ..Sns::without_applications(Client::new(&testing::aws(&server)))
        };
        Self { server, sns }
    }

    async fn answers(&self, action: &str, answer: ResponseTemplate) -> &Self {
        Mock::given(method("POST"))
            .and(body_string_contains(format!("Action={action}&")))
            .respond_with(answer)
            .mount(&self.server)
            .await;
        self
    }

    /// The forms that SNS has received.
    async fn asked(&self) -> Vec<FormFields> {
        let requests = testing::requests(&self.server).await;
        requests
            .iter()
            .map(|request| FormFields::from_form(&request.body))
            .collect()
    }

    /// What SNS makes of a push: the platform's key, its payload, and the message's attributes.
    async fn published(
        &self,
        service: SnsService,
        endpoint: &str,
        message: &Message,
    ) -> (String, Value, HashMap<String, String>) {
        self.answers("Publish", published()).await;
        self.sns.publish(service, endpoint, message).await.unwrap();
        let form = self.asked().await.pop().unwrap();
        assert_eq!(form.text("TargetArn"), Some(endpoint));
        assert_eq!(form.text("MessageStructure"), Some("json"));
        let payloads: HashMap<String, String> =
            serde_json::from_str(form.text("Message").unwrap()).unwrap();
        assert!(payloads.contains_key("default"));
        let mut payloads = payloads.into_iter().filter(|(key, _)| key != "default");
        let (platform, payload) = payloads.next().unwrap();
        assert_eq!(payloads.next(), None);
        let payload = serde_json::from_str(&payload).unwrap();
        (platform, payload, attributes_in(&form))
    }
}

impl Sns {
    /// SNS without any platform application: it can publish to endpoints that there are already.
    pub(crate) fn without_applications(client: Client) -> Self {
        Self {
            client: client.into(),
            fcm_application: None,
            apns_application: None,
            apns_voip_application: None,
        }
    }
}

fn attributes_in(form: &FormFields) -> HashMap<String, String> {
    let entry = |number: usize| {
        let field = |name: &str| form.text(&format!("MessageAttributes.entry.{number}.{name}"));
        assert_eq!(field("Value.DataType").unwrap_or("String"), "String");
        Some((
            field("Name")?.to_owned(),
            field("Value.StringValue")?.to_owned(),
        ))
    };
    (1..).map_while(entry).collect()
}

fn published() -> ResponseTemplate {
    let body = "<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>";
    ResponseTemplate::new(200).set_body_string(body)
}

fn refused(status: u16, code: &str) -> ResponseTemplate {
    refused_because(status, code, "…")
}

fn refused_because(status: u16, code: &str, reason: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_string(format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{reason}</Message></Error>\
         <RequestId>1</RequestId></ErrorResponse>"
    ))
}

fn endpoint_created() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_string(format!(
        "<CreatePlatformEndpointResponse><CreatePlatformEndpointResult>\
         <EndpointArn>{VOIP}</EndpointArn>\
         </CreatePlatformEndpointResult></CreatePlatformEndpointResponse>"
    ))
}

fn attributes_set() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_string("<SetEndpointAttributesResponse/>")
}

/// A push that went out when 12 of the ring's 30 s had passed.
fn wake(call: &Call) -> Message {
    Message::incoming_call(call, RANG_AT + Duration::from_secs(12))
}

#[tokio::test]
async fn android_gets_an_urgent_data_message_that_ends_with_the_ring() {
    let sns = Service::start().await;
    let call = ringback_core::testing::a_call(RANG_AT);
    let message = wake(&call);
    let (platform, payload, attributes) = sns.published(SnsService::Fcm, FCM, &message).await;
    assert_eq!(platform, "GCM");
    let expected = json!({
        "fcmV1Message": {
            "message": {
                "data": message.data,
                "android": {
                    "priority": "high",
                    "ttl": "18s",
                    "collapse_key": call.call_id.to_string(),
                },
            },
        },
    });
    assert_eq!(payload, expected);
    assert_eq!(attributes["AWS.SNS.MOBILE.FCM.TTL"], "18");
}

#[tokio::test]
async fn a_voip_push_carries_the_call_and_nothing_to_show() {
    let sns = Service::start().await;
    let call = ringback_core::testing::a_call(RANG_AT);
    let (platform, payload, attributes) = sns
        .published(SnsService::ApnsVoip, VOIP, &wake(&call))
        .await;
    assert_eq!(platform, "APNS_VOIP");
    assert_eq!(payload["aps"], json!({}));
    assert_eq!(payload["type"], "incoming_call");
    assert_eq!(payload["call_id"], call.call_id.to_string());
    assert_eq!(payload["caller_name"], "आशा");
    assert_eq!(attributes["AWS.SNS.MOBILE.APNS.PUSH_TYPE"], "voip");
    assert_eq!(attributes["AWS.SNS.MOBILE.APNS.PRIORITY"], "10");
    assert_eq!(attributes["AWS.SNS.MOBILE.APNS_VOIP.TTL"], "18");
    let collapse_id = &attributes["AWS.SNS.MOBILE.APNS.COLLAPSE_ID"];
    assert_eq!(*collapse_id, call.call_id.to_string());
}

#[tokio::test]
async fn a_development_build_is_reached_under_its_own_platform() {
    let sns = Service::start().await;
    let message = wake(&ringback_core::testing::a_call(RANG_AT));
    let (platform, _, attributes) = sns
        .published(SnsService::ApnsVoip, VOIP_SANDBOX, &message)
        .await;
    assert_eq!(platform, "APNS_VOIP_SANDBOX");
    assert_eq!(attributes["AWS.SNS.MOBILE.APNS_VOIP_SANDBOX.TTL"], "18");
}

#[tokio::test]
async fn an_iphone_without_voip_shows_who_calls_and_later_what_became_of_the_call() {
    let sns = Service::start().await;
    let call = ringback_core::testing::a_call(RANG_AT);
    let (platform, payload, attributes) = sns.published(SnsService::Apns, APNS, &wake(&call)).await;
    assert_eq!(platform, "APNS");
    assert_eq!(payload["aps"]["alert"]["title"], "Incoming call");
    assert_eq!(payload["aps"]["alert"]["body"], "आशा");
    assert_eq!(attributes["AWS.SNS.MOBILE.APNS.PUSH_TYPE"], "alert");
    assert_eq!(attributes["AWS.SNS.MOBILE.APNS.TTL"], "18");

    let missed = Message::call_cancelled(&call, CancelReason::Timeout, call.rings_until);
    let (_, payload, attributes) = sns.published(SnsService::Apns, APNS, &missed).await;
    assert_eq!(payload["aps"]["alert"]["title"], "Missed call");
    assert_eq!(payload["reason"], "timeout");
    assert_eq!(attributes["AWS.SNS.MOBILE.APNS.TTL"], "30");

    let elsewhere = Message::call_cancelled(&call, CancelReason::AnsweredElsewhere, RANG_AT);
    let (_, payload, _) = sns.published(SnsService::Apns, APNS, &elsewhere).await;
    assert_eq!(payload["aps"]["alert"]["title"], "Answered elsewhere");
}

#[tokio::test]
async fn only_an_endpoint_that_is_disabled_or_gone_is_dead() {
    let answers = [
        (400, "EndpointDisabled", true),
        (404, "NotFound", true),
        (400, "InvalidParameter", false),
        (400, "PlatformApplicationDisabled", false),
        (403, "AuthorizationError", false),
        (500, "InternalError", false),
    ];
    for (status, code, is_dead) in answers {
        let sns = Service::start().await;
        sns.answers("Publish", refused(status, code)).await;
        let message = wake(&ringback_core::testing::a_call(RANG_AT));
        let error = sns
            .sns
            .publish(SnsService::ApnsVoip, VOIP, &message)
            .await
            .unwrap_err();
        assert_eq!(matches!(error, PushError::Dead), is_dead, "{code}: {error}");
    }
}

#[tokio::test]
async fn a_token_gets_an_endpoint_that_is_enabled_again() {
    let sns = Service::start().await;
    sns.answers("CreatePlatformEndpoint", endpoint_created())
        .await;
    sns.answers("SetEndpointAttributes", attributes_set()).await;
    let endpoint = sns
        .sns
        .endpoint_for(SnsService::ApnsVoip, "token-hush")
        .await
        .unwrap();
    assert_eq!(endpoint, VOIP);

    let asked = sns.asked().await;
    let [create, set] = asked.as_slice() else {
        panic!("{} requests", asked.len());
    };
    assert_eq!(create.text("PlatformApplicationArn"), Some(APPLICATION));
    assert_eq!(create.text("Token"), Some("token-hush"));
    assert_eq!(set.text("EndpointArn"), Some(VOIP));
    let attribute = |number: usize| {
        let field = |name: &str| set.text(&format!("Attributes.entry.{number}.{name}"));
        (field("key").unwrap(), field("value").unwrap())
    };
    let attributes = HashMap::from([attribute(1), attribute(2)]);
    assert_eq!(attributes["Enabled"], "true");
    assert_eq!(attributes["Token"], "token-hush");
}

#[tokio::test]
async fn a_platform_without_an_application_is_named_without_asking_sns() {
    let sns = Service::start().await;
    let error = sns
        .sns
        .endpoint_for(SnsService::Apns, "token")
        .await
        .unwrap_err();
    assert!(
        matches!(error, EndpointError::NoApplication(SnsService::Apns)),
        "{error:?}"
    );
    assert!(!sns.sns.serves_fcm());
    assert_eq!(sns.asked().await.len(), 0);
}

#[tokio::test]
async fn a_token_that_sns_refuses_is_told_from_an_sns_that_is_not_there() {
    let sns = Service::start().await;
    let reason = "Invalid parameter: Token Reason: iOS device tokens must be no more than 400 hexadecimal characters";
    let bad_token = refused_because(400, "InvalidParameter", reason);
    sns.answers("CreatePlatformEndpoint", bad_token).await;
    let refused_token = sns
        .sns
        .endpoint_for(SnsService::ApnsVoip, "token-hush")
        .await;
    let error = refused_token.unwrap_err();
    assert!(matches!(error, EndpointError::BadToken), "{error:?}");

    let broken = Service::start().await;
    broken
        .answers("CreatePlatformEndpoint", refused(500, "InternalError"))
        .await;
    let unavailable = broken
        .sns
        .endpoint_for(SnsService::ApnsVoip, "token-hush")
        .await;
    let error = unavailable.unwrap_err();
    assert!(matches!(error, EndpointError::Unavailable(_)), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
}

#[tokio::test]
async fn a_parameter_of_ours_that_sns_refuses_is_not_blamed_on_the_token() {
    let sns = Service::start().await;
    let reason =
        "Invalid parameter: PlatformApplicationArn Reason: Platform application does not exist";
    let answer = refused_because(400, "InvalidParameter", reason);
    sns.answers("CreatePlatformEndpoint", answer).await;
    let refused = sns.sns.endpoint_for(SnsService::ApnsVoip, "token").await;
    let error = refused.unwrap_err();
    assert!(matches!(error, EndpointError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn a_token_that_has_an_endpoint_with_other_attributes_keeps_it() {
    for prefix in ["Invalid parameter: Token Reason: ", ""] {
        let sns = Service::start().await;
        let reason = format!(
            "{prefix}Endpoint {VOIP} already exists with the same Token, but different attributes."
        );
        let answer = refused_because(400, "InvalidParameter", &reason);
        sns.answers("CreatePlatformEndpoint", answer).await;
        sns.answers("SetEndpointAttributes", attributes_set()).await;
        let endpoint = sns.sns.endpoint_for(SnsService::ApnsVoip, "token").await;
        assert_eq!(endpoint.unwrap(), VOIP);
    }
}

#[tokio::test]
async fn an_endpoint_is_deleted_and_what_sns_refuses_is_told() {
    let sns = Service::start().await;
    let deleted = ResponseTemplate::new(200).set_body_string("<DeleteEndpointResponse/>");
    sns.answers("DeleteEndpoint", deleted).await;
    sns.sns.delete_endpoint(VOIP).await.unwrap();
    assert_eq!(sns.asked().await[0].text("EndpointArn"), Some(VOIP));

    let broken = Service::start().await;
    let refusal = refused(403, "AuthorizationError");
    broken.answers("DeleteEndpoint", refusal).await;
    assert!(broken.sns.delete_endpoint(VOIP).await.is_err());
}

#[tokio::test]
async fn an_endpoint_that_could_not_be_enabled_is_not_handed_out() {
    let sns = Service::start().await;
    sns.answers("CreatePlatformEndpoint", endpoint_created())
        .await;
    sns.answers("SetEndpointAttributes", refused(500, "InternalError"))
        .await;
    let error = sns
        .sns
        .endpoint_for(SnsService::ApnsVoip, "token")
        .await
        .unwrap_err();
    assert!(matches!(error, EndpointError::Unavailable(_)), "{error:?}");
}
