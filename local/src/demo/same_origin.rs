//! Accepts only requests from pages of the gateway itself. Loopback is not enough, because every page in a browser on
//! this machine can send requests to it, and another site can make its name resolve to it (DNS rebinding).

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Middleware that rejects a foreign `Host` or `Origin`.
pub(super) async fn only(request: Request, next: Next) -> Response {
    if may_ask(request.headers()) {
        return next.run(request).await;
    }
    let error = "only the console of this stack may ask here, at localhost";
    let body = json!({ "success": false, "error": error, "code": "other_site" });
    (StatusCode::FORBIDDEN, Json(body)).into_response()
}

fn may_ask(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let Some(host) = text(header::HOST) else {
        return false;
    };
    let of_this_machine = ["localhost", "127.0.0.1", "[::1]"].contains(&name_of(host));
    let of_this_page = text(header::ORIGIN).is_none_or(|origin| origin == format!("http://{host}"));
    of_this_machine && of_this_page
}

/// The host name without the port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        may_ask(&headers)
    }

    #[test]
    fn the_stacks_own_page_may_ask_by_each_of_its_names() {
        for host in [
            "localhost:5050",
            "127.0.0.1:5050",
            "[::1]:5050",
            "localhost",
            "[::1]",
        ] {
            assert!(asked(host, None), "{host}");
            assert!(asked(host, Some(&format!("http://{host}"))), "{host}");
        }
    }

    #[test]
    fn no_other_sites_page_may_ask_whatever_its_name_leads_to() {
        assert!(!asked("evil.example:5050", None));
        assert!(!asked("localhost.evil.example:5050", None));
        assert!(!asked("localhost:5050", Some("http://evil.example")));
        assert!(!asked("localhost:5050", Some("http://localhost:3000")));
        assert!(!asked("localhost:5050", Some("null")));
    }
}
