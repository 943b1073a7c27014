//! Killed apps answer with the token of their push.

use futures::future::join_all;
use secrecy::SecretString;
use serde_json::json;

use super::*;
use crate::api::answer;
use crate::api::call_response::AcceptedResponse;
use crate::api::http::ApiError;
use crate::auth::answer_grant::AnswerGrant;
use crate::auth::signing::Signing;
use crate::platform::invocation::InvocationContext;
use crate::platform::secrets::{Secret, SigningSecret};
use ringback_core::call::PushPlatform;

impl From<SwitchboardError<EffectFailed>> for ApiError {
    fn from(error: SwitchboardError<EffectFailed>) -> Self {
        panic!("{error:?}")
    }
}

fn signing() -> Signing {
    let secret = json!({ "signing_secret": "hush" });
    let secret: SigningSecret = serde_json::from_value(secret).unwrap();
    Signing::new(Secret::known(secret))
}

async fn token(call: &Call, device_name: &str) -> SecretString {
    let grant = AnswerGrant {
        call_id: call.call_id,
        extension: call.extension.clone(),
        device: device(device_name).device_id,
        platform: PushPlatform::Fcm,
        pushed_at: NOW,
        rings_until: call.rings_until,
    };
    signing().answer_token(&grant).await.unwrap()
}

impl TestSwitchboard {
    /// An app answers at `now`.
    async fn answer(
        &self,
        token: &SecretString,
        action: &str,
        now: Timestamp,
    ) -> Result<AcceptedResponse, ApiError> {
        let body = json!({ "action": action }).to_string();
        let invocation = InvocationContext::new(now, UNTIL);
        let token = token.clone();
        answer::handle(self, &signing(), token, body.as_bytes(), invocation).await
    }

    /// The HTTP status of the answer.
    async fn answer_status(&self, token: &SecretString, action: &str, now: Timestamp) -> u16 {
        let answer = self.answer(token, action, now).await;
        answer.map_or_else(|error| error.status(), |_| 200)
    }

    async fn stored(&self, call: &Call) -> Call {
        self.store.find(call.call_id).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn one_token_writes_one_report_and_one_decline() {
    let (switchboard, call) = ringing_call(&["phone", "tablet"]).await;
    let token = token(&call, "phone").await;
    let later = NOW + Duration::from_secs(1);
    let before = switchboard.stored(&call).await.version;
    for _ in 0..3 {
        assert_eq!(
            switchboard.answer_status(&token, "ringing", later).await,
            200
        );
    }
    let stored = switchboard.stored(&call).await;
    assert_eq!(stored.version, before + 1);
    let receipt = stored.ring_receipts[&device("phone").device_id];
    assert_eq!(receipt.time_to_ring(), Duration::from_secs(1));
    for _ in 0..3 {
        let declined = switchboard.answer(&token, "decline", later).await.unwrap();
        assert_eq!(declined.status, CallStatus::Declined);
    }
    // The decline, and that its effects are completed.
    assert_eq!(switchboard.stored(&call).await.version, before + 3);
    assert_eq!(switchboard.counts(["send_busy", "cancel_push"]), [1, 1]);
}

#[tokio::test]
async fn an_answer_after_the_ring_gets_the_status_for_five_minutes() {
    let (switchboard, call) = ringing_call(&["phone"]).await;
    let token = token(&call, "phone").await;
    let over = call.rings_until;
    let too_late = over + Duration::from_secs(300);
    // The timer of the call has not fired yet.
    for action in ["ringing", "decline"] {
        let error = switchboard.answer(&token, action, over).await.unwrap_err();
        assert_eq!(error.status(), 409);
        assert_eq!(error.into_body()["status"], "timed_out");
    }
    switchboard.fire_timer(&call, over).await.unwrap();
    for action in ["ringing", "decline"] {
        let last = too_late.before(Duration::from_millis(1));
        for (now, status) in [(last, 409), (too_late, 403)] {
            assert_eq!(switchboard.answer_status(&token, action, now).await, status);
        }
    }
    // The late report is kept: the push was late.
    assert_eq!(switchboard.stored(&call).await.ring_receipts.len(), 1);
}

#[tokio::test]
async fn a_device_that_rings_after_another_has_accepted_is_told_to_stop() {
    let (switchboard, call) = ringing_call(&["phone", "tablet"]).await;
    let token = token(&call, "tablet").await;
    let accepted = switchboard.send(&call, accepted(Some("phone"))).await;
    accepted.unwrap();
    for action in ["ringing", "decline"] {
        let error = switchboard.answer(&token, action, NOW).await.unwrap_err();
        assert_eq!(error.into_body()["status"], "mobile_ready");
    }
}

/// Five devices report at the same time, and the call keeps all reports.
#[tokio::test]
async fn all_devices_report_at_once() {
    let devices = ["phone", "tablet", "watch", "desk", "laptop"];
    let (switchboard, call) = ringing_call(&devices).await;
    let tokens = join_all(devices.map(|device| token(&call, device))).await;
    let reports = tokens
        .iter()
        .map(|token| switchboard.answer_status(token, "ringing", NOW));
    assert!(join_all(reports).await.iter().all(|status| *status == 200));
    assert_eq!(switchboard.stored(&call).await.ring_receipts.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_decline_by_token_and_an_accept_one_wins_in_a_thousand_races() {
    let mut wins = [0, 0];
    for race in 0..1_000 {
        let (switchboard, call) = ringing_call(&["phone", "tablet"]).await;
        let switchboard = std::sync::Arc::new(switchboard);
        let token = token(&call, "tablet").await;
        let start = std::sync::Arc::new(tokio::sync::Barrier::new(2));
        let declining = tokio::spawn({
            let (switchboard, start) = (switchboard.clone(), start.clone());
            async move {
                start.wait().await;
                let reported = switchboard.answer_status(&token, "ringing", NOW).await;
                assert!([200, 409].contains(&reported), "{reported}");
                switchboard.answer_status(&token, "decline", NOW).await
            }
        });
        let accepting = tokio::spawn({
            let (switchboard, call) = (switchboard.clone(), call.clone());
            async move {
                start.wait().await;
                if race % 2 == 0 {
                    tokio::task::yield_now().await;
                }
                switchboard
                    .send(&call, accepted(Some("phone")))
                    .await
                    .unwrap()
            }
        });
        let (declined, accepted) = (declining.await.unwrap(), accepting.await.unwrap());
        let call = switchboard.stored(&call).await;
        let has_accepted = accepted.rejected.is_none();
        let expected = match has_accepted {
            true => (409, CallStatus::MobileReady, [1, 0]),
            false => (200, CallStatus::Declined, [0, 1]),
        };
        let effects = switchboard.counts(["bridge", "send_busy"]);
        assert_eq!((declined, call.status, effects), expected, "race {race}");
        assert_eq!(call.ring_receipts.len(), 1);
        wins[usize::from(has_accepted)] += 1;
    }
    assert!(wins.iter().all(|wins| *wins > 0), "{wins:?}");
}
