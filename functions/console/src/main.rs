//! `GET /` and `GET /console/{file}`: the page on which people see calls as they ring. It asks for nothing and keeps
//! nothing: what the page shows, its browser asks of the API with the token of whoever looks at it.

mod pages;

use lambda_http::http::header::IF_NONE_MATCH;
use lambda_http::http::{HeaderMap, StatusCode};
use lambda_http::{Body, Error, Request, RequestExt, Response, run, service_fn};
use pages::{Page, Pages, Settings};

/// What may be said of a page that is there.
const OFTEN: &str = "no-cache";

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
        let known = headers.get(IF_NONE_MATCH);
        if known.is_some_and(|known| known.as_bytes() == page.etag.as_bytes()) {
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
            // Always asked for anew, and mostly not sent anew: all files are of one version.
            response = response
                .header("cache-control", OFTEN)
                .header("etag", &page.etag);
            if status == StatusCode::OK {
                response = response.header("content-type", page.kind);
                body = Body::Text(page.text.clone());
            }
        }
        Ok(response.body(body)?)
    }
}

/// Nothing is loaded from elsewhere, no text becomes markup or script, and only this API's two halves are talked to.
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
    let console = &Console::new(&Settings::of_process());
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

    fn asked(file: Option<&str>, known: Option<&str>) -> Response<Body> {
        let known = known.map(|etag| (IF_NONE_MATCH, etag.parse().unwrap()));
        console()
            .answer(file, &known.into_iter().collect())
            .unwrap()
    }

    fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
        response.headers()[name].to_str().unwrap()
    }

    #[test]
    fn the_page_may_talk_to_its_own_api_and_to_nobody_else() {
        let page = asked(None, None);
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
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let first = asked(Some("console.js"), None);
        assert_eq!(
            header(&first, "content-type"),
            "text/javascript; charset=utf-8"
        );
        let again = asked(Some("console.js"), Some(header(&first, "etag")));
        assert_eq!((again.status().as_u16(), again.body().len()), (304, 0));
        assert_eq!(asked(Some("console.js"), Some("\"other\"")).status(), 200);
    }

    #[test]
    fn there_are_no_files_but_the_pages_own() {
        for file in [
            "../src/main.rs",
            "",
            "index.htm",
            "Console.js",
            "index.html/",
        ] {
            let answer = asked(Some(file), None);
            assert_eq!(
                (answer.status().as_u16(), answer.body().len()),
                (404, 0),
                "{file}"
            );
        }
    }

    /// A policy that forbids it would leave the page half drawn, and only whoever opens it would see that.
    #[test]
    fn the_page_itself_names_nothing_that_the_policy_forbids() {
        for page in console().pages.all() {
            for foreign in [
                "http://",
                "https://",
                "innerHTML",
                " style=",
                " onclick=",
                "eval(",
            ] {
                let of_svg = page.text.replace("http://www.w3.org/2000/svg", "");
                assert!(!of_svg.contains(foreign), "{} has {foreign}", page.name);
            }
        }
    }
}
