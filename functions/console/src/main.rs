//! `GET /` and `GET /console/{file}`: serves the files of the console, the page that shows live calls. This function reads
//! no data: the page in the browser calls the API with the user's token.

mod pages;

use lambda_http::http::header::IF_NONE_MATCH;
use lambda_http::http::{HeaderMap, StatusCode};
use lambda_http::{Body, Error, Request, RequestExt, Response, run, service_fn};
use pages::{Page, Pages, Settings};

/// The browser revalidates each file before it uses it, so all its files are of the same version. Mostly the answer is 304.
const CACHE_CONTROL: &str = "no-cache";

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

    fn answer(&self, file: Option<&str>, headers: &HeaderMap) -> Result<Response<Body>, Error> {
        let Some(page) = self.pages.find(file) else {
            return self.respond(StatusCode::NOT_FOUND, None);
        };
        let cached = headers.get(IF_NONE_MATCH);
        if cached.is_some_and(|etag| etag.as_bytes() == page.etag.as_bytes()) {
            return self.respond(StatusCode::NOT_MODIFIED, Some(page));
        }
        self.respond(StatusCode::OK, Some(page))
    }

    fn respond(&self, status: StatusCode, page: Option<&Page>) -> Result<Response<Body>, Error> {
        let mut response = Response::builder()
            .status(status)
            .header("content-security-policy", &self.policy)
            .header("x-content-type-options", "nosniff")
            .header("referrer-policy", "no-referrer")
            .header("cross-origin-opener-policy", "same-origin")
            .header("cross-origin-resource-policy", "same-origin")
            .header(
                "permissions-policy",
                "camera=(), geolocation=(), microphone=()",
            );
        let mut body = Body::Empty;
        if let Some(page) = page {
            response = response
                .header("cache-control", CACHE_CONTROL)
                .header("etag", &page.etag);
            if status == StatusCode::OK {
                response = response.header("content-type", page.content_type);
                body = Body::Text(page.text.clone());
            }
        }
        Ok(response.body(body)?)
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
    run(service_fn(move |request: Request| async move {
        let parameters = request.path_parameters();
        console.answer(parameters.first("file"), request.headers())
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

    fn get(file: Option<&str>, etag: Option<&str>) -> Response<Body> {
        let etag = etag.map(|etag| (IF_NONE_MATCH, etag.parse().unwrap()));
        console().answer(file, &etag.into_iter().collect()).unwrap()
    }

    fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
        response.headers()[name].to_str().unwrap()
    }

    #[test]
    fn the_policy_allows_connections_to_this_api_only() {
        let page = get(None, None);
        assert_eq!(page.status(), 200);
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
        assert_eq!((again.status().as_u16(), again.body().len()), (304, 0));
        assert_eq!(get(Some("console.js"), Some("\"other\"")).status(), 200);
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
            assert_eq!(
                (answer.status().as_u16(), answer.body().len()),
                (404, 0),
                "{file}"
            );
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
