//! What the dialplan reports (`asterisk/extensions.conf`): a caller's leg has come, the legs talk, a leg is gone.

use super::Pbxs;
use crate::api::form::Fields;
use ringback_core::call::CorrelationKey;
use ringback_core::call::{CallSide, Event};
use ringback_core::ids::{BadName, CallId, CallSid, ChannelId, Extension, Leg};
use ringback_core::phone_number::{Caller, CallerName, PhoneNumber};

/// A report of the PBX.
#[derive(Debug, Clone)]
pub struct Report {
    /// The leg that it is about.
    pub leg: Leg,
    /// Who calls.
    pub caller: Caller,
    /// The number that was dialled.
    pub number: Option<PhoneNumber>,
    /// The extension that is wanted, where the dialplan knows it.
    pub extension: Option<Extension>,
    /// Exotel's id of the call, from the INVITE's `X-Exotel-CallSid`.
    pub call_sid: Option<CallSid>,
    /// Our id of the call, from our answer to the first report.
    pub call_id: Option<CallId>,
    /// Whether the leg had been answered when it ended.
    answered: bool,
    /// The Q.850 cause with which it ended; 0 if there is none.
    cause: u16,
    hung_up_by: HungUpBy,
}

/// Q.850: what Ringback takes a caller's leg down with who is to hear busy.
const USER_BUSY: u16 = 17;

/// Who ended a leg, as the dialplan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HungUpBy {
    /// The party whose leg it is, or nobody says.
    This,
    /// The party of the other leg.
    Other,
    /// Neither of them.
    Neither,
}

/// What a report may say; anything else is ignored.
const FIELDS: [&str; 11] = [
    "pbx",
    "channel_id",
    "caller",
    "caller_name",
    "number",
    "extension",
    "call_sid",
    "call_id",
    "answered",
    "cause",
    "hung_up_by",
];

/// How a report says which call it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// By its id, or by Exotel's, which makes it.
    Call(CallId),
    /// By the caller who waits for an extension or has dialled a number.
    Caller,
}

impl Report {
    /// Reads a report of one of these PBXs. One that does not name itself is the first.
    ///
    /// # Errors
    /// When a field is missing or malformed, with the field's name.
    pub fn parse(fields: &Fields, country: &str, pbxs: &Pbxs) -> Result<Self, BadName> {
        let missing = BadName {
            what: "channel_id",
            rule: "is missing",
        };
        let number = |name| {
            fields
                .text(name)
                .and_then(|text| PhoneNumber::parse(text, country))
        };
        fields.check_texts(&FIELDS)?;
        let call_sid = fields.text("call_sid").map(CallSid::try_from).transpose()?;
        Ok(Self {
            leg: Leg {
                pbx: pbxs.named(fields.text("pbx"))?,
                channel: ChannelId::try_from(fields.text("channel_id").ok_or(missing)?)?,
            },
            caller: Caller::on_network(
                number("caller"),
                fields.as_sent("caller_name").and_then(CallerName::parse),
            ),
            number: number("number"),
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
                Some("other") => HungUpBy::Other,
                Some("neither") => HungUpBy::Neither,
                _ => HungUpBy::This,
            },
            cause: fields
                .text("cause")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
        })
    }

    /// Which call the report is about. A phone's leg bears its call's id.
    #[must_use]
    pub fn which(&self) -> Which {
        self.leg
            .channel
            .phone_of()
            .or_else(|| self.app_call())
            .or(self.call_id)
            .or_else(|| self.call_sid.as_ref().map(CallId::of_call_sid))
            .map_or(Which::Caller, Which::Call)
    }

    /// The id of the call for `extension` whose caller this leg is: the one that the PBX knows already, or a new one.
    #[must_use]
    pub fn id_of_call(&self, extension: &Extension) -> CallId {
        let by_sid = || self.call_sid.as_ref().map(CallId::of_call_sid);
        let by_leg = || CallId::of_leg(&self.leg, extension);
        let known = self.call_id.or_else(by_sid).or_else(by_leg);
        known.unwrap_or_else(CallId::fresh)
    }

    /// The call whose caller's own leg this is, where an app calls another.
    #[must_use]
    pub fn app_call(&self) -> Option<CallId> {
        self.leg.channel.app_caller_of()
    }

    /// Where its caller is met, given the extension that is wanted.
    #[must_use]
    pub fn place(&self, extension: Extension) -> CorrelationKey {
        CorrelationKey {
            extension,
            caller: self.caller.number.clone(),
        }
    }

    /// What the arrival of the caller's leg means for a call that is known already.
    #[must_use]
    pub fn arrival(&self) -> Event {
        Event::CallerReported {
            caller_leg: Some(self.leg.clone()),
            call_sid: self.call_sid.clone(),
        }
    }

    /// What the end of this leg means for its call.
    #[must_use]
    pub fn end_of_leg(&self) -> Event {
        let answered = self.answered;
        let is_phone = self.leg.channel.phone_of().is_some();
        let by = match (self.hung_up_by, is_phone) {
            (HungUpBy::Neither, _) if answered => CallSide::Neither,
            (HungUpBy::Neither, false) if self.cause == USER_BUSY => CallSide::Neither,
            (HungUpBy::Other, true) | (HungUpBy::This | HungUpBy::Neither, false) => {
                CallSide::Caller
            }
            (HungUpBy::Other, false) | (HungUpBy::This | HungUpBy::Neither, true) => {
                CallSide::Callee
            }
        };
        if is_phone {
            Event::PhoneLegEnded {
                pbx: self.leg.pbx.clone(),
                answered,
                cause: self.cause,
                by,
            }
        } else {
            Event::CallerLegEnded {
                leg: Some(self.leg.clone()),
                answered,
                by,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(form: &str) -> Result<Report, BadName> {
        let pbxs = Pbxs::listed("pbx1=https://a/ari,pbx2=https://b/ari").unwrap();
        Report::parse(&Fields::from_form(form.as_bytes()), "IN", &pbxs)
    }

    #[test]
    fn a_waiting_caller_is_read_as_the_dialplan_sends_it() {
        let report = parse(
            "channel_id=1732.1&caller=09876543210&number=08047491899&call_sid=&caller_name=Asha",
        )
        .unwrap();
        assert_eq!(report.leg.channel.as_str(), "1732.1");
        assert_eq!(report.caller.shown(), "+919876543210");
        assert_eq!(report.number.as_ref().unwrap().as_str(), "+918047491899");
        assert_eq!(report.which(), Which::Caller);
    }

    #[test]
    fn a_withheld_number_is_no_number() {
        assert_eq!(
            parse("channel_id=1.1&caller=anonymous")
                .unwrap()
                .caller
                .number,
            None
        );
    }

    #[test]
    fn the_end_of_a_phones_leg_is_told_by_its_name() {
        let call = CallId::fresh();
        let phone = parse(&format!("channel_id=ringback-{call}&cause=21&answered=0")).unwrap();
        assert_eq!(phone.which(), Which::Call(call));
        assert_eq!(
            phone.end_of_leg(),
            Event::PhoneLegEnded {
                pbx: phone.leg.pbx.clone(),
                answered: false,
                cause: 21,
                by: CallSide::Callee
            }
        );
        let caller = parse("channel_id=1.1&call_sid=abc&cause=16&answered=1").unwrap();
        assert_eq!(
            caller.which(),
            Which::Call(CallId::of_call_sid(&CallSid::try_from("abc").unwrap()))
        );
        assert_eq!(
            caller.end_of_leg(),
            Event::CallerLegEnded {
                leg: Some(caller.leg.clone()),
                answered: true,
                by: CallSide::Caller
            }
        );
    }

    #[test]
    fn what_is_malformed_is_named() {
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
    fn a_pbx_says_which_one_it_is_and_one_that_does_not_is_the_first() {
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
    fn who_hung_up_is_told_by_either_leg() {
        let phone = format!("ringback-{}", CallId::fresh());
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
        ];
        for (channel, hung_up_by, expected) in cases {
            let report = parse(&format!("channel_id={channel}&hung_up_by={hung_up_by}")).unwrap();
            let (Event::CallerLegEnded { by, .. } | Event::PhoneLegEnded { by, .. }) =
                report.end_of_leg()
            else {
                panic!("no leg's end")
            };
            assert_eq!(by, expected, "{channel} {hung_up_by}");
        }
    }
}
