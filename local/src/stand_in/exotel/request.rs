//! Parses and validates the fields of a connect request, as Exotel documents them.

use std::collections::BTreeMap;

use super::callback::{CallbackFormat, EventType, StatusCallback};

/// The highest `TimeLimit` in seconds.
const MAX_TIME_LIMIT: u32 = 14_400;
/// The highest `TimeOut` in seconds.
const MAX_TIME_OUT: u32 = 60;
/// The longest `CustomField`.
const MAX_CUSTOM_FIELD: usize = 128;

/// A valid connect request.
#[derive(Debug)]
pub(super) struct ConnectRequest {
    /// The number that is called first.
    pub(super) from: String,
    /// The number that is called second.
    pub(super) to: String,
    /// The ExoPhone that both see as the caller.
    pub(super) caller_id: String,
    pub(super) custom_field: Option<String>,
    pub(super) callback: Option<StatusCallback>,
}

impl ConnectRequest {
    /// Parses a request body. An error is Exotel's message.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let mut fields = BTreeMap::new();
        let mut events = Vec::new();
        for (name, value) in form_urlencoded::parse(body) {
            if name.starts_with("StatusCallbackEvents[") {
                events.push(event(&value)?);
            } else {
                fields.insert(name.into_owned(), value.into_owned());
            }
        }
        check(&fields)?;
        let callback = callback(&mut fields, events)?;
        let mut phone_number = |name| number(&mut fields, name);
        Ok(Self {
            from: phone_number("From")?,
            to: phone_number("To")?,
            caller_id: phone_number("CallerId")?,
            custom_field: fields.remove("CustomField"),
            callback,
        })
    }
}

fn check(fields: &BTreeMap<String, String>) -> Result<(), String> {
    at_most(fields, "TimeLimit", MAX_TIME_LIMIT)?;
    at_most(fields, "TimeOut", MAX_TIME_OUT)?;
    at_most(fields, "MaxRetries", 3)?;
    one_of(fields, "CallType", &["trans"])?;
    one_of(fields, "Record", &["true", "false"])?;
    one_of(
        fields,
        "StatusCallbackContentType",
        &["multipart/form-data", "application/json"],
    )?;
    if fields
        .get("CustomField")
        .is_some_and(|value| value.chars().count() > MAX_CUSTOM_FIELD)
    {
        return Err(format!(
            "Invalid parameter 'CustomField': {MAX_CUSTOM_FIELD} characters at most"
        ));
    }
    Ok(())
}

fn at_most(fields: &BTreeMap<String, String>, name: &str, most: u32) -> Result<(), String> {
    match fields.get(name).map(|value| value.parse::<u32>()) {
        None => Ok(()),
        Some(Ok(number)) if number <= most => Ok(()),
        Some(_) => Err(format!("Invalid parameter '{name}': {most} at most")),
    }
}

fn one_of(fields: &BTreeMap<String, String>, name: &str, values: &[&str]) -> Result<(), String> {
    match fields.get(name) {
        Some(value) if !values.contains(&value.as_str()) => {
            Err(format!("Invalid parameter '{name}': {value}"))
        }
        _ => Ok(()),
    }
}

/// A phone number in E.164 or national form.
fn number(fields: &mut BTreeMap<String, String>, name: &str) -> Result<String, String> {
    let number = fields
        .remove(name)
        .ok_or_else(|| format!("Missing mandatory parameter '{name}'"))?;
    let digits = number.strip_prefix('+').unwrap_or(&number);
    let is_number =
        (8..=15).contains(&digits.len()) && digits.chars().all(|letter| letter.is_ascii_digit());
    if is_number {
        Ok(number)
    } else {
        Err(format!("Invalid parameter '{name}': {number}"))
    }
}

fn event(name: &str) -> Result<EventType, String> {
    match name {
        "terminal" => Ok(EventType::Terminal),
        "answered" => Ok(EventType::Answered),
        _ => Err(format!("Invalid parameter 'StatusCallbackEvents': {name}")),
    }
}

fn callback(
    fields: &mut BTreeMap<String, String>,
    events: Vec<EventType>,
) -> Result<Option<StatusCallback>, String> {
    let format = match fields.get("StatusCallbackContentType").map(String::as_str) {
        Some("application/json") => CallbackFormat::Json,
        _ => CallbackFormat::Multipart,
    };
    match fields.remove("StatusCallback") {
        Some(url) if !(url.starts_with("http://") || url.starts_with("https://")) => {
            Err(format!("Invalid parameter 'StatusCallback': {url}"))
        }
        url => Ok(url.map(|url| StatusCallback {
            url,
            events,
            format,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID_REQUEST: [(&str, &str); 8] = [
        ("From", "+919876543210"),
        ("To", "09052161119"),
        ("CallerId", "08047491899"),
        ("CallType", "trans"),
        ("TimeOut", "30"),
        ("StatusCallback", "https://example.test/exotel/webhook"),
        ("StatusCallbackEvents[0]", "terminal"),
        ("StatusCallbackContentType", "application/json"),
    ];

    /// The valid request with one field added or replaced.
    fn parse_with(name: &str, value: &str) -> Result<ConnectRequest, String> {
        let good = VALID_REQUEST.iter().filter(|(known, _)| *known != name);
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(good)
            .append_pair(name, value)
            .finish();
        ConnectRequest::parse(body.as_bytes())
    }

    #[test]
    fn each_invalid_field_is_rejected() {
        let wrong = [
            ("From", "sip:1001"),
            ("To", ""),
            ("CallType", "promo"),
            ("TimeLimit", "14401"),
            ("TimeOut", "61"),
            ("TimeOut", "soon"),
            ("Record", "yes"),
            ("StatusCallback", "example.test"),
            ("StatusCallbackEvents[1]", "ringing"),
            ("StatusCallbackContentType", "text/xml"),
            ("CustomField", &"x".repeat(129)),
        ];
        for (name, value) in wrong {
            assert!(parse_with(name, value).is_err(), "{name}={value}");
        }
        assert_eq!(
            ConnectRequest::parse(b"").unwrap_err(),
            "Missing mandatory parameter 'From'"
        );
    }

    #[test]
    fn callback_events_may_have_an_index_or_empty_brackets() {
        for name in ["StatusCallbackEvents[1]", "StatusCallbackEvents[]"] {
            let callback = parse_with(name, "answered").unwrap().callback.unwrap();
            assert_eq!(callback.events, [EventType::Terminal, EventType::Answered]);
        }
    }

    #[test]
    fn a_callback_is_multipart_unless_json_is_requested() {
        let format_of = |kind| {
            let request = parse_with("StatusCallbackContentType", kind).unwrap();
            request.callback.unwrap().format
        };
        assert_eq!(format_of("application/json"), CallbackFormat::Json);
        assert_eq!(format_of("multipart/form-data"), CallbackFormat::Multipart);
    }
}
