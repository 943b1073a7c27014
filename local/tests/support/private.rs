//! What must never be in a log.

use anyhow::{Context, Result};
use ringback_local::settings::STACK_NAME;
use serde_json::Value;

use crate::log_lines::Line;
use crate::scene::Scene;

/// What the stack's secrets hold that is no secret. What is added to them is one until it stands here.
const PUBLIC: [&str; 13] = [
    "account_sid",
    "ari_ca_pem",
    "ari_username",
    "auth_provider_x509_cert_url",
    "auth_uri",
    "client_email",
    "client_id",
    "client_x509_cert_url",
    "private_key_id",
    "project_id",
    "token_uri",
    "type",
    "universe_domain",
];
/// What is shorter than this could stand in a line by chance.
const SHORTEST: usize = 8;

/// Everything private that this stack has seen, each with what it is.
pub(crate) struct Private(Vec<(String, &'static str)>);

impl Private {
    /// The stack's secrets, the credentials of its phones, what its pushes told so far, and these details of a caller.
    pub(crate) async fn of(scene: &Scene, caller: &[&str]) -> Result<Self> {
        let mut all = Self(Vec::new());
        // The header that all of the apps' tokens begin with: {"alg":…
        all.0.push(("eyJ".to_owned(), "a bearer token"));
        for phone in &scene.stack.phones {
            all.add(&phone.token, "an app's token");
            all.add(&phone.sip_password, "a SIP password");
        }
        for name in ["app", "exotel", "asterisk", "fcm"] {
            all.add_secret(scene, name).await?;
        }
        all.add_pushes(scene).await?;
        for detail in caller {
            all.add_detail(detail);
        }
        Ok(all)
    }

    /// What of it stands in a line.
    pub(crate) fn found_in(&self, line: &Line) -> Vec<String> {
        self.0
            .iter()
            .filter(|(private, _)| line.text.contains(private))
            .map(|(_, what)| format!("{} logs {what}: {}", line.function, line.text))
            .collect()
    }

    async fn add_secret(&mut self, scene: &Scene, name: &str) -> Result<()> {
        let secret = aws_sdk_secretsmanager::Client::new(&scene.aws)
            .get_secret_value()
            .secret_id(format!("{STACK_NAME}/{name}"))
            .send()
            .await?;
        let fields: Value = serde_json::from_str(secret.secret_string().context("a string")?)?;
        for (field, value) in fields.as_object().context("a secret in JSON")? {
            if let (Some(value), false) = (value.as_str(), PUBLIC.contains(&field.as_str())) {
                self.add(value, "a secret");
            }
        }
        Ok(())
    }

    /// The pushes' addresses, the access tokens that they were sent with, and whose calls they told of.
    async fn add_pushes(&mut self, scene: &Scene) -> Result<()> {
        let requests: Vec<Value> = scene
            .http
            .get(&scene.stack.requests.fcm)
            .send()
            .await?
            .json()
            .await?;
        for request in &requests {
            let message = &request["body"]["message"];
            if let Some(token) = message["token"].as_str() {
                self.add(token, "a push token");
            }
            if let Some(number) = message["data"]["caller_number"].as_str() {
                self.add_detail(number);
            }
            let authorization = request["headers"]["authorization"].as_str();
            if let Some((_, token)) = authorization.and_then(|value| value.split_once(' ')) {
                self.add(token, "an access token");
            }
        }
        self.0.sort();
        self.0.dedup();
        Ok(())
    }

    /// A number in any of its forms, which share their last ten digits; or a name.
    fn add_detail(&mut self, detail: &str) {
        match detail.strip_prefix('+') {
            Some(digits) => self.add(
                digits
                    .get(digits.len().saturating_sub(10)..)
                    .unwrap_or(digits),
                "a caller's number",
            ),
            None => self.add(detail, "a caller's name"),
        }
    }

    /// Line by line, as a key in PEM may be cut.
    fn add(&mut self, private: &str, what: &'static str) {
        let lines = private
            .lines()
            .filter(|line| line.len() >= SHORTEST && !line.starts_with("-----"));
        self.0.extend(lines.map(|line| (line.to_owned(), what)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_in_any_form_and_a_key_in_any_part() {
        let mut private = Private(Vec::new());
        private.add_detail("+919812345067");
        private.add(
            "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADAN\nBgkqhkiG9w0B\n",
            "a secret",
        );
        let finds = |text: &str| {
            let line = Line::of("call-response", text);
            !private.found_in(&line).is_empty()
        };
        for text in ["from 09812345067", "+919812345067", r"\nBgkqhkiG9w0B\n"] {
            assert!(finds(text), "{text}");
        }
        assert!(!finds("from +91…067"));
    }
}
