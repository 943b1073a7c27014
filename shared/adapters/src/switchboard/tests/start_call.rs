//! Calls that apps start.

use ringback_core::call::{ABANDONED_AFTER, CallType};
use ringback_core::ids::Reference;

use super::*;
use crate::store::allowance::{Allowance, Purpose};
use crate::store::calls::{AllowanceRequest, AllowanceResult};

fn request(destination: Destination) -> NewCallRequest {
    let by = extension("1002");
    let reference = Reference::try_from("tap-1").unwrap();
    NewCallRequest {
        call_id: CallId::of_reference(&by, &reference),
        by: CallParty {
            extension: by,
            device: None,
        },
        destination,
        limits: crate::testing::start_limits(),
    }
}

fn app_call() -> NewCallRequest {
    request(Destination::App(extension("1001"), CallType::Video))
}

fn phone_call() -> NewCallRequest {
    request(Destination::Number {
        from: phone_number("9800001002"),
        to: phone_number("9876543210"),
    })
}

/// The same request with another id, so that it starts another call.
fn another(request: &NewCallRequest) -> NewCallRequest {
    NewCallRequest {
        call_id: CallId::fresh(),
        ..request.clone()
    }
}

impl TestSwitchboard {
    async fn start(&self, request: &NewCallRequest) -> Call {
        self.start_at(request, NOW).await.unwrap().call
    }

    async fn start_at(&self, request: &NewCallRequest, now: Timestamp) -> EventResult {
        self.start_call(request, now, UNTIL).await
    }

    /// Asserts that the request exceeds this limit, and returns the time to wait.
    async fn start_exceeds(
        &self,
        request: &NewCallRequest,
        now: Timestamp,
        exceeded: StartLimit,
    ) -> Duration {
        match self.start_at(request, now).await {
            Err(SwitchboardError::TooMany { limit, wait }) if limit == exceeded => wait,
            other => panic!("{other:?} does not exceed {exceeded:?}"),
        }
    }
}

#[tokio::test]
async fn a_call_to_an_app_sends_a_push_and_dials_the_callers_phone() {
    let switchboard = switchboard(&["phone"]);
    let call = switchboard.start(&app_call()).await;
    assert_eq!(call.status, CallStatus::WaitingForMobile);
    assert_eq!(
        (call.extension.as_str(), call.caller().shown()),
        ("1001", "1002")
    );
    assert_eq!(call.call_type, CallType::Video);
    let effects = [
        "arm_timer",
        "send_push",
        "dial_caller_phone",
        "place_outbound_call",
    ];
    assert_eq!(switchboard.counts(effects), [1, 1, 1, 0]);
}

#[tokio::test]
async fn a_repeated_request_starts_no_second_call_and_arms_no_timer() {
    for (request, status, effect) in [
        (app_call(), CallStatus::WaitingForMobile, "send_push"),
        (phone_call(), CallStatus::Initiated, "place_outbound_call"),
    ] {
        let switchboard = switchboard(&["phone"]);
        let call = switchboard.start(&request).await;
        let timers = switchboard.count("arm_timer");
        for late in [Duration::ZERO, ABANDONED_AFTER, ABANDONED_AFTER * 2] {
            for _ in 0..10 {
                let repeated = switchboard.start_at(&request, NOW + late).await;
                let repeated = repeated.unwrap().call;
                assert_eq!((repeated.call_id, repeated.status), (call.call_id, status));
            }
        }
        assert_eq!(switchboard.counts(["arm_timer", effect]), [timers, 1]);
    }
}

/// The first process took a token from the allowance and crashed before it stored the call.
#[tokio::test]
async fn a_repeated_request_for_a_call_that_was_not_stored_starts_it_with_a_timer() {
    let switchboard = switchboard(&[]);
    let request = phone_call();
    let first_token = AllowanceRequest {
        extension: request.by.extension.clone(),
        purpose: Purpose::Calls,
        allowance: request.limits.calls,
    };
    let store = &switchboard.store;
    let taken = store.take_allowance(request.call_id, &first_token, NOW);
    assert_eq!(taken.await.unwrap(), AllowanceResult::Granted);
    switchboard.start(&request).await;
    let [timers, placed] = switchboard.counts(["arm_timer", "place_outbound_call"]);
    assert_eq!((timers > 0, placed), (true, 1));
}

#[tokio::test]
async fn a_call_above_the_rate_limit_is_rejected_and_sends_no_push() {
    let switchboard = switchboard(&["phone"]);
    let mut request = app_call();
    request.limits.calls = Allowance::per_minute(60, 3);
    for _ in 0..3 {
        switchboard.start(&another(&request)).await;
    }
    let next = another(&request);
    let wait = switchboard
        .start_exceeds(&next, NOW, StartLimit::Rate)
        .await;
    assert_eq!(wait, Duration::from_secs(1));
    assert_eq!(switchboard.count("send_push"), 3);
    switchboard.start_at(&next, NOW + wait).await.unwrap();
}

#[tokio::test]
async fn an_extension_has_a_limit_of_concurrent_calls() {
    let switchboard = switchboard(&["phone"]);
    let mut request = app_call();
    request.limits.concurrent = 2;
    let (second, third) = (another(&request), another(&request));
    let first_call = switchboard.start(&request).await;
    let second_call = switchboard.start(&second).await;
    switchboard
        .start_exceeds(&third, NOW, StartLimit::Concurrent)
        .await;
    assert_eq!(switchboard.count("send_push"), 2);
    // A repeated request for an active call is within the limit.
    let repeated = switchboard.start(&second).await;
    assert_eq!(repeated.call_id, second_call.call_id);
    // Other extensions have limits of their own.
    let by_other = NewCallRequest {
        by: CallParty {
            extension: extension("1003"),
            device: None,
        },
        ..another(&request)
    };
    switchboard.start(&by_other).await;
    // The end of a call makes room for the next one.
    let by = callee_app(None);
    let declined = switchboard.send(&first_call, Event::Declined { by }).await;
    declined.unwrap();
    switchboard.start(&third).await;
}

#[tokio::test]
async fn a_call_whose_end_is_lost_counts_as_active_until_its_time_limit() {
    let switchboard = switchboard(&[]);
    let mut request = phone_call();
    request.limits.concurrent = 1;
    let call = switchboard.start(&request).await;
    let next = another(&request);
    let just_before = call.ends_by().before(Duration::from_millis(1));
    switchboard
        .start_exceeds(&next, just_before, StartLimit::Concurrent)
        .await;
    let started = switchboard.start_at(&next, call.ends_by()).await;
    started.unwrap();
}

#[tokio::test]
async fn calls_to_telephones_have_a_daily_limit_and_a_shorter_time_limit() {
    let switchboard = switchboard(&["phone"]);
    let limits = StartLimits {
        phone_calls: Allowance::per_minute(1, 1),
        longest_phone_call: Duration::from_secs(60),
        ..phone_call().limits
    };
    let limited = |request: NewCallRequest| NewCallRequest { limits, ..request };
    let first = limited(phone_call());
    let call = switchboard.start(&first).await;
    assert_eq!(call.settings.talk, Duration::from_secs(60));
    switchboard
        .start_exceeds(&another(&first), NOW, StartLimit::Daily)
        .await;
    assert_eq!(switchboard.count("place_outbound_call"), 1);
    // A repeated request and a call to an app do not count.
    switchboard.start(&first).await;
    let call = switchboard.start(&another(&limited(app_call()))).await;
    assert!(call.settings.talk > Duration::from_secs(60));
}

fn exotel_progress(status: CallStatus) -> Event {
    Event::ExotelProgress {
        call_sid: call_sid("sid-9"),
        status,
    }
}

#[tokio::test]
async fn a_call_to_a_telephone_is_found_by_its_call_sid() {
    let switchboard = switchboard(&[]);
    let call = switchboard.start(&phone_call()).await;
    let answered = exotel_progress(CallStatus::InProgress);
    let call = switchboard.send(&call, answered).await.unwrap().call;
    let sid = call_sid("sid-9");
    let found = switchboard.store.find_by_sid(&sid, None).await;
    assert_eq!(found.unwrap(), [call.call_id]);
    assert_eq!(call.status, CallStatus::InProgress);
}

#[tokio::test]
async fn timers_query_exotel_until_it_reports_the_end_of_the_call() {
    let switchboard = switchboard(&[]);
    let call = switchboard.start(&phone_call()).await;
    let placed = exotel_progress(CallStatus::Initiated);
    switchboard.send(&call, placed).await.unwrap();
    let mut now = call.rings_until;
    for queries in 1..=3 {
        switchboard.fire_timer(&call, now).await.unwrap();
        assert_eq!(switchboard.count("query_exotel"), queries);
        now = now + SETTINGS.check;
    }
    assert_eq!(switchboard.count("arm_timer"), 4);
}
