//! The schema of FCM's `projects.messages.send`, from its REST reference.

use serde_json::{Map, Value};

/// FCM's limit for `data`: keys and values together.
const MAX_DATA_BYTES: usize = 4_096;
/// The longest TTL: four weeks.
const MAX_TTL_SECONDS: f64 = 2_419_200.0;

/// An error in a request, as in the real service's `fieldViolations`.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path of the field.
    pub field: String,
    /// The error.
    pub description: String,
}

impl FieldViolation {
    fn new(field: &str, description: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            description: description.into(),
        }
    }
}

/// A valid request.
#[derive(Debug, PartialEq, Eq)]
pub struct ValidMessage {
    /// The device token. `None` for a topic, a condition or an installation id.
    pub token: Option<String>,
    /// The request is only validated and not sent.
    pub validate_only: bool,
}

/// The type of a field.
enum FieldType {
    Text,
    Flag,
    Number,
    /// A JSON object.
    Anything,
    /// A map of strings.
    Strings,
    /// A map of strings without reserved names.
    Data,
    /// A duration such as "30s".
    Duration,
    OneOf(&'static [&'static str]),
    List,
    Message(&'static [(&'static str, FieldType)]),
}

const REQUEST: &[(&str, FieldType)] = &[
    ("validate_only", FieldType::Flag),
    ("message", FieldType::Message(MESSAGE)),
];

const MESSAGE: &[(&str, FieldType)] = &[
    ("name", FieldType::Text),
    ("data", FieldType::Data),
    ("notification", FieldType::Message(NOTIFICATION)),
    ("android", FieldType::Message(ANDROID)),
    ("webpush", FieldType::Message(WEBPUSH)),
    ("apns", FieldType::Message(APNS)),
    (
        "fcm_options",
        FieldType::Message(&[("analytics_label", FieldType::Text)]),
    ),
    ("token", FieldType::Text),
    ("fid", FieldType::Text),
    ("topic", FieldType::Text),
    ("condition", FieldType::Text),
];

const NOTIFICATION: &[(&str, FieldType)] = &[
    ("title", FieldType::Text),
    ("body", FieldType::Text),
    ("image", FieldType::Text),
];

const ANDROID: &[(&str, FieldType)] = &[
    ("collapse_key", FieldType::Text),
    ("priority", FieldType::OneOf(&["NORMAL", "HIGH"])),
    ("ttl", FieldType::Duration),
    ("restricted_package_name", FieldType::Text),
    ("data", FieldType::Data),
    ("notification", FieldType::Message(ANDROID_NOTIFICATION)),
    (
        "fcm_options",
        FieldType::Message(&[("analytics_label", FieldType::Text)]),
    ),
    ("direct_boot_ok", FieldType::Flag),
    ("bandwidth_constrained_ok", FieldType::Flag),
    ("restricted_satellite_ok", FieldType::Flag),
];

const ANDROID_NOTIFICATION: &[(&str, FieldType)] = &[
    ("title", FieldType::Text),
    ("body", FieldType::Text),
    ("icon", FieldType::Text),
    ("color", FieldType::Text),
    ("sound", FieldType::Text),
    ("tag", FieldType::Text),
    ("click_action", FieldType::Text),
    ("body_loc_key", FieldType::Text),
    ("body_loc_args", FieldType::List),
    ("title_loc_key", FieldType::Text),
    ("title_loc_args", FieldType::List),
    ("channel_id", FieldType::Text),
    ("ticker", FieldType::Text),
    ("sticky", FieldType::Flag),
    ("event_time", FieldType::Text),
    ("local_only", FieldType::Flag),
    ("notification_priority", FieldType::Text),
    ("default_sound", FieldType::Flag),
    ("default_vibrate_timings", FieldType::Flag),
    ("default_light_settings", FieldType::Flag),
    ("vibrate_timings", FieldType::List),
    (
        "visibility",
        FieldType::OneOf(&["VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"]),
    ),
    ("notification_count", FieldType::Number),
    ("light_settings", FieldType::Anything),
    ("image", FieldType::Text),
    ("bypass_proxy_notification", FieldType::Flag),
    (
        "proxy",
        FieldType::OneOf(&["PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"]),
    ),
];

const WEBPUSH: &[(&str, FieldType)] = &[
    ("headers", FieldType::Strings),
    ("data", FieldType::Strings),
    ("notification", FieldType::Anything),
    (
        "fcm_options",
        FieldType::Message(&[
            ("link", FieldType::Text),
            ("analytics_label", FieldType::Text),
        ]),
    ),
];

const APNS: &[(&str, FieldType)] = &[
    ("headers", FieldType::Strings),
    ("payload", FieldType::Anything),
    (
        "fcm_options",
        FieldType::Message(&[
            ("analytics_label", FieldType::Text),
            ("image", FieldType::Text),
        ]),
    ),
    ("live_activity_token", FieldType::Text),
];

/// Validates the body of a request.
pub fn check(body: &Value) -> Result<ValidMessage, FieldViolation> {
    check_kind("", &FieldType::Message(REQUEST), body)?;
    let message = field(body, "message").ok_or_else(|| no_recipient("message"))?;
    let token = recipient(message)?;
    check_apns(message)?;
    let validate_only = field(body, "validate_only")
        .and_then(Value::as_bool)
        .unwrap_or_default();
    Ok(ValidMessage {
        token,
        validate_only,
    })
}

fn no_recipient(field: &str) -> FieldViolation {
    FieldViolation::new(field, "Recipient of the message is not set.")
}

/// The device token, or `None` for a topic, a condition or an installation id. Exactly one of them must be set.
fn recipient(message: &Value) -> Result<Option<String>, FieldViolation> {
    let targets: Vec<_> = ["token", "fid", "topic", "condition"]
        .into_iter()
        .filter_map(|name| Some((name, field(message, name)?.as_str()?)))
        .collect();
    match targets[..] {
        [] | [(_, "")] => Err(no_recipient("message")),
        [("token", token)] => Ok(Some(token.to_owned())),
        [_] => Ok(None),
        _ => Err(FieldViolation::new(
            "message",
            "oneof field 'target' is already set.",
        )),
    }
}

/// A data-only message to iOS must have normal priority, according to the reference.
fn check_apns(message: &Value) -> Result<(), FieldViolation> {
    let Some(apns) = field(message, "apns") else {
        return Ok(());
    };
    let header = |name| apns["headers"][name].as_str();
    if let Some(expiration) = header("apns-expiration")
        && expiration.parse::<u64>().is_err()
    {
        return Err(FieldViolation::new(
            "message.apns.headers[apns-expiration]",
            "must be seconds since the epoch",
        ));
    }
    let aps = &apns["payload"]["aps"];
    check_push_type(&apns["headers"], aps)?;
    let silent = aps["content-available"] == 1
        && ["alert", "sound", "badge"]
            .iter()
            .all(|name| aps[name].is_null());
    if silent && header("apns-priority").is_some_and(|priority| priority != "5") {
        return Err(FieldViolation::new(
            "message.apns.headers[apns-priority]",
            "a payload of data fields only allows normal priority (5)",
        ));
    }
    Ok(())
}

/// The rules of Apple's "Sending notification requests to APNs" for the headers. FCM passes them on, and drops what Apple refuses.
fn check_push_type(headers: &Value, aps: &Value) -> Result<(), FieldViolation> {
    let header = |name: &str| headers[name].as_str();
    let violation = |name, description: &str| {
        let field = format!("message.apns.headers[{name}]");
        Err(FieldViolation::new(&field, description))
    };
    let has_alert = !aps["alert"].is_null();
    match header("apns-push-type") {
        Some("alert") if !has_alert => violation("apns-push-type", "an alert push has an alert"),
        Some("background") if has_alert => {
            violation("apns-push-type", "a background push has no alert")
        }
        Some("background") if header("apns-priority") != Some("5") => {
            violation("apns-priority", "a background push has priority 5")
        }
        Some("voip") => violation("apns-push-type", "FCM delivers no VoIP pushes"),
        _ if header("apns-collapse-id").is_some_and(|id| id.len() > 64) => {
            violation("apns-collapse-id", "longer than 64 bytes")
        }
        _ => Ok(()),
    }
}

fn check_kind(path: &str, kind: &FieldType, value: &Value) -> Result<(), FieldViolation> {
    let wrong_type = |expected: &str| {
        Err(FieldViolation::new(
            path,
            format!("Invalid value at '{path}' ({expected}), {value}"),
        ))
    };
    match kind {
        FieldType::Text if !value.is_string() => wrong_type("TYPE_STRING"),
        FieldType::Flag if !value.is_boolean() => wrong_type("TYPE_BOOL"),
        FieldType::Number if !value.is_number() => wrong_type("TYPE_INT32"),
        FieldType::Anything if !value.is_object() => {
            wrong_type("type.googleapis.com/google.protobuf.Struct")
        }
        FieldType::List if !value.is_array() => wrong_type("list"),
        FieldType::OneOf(values) if !is_one_of(values, value) => wrong_type("enum"),
        FieldType::Duration => check_duration(path, value),
        FieldType::Strings => strings(path, value).map(|_| ()),
        FieldType::Data => check_data(path, value),
        FieldType::Message(fields) => check_message(path, fields, value),
        FieldType::Text
        | FieldType::Flag
        | FieldType::Number
        | FieldType::Anything
        | FieldType::List
        | FieldType::OneOf(_) => Ok(()),
    }
}

fn check_message(
    path: &str,
    fields: &[(&str, FieldType)],
    value: &Value,
) -> Result<(), FieldViolation> {
    let Value::Object(members) = value else {
        return Err(FieldViolation::new(
            path,
            format!("Invalid value at '{path}' (message), {value}"),
        ));
    };
    for (name, value) in members {
        let Some((known, kind)) = fields.iter().find(|(known, _)| is_name(name, known)) else {
            let description = format!(
                "Invalid JSON payload received. Unknown name \"{name}\" at '{path}': Cannot find field."
            );
            return Err(FieldViolation::new(path, description));
        };
        let inner = if path.is_empty() {
            (*known).to_owned()
        } else {
            format!("{path}.{known}")
        };
        check_kind(&inner, kind, value)?;
    }
    Ok(())
}

/// protobuf's JSON mapping accepts the name in the schema and its camel case form.
fn is_name(written: &str, name: &str) -> bool {
    written == name || written == camel_case(name)
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut written, word| {
        let mut letters = word.chars();
        written.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        written.push_str(letters.as_str());
        written
    })
}

fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| object.get(camel_case(name)))
}

fn is_one_of(values: &[&str], value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|value| values.iter().any(|known| known.eq_ignore_ascii_case(value)))
}

/// A duration is a string: seconds, optionally with a fraction, and "s".
fn check_duration(path: &str, value: &Value) -> Result<(), FieldViolation> {
    let seconds = value
        .as_str()
        .and_then(|text| text.strip_suffix('s'))
        .and_then(plain_decimal);
    match seconds {
        Some(seconds) if seconds <= MAX_TTL_SECONDS => Ok(()),
        Some(_) => Err(FieldViolation::new(
            path,
            "Invalid TTL: longer than four weeks",
        )),
        None => {
            let expected = "type.googleapis.com/google.protobuf.Duration";
            Err(FieldViolation::new(
                path,
                format!("Invalid value at '{path}' ({expected}), {value}"),
            ))
        }
    }
}

fn plain_decimal(text: &str) -> Option<f64> {
    let plain = !text.is_empty()
        && text
            .chars()
            .all(|letter| letter.is_ascii_digit() || letter == '.');
    plain.then(|| text.parse().ok()).flatten()
}

fn strings<'a>(path: &str, value: &'a Value) -> Result<&'a Map<String, Value>, FieldViolation> {
    let Value::Object(members) = value else {
        return Err(FieldViolation::new(
            path,
            format!("Invalid value at '{path}' (map), {value}"),
        ));
    };
    for (index, value) in members.values().enumerate() {
        if !value.is_string() {
            let field = format!("{path}[{index}].value");
            let description = format!("Invalid value at '{field}' (TYPE_STRING), {value}");
            return Err(FieldViolation { field, description });
        }
    }
    Ok(members)
}

fn check_data(path: &str, value: &Value) -> Result<(), FieldViolation> {
    let members = strings(path, value)?;
    if let Some(reserved) = members.keys().find(|name| is_reserved(name)) {
        return Err(FieldViolation::new(
            path,
            format!("Invalid data payload key: {reserved}"),
        ));
    }
    let bytes: usize = members
        .iter()
        .map(|(name, value)| name.len() + value.as_str().map_or(0, str::len))
        .sum();
    if bytes > MAX_DATA_BYTES {
        return Err(FieldViolation::new(
            path,
            format!("Message too big: {bytes} bytes of data, {MAX_DATA_BYTES} allowed"),
        ));
    }
    Ok(())
}

/// The names that the service reserves. `collapse_key` is documented as allowed but overwritten, which no sender wants,
/// so it is refused here.
fn is_reserved(name: &str) -> bool {
    matches!(name, "from" | "message_type" | "collapse_key")
        || name.starts_with("google")
        || name.starts_with("gcm")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The push for an incoming call.
    fn incoming_call() -> Value {
        json!({"message": {
            "token": "device-token",
            "data": {"type": "incoming_call", "call_id": "0190", "expires_at": "1790000000000"},
            "android": {"priority": "HIGH", "ttl": "30s"},
            "apns": {
                "headers": {"apns-priority": "5", "apns-expiration": "1790000030"},
                "payload": {"aps": {"content-available": 1}}
            }
        }})
    }

    fn violation_with(change: impl FnOnce(&mut Value)) -> FieldViolation {
        let mut body = incoming_call();
        change(&mut body["message"]);
        check(&body).expect_err("the message must be rejected")
    }

    #[test]
    fn an_incoming_call_is_accepted() {
        let accepted = ValidMessage {
            token: Some("device-token".into()),
            validate_only: false,
        };
        assert_eq!(check(&incoming_call()), Ok(accepted));
    }

    #[test]
    fn headers_that_apple_refuses_are_rejected() {
        let with = |headers: Value, aps: Value| {
            violation_with(|message| {
                message["apns"] = json!({ "headers": headers, "payload": { "aps": aps } });
            })
            .field
        };
        let alert = json!({ "alert": { "title": "Missed call" } });
        let silent = json!({ "content-available": 1 });
        let kind = |push_type: &str, priority: &str| json!({ "apns-push-type": push_type, "apns-priority": priority });
        let (push_type, priority) = (
            "message.apns.headers[apns-push-type]",
            "message.apns.headers[apns-priority]",
        );
        assert_eq!(with(kind("alert", "10"), silent.clone()), push_type);
        assert_eq!(with(kind("background", "5"), alert.clone()), push_type);
        assert_eq!(with(kind("background", "10"), silent.clone()), priority);
        assert_eq!(with(kind("voip", "10"), silent), push_type);
        let long = json!({ "apns-collapse-id": "x".repeat(65) });
        assert_eq!(with(long, alert), "message.apns.headers[apns-collapse-id]");
    }

    #[test]
    fn camel_case_names_are_accepted() {
        let body = json!({"validateOnly": true, "message": {
            "token": "t", "android": {"collapseKey": "call", "directBootOk": true}, "fcmOptions": {"analyticsLabel": "x"}
        }});
        assert_eq!(
            check(&body),
            Ok(ValidMessage {
                token: Some("t".into()),
                validate_only: true
            })
        );
    }

    #[test]
    fn an_unknown_field_is_rejected_at_every_level() {
        let violation = violation_with(|message| message["android"]["timeToLive"] = json!("30s"));
        assert_eq!(violation.field, "message.android");
        assert!(
            violation
                .description
                .contains("Unknown name \"timeToLive\" at 'message.android'")
        );
        assert!(check(&json!({"message": {"token": "t"}, "priority": "high"})).is_err());
    }

    #[test]
    fn data_values_must_be_strings() {
        let violation = violation_with(|message| message["data"] = json!({"expires_at": 12}));
        assert_eq!(
            violation.description,
            "Invalid value at 'message.data[0].value' (TYPE_STRING), 12"
        );
    }

    #[test]
    fn reserved_data_keys_are_rejected() {
        for key in [
            "from",
            "message_type",
            "collapse_key",
            "gcm.notification.e",
            "google.sent_time",
        ] {
            let violation = violation_with(|message| message["data"] = json!({key: "x"}));
            assert_eq!(
                violation.description,
                format!("Invalid data payload key: {key}")
            );
        }
    }

    #[test]
    fn data_over_the_limit_is_rejected() {
        let violation =
            violation_with(|message| message["data"]["padding"] = json!("x".repeat(4_096)));
        assert!(violation.description.starts_with("Message too big"));
    }

    #[test]
    fn a_ttl_must_be_a_duration_string() {
        for wrong in [
            json!(30_000),
            json!(30),
            json!("30"),
            json!("30000ms"),
            json!("-1s"),
            json!("s"),
            json!("1e3s"),
        ] {
            assert_eq!(
                violation_with(|message| message["android"]["ttl"] = wrong).field,
                "message.android.ttl"
            );
        }
        assert!(
            violation_with(|message| message["android"]["ttl"] = json!("2419201s"))
                .description
                .contains("TTL")
        );
        let mut fraction = incoming_call();
        fraction["message"]["android"]["ttl"] = json!("3.5s");
        assert!(check(&fraction).is_ok());
    }

    #[test]
    fn a_priority_must_be_normal_or_high() {
        assert_eq!(
            violation_with(|message| message["android"]["priority"] = json!("urgent")).field,
            "message.android.priority"
        );
        let mut lower_case = incoming_call();
        lower_case["message"]["android"]["priority"] = json!("high");
        assert!(check(&lower_case).is_ok());
    }

    #[test]
    fn apns_headers_must_be_strings() {
        let violation = violation_with(|message| {
            message["apns"]["headers"]["apns-expiration"] = json!(1_790_000_030)
        });
        assert!(violation.field.starts_with("message.apns.headers["));
        violation_with(|message| message["apns"]["headers"]["apns-expiration"] = json!("in 30 s"));
    }

    #[test]
    fn a_silent_push_to_ios_must_have_normal_priority() {
        let violation =
            violation_with(|message| message["apns"]["headers"]["apns-priority"] = json!("10"));
        assert_eq!(violation.field, "message.apns.headers[apns-priority]");
        let mut alert = incoming_call();
        alert["message"]["apns"]["headers"]["apns-priority"] = json!("10");
        alert["message"]["apns"]["payload"]["aps"]["alert"] = json!({"title": "Missed call"});
        assert!(check(&alert).is_ok());
    }

    #[test]
    fn a_message_must_have_exactly_one_target() {
        assert!(
            violation_with(|message| message["topic"] = json!("news"))
                .description
                .contains("already set")
        );
        let unset = violation_with(|message| message["token"] = json!(""));
        assert_eq!(unset.description, "Recipient of the message is not set.");
        assert!(check(&json!({})).is_err());
        assert!(check(&json!([])).is_err());
    }
}
