//! The console's files and its settings.

use std::fmt::Write as _;

use serde_json::json;
use sha2::{Digest, Sha256};

/// The files below `/console/`. The first one is also served at `/`.
const FILES: [(&str, &str); 13] = [
    ("index.html", include_str!("../page/index.html")),
    ("style.css", include_str!("../page/style.css")),
    ("icon.svg", include_str!("../page/icon.svg")),
    ("console.js", include_str!("../page/console.js")),
    ("connection.js", include_str!("../page/connection.js")),
    ("calls.js", include_str!("../page/calls.js")),
    ("draw.js", include_str!("../page/draw.js")),
    ("board.js", include_str!("../page/board.js")),
    ("numbers.js", include_str!("../page/numbers.js")),
    ("phone.js", include_str!("../page/phone.js")),
    ("recent.js", include_str!("../page/recent.js")),
    ("local.js", include_str!("../page/local.js")),
    ("texts.js", include_str!("../page/texts.js")),
];

/// What the page must know about the deployment.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// The URL of the WebSocket API. Empty if it has the same address as the HTTP API, as on the local stack.
    pub(crate) websocket_url: String,
    /// The token's claim with the extension. The page only shows it: the API decides what a token allows.
    pub(crate) extension_claim: String,
    /// The token's claim with the role, such as `operator`.
    pub(crate) role_claim: String,
}

impl Settings {
    #[expect(
        clippy::disallowed_methods,
        reason = "the typed configuration is in `ringback`, which would bring in the AWS SDKs"
    )]
    pub(crate) fn from_environment() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self {
            websocket_url: variable("WEBSOCKET_URL"),
            extension_claim: variable("TOKEN_EXTENSION_CLAIM"),
            role_claim: variable("TOKEN_ROLE_CLAIM"),
        }
    }

    fn to_json(&self) -> String {
        json!({
            "webSocketUrl": self.websocket_url,
            "extensionClaim": self.extension_claim,
            "roleClaim": self.role_claim,
        })
        .to_string()
    }
}

/// One file of the page.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) name: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) text: String,
    pub(crate) etag: String,
}

impl Page {
    fn new(name: &'static str, text: String) -> Self {
        Self {
            name,
            content_type: content_type(name),
            etag: etag(&text),
            text,
        }
    }
}

/// All files, with the settings as `settings.json`.
#[derive(Debug)]
pub(crate) struct Pages(Vec<Page>);

impl Pages {
    pub(crate) fn with(settings: &Settings) -> Self {
        let files = FILES.map(|(name, text)| Page::new(name, text.to_owned()));
        let settings = Page::new("settings.json", settings.to_json());
        Self(files.into_iter().chain([settings]).collect())
    }

    /// The file of this name, or the first file if there is no name.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<&Page> {
        match name {
            None => self.0.first(),
            Some(name) => self.0.iter().find(|page| page.name == name),
        }
    }

    #[cfg(test)]
    pub(crate) fn all(&self) -> &[Page] {
        &self.0
    }
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "json")) => "application/json",
        Some((_, "svg")) => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

/// A quoted prefix of the text's SHA-256 hash, in hexadecimal.
fn etag(text: &str) -> String {
    let hash = Sha256::digest(text);
    let mut etag = String::from("\"");
    for byte in &hash[..12] {
        // Writing to a string cannot fail.
        let _ = write!(etag, "{byte:02x}");
    }
    etag + "\""
}
