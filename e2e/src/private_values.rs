//! Values that must never appear in a log.

use anyhow::{Context, Result};
use aws_sdk_dynamodb::types::AttributeValue;
use ringback_local::settings::STACK_NAME;
use serde_json::Value;

use crate::fixture::Fixture;
use crate::log_lines::LogLine;
use crate::sip_account;

/// The fields of the stack's secrets that are not secret. A new field counts as a secret until it is listed here.
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
/// A shorter value could appear in a line by chance.
const SHORTEST: usize = 8;

/// The prefix of a password's digest.
const DIGEST: &str = "MD5:";
/// The prefix of Google's access tokens.
const ACCESS_TOKEN: &str = "ya29.";
/// The minimum number of digits of a phone number without its country code.
const DIGITS: usize = 8;
/// All forms of a number share this many trailing digits.
const SHARED: usize = 10;

/// Every private value that this stack has seen, with a description.
pub struct PrivateValues(Vec<(String, &'static str)>);

impl PrivateValues {
    /// Collects the stack's secrets, the credentials of its phones, the data of its pushes, and these details of a
    /// caller.
    pub async fn of(fixture: &Fixture, caller: &[&str]) -> Result<Self> {
        let mut all = Self(Vec::new());
        // The start of each app token's header: `{"alg":…`.
        all.0.push(("eyJ".to_owned(), "a bearer token"));
        for phone in &fixture.stack.phones {
            all.add(&phone.token, "an app's token");
            all.add(&phone.sip_password, "a SIP password");
        }
        all.0.push((ACCESS_TOKEN.to_owned(), "an access token"));
        all.0
            .push(("stream_token=".to_owned(), "the token of a stream"));
        all.0
            .push((DIGEST.to_owned(), "the digest of a SIP password"));
        // Missing if no test has got an account.
        let passwords = std::fs::read_to_string(sip_account::passwords()).unwrap_or_default();
        for password in passwords.lines() {
            all.add(password, "the SIP password of a device");
        }
        for name in [
            "app", "webhook", "hook", "signing", "exotel", "asterisk", "fcm",
        ] {
            all.add_secret(fixture, name).await?;
        }
        all.add_pushes(fixture).await?;
        all.add_numbers(fixture).await?;
        for detail in caller {
            all.add_detail(detail);
        }
        all.0.sort();
        all.0.dedup();
        Ok(all)
    }

    /// The number of values.
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    /// The private values that a line contains.
    pub fn found_in(&self, line: &LogLine) -> Vec<String> {
        let closed_up = without_gaps(&line.text);
        let known = self
            .0
            .iter()
            .filter(|(private, _)| line.text.contains(private) || closed_up.contains(private))
            .map(|(_, what)| *what);
        // Any other phone number.
        let number = numbers_in(&closed_up).next().map(|_| "a number");
        known
            .chain(number)
            .map(|what| format!("{} logs {what}: {}", line.function, line.text))
            .collect()
    }

    /// All versions of a secret, because tests replace secrets.
    async fn add_secret(&mut self, fixture: &Fixture, name: &str) -> Result<()> {
        let manager = aws_sdk_secretsmanager::Client::new(&fixture.aws);
        let id = format!("{STACK_NAME}/{name}");
        let versions = manager
            .list_secret_version_ids()
            .secret_id(&id)
            .include_deprecated(true)
            .send()
            .await?;
        for version in versions.versions() {
            let version = version.version_id().context("a version's id")?;
            let secret = manager.get_secret_value().secret_id(&id);
            let secret = secret.version_id(version).send().await?;
            // In the local AWS, a secret that was created without a value has an empty version.
            let text = secret.secret_string().filter(|text| !text.is_empty());
            if let Some(text) = text {
                self.add_fields(text);
            }
        }
        Ok(())
    }

    fn add_fields(&mut self, secret: &str) {
        let Ok(Value::Object(fields)) = serde_json::from_str(secret) else {
            // A test has made it unusable.
            return self.add(secret, "a secret");
        };
        for (field, value) in &fields {
            if let (Some(value), false) = (value.as_str(), PUBLIC.contains(&field.as_str())) {
                self.add(value, "a secret");
            }
        }
    }

    /// The push tokens, the access tokens of the push requests, and the callers in the pushes.
    async fn add_pushes(&mut self, fixture: &Fixture) -> Result<()> {
        let requests: Vec<Value> = fixture
            .http
            .get(&fixture.stack.requests.fcm)
            .send()
            .await?
            .json()
            .await?;
        for request in &requests {
            let message = &request["body"]["message"];
            if let Some(token) = message["token"].as_str() {
                self.add(token, "a push token");
            }
            let answer_url = message["data"]["answer_url"].as_str();
            if let Some((_, token)) = answer_url.and_then(|url| url.rsplit_once('/')) {
                self.add(token, "the token of an answer URL");
            }
            // The caller may be an app. Its extension is not private.
            if let Some(number) = message["data"]["caller_number"].as_str()
                && !is_extension(fixture, number).await?
            {
                self.add_detail(number);
            }
            let authorization = request["headers"]["authorization"].as_str();
            if let Some((_, token)) = authorization.and_then(|value| value.split_once(' ')) {
                self.add(token, "an access token");
            }
        }
        Ok(())
    }

    /// The numbers of all callers and callees, from the table and from the requests to Exotel.
    async fn add_numbers(&mut self, fixture: &Fixture) -> Result<()> {
        let stack = &fixture.stack;
        for number in stack.numbers.keys() {
            self.add_number(number);
        }
        for phone in &stack.phones {
            self.add_number(&phone.mobile_number);
        }
        let requests = fixture.http.get(&stack.requests.exotel).send().await?;
        let mut texts = vec![requests.text().await?];
        let dynamodb = aws_sdk_dynamodb::Client::new(&fixture.aws);
        let items = dynamodb.scan().table_name(&stack.aws.table);
        let mut items = items.into_paginator().items().send();
        while let Some(item) = items.next().await {
            texts.push(format!("{:?}", item?));
        }
        for number in texts.iter().flat_map(|text| numbers_in(text)) {
            self.add_number(number);
        }
        Ok(())
    }

    /// Adds a number or a name.
    fn add_detail(&mut self, detail: &str) {
        match detail.strip_prefix('+') {
            Some(number) => self.add_number(number),
            None => self.add(detail, "a caller's name"),
        }
    }

    fn add_number(&mut self, number: &str) {
        let shared = number.get(number.len().saturating_sub(SHARED)..);
        self.add(shared.unwrap_or(number), "a known number");
    }

    /// Adds each line of the value: a PEM key may be split into lines.
    fn add(&mut self, private: &str, what: &'static str) {
        let lines = private
            .lines()
            .filter(|line| line.len() >= SHORTEST && !line.starts_with("-----"));
        self.0.extend(lines.map(|line| (line.to_owned(), what)));
    }
}

/// Whether the table has an item of this extension.
async fn is_extension(fixture: &Fixture, name: &str) -> Result<bool> {
    if name.starts_with('+') || name.len() < SHORTEST {
        return Ok(false);
    }
    let dynamodb = aws_sdk_dynamodb::Client::new(&fixture.aws);
    let pk = AttributeValue::S(format!("EXTENSION#{name}"));
    let items = dynamodb
        .query()
        .table_name(&fixture.stack.aws.table)
        .key_condition_expression("pk = :pk")
        .expression_attribute_values(":pk", pk)
        .limit(1);
    Ok(items.send().await?.count() > 0)
}

/// All numbers that are written with a country code, such as `+919812345067`, without the `+`.
fn numbers_in(text: &str) -> impl Iterator<Item = &str> {
    text.split('+').skip(1).filter_map(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_digit());
        let digits = &rest[..end.unwrap_or(rest.len())];
        (digits.len() >= DIGITS).then_some(digits)
    })
}

/// Joins digits that are written in groups, such as `98123 45067` or `98123-45067`, and replaces an encoded `+`.
fn without_gaps(text: &str) -> String {
    let text = text.replace("%2B", "+");
    let is_digit = |letter: Option<&char>| letter.is_some_and(char::is_ascii_digit);
    let letters: Vec<char> = text.chars().collect();
    let is_gap = |at: usize| {
        matches!(letters[at], ' ' | '-' | '(' | ')')
            && at > 0
            && is_digit(letters.get(at - 1))
            && is_digit(letters.get(at + 1))
    };
    (0..letters.len())
        .filter(|at| !is_gap(*at))
        .map(|at| letters[at])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_any_form_and_keys_in_parts() {
        let mut private = PrivateValues(Vec::new());
        private.add_detail("+919812345067");
        private.add(
            "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADAN\nBgkqhkiG9w0B\n",
            "a secret",
        );
        let finds = |text: &str| {
            let line = LogLine::of("call-response", text);
            !private.found_in(&line).is_empty()
        };
        for text in [
            "from 09812345067",
            "+919812345067",
            "+91 98123 45067",
            "098123-45067",
            "CallFrom=%2B15417543010",
            "somebody else: +15417543010",
            r"\nBgkqhkiG9w0B\n",
        ] {
            assert!(finds(text), "{text}");
        }
        for text in ["from +91…067", "***********67", "2026-11-21T12:00:00+0000"] {
            assert!(!finds(text), "{text}");
        }
    }
}
