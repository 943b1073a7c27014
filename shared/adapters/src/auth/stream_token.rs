//! The token in the `wss` URL that Exotel gets for one call: with it, Exotel streams that call's audio, and nothing else.
//!
//! It is `{CallSid}.{end of its validity, epoch ms}.{signature}`. The signature is a truncated HMAC-SHA256 with the webhook's secret,
//! which the function that makes the token and the one that checks it need anyway.

use std::net::IpAddr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::Unauthorized;
use super::signing::{SignatureUse, fits, from_hex, to_hex};
use super::webhook_auth::{WebhookAuth, WebhookAuthError};
use crate::platform::secrets::{SecretError, SharedSecret, WebhookSecret};
use ringback_core::ids::CallSid;
use ringback_core::timestamp::Timestamp;

/// How long Exotel may take to connect. It connects at once, and tries once more after a failed handshake.
const VALID_FOR: Duration = Duration::from_secs(60);

impl WebhookAuth<WebhookSecret> {
    /// The token for the stream of this call.
    ///
    /// # Errors
    /// When the secret cannot be fetched.
    pub async fn stream_token(
        &self,
        call_sid: &CallSid,
        now: Timestamp,
    ) -> Result<SecretString, SecretError> {
        let secret = self.secret().value().await?;
        let content = format!("{call_sid}.{}", (now + VALID_FOR).as_millis());
        let key = &secret.webhook_secret;
        let signature = to_hex(key, SignatureUse::Stream, content.as_bytes());
        Ok(format!("{content}.{signature}").into())
    }

    /// The call that a client with this token may stream.
    ///
    /// # Errors
    /// When the source address is not allowed, the deployment did not sign the token, or its time is over.
    pub async fn check_stream_token(
        &self,
        source: Option<IpAddr>,
        token: &SecretString,
        now: Timestamp,
    ) -> Result<CallSid, WebhookAuthError> {
        self.check_source(source)?;
        let (content, signature) = token.expose_secret().rsplit_once('.').ok_or(Unauthorized)?;
        let (call_sid, valid_until) = content.split_once('.').ok_or(Unauthorized)?;
        let signature = from_hex(signature).ok_or(Unauthorized)?;
        let signed = |secret: &WebhookSecret| {
            let content = content.as_bytes();
            // With an empty key, anyone could sign.
            let mut keys = secret.valid().filter(|key| !key.expose_secret().is_empty());
            match keys.any(|key| fits(key, SignatureUse::Stream, content, &signature)) {
                true => Ok(()),
                false => Err(Unauthorized),
            }
        };
        self.secret().check(now, signed).await??;
        let valid_until = valid_until.parse().map_err(|_| Unauthorized)?;
        if now >= Timestamp::from_millis(valid_until) {
            return Err(Unauthorized.into());
        }
        Ok(CallSid::try_from(call_sid).map_err(|_| Unauthorized)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::auth::webhook_auth::AllowedSources;
    use crate::platform::config::Environment;
    use crate::platform::secrets::Secret;

    const NOW: Timestamp = Timestamp::from_millis(1_732_175_943_000);

    fn auth(key: &str, previous: Option<&str>) -> WebhookAuth<WebhookSecret> {
        let secret = json!({ "webhook_secret": key, "webhook_secret_previous": previous });
        let secret: WebhookSecret = serde_json::from_value(secret).unwrap();
        let anywhere = AllowedSources::from_environment(&Environment::of(|_| None), "X").unwrap();
        WebhookAuth::new(anywhere, Secret::known(secret))
    }

    fn sid(text: &str) -> CallSid {
        CallSid::try_from(text).unwrap()
    }

    async fn check(
        auth: &WebhookAuth<WebhookSecret>,
        token: &str,
        now: Timestamp,
    ) -> Option<CallSid> {
        let checked = auth.check_stream_token(None, &token.into(), now).await;
        checked.ok()
    }

    #[tokio::test]
    async fn a_token_names_its_call_until_its_time_is_over() {
        let made = auth("hush", None).stream_token(&sid("a-1"), NOW).await;
        let token = made.unwrap().expose_secret().to_owned();
        let last = NOW + VALID_FOR;
        let hush = auth("hush", None);
        assert_eq!(check(&hush, &token, NOW).await, Some(sid("a-1")));
        assert_eq!(check(&hush, &token, last).await, None);
        let replaced = auth("new", Some("hush"));
        assert_eq!(check(&replaced, &token, NOW).await, Some(sid("a-1")));
        assert_eq!(check(&auth("new", None), &token, NOW).await, None);
    }

    #[tokio::test]
    async fn a_changed_token_is_refused() {
        let hush = auth("hush", None);
        let token = hush.stream_token(&sid("a-1"), NOW).await.unwrap();
        let token = token.expose_secret();
        for changed in [
            token.replace("a-1", "a-2"),
            token.replace("a-1.", "a-1.9"),
            token[1..].to_owned(),
            format!("{token}0"),
            format!(
                "{}+{}",
                &token[..token.len() - 32],
                &token[token.len() - 31..]
            ),
            "a-1".to_owned(),
            "..".to_owned(),
        ] {
            assert_eq!(check(&hush, &changed, NOW).await, None, "{changed}");
        }
        // A signature that anyone can make.
        let empty = auth("", Some(""));
        let forged = empty.stream_token(&sid("a-1"), NOW).await.unwrap();
        assert_eq!(check(&empty, forged.expose_secret(), NOW).await, None);
    }

    proptest! {
        #[test]
        fn no_guessed_token_is_accepted(token in "[a-z0-9-]{1,8}\\.[0-9]{13}\\.[0-9a-f]{32}|\\PC{0,80}") {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert_eq!(runtime.block_on(check(&auth("hush", None), &token, NOW)), None);
        }
    }
}
