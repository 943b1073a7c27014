//! The reports of the dialplan (`asterisk/extensions.conf`): a caller's leg has arrived, the legs are bridged, a leg has
//! ended.

use super::pbx_list::PbxList;
use crate::form_fields::FormFields;
use ringback_core::call::CorrelationKey;
use ringback_core::call::{CallSide, Event};
use ringback_core::ids::{BadName, CallId, CallSid, ChannelId, Extension, Leg};
use ringback_core::phone_number::{Caller, CallerName, PhoneNumber};

/// The Q.850 causes with which Ringback ends the leg of a trunk's caller who was not answered: 17 user busy (486) and 19 no answer
/// (480).
const REJECTED_BY_RINGBACK: [u16; 2] = [17, 19];

/// The first of these for the leg of a calling app. The other one means that its phone was not answered.
const USER_BUSY: u16 = 17;

/// The Q.850 causes of a trunk's CANCEL for a call that was answered elsewhere: 26, non-selected user clearing, and 16, to which
/// Asterisk translates `SIP;cause=200` of the header `Reason` (RFC 3326).
const ANSWERED_ELSEWHERE: [u16; 2] = [16, 26];

/// The same for a call that was declined elsewhere: 17, user busy (`SIP;cause=600`), and 21, call rejected (`SIP;cause=603`).
const DECLINED_ELSEWHERE: [u16; 2] = [17, 21];

/// The fields of a report. Others are ignored.
const FIELDS: [&str; 13] = [
    "pbx",
    "channel_id",
    "caller",
    "caller_header",
    "caller_name",
    "number",
    "extension",
    "call_sid",
    "call_id",
    "answered",
    "cause",
    "cancel_cause",
    "hung_up_by",
];

/// A report about one leg.
#[derive(Debug, Clone)]
pub struct DialplanReport {
    /// The leg.
    pub leg: Leg,
    /// The caller.
    pub caller: Caller,
    /// The number that was dialled.
    pub number: Option<PhoneNumber>,
    /// The extension that is called, where the dialplan knows it.
    pub extension: Option<Extension>,
    /// Exotel's id of the call, from the INVITE's `X-Exotel-CallSid` header.
    pub call_sid: Option<CallSid>,
    /// Ringback's id of the call, from the answer to the first report.
    pub call_id: Option<CallId>,
    /// Whether the leg had been answered when it ended.
    answered: bool,
    /// The Q.850 cause with which the leg ended; 0 if there is none.
    cause: u16,
    /// The Q.850 cause of the trunk's CANCEL, if that ended the leg; 0 otherwise.
    cancel_cause: u16,
    hung_up_by: HungUpBy,
}

/// Who ended a leg, as the dialplan reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HungUpBy {
    /// The party on this leg. Also the default, if the dialplan does not say.
    ThisParty,
    /// The party on the other leg.
    OtherParty,
    /// Neither party: Ringback or the network ended it.
    Neither,
}

/// How a report identifies its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportedCall {
    /// By the call's id.
    ById(CallId),
    /// By Exotel's CallSid, and the number or extension that was dialled.
    ByCallSid(CallSid),
    /// By the caller's number and the number or extension that was dialled.
    ByCaller,
}

impl DialplanReport {
    /// Parses a report. `country` (ISO 3166) is the country of numbers without a country code. A report that names no PBX
    /// comes from the first one of the list.
    ///
    /// # Errors
    /// When a field is missing or malformed, with the field's name.
    pub fn parse(fields: &FormFields, country: &str, pbxs: &PbxList) -> Result<Self, BadName> {
        let missing = BadName {
            what: "channel_id",
            rule: "is missing",
        };
        let cause = |name| {
            let cause = fields.text(name).and_then(|text| text.parse().ok());
            cause.unwrap_or(0)
        };
        fields.check_texts(&FIELDS)?;
        let call_sid = fields.text("call_sid").map(CallSid::try_from).transpose()?;
        Ok(Self {
            leg: Leg {
                pbx: pbxs.find(fields.text("pbx"))?,
                channel: ChannelId::try_from(fields.text("channel_id").ok_or(missing)?)?,
            },
            caller: Caller::on_network(
                caller_number(fields, country),
                fields
                    .with_quotes("caller_name")
                    .and_then(CallerName::parse),
            ),
            number: fields.phone_number("number", country),
            extension: fields
                .text("extension")
                .map(Extension::try_from)
                .transpose()?,
            call_sid,
            call_id: fields.text("call_id").map(CallId::try_from).transpose()?,
            answered: fields
                .text("answered")
                .is_some_and(|text| matches!(text, "1" | "true")),
            hung_up_by: match fields.text("hung_up_by") {
                Some("other") => HungUpBy::OtherParty,
                Some("neither") => HungUpBy::Neither,
                _ => HungUpBy::ThisParty,
            },
            cause: cause("cause"),
            cancel_cause: cause("cancel_cause"),
        })
    }

    /// The call that the report is about. The channel id of a phone's leg contains the call's id.
    #[must_use]
    pub fn reported_call(&self) -> ReportedCall {
        let id = self.leg.channel.phone_of().map(|(call, _)| call);
        let id = id.or_else(|| self.app_caller_call()).or(self.call_id);
        match (id, &self.call_sid) {
            (Some(id), _) => ReportedCall::ById(id),
            (None, Some(sid)) => ReportedCall::ByCallSid(sid.clone()),
            (None, None) => ReportedCall::ByCaller,
        }
    }

    /// The id of the call to `extension` that this caller's leg belongs to: the id that the PBX knows already, or else, without a
    /// CallSid, one derived from the leg.
    #[must_use]
    pub fn call_id_for(&self, extension: &Extension) -> Option<CallId> {
        let by_leg = || CallId::of_leg(&self.leg, extension);
        self.call_id
            .or_else(|| self.call_sid.is_none().then(by_leg).flatten())
    }

    /// The call, if this leg is the own leg of an app that starts a call.
    #[must_use]
    pub fn app_caller_call(&self) -> Option<CallId> {
        self.leg.channel.app_caller_of()
    }

    /// The key under which a call to `extension` from this caller is found.
    #[must_use]
    pub fn correlation_key(&self, extension: Extension) -> CorrelationKey {
        CorrelationKey {
            extension,
            caller: self.caller.number.clone(),
        }
    }

    /// The event for a call that exists already: the caller's leg has arrived.
    #[must_use]
    pub fn arrival_event(&self) -> Event {
        Event::CallerReported {
            caller_leg: Some(self.leg.clone()),
            call_sid: self.call_sid.clone(),
        }
    }

    fn was_rejected_by_ringback(&self) -> bool {
        match self.app_caller_call() {
            Some(_) => self.cause == USER_BUSY,
            None => REJECTED_BY_RINGBACK.contains(&self.cause),
        }
    }

    /// What the trunk's CANCEL says about the call at other destinations.
    fn canceled_elsewhere(&self) -> Option<CallSide> {
        match self.cancel_cause {
            cause if ANSWERED_ELSEWHERE.contains(&cause) => Some(CallSide::AnsweredElsewhere),
            cause if DECLINED_ELSEWHERE.contains(&cause) => Some(CallSide::DeclinedElsewhere),
            _ => None,
        }
    }

    /// The event for the end of this leg. Maps the dialplan's `hung_up_by` and the Q.850 cause to the side that hung up.
    #[must_use]
    pub fn leg_ended_event(&self) -> Event {
        let answered = self.answered;
        let phone_attempt = self.leg.channel.phone_of().map(|(_, attempt)| attempt);
        let is_phone = phone_attempt.is_some();
        let by = match (self.hung_up_by, is_phone) {
            (HungUpBy::Neither, _) if answered => CallSide::Neither,
            (HungUpBy::Neither, false) if self.was_rejected_by_ringback() => CallSide::Neither,
            (HungUpBy::OtherParty, true) | (HungUpBy::ThisParty | HungUpBy::Neither, false) => {
                CallSide::Caller
            }
            (HungUpBy::OtherParty, false) | (HungUpBy::ThisParty | HungUpBy::Neither, true) => {
                CallSide::Callee
            }
        };
        if let Some(attempt) = phone_attempt {
            Event::PhoneLegEnded {
                pbx: self.leg.pbx.clone(),
                attempt,
                answered,
                cause: self.cause,
                by,
            }
        } else {
            Event::CallerLegEnded {
                leg: Some(self.leg.clone()),
                answered,
                by: self.canceled_elsewhere().unwrap_or(by),
            }
        }
    }
}

/// The caller's number. The header of the INVITE in which this trunk sends it with its country code (`RINGBACK_CALLER_HEADER`) takes
/// precedence over the ordinary one, unless the caller withholds the number.
fn caller_number(fields: &FormFields, country: &str) -> Option<PhoneNumber> {
    let ordinary = fields.text("caller")?;
    let in_header = fields
        .text("caller_header")
        .filter(|_| ordinary != Caller::WITHHELD)
        .and_then(|header| PhoneNumber::parse_global(user_of_uri(header), country));
    in_header.or_else(|| fields.phone_number("caller", country))
}

/// The user part of a SIP or tel URI, such as `"Asha" <sip:+14155550123@example.com;user=phone>`. Any other text as it is.
fn user_of_uri(header: &str) -> &str {
    let uri = header.rsplit_once('<').map_or(header, |(_, uri)| uri);
    let after_scheme = ["sip:", "sips:", "tel:"]
        .into_iter()
        .find_map(|scheme| uri.strip_prefix(scheme));
    let user = after_scheme.unwrap_or(uri);
    user.split(['@', ';', '>', '?']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(form: &str) -> Result<DialplanReport, BadName> {
        let pbxs = PbxList::parse("pbx1=https://a/ari,pbx2=https://b/ari").unwrap();
        DialplanReport::parse(&FormFields::from_form(form.as_bytes()), "IN", &pbxs)
    }

    #[test]
    fn a_report_about_a_waiting_caller_is_parsed() {
        let report = parse(
            "channel_id=1732.1&caller=09876543210&number=08047491899&call_sid=&caller_name=Asha",
        )
        .unwrap();
        assert_eq!(report.leg.channel.as_str(), "1732.1");
        assert_eq!(report.caller.shown(), "+919876543210");
        assert_eq!(report.number.as_ref().unwrap().as_str(), "+918047491899");
        assert_eq!(report.reported_call(), ReportedCall::ByCaller);
    }

    #[test]
    fn a_withheld_number_is_parsed_as_none() {
        assert_eq!(
            parse("channel_id=1.1&caller=anonymous")
                .unwrap()
                .caller
                .number,
            None
        );
    }

    fn caller_of(caller: &str, header: &str) -> String {
        let mut form = form_urlencoded::Serializer::new("channel_id=1.1&".to_owned());
        form.append_pair("caller", caller)
            .append_pair("caller_header", header);
        parse(&form.finish()).unwrap().caller.shown().to_owned()
    }

    #[test]
    fn the_configured_header_has_the_callers_country() {
        for header in [
            "<sip:+6561234567@trunk.example.com>",
            "\"Wei <Ltd>\" <sips:+6561234567@trunk.example.com;user=phone>;x=1",
            "<tel:+65-6123-4567;phone-context=x>",
            "+6561234567",
            "6561234567",
            "006561234567",
        ] {
            assert_eq!(caller_of("6561234567", header), "+6561234567", "{header}");
        }
    }

    #[test]
    fn without_a_number_in_the_header_the_ordinary_one_counts() {
        for header in ["", "sip:alice@example.com", "<>", "anonymous"] {
            assert_eq!(
                caller_of("09876543210", header),
                "+919876543210",
                "{header}"
            );
        }
        let withheld = caller_of("anonymous", "<sip:+6561234567@trunk.example.com>");
        assert_eq!(withheld, Caller::WITHHELD);
    }

    proptest! {
        #[test]
        fn any_header_gives_a_number_or_the_ordinary_one(header in ".*") {
            let caller = caller_of("09876543210", &header);
            prop_assert!(caller.trim_start_matches('+').bytes().all(|byte| byte.is_ascii_digit()));
        }
    }

    #[test]
    fn the_channel_id_tells_whose_leg_has_ended() {
        let call = CallId::fresh();
        let phone = parse(&format!("channel_id=ringback-{call}-2&cause=21&answered=0")).unwrap();
        assert_eq!(phone.reported_call(), ReportedCall::ById(call));
        assert_eq!(
            phone.leg_ended_event(),
            Event::PhoneLegEnded {
                pbx: phone.leg.pbx.clone(),
                attempt: 2,
                answered: false,
                cause: 21,
                by: CallSide::Callee
            }
        );
        let caller = parse("channel_id=1.1&call_sid=abc&cause=16&answered=1").unwrap();
        assert_eq!(
            caller.reported_call(),
            ReportedCall::ByCallSid(CallSid::try_from("abc").unwrap())
        );
        assert_eq!(
            caller.leg_ended_event(),
            Event::CallerLegEnded {
                leg: Some(caller.leg.clone()),
                answered: true,
                by: CallSide::Caller
            }
        );
    }

    #[test]
    fn the_error_names_the_malformed_field() {
        assert_eq!(parse("caller=1").unwrap_err().what, "channel_id");
        assert_eq!(parse("channel_id=1/2").unwrap_err().what, "channel_id");
        assert_eq!(
            parse("channel_id=1&extension=10%2F01").unwrap_err().what,
            "extension"
        );
        assert_eq!(
            parse("channel_id=1&call_id=x").unwrap_err().what,
            "server_call_id"
        );
    }

    #[test]
    fn a_report_without_a_pbx_comes_from_the_first_one() {
        for (form, expected) in [
            ("channel_id=1.1&pbx=pbx2", "pbx2"),
            ("channel_id=1.1&pbx=", "pbx1"),
            ("channel_id=1.1", "pbx1"),
        ] {
            assert_eq!(parse(form).unwrap().leg.pbx.as_str(), expected);
        }
        for unknown in ["pbx3", "PBX2", "pbx1,pbx2"] {
            let error = parse(&format!("channel_id=1.1&pbx={unknown}")).unwrap_err();
            assert_eq!(error.what, "pbx");
        }
    }

    #[test]
    fn either_leg_reports_which_side_hung_up() {
        let phone = format!("ringback-{}", CallId::fresh());
        let app = format!("ringback-caller-{}", CallId::fresh());
        let cases = [
            (phone.as_str(), "this", CallSide::Callee),
            (phone.as_str(), "other", CallSide::Caller),
            ("1.1", "this", CallSide::Caller),
            ("1.1", "other", CallSide::Callee),
            ("1.1", "", CallSide::Caller),
            ("1.1", "neither", CallSide::Caller),
            ("1.1", "neither&answered=1", CallSide::Neither),
            (phone.as_str(), "neither&answered=1", CallSide::Neither),
            ("1.1", "neither&cause=17", CallSide::Neither),
            (phone.as_str(), "neither&cause=17", CallSide::Callee),
            ("1.1", "neither&cause=19", CallSide::Neither),
            (app.as_str(), "neither&cause=17", CallSide::Neither),
            (app.as_str(), "neither&cause=19", CallSide::Caller),
            ("1.1", "this&cancel_cause=16", CallSide::AnsweredElsewhere),
            ("1.1", "this&cancel_cause=26", CallSide::AnsweredElsewhere),
            ("1.1", "this&cancel_cause=17", CallSide::DeclinedElsewhere),
            ("1.1", "this&cancel_cause=21", CallSide::DeclinedElsewhere),
            ("1.1", "this&cancel_cause=127", CallSide::Caller),
            ("1.1", "this&cancel_cause=", CallSide::Caller),
            ("1.1", "this&cause=17", CallSide::Caller),
        ];
        for (channel, hung_up_by, expected) in cases {
            let report = parse(&format!("channel_id={channel}&hung_up_by={hung_up_by}")).unwrap();
            let (Event::CallerLegEnded { by, .. } | Event::PhoneLegEnded { by, .. }) =
                report.leg_ended_event()
            else {
                panic!("not the end of a leg")
            };
            assert_eq!(by, expected, "{channel} {hung_up_by}");
        }
    }
}
