//! Requests and answers, against a server that plays the table.

use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::testing;

const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

/// A table that gives these answers, one after the other, and then answers 500.
async fn table(answers: Vec<ResponseTemplate>) -> (MockServer, Allowances) {
    let server = MockServer::start().await;
    for answer in answers {
        let once = Mock::given(any()).respond_with(answer).up_to_n_times(1);
        once.mount(&server).await;
    }
    let broken = Mock::given(any()).respond_with(ResponseTemplate::new(500));
    broken.mount(&server).await;
    let allowances = Allowances::new(testing::table(&server));
    (server, allowances)
}

fn done() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({}))
}

/// The condition fails on a bucket that is full this long after [`NOW`].
fn full_after(wait: Duration) -> ResponseTemplate {
    let full_at = (NOW + wait).as_millis().to_string();
    testing::condition_failed_on(&json!({ "full_at": { "N": full_at } }))
}

/// Takes a token of a bucket with 5 tokens that gets one back every 6 s.
async fn take(allowances: &Allowances) -> Result<TokenTaken, AllowanceError> {
    take_for(allowances, None).await
}

async fn take_for(
    allowances: &Allowances,
    what_for: Option<&str>,
) -> Result<TokenTaken, AllowanceError> {
    let extension = Extension::try_from("1001").unwrap();
    let allowance = Allowance::per_minute(10, 5);
    allowances
        .take(&extension, Purpose::Registrations, allowance, what_for, NOW)
        .await
}

async fn writes(server: &MockServer) -> Vec<Value> {
    let requests = testing::requests(server).await;
    assert!(
        requests
            .iter()
            .all(|one| testing::operation(one) == "UpdateItem")
    );
    requests
        .iter()
        .map(|one| one.body_json().unwrap())
        .collect()
}

#[test]
fn allowances_have_defaults_and_reject_invalid_numbers() {
    let of = |read| {
        let environment = Environment::of(read);
        let calls = Allowance::of_calls(&environment)?;
        let phone_calls = Allowance::of_phone_calls(&environment)?;
        Ok::<_, ConfigError>((
            calls,
            Allowance::of_registrations(&environment)?,
            phone_calls,
        ))
    };
    let per_minute = Allowance::per_minute;
    let per_day = |seconds, at_once| Allowance {
        at_once,
        interval: Duration::from_secs(seconds),
    };
    assert_eq!(
        of(|_| None).unwrap(),
        (per_minute(10, 5), per_minute(6, 10), per_day(864, 100))
    );
    let one = of(|_| Some("1".to_owned())).unwrap();
    assert_eq!(
        one,
        (per_minute(1, 1), per_minute(1, 1), per_day(86_400, 1))
    );
    let error = of(|_| Some("-1".to_owned())).unwrap_err();
    assert!(error.to_string().contains("CALLS_PER_MINUTE"), "{error}");
}

#[tokio::test]
async fn a_token_from_a_full_bucket_costs_one_write_and_no_read() {
    let (server, allowances) = table(vec![done()]).await;
    take(&allowances).await.unwrap();
    let writes = writes(&server).await;
    assert_eq!(writes.len(), 1);
    let key = json!({ "pk": { "S": "EXTENSION#1001" }, "sk": { "S": "ALLOWANCE#registrations" } });
    assert_eq!(writes[0]["Key"], key);
    let values = &writes[0]["ExpressionAttributeValues"];
    assert_eq!(values[":now"]["N"], "1710417600000");
    assert_eq!(values[":full_at"]["N"], "1710417606000");
    assert_eq!(values[":expires_at"]["N"], "1710421206");
}

#[tokio::test]
async fn a_token_from_a_partly_used_bucket_costs_a_second_write() {
    let (server, allowances) = table(vec![full_after(Duration::from_secs(24)), done()]).await;
    take(&allowances).await.unwrap();
    let writes = writes(&server).await;
    assert_eq!(writes.len(), 2);
    let values = &writes[1]["ExpressionAttributeValues"];
    assert_eq!(values[":last"]["N"], "1710417624000");
    assert_eq!(values[":interval"]["N"], "6000");
}

#[tokio::test]
async fn an_empty_bucket_costs_one_write_and_gives_the_wait() {
    let (server, allowances) = table(vec![full_after(Duration::from_millis(24_001))]).await;
    let rejected = take(&allowances).await;
    assert!(
        matches!(rejected, Err(AllowanceError::TooSoon(wait)) if wait == Duration::from_millis(1)),
        "{rejected:?}"
    );
    assert_eq!(writes(&server).await.len(), 1);
}

#[tokio::test]
async fn a_repeated_request_takes_no_second_token_and_costs_one_write() {
    let standing = |what_for: &str| {
        let item = json!({ "full_at": { "N": "1710417690000" }, "taken_for": { "S": what_for } });
        testing::condition_failed_on(&item)
    };
    let (server, allowances) = table(vec![standing("tap-1")]).await;
    let taken = take_for(&allowances, Some("tap-1")).await.unwrap();
    assert_eq!(taken, TokenTaken::Before);
    let write = writes(&server).await.remove(0);
    assert_eq!(write["ExpressionAttributeValues"][":for"]["S"], "tap-1");
    let (_server, allowances) = table(vec![standing("tap-2")]).await;
    let rejected = take_for(&allowances, Some("tap-1")).await;
    assert!(
        matches!(rejected, Err(AllowanceError::TooSoon(_))),
        "{rejected:?}"
    );
}

#[tokio::test]
async fn another_process_can_take_the_last_token_between_two_writes() {
    let answers = [20, 26].map(|seconds| full_after(Duration::from_secs(seconds)));
    let (server, allowances) = table(answers.into()).await;
    let rejected = take(&allowances).await;
    assert!(
        matches!(rejected, Err(AllowanceError::TooSoon(wait)) if wait == Duration::from_secs(2)),
        "{rejected:?}"
    );
    assert_eq!(writes(&server).await.len(), 2);
}

#[tokio::test]
async fn a_table_that_does_not_answer_allows_nothing() {
    let (_server, allowances) = table(vec![]).await;
    let rejected = take(&allowances).await;
    assert!(
        matches!(rejected, Err(AllowanceError::Store(_))),
        "{rejected:?}"
    );
}

#[tokio::test]
async fn a_bucket_that_keeps_changing_is_given_up_after_a_few_writes() {
    let answers = (0..9).map(|_| testing::condition_failed()).collect();
    let (server, allowances) = table(answers).await;
    let rejected = take(&allowances).await;
    assert!(
        matches!(rejected, Err(AllowanceError::Store(_))),
        "{rejected:?}"
    );
    assert_eq!(writes(&server).await.len(), TRIES);
}
