//! A call in Exotel's own terms.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::macros::{format_description, offset};
use time::{OffsetDateTime, format_description::FormatItem};
use uuid::Uuid;

use super::callback::{EventType, StatusCallback};
use super::request::ConnectRequest;

/// Exotel's times have no zone. They are in Indian Standard Time.
const LOCAL_TIME: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
/// The end time that Exotel reports for a call that has not ended: the Unix epoch in Indian Standard Time.
const NO_END_YET: &str = "1970-01-01 05:30:00";

/// Exotel's status of a call or of one of its legs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ExotelStatus {
    Queued,
    Ringing,
    InProgress,
    Completed,
    Failed,
    Busy,
    NoAnswer,
    Canceled,
}

impl ExotelStatus {
    const fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Ringing | Self::InProgress)
    }

    /// The event of this status. Exotel reports none while the phones ring.
    pub(super) const fn event(self) -> Option<EventType> {
        match self {
            Self::Queued | Self::Ringing => None,
            Self::InProgress => Some(EventType::Answered),
            _ => Some(EventType::Terminal),
        }
    }

    /// The usual status of both legs. The first leg is the one that was called first, and has answered.
    const fn usual_legs(self) -> LegStatuses {
        match self {
            Self::Queued => [None, None],
            Self::Ringing => [Some(Self::Ringing), None],
            Self::InProgress => [Some(Self::InProgress), Some(Self::InProgress)],
            Self::Completed => [Some(Self::Completed), Some(Self::Completed)],
            Self::Busy | Self::NoAnswer => [Some(Self::Completed), Some(self)],
            Self::Failed | Self::Canceled => [Some(self), None],
        }
    }
}

/// The status of the leg to `From` and of the leg to `To`. `None` if it was not called yet.
pub(super) type LegStatuses = [Option<ExotelStatus>; 2];

/// A call.
#[derive(Debug, Clone)]
pub(super) struct ExotelCall {
    pub(super) sid: String,
    pub(super) custom_field: Option<String>,
    pub(super) callback: Option<StatusCallback>,
    account: String,
    from: String,
    to: String,
    exophone: String,
    status: ExotelStatus,
    created: OffsetDateTime,
    updated: OffsetDateTime,
    answered: Option<OffsetDateTime>,
    ended: Option<OffsetDateTime>,
}

impl ExotelCall {
    /// A new call. Exotel reports `in-progress` from the start.
    pub(super) fn new(account: &str, request: ConnectRequest, now: OffsetDateTime) -> Self {
        Self {
            sid: Uuid::new_v4().simple().to_string(),
            custom_field: request.custom_field,
            callback: request.callback,
            account: account.to_owned(),
            from: national(request.from),
            to: national(request.to),
            exophone: national(request.caller_id),
            status: ExotelStatus::InProgress,
            created: now,
            updated: now,
            answered: None,
            ended: None,
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        self.status.is_final()
    }

    /// The call with a new status. A call that is already over gives an old version of itself: a late report carries
    /// the time when it was written.
    pub(super) fn with_status(&self, status: ExotelStatus, now: OffsetDateTime) -> Self {
        let mut call = self.clone();
        call.status = status;
        if !self.is_over() {
            call.updated = now;
            call.ended = status.is_final().then_some(now);
            if status == ExotelStatus::InProgress {
                call.answered.get_or_insert(now);
            }
        } else if !status.is_final() {
            call.updated = self.answered.unwrap_or(self.created);
            call.ended = None;
        }
        call
    }

    /// The body of Call Details. An unanswered call has a duration of 0.
    pub(super) fn details(&self) -> Value {
        json!({
            "Sid": self.sid,
            "ParentCallSid": null,
            "DateCreated": local(self.created),
            "DateUpdated": local(self.updated),
            "AccountSid": self.account,
            "To": self.to,
            "From": self.from,
            "PhoneNumberSid": self.exophone,
            "Status": self.status,
            "StartTime": local(self.created),
            "EndTime": self.ended.map(local),
            "Duration": self.ended.map(|_| self.talk_seconds().to_string()),
            "Price": null,
            "Direction": "outbound-api",
            "AnsweredBy": null,
            "ForwardedFrom": null,
            "CallerName": null,
            "Uri": format!("/v1/Accounts/{}/Calls/{}.json", self.account, self.sid),
            "RecordingUrl": null,
        })
    }

    /// The body of a StatusCallback. Without an event type it contains few fields.
    pub(super) fn report(&self, event: Option<EventType>, legs: Option<LegStatuses>) -> Value {
        let mut report = json!({
            "CallSid": self.sid,
            "DateUpdated": local(self.updated),
            "Status": self.status,
            "RecordingUrl": null,
        });
        let Some(event) = event else {
            return report;
        };
        report["EventType"] = json!(event);
        report["DateCreated"] = json!(local(self.created));
        report["To"] = json!(self.to);
        report["From"] = json!(self.from);
        report["PhoneNumberSid"] = json!(self.exophone);
        report["StartTime"] = json!(local(self.created));
        report["EndTime"] = json!(self.ended.map_or_else(|| NO_END_YET.to_owned(), local));
        report["ConversationDuration"] = json!(self.talk_seconds());
        report["Direction"] = json!("outbound-api");
        report["CustomField"] = json!(self.custom_field.as_deref().unwrap_or_default());
        let legs = legs.unwrap_or_else(|| self.status.usual_legs());
        report["Legs"] = legs.into_iter().map(|leg| self.leg(leg)).collect();
        report
    }

    fn leg(&self, status: Option<ExotelStatus>) -> Value {
        let talked = match status {
            Some(ExotelStatus::Completed) => self.talk_seconds(),
            _ => 0,
        };
        json!({
            "OnCallDuration": talked,
            "Status": status.map_or_else(|| json!(""), |status| json!(status)),
            "AnsweredBy": "NA",
        })
    }

    /// How long both talked, in seconds.
    fn talk_seconds(&self) -> i64 {
        let times = self.answered.zip(self.ended);
        times.map_or(0, |(answered, ended)| (ended - answered).whole_seconds())
    }
}

/// Exotel shows Indian numbers in national form, also when they were given in E.164.
fn national(number: String) -> String {
    match number.strip_prefix("+91") {
        Some(rest) => format!("0{rest}"),
        None => number,
    }
}

fn local(time: OffsetDateTime) -> String {
    time.to_offset(offset!(+5:30))
        .format(LOCAL_TIME)
        .unwrap_or_default()
}
