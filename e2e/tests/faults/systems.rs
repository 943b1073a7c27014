//! Faults of the systems around the functions, as they really happen.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use ringback_local::faults::rule::{Fault, KillPoint, Rule, System};
use ringback_local::settings::Settings;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::call_run::{CallEnd, CallResult, Scenario, ring, run_call};
use crate::faults::{answer, answer_with, from, rule};
use crate::harness::Harness;
use crate::report;
use ringback_e2e::outcome_table::{OutcomeRow, table};

/// The number of concurrent calls.
const AT_ONCE: usize = 6;
/// The time after the ring within which a caller hears busy: the promised 2 s, and 2 s more because a small local
/// cloud ends several calls at once. (`calls/unanswered.rs` tests the promise itself with a single call.)
const GRACE: Duration = Duration::from_secs(4);
/// The scheduler's backstop: the ring, the connect timeout and 5 s more, and the 10 s tick of the local cloud.
const BACKSTOP: Duration = Duration::from_secs(15 + 5 + 10 + 4);

/// One fault during one call.
pub(crate) struct Case {
    pub(crate) fault: &'static str,
    pub(crate) scenario: Scenario,
    pub(crate) rules: Vec<Rule>,
    /// The promised end. `None`: bridged or busy.
    end: Option<CallEnd>,
    /// The promised time after dialling.
    within: Duration,
}

/// All faults that affect a single call.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(of_dynamodb());
    cases.extend(of_the_pbx());
    cases.extend(of_fcm());
    cases.extend(of_exotel());
    cases.extend(of_the_timers());
    cases.extend(of_refusals());
    cases.extend(of_replays());
    cases
}

fn of_dynamodb() -> Vec<Case> {
    use Scenario::{Answered, NobodyAnswers};
    let throttled = |times| rule(System::Aws, "DynamoDB", times, throttling());
    let in_time = ring() + GRACE;
    vec![
        case(
            "DynamoDB throttles the first 3 requests",
            Answered,
            [throttled(Some(3))],
            CallEnd::Bridged,
            in_time,
        ),
        case(
            "DynamoDB throttles the first 3 requests, call not answered",
            NobodyAnswers,
            [throttled(Some(3))],
            CallEnd::Busy,
            in_time,
        ),
        case(
            "DynamoDB throttles all requests",
            Answered,
            [throttled(None)],
            CallEnd::Busy,
            in_time,
        ),
        case(
            "DynamoDB does not answer the first request",
            Answered,
            [rule(System::Aws, "DynamoDB", Some(1), Fault::Silence)],
            CallEnd::Bridged,
            in_time,
        ),
        case(
            "DynamoDB stores the call, and its response is lost",
            Answered,
            [rule(
                System::Aws,
                "DynamoDB PutItem",
                Some(1),
                Fault::LoseAnswer,
            )],
            CallEnd::Bridged,
            in_time,
        ),
        case(
            "DynamoDB stores the accept, and its response is lost",
            Answered,
            [from(
                "call-response",
                rule(
                    System::Aws,
                    "DynamoDB UpdateItem",
                    Some(1),
                    Fault::LoseAnswer,
                ),
            )],
            CallEnd::Bridged,
            in_time,
        ),
        case(
            "DynamoDB fails (500) 3 times",
            Answered,
            [rule(System::Aws, "DynamoDB", Some(3), answer(500, "{}"))],
            CallEnd::Bridged,
            in_time,
        ),
    ]
}

fn of_the_pbx() -> Vec<Case> {
    use Scenario::{Answered, NobodyAnswers};
    let pbx = |times, fault| rule(System::Pbx, "", times, fault);
    let in_time = ring() + GRACE;
    vec![
        case(
            "ARI rejects the password once",
            Answered,
            [pbx(Some(1), answer(401, "{}"))],
            CallEnd::Bridged,
            in_time,
        ),
        case(
            "ARI does not answer the first request",
            Answered,
            [pbx(Some(1), Fault::Silence)],
            CallEnd::Bridged,
            in_time,
        ),
        case(
            "ARI calls the phone, and its response is lost",
            Answered,
            [rule(
                System::Pbx,
                "POST /channels",
                Some(1),
                Fault::LoseAnswer,
            )],
            CallEnd::Bridged,
            in_time,
        ),
        case(
            "ARI fails (503) 2 times",
            Answered,
            [pbx(Some(2), answer(503, "{}"))],
            CallEnd::Bridged,
            in_time,
        ),
        case(
            "ARI does not answer the first request to end the caller's leg",
            NobodyAnswers,
            [rule(System::Pbx, "DELETE", Some(1), Fault::Silence)],
            CallEnd::Busy,
            in_time + Duration::from_secs(4),
        ),
        // Only the PBX's own timeout is left.
        case(
            "ARI rejects the password permanently",
            NobodyAnswers,
            [pbx(None, answer(401, "{}"))],
            CallEnd::Busy,
            OWN_LIMIT_OF_THE_PBX,
        ),
    ]
}

/// `RINGBACK_MAX_WAIT_SECONDS` of the local stack, and a margin.
const OWN_LIMIT_OF_THE_PBX: Duration = Duration::from_secs(64);

fn of_fcm() -> Vec<Case> {
    use Scenario::Answered;
    let fcm = |times, fault| rule(System::Fcm, "FCM incoming_call", times, fault);
    let in_time = ring() + GRACE;
    let busy = |code: u16| json!({"error": {"code": code, "status": "UNAVAILABLE"}}).to_string();
    let gone = json!({"error": {"code": 404, "status": "NOT_FOUND", "details": [{
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "UNREGISTERED"}]}});
    let busy_for =
        |code, seconds: &str| answer_with(code, &[("retry-after", seconds)], &busy(code));
    vec![
        case(
            "FCM answers 429 once, with Retry-After: 1",
            Answered,
            [fcm(Some(1), busy_for(429, "1"))],
            CallEnd::Bridged,
            in_time,
        ),
        case(
            "FCM answers 429, with Retry-After: 30",
            Answered,
            [fcm(None, busy_for(429, "30"))],
            CallEnd::Busy,
            in_time,
        ),
        case(
            "FCM fails (503) once, with Retry-After: 3",
            Answered,
            [fcm(Some(1), busy_for(503, "3"))],
            CallEnd::Bridged,
            in_time,
        ),
        // Without `Retry-After`, Google asks for 10 s, which is the ring of these tests.
        case(
            "FCM fails (500) once",
            Answered,
            [fcm(Some(1), answer(500, &busy(500)))],
            CallEnd::Busy,
            in_time,
        ),
        case(
            "FCM fails (503) permanently",
            Answered,
            [fcm(None, answer(503, &busy(503)))],
            CallEnd::Busy,
            in_time,
        ),
        case(
            "FCM answers UNREGISTERED for the only device",
            Answered,
            [fcm(None, answer(404, &gone.to_string()))],
            CallEnd::Busy,
            Duration::from_secs(6),
        ),
        case(
            "FCM answers after 1.5 s",
            Answered,
            [fcm(None, Fault::Delay { ms: 1_500 })],
            CallEnd::Bridged,
            in_time,
        ),
        case(
            "FCM accepts the push, and its response is lost",
            Answered,
            [fcm(Some(1), Fault::LoseAnswer)],
            CallEnd::Bridged,
            in_time,
        ),
        case(
            "FCM does not answer",
            Answered,
            [fcm(None, Fault::Silence)],
            CallEnd::Busy,
            in_time,
        ),
    ]
}

fn of_exotel() -> Vec<Case> {
    use Scenario::Outbound;
    let exotel = |times, fault| rule(System::Exotel, "Exotel connect", times, fault);
    let refusal = |status: u16| {
        let body = json!({"RestException": {"Status": status, "Message": "no"}});
        answer(status, &body.to_string())
    };
    let soon = Duration::from_secs(6);
    vec![
        case(
            "Exotel answers 400",
            Outbound,
            [exotel(None, refusal(400))],
            CallEnd::Busy,
            soon,
        ),
        case(
            "Exotel answers 402",
            Outbound,
            [exotel(None, refusal(402))],
            CallEnd::Busy,
            soon,
        ),
        case(
            "Exotel answers 429",
            Outbound,
            [exotel(None, refusal(429))],
            CallEnd::Busy,
            soon,
        ),
        case(
            "Exotel answers 503",
            Outbound,
            [exotel(None, refusal(503))],
            CallEnd::Busy,
            soon,
        ),
        case(
            "Exotel places the call, and its response is lost",
            Outbound,
            [exotel(None, Fault::LoseAnswer)],
            CallEnd::Bridged,
            Duration::from_secs(15),
        ),
        // Until the ring ends, it is unknown whether the call was placed.
        case(
            "Exotel does not answer and does not place the call",
            Outbound,
            [exotel(None, Fault::Silence)],
            CallEnd::Busy,
            ring() + Duration::from_secs(30),
        ),
    ]
}

fn of_the_timers() -> Vec<Case> {
    use Scenario::{Answered, NobodyAnswers};
    let sqs = |times, fault| rule(System::Aws, "AmazonSQS SendMessage", times, fault);
    let scheduler = |fault| rule(System::Aws, "POST /schedules", None, fault);
    let in_time = ring() + GRACE;
    let taken = json!({"MessageId": "5fea7756-0ea4-451a-a703-a558b933e274", "MD5OfMessageBody": "d41d8cd98f00b204e9800998ecf8427e"});
    vec![
        case(
            "SQS delivers the timer twice",
            NobodyAnswers,
            [sqs(None, Fault::Twice)],
            CallEnd::Busy,
            in_time,
        ),
        case(
            "SQS delivers the timer twice, call answered",
            Answered,
            [sqs(None, Fault::Twice)],
            CallEnd::Bridged,
            in_time,
        ),
        case(
            "SQS accepts the timer and never delivers it",
            NobodyAnswers,
            [sqs(None, answer(200, &taken.to_string()))],
            CallEnd::Busy,
            ring() + BACKSTOP,
        ),
        case(
            "SQS fails (500) permanently",
            NobodyAnswers,
            [sqs(None, answer(500, "{}"))],
            CallEnd::Busy,
            ring() + BACKSTOP,
        ),
        case(
            "the scheduler fails (500) permanently",
            NobodyAnswers,
            [scheduler(answer(500, "{}"))],
            CallEnd::Busy,
            in_time,
        ),
        case(
            "the timer's function crashes before it ends the caller's leg",
            NobodyAnswers,
            [from(
                "call-timeout",
                rule(
                    System::Pbx,
                    "DELETE",
                    Some(1),
                    Fault::Kill(KillPoint::Before),
                ),
            )],
            CallEnd::Busy,
            // Then the backstop ends the call.
            ring() + BACKSTOP + GRACE,
        ),
    ]
}

fn of_refusals() -> Vec<Case> {
    use Scenario::{CalleeTalks, DoNotDisturb};
    let asked = |function, fault| {
        from(
            function,
            rule(System::Aws, "DynamoDB Query EXTENSION", Some(1), fault),
        )
    };
    let refused = |function, fault| {
        from(
            function,
            rule(System::Aws, "DynamoDB UpdateItem CALL", Some(1), fault),
        )
    };
    let pbx = |operation, fault| rule(System::Pbx, operation, Some(1), fault);
    let in_time = ring() + GRACE;
    vec![
        case(
            "DynamoDB does not answer whether the callee wants calls",
            DoNotDisturb,
            [asked("asterisk-incoming", Fault::Silence)],
            CallEnd::Busy,
            in_time,
        ),
        case(
            "DynamoDB stores the refusal, and its response is lost",
            DoNotDisturb,
            [refused("asterisk-incoming", Fault::LoseAnswer)],
            CallEnd::Busy,
            in_time,
        ),
        case(
            "ARI does not answer the request to refuse the caller",
            DoNotDisturb,
            [pbx("DELETE", Fault::Silence)],
            CallEnd::Busy,
            in_time,
        ),
        case(
            "ARI does not answer whether the callee talks",
            CalleeTalks,
            [pbx("GET /channels", Fault::Silence)],
            CallEnd::Busy,
            in_time,
        ),
    ]
}

fn of_replays() -> Vec<Case> {
    use Scenario::ConnectsLate;
    let wanted = rule(System::Aws, "AmazonSQS SendMessage", None, Fault::Twice);
    let replay = |operation, fault| from("ws-replay", rule(System::Aws, operation, Some(1), fault));
    let late = |fault, rule| {
        case(
            fault,
            ConnectsLate,
            [rule],
            CallEnd::Bridged,
            ring() + GRACE,
        )
    };
    vec![
        late(
            "SQS delivers a client that has connected twice",
            from("ws-connect", wanted),
        ),
        late(
            "DynamoDB does not answer which calls are in progress",
            replay("DynamoDB Query", Fault::Silence),
        ),
        late(
            "the message to a client that has connected fails (500) once",
            replay("connections POST", answer(500, "{}")),
        ),
    ]
}

pub(crate) fn case<const N: usize>(
    fault: &'static str,
    scenario: Scenario,
    rules: [Rule; N],
    end: impl Into<Option<CallEnd>>,
    within: Duration,
) -> Case {
    Case {
        fault,
        scenario,
        rules: rules.into(),
        end: end.into(),
        within,
    }
}

fn throttling() -> Fault {
    answer(
        400,
        r#"{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"too fast"}"#,
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn calls_end_as_promised_during_system_faults() -> Result<()> {
    let harness = Harness::open(2 * AT_ONCE).await?;
    let settings = Settings::from_environment();
    let only = settings.variable("CHAOS_ONLY").unwrap_or_default();
    let mut cases = cases();
    cases.retain(|case| case.fault.contains(only));
    // A crash affects all timers of a batch, so the calls with one are played by themselves.
    let crashes = |case: &Case| {
        let is_kill = |rule: &Rule| matches!(rule.fault, Fault::Kill(_));
        case.rules.iter().any(is_kill)
    };
    let (crashes, others) = cases.into_iter().partition(crashes);
    let mut rows = run_cases(&harness, others).await?;
    rows.extend(run_cases(&harness, crashes).await?);
    println!("\n{}", table(&rows));
    for row in &rows {
        row.save()?;
    }
    ensure!(rows.iter().all(|row| row.lost == 0), "calls were lost");
    Ok(())
}

/// Runs one call with each fault and returns the results.
pub(crate) async fn run_cases(harness: &Arc<Harness>, cases: Vec<Case>) -> Result<Vec<OutcomeRow>> {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut playing = JoinSet::new();
    let cases = Arc::new(cases);
    // The longest calls begin first, so that the others run beside them.
    let mut places: Vec<usize> = (0..cases.len()).collect();
    places.sort_by_key(|place| Reverse(cases[*place].within));
    for place in places {
        let (harness, at_once) = (Arc::clone(harness), Arc::clone(&at_once));
        let cases = Arc::clone(&cases);
        playing.spawn(async move {
            let _turn = at_once.acquire().await?;
            let case = &cases[place];
            let mut result = run_call(&harness, case.scenario, &case.rules).await?;
            case.check(&mut result);
            println!("  {} ({} hits): {result}", case.fault, result.hits);
            anyhow::Ok((place, result))
        });
    }
    let mut by_case: BTreeMap<usize, Vec<CallResult>> = BTreeMap::new();
    while let Some(result) = playing.join_next().await {
        let (place, result) = result??;
        by_case.entry(place).or_default().push(result);
    }
    let rows = by_case.iter().map(|(place, result)| {
        let case = &cases[*place];
        report::row(case.fault, result, case.within)
    });
    Ok(rows.collect())
}

impl Case {
    /// Whether the call ends soon enough for the soak test.
    pub(crate) fn is_short(&self) -> bool {
        self.within <= ring() + 2 * GRACE
    }

    fn check(&self, result: &mut CallResult) {
        if result.hits == 0 {
            result.problems.push("the fault did not occur".to_owned());
        }
        if self.end.is_some_and(|end| end != result.end) {
            result.problems.push(format!("promised {:?}", self.end));
        }
    }
}
