//! The page's files, and what it is told of the deployment.

use std::fmt::Write as _;

use serde_json::json;
use sha2::{Digest, Sha256};

/// Where the page is served, beside `/`, which is its first file.
const FILES: [(&str, &str); 11] = [
    ("index.html", include_str!("../page/index.html")),
    ("style.css", include_str!("../page/style.css")),
    ("icon.svg", include_str!("../page/icon.svg")),
    ("console.js", include_str!("../page/console.js")),
    ("connection.js", include_str!("../page/connection.js")),
    ("calls.js", include_str!("../page/calls.js")),
    ("draw.js", include_str!("../page/draw.js")),
    ("board.js", include_str!("../page/board.js")),
    ("phone.js", include_str!("../page/phone.js")),
    ("local.js", include_str!("../page/local.js")),
    ("words.js", include_str!("../page/words.js")),
];

/// What the page cannot know by itself.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// The WebSocket API. Empty where a gateway has both APIs under one address, as the local stack's has.
    pub(crate) websocket_url: String,
    /// The claim of a token that holds its extension. The page only reads it: who may do what, the API decides.
    pub(crate) extension_claim: String,
    /// The claim that makes an operator.
    pub(crate) role_claim: String,
}

impl Settings {
    #[expect(
        clippy::disallowed_methods,
        reason = "the functions' config.rs is in a crate that brings the SDKs"
    )]
    pub(crate) fn of_process() -> Self {
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
    pub(crate) kind: &'static str,
    pub(crate) text: String,
    pub(crate) etag: String,
}

impl Page {
    fn new(name: &'static str, text: String) -> Self {
        Self {
            name,
            kind: kind(name),
            etag: etag(&text),
            text,
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Pages(Vec<Page>);

impl Pages {
    pub(crate) fn with(settings: &Settings) -> Self {
        let files = FILES.map(|(name, text)| Page::new(name, text.to_owned()));
        let settings = Page::new("settings.json", settings.to_json());
        Self(files.into_iter().chain([settings]).collect())
    }

    /// A file by its name; the first one, where none is named.
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

fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "json")) => "application/json",
        Some((_, "svg")) => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

/// The beginning of the text's hash.
fn etag(text: &str) -> String {
    let hash = Sha256::digest(text);
    let mut etag = String::from("\"");
    for byte in &hash[..12] {
        // A string takes whatever is written to it.
        let _ = write!(etag, "{byte:02x}");
    }
    etag + "\""
}
