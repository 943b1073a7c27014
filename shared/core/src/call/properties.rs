//! What holds for every call, for any events in any order, and the pages with all rules.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

use crate::phone_number::PhoneNumber;

const SETTINGS: CallSettings = CallSettings {
    ring: Duration::from_secs(30),
    connect: Duration::from_secs(15),
    talk: Duration::from_secs(3600),
    check: Duration::from_secs(300),
    decline_ends: DeclineEnds::Call,
    kept_seconds: 7 * 24 * 60 * 60,
    unanswered: Rejection::BusyHere,
    call_waiting: CallWaiting::Ring,
};

pub(super) const START: Timestamp = Timestamp::from_millis(1_000_000_000_000);

fn device(name: &str) -> DeviceId {
    DeviceId::try_from(name).unwrap()
}

fn party(device_name: Option<&str>) -> CallParty {
    CallParty {
        extension: Extension::try_from("1001").unwrap(),
        device: device_name.map(device),
    }
}

fn leg(name: &str) -> Leg {
    crate::testing::leg("pbx1", name)
}

fn receipt(at: Timestamp) -> RingReceipt {
    RingReceipt {
        at,
        pushed_at: START,
        platform: PushPlatform::Fcm,
    }
}

/// A new call. Its caller waits in Asterisk, or is still on the way there.
pub(super) fn a_call(caller_leg: Option<&str>) -> Call {
    let new = NewCall {
        call_id: CallId::fresh(),
        extension: Extension::try_from("1001").unwrap(),
        kind: CallKind::FromTrunk {
            number: PhoneNumber::parse("9876543210", "IN"),
            name: None,
        },
        call_type: CallType::Voice,
        caller_leg: caller_leg.map(leg),
        call_sid: None,
    };
    Call::new(new, SETTINGS, START)
}

/// 1003 calls 1001, app to app.
pub(super) fn an_app_call() -> Call {
    let mut call = a_call(None);
    let caller = Extension::try_from("1003").unwrap();
    call.kind = CallKind::BetweenApps {
        caller,
        device: None,
    };
    call
}

/// 1001 has asked Exotel to connect two numbers.
pub(super) fn an_outbound_call() -> Call {
    let number = |text| PhoneNumber::parse(text, "IN").unwrap();
    let new = NewCall {
        call_id: CallId::fresh(),
        extension: Extension::try_from("1001").unwrap(),
        kind: CallKind::ToNumber {
            from: number("9800001001"),
            to: number("9876543210"),
        },
        call_type: CallType::Voice,
        caller_leg: None,
        call_sid: None,
    };
    Call::new(new, SETTINGS, START)
}

pub(super) fn any_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        2 => any::<bool>().prop_map(|with_leg| a_call(with_leg.then_some("leg-a"))),
        1 => Just(()).prop_map(|()| an_app_call()),
        2 => Just(()).prop_map(|()| an_outbound_call()),
    ]
}

fn any_device() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![
        Just(None),
        Just(Some("phone")),
        Just(Some("tablet")),
        Just(Some("stranger"))
    ]
}

fn any_party() -> impl Strategy<Value = CallParty> {
    let extension = prop_oneof![7 => Just("1001"), 1 => Just("1002"), 2 => Just("1003")];
    (any_device(), extension).prop_map(|(name, extension)| CallParty {
        extension: Extension::try_from(extension).unwrap(),
        device: name.map(device),
    })
}

/// The statuses that Exotel can report.
fn any_progress() -> impl Strategy<Value = CallStatus> {
    prop::sample::select(vec![
        CallStatus::Initiated,
        CallStatus::Ringing,
        CallStatus::InProgress,
        CallStatus::Completed,
        CallStatus::Declined,
        CallStatus::TimedOut,
        CallStatus::Failed,
        CallStatus::Canceled,
    ])
}

fn any_pbx() -> impl Strategy<Value = PbxName> {
    prop_oneof![3 => Just("pbx1"), 1 => Just("pbx2")]
        .prop_map(|name| PbxName::try_from(name).unwrap())
}

/// Two PBXs may each have a channel of the same id.
fn any_leg() -> impl Strategy<Value = Leg> {
    let channel = prop_oneof![Just("leg-a"), Just("leg-b")];
    (any_pbx(), channel).prop_map(|(pbx, channel)| crate::testing::leg(pbx.as_str(), channel))
}

fn any_side() -> impl Strategy<Value = CallSide> {
    prop_oneof![
        Just(CallSide::Caller),
        Just(CallSide::Callee),
        Just(CallSide::Neither),
        Just(CallSide::AnsweredElsewhere),
        Just(CallSide::DeclinedElsewhere),
    ]
}

pub(super) fn any_event() -> impl Strategy<Value = Event> {
    let rang = prop::collection::btree_set(prop_oneof![Just("phone"), Just("tablet")], 0..=2);
    let retry = prop::option::of(0_u64..40_000);
    prop_oneof![
        (
            prop::option::of(any_leg()),
            prop::option::of(prop_oneof![Just("sid-a"), Just("sid-b")])
        )
            .prop_map(|(leg, sid)| Event::CallerReported {
                caller_leg: leg,
                call_sid: sid.map(|sid| CallSid::try_from(sid).unwrap()),
            }),
        (rang, 0_u64..40_000, retry, 0_u32..=1).prop_map(|(devices, after, retry, clients)| {
            Event::PushSent(PushedDevices {
                devices: devices.into_iter().map(device).collect::<BTreeSet<_>>(),
                are_all: retry.is_none(),
                retry_at: retry.map(|after| START + Duration::from_millis(after)),
                earlier: [].into(),
                clients,
                at: START + Duration::from_millis(after),
            })
        }),
        prop_oneof![Just(EndReason::NoDevice), Just(EndReason::PushFailed)]
            .prop_map(Event::PushNotSent),
        prop_oneof![Just(Refusal::Busy), Just(Refusal::DoNotDisturb)]
            .prop_map(Event::CalleeUnavailable),
        (any_party(), any::<bool>()).prop_map(|(by, woken)| Event::Accepted {
            by,
            readiness: if woken {
                Readiness::Woken
            } else {
                Readiness::Running
            },
        }),
        (any_party(), 0_u64..40_000).prop_map(|(by, after)| Event::DeviceRings {
            by,
            receipt: receipt(START + Duration::from_millis(after)),
        }),
        any_party().prop_map(|by| Event::Declined { by }),
        any_party().prop_map(|by| Event::HungUp { by }),
        (prop::option::of(any_leg()), any::<bool>(), any_side())
            .prop_map(|(leg, answered, by)| Event::CallerLegEnded { leg, answered, by }),
        (
            any_pbx(),
            1..4_u32,
            any::<bool>(),
            prop_oneof![Just(0_u16), Just(16), Just(17), Just(21), Just(20)]
        )
            .prop_map(|(pbx, attempt, answered, cause)| Event::PhoneLegEnded {
                pbx,
                attempt,
                answered,
                cause,
                by: CallSide::Callee
            }),
        (1..4_u32).prop_map(|attempt| Event::PhoneMoved { attempt }),
        Just(Event::AgentDone),
        Just(Event::Bridged),
        Just(Event::BridgeEnded),
        Just(Event::TimerFired),
        Just(Event::TimerRepeated),
        any_pbx().prop_map(Event::CallerPhoneLocated),
        Just(Event::CallerPhoneDialed),
        Just(Event::CallerUnreachable),
        Just(Event::ExotelNoAnswer),
        any::<bool>().prop_map(|rings| Event::NotBridged { rings }),
        Just(Event::StreamStarted),
        Just(Event::StreamStopped(StopReason::CallEnded)),
        Just(Event::OutboundCallRejected(EndReason::ExotelRefused)),
        (
            any_progress(),
            prop_oneof![5 => Just("sid-a"), 1 => Just("sid-b")]
        )
            .prop_map(|(status, sid)| Event::ExotelProgress {
                call_sid: CallSid::try_from(sid).unwrap(),
                status,
            }),
        Just(Event::RequestedAgain),
        (0_u64..40_000).prop_map(|after| Event::EffectsCompleted {
            effects_pending_since: START + Duration::from_millis(after)
        }),
    ]
}

/// Events, each with the time before it in milliseconds.
pub(super) fn any_life() -> impl Strategy<Value = (Call, Vec<(u64, Event)>)> {
    let step = (
        prop_oneof![Just(0_u64), 0_u64..2_000, 10_000_u64..40_000],
        any_event(),
    );
    (any_call(), prop::collection::vec(step, 0..25))
}

/// Applies all events. `watch` sees each event with the call before it, the decision, and the call after it.
pub(super) fn live(
    (mut call, events): (Call, Vec<(u64, Event)>),
    mut watch: impl FnMut(&Call, &Event, Timestamp, &Decision, &Call),
) -> Call {
    let mut now = START;
    for (pause, event) in events {
        now = now + Duration::from_millis(pause);
        let decision = decide(&call, &event, now);
        let next = match &decision {
            Decision::Advance { change, .. } => call.apply(change),
            Decision::Stay { .. } | Decision::Reject(_) => call.clone(),
        };
        watch(&call, &event, now, &decision, &next);
        call = next;
    }
    call
}

/// The call after an event. The call itself if the event changes nothing.
pub(super) fn after(call: &Call, event: &Event, now: Timestamp) -> Call {
    match decide(call, event, now) {
        Decision::Advance { change, .. } => call.apply(&change),
        Decision::Stay { .. } | Decision::Reject(_) => call.clone(),
    }
}

pub(super) fn effects_of(decision: &Decision) -> &[Effect] {
    match decision {
        Decision::Advance { effects, .. } | Decision::Stay { effects } => effects,
        Decision::Reject(_) => &[],
    }
}

proptest! {
    #[test]
    fn an_ended_call_stays_ended(life in any_life()) {
        live(life, |before, event, _, _, after| {
            if before.status.is_final() && after.ended != before.ended {
                let is_evidence = matches!(event, Event::Bridged | Event::CallerLegEnded { answered: true, .. } | Event::ExotelProgress { .. });
                assert!(is_evidence, "{event:?}");
                assert!(before.end_is_assumed() || after.status == CallStatus::Completed, "{event:?}");
            }
        });
    }

    #[test]
    fn only_one_device_is_ever_bridged(life in any_life()) {
        let mut answered_by = None;
        live(life, |_, event, _, decision, after| {
            if effects_of(decision).contains(&Effect::Bridge) {
                let bridged = after.answered_by.clone().expect("bridged without an answer");
                assert_eq!(answered_by.get_or_insert(bridged.clone()), &bridged, "{event:?}");
            }
        });
    }

    #[test]
    fn a_ringing_device_changes_nothing_but_the_reports(life in any_life()) {
        live(life, |before, event, _, decision, after| {
            if !matches!(event, Event::DeviceRings { .. }) {
                return;
            }
            assert!(effects_of(decision).is_empty());
            let expected = Call {
                ring_receipts: after.ring_receipts.clone(),
                version: after.version,
                history: after.history.clone(),
                ..before.clone()
            };
            assert_eq!(&expected, after);
        });
    }

    #[test]
    fn a_call_is_bridged_only_while_its_phone_is_ready(life in any_life()) {
        live(life, |_, event, _, decision, after| {
            if effects_of(decision).contains(&Effect::Bridge) {
                assert_eq!(after.status, CallStatus::MobileReady, "{event:?}");
                assert!(after.caller_leg.is_some(), "{event:?}");
            }
        });
    }

    #[test]
    fn every_call_ends_by_its_deadline(life in any_life()) {
        let mut call = live(life, |_, _, _, _, _| {});
        let mut now = call.created_at;
        for _ in 0..10 {
            let Some(deadline) = call.deadline() else { break };
            now = now.max(deadline);
            let decision = decide(&call, &Event::TimerFired, now);
            let next = effects_of(&decision).iter().find_map(|effect| match effect {
                Effect::ArmTimer(at) => Some(*at),
                _ => None,
            });
            match &decision {
                Decision::Advance { change, .. } => call = call.apply(change),
                // Asterisk is asked again.
                _ => now = next.filter(|at| *at > now).expect("the timer arms no other one"),
            }
        }
        prop_assert!(call.status.is_final(), "{call:?}");
    }

    #[test]
    fn the_callers_leg_ends_with_the_call(life in any_life()) {
        live(life, |before, event, _, decision, after| {
            let ended = !before.status.is_final() && after.status.is_final();
            if ended && after.caller_channel().is_some() {
                let ends_leg = [Effect::SendBusy, Effect::HangUp];
                assert!(effects_of(decision).iter().any(|effect| ends_leg.contains(effect)), "{event:?} {after:?}");
            }
        });
    }

    #[test]
    fn a_repeated_event_changes_nothing_and_sends_nothing(life in any_life()) {
        live(life, |_, event, now, decision, after| {
            let first_attempt_died = after.was_abandoned(now);
            // Each `PushSent` has other pushes.
            let repeats = !matches!(event, Event::PushSent(_));
            if repeats && matches!(decision, Decision::Advance { .. }) && !first_attempt_died {
                let repeated = decide(after, event, now);
                assert!(!matches!(repeated, Decision::Advance { .. }), "{event:?} {after:?}");
                let sends = |effect: &Effect| matches!(effect, Effect::SendPush | Effect::CancelPush { .. });
                assert!(!effects_of(&repeated).iter().any(sends), "{event:?} {repeated:?}");
            }
        });
    }

    #[test]
    fn a_repeated_request_of_an_app_is_accepted_like_the_first(life in any_life()) {
        live(life, |_, event, now, decision, after| {
            let is_request = matches!(event, Event::Accepted { .. } | Event::Declined { .. } | Event::HungUp { .. });
            if is_request && matches!(decision, Decision::Advance { .. }) {
                assert!(matches!(decide(after, event, now), Decision::Stay { .. }), "{event:?} {after:?}");
            }
        });
    }

    #[test]
    fn the_timer_repeats_the_effects_of_a_crashed_process(life in any_life()) {
        live(life, |before, event, now, decision, after| {
            let Decision::Advance { effects, .. } = decision else { return };
            let entered_state = before.status != after.status && *event != Event::Bridged;
            if !entered_state {
                return;
            }
            let later = now + ABANDONED_AFTER;
            let Decision::Stay { effects: redone } = decide(after, &Event::TimerFired, later) else { return };
            // The later timer of an ended call repeats the end of its legs, which this timer does.
            let is_later_look = |effect: &&Effect| after.status.is_final() && matches!(effect, Effect::ArmTimer(_));
            for effect in effects.iter().filter(|effect| !is_later_look(effect)) {
                assert!(redone.contains(effect), "{effect:?} is lost after {event:?}: {redone:?}");
            }
        });
    }

    #[test]
    fn an_unread_update_makes_the_change_that_the_rules_decide(life in any_life()) {
        live(life, |before, event, now, decision, _| {
            let Some(unread) = unread_update(event, now) else { return };
            if !unread.update.conditions.iter().all(|condition| condition.holds(before)) {
                return;
            }
            let Decision::Advance { change, effects } = decision else {
                panic!("{event:?} meets the conditions, but the rules decide no change: {decision:?}");
            };
            assert_eq!(change, &unread.update.change, "{event:?}");
            assert_eq!(effects, &unread.effects(&before.apply(change), now));
        });
    }

    #[test]
    fn a_foreign_extension_changes_no_call(life in any_life()) {
        live(life, |before, event, _, _, after| {
            let foreign = match event {
                Event::HungUp { by } => before.participants().all(|own| *own != by.extension),
                // The caller cannot answer for the callee.
                Event::Accepted { by, .. } | Event::Declined { by } | Event::DeviceRings { by, .. } => by.extension.as_str() != "1001",
                _ => false,
            };
            assert!(!foreign || before == after, "{event:?}");
        });
    }

    #[test]
    fn only_calls_to_numbers_use_exotel_and_they_use_nothing_of_asterisk(life in any_life()) {
        live(life, |call, event, _, decision, _| {
            let exotels = |effect: &&Effect| matches!(effect, Effect::PlaceOutboundCall | Effect::QueryExotel);
            let common = |effect: &&Effect| matches!(effect, Effect::ArmTimer(_) | Effect::MarkEffectsCompleted(_) | Effect::DisarmTimer);
            for effect in effects_of(decision).iter().filter(|effect| !common(effect)) {
                assert_eq!(call.is_to_number(), exotels(&effect), "{event:?} {effect:?}");
            }
        });
    }

    #[test]
    fn no_event_places_a_call_to_a_number_again(life in any_life()) {
        live(life, |_, event, _, decision, _| {
            assert!(!effects_of(decision).contains(&Effect::PlaceOutboundCall), "{event:?}");
        });
    }

    #[test]
    fn a_call_to_a_number_never_goes_back(life in any_life()) {
        let how_far = |call: &Call| match call.status {
            CallStatus::Initiated => 0,
            CallStatus::Ringing => 1,
            CallStatus::InProgress => 2,
            _ => 3,
        };
        live(life, |before, event, _, _, after| {
            // What a timer assumed gives way to a report.
            if before.is_to_number() && !before.end_is_assumed() {
                assert!(how_far(after) >= how_far(before), "{event:?}");
            }
        });
    }

    #[test]
    fn the_timers_of_a_call_to_a_number_do_not_multiply(life in any_life()) {
        live(life, |before, event, now, decision, after| {
            if !before.is_to_number() || *event != Event::TimerFired || before.was_abandoned(now) {
                return;
            }
            let arms = effects_of(decision).iter().any(|effect| matches!(effect, Effect::ArmTimer(_)));
            // The next timer at the same moment arms no other one.
            if arms {
                let Decision::Stay { effects } = decide(after, event, now) else { panic!("{after:?}") };
                assert!(!effects.iter().any(|effect| matches!(effect, Effect::ArmTimer(_))), "{effects:?}");
            }
        });
    }
}

mod unread_updates {
    //! An event that finds its call in the usual state needs one write and no read.

    use super::*;

    fn needs_no_read(call: &Call, event: &Event) -> bool {
        unread_update(event, START).is_some_and(|unread| {
            let conditions = unread.update.conditions.iter();
            conditions
                .into_iter()
                .all(|condition| condition.holds(call))
        })
    }

    fn ready() -> Call {
        let call = a_call(Some("leg-a"));
        let accepted = Event::Accepted {
            by: party(Some("phone")),
            readiness: Readiness::Woken,
        };
        after(&call, &accepted)
    }

    fn after(call: &Call, event: &Event) -> Call {
        match decide(call, event, START) {
            Decision::Advance { change, .. } => call.apply(&change),
            other => panic!("{event:?} did not advance the call: {other:?}"),
        }
    }

    #[test]
    fn an_answer_finds_a_ringing_call() {
        let call = a_call(None);
        let by = party(Some("phone"));
        assert!(needs_no_read(
            &call,
            &Event::Accepted {
                by: by.clone(),
                readiness: Readiness::Running
            }
        ));
        assert!(needs_no_read(&call, &Event::Declined { by: party(None) }));
        let rang = Event::PushSent(PushedDevices {
            devices: [device("phone")].into(),
            are_all: true,
            retry_at: None,
            earlier: [].into(),
            clients: 0,
            at: START,
        });
        assert!(needs_no_read(&call, &rang));
        assert!(needs_no_read(&after(&call, &rang), &Event::Declined { by }));
    }

    #[test]
    fn a_bridge_finds_a_ready_call_and_an_end_finds_a_conversation() {
        assert!(needs_no_read(&ready(), &Event::Bridged));
        let talking = after(&ready(), &Event::Bridged);
        assert!(needs_no_read(
            &talking,
            &Event::CallerLegEnded {
                leg: None,
                answered: true,
                by: CallSide::Caller
            }
        ));
        assert!(needs_no_read(
            &talking,
            &Event::PhoneLegEnded {
                pbx: leg("leg-a").pbx,
                attempt: 1,
                answered: true,
                cause: 16,
                by: CallSide::Callee
            }
        ));
    }
}

mod rule_pages {
    //! All rules on two pages: a changed rule is a changed line in review.

    use super::*;

    fn calls() -> Vec<(&'static str, Call)> {
        let after = |call: &Call, event: Event| match decide(call, &event, START) {
            Decision::Advance { change, .. } => call.apply(&change),
            other => panic!("{event:?}: {other:?}"),
        };
        let waiting = a_call(Some("leg-a"));
        let both = [device("phone"), device("tablet")].into();
        let rang = after(
            &waiting,
            Event::PushSent(PushedDevices {
                devices: both,
                are_all: true,
                retry_at: None,
                earlier: [].into(),
                clients: 0,
                at: START,
            }),
        );
        let accept = || Event::Accepted {
            by: party(Some("phone")),
            readiness: Readiness::Woken,
        };
        let ready = after(&rang, accept());
        let talking = after(&ready, Event::Bridged);
        let no_leg = after(&a_call(None), accept());
        let late = Timestamp::from_millis(START.as_millis() + 30_000);
        let Decision::Advance { change, .. } = decide(&rang, &Event::TimerFired, late) else {
            panic!()
        };
        vec![
            (
                "completed",
                after(
                    &talking,
                    Event::CallerLegEnded {
                        leg: None,
                        answered: true,
                        by: CallSide::Caller,
                    },
                ),
            ),
            (
                "declined",
                after(&rang, Event::Declined { by: party(None) }),
            ),
            ("timed_out", rang.apply(&change)),
            (
                "canceled",
                after(
                    &rang,
                    Event::CallerLegEnded {
                        leg: None,
                        answered: false,
                        by: CallSide::Caller,
                    },
                ),
            ),
            (
                "failed",
                after(&waiting, Event::PushNotSent(EndReason::NoDevice)),
            ),
            ("waiting, push not recorded", waiting),
            ("waiting", rang),
            ("mobile_ready, caller has no leg yet", no_leg),
            ("mobile_ready", ready),
            ("in_progress", talking),
        ]
    }

    fn events() -> Vec<(&'static str, Event)> {
        let accept = |name| Event::Accepted {
            by: party(name),
            readiness: Readiness::Running,
        };
        let leg = |name| Some(leg(name));
        let pbx = leg("leg-a").expect("a leg").pbx;
        let foreign = CallParty {
            extension: Extension::try_from("1002").unwrap(),
            device: None,
        };
        vec![
            ("accept by phone", accept(Some("phone"))),
            ("accept by tablet", accept(Some("tablet"))),
            (
                "accept by a foreign extension",
                Event::Accepted {
                    by: foreign,
                    readiness: Readiness::Running,
                },
            ),
            (
                "decline by phone",
                Event::Declined {
                    by: party(Some("phone")),
                },
            ),
            ("decline", Event::Declined { by: party(None) }),
            (
                "hangup by phone",
                Event::HungUp {
                    by: party(Some("phone")),
                },
            ),
            (
                "hangup by tablet",
                Event::HungUp {
                    by: party(Some("tablet")),
                },
            ),
            (
                "caller's leg again",
                Event::CallerReported {
                    caller_leg: leg("leg-a"),
                    call_sid: None,
                },
            ),
            (
                "another leg",
                Event::CallerReported {
                    caller_leg: leg("leg-b"),
                    call_sid: None,
                },
            ),
            (
                "Exotel's webhook",
                Event::CallerReported {
                    caller_leg: None,
                    call_sid: CallSid::try_from("sid").ok(),
                },
            ),
            (
                "rang",
                Event::PushSent(PushedDevices {
                    devices: [device("phone")].into(),
                    are_all: true,
                    retry_at: None,
                    earlier: [].into(),
                    clients: 0,
                    at: START,
                }),
            ),
            (
                "phone rings",
                Event::DeviceRings {
                    by: party(Some("phone")),
                    receipt: receipt(START),
                },
            ),
            ("no push sent", Event::PushNotSent(EndReason::PushFailed)),
            (
                "caller's leg ended",
                Event::CallerLegEnded {
                    leg: None,
                    answered: false,
                    by: CallSide::Caller,
                },
            ),
            (
                "caller's leg ended by neither side",
                Event::CallerLegEnded {
                    leg: None,
                    answered: false,
                    by: CallSide::Neither,
                },
            ),
            (
                "caller's leg canceled, answered elsewhere",
                Event::CallerLegEnded {
                    leg: None,
                    answered: false,
                    by: CallSide::AnsweredElsewhere,
                },
            ),
            (
                "caller's leg ended, answered",
                Event::CallerLegEnded {
                    leg: None,
                    answered: true,
                    by: CallSide::Caller,
                },
            ),
            ("agent done", Event::AgentDone),
            (
                "phone declines",
                Event::PhoneLegEnded {
                    pbx: pbx.clone(),
                    attempt: 1,
                    answered: false,
                    cause: 21,
                    by: CallSide::Callee,
                },
            ),
            (
                "phone not reached",
                Event::PhoneLegEnded {
                    pbx: pbx.clone(),
                    attempt: 1,
                    answered: false,
                    cause: 20,
                    by: CallSide::Callee,
                },
            ),
            (
                "phone hung up",
                Event::PhoneLegEnded {
                    pbx: pbx.clone(),
                    attempt: 1,
                    answered: true,
                    cause: 16,
                    by: CallSide::Callee,
                },
            ),
            ("phone moved", Event::PhoneMoved { attempt: 1 }),
            ("bridged", Event::Bridged),
            ("timer, early", Event::TimerFired),
            ("timer, repeated", Event::TimerRepeated),
        ]
    }

    fn outcome(call: &Call, event: &Event, now: Timestamp) -> String {
        match decide(call, event, now) {
            Decision::Reject(reason) => format!("rejected: {reason:?}"),
            Decision::Stay { effects } => format!("stays {effects:?}"),
            Decision::Advance { change, effects } => {
                format!("→ {} {effects:?}", call.apply(&change).status.as_str())
            }
        }
    }

    fn reported(status: CallStatus) -> Event {
        Event::ExotelProgress {
            call_sid: CallSid::try_from("sid").unwrap(),
            status,
        }
    }

    fn outbound_page() -> String {
        use CallStatus::{Completed, Declined, InProgress, Initiated, Ringing, TimedOut};
        let after = |call: &Call, event: &Event| match decide(call, event, START) {
            Decision::Advance { change, .. } => call.apply(&change),
            other => panic!("{event:?}: {other:?}"),
        };
        let unknown = an_outbound_call();
        let placed = after(&unknown, &reported(Initiated));
        let talking = after(&placed, &reported(InProgress));
        let states = [
            ("to a number, Exotel has not answered", unknown),
            ("to a number, placed", placed.clone()),
            ("to a number, rings", after(&placed, &reported(Ringing))),
            ("to a number, talking", talking.clone()),
            (
                "to a number, completed",
                after(&talking, &reported(Completed)),
            ),
        ];
        let events = [
            (
                "Exotel refused",
                Event::OutboundCallRejected(EndReason::ExotelRefused),
            ),
            ("Exotel does not answer", Event::ExotelNoAnswer),
            ("initiated", reported(Initiated)),
            ("ringing", reported(Ringing)),
            ("in-progress", reported(InProgress)),
            ("completed", reported(Completed)),
            ("busy", reported(Declined)),
            ("no-answer", reported(TimedOut)),
            ("hangup by its app", Event::HungUp { by: party(None) }),
            ("stream starts", Event::StreamStarted),
        ];
        let times = [
            ("timer, early", START),
            ("timer, ring over", START + Duration::from_secs(75)),
            ("timer, a check later", START + Duration::from_secs(300)),
            ("timer, in a day", START + Duration::from_secs(86_400)),
        ];
        let mut page = String::new();
        for (state, call) in states {
            page.push_str(&format!("\n{state}\n"));
            for (what, event) in &events {
                page.push_str(&format!("  {what}: {}\n", outcome(&call, event, START)));
            }
            for (when, now) in times {
                page.push_str(&format!(
                    "  {when}: {}\n",
                    outcome(&call, &Event::TimerFired, now)
                ));
            }
        }
        page
    }

    /// Where a call between apps differs from a call from the trunk.
    fn app_to_app_page() -> String {
        let caller = || CallParty {
            extension: Extension::try_from("1003").unwrap(),
            device: None,
        };
        let events = [
            (
                "caller's phone waits",
                Event::CallerReported {
                    caller_leg: Some(leg("own-leg")),
                    call_sid: None,
                },
            ),
            (
                "caller's phone is located",
                Event::CallerPhoneLocated(leg("own-leg").pbx),
            ),
            ("caller's phone is dialed", Event::CallerPhoneDialed),
            ("caller's phone is unreachable", Event::CallerUnreachable),
            ("caller's app hangs up", Event::HungUp { by: caller() }),
            (
                "caller's app accepts",
                Event::Accepted {
                    by: caller(),
                    readiness: Readiness::Running,
                },
            ),
            ("caller's app declines", Event::Declined { by: caller() }),
            ("decline", Event::Declined { by: party(None) }),
        ];
        let mut page = "\napp to app, waiting\n".to_owned();
        let call = an_app_call();
        for (what, event) in &events {
            page.push_str(&format!("  {what}: {}\n", outcome(&call, event, START)));
        }
        page
    }

    /// For each event its rules, in the order in which they are tried.
    #[test]
    fn rules_of_each_event() {
        let mut page = String::new();
        for (what, event) in examples() {
            for (kind, is_to_number) in [("to a phone", false), ("to a number", true)] {
                let rules = decide::rules(is_to_number, &event, START);
                let lines: Vec<String> = rules.iter().map(|rule| format!("  {rule}\n")).collect();
                page.push_str(&format!("{what}, {kind}\n{}\n", lines.concat()));
            }
        }
        insta::assert_snapshot!(page.replace("Timestamp(10000000", "(+"));
    }

    #[test]
    fn random_lives_contain_every_event() {
        use proptest::strategy::ValueTree as _;
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let event = any_event();
        let names: BTreeSet<&str> = (0..2_000)
            .map(|_| event.new_tree(&mut runner).unwrap().current().as_str())
            .collect();
        for (name, event) in examples() {
            // Two regions need versions that fit together: see the properties in `merge`.
            let is_elsewhere = matches!(event, Event::ReplicaOverwritten(_));
            assert!(is_elsewhere || names.contains(name), "{name}");
        }
    }

    /// A first rule is tried without knowing the kind of the call. Two kinds share a status, so its conditions must tell them apart.
    #[test]
    fn an_unread_update_changes_no_call_of_another_kind() {
        let after = |call: &Call, event: &Event| match decide(call, event, START) {
            Decision::Advance { change, .. } => call.apply(&change),
            other => panic!("{event:?}: {other:?}"),
        };
        let placed = after(&an_outbound_call(), &reported(CallStatus::Initiated));
        let talking = after(&placed, &reported(CallStatus::InProgress));
        let to_numbers = [("to a number", placed), ("to a number, talking", talking)];
        for (state, call) in calls().into_iter().chain(to_numbers) {
            for (name, event) in examples() {
                let Some(unread) = unread_update(&event, START) else {
                    continue;
                };
                let mut conditions = unread.update.conditions.iter();
                if conditions.all(|condition| condition.holds(&call)) {
                    let Decision::Advance { change, .. } = decide(&call, &event, START) else {
                        panic!("{name} changes a call that is {state}");
                    };
                    assert_eq!(change, unread.update.change, "{name}, {state}");
                }
            }
        }
    }

    /// One example of each event. A new event does not compile until it has one here.
    fn examples() -> Vec<(&'static str, Event)> {
        let mut examples = vec![example_after(None)];
        while let Some(next) = examples.last().map(|last| example_after(Some(last))) {
            let is_last = matches!(next, Event::EffectsCompleted { .. });
            examples.push(next);
            if is_last {
                break;
            }
        }
        examples
            .into_iter()
            .map(|event| (event.as_str(), event))
            .collect()
    }

    fn example_after(last: Option<&Event>) -> Event {
        let by = || party(Some("phone"));
        let Some(last) = last else {
            return Event::CallerReported {
                caller_leg: Some(leg("leg-a")),
                call_sid: CallSid::try_from("sid").ok(),
            };
        };
        match last {
            Event::CallerReported { .. } => Event::RequestedAgain,
            Event::RequestedAgain => Event::PushSent(PushedDevices {
                devices: [device("phone")].into(),
                are_all: true,
                retry_at: None,
                earlier: [].into(),
                clients: 0,
                at: START,
            }),
            Event::PushSent(_) => Event::DeviceRings {
                by: by(),
                receipt: receipt(START),
            },
            Event::DeviceRings { .. } => Event::PushNotSent(EndReason::NoDevice),
            Event::PushNotSent(_) => Event::CalleeUnavailable(Refusal::Busy),
            Event::CalleeUnavailable(_) => Event::CallerPhoneLocated(leg("leg-a").pbx),
            Event::CallerPhoneLocated(_) => Event::CallerPhoneDialed,
            Event::CallerPhoneDialed => Event::CallerUnreachable,
            Event::CallerUnreachable => reported(CallStatus::InProgress),
            Event::ExotelProgress { .. } => Event::OutboundCallRejected(EndReason::ExotelRefused),
            Event::OutboundCallRejected(_) => Event::ExotelNoAnswer,
            Event::ExotelNoAnswer => Event::Accepted {
                by: by(),
                readiness: Readiness::Woken,
            },
            Event::Accepted { .. } => Event::Declined { by: by() },
            Event::Declined { .. } => Event::HungUp { by: by() },
            Event::HungUp { .. } => Event::CallerLegEnded {
                leg: Some(leg("leg-a")),
                answered: false,
                by: CallSide::Caller,
            },
            Event::CallerLegEnded { .. } => Event::PhoneMoved { attempt: 1 },
            Event::PhoneMoved { .. } => Event::AgentDone,
            Event::AgentDone => Event::PhoneLegEnded {
                pbx: leg("leg-a").pbx,
                attempt: 1,
                answered: true,
                cause: 16,
                by: CallSide::Callee,
            },
            Event::PhoneLegEnded { .. } => Event::Bridged,
            Event::Bridged => Event::BridgeEnded,
            Event::BridgeEnded => Event::NotBridged { rings: false },
            Event::NotBridged { .. } => Event::StreamStarted,
            Event::StreamStarted => Event::StreamStopped(StopReason::CallEnded),
            Event::StreamStopped(_) => Event::TimerFired,
            Event::TimerFired => Event::TimerRepeated,
            Event::TimerRepeated => Event::ReplicaOverwritten(Box::new(a_call(None))),
            Event::ReplicaOverwritten(_) | Event::EffectsCompleted { .. } => {
                Event::EffectsCompleted {
                    effects_pending_since: START,
                }
            }
        }
    }

    /// For each state what each event leads to.
    #[test]
    fn outcomes_in_each_state() {
        let mut page = String::new();
        for (state, call) in calls() {
            page.push_str(&format!("\n{state}\n"));
            for (what, event) in events() {
                page.push_str(&format!("  {what}: {}\n", outcome(&call, &event, START)));
            }
            let in_a_day = START + Duration::from_secs(86_400);
            page.push_str(&format!(
                "  timer, late: {}\n",
                outcome(&call, &Event::TimerFired, in_a_day)
            ));
        }
        page.push_str(&outbound_page());
        page.push_str(&app_to_app_page());
        // Times as distances from the start are easier to read.
        insta::assert_snapshot!(page.replace("Timestamp(10000000", "(+"));
    }
}
