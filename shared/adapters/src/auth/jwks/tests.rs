use std::time::Instant;

use futures::future::join_all;
use serde_json::json;
use wiremock::{MockServer, ResponseTemplate};

use super::*;
use crate::auth::testing::{Issuer, answers, publishes, set_of, url};
use crate::testing::{closed_port, requests};

const NOW: Timestamp = Timestamp::from_millis(1_732_175_943_000);
const RS256: Algorithm = Algorithm::RS256;

fn after(seconds: u64) -> Timestamp {
    NOW + Duration::from_secs(seconds)
}

fn at(server: &MockServer) -> PublishedKeys {
    PublishedKeys::at(&url(server), RS256).unwrap()
}

/// Whether the issuer has the key, or an error if that is unknown.
async fn has(keys: &PublishedKeys, id: &str, now: Timestamp) -> Result<bool, KeysError> {
    keys.key(id, now).await.map(|key| key.is_some())
}

async fn fetches(server: &MockServer) -> usize {
    requests(server).await.len()
}

#[tokio::test]
async fn the_keys_are_fetched_once_and_cached() {
    let server = publishes(&[Issuer::new("a", RS256).jwk()]).await;
    let keys = at(&server);
    for seconds in [0, 1, 70, 3599] {
        assert_eq!(has(&keys, "a", after(seconds)).await, Ok(true));
    }
    assert_eq!(fetches(&server).await, 1);
}

#[tokio::test]
async fn a_new_key_is_fetched_at_its_first_use() {
    let [old, new] = [Issuer::new("old", RS256), Issuer::new("new", RS256)];
    let server = publishes(&[old.jwk()]).await;
    let keys = at(&server);
    assert_eq!(has(&keys, "old", NOW).await, Ok(true));
    answers(&server, set_of(&[old.jwk(), new.jwk()])).await;
    assert_eq!(has(&keys, "new", after(60)).await, Ok(true));
    assert_eq!(has(&keys, "old", after(60)).await, Ok(true));
    assert_eq!(fetches(&server).await, 1);
}

#[tokio::test]
async fn a_flood_of_unknown_key_ids_costs_one_fetch_a_minute() {
    let server = publishes(&[Issuer::new("a", RS256).jwk()]).await;
    let keys = at(&server);
    for seconds in 0..180 {
        for number in 0..5 {
            let id = format!("unknown-{seconds}-{number}");
            assert_eq!(has(&keys, &id, after(seconds)).await, Ok(false));
        }
        assert_eq!(has(&keys, "a", after(seconds)).await, Ok(true));
    }
    assert_eq!(fetches(&server).await, 3);
}

#[tokio::test]
async fn concurrent_requests_share_one_fetch() {
    let set = set_of(&[Issuer::new("a", RS256).jwk()]);
    let server = publishes(&[]).await;
    answers(&server, set.set_delay(Duration::from_millis(100))).await;
    let keys = at(&server);
    let all = join_all((0..50).map(|_| has(&keys, "a", NOW))).await;
    assert!(all.into_iter().all(|key| key == Ok(true)));
    let unknown = join_all((0..50).map(|_| has(&keys, "b", after(60)))).await;
    assert!(unknown.into_iter().all(|key| key == Ok(false)));
    assert_eq!(fetches(&server).await, 2);
}

#[tokio::test]
async fn a_cached_key_does_not_wait_for_a_fetch() {
    let set = || set_of(&[Issuer::new("a", RS256).jwk()]);
    let server = publishes(&[]).await;
    answers(&server, set()).await;
    let keys = at(&server);
    assert_eq!(has(&keys, "a", NOW).await, Ok(true));
    answers(&server, set().set_delay(Duration::from_secs(30))).await;
    let unknown = has(&keys, "b", after(60));
    let known = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        assert_eq!(has(&keys, "a", after(60)).await, Ok(true));
        assert!(began.elapsed() < Duration::from_millis(500));
    };
    let (unknown, ()) = tokio::join!(unknown, known);
    assert_eq!(unknown, Err(KeysError));
}

#[tokio::test]
async fn after_a_failed_fetch_cached_keys_stay_and_the_next_fetch_is_a_minute_later() {
    let issuer = Issuer::new("a", RS256);
    for failure in failures(&issuer) {
        let server = publishes(&[issuer.jwk()]).await;
        let keys = at(&server);
        assert_eq!(has(&keys, "a", NOW).await, Ok(true));
        answers(&server, failure.clone()).await;
        for seconds in [60, 61, 119] {
            // It is unknown whether the issuer has this key.
            assert_eq!(has(&keys, "b", after(seconds)).await, Err(KeysError));
            assert_eq!(has(&keys, "a", after(seconds)).await, Ok(true));
        }
        assert_eq!(fetches(&server).await, 1, "{failure:?}");
        // Cached keys stay in use even hours later.
        assert_eq!(has(&keys, "a", after(10_000)).await, Ok(true));
        assert_eq!(fetches(&server).await, 2, "{failure:?}");
    }
}

#[tokio::test]
async fn without_any_key_there_is_one_fetch_a_second() {
    let issuer = Issuer::new("a", RS256);
    for failure in failures(&issuer) {
        let server = publishes(&[]).await;
        answers(&server, failure.clone()).await;
        let keys = at(&server);
        for millis in [0, 1, 999, 1000, 1001, 1999] {
            let now = NOW + Duration::from_millis(millis);
            assert_eq!(has(&keys, "a", now).await, Err(KeysError));
        }
        assert_eq!(fetches(&server).await, 2, "{failure:?}");
        answers(&server, set_of(&[issuer.jwk()])).await;
        assert_eq!(has(&keys, "a", after(2)).await, Ok(true));
        // With a cached key, fetches are a minute apart.
        assert_eq!(has(&keys, "b", after(60)).await, Ok(false));
        assert_eq!(fetches(&server).await, 1, "{failure:?}");
    }
    let keys = PublishedKeys::at(&format!("{}/jwks.json", closed_port()), RS256).unwrap();
    assert_eq!(has(&keys, "a", NOW).await, Err(KeysError));
}

/// Answers without a usable key. Each answer that can hold a key has one.
fn failures(issuer: &Issuer) -> Vec<ResponseTemplate> {
    let text = |text: &str| ResponseTemplate::new(200).set_body_string(text);
    let good = json!({ "keys": [issuer.jwk()] });
    let large = json!({ "keys": [issuer.jwk()], "padding": "x".repeat(LARGEST) });
    vec![
        ResponseTemplate::new(500).set_body_json(&good),
        ResponseTemplate::new(404).set_body_json(&good),
        // The redirect leads to the same URL, where it would succeed.
        ResponseTemplate::new(302).insert_header("location", "/jwks.json"),
        text(""),
        text("<html>"),
        text("null"),
        text("[]"),
        text(r#"{"keys":{}}"#),
        text(r#"{"keys":[]}"#),
        text(r#"{"keys":[null,7,"a",{},[]]}"#),
        text(&issuer.jwk().to_string()),
        ResponseTemplate::new(200).set_body_json(large),
        ResponseTemplate::new(200).set_body_bytes(vec![0xff; 1000]),
    ]
}

#[tokio::test]
async fn a_hanging_issuer_is_given_up_after_the_timeout() {
    let set = set_of(&[Issuer::new("a", RS256).jwk()]);
    let server = publishes(&[]).await;
    answers(&server, set.set_delay(Duration::from_secs(30))).await;
    let began = Instant::now();
    assert_eq!(has(&at(&server), "a", NOW).await, Err(KeysError));
    let waited = began.elapsed();
    assert!(
        waited < REPLY_TIMEOUT + Duration::from_millis(500),
        "{waited:?}"
    );
}

#[tokio::test]
async fn a_withdrawn_key_is_accepted_for_an_hour_at_most() {
    let [withdrawn, other] = [Issuer::new("a", RS256), Issuer::new("b", RS256)];
    let server = publishes(&[withdrawn.jwk(), other.jwk()]).await;
    let keys = at(&server);
    assert_eq!(has(&keys, "a", NOW).await, Ok(true));
    answers(&server, set_of(&[other.jwk()])).await;
    assert_eq!(has(&keys, "a", after(3599)).await, Ok(true));
    assert_eq!(has(&keys, "a", after(3600)).await, Ok(false));
    assert_eq!(has(&keys, "b", after(3600)).await, Ok(true));
}

#[test]
fn only_keys_that_can_verify_the_algorithm_are_used() {
    let [rsa, ec] = [
        Issuer::new("rsa", RS256),
        Issuer::new("ec", Algorithm::ES256),
    ];
    let with = |key: &Issuer, name: &str, value: Value| {
        let mut key = key.jwk();
        key[name] = value;
        key
    };
    let without = |key: &Issuer, name: &str| {
        let mut key = key.jwk();
        key.as_object_mut().unwrap().remove(name).unwrap();
        key
    };
    let taken = |key: &Value, algorithm| {
        let set = json!({ "keys": [key] }).to_string();
        keys_in(set.as_bytes(), algorithm).unwrap().len() == 1
    };
    for (key, algorithm) in [(&rsa, RS256), (&ec, Algorithm::ES256)] {
        for good in [
            key.jwk(),
            without(key, "alg"),
            without(key, "use"),
            with(key, "key_ops", json!(["verify"])),
            with(key, "x5t", json!("abc")),
            with(key, "issuer", json!("https://example.com")),
        ] {
            assert!(taken(&good, algorithm), "{good}");
        }
        for other in [
            with(key, "alg", json!("RS512")),
            with(key, "alg", json!("PS256")),
            with(key, "alg", json!("ES384")),
            with(key, "alg", json!("HS256")),
            with(key, "alg", json!("none")),
            with(key, "use", json!("enc")),
            with(key, "use", json!("")),
            with(key, "key_ops", json!(["encrypt"])),
            with(key, "kty", json!("oct")),
            with(key, "kid", json!(7)),
            without(key, "kid"),
            without(key, "kty"),
        ] {
            assert!(!taken(&other, algorithm), "{other}");
        }
    }
    assert!(!taken(&ec.jwk(), RS256));
    assert!(!taken(&rsa.jwk(), Algorithm::ES256));
    assert!(!taken(&with(&ec, "crv", json!("P-384")), Algorithm::ES256));
    assert!(!taken(&with(&rsa, "n", json!("not base64!")), RS256));
    let symmetric = json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "a" });
    assert!(!taken(&symmetric, RS256));
    // A key of an unknown type does not affect the others.
    let set = json!({ "keys": [{ "kty": "AKP", "alg": "ML-DSA-65" }, 7, rsa.jwk(), ec.jwk()] });
    let keys = keys_in(set.to_string().as_bytes(), RS256).unwrap();
    assert_eq!(keys.keys().collect::<Vec<_>>(), ["rsa"]);
}

#[test]
fn keys_need_https_unless_they_are_on_this_machine() {
    for good in [
        "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com",
        "https://cognito-idp.ap-south-1.amazonaws.com/ap-south-1_Example/.well-known/jwks.json",
        "http://127.0.0.1:8080/jwks.json",
        "http://[::1]:8080/jwks.json",
        "http://localhost/jwks.json",
    ] {
        assert!(PublishedKeys::at(good, RS256).is_ok(), "{good}");
    }
    for bad in [
        "http://example.com/jwks.json",
        "http://127.0.0.1.example.com/jwks.json",
        "http://localhost.example.com/jwks.json",
        "http://10.0.0.1/jwks.json",
        "file:///etc/jwks.json",
        "example.com/jwks.json",
        "",
    ] {
        let error = PublishedKeys::at(bad, RS256).unwrap_err().to_string();
        assert!(error.contains("TOKEN_JWKS_URL"), "{error}");
    }
}
