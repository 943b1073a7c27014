//! Every error that the API answers with. `docs/error-codes.md` lists the same for developers of apps.

/// Makes the enum from one row for each code, so that code, status and text stand together.
macro_rules! api_error_codes {
    ($($name:ident: $status:literal, $code:literal, $text:literal;)*) => {
        /// An error of the API: its HTTP status, its code on the wire and its text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ApiErrorCode {
            $(#[doc = concat!("`", $code, "`: ", $text, ".")] $name,)*
        }

        impl ApiErrorCode {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The code as clients get it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The text for the client. Some errors have a more exact text of their own.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

api_error_codes! {
    BadBody: 400, "bad_body", "the body is not what its content type says";
    BadField: 400, "bad_field", "a field is missing or malformed";
    BadFrame: 400, "bad_frame", "the frame of a stream is malformed";
    BadMessage: 400, "bad_message", "a message is a JSON object";
    BadToken: 400, "bad_token", "the push service rejects this token";
    CallerHasNoTelephone: 400, "caller_has_no_telephone", "Exotel calls the caller's telephone first, and this extension has no number in the table; ask an admin to add it";
    FrameTooLong: 400, "frame_too_long", "a frame may have 128 KiB at most";
    NoVideoToATelephone: 400, "no_video_to_a_telephone", "a telephone shows no video; call it with callType voice";
    NotYourFrame: 400, "not_your_frame", "only Exotel sends the frames of streams";
    OwnExtension: 400, "own_extension", "recipientId is the caller's own extension";
    PlatformNotConfigured: 400, "platform_not_configured", "this deployment has no SNS platform application for this platform";
    SipNotConfigured: 400, "sip_not_configured", "this deployment has no SIP accounts for devices; register without sip";
    UnknownType: 400, "unknown_type", "type must be ping, call_response or incoming_call";

    Unauthorized: 401, "unauthorized", "show a valid bearer token or secret";

    BadAnswerToken: 403, "bad_answer_token", "the answer_url is not valid, or its call stopped ringing more than 5 minutes ago";
    NoExtension: 403, "no_extension", "the token names no extension to act for";
    NotAdmin: 403, "not_admin", "this needs a token with the role admin";
    NotAllowed: 403, "not_allowed", "this deployment does not allow this call";
    NotYourCall: 403, "not_your_call", "the token's extension does not take part in this call";
    NotYourExtension: 403, "not_your_extension", "the token is for another extension";
    SourceNotAllowed: 403, "source_not_allowed", "requests from this address are not accepted";

    NoDevice: 404, "no_device", "this extension has no registered device";
    NoSuchCall: 404, "no_such_call", "there is no such call, or it ended too long ago";
    NoSuchEntry: 404, "no_such_entry", "there is no such number or extension here";
    NoSuchRoute: 404, "no_such_route", "there is no such route";
    NumberNotRouted: 404, "number_not_routed", "the number leads to no extension; add its route";

    CallGoneAnotherWay: 409, "call_gone_another_way", "the call is no longer in a state that allows this";
    CalleeBusy: 409, "callee_busy", "the person called is in another conversation; call again later";
    DeviceUnknown: 409, "device_unknown", "another device may have answered the call; send device_id";
    DoNotDisturb: 409, "do_not_disturb", "the person called wants no calls now; call again later";
    EndsAtThePhones: 409, "ends_at_the_phones", "the call is between two telephones; it ends when one of them hangs up";
    ReferenceUsed: 409, "reference_used", "another call was started under this clientReference; use a new one";

    Changed: 412, "changed", "the entry is not as If-Match or If-None-Match expects; look at current, and decide again";

    BodyTooLong: 413, "body_too_long", "the body is longer than 16 KiB";
    UriTooLong: 414, "uri_too_long", "the path and the query are longer than 16 KiB";

    TooManyCalls: 429, "too_many_calls", "the extension starts too many calls";
    TooManyRegistrations: 429, "too_many_registrations", "the extension registers too many devices";

    AsteriskFailed: 502, "asterisk_failed", "Asterisk rejected the request or did not answer; try again";
    CallerUnreachable: 502, "caller_unreachable", "your own phone could not be called; register with SIP, then call again";
    ExotelNoBalance: 502, "exotel_no_balance", "the account at Exotel has no balance left";
    ExotelNotConfigured: 502, "exotel_not_configured", "this deployment has no usable account at Exotel";
    ExotelRefused: 502, "exotel_refused", "Exotel rejected the call; check both numbers, and what the account may call";
    ExotelUnavailable: 502, "exotel_unavailable", "Exotel could not be reached; call again";
    NoSuchEndpoint: 502, "no_such_endpoint", "Asterisk has no SIP endpoint for this extension";
    PhoneNotRegistered: 502, "phone_not_registered", "the phone did not register with SIP in time; register, then try again";
    PushFailed: 502, "push_failed", "no device of this extension could be woken";

    ExotelTooMany: 503, "exotel_too_many", "too many calls within a minute; call again later";
    TryAgain: 503, "try_again", "a part of the service did not answer; try again";
    Unhealthy: 503, "unhealthy", "calls cannot be handled here now";

    ExotelSilent: 504, "exotel_silent", "Exotel did not answer in time and may still place the call; wait for its status before calling again";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Codes that only answers over HTTP have, and those of Exotel's frames, which are only logged. The table of docs/apps.md is about
    /// messages over the WebSocket.
    const NOT_FOR_MESSAGES: &[ApiErrorCode] = &[
        ApiErrorCode::AsteriskFailed,
        ApiErrorCode::BadAnswerToken,
        ApiErrorCode::BadBody,
        ApiErrorCode::BadFrame,
        ApiErrorCode::BadToken,
        ApiErrorCode::CallGoneAnotherWay,
        ApiErrorCode::Changed,
        ApiErrorCode::DeviceUnknown,
        ApiErrorCode::EndsAtThePhones,
        ApiErrorCode::FrameTooLong,
        ApiErrorCode::NoSuchCall,
        ApiErrorCode::NoSuchEndpoint,
        ApiErrorCode::NoSuchEntry,
        ApiErrorCode::NoSuchRoute,
        ApiErrorCode::NotAdmin,
        ApiErrorCode::NotYourCall,
        ApiErrorCode::NumberNotRouted,
        ApiErrorCode::PhoneNotRegistered,
        ApiErrorCode::PlatformNotConfigured,
        ApiErrorCode::SipNotConfigured,
        ApiErrorCode::SourceNotAllowed,
        ApiErrorCode::TooManyRegistrations,
        ApiErrorCode::Unauthorized,
        ApiErrorCode::Unhealthy,
        ApiErrorCode::UriTooLong,
    ];

    #[test]
    fn the_error_page_lists_every_code_with_its_status_and_text() {
        let page = include_str!("../../../../docs/error-codes.md");
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let expected = ApiErrorCode::ALL.iter().map(|code| {
            format!(
                "| `{}` | {} | {} |",
                code.as_str(),
                code.status(),
                code.text()
            )
        });
        assert_eq!(rows.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }

    #[test]
    fn the_page_for_apps_lists_every_code_of_starting_a_call_and_no_unknown_one() {
        let page = include_str!("../../../../docs/apps.md");
        let table = page
            .lines()
            .skip_while(|line| !line.starts_with("| `code` |"));
        let rows = table.skip(2).take_while(|line| line.starts_with('|'));
        let listed: BTreeSet<&str> = rows
            .flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`'))
            .filter(|word| {
                word.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !word.is_empty()
            })
            .collect();
        let expected: BTreeSet<&str> = ApiErrorCode::ALL
            .iter()
            .filter(|code| !NOT_FOR_MESSAGES.contains(code))
            .map(|code| code.as_str())
            .collect();
        assert_eq!(listed, expected);
    }
}
