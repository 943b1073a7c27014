//! SQS and EventBridge Scheduler, played by one server.

use serde_json::{Value, json};
use wiremock::matchers::{method, path_regex};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::testing;

const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);
const SCHEDULES: &str = "^/schedules/.+";

struct Timers {
    server: MockServer,
    timeouts: Timeouts,
    call: Call,
}

impl Timers {
    /// A queue and a scheduler that take everything, and a call that rings.
    async fn start() -> Self {
        let timers = Self::that_answer(sent(), created()).await;
        timers.deletion_answers(deleted()).await;
        timers
    }

    async fn that_answer(queue: ResponseTemplate, scheduler: ResponseTemplate) -> Self {
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
            timeouts: Timeouts {
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

    async fn deletion_answers(&self, answer: ResponseTemplate) {
        Mock::given(method("DELETE"))
            .and(path_regex(SCHEDULES))
            .respond_with(answer)
            .mount(&self.server)
            .await;
    }

    /// Joins the legs at the end of the ring.
    fn bridge(&mut self) {
        self.call.status = CallStatus::InProgress;
        self.call.bridged_at = Some(self.call.rings_until);
    }

    async fn arm(&self, at: Timestamp) -> Result<(), TimerError> {
        self.timeouts.arm(&self.call, at, NOW).await
    }

    async fn asked(&self) -> Vec<Request> {
        testing::requests(&self.server).await
    }

    async fn sent(&self) -> Vec<Value> {
        let asked = self.asked().await;
        let sent = asked
            .iter()
            .filter(|request| testing::operation(request) == "SendMessage");
        sent.map(|request| request.body_json().unwrap()).collect()
    }

    async fn schedules(&self) -> Vec<Request> {
        let mut asked = self.asked().await;
        asked.retain(|request| request.url.path().starts_with("/schedules/"));
        asked
    }
}

fn sent() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({ "MessageId": "1" }))
}

fn created() -> ResponseTemplate {
    let arn = "arn:aws:scheduler:ap-south-1:123456789012:schedule/ringback/x";
    ResponseTemplate::new(200).set_body_json(json!({ "ScheduleArn": arn }))
}

fn deleted() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({}))
}

fn refused(status: u16, error: &str) -> ResponseTemplate {
    ResponseTemplate::new(status)
        .append_header("x-amzn-errortype", error)
        .set_body_json(json!({ "Message": "…" }))
}

fn broken() -> ResponseTemplate {
    refused(500, "InternalServerException")
}

#[tokio::test]
async fn a_ring_is_ended_by_a_message_and_by_a_schedule_behind_it() {
    let timers = Timers::start().await;
    let call = &timers.call;
    timers.arm(call.rings_until).await.unwrap();

    let id = format!(r#"{{"call_id":"{}"}}"#, call.call_id);
    let message = timers.sent().await.remove(0);
    assert_eq!(message["MessageBody"], id);
    assert_eq!(message["DelaySeconds"], 30);
    assert_eq!(message["QueueUrl"], timers.timeouts.queue_url);

    let schedule = timers.schedules().await.remove(0);
    let name = format!("/schedules/{}-ring", call.call_id);
    assert_eq!(schedule.url.path(), name);
    let schedule: Value = schedule.body_json().unwrap();
    assert_eq!(schedule["GroupName"], "ringback");
    // 30 s of ringing, 15 s of connecting, 5 s for the message to come first.
    assert_eq!(schedule["ScheduleExpression"], "at(2024-03-14T12:00:50)");
    assert_eq!(schedule["FlexibleTimeWindow"]["Mode"], "OFF");
    assert_eq!(schedule["ActionAfterCompletion"], "DELETE");
    assert_eq!(schedule["Target"]["Arn"], timers.timeouts.function_arn);
    let role = &schedule["Target"]["RoleArn"];
    assert_eq!(role, &timers.timeouts.scheduler_role_arn);
    assert_eq!(schedule["Target"]["Input"], id);
}

#[tokio::test]
async fn what_a_timer_brings_is_what_the_function_reads() {
    let call = ringback_core::testing::a_call(NOW);
    let timer: Timer = serde_json::from_str(&body(&Timer::of(&call)).unwrap()).unwrap();
    assert_eq!(timer.call_id, call.call_id);
    assert_eq!(timer.event(), Event::TimerFired);
}

#[tokio::test]
async fn what_was_overwritten_is_told_again_at_once() {
    let timers = Timers::start().await;
    timers.timeouts.tell_again(&timers.call).await.unwrap();
    let [sent] = timers.sent().await.try_into().unwrap();
    assert_eq!(sent["DelaySeconds"], 0);
    let timer: Timer = serde_json::from_str(sent["MessageBody"].as_str().unwrap()).unwrap();
    let told = Event::ReplicaOverwritten(Box::new(timers.call));
    assert_eq!(timer.event(), told);
}

#[tokio::test]
async fn a_message_is_never_early() {
    for (millis, seconds) in [(0, 0), (1, 1), (1000, 1), (29_001, 30), (900_000, 900)] {
        let timers = Timers::start().await;
        timers
            .arm(NOW + Duration::from_millis(millis))
            .await
            .unwrap();
        let message = timers.sent().await.remove(0);
        assert_eq!(message["DelaySeconds"], seconds, "{millis} ms");
    }
}

#[tokio::test]
async fn what_is_due_already_is_looked_at_at_once() {
    let timers = Timers::start().await;
    let past = Timestamp::from_millis(NOW.as_millis() - 5000);
    timers.arm(past).await.unwrap();
    assert_eq!(timers.sent().await[0]["DelaySeconds"], 0);
}

#[tokio::test]
async fn no_message_is_delayed_for_longer_than_sqs_can() {
    let mut timers = Timers::start().await;
    timers.bridge();
    let at = NOW + LONGEST_DELAY + Duration::from_millis(1);
    timers.arm(at).await.unwrap();
    assert_eq!(timers.sent().await.len(), 0);
    let schedule = timers.schedules().await.remove(0);
    let name = format!("/schedules/{}-talk", timers.call.call_id);
    assert_eq!(schedule.url.path(), name);
    let schedule: Value = schedule.body_json().unwrap();
    assert_eq!(schedule["ScheduleExpression"], "at(2024-03-14T12:15:01)");
}

#[tokio::test]
async fn connecting_has_the_rings_schedule_behind_it() {
    let mut timers = Timers::start().await;
    timers.call.status = CallStatus::MobileReady;
    timers.arm(NOW + Duration::from_secs(15)).await.unwrap();
    assert_eq!(timers.sent().await.len(), 1);
    assert_eq!(timers.schedules().await.len(), 0);
}

#[tokio::test]
async fn a_schedule_that_is_there_already_is_as_good_as_a_new_one() {
    let conflict = refused(409, "ConflictException");
    let timers = Timers::that_answer(broken(), conflict).await;
    timers.arm(timers.call.rings_until).await.unwrap();
}

#[tokio::test]
async fn one_timer_that_cannot_be_armed_is_made_good_by_the_other() {
    for (queue, scheduler) in [(broken(), created()), (sent(), broken())] {
        let timers = Timers::that_answer(queue, scheduler).await;
        timers.arm(timers.call.rings_until).await.unwrap();
    }
}

#[tokio::test]
async fn a_ring_without_any_timer_is_an_error() {
    let timers = Timers::that_answer(broken(), broken()).await;
    assert!(timers.arm(timers.call.rings_until).await.is_err());
}

#[tokio::test]
async fn a_conversation_without_its_only_timer_is_an_error() {
    let mut timers = Timers::that_answer(sent(), broken()).await;
    timers.bridge();
    let at = timers.call.deadline().unwrap();
    let error = timers.arm(at).await.unwrap_err();
    assert!(error.to_string().contains("Scheduler"), "{error}");
}

#[tokio::test]
async fn a_call_takes_back_the_schedules_that_it_has_had() {
    let mut timers = Timers::start().await;
    timers.timeouts.disarm(&timers.call).await.unwrap();
    timers.bridge();
    timers.timeouts.disarm(&timers.call).await.unwrap();

    let id = timers.call.call_id;
    let schedules = timers.schedules().await;
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
async fn a_schedule_that_is_gone_need_not_be_taken_back() {
    let timers = Timers::that_answer(sent(), created()).await;
    timers
        .deletion_answers(refused(404, "ResourceNotFoundException"))
        .await;
    timers.timeouts.disarm(&timers.call).await.unwrap();
}

#[tokio::test]
async fn a_scheduler_that_is_not_there_is_an_error_when_a_schedule_is_taken_back() {
    let timers = Timers::that_answer(sent(), created()).await;
    timers.deletion_answers(broken()).await;
    assert!(timers.timeouts.disarm(&timers.call).await.is_err());
}

#[test]
fn a_schedule_is_never_early() {
    assert_eq!(
        without_zone(Timestamp::from_millis(1_710_417_600_001)),
        "2024-03-14T12:00:01"
    );
    assert_eq!(
        without_zone(Timestamp::from_millis(1_710_417_600_000)),
        "2024-03-14T12:00:00"
    );
}
