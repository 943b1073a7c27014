//! The table, played by a server that speaks DynamoDB's protocol.

use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::testing;

const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

/// A table that answers like this, one after the other, and then with a 500.
async fn table(answers: Vec<ResponseTemplate>) -> (MockServer, Allowances) {
    let server = MockServer::start().await;
    for answer in answers {
        let once = Mock::given(any()).respond_with(answer).up_to_n_times(1);
        once.mount(&server).await;
    }
    let broken = Mock::given(any()).respond_with(ResponseTemplate::new(500));
    broken.mount(&server).await;
    let client = Client::new(&testing::aws(&server));
    (server, Allowances::new(client, "calls".to_owned()))
}

fn done() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({}))
}

/// The condition fails on a bucket that is full so long after [`NOW`].
fn full_after(wait: Duration) -> ResponseTemplate {
    let full_at = (NOW + wait).as_millis().to_string();
    ResponseTemplate::new(400).set_body_json(json!({
        "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
        "message": "The conditional request failed",
        "Item": { "full_at": { "N": full_at } },
    }))
}

/// One every 6 s, 5 at once.
async fn take(allowances: &Allowances) -> Result<Taken, Refused> {
    take_for(allowances, None).await
}

async fn take_for(allowances: &Allowances, what_for: Option<&str>) -> Result<Taken, Refused> {
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
fn allowances_have_defaults_and_refuse_nonsense() {
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
async fn a_token_of_a_full_bucket_takes_one_write_and_no_read() {
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
async fn a_token_of_the_rest_takes_a_second_write() {
    let (server, allowances) = table(vec![full_after(Duration::from_secs(24)), done()]).await;
    take(&allowances).await.unwrap();
    let writes = writes(&server).await;
    assert_eq!(writes.len(), 2);
    let values = &writes[1]["ExpressionAttributeValues"];
    assert_eq!(values[":last"]["N"], "1710417624000");
    assert_eq!(values[":interval"]["N"], "6000");
}

#[tokio::test]
async fn an_empty_bucket_costs_one_write_and_says_how_long_to_wait() {
    let (server, allowances) = table(vec![full_after(Duration::from_millis(24_001))]).await;
    let refused = take(&allowances).await;
    assert!(
        matches!(refused, Err(Refused::TooSoon(wait)) if wait == Duration::from_millis(1)),
        "{refused:?}"
    );
    assert_eq!(writes(&server).await.len(), 1);
}

#[tokio::test]
async fn the_same_asked_for_again_takes_no_second_token_and_one_write() {
    let standing = |what_for: &str| {
        let item = json!({ "full_at": { "N": "1710417690000" }, "taken_for": { "S": what_for } });
        ResponseTemplate::new(400).set_body_json(json!({
            "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
            "message": "The conditional request failed",
            "Item": item,
        }))
    };
    let (server, allowances) = table(vec![standing("tap-1")]).await;
    let taken = take_for(&allowances, Some("tap-1")).await.unwrap();
    assert_eq!(taken, Taken::Before);
    let write = writes(&server).await.remove(0);
    assert_eq!(write["ExpressionAttributeValues"][":for"]["S"], "tap-1");
    let (_server, allowances) = table(vec![standing("tap-2")]).await;
    let refused = take_for(&allowances, Some("tap-1")).await;
    assert!(matches!(refused, Err(Refused::TooSoon(_))), "{refused:?}");
}

#[tokio::test]
async fn a_rival_may_take_the_last_token_between_two_writes() {
    let answers = [20, 26].map(|seconds| full_after(Duration::from_secs(seconds)));
    let (server, allowances) = table(answers.into()).await;
    let refused = take(&allowances).await;
    assert!(
        matches!(refused, Err(Refused::TooSoon(wait)) if wait == Duration::from_secs(2)),
        "{refused:?}"
    );
    assert_eq!(writes(&server).await.len(), 2);
}

#[tokio::test]
async fn a_table_that_does_not_answer_allows_nothing() {
    let (_server, allowances) = table(vec![]).await;
    let refused = take(&allowances).await;
    assert!(matches!(refused, Err(Refused::Store(_))), "{refused:?}");
}

#[tokio::test]
async fn a_bucket_that_makes_no_sense_is_not_asked_for_ever() {
    let answers = (0..9).map(|_| testing::condition_failed()).collect();
    let (server, allowances) = table(answers).await;
    let refused = take(&allowances).await;
    assert!(matches!(refused, Err(Refused::Store(_))), "{refused:?}");
    assert_eq!(writes(&server).await.len(), TRIES);
}
