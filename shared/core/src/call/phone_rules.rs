//! The rules of a call to an app's phone: its caller came in through the trunk, or is another app.

use std::time::Duration;

use super::common_rules::{
    completed_effects, ended, reason_of_conversation, stream_rules, talking, waiting,
};
use super::deadline::connects_until;
use super::rule::{Rule, otherwise, when, when_read};
use super::{
    ABANDONED_AFTER, AnsweredBy, Assignment, CLOCK_DIFFERENCE, Call, CallParty, CallSide,
    CallStatus, Condition, Effect, EndReason, Event, LostPhoneLegs, PushedDevices, RejectReason,
    decline, pending, refusal, ring_receipt,
};
use crate::ids::{CallSid, Leg, PbxName};
use crate::timestamp::Timestamp;

/// Timers fire within a second. A later one may belong to a region that was away, or to the region that did not store the call:
/// the other region may have continued the call, which is not known here yet.
const LATE: Duration = Duration::from_secs(1);

/// For how long Asterisk is asked whether the legs are bridged, before a call is given up that may be a conversation.
const CHECKS_WITHIN: Duration = Duration::from_secs(8);

/// How often a phone that does not answer is dialed.
const PHONE_ATTEMPTS: u32 = 3;

/// A second end of the phone's leg within this time is the same report again.
const SAME_LEG_WITHIN: Duration = Duration::from_secs(1);

/// Exotel's webhook may be this much later than the caller's leg.
const WEBHOOK_AFTER_LEG: Duration = Duration::from_secs(5);

/// The Q.850 causes with which a phone declines: 17 user busy (SIP 486, 600), 19 no answer (480: "do not disturb", or its own timer), 21
/// call rejected (403, 603).
const DECLINE_CAUSES: [u16; 3] = [17, 19, 21];

/// The Q.850 cause with which the dialplan ends the leg of a phone that answers after its caller has left: 26, non-selected user
/// clearing. The report of the caller's leg ends the call.
const CALLER_GONE_CAUSE: u16 = 26;

/// The rules for an event, in order.
pub(super) fn rules(event: &Event, now: Timestamp) -> Vec<Rule<'_>> {
    match event {
        Event::CallerReported {
            caller_leg,
            call_sid,
        } => caller_reported(caller_leg.as_ref(), call_sid.as_ref(), now),
        Event::RequestedAgain => {
            vec![otherwise().only(
                "unfinished without timer",
                pending::unfinished_without_timer,
            )]
        }
        Event::PushSent(pushed) => push_sent(pushed, now),
        Event::CalleeUnavailable(refusal) => refusal::callee_unavailable(*refusal, now),
        Event::DeviceRings { by, receipt } => ring_receipt::device_rings(by, *receipt),
        Event::PushNotSent(reason) => vec![
            when([waiting(), Condition::PushNotRecorded])
                .set(ended(CallStatus::Failed, *reason, now))
                .then_pending(),
            when([waiting()])
                .and("no device rings", |call| {
                    !call.pushed.as_ref().is_some_and(PushedDevices::reach_any)
                })
                .set(ended(CallStatus::Failed, *reason, now))
                .then_pending(),
            otherwise().nothing(),
        ],
        Event::CallerPhoneLocated(pbx) => caller_phone_located(pbx),
        Event::CallerPhoneDialed => caller_phone_dialed(),
        Event::CallerUnreachable => vec![
            when_read("has ended or has the caller's leg", |call| {
                call.status.is_final() || call.caller_leg.is_some()
            })
            .nothing(),
            otherwise()
                .set(ended(CallStatus::Failed, EndReason::CallerUnreachable, now))
                .then_pending(),
        ],
        Event::Accepted { by, .. } => accepted(by, now),
        Event::Declined { by } => decline::declined(by, now),
        Event::HungUp { by } => hung_up(by, now),
        Event::CallerLegEnded { leg, answered, by } => {
            caller_leg_ended(leg.as_ref(), *answered, *by, now)
        }
        Event::PhoneMoved { attempt } => phone_moved(*attempt, now),
        Event::AgentDone => agent_done(now),
        Event::PhoneLegEnded {
            pbx,
            attempt,
            answered,
            cause,
            by,
        } => phone_leg_ended(pbx, *attempt, (*answered, *cause), *by, now),
        Event::Bridged => bridged(now),
        Event::NotBridged { rings } => not_bridged(*rings, now),
        Event::BridgeEnded => vec![
            when([
                Condition::StatusIs(CallStatus::InProgress),
                Condition::IsToNumber(false),
            ])
            .set(ended(CallStatus::Completed, EndReason::HungUp, now))
            .then_pending(),
            otherwise().nothing(),
        ],
        Event::StreamStarted | Event::StreamStopped(_) => stream_rules(event),
        Event::TimerFired => timer_fired(now),
        Event::TimerRepeated => vec![otherwise().only("cancel unknown pushes", |call, _| {
            pending::cancel_again(call)
        })],
        Event::EffectsCompleted {
            effects_pending_since,
        } => completed_effects(*effects_pending_since),
        Event::ExotelProgress { .. }
        | Event::OutboundCallRejected(_)
        | Event::ExotelNoAnswer
        | Event::ReplicaOverwritten(_) => vec![otherwise().nothing()],
    }
}

/// Exotel's webhook and the PBX report one call, in any order and more than once. Two legs with the same CallSid are the trunk's
/// second attempt while the phone rings, and a new ring after that; without a CallSid they are two callers.
fn caller_reported<'e>(
    leg: Option<&'e Leg>,
    sid: Option<&'e CallSid>,
    now: Timestamp,
) -> Vec<Rule<'e>> {
    let has_same_sid = move |call: &Call| sid.is_some() && sid == call.call_sid.as_ref();
    let is_new_leg = move |call: &Call| leg.is_some_and(|leg| !call.is_callers_leg(leg));
    let is_replaced = move |call: &Call| {
        let known = call.caller_leg.as_ref();
        let is_older = |leg: &Leg| known.is_some_and(|known| leg.channel.is_older_than(known));
        // The phone is dialed for this leg, and the trunk cancels the others.
        let is_dialed = matches!(
            call.status,
            CallStatus::MobileReady | CallStatus::InProgress
        );
        known.is_some() && (is_dialed || leg.is_some_and(is_older))
    };
    // Exotel's webhook, after its caller has left. A caller who calls again needs longer, and has another leg.
    let is_late = move |call: &Call| {
        let is_recent = now < call.created_at + WEBHOOK_AFTER_LEG;
        sid.is_some() && call.call_sid.is_none() && call.caller_leg.is_some() && is_recent
    };
    vec![
        when_read("has another CallSid", move |call| {
            !has_same_sid(call) && sid.is_some() && call.call_sid.is_some()
        })
        .reject(RejectReason::AnotherCall),
        when_read(
            "rings no longer, and neither CallSid nor leg says that it is meant",
            move |call| {
                let is_over = now >= call.rings_until;
                match leg {
                    _ if has_same_sid(call) => false,
                    // The call was declined, and the caller's leg arrives late.
                    Some(leg) => {
                        let may_join = call.caller_leg.is_none() && !call.status.is_final();
                        is_over && !may_join && !call.is_callers_leg(leg)
                    }
                    None => is_over || (call.status.is_final() && !is_late(call)),
                }
            },
        )
        .reject(RejectReason::AnotherCall),
        when_read("has another leg and not the same CallSid", move |call| {
            is_new_leg(call) && call.caller_leg.is_some() && !has_same_sid(call)
        })
        .reject(RejectReason::AnotherCall),
        when_read(
            "has a later leg, or its phone is dialed for another leg",
            move |call| is_new_leg(call) && is_replaced(call),
        )
        .reject(RejectReason::AnotherCall),
        when_read("has ended, and the caller comes back", move |call| {
            let is_back = is_new_leg(call) && has_same_sid(call);
            call.status.is_final() && is_back && !awaits_leg(call, now)
        })
        .reject(RejectReason::RingIsOver),
        when_read("has ended, and has this leg", move |call| {
            call.status.is_final() && leg.is_some() && !is_new_leg(call)
        })
        .only("busy", |_, _| vec![Effect::SendBusy]),
        when_read("has this leg and this CallSid", move |call| {
            !is_new_leg(call) && (has_same_sid(call) || sid.is_none())
        })
        .only(
            "unfinished and the timer of an accepted call",
            repeated_report,
        ),
        otherwise()
            .set_of("the new leg and the CallSid", move |call| {
                let mut set = Vec::new();
                if let Some(leg) = leg.filter(|_| is_new_leg(call)) {
                    set.push(Assignment::CallerLeg(leg.channel.clone()));
                    set.push(Assignment::Pbx(leg.pbx.clone()));
                    let needs_no_other_effect =
                        pending::dial_caller_phone(call).is_some() && call.pushed.is_some();
                    match call.status {
                        CallStatus::WaitingForMobile if needs_no_other_effect => {
                            set.push(Assignment::NoEffectsPending);
                        }
                        CallStatus::WaitingForMobile => {}
                        // The PBX repeats its report until it gets an answer.
                        status if status.is_final() => {}
                        _ => set.extend(effects_pending_from(call, now)),
                    }
                }
                set.extend(
                    sid.filter(|_| !has_same_sid(call))
                        .cloned()
                        .map(Assignment::CallSid),
                );
                set
            })
            .then("what the leg waits for", move |call, now| {
                after_report(call, leg.is_some(), now)
            }),
    ]
}

/// The process that stored the ring may have crashed before it armed the timer, and the app has accepted meanwhile.
fn repeated_report(call: &Call, now: Timestamp) -> Vec<Effect> {
    let mut effects = pending::unfinished(call, now);
    if call.status == CallStatus::MobileReady && call.effects_pending_since.is_some() {
        effects.push(Effect::ArmTimer(now + ABANDONED_AFTER));
    }
    effects
}

/// Whether the call was declined, or reached no device, before the leg of its caller arrived. This leg belongs to the same ring.
fn awaits_leg(call: &Call, now: Timestamp) -> bool {
    let ended_here = matches!(call.status, CallStatus::Declined | CallStatus::Failed);
    ended_here && call.caller_leg.is_none() && now < call.rings_until
}

/// A leg that arrives after its call has moved on is bridged, or hears how the call ended.
fn after_report(call: &Call, leg_arrived: bool, now: Timestamp) -> Vec<Effect> {
    match call.status {
        CallStatus::WaitingForMobile if call.was_abandoned(now) => pending::abandoned(call, now),
        CallStatus::WaitingForMobile => pending::rearm_timer(call).into_iter().collect(),
        CallStatus::InProgress | CallStatus::Initiated | CallStatus::Ringing => Vec::new(),
        _ if !leg_arrived => Vec::new(),
        CallStatus::MobileReady => pending::bridge_soon(call, now),
        CallStatus::Completed
        | CallStatus::Declined
        | CallStatus::TimedOut
        | CallStatus::Canceled
        | CallStatus::Failed => vec![Effect::SendBusy],
    }
}

fn push_sent(sent: &PushedDevices, now: Timestamp) -> Vec<Rule<'_>> {
    let finished_at = sent.at;
    let pushed = Assignment::Pushed(sent.clone());
    let cancel_late =
        move |call: &Call, _now: Timestamp| pending::cancel_late_pushes(call, finished_at);
    let push_again = move |call: &Call, _now: Timestamp| {
        let mut effects = cancel_late(call, now);
        effects.extend(pending::push_again(call));
        effects
    };
    // Effects stay pending until the timer of the next push is armed.
    let mut recorded = vec![pushed.clone()];
    recorded.extend(
        sent.retry_at
            .is_none()
            .then_some(Assignment::NoEffectsPending),
    );
    let recorded_in = |call: &Call| sent.added_to(call.pushed.as_ref());
    vec![
        when([
            waiting(),
            Condition::PushNotRecorded,
            Condition::NoDeviceDeclined,
            Condition::CalledFromTrunk,
        ])
        .set(recorded.clone())
        .then("cancel late pushes and push again", push_again),
        // The record of the pushes was missing to know that all devices had declined.
        when([waiting()])
            .and("all these devices have declined", move |call| {
                recorded_in(call).have_all_declined(&call.declined_by)
            })
            .set_of("the pushes and the end", move |call| {
                let mut set = vec![Assignment::Pushed(recorded_in(call))];
                set.extend(ended(CallStatus::Declined, EndReason::CalleeDeclined, now));
                set
            })
            .then_pending(),
        // A push was sent again, or the process was taken for crashed, and another one has sent pushes too. The other region may know
        // already who answered, so it must learn of the later pushes.
        when([waiting()])
            .and("has a recorded push", |call| call.pushed.is_some())
            .set_of("both pushes", move |call| {
                vec![Assignment::Pushed(recorded_in(call))]
            })
            .then("push again", |call, _| pending::push_again(call)),
        // Only the other region knows which device answered. It cancels these pushes when it learns of them.
        when_read(
            "has a recorded push, and talks with an unknown device",
            |call| {
                let is_unknown =
                    call.status == CallStatus::InProgress && call.answered_by.is_none();
                is_unknown && call.pushed.is_some()
            },
        )
        .set_of("both pushes", move |call| {
            vec![Assignment::Pushed(recorded_in(call))]
        })
        .then_nothing(),
        when_read("has a recorded push", |call| call.pushed.is_some())
            .only("cancel late pushes", cancel_late),
        // Without a record of the pushes, each timer cancels them again, in case this process crashes.
        when_read("has ended", |call| call.status.is_final())
            .only("cancel late pushes", cancel_late),
        when([waiting()])
            .and("the caller's phone need not be dialed", |call| {
                pending::dial_caller_phone(call).is_none()
            })
            .set(recorded)
            .then("cancel late pushes and push again", push_again),
        otherwise()
            .set_of("the push, and its pending cancellation", move |call| {
                let mut set = vec![pushed.clone()];
                if !cancel_late(call, now).is_empty() {
                    set.push(Assignment::EffectsPendingSince(
                        call.effects_pending_since.map_or(now, pending_for_nobody),
                    ));
                    set.push(Assignment::AnswerUnannounced(call.answered_by.is_some()));
                }
                set
            })
            .then("cancel late pushes and push again", move |call, now| {
                let mut effects = cancel_late(call, now);
                effects.extend(call.pushes_again_at().map(Effect::ArmTimer));
                effects.extend(pending::complete_own(call, now));
                effects
            }),
    ]
}

/// The PBX that dials the phone is stored once: a second leg on another PBX would have the same channel id there.
fn caller_phone_located(pbx: &PbxName) -> Vec<Rule<'_>> {
    let dial =
        |call: &Call, _now: Timestamp| pending::dial_caller_phone(call).into_iter().collect();
    vec![
        when([
            waiting(),
            Condition::PbxUnknown,
            Condition::CallingAppHasNoLeg,
        ])
        .set([Assignment::Pbx(pbx.clone())])
        .then("dial the caller's phone", dial),
        when_read(
            "has ended or the caller's phone need not be dialed",
            |call| call.status.is_final() || pending::dial_caller_phone(call).is_none(),
        )
        .nothing(),
        when([Condition::PbxUnknown])
            .set([Assignment::Pbx(pbx.clone())])
            .then("dial the caller's phone", dial),
        otherwise().only("dial the caller's phone", dial),
    ]
}

/// The call may have ended between the request to dial and the leg, when there was no leg to hang up.
fn caller_phone_dialed() -> Vec<Rule<'static>> {
    vec![
        when_read("has ended", |call| call.status.is_final())
            .only("hang up", |_, _| vec![Effect::HangUp]),
        otherwise().nothing(),
    ]
}

fn accepted(by: &CallParty, now: Timestamp) -> Vec<Rule<'_>> {
    let answer = [
        Assignment::AnsweredBy(AnsweredBy {
            device: by.device.clone(),
        }),
        Assignment::AnswerUnannounced(true),
    ];
    let mut ready = vec![
        Assignment::Status(CallStatus::MobileReady),
        Assignment::ReadyAt(now),
    ];
    ready.extend(answer.clone());
    ready.push(Assignment::EffectsPendingSince(now));
    vec![
        when([
            waiting(),
            Condition::ExtensionIs(by.extension.clone()),
            Condition::RingingAt(now),
        ])
        .set(ready)
        .then_pending(),
        when_read("was answered by this device", |call| {
            matches!(
                call.status,
                CallStatus::MobileReady | CallStatus::InProgress
            ) && is_answering_device(call, by)
        })
        .repeat(),
        // The PBX reported the bridge to this region before the app's answer arrived: the other region has the answer.
        when([Condition::StatusIs(CallStatus::InProgress)])
            .and("the answer is unknown", |call| call.answered_by.is_none())
            .set_of("the answer", move |call| {
                let mut set = answer.to_vec();
                set.extend(effects_pending_from(call, now));
                set
            })
            .then_pending(),
        otherwise().reject(RejectReason::WrongStatus),
    ]
}

fn hung_up(by: &CallParty, now: Timestamp) -> Vec<Rule<'_>> {
    let is_caller = |call: &Call| by.extension != call.extension;
    let mut rules = decline::while_ringing(by, now);
    rules.extend([
        when_read("has ended", |call| call.status.is_final()).repeat(),
        when([Condition::StatusIs(CallStatus::InProgress)])
            .and("the caller hangs up", is_caller)
            .set(ended(CallStatus::Completed, EndReason::CallerHungUp, now))
            .then_pending(),
        when_read("the caller hangs up", is_caller)
            .set(ended(CallStatus::Canceled, EndReason::CallerHungUp, now))
            .then_pending(),
        // A device that did not answer hangs up a call that another device has answered.
        when_read("another device has answered", |call| {
            by.device.is_some() && !is_answering_device(call, by)
        })
        .nothing(),
        when_read(
            "the device is unknown, and another one may have answered",
            |call| {
                let answered_by = call.answered_by.as_ref();
                let has_named_itself =
                    answered_by.is_some_and(|answered| answered.device.is_some());
                by.device.is_none() && has_named_itself && !call.rang_on_one_device()
            },
        )
        .reject(RejectReason::DeviceUnknown),
        when([Condition::StatusIs(CallStatus::MobileReady)])
            .set(ended(CallStatus::Declined, EndReason::CalleeHungUp, now))
            .then_pending(),
        otherwise()
            .set(ended(CallStatus::Completed, EndReason::CalleeHungUp, now))
            .then_pending(),
    ]);
    rules
}

fn caller_leg_ended(
    leg: Option<&Leg>,
    answered: bool,
    by: CallSide,
    now: Timestamp,
) -> Vec<Rule<'_>> {
    let completed = ended(CallStatus::Completed, hung_up_by(by), now);
    let mut canceled = ended(CallStatus::Canceled, canceled_by(by), now);
    // The report of its arrival may still come. It must not be taken for the caller who comes back.
    canceled.extend(leg.map(|leg| Assignment::CallerLeg(leg.channel.clone())));
    canceled.extend(leg.map(|leg| Assignment::Pbx(leg.pbx.clone())));
    let own_leg = move |status| {
        let mut conditions = vec![Condition::StatusIs(status), Condition::IsToNumber(false)];
        conditions.extend(leg.cloned().map(Condition::CallerLegMayBe));
        when(conditions)
    };
    let is_unanswered = |call: &Call| {
        matches!(
            call.status,
            CallStatus::WaitingForMobile | CallStatus::MobileReady
        )
    };
    // Exotel's report names no leg. It may be about another call of the same caller, if the trunk does not name its calls.
    let check = |_: &Call, _: Timestamp| vec![Effect::CheckBridge];
    let mut rules = Vec::new();
    if answered {
        rules.push(
            own_leg(CallStatus::InProgress)
                .set(completed.clone())
                .then_pending(),
        );
    } else if by != CallSide::Neither {
        rules.push(
            own_leg(CallStatus::WaitingForMobile)
                .set(canceled.clone())
                .then_pending(),
        );
    }
    // Only bridging answers the caller's leg, so an answered one is the one that talked.
    rules.push(
        when_read("has another caller's leg", move |call| {
            !answered && leg.is_some_and(|leg| !call.may_be_callers_leg(leg))
        })
        .reject(RejectReason::AnotherCall),
    );
    if answered {
        // Only bridging answers the caller's leg. The report of the bridge is late, or the other region has it.
        rules.push(
            when_read("is not in progress yet", is_unanswered)
                .set(completed.clone())
                .then_pending(),
        );
    } else if by == CallSide::Neither {
        // The caller got a busy that this region did not send: the other region did, and its reason arrives by replication. If it
        // has not arrived by the deadline, that region was lost.
        rules.push(
            when_read(
                "is not in progress yet, and its deadline has passed",
                move |call| {
                    is_unanswered(call) && call.deadline().is_some_and(|deadline| now >= deadline)
                },
            )
            .set_of("the end", move |call| given_up(call, now))
            .then_pending(),
        );
    } else {
        if leg.is_none() {
            // The report of the bridge may be lost. If the caller has left, the PBX reports it too.
            rules.push(
                when_read("its phone is dialed for a leg", |call| {
                    call.status == CallStatus::MobileReady && call.caller_leg.is_some()
                })
                .only("check the bridge", check),
            );
        }
        rules.push(
            when_read("is not in progress yet", is_unanswered)
                .set(canceled)
                .then_pending(),
        );
    }
    if !answered {
        let in_progress = when([Condition::StatusIs(CallStatus::InProgress)]);
        rules.push(match leg {
            // Another leg of this call talks.
            Some(_) => in_progress.nothing(),
            None => in_progress.only("check the bridge", check),
        });
    }
    rules.push(
        when([Condition::StatusIs(CallStatus::InProgress)])
            .set(completed)
            .then_pending(),
    );
    if answered {
        // The report of the bridge is lost: the call was taken for unanswered when its timer fired or an app hung up.
        rules.push(
            when_read("has ended as unanswered", Call::has_ended_unanswered)
                .set_of("completed, by the side that hung up", move |call| {
                    completed_after_all(call, hung_up_by(by), now)
                })
                .then_nothing(),
        );
    }
    rules.push(when_read("has ended", |call| call.status.is_final()).repeat());
    rules.push(otherwise().nothing());
    rules
}

/// The phone is dialed again, at its new address. The attempt is saved before the old leg is removed, so the report of that
/// leg's end changes nothing.
fn phone_moved(attempt: u32, now: Timestamp) -> Vec<Rule<'static>> {
    vec![
        when([Condition::StatusIs(CallStatus::MobileReady)])
            .and("this is its last leg", move |call| {
                call.phone_attempt == attempt && may_dial_phone(call, now)
            })
            .set_of("the next attempt", move |call| {
                let mut set = vec![Assignment::PhoneAttempt(attempt + 1)];
                set.extend(effects_pending_from(call, now));
                set
            })
            .then("bridge soon", pending::bridge_soon),
        otherwise().nothing(),
    ]
}

/// If the caller has a leg, the PBX reports its end, and Exotel may call another agent meanwhile. Without a leg, only this report says
/// that Exotel has stopped calling the extension.
fn agent_done(now: Timestamp) -> Vec<Rule<'static>> {
    let canceled = ended(CallStatus::Canceled, EndReason::CallerHungUp, now);
    vec![
        when([
            waiting(),
            Condition::CalledFromTrunk,
            Condition::NoCallerLeg,
        ])
        .set(canceled.clone())
        .then_pending(),
        when([
            Condition::StatusIs(CallStatus::MobileReady),
            Condition::CalledFromTrunk,
            Condition::NoCallerLeg,
        ])
        .set(canceled)
        .then_pending(),
        // The report of the end may be lost.
        when_read("its phone is dialed or talks", |call| {
            matches!(
                call.status,
                CallStatus::MobileReady | CallStatus::InProgress
            )
        })
        .only("check the bridge", |_, _| vec![Effect::CheckBridge]),
        when_read("has ended", |call| call.status.is_final()).repeat(),
        otherwise().nothing(),
    ]
}

fn may_dial_phone(call: &Call, now: Timestamp) -> bool {
    call.caller_leg.is_some() && call.deadline().is_some_and(|deadline| now < deadline)
}

fn phone_leg_ended(
    pbx: &PbxName,
    attempt: u32,
    (answered, cause): (bool, u16),
    by: CallSide,
    now: Timestamp,
) -> Vec<Rule<'_>> {
    let ready = || when([Condition::StatusIs(CallStatus::MobileReady)]);
    let completed = ended(CallStatus::Completed, hung_up_by(by), now);
    let has_just_lost_leg = move |call: &Call| {
        let last = call.lost_phone_legs.map(|lost| lost.last_at);
        last.is_some_and(|last| now.since(last) < SAME_LEG_WITHIN)
    };
    let mut rules = Vec::new();
    // Two people who talk have answered. A report of another leg, which was not answered, ends no conversation.
    if answered {
        rules.push(
            when([
                Condition::StatusIs(CallStatus::InProgress),
                Condition::IsToNumber(false),
                Condition::PbxMayBe(pbx.clone()),
            ])
            .set(completed.clone())
            .then_pending(),
        );
    }
    rules.extend([
        // The call has left this PBX: the trunk tried another one.
        when_read("is on another PBX", |call| !call.may_be_on_pbx(pbx))
            .reject(RejectReason::AnotherCall),
        ready()
            .and("the phone had answered", move |_| answered)
            .set(completed.clone())
            .then_pending(),
        // Ringback has removed this leg, because the phone has left its address.
        ready()
            .and("this is an earlier leg", move |call| {
                attempt < call.phone_attempt
            })
            .nothing(),
        ready()
            .and("the caller was gone when the phone answered", move |_| {
                cause == CALLER_GONE_CAUSE
            })
            .nothing(),
        ready()
            .and("the phone declines", move |_| {
                DECLINE_CAUSES.contains(&cause)
            })
            .set(ended(CallStatus::Declined, EndReason::CalleeDeclined, now))
            .then_pending(),
        ready()
            .and("a phone leg has just ended", has_just_lost_leg)
            .repeat(),
        // The phone may have been dialed at an address that it has left since: an app that wakes up registers again.
        ready()
            .and("the phone may be dialed again", move |call| {
                let lost = call.lost_phone_legs.map_or(0, |lost| lost.count);
                may_dial_phone(call, now) && lost + 1 < PHONE_ATTEMPTS
            })
            .set_of("one more lost phone leg", move |call| {
                let mut set = vec![one_more_lost_leg(call, now)];
                set.extend(effects_pending_from(call, now));
                set
            })
            .then("bridge soon", pending::bridge_soon),
        ready()
            .set(ended(CallStatus::Failed, EndReason::PhoneUnreachable, now))
            .then_pending(),
        when([waiting()])
            .and("this is an earlier leg", move |call| {
                attempt < call.phone_attempt
            })
            .nothing(),
        // Only a region that has the accept dials the phone, and its change is not here yet.
        when([waiting()])
            .and("the phone had answered", move |_| answered)
            .set(completed)
            .then_pending(),
        when([waiting()])
            .and("the phone declines", move |_| {
                DECLINE_CAUSES.contains(&cause)
            })
            .set(ended(CallStatus::Declined, EndReason::CalleeDeclined, now))
            .then_pending(),
        // The other region dials again when it learns of this.
        when([waiting()])
            .and("a phone leg was lost", move |call| {
                cause != CALLER_GONE_CAUSE && !has_just_lost_leg(call)
            })
            .set_of("one more lost phone leg", move |call| {
                vec![one_more_lost_leg(call, now)]
            })
            .then_nothing(),
        when_read("has ended", |call| call.status.is_final()).repeat(),
        otherwise().nothing(),
    ]);
    rules
}

fn one_more_lost_leg(call: &Call, now: Timestamp) -> Assignment {
    Assignment::LostPhoneLegs(LostPhoneLegs {
        count: call.lost_phone_legs.map_or(0, |lost| lost.count) + 1,
        last_at: now,
    })
}

fn bridged(now: Timestamp) -> Vec<Rule<'static>> {
    let mut talking_unheard = talking(now);
    talking_unheard.push(Assignment::ReadyAt(now));
    vec![
        // The process that handles the accept still carries its effects out.
        when([Condition::StatusIs(CallStatus::MobileReady)])
            .set(talking(now))
            .then("arm the timer after the ring", arm_timer_after_ring),
        // The other region has the accept, and its change is not here yet.
        when([waiting()])
            .set(talking_unheard)
            .then("arm the timer after the ring", arm_timer_after_ring),
        // The other region, or an accept that was late, has connected the call.
        when_read("has an assumed end", Call::end_is_assumed)
            .set_of("talking again", move |call| {
                let mut set = talking(now);
                set.push(Assignment::NotEnded(now + call.settings.talk));
                if call.ready_at.is_none() {
                    set.push(Assignment::ReadyAt(now));
                }
                set
            })
            // The timers of the ring have fired.
            .then("arm the timer", |call, _| {
                call.deadline().map(Effect::ArmTimer).into_iter().collect()
            }),
        // The report of the bridge comes after that of its end, or the legs met while the call ended.
        when_read("has ended as unanswered", Call::has_ended_unanswered)
            .set_of("completed", move |call| {
                completed_after_all(call, EndReason::HungUp, now)
            })
            .then("hang up", |_, _| vec![Effect::HangUp]),
        when_read("has ended", |call| call.status.is_final())
            .only("hang up both legs", |_, _| vec![Effect::HangUp]),
        otherwise().nothing(),
    ]
}

/// The timers of the ring arm that of the conversation. If they may have fired already, no other one does.
fn arm_timer_after_ring(call: &Call, now: Timestamp) -> Vec<Effect> {
    let deadline = call
        .deadline()
        .filter(|_| now + CLOCK_DIFFERENCE >= call.rings_until);
    deadline.map(Effect::ArmTimer).into_iter().collect()
}

fn not_bridged(rings: bool, now: Timestamp) -> Vec<Rule<'static>> {
    // The process that handles the accept or the caller's leg has waited for the phone, and then watched it. Its effects are pending
    // until it is done. Each further timer arms the next one.
    let is_first_look =
        move |call: &Call| call.effects_pending_since.is_some() && now < connects_until(call);
    vec![
        when([Condition::StatusIs(CallStatus::MobileReady)])
            .and(
                "a process has waited for the phone, and it is silent",
                move |call| rings && call.caller_leg.is_some() && is_first_look(call),
            )
            .only("arm the timer", |_, now| vec![Effect::ArmTimer(now)]),
        // The other region has an accept, and its change is on the way. The next timer fires soon enough.
        when([waiting()])
            .and("the phone rings", move |_| rings)
            .nothing(),
        when_read("its time is up", move |call| match call.status {
            CallStatus::WaitingForMobile => now >= call.rings_until,
            CallStatus::MobileReady => now >= connects_until(call),
            _ => false,
        })
        .set_of("the end", move |call| given_up(call, now))
        .then_pending(),
        otherwise().nothing(),
    ]
}

fn timer_fired(now: Timestamp) -> Vec<Rule<'static>> {
    vec![
        when([
            waiting(),
            Condition::RingOverAt(now),
            Condition::RingingAt(now.before(LATE)),
        ])
        .set(ended(CallStatus::TimedOut, EndReason::NoAnswer, now))
        .then_pending(),
        when_read("has ended", |call| call.status.is_final())
            .only("unfinished and the next timer", complete_ended),
        when([waiting()])
            .and("a push may succeed now", move |call| {
                let due = call.pushes_again_at();
                now < call.rings_until && due.is_some_and(|due| now + CLOCK_DIFFERENCE >= due)
            })
            .set_of("the next push, if this one gets no result", move |call| {
                // Only one of several timers saves this. If its process crashes, the next timer sends the push.
                let next = now + ABANDONED_AFTER;
                let pushed = call.pushed.clone().map(|pushed| PushedDevices {
                    retry_at: Some(next).filter(|next| call.push_helps_at(*next)),
                    ..pushed
                });
                pushed.map(Assignment::Pushed).into_iter().collect()
            })
            .then("abandoned effects and the push", |call, now| {
                let mut effects = complete_abandoned(call, now);
                effects.extend(call.pushes_again_at().map(Effect::ArmTimer));
                effects.push(Effect::SendPush);
                effects
            }),
        when_read("its time is not up", move |call| {
            call.deadline().is_some_and(|deadline| now < deadline)
        })
        .only("complete abandoned effects", complete_abandoned),
        // The report of the bridge may be lost, or this timer is late. Ask Asterisk before a conversation is ended.
        when_read("the legs may be bridged", move |call| {
            may_be_bridged(call, now) && call.checked_at.is_none()
        })
        .set([Assignment::CheckedAt(now)])
        .then("check the bridge", check_bridge),
        // Asterisk did not answer, or the process that asked has crashed.
        when_read("the bridge may be checked again", move |call| {
            let asked_within = |asked| now.since(asked) < CHECKS_WITHIN;
            may_be_bridged(call, now) && call.checked_at.is_some_and(asked_within)
        })
        .only("check the bridge", check_bridge),
        otherwise()
            .set_of("the end", move |call| given_up(call, now))
            .then_pending(),
    ]
}

fn check_bridge(_call: &Call, now: Timestamp) -> Vec<Effect> {
    vec![Effect::CheckBridge, Effect::ArmTimer(now + ABANDONED_AFTER)]
}

/// If the process that ended the call has crashed, a timer completes its effects.
fn complete_ended(call: &Call, now: Timestamp) -> Vec<Effect> {
    let mut effects = pending::unfinished(call, now);
    match call.effects_pending_since {
        // The process may still run. If it has crashed, no other timer may follow.
        Some(since) if !call.was_abandoned(now) => {
            effects.push(Effect::ArmTimer(since + ABANDONED_AFTER));
        }
        Some(_) => {}
        None => {
            effects.extend(pending::end_late_legs(call));
            effects.extend(pending::cancel_unrecorded_pushes(call));
        }
    }
    effects
}

/// A timer that fires before the deadline ends nothing, but completes what a crashed process has left. This may be the last of the
/// ring's own timers, and the clock of this process may be behind that of the process that armed it, so it arms the next one.
fn complete_abandoned(call: &Call, now: Timestamp) -> Vec<Effect> {
    let again = now + ABANDONED_AFTER;
    let deadline = call.deadline().unwrap_or(again);
    if call.status == CallStatus::MobileReady && call.caller_leg.is_some() {
        // The phone may have registered since the last attempt.
        let mut effects = if call.was_abandoned(now) {
            pending::abandoned(call, now)
        } else {
            vec![Effect::Bridge]
        };
        effects.push(Effect::ArmTimer(again.min(deadline)));
        return effects;
    }
    // If the call was abandoned while it rings, the timer that ends it may be among what is left.
    if call.was_abandoned(now) {
        let mut effects = pending::abandoned(call, now);
        // This is the timer of the ring.
        effects.retain(|effect| {
            *effect != Effect::ArmTimer(call.rings_until) || now < call.rings_until
        });
        if now + CLOCK_DIFFERENCE >= call.rings_until {
            effects.push(Effect::ArmTimer(deadline));
        }
        return effects;
    }
    match call.effects_pending_since {
        _ if now + CLOCK_DIFFERENCE >= call.rings_until => vec![Effect::ArmTimer(deadline)],
        Some(since) => vec![Effect::ArmTimer(since + ABANDONED_AFTER)],
        None => Vec::new(),
    }
}

fn may_be_bridged(call: &Call, now: Timestamp) -> bool {
    match call.status {
        CallStatus::MobileReady => true,
        // The other region may know the leg of a calling app, and this one not.
        CallStatus::WaitingForMobile => {
            call.caller_channel().is_some() && now >= call.rings_until + LATE
        }
        CallStatus::Initiated
        | CallStatus::Ringing
        | CallStatus::InProgress
        | CallStatus::Completed
        | CallStatus::Declined
        | CallStatus::TimedOut
        | CallStatus::Canceled
        | CallStatus::Failed => false,
    }
}

/// How a call ends when its time is up.
fn given_up(call: &Call, now: Timestamp) -> Vec<Assignment> {
    match call.status {
        CallStatus::MobileReady => ended(CallStatus::Failed, EndReason::NotConnected, now),
        CallStatus::InProgress => ended(CallStatus::Completed, EndReason::TalkedTooLong, now),
        CallStatus::WaitingForMobile
        | CallStatus::Initiated
        | CallStatus::Ringing
        | CallStatus::Completed
        | CallStatus::Declined
        | CallStatus::TimedOut
        | CallStatus::Canceled
        | CallStatus::Failed => ended(CallStatus::TimedOut, EndReason::NoAnswer, now),
    }
}

/// A call that was taken for unanswered was answered. Its end has its effects already.
fn completed_after_all(call: &Call, reason: EndReason, now: Timestamp) -> Vec<Assignment> {
    let reason = call
        .end_reason()
        .map_or(reason, |known| reason_of_conversation(known, reason));
    vec![
        Assignment::Status(CallStatus::Completed),
        Assignment::Ended(now, reason),
    ]
}

/// Effects that are pending already stay pending since then: otherwise the completion of the new ones would count for the old.
fn effects_pending_from(call: &Call, now: Timestamp) -> Option<Assignment> {
    let is_new = call.effects_pending_since.is_none();
    is_new.then_some(Assignment::EffectsPendingSince(now))
}

/// Effects join others that another process carries out. They are pending since a moment that belongs to neither process, so that
/// none completes the effects of the other one. A timer repeats and completes all of them.
fn pending_for_nobody(since: Timestamp) -> Timestamp {
    Timestamp::from_millis(since.as_millis().saturating_sub(1))
}

fn is_answering_device(call: &Call, by: &CallParty) -> bool {
    call.answered_by
        .as_ref()
        .is_some_and(|answered| answered.device == by.device)
}

const fn hung_up_by(side: CallSide) -> EndReason {
    match side {
        CallSide::Caller => EndReason::CallerHungUp,
        CallSide::Callee => EndReason::CalleeHungUp,
        CallSide::Neither | CallSide::AnsweredElsewhere | CallSide::DeclinedElsewhere => {
            EndReason::HungUp
        }
    }
}

/// Why the caller's leg ended before it was answered.
const fn canceled_by(side: CallSide) -> EndReason {
    match side {
        CallSide::AnsweredElsewhere => EndReason::AnsweredElsewhere,
        CallSide::DeclinedElsewhere => EndReason::DeclinedElsewhere,
        CallSide::Caller | CallSide::Callee | CallSide::Neither => EndReason::CallerHungUp,
    }
}
