//! The part of the local stack's `target/local/stack.json` that a client needs.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The running stack.
#[derive(Debug, Deserialize)]
pub struct Stack {
    /// The HTTP API.
    pub http_url: String,
    /// The WebSocket API.
    pub ws_url: String,
    phones: Vec<Phone>,
}

#[derive(Debug, Deserialize)]
struct Phone {
    extension: String,
    token: secrecy::SecretString,
}

impl Stack {
    /// Where this checkout's stack describes itself while it runs.
    #[must_use]
    pub fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/local/stack.json")
    }

    /// Reads a stack's description; `None` when there is no file, which is when no stack runs.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood.
    pub fn load(path: &Path) -> std::io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The bearer token of an extension's app.
    #[must_use]
    pub fn token(&self, extension: &str) -> Option<&secrecy::SecretString> {
        let phone = self
            .phones
            .iter()
            .find(|phone| phone.extension == extension);
        phone.map(|phone| &phone.token)
    }

    /// The extensions it has tokens of.
    pub fn extensions(&self) -> impl Iterator<Item = &str> {
        self.phones.iter().map(|phone| phone.extension.as_str())
    }
}
