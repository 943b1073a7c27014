//! Who is asking: a phone app by its bearer token, Exotel and the PBX by a shared secret.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use crate::call::Party;
use crate::names::{DeviceId, Extension};
use crate::secrets::AppSecret;

/// Whoever asks has not shown who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no valid credentials")]
pub struct Unauthorized;

#[derive(Deserialize)]
struct Claims {
    extension: Extension,
    #[serde(default)]
    device_id: Option<DeviceId>,
}

/// Reads the party out of an `Authorization: Bearer …` header: a JWT signed with HS256, whose claim `extension`
/// says for whom it speaks and whose `exp` is in the future. The claim `device_id` may name the device.
///
/// # Errors
/// When the header is missing, or the token is not one of ours or has expired.
pub fn party(authorization: Option<&str>, secret: &AppSecret) -> Result<Party, Unauthorized> {
    let (scheme, token) = authorization
        .and_then(|header| header.split_once(' '))
        .ok_or(Unauthorized)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Unauthorized);
    }
    // The algorithm is ours to choose, never the token's.
    let mut rules = Validation::new(Algorithm::HS256);
    rules.validate_aud = false;
    let key = DecodingKey::from_secret(secret.jwt_secret.expose_secret().as_bytes());
    let claims = jsonwebtoken::decode::<Claims>(token.trim(), &key, &rules)
        .map_err(|_| Unauthorized)?
        .claims;
    Ok(Party {
        extension: claims.extension,
        device: claims.device_id,
    })
}

/// Whether what was shown is one of the secrets that are valid now, in a time that does not tell how close it came.
///
/// # Errors
/// When it is none of them, or nothing was shown.
pub fn shared_secret<'a>(
    shown: Option<&str>,
    valid: impl IntoIterator<Item = &'a SecretString>,
) -> Result<(), Unauthorized> {
    let shown = shown.ok_or(Unauthorized)?.as_bytes();
    let matches = |secret: &SecretString| {
        let secret = secret.expose_secret().as_bytes();
        // An unset secret lets nobody in.
        !secret.is_empty() & bool::from(secret.ct_eq(shown))
    };
    let known = valid
        .into_iter()
        .fold(false, |known, secret| known | matches(secret));
    if known { Ok(()) } else { Err(Unauthorized) }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::*;

    const FUTURE: u64 = 4_102_444_800;

    fn secret() -> AppSecret {
        AppSecret {
            jwt_secret: "a key for tests, long enough".into(),
        }
    }

    fn bearer(claims: &serde_json::Value, algorithm: Algorithm, key: &str) -> String {
        let key = EncodingKey::from_secret(key.as_bytes());
        format!(
            "Bearer {}",
            jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
        )
    }

    fn ours(claims: &serde_json::Value) -> String {
        bearer(claims, Algorithm::HS256, "a key for tests, long enough")
    }

    #[test]
    fn a_good_token_speaks_for_its_extension() {
        let header = ours(&json!({"extension": "1001", "device_id": "pixel", "exp": FUTURE}));
        let party = party(Some(&header), &secret()).unwrap();
        assert_eq!(
            (party.extension.as_str(), party.device.unwrap().as_str()),
            ("1001", "pixel")
        );
    }

    #[test]
    fn no_other_token_speaks_for_anybody() {
        let good = json!({"extension": "1001", "exp": FUTURE});
        let refused = [
            None,
            Some(String::new()),
            Some("Bearer".to_owned()),
            Some("Bearer not.a.token".to_owned()),
            Some(ours(&good).replace("Bearer", "Basic")),
            Some(bearer(&good, Algorithm::HS256, "another key")),
            Some(bearer(
                &good,
                Algorithm::HS512,
                "a key for tests, long enough",
            )),
            Some(ours(&json!({"extension": "1001", "exp": 1}))),
            Some(ours(&json!({"extension": "1001"}))),
            Some(ours(&json!({"exp": FUTURE}))),
            Some(ours(&json!({"extension": "10/01", "exp": FUTURE}))),
        ];
        for header in refused {
            assert_eq!(
                party(header.as_deref(), &secret()),
                Err(Unauthorized),
                "{header:?}"
            );
        }
    }

    #[test]
    fn two_secrets_are_valid_while_one_replaces_the_other() {
        let valid: [SecretString; 2] = ["new".into(), "old".into()];
        assert!(shared_secret(Some("new"), &valid).is_ok());
        assert!(shared_secret(Some("old"), &valid).is_ok());
        for shown in [None, Some(""), Some("ne"), Some("newer")] {
            assert!(shared_secret(shown, &valid).is_err(), "{shown:?}");
        }
        assert!(shared_secret(Some(""), &[SecretString::from("")]).is_err());
    }
}
