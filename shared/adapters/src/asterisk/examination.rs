//! What a PBX says about its dialplan, for `ringback doctor`.
//!
//! A local channel runs the context `ringback-doctor` of `asterisk/extensions.conf`. It sends a report about a call that does not exist, as
//! the dialplan sends its reports, and notes the answer and its settings in a variable, which is read here.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use uuid::Uuid;

use super::ari_client::{expect_status, parse_json};
use super::error::AsteriskError;
use super::pbx::{Pbx, Variable};

/// The variable with the notes, and its value before they are there.
const NOTES: &str = "RINGBACK_DOCTOR";
const NO_NOTES: &str = "waiting";

/// Reports to two regions take up to 14 s, if neither answers.
const LONGEST: Duration = Duration::from_secs(16);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The contexts that functions name, or that trunks and phones enter, as the notes name them.
pub const DIALPLAN_CONTEXTS: [&str; 6] = [
    "exotel-trunk",
    "incoming-calls",
    "ringback-callers",
    "ringback-phones",
    "ringback-phone-ended",
    "ringback-app-caller-ended",
];

/// What the dialplan of a PBX says about itself.
#[derive(Debug, PartialEq, Eq)]
pub struct DialplanNotes {
    /// The contexts that it lacks.
    pub missing: Vec<&'static str>,
    /// `RINGBACK_PBX`.
    pub name: Option<String>,
    /// `RINGBACK_MAX_WAIT_SECONDS`. `None` if it is not a number above 0.
    pub wait: Option<Duration>,
    /// What the hook answered, by URL.
    pub hooks: Vec<(String, HookAnswer)>,
}

/// What a hook answered to a report about a call that does not exist.
#[derive(Debug, PartialEq, Eq)]
pub enum HookAnswer {
    /// There is no such call, so the PBX may report.
    Accepted,
    /// Another error, by its code.
    Refused(String),
    /// Nothing, or it is not Ringback's.
    None,
}

impl Pbx {
    /// Examines the dialplan. `None` if it has no part for this, so it is not Ringback's, or of an older version.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn examine_dialplan(&self) -> Result<Option<DialplanNotes>, AsteriskError> {
        let doing = "examining the dialplan";
        let path = format!("/channels/ringback-doctor-{}", Uuid::new_v4());
        let body = json!({
            "endpoint": "Local/wait@ringback-doctor/n",
            "context": "ringback-doctor",
            "extension": "report",
            "priority": 1,
            "timeout": 5,
            "variables": { (NOTES): NO_NOTES },
        });
        let originated = self.ari.request(doing, Method::POST, &path, Some(&body));
        expect_status(&originated.await?, doing, &[StatusCode::OK])?;
        let notes = tokio::time::timeout(LONGEST, self.notes(&path)).await;
        let hangup = format!("{path}?reason=normal");
        // If this fails, the channel ends after its timeout.
        let _gone = self.ari.request(doing, Method::DELETE, &hangup, None).await;
        let notes = notes.unwrap_or(Err(AsteriskError::Silent(doing)))?;
        Ok(notes.map(|text| DialplanNotes::parse(&text)))
    }

    /// Waits for the notes. `None` if the channel ends without any.
    async fn notes(&self, channel: &str) -> Result<Option<String>, AsteriskError> {
        let doing = "reading the notes of the dialplan";
        let path = format!("{channel}/variable?variable={NOTES}");
        loop {
            let Some(reply) = self.find(doing, &path).await? else {
                return Ok(None);
            };
            let notes: Variable = parse_json(reply, doing).await?;
            if notes.value != NO_NOTES {
                return Ok(Some(notes.value));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl DialplanNotes {
    fn parse(notes: &str) -> Self {
        let text = |name: &str| {
            let mut fields = form_urlencoded::parse(notes.as_bytes());
            let value = fields.find_map(|(field, value)| (field == name).then_some(value));
            value
                .map(|value| value.into_owned())
                .filter(|value| !value.is_empty())
        };
        let is_missing = |context: &&str| text(context).as_deref() != Some("1");
        let seconds = text("wait").and_then(|seconds| seconds.parse().ok());
        let hook = |url, code| (url, HookAnswer::of(text(code)));
        let first = text("hook").unwrap_or_else(|| "no RINGBACK_HOOK_URL".to_owned());
        let fallback = text("fallback_hook").map(|url| hook(url, "fallback_answer"));
        Self {
            missing: DIALPLAN_CONTEXTS.into_iter().filter(is_missing).collect(),
            name: text("pbx"),
            wait: seconds
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            hooks: [hook(first, "answer")]
                .into_iter()
                .chain(fallback)
                .collect(),
        }
    }
}

impl HookAnswer {
    fn of(code: Option<String>) -> Self {
        match code {
            None => Self::None,
            Some(code) if code == "no_such_call" => Self::Accepted,
            Some(code) => Self::Refused(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read() {
        let notes = DialplanNotes::parse(
            "pbx=pbx1&wait=60&hook=https%3A%2F%2Fa.example&answer=no_such_call&fallback_hook=https%3A%2F%2Fb.example&fallback_answer=\
             &exotel-trunk=1&incoming-calls=0&ringback-callers=1&ringback-phones=1&ringback-phone-ended=1",
        );
        let expected = DialplanNotes {
            missing: vec!["incoming-calls", "ringback-app-caller-ended"],
            name: Some("pbx1".to_owned()),
            wait: Some(Duration::from_secs(60)),
            hooks: vec![
                ("https://a.example".to_owned(), HookAnswer::Accepted),
                ("https://b.example".to_owned(), HookAnswer::None),
            ],
        };
        assert_eq!(notes, expected);
        let bare = DialplanNotes::parse("pbx=&wait=&hook=x&answer=unauthorized");
        assert_eq!((bare.name, bare.wait), (None, None));
        let refused = HookAnswer::Refused("unauthorized".to_owned());
        assert_eq!(bare.hooks, [("x".to_owned(), refused)]);
    }
}
