//! The SIP account that a device gets with `"sip": true`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use ringback_local::settings::Settings;
use ringback_sip::{Error, Phone};
use serde_json::{Value, json};

use crate::fixture::{App, Fixture};

/// The account that a registration returns.
pub struct SipAccount {
    answer: Value,
}

impl SipAccount {
    /// Registers the device, and takes its account or its account's new password.
    pub async fn of(app: &App<'_>) -> Result<Self> {
        let (status, answer) = app.register(json!({ "sip": true })).await?;
        ensure!(status == StatusCode::OK, "{status}: {answer}");
        Self::in_answer(&answer)
    }

    /// The account in the answer to a registration.
    pub fn in_answer(answer: &Value) -> Result<Self> {
        let answer = answer["sip"].clone();
        ensure!(answer.is_object(), "no account");
        let account = Self { answer };
        account.record_password()?;
        Ok(account)
    }

    /// Appends the password to the passwords that must appear in no log.
    fn record_password(&self) -> Result<()> {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(passwords())?;
        writeln!(&file, "{}", self.text("password"))?;
        Ok(())
    }

    /// All fields of `sip` in the answer.
    pub fn answer(&self) -> &Value {
        &self.answer
    }

    /// A text in the answer.
    pub fn text(&self, name: &str) -> &str {
        self.answer[name].as_str().unwrap()
    }

    /// The first URI at a PBX that begins with this scheme.
    pub fn uri(&self, pbx: usize, scheme: &str) -> Result<&str> {
        let uris = self.answer["servers"][pbx]["uris"].as_array();
        let mut uris = uris.into_iter().flatten().filter_map(Value::as_str);
        uris.find(|uri| uri.starts_with(scheme))
            .context("no such URI")
    }

    /// A phone with this account at a PBX, over UDP and RTP, or over TLS and SRTP.
    pub async fn phone(&self, fixture: &Fixture, pbx: usize, encrypted: bool) -> Result<Phone> {
        let scheme = if encrypted { "sips:" } else { "sip:" };
        let uri = self.uri(pbx, scheme)?.trim_start_matches(scheme);
        let address = uri.split(';').next().unwrap().parse()?;
        let (user, password) = (self.text("username"), self.text("password"));
        Ok(if encrypted {
            let ca_pem = &fixture.stack.ari.ca_pem;
            Phone::over_tls(address, user, password, ca_pem).await?
        } else {
            Phone::new(address, user, password).await?
        })
    }

    /// Whether a PBX accepts the account.
    pub async fn registers(&self, fixture: &Fixture, pbx: usize) -> Result<bool> {
        match self.phone(fixture, pbx, false).await?.register().await {
            Ok(()) => Ok(true),
            Err(Error::RegisterRefused(401)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The file with the passwords of all accounts that tests have got, one in each line.
pub(crate) fn passwords() -> PathBuf {
    Settings::from_environment().state("sip-passwords")
}
