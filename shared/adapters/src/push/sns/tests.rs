//! SNS, simulated by an HTTP server with its query protocol.

use std::collections::HashMap;
use std::time::Duration;

use wiremock::matchers::{body_string_contains, method};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::form_fields::FormFields;
use crate::testing;
use ringback_core::call::{Call, CancelReason};
use ringback_core::timestamp::Timestamp;

const FCM: &str = "arn:aws:sns:ap-south-1:123456789012:endpoint/GCM/ringback/e1";
const APNS: &str = "arn:aws:sns:ap-south-1:123456789012:endpoint/APNS/ringback/e2";
const VOIP: &str = "arn:aws:sns:ap-south-1:123456789012:endpoint/APNS_VOIP/ringback/e3";
const VOIP_SANDBOX: &str =
    "arn:aws:sns:ap-south-1:123456789012:endpoint/APNS_VOIP_SANDBOX/ringback/e4";
const APPLICATION: &str = "arn:aws:sns:ap-south-1:123456789012:app/APNS_VOIP/ringback";

const RANG_AT: Timestamp = Timestamp::from_millis(1_710_417_600_000);

struct TestSns {
    server: MockServer,
    sns: Sns,
}

impl TestSns {
    /// SNS with one platform application, for VoIP pushes.
    async fn start() -> Self {
        let server = MockServer::start().await;
        let applications = SnsApplications {
            apns_voip: Some(APPLICATION.to_owned()),
            ..SnsApplications::default()
        };
        let sns = Sns::new(Client::new(&testing::aws(&server)), applications);
        Self { server, sns }
    }

    async fn reply_to(&self, action: &str, reply: ResponseTemplate) -> &Self {
        Mock::given(method("POST"))
            .and(body_string_contains(format!("Action={action}&")))
            .respond_with(reply)
            .mount(&self.server)
            .await;
        self
    }

    /// The same for the next request only.
    async fn reply_once_to(&self, action: &str, reply: ResponseTemplate) {
        Mock::given(method("POST"))
            .and(body_string_contains(format!("Action={action}&")))
            .respond_with(reply)
            .up_to_n_times(1)
            .mount(&self.server)
            .await;
    }

    /// The forms that SNS has received.
    async fn received(&self) -> Vec<FormFields> {
        let requests = testing::requests(&self.server).await;
        requests
            .iter()
            .map(|request| FormFields::from_form(&request.body))
            .collect()
    }

    /// Publishes a message. Returns the platform's key, its payload, and the message's attributes.
    async fn publish(
        &self,
        platform: PushPlatform,
        endpoint: &str,
        message: &PushMessage,
    ) -> (String, Value, HashMap<String, String>) {
        self.reply_to("Publish", publish_reply()).await;
        let published = self.sns.publish(platform, endpoint, message).await;
        assert!(published.is_ok(), "SNS has not accepted the message");
        let form = self.received().await.pop().unwrap();
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

impl TestSns {
    /// The actions that SNS has received, each with the endpoint or the token that it is about.
    async fn actions(&self) -> Vec<(String, String)> {
        let received = self.received().await;
        let actions = received.iter().map(|form| {
            let about = ["TargetArn", "EndpointArn", "Token"];
            let about = about.into_iter().find_map(|name| form.text(name));
            let action = form.text("Action").unwrap();
            (action.to_owned(), about.unwrap().to_owned())
        });
        actions.collect()
    }

    async fn send(&self, endpoint: Option<&str>) -> Result<(), PushError> {
        let message = late_push(&ringback_core::testing::a_call(RANG_AT));
        self.sns.send(&voip_address(endpoint), &message).await
    }
}

fn token(text: &str) -> PushToken {
    PushToken::try_from(text).unwrap()
}

/// An address that was registered with this endpoint.
fn voip_address(endpoint: Option<&str>) -> PushAddress {
    let endpoint = endpoint.map(str::to_owned);
    PushAddress::new(PushPlatform::ApnsVoip, token("token-hush"), endpoint)
}

fn actions<const N: usize>(actions: [(&str, &str); N]) -> [(String, String); N] {
    actions.map(|(action, about)| (action.to_owned(), about.to_owned()))
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

/// The attributes in a `SetEndpointAttributes`.
fn set_attributes(form: &FormFields) -> HashMap<&str, &str> {
    let attribute = |number: usize| {
        let field = |name: &str| form.text(&format!("Attributes.entry.{number}.{name}"));
        (field("key").unwrap(), field("value").unwrap())
    };
    HashMap::from([attribute(1), attribute(2)])
}

fn publish_reply() -> ResponseTemplate {
    let body = "<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>";
    ResponseTemplate::new(200).set_body_string(body)
}

fn error_reply(status: u16, code: &str) -> ResponseTemplate {
    error_with_message(status, code, "…")
}

fn error_with_message(status: u16, code: &str, reason: &str) -> ResponseTemplate {
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

/// A push that was sent after 12 s of a ring of 30 s.
fn late_push(call: &Call) -> PushMessage {
    PushMessage::incoming_call(call, RANG_AT + Duration::from_secs(12))
}

#[tokio::test]
async fn android_gets_a_high_priority_data_message_that_expires_with_the_ring() {
    let sns = TestSns::start().await;
    let call = ringback_core::testing::a_call(RANG_AT);
    let message = late_push(&call);
    let (platform, payload, attributes) = sns.publish(PushPlatform::Fcm, FCM, &message).await;
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
async fn a_voip_push_has_the_data_of_the_call_and_no_alert() {
    let sns = TestSns::start().await;
    let call = ringback_core::testing::a_call(RANG_AT);
    let (platform, payload, attributes) = sns
        .publish(PushPlatform::ApnsVoip, VOIP, &late_push(&call))
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
async fn a_development_build_is_reached_through_the_apns_sandbox() {
    let sns = TestSns::start().await;
    let message = late_push(&ringback_core::testing::a_call(RANG_AT));
    let (platform, _, attributes) = sns
        .publish(PushPlatform::ApnsVoip, VOIP_SANDBOX, &message)
        .await;
    assert_eq!(platform, "APNS_VOIP_SANDBOX");
    assert_eq!(attributes["AWS.SNS.MOBILE.APNS_VOIP_SANDBOX.TTL"], "18");
}

#[tokio::test]
async fn an_alert_push_shows_the_caller_and_later_that_the_call_was_missed() {
    let sns = TestSns::start().await;
    let call = ringback_core::testing::a_call(RANG_AT);
    let (platform, payload, attributes) = sns
        .publish(PushPlatform::Apns, APNS, &late_push(&call))
        .await;
    assert_eq!(platform, "APNS");
    assert_eq!(payload["aps"]["alert"]["title"], "Incoming call");
    assert_eq!(payload["aps"]["alert"]["body"], "आशा");
    assert_eq!(attributes["AWS.SNS.MOBILE.APNS.PUSH_TYPE"], "alert");
    assert_eq!(attributes["AWS.SNS.MOBILE.APNS.TTL"], "18");

    for (count, title) in [
        (None, "Missed call"),
        (Some(1), "Missed call"),
        (Some(3), "3 missed calls"),
    ] {
        let missed = missed_calls(&call, count);
        let (_, payload, attributes) = sns.publish(PushPlatform::Apns, APNS, &missed).await;
        assert_eq!(payload["aps"]["alert"]["title"], title);
        assert_eq!(payload["reason"], "timeout");
        assert_eq!(attributes["AWS.SNS.MOBILE.APNS.PUSH_TYPE"], "alert");
        assert_eq!(
            attributes["AWS.SNS.MOBILE.APNS.COLLAPSE_ID"],
            "missed_calls"
        );
        assert_eq!(attributes["AWS.SNS.MOBILE.APNS.TTL"], "86400");
    }
}

fn missed_calls(call: &Call, count: Option<u64>) -> PushMessage {
    let tomorrow = RANG_AT + Duration::from_secs(86_400);
    PushMessage::missed_calls(call, CancelReason::Timeout, count, tomorrow, RANG_AT)
}

#[tokio::test]
async fn an_end_that_is_no_missed_call_is_a_background_push() {
    let sns = TestSns::start().await;
    let call = ringback_core::testing::a_call(RANG_AT);
    for reason in [
        CancelReason::AnsweredElsewhere,
        CancelReason::DeclinedElsewhere,
    ] {
        let elsewhere = PushMessage::call_cancelled(&call, reason, RANG_AT);
        let (_, payload, attributes) = sns.publish(PushPlatform::Apns, APNS, &elsewhere).await;
        assert_eq!(payload["aps"], json!({ "content-available": 1 }));
        assert_eq!(attributes["AWS.SNS.MOBILE.APNS.PUSH_TYPE"], "background");
        assert_eq!(attributes["AWS.SNS.MOBILE.APNS.PRIORITY"], "5");
        // The ring, and a minute.
        assert_eq!(attributes["AWS.SNS.MOBILE.APNS.TTL"], "90");
        let collapse_id = &attributes["AWS.SNS.MOBILE.APNS.COLLAPSE_ID"];
        assert_eq!(*collapse_id, call.call_id.to_string());
    }
}

#[tokio::test]
async fn a_known_endpoint_takes_one_request() {
    let sns = TestSns::start().await;
    sns.reply_to("Publish", publish_reply()).await;
    sns.send(Some(VOIP)).await.unwrap();
    assert_eq!(sns.actions().await, actions([("Publish", VOIP)]));
}

#[tokio::test]
async fn a_disabled_endpoint_is_enabled_and_the_push_is_sent_again() {
    let sns = TestSns::start().await;
    sns.reply_once_to("Publish", error_reply(400, "EndpointDisabled"))
        .await;
    sns.reply_to("Publish", publish_reply()).await;
    sns.reply_to("SetEndpointAttributes", attributes_set())
        .await;
    sns.send(Some(VOIP)).await.unwrap();
    let expected = [
        ("Publish", VOIP),
        ("SetEndpointAttributes", VOIP),
        ("Publish", VOIP),
    ];
    assert_eq!(sns.actions().await, actions(expected));
    let received = sns.received().await;
    let attributes = set_attributes(&received[1]);
    assert_eq!(attributes["Enabled"], "true");
    assert_eq!(attributes["Token"], "token-hush");
}

#[tokio::test]
async fn an_endpoint_that_sns_disables_again_is_kept() {
    let sns = TestSns::start().await;
    sns.reply_to("Publish", error_reply(400, "EndpointDisabled"))
        .await;
    sns.reply_to("SetEndpointAttributes", attributes_set())
        .await;
    let error = sns.send(Some(VOIP)).await.unwrap_err();
    assert!(matches!(error, PushError::NotAccepted(_)), "{error:?}");
    assert_eq!(sns.actions().await.len(), 3);
}

#[tokio::test]
async fn a_push_from_another_region_creates_the_endpoint_there() {
    let elsewhere = VOIP.replace("ap-south-1", "ap-southeast-1");
    let earlier_application = VOIP.replace("/ringback/", "/ringback-old/");
    for registered in [None, Some(&*elsewhere), Some(&*earlier_application)] {
        let sns = TestSns::start().await;
        sns.reply_to("CreatePlatformEndpoint", endpoint_created())
            .await;
        sns.reply_to("Publish", publish_reply()).await;
        sns.send(registered).await.unwrap();
        let expected = [("CreatePlatformEndpoint", "token-hush"), ("Publish", VOIP)];
        assert_eq!(sns.actions().await, actions(expected), "{registered:?}");
    }
}

#[tokio::test]
async fn a_deleted_endpoint_is_created_again() {
    let reason =
        "Invalid parameter: TargetArn Reason: No endpoint found for the target arn specified";
    for reply in [
        error_reply(404, "NotFound"),
        error_with_message(400, "InvalidParameter", reason),
    ] {
        let sns = TestSns::start().await;
        sns.reply_once_to("Publish", reply).await;
        sns.reply_to("Publish", publish_reply()).await;
        sns.reply_to("CreatePlatformEndpoint", endpoint_created())
            .await;
        sns.send(Some(VOIP)).await.unwrap();
        let expected = [
            ("Publish", VOIP),
            ("CreatePlatformEndpoint", "token-hush"),
            ("Publish", VOIP),
        ];
        assert_eq!(sns.actions().await, actions(expected));
    }
}

#[tokio::test]
async fn an_address_has_expired_only_if_sns_refuses_its_token() {
    let reason = "Invalid parameter: Token Reason: iOS device tokens must be no more than 400 hexadecimal characters";
    for (reply, expired) in [
        (error_with_message(400, "InvalidParameter", reason), true),
        (error_reply(400, "InvalidParameter"), false),
        (error_reply(403, "AuthorizationError"), false),
        (error_reply(500, "InternalError"), false),
    ] {
        let sns = TestSns::start().await;
        sns.reply_to("Publish", error_reply(404, "NotFound")).await;
        sns.reply_to("CreatePlatformEndpoint", reply).await;
        let error = sns.send(Some(VOIP)).await.unwrap_err();
        let is_expired = matches!(error, PushError::AddressExpired);
        assert_eq!(is_expired, expired, "{error:?}");
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
    }
}

#[tokio::test]
async fn another_refusal_is_a_failure_without_another_attempt() {
    for (status, code, is_temporary) in [
        (400, "InvalidParameter", false),
        (400, "PlatformApplicationDisabled", false),
        (403, "AuthorizationError", false),
        (500, "InternalError", true),
    ] {
        let sns = TestSns::start().await;
        sns.reply_to("Publish", error_reply(status, code)).await;
        let error = sns.send(Some(VOIP)).await.unwrap_err();
        let is_delayed = matches!(error, PushError::Delayed { .. });
        assert_eq!(is_delayed, is_temporary, "{code}");
        assert_eq!(sns.actions().await, actions([("Publish", VOIP)]));
    }
}

#[test]
fn the_applications_are_of_one_region_which_their_arns_name() {
    let in_one = SnsApplications::from_environment(&Environment::of(|name| match name {
        "SNS_APNS_VOIP_APPLICATION_ARN" => Some(APPLICATION.to_owned()),
        "SNS_APNS_APPLICATION_ARN" => Some(APPLICATION.replace("_VOIP", "")),
        _ => None,
    }));
    assert_eq!(in_one.unwrap().region(), Some("ap-south-1"));
    let in_two = SnsApplications::from_environment(&Environment::of(|name| match name {
        "SNS_APNS_VOIP_APPLICATION_ARN" => Some(APPLICATION.to_owned()),
        "SNS_APNS_APPLICATION_ARN" => Some(APPLICATION.replace("ap-south-1", "us-east-1")),
        _ => None,
    }));
    let error = in_two.unwrap_err();
    assert!(error.to_string().contains("region"), "{error}");
    assert_eq!(SnsApplications::default().region(), None);
}

#[tokio::test]
async fn an_endpoint_is_created_and_enabled() {
    let sns = TestSns::start().await;
    sns.reply_to("CreatePlatformEndpoint", endpoint_created())
        .await;
    sns.reply_to("SetEndpointAttributes", attributes_set())
        .await;
    let endpoint = sns
        .sns
        .endpoint_for(PushPlatform::ApnsVoip, &token("token-hush"))
        .await
        .unwrap();
    assert_eq!(endpoint, VOIP);

    let received = sns.received().await;
    let [create, set] = received.as_slice() else {
        panic!("{} requests", received.len());
    };
    assert_eq!(create.text("PlatformApplicationArn"), Some(APPLICATION));
    assert_eq!(create.text("Token"), Some("token-hush"));
    assert_eq!(set.text("EndpointArn"), Some(VOIP));
    assert_eq!(set_attributes(set)["Enabled"], "true");
    assert_eq!(set_attributes(set)["Token"], "token-hush");
}

#[tokio::test]
async fn a_platform_without_an_application_fails_without_a_request() {
    let sns = TestSns::start().await;
    let error = sns
        .sns
        .endpoint_for(PushPlatform::Apns, &token("token"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, EndpointError::NoApplication(PushPlatform::Apns)),
        "{error:?}"
    );
    assert!(!sns.sns.serves_fcm());
    assert_eq!(sns.received().await.len(), 0);
}

#[tokio::test]
async fn a_refused_token_and_an_unavailable_sns_are_different_errors() {
    let sns = TestSns::start().await;
    let reason = "Invalid parameter: Token Reason: iOS device tokens must be no more than 400 hexadecimal characters";
    let bad_token = error_with_message(400, "InvalidParameter", reason);
    sns.reply_to("CreatePlatformEndpoint", bad_token).await;
    let refused_token = sns
        .sns
        .endpoint_for(PushPlatform::ApnsVoip, &token("token-hush"))
        .await;
    let error = refused_token.unwrap_err();
    assert!(matches!(error, EndpointError::BadToken), "{error:?}");

    let broken = TestSns::start().await;
    broken
        .reply_to("CreatePlatformEndpoint", error_reply(500, "InternalError"))
        .await;
    let unavailable = broken
        .sns
        .endpoint_for(PushPlatform::ApnsVoip, &token("token-hush"))
        .await;
    let error = unavailable.unwrap_err();
    assert!(matches!(error, EndpointError::Unavailable(_)), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
}

#[tokio::test]
async fn a_refused_application_does_not_count_as_a_bad_token() {
    let sns = TestSns::start().await;
    let reason =
        "Invalid parameter: PlatformApplicationArn Reason: Platform application does not exist";
    let reply = error_with_message(400, "InvalidParameter", reason);
    sns.reply_to("CreatePlatformEndpoint", reply).await;
    let refused = sns
        .sns
        .endpoint_for(PushPlatform::ApnsVoip, &token("token"))
        .await;
    let error = refused.unwrap_err();
    assert!(matches!(error, EndpointError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn an_existing_endpoint_with_other_attributes_is_reused() {
    for prefix in ["Invalid parameter: Token Reason: ", ""] {
        let sns = TestSns::start().await;
        let reason = format!(
            "{prefix}Endpoint {VOIP} already exists with the same Token, but different attributes."
        );
        let reply = error_with_message(400, "InvalidParameter", &reason);
        sns.reply_to("CreatePlatformEndpoint", reply).await;
        sns.reply_to("SetEndpointAttributes", attributes_set())
            .await;
        let endpoint = sns
            .sns
            .endpoint_for(PushPlatform::ApnsVoip, &token("token"))
            .await;
        assert_eq!(endpoint.unwrap(), VOIP);
    }
}

#[tokio::test]
async fn deleting_an_endpoint_reports_a_refusal() {
    let sns = TestSns::start().await;
    let deleted = ResponseTemplate::new(200).set_body_string("<DeleteEndpointResponse/>");
    sns.reply_to("DeleteEndpoint", deleted).await;
    let address = voip_address(Some(VOIP));
    sns.sns.delete_endpoint(&address).await.unwrap();
    assert_eq!(sns.actions().await, actions([("DeleteEndpoint", VOIP)]));

    let broken = TestSns::start().await;
    let refusal = error_reply(403, "AuthorizationError");
    broken.reply_to("DeleteEndpoint", refusal).await;
    assert!(broken.sns.delete_endpoint(&address).await.is_err());
}

#[tokio::test]
async fn an_endpoint_of_another_region_is_not_deleted() {
    let sns = TestSns::start().await;
    let elsewhere = VOIP.replace("ap-south-1", "ap-southeast-1");
    for address in [voip_address(Some(&elsewhere)), voip_address(None)] {
        sns.sns.delete_endpoint(&address).await.unwrap();
    }
    assert_eq!(sns.received().await.len(), 0);
}

#[tokio::test]
async fn an_endpoint_that_could_not_be_enabled_is_an_error() {
    let sns = TestSns::start().await;
    sns.reply_to("CreatePlatformEndpoint", endpoint_created())
        .await;
    sns.reply_to("SetEndpointAttributes", error_reply(500, "InternalError"))
        .await;
    let error = sns
        .sns
        .endpoint_for(PushPlatform::ApnsVoip, &token("token"))
        .await
        .unwrap_err();
    assert!(matches!(error, EndpointError::Unavailable(_)), "{error:?}");
}
