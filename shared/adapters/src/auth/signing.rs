//! Signatures with a key that only this deployment has: on call ids, in the URLs at which Exotel reports calls that we place, and in
//! the URLs at which killed apps answer a push. The token of a stream has another key (`stream_token.rs`).
//!
//! A call id in a request is checked before any other request is made for it, so a guessed id costs nothing.
//! All signatures are truncated HMAC-SHA256 (RFC 2104), over the body of the call id or the content of an [`AnswerGrant`]. Each has
//! its own label, so that one is never valid in place of another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::auth::answer_grant::{AnswerGrant, LONGEST_GRANT};
use crate::platform::secrets::{Secret, SecretError, SharedSecret, SigningSecret};
use ringback_core::ids::CallId;
use ringback_core::timestamp::Timestamp;

/// The length of the signature in a [`Signing::callback_token`], which is written in hexadecimal, and at the end of a
/// [`Signing::answer_token`], in bytes.
const TOKEN_LENGTH: usize = 16;

/// The use of a signature.
#[derive(Clone, Copy, Debug)]
pub(super) enum SignatureUse {
    CallId,
    Callback,
    Answer,
    Stream,
}

/// Why a call id or a token is rejected.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The call id was not signed by this deployment.
    #[error("this call id was not signed by this deployment")]
    UnknownId,
    /// The token is not the one in this call's callback URL.
    #[error("the token belongs to another call")]
    WrongToken,
    /// The token is not that of an `answer_url`, or its time is over.
    #[error("the token answers no call")]
    BadAnswerToken,
    /// The key could not be fetched.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Signs and checks call ids and callback tokens.
#[derive(Debug)]
pub struct Signing {
    secret: Secret<SigningSecret>,
}

impl Signing {
    /// Signatures with this key.
    #[must_use]
    pub const fn new(secret: Secret<SigningSecret>) -> Self {
        Self { secret }
    }

    /// Fetches the key early, while another secret is being fetched. If this fails, the first use of the key tries again.
    pub async fn get_ready(&self) {
        let _tried_again = self.secret.value().await;
    }

    /// Adds the check field to an id. Apps get ids with it.
    ///
    /// # Errors
    /// When the key cannot be fetched.
    pub async fn sign(&self, id: CallId) -> Result<CallId, SecretError> {
        let sign = self.signer().await?;
        Ok(sign(id))
    }

    /// Adds the check field to any number of ids.
    ///
    /// # Errors
    /// When the key cannot be fetched.
    pub async fn signer(&self) -> Result<impl Fn(CallId) -> CallId, SecretError> {
        let secret = self.secret.value().await?;
        Ok(move |id: CallId| {
            let mut check = [0; CallId::CHECK_LENGTH];
            let key = &secret.signing_secret;
            fill(&mut check, key, SignatureUse::CallId, id.body());
            id.with_check(check)
        })
    }

    /// Checks the id in a request. An id with another format is rejected without the key. A wrong check field can come from a newer
    /// key, so the key is fetched again, at most once a minute.
    ///
    /// # Errors
    /// [`SignatureError::UnknownId`] for an id that this deployment did not sign.
    pub async fn check(&self, id: CallId, now: Timestamp) -> Result<(), SignatureError> {
        if !id.is_ours() {
            return Err(SignatureError::UnknownId);
        }
        let fits = |secret: &SigningSecret| match fits_any(
            secret,
            SignatureUse::CallId,
            id.body(),
            id.check(),
        ) {
            true => Ok(()),
            false => Err(SignatureError::UnknownId),
        };
        self.secret.check(now, fits).await?
    }

    /// The token in the callback URL of this call. With it, Exotel can report this call and no other.
    ///
    /// # Errors
    /// When the key cannot be fetched.
    pub async fn callback_token(&self, id: CallId) -> Result<SecretString, SecretError> {
        let secret = self.secret.value().await?;
        let key = &secret.signing_secret;
        Ok(to_hex(key, SignatureUse::Callback, id.body()).into())
    }

    /// Checks the token of a callback URL for this call.
    ///
    /// # Errors
    /// [`SignatureError::WrongToken`] if it is not [`Signing::callback_token`].
    pub async fn check_callback(
        &self,
        id: CallId,
        token: &str,
        now: Timestamp,
    ) -> Result<(), SignatureError> {
        let token = from_hex(token).ok_or(SignatureError::WrongToken)?;
        let fits = |secret: &SigningSecret| match fits_any(
            secret,
            SignatureUse::Callback,
            id.body(),
            &token,
        ) {
            true => Ok(()),
            false => Err(SignatureError::WrongToken),
        };
        self.secret.check(now, fits).await?
    }
}

impl Signing {
    /// The token in the `answer_url` of one push: the grant and its signature.
    ///
    /// # Errors
    /// When the key cannot be fetched.
    pub async fn answer_token(&self, grant: &AnswerGrant) -> Result<SecretString, SecretError> {
        let secret = self.secret.value().await?;
        let mut token = grant.to_bytes();
        let mut signature = [0; TOKEN_LENGTH];
        fill(
            &mut signature,
            &secret.signing_secret,
            SignatureUse::Answer,
            &token,
        );
        token.extend(signature);
        Ok(URL_SAFE_NO_PAD.encode(token).into())
    }

    /// Reads a token after its signature has been checked. A wrong signature can come from a newer key, so the key is fetched again,
    /// at most once a minute.
    ///
    /// # Errors
    /// [`SignatureError::BadAnswerToken`] if this deployment did not sign it, or if its time is over.
    pub async fn check_answer(
        &self,
        token: &SecretString,
        now: Timestamp,
    ) -> Result<AnswerGrant, SignatureError> {
        let token = token.expose_secret();
        let is_short_enough = token.len() <= (LONGEST_GRANT + TOKEN_LENGTH).div_ceil(3) * 4;
        let bytes = URL_SAFE_NO_PAD.decode(token).ok();
        let bytes = bytes.filter(|_| is_short_enough);
        let bytes = bytes.ok_or(SignatureError::BadAnswerToken)?;
        let parts = bytes.split_last_chunk::<TOKEN_LENGTH>();
        let (content, signature) = parts.ok_or(SignatureError::BadAnswerToken)?;
        let fits = |secret: &SigningSecret| match fits_any(
            secret,
            SignatureUse::Answer,
            content,
            signature,
        ) {
            true => Ok(()),
            false => Err(SignatureError::BadAnswerToken),
        };
        self.secret.check(now, fits).await??;
        let grant = AnswerGrant::from_bytes(content).filter(|grant| now < grant.valid_until());
        grant.ok_or(SignatureError::BadAnswerToken)
    }
}

/// Whether this is the signature, or the beginning of it, with one of the valid keys.
fn fits_any(secret: &SigningSecret, usage: SignatureUse, content: &[u8], signature: &[u8]) -> bool {
    let mut keys = secret.valid();
    keys.any(|key| fits(key, usage, content, signature))
}

/// Whether this is the signature, or the beginning of it, with this key. Compares in constant time.
pub(super) fn fits(
    key: &SecretString,
    usage: SignatureUse,
    content: &[u8],
    signature: &[u8],
) -> bool {
    let mac = mac(key, usage, content);
    mac.verify_truncated_left(signature).is_ok()
}

/// The signature in hexadecimal.
pub(super) fn to_hex(key: &SecretString, usage: SignatureUse, content: &[u8]) -> String {
    let mut signature = [0; TOKEN_LENGTH];
    fill(&mut signature, key, usage, content);
    format!("{:032x}", u128::from_be_bytes(signature))
}

/// Reads what [`to_hex`] has written.
pub(super) fn from_hex(text: &str) -> Option<[u8; TOKEN_LENGTH]> {
    let signature = u128::from_str_radix(text, 16).ok();
    let whole = signature.filter(|_| text.len() == 2 * TOKEN_LENGTH);
    whole.map(u128::to_be_bytes)
}

fn fill(signature: &mut [u8], key: &SecretString, usage: SignatureUse, content: &[u8]) {
    let whole = mac(key, usage, content).finalize().into_bytes();
    let length = signature.len();
    signature.copy_from_slice(&whole[..length]);
}

fn mac(key: &SecretString, usage: SignatureUse, content: &[u8]) -> Hmac<Sha256> {
    let label: &[u8] = match usage {
        SignatureUse::CallId => b"call-id\0",
        SignatureUse::Callback => b"callback\0",
        SignatureUse::Answer => b"answer\0",
        SignatureUse::Stream => b"stream\0",
    };
    let mut mac = match Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes()) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    };
    mac.update(label);
    mac.update(content);
    mac
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing;
    use ringback_core::call::PushPlatform;
    use ringback_core::ids::{CallSid, DeviceId, Extension};

    const NOW: Timestamp = Timestamp::from_millis(1_732_175_943_000);

    fn signing_with(key: &str) -> Signing {
        let secret: SigningSecret =
            serde_json::from_value(json!({ "signing_secret": key })).unwrap();
        Signing::new(Secret::known(secret))
    }

    fn signing() -> Signing {
        signing_with("hush")
    }

    fn of_sid(sid: &CallSid) -> CallId {
        CallId::of_ring(sid, &Extension::try_from("1001").unwrap(), 1)
    }

    /// The id with one bit flipped.
    fn flipped(id: CallId, bit: usize) -> CallId {
        let text = id.to_string().replace('-', "");
        let bits = u128::from_str_radix(&text, 16).unwrap() ^ (1 << bit);
        CallId::try_from(format!("{bits:032x}").as_str()).unwrap()
    }

    async fn fits(signing: &Signing, id: CallId) -> bool {
        signing.check(id, NOW).await.is_ok()
    }

    #[tokio::test]
    async fn a_signed_id_is_accepted_and_no_changed_one() {
        let sid = CallSid::try_from("sid-1").unwrap();
        for id in [of_sid(&sid), CallId::fresh()] {
            let signed = signing().sign(id).await.unwrap();
            assert_eq!(signed, id);
            assert!(fits(&signing(), signed).await);
            assert!(!fits(&signing(), id).await, "without its check field");
            assert!(!fits(&signing_with("other"), signed).await);
            for bit in 0..128 {
                assert!(!fits(&signing(), flipped(signed, bit)).await, "bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_guessed_id_is_accepted(bits: u128) {
            let guessed = CallId::try_from(format!("{bits:032x}").as_str()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert!(!runtime.block_on(fits(&signing(), guessed)));
        }

        #[test]
        fn no_guessed_answer_token_is_accepted(token in "[A-Za-z0-9_-]{0,300}|\\PC{0,100}") {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async { signing().check_answer(&token.into(), NOW).await });
            prop_assert!(matches!(read, Err(SignatureError::BadAnswerToken)));
        }
    }

    #[tokio::test]
    async fn a_callback_token_is_valid_for_one_call_only() {
        let (call, other) = (CallId::fresh(), CallId::fresh());
        let token = signing().callback_token(call).await.unwrap();
        let token = token.expose_secret();
        let accepts = async |signing: &Signing, call, token: &str| {
            signing.check_callback(call, token, NOW).await.is_ok()
        };
        assert!(accepts(&signing(), call, token).await);
        assert!(!accepts(&signing(), other, token).await);
        assert!(!accepts(&signing_with("other"), call, token).await);
        let signed = signing().sign(call).await.unwrap();
        let of_another_kind = signed.to_string()[28..].repeat(4);
        for wrong in [
            "",
            "0",
            &token[1..],
            &format!("{token}0"),
            &of_another_kind,
            "z",
        ] {
            assert!(!accepts(&signing(), call, wrong).await, "{wrong}");
        }
    }

    fn grant(call_id: CallId) -> AnswerGrant {
        AnswerGrant {
            call_id,
            extension: Extension::try_from("1001").unwrap(),
            device: DeviceId::try_from("my-pixel-8").unwrap(),
            platform: PushPlatform::Fcm,
            pushed_at: NOW,
            rings_until: NOW + Duration::from_secs(30),
        }
    }

    #[tokio::test]
    async fn an_answer_token_is_valid_until_five_minutes_after_the_ring() {
        let grant = grant(CallId::fresh());
        let token = signing().answer_token(&grant).await.unwrap();
        let until = grant.rings_until + Duration::from_secs(300);
        for at in [
            NOW,
            grant.rings_until,
            until.before(Duration::from_millis(1)),
        ] {
            let read = signing().check_answer(&token, at).await;
            assert_eq!(read.unwrap(), grant);
        }
        for (signing, at) in [(signing(), until), (signing_with("other"), NOW)] {
            let read = signing.check_answer(&token, at).await;
            assert!(matches!(read, Err(SignatureError::BadAnswerToken)));
        }
    }

    #[tokio::test]
    async fn no_changed_answer_token_is_valid() {
        let (own, other) = (grant(CallId::fresh()), grant(CallId::fresh()));
        let token = signing().answer_token(&own).await.unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(token.expose_secret()).unwrap();
        let accepts = async |bytes: &[u8]| {
            let token = URL_SAFE_NO_PAD.encode(bytes).into();
            signing().check_answer(&token, NOW).await.is_ok()
        };
        assert!(accepts(&bytes).await);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!accepts(&changed).await, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(!accepts(&bytes[..length]).await, "{length} bytes");
            assert!(!accepts(&bytes[length + 1..]).await);
        }
        // The signature of another call, and one of another use.
        let of_other = signing().answer_token(&other).await.unwrap();
        let of_other = URL_SAFE_NO_PAD.decode(of_other.expose_secret()).unwrap();
        let signature = &of_other[of_other.len() - TOKEN_LENGTH..];
        assert!(!accepts(&[own.to_bytes().as_slice(), signature].concat()).await);
        let callback = signing().callback_token(own.call_id).await.unwrap();
        let callback = u128::from_str_radix(callback.expose_secret(), 16).unwrap();
        let callback = callback.to_be_bytes();
        assert!(!accepts(&[own.call_id.body(), callback.as_slice()].concat()).await);
    }

    #[tokio::test]
    async fn signatures_with_the_previous_key_stay_valid_and_name_the_same_call() {
        let old = json!({ "signing_secret": "old" });
        let new = json!({ "signing_secret": "new", "signing_secret_previous": "old" });
        let (secrets, secret) = testing::secret([old, new]).await;
        let signing = Signing::new(secret);
        let call = CallId::fresh();
        let before = signing.sign(call).await.unwrap();
        let token = signing.callback_token(call).await.unwrap();
        let answer = signing.answer_token(&grant(call)).await.unwrap();
        // Another process has the new key already.
        let elsewhere = signing_with("new").sign(call).await.unwrap();
        assert!(fits(&signing, elsewhere).await);
        assert_eq!(elsewhere, before);
        assert!(fits(&signing, before).await);
        let checked = signing.check_callback(call, token.expose_secret(), NOW);
        assert!(checked.await.is_ok());
        assert!(signing.check_answer(&answer, NOW).await.is_ok());
        assert_eq!(testing::requests(&secrets).await.len(), 2);
    }

    #[tokio::test]
    async fn guessed_ids_cost_one_fetch_a_minute_and_ids_of_another_format_none() {
        let (secrets, secret) = testing::secret([json!({ "signing_secret": "hush" })]).await;
        let signing = Signing::new(secret);
        for other_kind in ["38769b5f-dc86-51eb-90df-8b38ff063d1d", &"0".repeat(32)] {
            let id = CallId::try_from(other_kind).unwrap();
            assert!(!fits(&signing, id).await);
        }
        assert_eq!(testing::requests(&secrets).await.len(), 0);
        for _ in 0..50 {
            assert!(!fits(&signing, CallId::fresh()).await);
        }
        assert_eq!(testing::requests(&secrets).await.len(), 2);
    }

    #[test]
    fn an_empty_key_is_rejected() {
        let read = |secret: Value| serde_json::from_value::<SigningSecret>(secret);
        assert!(read(json!({ "signing_secret": "" })).is_err());
        let unset = json!({ "signing_secret": "hush", "signing_secret_previous": "" });
        assert_eq!(read(unset).unwrap().valid().count(), 1);
    }

    #[test]
    fn debug_output_hides_the_key() {
        assert!(!format!("{:?}", signing()).contains("hush"));
    }

    #[tokio::test]
    async fn the_example_events_have_the_signed_id_of_their_call_sid() {
        let key = "ringback-events-signing-secret-not-for-any-deployment";
        let sid = CallSid::try_from("c5c81d5f2a3e4b7f9d0e6a1b8c4f1781").unwrap();
        let id = signing_with(key).sign(of_sid(&sid)).await;
        let event = include_str!("../../../../events/call-response-accept.json");
        let id = id.unwrap().to_string();
        assert!(event.contains(&id), "{id}");
        let event = include_str!("../../../../events/call-response-answer-ringing.json");
        let event: Value = serde_json::from_str(event).unwrap();
        let token = event["pathParameters"]["token"].as_str().unwrap().into();
        let grant = signing_with(key).check_answer(&token, NOW).await.unwrap();
        assert_eq!(grant.call_id.to_string(), id);
    }
}
