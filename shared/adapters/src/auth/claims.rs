//! Reads the claims of a token, after its signature, times, issuer and audience have been checked.

use serde_json::Value;

use super::token_rejection::TokenRejection;
use super::{Bearer, Subject};
use crate::platform::config::Environment;
use ringback_core::call::CallParty;
use ringback_core::ids::{DeviceId, Extension};

/// The values of the role claim that make an operator and an admin.
const OPERATOR: &str = "operator";
const ADMIN: &str = "admin";

/// The claim with the app's device.
const DEVICE: &str = "device_id";

/// The claims with the extension and the role. Each is a claim's name (`extension`, `custom:extension`,
/// `https://example.com/extension`), or a JSON pointer to a nested claim (`/app_metadata/extension`).
#[derive(Clone, Debug)]
pub(super) struct ClaimNames {
    pub(super) extension: String,
    pub(super) role: String,
}

impl ClaimNames {
    /// Reads `TOKEN_EXTENSION_CLAIM` (`extension`) and `TOKEN_ROLE_CLAIM` (`role`).
    pub(super) fn from_environment(environment: &Environment) -> Self {
        let named = |variable, default: &str| {
            let name = environment.optional(variable);
            name.unwrap_or_else(|| default.to_owned())
        };
        Self {
            extension: named("TOKEN_EXTENSION_CLAIM", "extension"),
            role: named("TOKEN_ROLE_CLAIM", "role"),
        }
    }

    /// The client with these claims. A claim that exists must be valid: a malformed one is rejected and not ignored.
    pub(super) fn bearer_in(&self, claims: &Value) -> Result<Bearer, TokenRejection> {
        let extension = text(claims, &self.extension).map_err(|()| TokenRejection::Extension)?;
        let extension = extension.map(Extension::try_from).transpose();
        let device = text(claims, DEVICE).map_err(|()| TokenRejection::Device)?;
        let device = device.map(DeviceId::try_from).transpose();
        let device = device.map_err(|_| TokenRejection::Device)?;
        let party = extension
            .map_err(|_| TokenRejection::Extension)?
            .map(|extension| CallParty { extension, device });
        match party {
            // The audit trail says who made a change.
            party if self.names_role(claims, ADMIN) => {
                let subject = text(claims, "sub").ok().flatten();
                let subject = subject.and_then(Subject::parse);
                let subject = subject.ok_or(TokenRejection::Subject)?;
                Ok(Bearer::Admin { party, subject })
            }
            party if self.names_role(claims, OPERATOR) => Ok(Bearer::Operator(party)),
            Some(party) => Ok(Bearer::App(party)),
            None => Err(TokenRejection::Extension),
        }
    }

    /// The role is a text, or a list of texts, as groups are.
    fn names_role(&self, claims: &Value, role: &str) -> bool {
        match find(claims, &self.role) {
            Some(Value::Array(roles)) => roles.iter().any(|one| one == role),
            Some(one) => one == role,
            None => false,
        }
    }
}

/// Reads any claims, for fuzzing.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_any_claims(claims: &Value) -> Option<Bearer> {
    let default = ClaimNames::from_environment(&Environment::of(|_| None));
    default.bearer_in(claims).ok()
}

/// The claim's text; `None` if the claim is absent, or null.
fn text<'a>(claims: &'a Value, name: &str) -> Result<Option<&'a str>, ()> {
    let found = find(claims, name);
    found.map(|value| value.as_str().ok_or(())).transpose()
}

fn find<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    let found = if name.starts_with('/') {
        claims.pointer(name)
    } else {
        claims.get(name)
    };
    found.filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bearer(extension: &str, role: &str, claims: &Value) -> Result<Bearer, TokenRejection> {
        let names = ClaimNames {
            extension: extension.to_owned(),
            role: role.to_owned(),
        };
        names.bearer_in(claims)
    }

    fn party() -> CallParty {
        CallParty {
            extension: Extension::try_from("1001").unwrap(),
            device: None,
        }
    }

    #[test]
    fn the_extension_is_in_the_configured_claim() {
        for (name, claims) in [
            ("extension", json!({ "extension": "1001" })),
            ("custom:extension", json!({ "custom:extension": "1001" })),
            (
                "https://example.com/extension",
                json!({ "https://example.com/extension": "1001" }),
            ),
            (
                "/app_metadata/phone/extension",
                json!({ "app_metadata": { "phone": { "extension": "1001" } } }),
            ),
            (
                "/https:~1~1example.com/extension",
                json!({ "https://example.com": { "extension": "1001" } }),
            ),
        ] {
            assert_eq!(
                bearer(name, "role", &claims),
                Ok(Bearer::App(party())),
                "{name}"
            );
            let elsewhere = bearer("other", "role", &claims);
            assert_eq!(elsewhere, Err(TokenRejection::Extension), "{name}");
        }
    }

    #[test]
    fn an_operators_role_is_a_text_or_in_a_list() {
        for (name, claims) in [
            ("role", json!({ "role": "operator" })),
            (
                "cognito:groups",
                json!({ "cognito:groups": ["staff", "operator"] }),
            ),
            (
                "/realm_access/roles",
                json!({ "realm_access": { "roles": ["operator"] } }),
            ),
        ] {
            let operator = bearer("extension", name, &claims);
            assert_eq!(operator, Ok(Bearer::Operator(None)), "{name}");
            let mut with_extension = claims;
            with_extension["extension"] = "1001".into();
            let operator = bearer("extension", name, &with_extension);
            assert_eq!(operator, Ok(Bearer::Operator(Some(party()))), "{name}");
        }
        for no_operator in [
            json!(null),
            json!(""),
            json!("Operator"),
            json!("operators"),
            json!("staff operator"),
            json!(["operators"]),
            json!([["operator"]]),
            json!({ "operator": true }),
            json!(true),
        ] {
            let claims = json!({ "extension": "1001", "role": no_operator });
            assert_eq!(
                bearer("extension", "role", &claims),
                Ok(Bearer::App(party()))
            );
        }
    }

    #[test]
    fn an_admin_has_the_role_and_a_subject() {
        for role in [json!("admin"), json!(["operator", "admin"])] {
            let admin =
                |sub: Value| bearer("extension", "role", &json!({ "role": role, "sub": sub }));
            let bearer = admin(json!("priya@example.com")).unwrap();
            assert_eq!(bearer.admin().unwrap().as_str(), "priya@example.com");
            assert!(!format!("{bearer:?}").contains("priya"));
            assert!(admin(json!("é".repeat(255))).is_ok());
            for nobody in [
                json!(null),
                json!(""),
                json!(7),
                json!("a\nb"),
                json!("é".repeat(256)),
            ] {
                assert_eq!(admin(nobody), Err(TokenRejection::Subject));
            }
        }
        for no_admin in [json!("operator"), json!("Admin"), json!(["admins"])] {
            let claims = json!({ "role": no_admin, "sub": "priya", "extension": "1001" });
            let bearer = bearer("extension", "role", &claims).unwrap();
            assert_eq!(bearer.admin(), None, "{claims}");
        }
    }

    #[test]
    fn a_malformed_claim_is_rejected_and_not_ignored() {
        for extension in [
            json!(1001),
            json!(""),
            json!("10/01"),
            json!(["1001"]),
            json!({}),
        ] {
            for role in ["operator", "none"] {
                let claims = json!({ "extension": extension, "role": role });
                let refused = bearer("extension", "role", &claims);
                assert_eq!(refused, Err(TokenRejection::Extension), "{claims}");
            }
        }
        for device in [json!(7), json!("a device")] {
            let claims = json!({ "extension": "1001", "device_id": device });
            let refused = bearer("extension", "role", &claims);
            assert_eq!(refused, Err(TokenRejection::Device), "{claims}");
        }
        for incomplete in [
            json!({}),
            json!({ "extension": null }),
            json!({ "device_id": "pixel" }),
            json!([]),
        ] {
            let refused = bearer("extension", "role", &incomplete);
            assert_eq!(refused, Err(TokenRejection::Extension), "{incomplete}");
        }
    }

    #[test]
    fn the_claims_have_default_names_and_the_environment_can_change_them() {
        let default = ClaimNames::from_environment(&Environment::of(|_| None));
        assert_eq!((&*default.extension, &*default.role), ("extension", "role"));
        let others = ClaimNames::from_environment(&Environment::of(|name| match name {
            "TOKEN_EXTENSION_CLAIM" => Some("custom:extension".to_owned()),
            "TOKEN_ROLE_CLAIM" => Some("cognito:groups".to_owned()),
            _ => None,
        }));
        assert_eq!(
            (&*others.extension, &*others.role),
            ("custom:extension", "cognito:groups")
        );
    }
}
