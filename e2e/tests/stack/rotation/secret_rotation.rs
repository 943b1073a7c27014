//! Replaces all secrets of the stack at once, in Secrets Manager and in the systems that use them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use rcgen::KeyPair;
use reqwest::{Certificate, Method};
use ringback_local::credentials::ServiceAccount;
use ringback_local::pbx::source;
use ringback_local::settings::{PBXS, STACK_NAME, Settings};
use serde_json::{Value, json};

use ringback_e2e::fixture::Fixture;

const NAMES: [&str; 7] = [
    "app", "webhook", "hook", "exotel", "asterisk", "fcm", "signing",
];

/// The ARI user of the functions during this test. Other ARI clients keep the stack's own user.
const ARI_USER: &str = "rotating";

/// The functions that read a secret.
const FUNCTIONS: [&str; 9] = [
    "asterisk-incoming",
    "call-response",
    "call-status",
    "call-timeout",
    "devices",
    "exotel-webhook",
    "health",
    "ws-authorizer",
    "ws-message",
];

/// All secrets, before and after the rotation.
pub(crate) struct Rotation<'a> {
    fixture: &'a Fixture,
    pbx: Pbx,
    before: BTreeMap<&'static str, Value>,
    after: BTreeMap<&'static str, Value>,
}

impl<'a> Rotation<'a> {
    /// Creates the new secrets without using them. Restarts the functions: after a wrong secret in another test, a
    /// process does not fetch the secret again for a minute.
    pub(crate) async fn prepare(fixture: &'a Fixture) -> Result<Self> {
        let pbx = Pbx::of(fixture).await?;
        let mut before = BTreeMap::new();
        for name in NAMES {
            before.insert(name, fixture.secret(name).await?);
        }
        let old_password = random();
        pbx.set_ari_password(Some(&old_password)).await?;
        let mut asterisk = before["asterisk"].clone();
        asterisk["ari_username"] = ARI_USER.into();
        asterisk["ari_password"] = old_password.into();
        fixture
            .put_secret("asterisk", &asterisk.to_string())
            .await?;
        for function in FUNCTIONS {
            restart_function(fixture, function).await?;
        }
        // A function is not invoked while its configuration changes.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let after = new_values(&before)?;
        Ok(Self {
            fixture,
            pbx,
            before,
            after,
        })
    }

    /// In the order of SECURITY.md: first the systems that accept both secrets.
    pub(crate) async fn replace_all(&self) -> Result<()> {
        for (name, value) in &self.after {
            self.fixture.put_secret(name, &value.to_string()).await?;
        }
        self.update_other_systems(&self.after).await?;
        let password = self.after["asterisk"]["ari_password"].as_str();
        self.pbx.set_ari_password(password).await
    }

    /// Restores the old secrets. The new ones stay valid for as long as a process may still have them cached.
    pub(crate) async fn restore(&self) -> Result<()> {
        for (name, value) in &self.before {
            let mut value = value.clone();
            for (field, previous) in PREVIOUS {
                if let Some(new) = self.after[name].get(field) {
                    value[previous] = new.clone();
                }
            }
            self.fixture.put_secret(name, &value.to_string()).await?;
        }
        self.update_other_systems(&self.before).await?;
        self.pbx.set_ari_password(None).await
    }

    /// The token of `extension`'s app, signed with the new key. Its claims are unchanged.
    pub(crate) fn token_of(&self, extension: &str) -> Result<String> {
        let token = &self
            .fixture
            .stack
            .phone(extension)
            .context("1001 has no phone")?
            .token;
        let claims = token.split('.').nth(1).context("the token has no claims")?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
        let key = self.after["app"]["jwt_secret"]
            .as_str()
            .context("the secret has no key")?;
        let key = EncodingKey::from_secret(key.as_bytes());
        Ok(jsonwebtoken::encode(&Header::default(), &claims, &key)?)
    }

    pub(crate) fn webhook_secret(&self) -> &str {
        text(&self.after["webhook"], "webhook_secret")
    }

    pub(crate) fn old_webhook_secret(&self) -> &str {
        text(&self.before["webhook"], "webhook_secret")
    }

    /// Updates Asterisk's dialplan, Exotel and Google.
    async fn update_other_systems(&self, secrets: &BTreeMap<&'static str, Value>) -> Result<()> {
        self.pbx
            .set_hook_secret(text(&secrets["hook"], "hook_secret"))
            .await?;
        let exotel = json!({
            "api_key": secrets["exotel"]["api_key"],
            "api_token": secrets["exotel"]["api_token"],
        });
        let requests = &self.fixture.stack.requests;
        self.replace_key(&requests.exotel, &exotel).await?;
        let key = KeyPair::from_pem(text(&secrets["fcm"], "private_key"))?;
        let google = json!({ "public_key": key.public_key_pem() });
        self.replace_key(&requests.fcm, &google).await
    }

    async fn replace_key(&self, requests: &str, key: &Value) -> Result<()> {
        let url = requests.replace("/requests", "/key");
        let answer = self.fixture.http.put(url).json(key).send().await?;
        answer.error_for_status()?;
        Ok(())
    }
}

/// The secrets with two valid versions, and the field of the previous one.
const PREVIOUS: [(&str, &str); 4] = [
    ("jwt_secret", "jwt_secret_previous"),
    ("webhook_secret", "webhook_secret_previous"),
    ("hook_secret", "hook_secret_previous"),
    ("signing_secret", "signing_secret_previous"),
];

/// New values for these secrets.
fn new_values(before: &BTreeMap<&'static str, Value>) -> Result<BTreeMap<&'static str, Value>> {
    let mut after = before.clone();
    for value in after.values_mut() {
        for (field, previous) in PREVIOUS {
            if let Some(old) = value.get(field).cloned() {
                value[field] = random().into();
                value[previous] = old;
            }
        }
        for field in ["api_key", "api_token", "ari_password"] {
            if value.get(field).is_some() {
                value[field] = random().into();
            }
        }
        if value.get("ari_username").is_some() {
            value["ari_username"] = ARI_USER.into();
        }
        if value.get("private_key").is_some() {
            let account = ServiceAccount::generate(text(value, "token_uri"))?;
            value["private_key"] = account.private_key_pem.into();
            value["private_key_id"] = account.private_key_id.into();
        }
    }
    Ok(after)
}

/// The running Asterisk and its configuration files.
struct Pbx {
    site: PathBuf,
    /// The original content.
    ari_conf: String,
    dialplan_conf: String,
    hook_secret: String,
    http: reqwest::Client,
    ari: ringback_local::stack::Ari,
}

impl Pbx {
    async fn of(fixture: &Fixture) -> Result<Self> {
        let state = source::state(&Settings::from_environment());
        let site = state.join(PBXS[0].name).join("etc/ringback-site");
        let authority = Certificate::from_pem(fixture.stack.ari.ca_pem.as_bytes())?;
        let hook_secret = fixture.stack.headers.asterisk.values().next();
        Ok(Self {
            ari_conf: std::fs::read_to_string(site.join("ari.conf"))?,
            dialplan_conf: std::fs::read_to_string(site.join("dialplan.conf"))?,
            site,
            hook_secret: hook_secret
                .context("the secret has no value for the webhooks")?
                .clone(),
            http: reqwest::Client::builder()
                .tls_certs_only([authority])
                .build()?,
            ari: fixture.stack.ari.clone(),
        })
    }

    /// Sets the password of the functions' ARI user, or removes the user.
    async fn set_ari_password(&self, password: Option<&str>) -> Result<()> {
        let user = password.map(|password| {
            format!("[{ARI_USER}]\ntype = user\nread_only = no\npassword = {password}\n")
        });
        let text = format!("{}{}", self.ari_conf, user.unwrap_or_default());
        std::fs::write(self.site.join("ari.conf"), text)?;
        self.reload("res_ari.so").await
    }

    /// Sets the secret that the dialplan sends.
    async fn set_hook_secret(&self, hook_secret: &str) -> Result<()> {
        let text = self.dialplan_conf.replace(&self.hook_secret, hook_secret);
        std::fs::write(self.site.join("dialplan.conf"), text)?;
        self.reload("pbx_config.so").await
    }

    /// Runs `module reload` with ARI.
    async fn reload(&self, module: &str) -> Result<()> {
        let url = format!("{}/asterisk/modules/{module}", self.ari.local_url);
        let (user, password) = (&self.ari.username, &self.ari.password);
        let request = self.http.request(Method::PUT, url);
        let answer = request.basic_auth(user, Some(password)).send().await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        Ok(())
    }
}

/// Lambda starts new processes when a function's configuration is written.
async fn restart_function(fixture: &Fixture, function: &str) -> Result<()> {
    let url = format!(
        "{}/2015-03-31/functions/{STACK_NAME}-{function}/configuration",
        fixture.stack.aws.endpoint
    );
    let configuration: Value = fixture.http.get(&url).send().await?.json().await?;
    let same = json!({ "Timeout": configuration["Timeout"] });
    let answer = fixture.http.put(&url).json(&same).send().await?;
    answer.error_for_status()?;
    Ok(())
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
