use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::auth::testing::{Issuer, publishes, unsigned, url};
use crate::platform::clock;
use crate::testing::{closed_port, requests, secret_at};

const SECRET: &str = "a key for tests, long enough for HS256";
const PREVIOUS: &str = "the key before that one, as long as it";
const ISSUER: &str = "https://securetoken.google.com/our-project";
const AUDIENCE: &str = "our-project";

fn secret() -> Secret<AppSecret> {
    Secret::known(AppSecret {
        jwt_secret: SECRET.into(),
        jwt_secret_previous: Some(PREVIOUS.into()),
    })
}

/// Seconds from now.
fn in_seconds(seconds: i64) -> i64 {
    i64::try_from(clock::now().as_millis() / 1000).unwrap() + seconds
}

fn good_claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "extension": "1001", "exp": in_seconds(3600) })
}

/// The good claims with another value for this one. Null removes it.
fn with(name: &str, value: Value) -> Value {
    let mut claims = good_claims();
    match value {
        Value::Null => {
            claims.as_object_mut().unwrap().remove(name);
        }
        value => claims[name] = value,
    }
    claims
}

fn signed(claims: &Value, algorithm: Algorithm, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
}

fn ours(claims: &Value) -> String {
    signed(claims, Algorithm::HS256, SECRET)
}

/// The tokens of a deployment with a secret. `names` says whether it configures issuer and audience.
fn with_secret(names: bool) -> Tokens {
    let named = |text| names.then_some(text);
    Tokens {
        keys: Keys::Shared(secret()),
        rules: rules(Algorithm::HS256, named(ISSUER), named(AUDIENCE)),
        claims: ClaimNames::from_environment(&Environment::of(|_| None)),
    }
}

/// The tokens of a deployment with published keys.
fn with_keys_at(server: &MockServer, algorithm: Algorithm) -> Tokens {
    Tokens {
        keys: Keys::Published(PublishedKeys::at(&url(server), algorithm).unwrap()),
        rules: rules(algorithm, Some(ISSUER), Some(AUDIENCE)),
        claims: ClaimNames::from_environment(&Environment::of(|_| None)),
    }
}

async fn read(tokens: &Tokens, token: &str) -> Result<Bearer, TokenRejection> {
    tokens.read(token, clock::now()).await.unwrap()
}

async fn party(tokens: &Tokens, token: &str) -> Result<String, TokenRejection> {
    let bearer = read(tokens, token).await?;
    Ok(bearer.party().unwrap().to_string())
}

#[tokio::test]
async fn a_valid_token_is_for_its_extension_and_device() {
    let token = ours(&with("device_id", json!("pixel")));
    for names in [true, false] {
        let tokens = with_secret(names);
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let header = format!("{scheme} {token}");
            let bearer = tokens.bearer(Some(&header), clock::now()).await;
            assert_eq!(bearer.unwrap().party().unwrap().to_string(), "1001/pixel");
        }
    }
}

#[tokio::test]
async fn a_malformed_authorization_header_is_unauthorized() {
    let good = ours(&good_claims());
    for header in [
        None,
        Some(String::new()),
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some("Bearer not.a.token".to_owned()),
        Some(good.clone()),
        Some(format!("Basic {good}")),
        Some(format!("Bearer {good} {good}")),
        Some(format!("Bearer {}", "x".repeat(LONGEST + 1))),
    ] {
        let rejected = with_secret(true)
            .bearer(header.as_deref(), clock::now())
            .await;
        assert!(
            matches!(rejected, Err(TokenError::Unauthorized(_))),
            "{header:?}"
        );
    }
}

#[tokio::test]
async fn two_secrets_are_valid_while_one_replaces_the_other() {
    let tokens = with_secret(true);
    for secret in [SECRET, PREVIOUS] {
        let token = signed(&good_claims(), Algorithm::HS256, secret);
        assert_eq!(party(&tokens, &token).await.as_deref(), Ok("1001"));
    }
    let token = signed(&good_claims(), Algorithm::HS256, "another key");
    assert_eq!(read(&tokens, &token).await, Err(TokenRejection::Signature));
}

#[tokio::test]
async fn an_empty_secret_accepts_no_token() {
    for (current, previous) in [("", None), ("", Some("")), (SECRET, Some(""))] {
        let mut tokens = with_secret(true);
        tokens.keys = Keys::Shared(Secret::known(AppSecret {
            jwt_secret: current.into(),
            jwt_secret_previous: previous.map(Into::into),
        }));
        let token = signed(&good_claims(), Algorithm::HS256, "");
        assert_eq!(read(&tokens, &token).await, Err(TokenRejection::Signature));
    }
}

#[tokio::test]
async fn a_token_is_valid_between_its_times_with_30_s_of_leeway() {
    let tokens = with_secret(true);
    for (claims, outcome) in [
        (with("exp", json!(in_seconds(-20))), Ok("1001")),
        (
            with("exp", json!(in_seconds(-40))),
            Err(TokenRejection::Expired),
        ),
        (with("nbf", json!(in_seconds(20))), Ok("1001")),
        (
            with("nbf", json!(in_seconds(40))),
            Err(TokenRejection::NotYetValid),
        ),
        (with("nbf", json!("soon")), Err(TokenRejection::Malformed)),
        (with("exp", Value::Null), Err(TokenRejection::MissingClaim)),
        (
            with("exp", json!("4102444800")),
            Err(TokenRejection::MissingClaim),
        ),
        (with("exp", json!(-1)), Err(TokenRejection::MissingClaim)),
        (with("exp", json!(0)), Err(TokenRejection::Expired)),
        (with("exp", json!(4_102_444_800.5)), Ok("1001")),
        (with("exp", json!(u64::MAX)), Ok("1001")),
    ] {
        let read = party(&tokens, &ours(&claims)).await;
        assert_eq!(
            read.as_deref().map_err(|rejection| *rejection),
            outcome,
            "{claims}"
        );
    }
}

#[tokio::test]
async fn issuer_and_audience_must_match_if_the_deployment_configures_them() {
    for (claims, rejection) in [
        (
            with("iss", json!("https://securetoken.google.com/others")),
            TokenRejection::Issuer,
        ),
        (with("iss", json!("")), TokenRejection::Issuer),
        (with("iss", Value::Null), TokenRejection::MissingClaim),
        (with("iss", json!(7)), TokenRejection::MissingClaim),
        (
            with("aud", json!("other-project")),
            TokenRejection::Audience,
        ),
        (with("aud", json!([])), TokenRejection::Audience),
        (
            with("aud", json!(["other-project"])),
            TokenRejection::Audience,
        ),
        (with("aud", Value::Null), TokenRejection::MissingClaim),
    ] {
        let token = ours(&claims);
        assert_eq!(
            read(&with_secret(true), &token).await,
            Err(rejection),
            "{claims}"
        );
        assert!(read(&with_secret(false), &token).await.is_ok(), "{claims}");
    }
    let several = ours(&with("aud", json!(["other-project", AUDIENCE])));
    assert!(read(&with_secret(true), &several).await.is_ok());
}

#[tokio::test]
async fn a_deployment_can_have_several_audiences() {
    let mut tokens = with_secret(true);
    tokens.rules = rules(
        Algorithm::HS256,
        Some(ISSUER),
        Some("ios-client, android-client,"),
    );
    for (audience, is_ours) in [
        ("ios-client", true),
        ("android-client", true),
        ("web-client", false),
        ("", false),
    ] {
        let token = ours(&with("aud", json!(audience)));
        assert_eq!(read(&tokens, &token).await.is_ok(), is_ours, "{audience:?}");
    }
}

#[tokio::test]
async fn tokens_with_other_algorithms_are_rejected() {
    let tokens = with_secret(true);
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = signed(&good_claims(), algorithm, SECRET);
        assert_eq!(read(&tokens, &token).await, Err(TokenRejection::Algorithm));
    }
    let rsa = Issuer::new("a", Algorithm::RS256);
    assert_eq!(
        read(&tokens, &rsa.token(&good_claims())).await,
        Err(TokenRejection::Algorithm)
    );
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let token = unsigned(&json!({ "alg": none, "typ": "JWT" }), &good_claims());
        assert_eq!(
            read(&tokens, &token).await,
            Err(TokenRejection::Malformed),
            "{none}"
        );
    }
    let unsigned = unsigned(&json!({ "alg": "HS256", "typ": "JWT" }), &good_claims());
    assert_eq!(
        read(&tokens, &unsigned).await,
        Err(TokenRejection::Signature)
    );
}

#[tokio::test]
async fn published_keys_verify_tokens_with_the_configured_algorithm() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256] {
        let [issuer, attacker] = ["a", "a"].map(|id| Issuer::new(id, algorithm));
        let server = publishes(&[issuer.jwk()]).await;
        let tokens = with_keys_at(&server, algorithm);
        let good = issuer.token(&good_claims());
        assert_eq!(party(&tokens, &good).await.as_deref(), Ok("1001"));
        for (token, rejection) in [
            (attacker.token(&good_claims()), TokenRejection::Signature),
            (
                Issuer::new("b", algorithm).token(&good_claims()),
                TokenRejection::UnknownKey,
            ),
            (
                issuer.token(&with("exp", json!(in_seconds(-40)))),
                TokenRejection::Expired,
            ),
            (
                issuer.token(&with("exp", Value::Null)),
                TokenRejection::MissingClaim,
            ),
            (
                issuer.token(&with("iss", json!("https://securetoken.google.com/others"))),
                TokenRejection::Issuer,
            ),
            (
                issuer.token(&with("iss", Value::Null)),
                TokenRejection::MissingClaim,
            ),
            (
                issuer.token(&with("aud", json!("others"))),
                TokenRejection::Audience,
            ),
            (
                issuer.token(&with("aud", Value::Null)),
                TokenRejection::MissingClaim,
            ),
            (
                issuer.token(&with("extension", Value::Null)),
                TokenRejection::Extension,
            ),
        ] {
            assert_eq!(read(&tokens, &token).await, Err(rejection), "{algorithm:?}");
        }
        // The fetch for the unknown key came within the minute, so it was skipped.
        assert_eq!(requests(&server).await.len(), 1);
    }
}

#[tokio::test]
async fn a_public_key_is_not_accepted_as_a_secret() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256] {
        let issuer = Issuer::new("a", algorithm);
        let server = publishes(&[issuer.jwk()]).await;
        let tokens = with_keys_at(&server, algorithm);
        let public = issuer.public_pem();
        for secret in [
            public.as_str(),
            public.trim_end(),
            issuer.jwk()["x"]
                .as_str()
                .or(issuer.jwk()["n"].as_str())
                .unwrap(),
        ] {
            let mut header = Header::new(Algorithm::HS256);
            header.kid = Some("a".to_owned());
            let key = EncodingKey::from_secret(secret.as_bytes());
            let token = jsonwebtoken::encode(&header, &good_claims(), &key).unwrap();
            assert_eq!(read(&tokens, &token).await, Err(TokenRejection::Algorithm));
        }
        let none = unsigned(&json!({ "alg": "none", "kid": "a" }), &good_claims());
        assert_eq!(read(&tokens, &none).await, Err(TokenRejection::Malformed));
        // No token caused a fetch of keys.
        assert_eq!(requests(&server).await.len(), 0);
    }
}

#[tokio::test]
async fn the_same_key_with_another_algorithm_is_rejected() {
    let issuer = Issuer::new("a", Algorithm::RS256);
    let server = publishes(&[issuer.jwk()]).await;
    let tokens = with_keys_at(&server, Algorithm::RS256);
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        let mut header = issuer.header();
        header.alg = algorithm;
        let token = jsonwebtoken::encode(&header, &good_claims(), &issuer.key()).unwrap();
        assert_eq!(read(&tokens, &token).await, Err(TokenRejection::Algorithm));
    }
}

#[tokio::test]
async fn the_key_in_a_token_is_ignored() {
    let [issuer, attacker] = ["a", "a"].map(|id| Issuer::new(id, Algorithm::RS256));
    let server = publishes(&[issuer.jwk()]).await;
    let attackers_keys = publishes(&[attacker.jwk()]).await;
    let tokens = with_keys_at(&server, Algorithm::RS256);
    let mut with_key = attacker.header();
    with_key.jwk = Some(serde_json::from_value(attacker.jwk()).unwrap());
    let mut with_url = attacker.header();
    with_url.jku = Some(url(&attackers_keys));
    with_url.x5u = Some(url(&attackers_keys));
    for header in [with_key, with_url] {
        let token = jsonwebtoken::encode(&header, &good_claims(), &attacker.key()).unwrap();
        assert_eq!(read(&tokens, &token).await, Err(TokenRejection::Signature));
    }
    assert_eq!(requests(&attackers_keys).await.len(), 0);

    let mut without_id = issuer.header();
    without_id.kid = None;
    let token = jsonwebtoken::encode(&without_id, &good_claims(), &issuer.key()).unwrap();
    assert_eq!(read(&tokens, &token).await, Err(TokenRejection::NoKeyId));
    let mut critical = issuer.header();
    critical.crit = Some(vec!["b64".to_owned()]);
    let token = jsonwebtoken::encode(&critical, &good_claims(), &issuer.key()).unwrap();
    assert_eq!(read(&tokens, &token).await, Err(TokenRejection::Malformed));
}

#[tokio::test]
async fn without_the_issuers_keys_a_token_is_not_called_unauthorized() {
    let url = format!("{}/jwks.json", closed_port());
    let keys = PublishedKeys::at(&url, Algorithm::RS256).unwrap();
    let tokens = Tokens {
        keys: Keys::Published(keys),
        rules: rules(Algorithm::RS256, Some(ISSUER), Some(AUDIENCE)),
        claims: ClaimNames::from_environment(&Environment::of(|_| None)),
    };
    let token = Issuer::new("a", Algorithm::RS256).token(&good_claims());
    let header = format!("Bearer {token}");
    let error = tokens.bearer(Some(&header), clock::now()).await;
    assert!(matches!(error, Err(TokenError::Keys(_))), "{error:?}");
}

type Read = fn(&str) -> Option<String>;

fn configured(read: Read) -> Result<Tokens, ConfigError> {
    Tokens::from_environment(&Environment::of(read), secret())
}

#[tokio::test]
async fn the_defaults_are_hs256_without_issuer_and_audience() {
    let tokens = configured(|_| None).unwrap();
    let token = ours(&json!({ "extension": "1001", "exp": in_seconds(60) }));
    assert_eq!(party(&tokens, &token).await.as_deref(), Ok("1001"));
}

#[test]
fn a_configuration_error_names_the_variable() {
    fn firebase(name: &str) -> Option<String> {
        let value = match name {
            "TOKEN_ALGORITHM" => "RS256",
            "TOKEN_JWKS_URL" => "https://example.com/jwks.json",
            "TOKEN_ISSUER" => ISSUER,
            "TOKEN_AUDIENCE" => AUDIENCE,
            _ => return None,
        };
        Some(value.to_owned())
    }
    assert!(configured(firebase).is_ok());
    let wrong: [(Read, &str); 6] = [
        (
            |name| firebase(name).filter(|_| name != "TOKEN_JWKS_URL"),
            "TOKEN_JWKS_URL is missing",
        ),
        (
            |name| firebase(name).filter(|_| name != "TOKEN_ISSUER"),
            "TOKEN_ISSUER is missing",
        ),
        (
            |name| firebase(name).filter(|_| name != "TOKEN_AUDIENCE"),
            "TOKEN_AUDIENCE is missing",
        ),
        (
            |name| firebase(name).filter(|_| name != "TOKEN_ALGORITHM"),
            "TOKEN_ALGORITHM must be RS256 or ES256",
        ),
        (
            |name| (name == "TOKEN_ALGORITHM").then(|| "none".to_owned()),
            "TOKEN_ALGORITHM must be HS256",
        ),
        (
            |name| match name {
                "TOKEN_JWKS_URL" => Some("http://example.com/jwks.json".to_owned()),
                name => firebase(name),
            },
            "TOKEN_JWKS_URL must be an https",
        ),
    ];
    for (environment, message) in wrong {
        let error = configured(environment).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[tokio::test]
async fn the_first_token_signed_with_a_new_secret_makes_us_fetch_it() {
    let server = MockServer::start().await;
    let secret_is = async |secret: &str| {
        let value = json!({ "jwt_secret": secret }).to_string();
        let answer = json!({ "SecretString": value, "VersionId": secret });
        server.reset().await;
        Mock::given(any())
            .respond_with(ResponseTemplate::new(200).set_body_json(answer))
            .mount(&server)
            .await;
    };
    secret_is(PREVIOUS).await;
    let mut tokens = with_secret(true);
    tokens.keys = Keys::Shared(secret_at(&server));
    let previous = signed(&good_claims(), Algorithm::HS256, PREVIOUS);
    assert!(read(&tokens, &previous).await.is_ok());
    secret_is(SECRET).await;
    // Only a wrong signature causes a fetch.
    let expired = signed(&with("exp", json!(1)), Algorithm::HS256, PREVIOUS);
    assert_eq!(read(&tokens, &expired).await, Err(TokenRejection::Expired));
    assert_eq!(requests(&server).await.len(), 0);
    assert!(read(&tokens, &ours(&good_claims())).await.is_ok());
    assert_eq!(
        read(&tokens, &previous).await,
        Err(TokenRejection::Signature)
    );
    assert_eq!(requests(&server).await.len(), 1);
}
