//! SQS and EventBridge Scheduler, both simulated by one HTTP server.

use ringback_core::call::{CallStatus, Event, stream_action};
use serde_json::{Value, json};
use wiremock::matchers::{method, path_regex};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::testing;

const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);
const SCHEDULES: &str = "^/schedules/.+";

struct TestTimers {
    server: MockServer,
    timers: CallTimers,
    call: Call,
}

impl TestTimers {
    /// A queue and a scheduler that accept every request, and a ringing call.
    async fn start() -> Self {
        let test = Self::that_reply(message_sent(), schedule_created()).await;
        test.deletion_replies(schedule_deleted()).await;
        test
    }

    async fn that_reply(queue: ResponseTemplate, scheduler: ResponseTemplate) -> Self {
        let server = MockServer::start().await;
        Mock::given(method("POST"))
            .and(path_regex(SCHEDULES))
            .respond_with(scheduler)
            .mount(&server)
            .await;
        Mock::given(method("POST"))
            .and(path_regex("^/$"))
            .respond_with(queue)
            .mount(&server)
            .await;
        let aws = testing::aws(&server);
        Self {
            server,
            timers: CallTimers {
                queue: aws_sdk_sqs::Client::new(&aws).into(),
                queue_url: "https://sqs.ap-south-1.amazonaws.com/123456789012/timeouts".to_owned(),
                scheduler: aws_sdk_scheduler::Client::new(&aws).into(),
                schedule_group: "ringback".to_owned(),
                scheduler_role_arn: "arn:aws:iam::123456789012:role/scheduler".to_owned(),
                function_arn: "arn:aws:lambda:ap-south-1:123456789012:function:call-timeout"
                    .to_owned(),
            },
            call: ringback_core::testing::a_call(NOW),
        }
    }

    async fn deletion_replies(&self, reply: ResponseTemplate) {
        Mock::given(method("DELETE"))
            .and(path_regex(SCHEDULES))
            .respond_with(reply)
            .mount(&self.server)
            .await;
    }

    /// Bridges the call at the end of its ring.
    fn bridge(&mut self) {
        self.call.status = CallStatus::InProgress;
        self.call.bridged_at = Some(self.call.rings_until);
    }

    async fn arm(&self, at: Timestamp) -> Result<(), TimerError> {
        let backstop = self.call.backstop(at);
        self.timers.arm(&self.call, at, NOW, backstop).await
    }

    /// Handles the record of the new call in the stream of the region that has stored it.
    async fn handle_insert(&self, now: Timestamp) -> Result<(), TimerError> {
        let action = stream_action(None, &self.call, None, "ap-south-1").unwrap();
        self.timers.perform(&action, now).await
    }

    async fn requests(&self) -> Vec<Request> {
        testing::requests(&self.server).await
    }

    async fn messages(&self) -> Vec<Value> {
        let requests = self.requests().await;
        let messages = requests
            .iter()
            .filter(|request| testing::operation(request) == "SendMessage");
        messages
            .map(|request| request.body_json().unwrap())
            .collect()
    }

    async fn schedules(&self) -> Vec<Request> {
        let mut requests = self.requests().await;
        requests.retain(|request| request.url.path().starts_with("/schedules/"));
        requests
    }
}

fn message_sent() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({ "MessageId": "1" }))
}

fn schedule_created() -> ResponseTemplate {
    let arn = "arn:aws:scheduler:ap-south-1:123456789012:schedule/ringback/x";
    ResponseTemplate::new(200).set_body_json(json!({ "ScheduleArn": arn }))
}

fn schedule_deleted() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({}))
}

fn aws_error(status: u16, error: &str) -> ResponseTemplate {
    ResponseTemplate::new(status)
        .append_header("x-amzn-errortype", error)
        .set_body_json(json!({ "Message": "…" }))
}

fn internal_error() -> ResponseTemplate {
    aws_error(500, "InternalServerException")
}

#[tokio::test]
async fn arming_a_ring_sends_a_delayed_message_only() {
    let test = TestTimers::start().await;
    let call = &test.call;
    test.arm(call.rings_until).await.unwrap();

    let body = format!(r#"{{"call_id":"{}"}}"#, call.call_id);
    let message = test.messages().await.remove(0);
    assert_eq!(message["MessageBody"], body);
    assert_eq!(message["DelaySeconds"], 30);
    assert_eq!(message["QueueUrl"], test.timers.queue_url);
    assert_eq!(test.schedules().await.len(), 0);
}

#[tokio::test]
async fn a_new_call_gets_a_schedule_that_fires_after_its_ring() {
    let test = TestTimers::start().await;
    let call = &test.call;
    test.handle_insert(NOW).await.unwrap();

    assert_eq!(test.messages().await.len(), 0);
    let body = format!(r#"{{"call_id":"{}"}}"#, call.call_id);
    let schedule = test.schedules().await.remove(0);
    let name = format!("/schedules/{}-ring", call.call_id);
    assert_eq!(schedule.url.path(), name);
    let schedule: Value = schedule.body_json().unwrap();
    assert_eq!(schedule["GroupName"], "ringback");
    // 30 s of ringing, 15 s of connecting, 5 s for the message to act first.
    assert_eq!(schedule["ScheduleExpression"], "at(2024-03-14T12:00:50)");
    assert_eq!(schedule["FlexibleTimeWindow"]["Mode"], "OFF");
    assert_eq!(schedule["ActionAfterCompletion"], "DELETE");
    assert_eq!(schedule["Target"]["Arn"], test.timers.function_arn);
    let role = &schedule["Target"]["RoleArn"];
    assert_eq!(role, &test.timers.scheduler_role_arn);
    assert_eq!(schedule["Target"]["Input"], body);
}

#[tokio::test]
async fn call_timeout_can_read_the_message_of_a_timer() {
    let call = ringback_core::testing::a_call(NOW);
    let json = to_json(&TimerMessage::check(call.call_id)).unwrap();
    let message: TimerMessage = serde_json::from_str(&json).unwrap();
    assert_eq!(message.call_id, call.call_id);
    assert_eq!(message.event(), Event::TimerFired);
}

#[tokio::test]
async fn an_overwritten_version_is_sent_to_call_timeout_without_delay() {
    let test = TestTimers::start().await;
    let merge = StreamAction::Merge(&test.call);
    test.timers.perform(&merge, NOW).await.unwrap();
    let [sent] = test.messages().await.try_into().unwrap();
    assert_eq!(sent["DelaySeconds"], 0);
    let message: TimerMessage =
        serde_json::from_str(sent["MessageBody"].as_str().unwrap()).unwrap();
    let expected = Event::ReplicaOverwritten(Box::new(test.call));
    assert_eq!(message.event(), expected);
}

#[tokio::test]
async fn a_new_call_gets_a_delayed_message_if_the_scheduler_fails() {
    let test = TestTimers::that_reply(message_sent(), internal_error()).await;
    test.handle_insert(NOW + Duration::from_millis(1500))
        .await
        .unwrap();
    let message = test.messages().await.remove(0);
    assert_eq!(message["DelaySeconds"], 49);
    let body = format!(r#"{{"call_id":"{}"}}"#, test.call.call_id);
    assert_eq!(message["MessageBody"], body);
}

#[tokio::test]
async fn a_new_call_whose_ring_has_passed_gets_a_message_without_delay() {
    let test = TestTimers::start().await;
    let long_after = NOW + Duration::from_secs(300);
    test.handle_insert(long_after).await.unwrap();
    assert_eq!(test.messages().await[0]["DelaySeconds"], 0);
    assert_eq!(test.schedules().await.len(), 0);
}

#[tokio::test]
async fn a_new_call_without_schedule_and_message_is_an_error() {
    let test = TestTimers::that_reply(internal_error(), internal_error()).await;
    assert!(test.handle_insert(NOW).await.is_err());
}

#[tokio::test]
async fn a_call_of_the_other_region_gets_a_message_and_a_schedule_here() {
    let test = TestTimers::start().await;
    let action = stream_action(None, &test.call, Some("ap-south-1"), "ap-southeast-1").unwrap();
    test.timers.perform(&action, NOW).await.unwrap();
    assert_eq!(test.messages().await[0]["DelaySeconds"], 31);
    let schedule: Value = test.schedules().await[0].body_json().unwrap();
    assert_eq!(schedule["ScheduleExpression"], "at(2024-03-14T12:00:51)");
}

#[tokio::test]
async fn a_message_is_never_early() {
    for (millis, seconds) in [(0, 0), (1, 1), (1000, 1), (29_001, 30), (900_000, 900)] {
        let test = TestTimers::start().await;
        test.arm(NOW + Duration::from_millis(millis)).await.unwrap();
        let message = test.messages().await.remove(0);
        assert_eq!(message["DelaySeconds"], seconds, "{millis} ms");
    }
}

#[tokio::test]
async fn a_timer_in_the_past_fires_at_once() {
    let test = TestTimers::start().await;
    let past = Timestamp::from_millis(NOW.as_millis() - 5000);
    test.arm(past).await.unwrap();
    assert_eq!(test.messages().await[0]["DelaySeconds"], 0);
}

#[tokio::test]
async fn a_timer_beyond_the_longest_message_delay_is_a_schedule_only() {
    let mut test = TestTimers::start().await;
    test.bridge();
    let at = NOW + MAX_MESSAGE_DELAY + Duration::from_millis(1);
    test.arm(at).await.unwrap();
    assert_eq!(test.messages().await.len(), 0);
    let schedule = test.schedules().await.remove(0);
    let name = format!("/schedules/{}-talk", test.call.call_id);
    assert_eq!(schedule.url.path(), name);
    let schedule: Value = schedule.body_json().unwrap();
    assert_eq!(schedule["ScheduleExpression"], "at(2024-03-14T12:15:01)");
}

#[tokio::test]
async fn a_call_that_connects_gets_a_message_and_no_second_schedule() {
    let mut test = TestTimers::start().await;
    test.call.status = CallStatus::MobileReady;
    test.arm(NOW + Duration::from_secs(15)).await.unwrap();
    assert_eq!(test.messages().await.len(), 1);
    assert_eq!(test.schedules().await.len(), 0);
}

#[tokio::test]
async fn a_schedule_that_exists_already_counts_as_created() {
    let conflict = aws_error(409, "ConflictException");
    let test = TestTimers::that_reply(internal_error(), conflict).await;
    test.handle_insert(NOW).await.unwrap();
}

/// The schedule that the stream creates ends it.
#[tokio::test]
async fn a_ring_whose_message_is_rejected_is_no_error() {
    let test = TestTimers::that_reply(internal_error(), schedule_created()).await;
    test.arm(test.call.rings_until).await.unwrap();
}

/// No schedule ends the legs of a call that has ended.
#[tokio::test]
async fn an_ended_call_whose_message_is_rejected_is_an_error() {
    let mut test = TestTimers::that_reply(internal_error(), schedule_created()).await;
    test.call.status = CallStatus::TimedOut;
    let error = test.arm(NOW + Duration::from_secs(5)).await.unwrap_err();
    assert!(error.to_string().contains("SQS"), "{error}");
}

#[tokio::test]
async fn one_timer_of_a_conversation_is_enough() {
    for (queue, scheduler) in [
        (internal_error(), schedule_created()),
        (message_sent(), internal_error()),
    ] {
        let mut test = TestTimers::that_reply(queue, scheduler).await;
        test.bridge();
        test.arm(NOW + Duration::from_secs(60)).await.unwrap();
    }
}

#[tokio::test]
async fn a_conversation_without_any_timer_is_an_error() {
    let mut test = TestTimers::that_reply(internal_error(), internal_error()).await;
    test.bridge();
    assert!(test.arm(NOW + Duration::from_secs(60)).await.is_err());
}

#[tokio::test]
async fn a_conversation_without_its_only_timer_is_an_error() {
    let mut test = TestTimers::that_reply(message_sent(), internal_error()).await;
    test.bridge();
    let at = test.call.deadline().unwrap();
    let error = test.arm(at).await.unwrap_err();
    assert!(error.to_string().contains("Scheduler"), "{error}");
}

#[tokio::test]
async fn disarming_deletes_the_schedules_that_the_call_has_had() {
    let mut test = TestTimers::start().await;
    test.timers.disarm(&test.call).await.unwrap();
    test.bridge();
    test.timers.disarm(&test.call).await.unwrap();

    let id = test.call.call_id;
    let schedules = test.schedules().await;
    let names: Vec<_> = schedules.iter().map(|request| request.url.path()).collect();
    let (ring, talk) = (
        format!("/schedules/{id}-ring"),
        format!("/schedules/{id}-talk"),
    );
    assert_eq!(names, [&ring, &ring, &talk]);
    for request in &schedules {
        assert_eq!(request.method.as_str(), "DELETE");
        let query = request.url.query().unwrap_or_default();
        assert!(query.contains("groupName=ringback"), "{query}");
    }
}

#[tokio::test]
async fn a_schedule_that_does_not_exist_counts_as_deleted() {
    let test = TestTimers::that_reply(message_sent(), schedule_created()).await;
    test.deletion_replies(aws_error(404, "ResourceNotFoundException"))
        .await;
    test.timers.disarm(&test.call).await.unwrap();
}

#[tokio::test]
async fn disarming_fails_while_the_scheduler_fails() {
    let test = TestTimers::that_reply(message_sent(), schedule_created()).await;
    test.deletion_replies(internal_error()).await;
    assert!(test.timers.disarm(&test.call).await.is_err());
}

#[test]
fn a_schedule_is_never_early() {
    assert_eq!(
        scheduler_time(Timestamp::from_millis(1_710_417_600_001)),
        "2024-03-14T12:00:01"
    );
    assert_eq!(
        scheduler_time(Timestamp::from_millis(1_710_417_600_000)),
        "2024-03-14T12:00:00"
    );
}
