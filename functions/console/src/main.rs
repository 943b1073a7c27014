//! `GET /` and `GET /console/{file}`: serves the files of the console, the page that shows live calls. This function reads
//! no data: the page in the browser calls the API with the user's token.

mod pages;

use std::collections::HashMap;

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use pages::{Page, Pages, Settings};
use serde::Deserialize;
use serde_json::{Value, json};

/// The browser revalidates each file before it uses it, so all its files are of the same version. Mostly the answer is 304.
const CACHE_CONTROL: &str = "no-cache";

/// What this function reads of API Gateway's event. Names of headers are in small letters.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Request {
    path_parameters: Option<HashMap<String, String>>,
    headers: Option<HashMap<String, String>>,
}

struct Console {
    pages: Pages,
    policy: String,
}

impl Console {
    fn new(settings: &Settings) -> Self {
        Self {
            pages: Pages::with(settings),
            policy: content_security_policy(&settings.websocket_url),
        }
    }

    fn answer(&self, request: &Request) -> Value {
        let parameters = request.path_parameters.as_ref();
        let file = parameters.and_then(|all| all.get("file"));
        let Some(page) = self.pages.find(file.map(String::as_str)) else {
            return self.response(404, None);
        };
        let headers = request.headers.as_ref();
        let cached = headers.and_then(|all| all.get("if-none-match"));
        if cached.is_some_and(|etag| *etag == page.etag) {
            return self.response(304, Some(page));
        }
        self.response(200, Some(page))
    }

    fn response(&self, status: u16, page: Option<&Page>) -> Value {
        let mut headers = json!({
            "content-security-policy": self.policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "permissions-policy": "camera=(), geolocation=(), microphone=()",
        });
        let mut body = "";
        if let Some(page) = page {
            headers["cache-control"] = CACHE_CONTROL.into();
            headers["etag"] = page.etag.as_str().into();
            if status == 200 {
                headers["content-type"] = page.content_type.into();
                body = &page.text;
            }
        }
        json!({ "statusCode": status, "headers": headers, "isBase64Encoded": false, "body": body })
    }
}

/// Allows files of this origin and connections to this deployment's HTTP and WebSocket APIs, nothing else. Trusted types
/// are required and none exist, so no text can become markup or script.
fn content_security_policy(websocket_url: &str) -> String {
    let connect = format!("connect-src 'self' {websocket_url}");
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        connect.trim_end(),
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    .join("; ")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let console = &Console::new(&Settings::from_environment());
    run(service_fn(move |event: LambdaEvent<Request>| async move {
        Ok::<_, Error>(console.answer(&event.payload))
    }))
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> Console {
        Console::new(&Settings {
            websocket_url: "wss://live.example.com/exotel-stream".to_owned(),
            ..Settings::default()
        })
    }

    fn get(file: Option<&str>, etag: Option<&str>) -> Value {
        let field = |name: &str, value: Option<&str>| {
            value.map(|value| HashMap::from([(name.to_owned(), value.to_owned())]))
        };
        console().answer(&Request {
            path_parameters: field("file", file),
            headers: field("if-none-match", etag),
        })
    }

    fn header<'a>(response: &'a Value, name: &str) -> &'a str {
        response["headers"][name].as_str().unwrap()
    }

    #[test]
    fn the_policy_allows_connections_to_this_api_only() {
        let page = get(None, None);
        assert_eq!(page["statusCode"], 200);
        assert_eq!(header(&page, "content-type"), "text/html; charset=utf-8");
        let policy = header(&page, "content-security-policy");
        let connect = "connect-src 'self' wss://live.example.com/exotel-stream;";
        assert!(policy.contains(connect), "{policy}");
        for foreign in ["unsafe", "*", "data:", "http:"] {
            assert!(!policy.contains(foreign), "{policy}");
        }
    }

    #[test]
    fn a_cached_file_is_not_sent_again() {
        let first = get(Some("console.js"), None);
        assert_eq!(
            header(&first, "content-type"),
            "text/javascript; charset=utf-8"
        );
        let again = get(Some("console.js"), Some(header(&first, "etag")));
        assert_eq!(
            (&again["statusCode"], &again["body"]),
            (&304.into(), &"".into())
        );
        let changed = get(Some("console.js"), Some("\"other\""));
        assert_eq!(changed["statusCode"], 200);
    }

    #[test]
    fn other_files_are_not_found() {
        for file in [
            "../src/main.rs",
            "",
            "index.htm",
            "Console.js",
            "index.html/",
        ] {
            let answer = get(Some(file), None);
            let found = (&answer["statusCode"], &answer["body"]);
            assert_eq!(found, (&404.into(), &"".into()), "{file}");
        }
    }

    /// Content that the policy forbids would break the page, and only in a browser.
    #[test]
    fn no_file_contains_what_the_policy_forbids() {
        for page in console().pages.all() {
            for foreign in [
                "http://",
                "https://",
                "innerHTML",
                " style=",
                " onclick=",
                "eval(",
            ] {
                let text = page.text.replace("http://www.w3.org/2000/svg", "");
                assert!(!text.contains(foreign), "{} has {foreign}", page.name);
            }
        }
    }
}
