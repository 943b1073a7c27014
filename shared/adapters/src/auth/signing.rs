//! What this deployment signs for itself, with a key that no other system knows: call ids, and the URLs at which Exotel
//! reports on the calls that we place.
//!
//! A call id from outside is checked before any request is made for it, so a made-up id costs no request.
//! Both kinds of signatures are truncated HMAC-SHA256 (RFC 2104) over the call id's body, under a label of their own: one
//! does not fit where the other is expected.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::platform::secrets::{Secret, SecretError, SharedSecret, SigningSecret};
use ringback_core::ids::CallId;
use ringback_core::timestamp::Timestamp;

/// The length of a [`Signing::callback_token`], in bytes. It is written in hexadecimal.
const TOKEN_LENGTH: usize = 16;

/// What a signature is for.
#[derive(Clone, Copy, Debug)]
enum Label {
    CallId,
    Callback,
}

/// Why what came from outside is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The call id was not made here.
    #[error("this call id was not made by this deployment")]
    UnknownId,
    /// The token is not the one of this call's callback URL.
    #[error("the token is not this call's")]
    WrongToken,
    /// The key is not at hand.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// The key, and what it signs.
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

    /// Fetches the key early, while another secret is being fetched. After a failure, the first use of the key tries again.
    pub async fn get_ready(&self) {
        let _tried_again = self.secret.value().await;
    }

    /// The id with its check field, as apps get it.
    ///
    /// # Errors
    /// When the key cannot be fetched.
    pub async fn sign(&self, id: CallId) -> Result<CallId, SecretError> {
        let secret = self.secret.value().await?;
        let mut check = [0; CallId::CHECK_LENGTH];
        fill(&mut check, &secret.signing_secret, Label::CallId, id);
        Ok(id.with_check(check))
    }

    /// Checks an id that came from outside. One of another kind than ours is refused without a look at the key; one with a
    /// wrong check field may have been signed with a key that has replaced the one at hand, which is therefore fetched,
    /// once a minute at most.
    ///
    /// # Errors
    /// [`SignatureError::UnknownId`] for an id that was not made here.
    pub async fn check(&self, id: CallId, now: Timestamp) -> Result<(), SignatureError> {
        if !id.is_ours() {
            return Err(SignatureError::UnknownId);
        }
        let fits = |secret: &SigningSecret| match fits(secret, Label::CallId, id, id.check()) {
            true => Ok(()),
            false => Err(SignatureError::UnknownId),
        };
        self.secret.check(now, fits).await?
    }

    /// What the callback URL of this call's reports shows, so that it can report this call and no other.
    ///
    /// # Errors
    /// When the key cannot be fetched.
    pub async fn callback_token(&self, id: CallId) -> Result<SecretString, SecretError> {
        let secret = self.secret.value().await?;
        let mut token = [0; TOKEN_LENGTH];
        fill(&mut token, &secret.signing_secret, Label::Callback, id);
        Ok(format!("{:032x}", u128::from_be_bytes(token)).into())
    }

    /// Checks the token of a callback URL for this call.
    ///
    /// # Errors
    /// [`SignatureError::WrongToken`] for any but [`Signing::callback_token`].
    pub async fn check_callback(
        &self,
        id: CallId,
        token: &str,
        now: Timestamp,
    ) -> Result<(), SignatureError> {
        let is_long_enough = token.len() == 2 * TOKEN_LENGTH;
        let token = u128::from_str_radix(token, 16).ok();
        let token = token.filter(|_| is_long_enough);
        let token = token.ok_or(SignatureError::WrongToken)?.to_be_bytes();
        let fits = |secret: &SigningSecret| match fits(secret, Label::Callback, id, &token) {
            true => Ok(()),
            false => Err(SignatureError::WrongToken),
        };
        self.secret.check(now, fits).await?
    }
}

/// Whether this is the signature, or the beginning of one, by one of the valid keys. Takes as long for each wrong one.
fn fits(secret: &SigningSecret, label: Label, id: CallId, signature: &[u8]) -> bool {
    secret.valid().any(|key| {
        let mac = mac(key, label, id);
        mac.verify_truncated_left(signature).is_ok()
    })
}

fn fill(signature: &mut [u8], key: &SecretString, label: Label, id: CallId) {
    let whole = mac(key, label, id).finalize().into_bytes();
    let length = signature.len();
    signature.copy_from_slice(&whole[..length]);
}

fn mac(key: &SecretString, label: Label, id: CallId) -> Hmac<Sha256> {
    let label: &[u8] = match label {
        Label::CallId => b"call-id\0",
        Label::Callback => b"callback\0",
    };
    let mut mac = match Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes()) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    };
    mac.update(label);
    mac.update(id.body());
    mac
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing;
    use ringback_core::ids::CallSid;

    const NOW: Timestamp = Timestamp::from_millis(1_732_175_943_000);

    fn signing_with(key: &str) -> Signing {
        let secret: SigningSecret =
            serde_json::from_value(json!({ "signing_secret": key })).unwrap();
        Signing::new(Secret::known(secret))
    }

    fn signing() -> Signing {
        signing_with("hush")
    }

    /// The id with one of its bits turned over.
    fn turned(id: CallId, bit: usize) -> CallId {
        let text = id.to_string().replace('-', "");
        let bits = u128::from_str_radix(&text, 16).unwrap() ^ (1 << bit);
        CallId::try_from(format!("{bits:032x}").as_str()).unwrap()
    }

    async fn fits(signing: &Signing, id: CallId) -> bool {
        signing.check(id, NOW).await.is_ok()
    }

    #[tokio::test]
    async fn every_id_that_is_signed_here_fits_and_none_like_it() {
        let sid = CallSid::try_from("sid-1").unwrap();
        for id in [CallId::of_call_sid(&sid), CallId::fresh()] {
            let signed = signing().sign(id).await.unwrap();
            assert_eq!(signed, id);
            assert!(fits(&signing(), signed).await);
            assert!(!fits(&signing(), id).await, "without its check field");
            assert!(!fits(&signing_with("other"), signed).await);
            for bit in 0..128 {
                assert!(!fits(&signing(), turned(signed, bit)).await, "bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_made_up_id_fits(bits: u128) {
            let made_up = CallId::try_from(format!("{bits:032x}").as_str()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert!(!runtime.block_on(fits(&signing(), made_up)));
        }
    }

    #[tokio::test]
    async fn a_callbacks_token_is_one_calls_and_no_id() {
        let (call, other) = (CallId::fresh(), CallId::fresh());
        let token = signing().callback_token(call).await.unwrap();
        let token = token.expose_secret();
        let admits = async |signing: &Signing, call, token: &str| {
            signing.check_callback(call, token, NOW).await.is_ok()
        };
        assert!(admits(&signing(), call, token).await);
        assert!(!admits(&signing(), other, token).await);
        assert!(!admits(&signing_with("other"), call, token).await);
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
            assert!(!admits(&signing(), call, wrong).await, "{wrong}");
        }
    }

    #[tokio::test]
    async fn what_the_key_before_has_signed_still_fits_and_names_the_same_call() {
        let old = json!({ "signing_secret": "old" });
        let new = json!({ "signing_secret": "new", "signing_secret_previous": "old" });
        let (secrets, secret) = testing::secret([old, new]).await;
        let signing = Signing::new(secret);
        let call = CallId::fresh();
        let before = signing.sign(call).await.unwrap();
        let token = signing.callback_token(call).await.unwrap();
        // Another process knows the new key already.
        let elsewhere = signing_with("new").sign(call).await.unwrap();
        assert!(fits(&signing, elsewhere).await);
        assert_eq!(elsewhere, before);
        assert!(fits(&signing, before).await);
        let checked = signing.check_callback(call, token.expose_secret(), NOW);
        assert!(checked.await.is_ok());
        assert_eq!(testing::requests(&secrets).await.len(), 2);
    }

    #[tokio::test]
    async fn made_up_ids_cost_one_fetch_a_minute_and_those_of_another_kind_none() {
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
    fn nothing_is_signed_without_a_key() {
        let read = |secret: Value| serde_json::from_value::<SigningSecret>(secret);
        assert!(read(json!({ "signing_secret": "" })).is_err());
        let unset = json!({ "signing_secret": "hush", "signing_secret_previous": "" });
        assert_eq!(read(unset).unwrap().valid().count(), 1);
    }

    #[test]
    fn neither_key_nor_token_shows_in_debug() {
        assert!(!format!("{:?}", signing()).contains("hush"));
    }

    #[tokio::test]
    async fn the_events_speak_of_the_call_of_their_call_sid() {
        let key = "ringback-events-signing-secret-not-for-any-deployment";
        let sid = CallSid::try_from("c5c81d5f2a3e4b7f9d0e6a1b8c4f1781").unwrap();
        let id = signing_with(key).sign(CallId::of_call_sid(&sid)).await;
        let event = include_str!("../../../../events/call-response-accept.json");
        let id = id.unwrap().to_string();
        assert!(event.contains(&id), "{id}");
    }
}
