//! Names the operation of a request. The name is the same for every call.

use axum::http::{HeaderMap, Method, Uri};

use super::rule::System;

/// The name of the operation, such as `DynamoDB UpdateItem CALL` or `POST /channels/ringback-{id}`.
pub(super) fn operation(
    system: System,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &str,
) -> String {
    match system {
        System::Aws => aws_operation(method, uri, headers, body),
        System::Pbx => path_operation(method, uri.path().trim_start_matches("/ari")),
        System::Fcm => match push_type(body) {
            Some(kind) => format!("FCM {kind}"),
            None => path_operation(method, uri.path()),
        },
        System::Exotel => match uri.path().ends_with("/connect.json") {
            true => "Exotel connect".to_owned(),
            false => "Exotel details".to_owned(),
        },
    }
}

fn aws_operation(method: &Method, uri: &Uri, headers: &HeaderMap, body: &str) -> String {
    let target = headers
        .get("x-amz-target")
        .and_then(|target| target.to_str().ok())
        .and_then(|target| target.split_once('.'));
    match target {
        Some((service, action)) if service.starts_with("DynamoDB") => {
            format!("DynamoDB {action} {}", item_kinds(body).join("+"))
        }
        Some((service, action)) => format!("{service} {action}"),
        None if uri.path().contains("/@connections/") => "connections POST".to_owned(),
        None => match form_action(body) {
            Some(action) => format!("SNS {action}"),
            None => path_operation(method, uri.path()),
        },
    }
}

/// The kinds of the items that a request addresses by key: `CALL` for `CALL#0f0e…`.
fn item_kinds(body: &str) -> Vec<&str> {
    let mut kinds = Vec::new();
    for after in body.split("{\"S\":\"").skip(1) {
        let value = after.split('"').next().unwrap_or_default();
        if let Some((kind, _)) = value.split_once('#')
            && kind.chars().all(|letter| letter.is_ascii_uppercase())
            && !kinds.contains(&kind)
        {
            kinds.push(kind);
        }
    }
    // Sorted, because the order of fields in the body is arbitrary.
    kinds.sort_unstable();
    kinds
}

fn push_type(body: &str) -> Option<&'static str> {
    ["incoming_call", "call_cancelled"]
        .into_iter()
        .find(|kind| body.contains(&format!("\"{kind}\"")))
}

fn form_action(body: &str) -> Option<&str> {
    body.split('&')
        .find_map(|field| field.strip_prefix("Action="))
}

/// The path, with `{id}` in place of ids.
fn path_operation(method: &Method, path: &str) -> String {
    let mut named = format!("{method} ");
    let mut rest = path;
    while !rest.is_empty() {
        let length = id_at_start(rest);
        if length > 0 {
            named.push_str("{id}");
            rest = &rest[length..];
        } else {
            let next = rest.chars().next().map_or(1, char::len_utf8);
            named.push_str(&rest[..next]);
            rest = &rest[next..];
        }
    }
    named
}

/// The length of the id at the start of the text, or 0: a UUID, or an Asterisk channel id such as `1732175943.12`.
pub(super) fn id_at_start(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_uuid = bytes.len() >= 36
        && bytes[..36]
            .iter()
            .enumerate()
            .all(|(index, byte)| match index {
                8 | 13 | 18 | 23 => *byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
    if is_uuid {
        return 36;
    }
    let digits = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if digits != 10 || bytes.get(digits) != Some(&b'.') {
        return 0;
    }
    let fraction = bytes[digits + 1..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if fraction == 0 {
        0
    } else {
        digits + 1 + fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(system: System, method: Method, path: &str, target: &str, body: &str) -> String {
        let mut headers = HeaderMap::new();
        if !target.is_empty() {
            headers.insert("x-amz-target", target.parse().unwrap());
        }
        operation(system, &method, &path.parse().unwrap(), &headers, body)
    }

    #[test]
    fn an_operation_has_the_same_name_for_every_call() {
        let id = "0f0e3c80-7bb5-4f2c-8d0e-3f4d7d0c9a11";
        let item = format!(r#"{{"Key":{{"pk":{{"S":"CALL#{id}"}},"sk":{{"S":"CALL"}}}}}}"#);
        let update = named(
            System::Aws,
            Method::POST,
            "/",
            "DynamoDB_20120810.UpdateItem",
            &item,
        );
        assert_eq!(update, "DynamoDB UpdateItem CALL");
        let leg = format!("/ari/channels/ringback-{id}");
        assert_eq!(
            named(System::Pbx, Method::POST, &leg, "", ""),
            "POST /channels/ringback-{id}"
        );
        let caller = "/ari/channels/1732175943.12?reason=busy";
        assert_eq!(
            named(System::Pbx, Method::DELETE, caller, "", ""),
            "DELETE /channels/{id}"
        );
        let schedule = format!("/schedules/{id}-ring");
        assert_eq!(
            named(System::Aws, Method::POST, &schedule, "", "{}"),
            "POST /schedules/{id}-ring"
        );
        let push = r#"{"message":{"data":{"type":"incoming_call"}}}"#;
        assert_eq!(
            named(System::Fcm, Method::POST, "/v1/x:send", "", push),
            "FCM incoming_call"
        );
    }
}
