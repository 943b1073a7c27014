//! Conditional updates.

use futures::future::join_all;
use ringback_core::call::{CallSide, DeclineEnds, PushPlatform, PushedDevices, RingReceipt};
use ringback_core::ids::PbxName;

use super::*;

pub(super) async fn run_all(store: &(impl CallStore + Sync)) {
    an_update_is_saved_as_the_rules_say(store).await;
    every_change_of_a_call_is_saved_as_the_rules_say(store).await;
    a_rejected_update_returns_the_stored_call(store).await;
    a_decline_is_saved_unread_if_it_ends_the_call(store).await;
    the_first_ringing_device_is_saved_unread(store).await;
    a_call_accepts_reports_of_its_own_pbx_only(store).await;
    one_of_ten_concurrent_updates_is_saved(store).await;
    one_of_two_equal_updates_is_saved(store).await;
    an_update_of_an_unknown_call_is_rejected(store).await;
}

async fn an_update_is_saved_as_the_rules_say(store: &impl CallStore) {
    let now = clock::now();
    let call = stored_call(store, now).await;
    let update = unread(&accepted(&call, "phone"), now);
    let saved = save(store, call.call_id, &update).await;
    assert_eq!(saved, call.apply(&update.change));
    assert_eq!(find(store, call.call_id).await, Some(saved));
}

/// Takes a call from its first report to its end, and compares the stored call with [`Call::apply`] after each event.
async fn every_change_of_a_call_is_saved_as_the_rules_say(store: &impl CallStore) {
    let now = clock::now();
    let mut call = new_call(now);
    // Otherwise the decline ends the call.
    call.settings.decline_ends = DeclineEnds::Device;
    create_new(store, &call, None).await;
    let caller_leg = Some(leg("pbx2", "1732175944.7"));
    let events = [
        Event::CallerReported {
            caller_leg: caller_leg.clone(),
            call_sid: call.call_sid.clone(),
        },
        Event::PushSent(PushedDevices {
            devices: ["phone", "tablet"].map(device_id).into(),
            are_all: true,
            retry_at: None,
            earlier: [].into(),
            clients: 0,
            at: now,
        }),
        rings(&call, "phone", now),
        rings(&call, "tablet", now),
        Event::Declined {
            by: callee_app(&call, Some("tablet")),
        },
        accepted(&call, "phone"),
        Event::EffectsCompleted {
            effects_pending_since: now,
        },
        Event::Bridged,
        Event::CallerLegEnded {
            leg: caller_leg,
            answered: true,
            by: CallSide::Caller,
        },
    ];
    for event in events {
        let Decision::Advance { change, .. } = decide(&call, &event, now) else {
            panic!("{event:?} changes nothing")
        };
        let saved = save(store, call.call_id, &call.update(change.clone())).await;
        call = call.apply(&change);
        assert_eq!(saved, call, "after {event:?}");
    }
    assert_eq!(call.status, CallStatus::Completed);
}

async fn a_rejected_update_returns_the_stored_call(store: &impl CallStore) {
    let now = clock::now();
    let call = stored_call(store, now).await;
    let other_effects = Event::EffectsCompleted {
        effects_pending_since: Timestamp::from_millis(1),
    };
    let by_other_extension = Event::Declined {
        by: CallParty {
            extension: Extension::try_from("another-extension").unwrap(),
            device: None,
        },
    };
    for (event, now) in [
        (accepted(&call, "phone"), call.rings_until),
        (Event::TimerFired, now),
        (Event::Bridged, now),
        (other_effects, now),
        (by_other_extension, now),
    ] {
        let result = update(store, call.call_id, &unread(&event, now)).await;
        let UpdateResult::Rejected(Some(stored)) = result else {
            panic!("{event:?} is saved: {result:?}")
        };
        assert_eq!(stored, call);
    }
}

async fn a_decline_is_saved_unread_if_it_ends_the_call(store: &impl CallStore) {
    let now = clock::now();
    for decline_ends in [DeclineEnds::Call, DeclineEnds::Device] {
        let mut call = new_call(now);
        call.settings.decline_ends = decline_ends;
        create_new(store, &call, None).await;
        let by = callee_app(&call, Some("tablet"));
        let declined = unread(&Event::Declined { by }, now);
        let result = update(store, call.call_id, &declined).await;
        let is_saved = matches!(result, UpdateResult::Saved(_));
        assert_eq!(is_saved, decline_ends == DeclineEnds::Call, "{result:?}");
    }
}

fn rings(call: &Call, device: &str, at: Timestamp) -> Event {
    let receipt = RingReceipt {
        at,
        pushed_at: call.created_at,
        platform: PushPlatform::ApnsVoip,
    };
    let by = callee_app(call, Some(device));
    Event::DeviceRings { by, receipt }
}

async fn the_first_ringing_device_is_saved_unread(store: &impl CallStore) {
    let now = clock::now();
    let call = stored_call(store, now).await;
    let saved = save(
        store,
        call.call_id,
        &unread(&rings(&call, "phone", now), now),
    )
    .await;
    assert_eq!(saved.ring_receipts.len(), 1);
    for device in ["phone", "tablet"] {
        let again = unread(&rings(&call, device, now), now);
        let result = update(store, call.call_id, &again).await;
        let UpdateResult::Rejected(Some(stored)) = result else {
            panic!("{device} is saved unread: {result:?}")
        };
        assert_eq!(stored, saved);
    }
}

async fn a_call_accepts_reports_of_its_own_pbx_only(store: &impl CallStore) {
    let now = clock::now();
    let call = call_started_by(&Extension::try_from("1003").unwrap(), now);
    create_new(store, &call, None).await;
    let pbx = |name| PbxName::try_from(name).unwrap();
    let caller_left = |pbx| Event::CallerLegEnded {
        leg: Some(leg(pbx, "1732175943.12")),
        answered: false,
        by: CallSide::Caller,
    };
    let phone_left = Event::PhoneLegEnded {
        pbx: pbx("pbx2"),
        attempt: 1,
        answered: true,
        cause: 16,
        by: CallSide::Callee,
    };
    let located = unread(&Event::CallerPhoneLocated(pbx("pbx1")), now);
    let saved = save(store, call.call_id, &located).await;
    assert_eq!(saved.pbx, Some(pbx("pbx1")));
    for from_other_pbx in [
        Event::CallerPhoneLocated(pbx("pbx2")),
        caller_left("pbx2"),
        phone_left,
    ] {
        let result = update(store, call.call_id, &unread(&from_other_pbx, now)).await;
        assert!(
            matches!(result, UpdateResult::Rejected(Some(_))),
            "{from_other_pbx:?}: {result:?}"
        );
    }
    save(store, call.call_id, &unread(&caller_left("pbx1"), now)).await;
}

async fn one_of_ten_concurrent_updates_is_saved(store: &impl CallStore) {
    let now = clock::now();
    let call = stored_call(store, now).await;
    let accepts = (0..10).map(async |device| {
        let accept = accepted(&call, &format!("phone-{device}"));
        update(store, call.call_id, &unread(&accept, now)).await
    });
    let (mut saved, mut rejected) = (0, 0);
    for result in join_all(accepts).await {
        match result {
            UpdateResult::Saved(_) => saved += 1,
            UpdateResult::Rejected(Some(_)) => rejected += 1,
            UpdateResult::Rejected(None) => panic!("the call is not found"),
        }
    }
    assert_eq!((saved, rejected), (1, 9));
}

/// Two processes may make the same change in the same millisecond.
async fn one_of_two_equal_updates_is_saved(store: &impl CallStore) {
    let now = clock::now();
    let call = stored_call(store, now).await;
    let accept = unread(&accepted(&call, "phone"), now);
    save(store, call.call_id, &accept).await;
    let second = update(store, call.call_id, &accept).await;
    assert!(
        matches!(second, UpdateResult::Rejected(Some(_))),
        "{second:?}"
    );
}

async fn an_update_of_an_unknown_call_is_rejected(store: &impl CallStore) {
    let bridged = unread(&Event::Bridged, clock::now());
    let result = update(store, CallId::fresh(), &bridged).await;
    assert!(matches!(result, UpdateResult::Rejected(None)), "{result:?}");
}
