//! Accepts only requests from pages of the gateway itself. Loopback is not enough, because every page in a browser on
//! this machine can send requests to it, and another site can make its name resolve to it (DNS rebinding).

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Middleware that rejects a foreign `Host` or `Origin`.
pub(super) async fn require(request: Request, next: Next) -> Response {
    if is_same_origin(request.headers()) {
        return next.run(request).await;
    }
    let error = "only pages of this stack's own console may use this API";
    let body = json!({ "success": false, "error": error, "code": "other_site" });
    (StatusCode::FORBIDDEN, Json(body)).into_response()
}

fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let Some(host) = text(header::HOST) else {
        return false;
    };
    let is_this_machine = ["localhost", "127.0.0.1", "[::1]"].contains(&host_name(host));
    let is_this_page = text(header::ORIGIN).is_none_or(|origin| origin == format!("http://{host}"));
    is_this_machine && is_this_page
}

/// The host name without the port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        is_same_origin(&headers)
    }

    #[test]
    fn the_console_is_accepted_under_each_loopback_name() {
        for host in [
            "localhost:5050",
            "127.0.0.1:5050",
            "[::1]:5050",
            "localhost",
            "[::1]",
        ] {
            assert!(accepted(host, None), "{host}");
            assert!(accepted(host, Some(&format!("http://{host}"))), "{host}");
        }
    }

    #[test]
    fn another_host_or_origin_is_rejected() {
        assert!(!accepted("evil.example:5050", None));
        assert!(!accepted("localhost.evil.example:5050", None));
        assert!(!accepted("localhost:5050", Some("http://evil.example")));
        assert!(!accepted("localhost:5050", Some("http://localhost:3000")));
        assert!(!accepted("localhost:5050", Some("null")));
    }
}
