//! Conditions and assignments in DynamoDB's expressions.

use std::collections::HashMap;

use ringback_core::call::{Assignment, CallEnd, Change, Condition, ConditionalUpdate, DeclineEnds};
use ringback_core::timestamp::Timestamp;
use serde::Serialize;

use crate::store::table::Item;

/// Of an active call: the extension that started it. The write that ends the call removes it.
pub(super) const LIVE_STARTED_BY: &str = "live_started_by";

/// Of an active call: its time limit. The write that ends the call removes it.
pub(super) const LIVE_UNTIL: &str = "live_until";

/// Who wrote an item last: a new value for each write. It tells a write that the client sent again from a concurrent one with the
/// same content in the same millisecond.
pub(super) const WRITER: &str = "writer";

/// A [`ConditionalUpdate`] in DynamoDB's expressions.
pub(super) struct Expressions {
    pub(super) update: String,
    pub(super) condition: String,
    pub(super) names: HashMap<String, String>,
    pub(super) values: Item,
}

impl Expressions {
    pub(super) fn of(
        update: &ConditionalUpdate,
        writer: &str,
    ) -> Result<Self, serde_dynamo::Error> {
        let mut this = Self {
            update: String::new(),
            condition: "attribute_exists(pk) AND attribute_not_exists(alias_of)".to_owned(),
            names: HashMap::new(),
            values: Item::new(),
        };
        for condition in &update.conditions {
            this.require(condition)?;
        }
        this.update = this.update_of(&update.change, writer)?;
        Ok(this)
    }

    fn require(&mut self, condition: &Condition) -> Result<(), serde_dynamo::Error> {
        let term = match condition {
            Condition::VersionIs(version) => self.compare("version", "=", version)?,
            Condition::StatusIs(status) => self.compare("status", "=", status)?,
            Condition::ExtensionIs(extension) => self.compare("extension", "=", extension)?,
            Condition::RingingAt(moment) => self.compare("rings_until", ">", moment)?,
            Condition::RingOverAt(moment) => self.compare("rings_until", "<=", moment)?,
            Condition::CalledFromTrunk => self.kind_is("from_trunk", true),
            Condition::CallingAppHasNoLeg => {
                let is_between_apps = self.kind_is("between_apps", true);
                format!(
                    "{is_between_apps} AND attribute_not_exists({})",
                    self.name("caller_leg")
                )
            }
            Condition::IsToNumber(expected) => self.kind_is("to_number", *expected),
            Condition::CallSidIs(sid) => self.compare("call_sid", "=", sid)?,
            Condition::EffectsPendingSince(moment) => {
                self.compare("effects_pending_since", "=", moment)?
            }
            Condition::CallerLegMayBe(leg) => {
                let channel = self.may_be("caller_leg", &leg.channel)?;
                format!("{channel} AND {}", self.may_be("pbx", &leg.pbx)?)
            }
            Condition::PbxMayBe(pbx) => self.may_be("pbx", pbx)?,
            Condition::NoCallerLeg => {
                format!("attribute_not_exists({})", self.name("caller_leg"))
            }
            Condition::PbxUnknown => format!("attribute_not_exists({})", self.name("pbx")),
            Condition::NoDeviceDeclined => {
                format!("attribute_not_exists({})", self.name("declined_by"))
            }
            Condition::NoDeviceRings => {
                format!("attribute_not_exists({})", self.name("ring_receipts"))
            }
            Condition::PushNotRecorded => format!("attribute_not_exists({})", self.name("pushed")),
            Condition::DeclineEndsCall => {
                let (settings, decline_ends) = (self.name("settings"), self.name("decline_ends"));
                format!(
                    "{settings}.{decline_ends} = {}",
                    self.value(&DeclineEnds::Call)?
                )
            }
        };
        self.condition.push_str(" AND ");
        self.condition.push_str(&term);
        Ok(())
    }

    fn update_of(&mut self, change: &Change, writer: &str) -> Result<String, serde_dynamo::Error> {
        let mut sets = vec![self.compare(WRITER, "=", &writer)?];
        let mut removes = Vec::new();
        for assignment in &change.assignments {
            let set = match assignment {
                Assignment::Status(status) => self.compare("status", "=", status)?,
                Assignment::AnsweredBy(answered_by) => {
                    self.compare("answered_by", "=", answered_by)?
                }
                Assignment::AnswerUnannounced(true) => {
                    self.compare("answer_unannounced", "=", &true)?
                }
                Assignment::AnswerUnannounced(false) => {
                    removes.push(self.name("answer_unannounced"));
                    continue;
                }
                Assignment::ReadyAt(moment) => self.compare("ready_at", "=", moment)?,
                Assignment::PhoneAttempt(attempt) => self.compare("phone_attempt", "=", attempt)?,
                Assignment::LostPhoneLegs(lost) => self.compare("lost_phone_legs", "=", lost)?,
                Assignment::BridgedAt(moment) => self.compare("bridged_at", "=", moment)?,
                Assignment::Ended(at, reason) => {
                    removes.extend([LIVE_STARTED_BY, LIVE_UNTIL].map(|name| self.name(name)));
                    sets.push(self.expiry_after(*at)?);
                    let end = CallEnd {
                        at: *at,
                        reason: *reason,
                    };
                    self.compare("ended", "=", &end)?
                }
                Assignment::NotEnded(until) => {
                    removes.push(self.name("ended"));
                    self.expiry_after(*until)?
                }
                Assignment::CallerLeg(channel) => self.compare("caller_leg", "=", channel)?,
                Assignment::Pbx(pbx) => self.compare("pbx", "=", pbx)?,
                Assignment::CallSid(sid) => self.compare("call_sid", "=", sid)?,
                Assignment::CheckedAt(moment) => self.compare("checked_at", "=", moment)?,
                Assignment::ExotelUnanswered => self.compare("exotel_unanswered", "=", &true)?,
                Assignment::Stream(state) => self.compare("stream", "=", state)?,
                Assignment::Pushed(pushed) => self.compare("pushed", "=", pushed)?,
                Assignment::RingReceipts(receipts) => {
                    self.compare("ring_receipts", "=", receipts)?
                }
                Assignment::DeclinedBy(devices) => self.compare("declined_by", "=", devices)?,
                Assignment::EffectsPendingSince(moment) => {
                    self.compare("effects_pending_since", "=", moment)?
                }
                Assignment::EffectsCompleted(since) => {
                    removes.push(self.name("effects_pending_since"));
                    self.compare("effects_completed", "=", since)?
                }
                Assignment::NoEffectsPending => {
                    removes.push(self.name("effects_pending_since"));
                    continue;
                }
            };
            sets.push(set);
        }
        let (history, line) = (self.name("history"), self.value(&[&change.entry])?);
        sets.push(format!("{history} = list_append({history}, {line})"));
        let (version, one) = (self.name("version"), self.value(&1)?);
        sets.push(format!("{version} = {version} + {one}"));
        let mut update = format!("SET {}", sets.join(", "));
        if !removes.is_empty() {
            update.push_str(&format!(" REMOVE {}", removes.join(", ")));
        }
        Ok(update)
    }

    /// [`Call::expiry_after`](ringback_core::call::Call::expiry_after), computed by DynamoDB, because a write without a read does not know
    /// the call's settings.
    fn expiry_after(&mut self, ended_at: Timestamp) -> Result<String, serde_dynamo::Error> {
        let [expires_at, settings, kept] =
            ["expires_at", "settings", "kept_seconds"].map(|name| self.name(name));
        let ended_at = self.value(&ended_at.as_secs_rounded_up())?;
        Ok(format!("{expires_at} = {settings}.{kept} + {ended_at}"))
    }

    /// The call is of this kind, or is not. `kind` is a map with one key, the name of the kind.
    fn kind_is(&mut self, kind: &str, expected: bool) -> String {
        let function = if expected {
            "attribute_exists"
        } else {
            "attribute_not_exists"
        };
        format!("{function}({}.{})", self.name("kind"), self.name(kind))
    }

    /// The attribute is missing, or has this value.
    fn may_be(
        &mut self,
        attribute: &str,
        value: &impl Serialize,
    ) -> Result<String, serde_dynamo::Error> {
        let (name, same) = (self.name(attribute), self.compare(attribute, "=", value)?);
        Ok(format!("(attribute_not_exists({name}) OR {same})"))
    }

    /// `attribute operator value`, which is a comparison in a condition and, with `=`, an assignment in an update.
    fn compare(
        &mut self,
        attribute: &str,
        operator: &str,
        value: &impl Serialize,
    ) -> Result<String, serde_dynamo::Error> {
        let (name, value) = (self.name(attribute), self.value(value)?);
        Ok(format!("{name} {operator} {value}"))
    }

    fn name(&mut self, attribute: &str) -> String {
        let name = format!("#{attribute}");
        self.names.insert(name.clone(), attribute.to_owned());
        name
    }

    fn value(&mut self, value: &impl Serialize) -> Result<String, serde_dynamo::Error> {
        let name = format!(":v{}", self.values.len());
        self.values
            .insert(name.clone(), serde_dynamo::to_attribute_value(value)?);
        Ok(name)
    }
}
