//! The part of the local stack's `target/local/stack.json` that a client needs.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The running stack.
#[derive(Debug, Deserialize)]
pub struct Stack {
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
    /// The path of this checkout's `stack.json`, which exists while the stack runs.
    #[must_use]
    pub fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/local/stack.json")
    }

    /// Reads a stack description. `None` when the file does not exist, which means that no stack runs.
    ///
    /// # Errors
    /// When the file exists but cannot be read or parsed.
    pub fn load(path: &Path) -> std::io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The bearer token of this extension's app.
    #[must_use]
    pub fn token(&self, extension: &str) -> Option<&secrecy::SecretString> {
        let phone = self
            .phones
            .iter()
            .find(|phone| phone.extension == extension);
        phone.map(|phone| &phone.token)
    }

    /// The extensions that have a token.
    pub fn extensions(&self) -> impl Iterator<Item = &str> {
        self.phones.iter().map(|phone| phone.extension.as_str())
    }
}
