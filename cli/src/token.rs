//! `ringback token`: makes the token that an app's own server would make.

use std::time::Duration;

use clap::{Args, ValueEnum};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ringback::auth::Subject;
use ringback::platform::clock;
use ringback::platform::config::Environment;
use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use crate::deployment::Deployment;
use crate::duration;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::secret_name::SecretName;

/// The longest validity. No list can revoke a token.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a command may use the token that it makes for itself.
const OWN_TOKEN: Duration = Duration::from_secs(5 * 60);

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  curl $URL/api/calls?extension=1001 -H \"Authorization: Bearer $(ringback token --extension 1001)\""
)]
pub(crate) struct TokenArguments {
    #[command(flatten)]
    holder: Holder,
    /// The device of the app, for requests that do not name one
    #[arg(long, value_name = "ID", requires = "extension")]
    device_id: Option<String>,
    /// Who gets the token; the audit trail shows it for an admin [default: your user name]
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// How long the token is valid, at most 24h
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
    valid_for: Duration,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
struct Holder {
    /// The extension that the app acts for
    #[arg(long)]
    extension: Option<String>,
    /// Operators see all calls; admins also change numbers
    #[arg(long)]
    role: Option<Role>,
}

/// What a token allows besides its extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    Operator,
    Admin,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// What a token says.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    pub(crate) extension: Option<String>,
    pub(crate) role: Option<Role>,
    device_id: Option<String>,
    subject: Option<String>,
}

/// A token that the deployment accepts.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) text: SecretString,
    expires: Timestamp,
}

/// Runs `ringback token`.
pub(crate) async fn run(
    deployment: &Deployment,
    arguments: TokenArguments,
    output: Output,
) -> Result<()> {
    if arguments.valid_for > LONGEST {
        let message =
            "A token is valid for at most 24h, because it cannot be revoked: use a shorter --for.";
        return Err(Failure::wrong_use(message));
    }
    let claims = Claims {
        extension: arguments.holder.extension,
        role: arguments.holder.role,
        device_id: arguments.device_id,
        subject: arguments.subject,
    };
    let token = mint(deployment, &claims, arguments.valid_for).await?;
    let text = token.text.expose_secret();
    let document = json!({ "token": text, "expires_at": token.expires.to_iso() });
    output.print(&document, text)
}

/// The token with which a command uses the API: the one that the user gives, or a new one.
pub(crate) async fn for_command(
    deployment: &Deployment,
    given: Option<&SecretString>,
    claims: Claims,
) -> Result<SecretString> {
    match given {
        Some(token) => Ok(token.clone()),
        None => Ok(mint(deployment, &claims, OWN_TOKEN).await?.text),
    }
}

/// Makes a token with the deployment's own secret.
async fn mint(deployment: &Deployment, claims: &Claims, valid_for: Duration) -> Result<Token> {
    if let Some(algorithm) = deployment.providers_algorithm() {
        let issuer = deployment.parameter("TokenIssuer").unwrap_or("its issuer");
        return Err(Failure::refused(format!(
            "This deployment accepts only {algorithm} tokens of {issuer}: get one there, and pass it in RINGBACK_TOKEN."
        )));
    }
    let secret = SecretName::App.read(deployment).await?;
    let Some(key) = secret.get("jwt_secret").and_then(Value::as_str) else {
        return Err(Failure::refused(
            "The secret app has no jwt_secret: set it with `ringback secret set app jwt_secret`.",
        ));
    };
    let expires = clock::now() + valid_for;
    let claims = claims.to_json(&|name| deployment.parameter(name), expires)?;
    let key = EncodingKey::from_secret(key.as_bytes());
    let text = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key);
    let text =
        text.map_err(|error| Failure::refused(format!("The token cannot be signed: {error}.")))?;
    Ok(Token {
        text: text.into(),
        expires,
    })
}

impl Claims {
    /// The claims of an extension's app.
    pub(crate) fn of_extension(extension: &str) -> Self {
        Self {
            extension: Some(extension.to_owned()),
            ..Self::default()
        }
    }

    /// The claims of a role.
    pub(crate) fn of_role(role: Role) -> Self {
        Self {
            role: Some(role),
            ..Self::default()
        }
    }

    /// The claims under the names that the deployment's parameters give them.
    fn to_json<'a>(
        &self,
        parameter: &impl Fn(&str) -> Option<&'a str>,
        expires: Timestamp,
    ) -> Result<Value> {
        let mut claims = json!({
            "sub": self.subject()?,
            // Rounded down: the token ends in time.
            "exp": expires.as_millis() / 1000,
        });
        for (claim, name) in [("iss", "TokenIssuer"), ("aud", "TokenAudience")] {
            // One of several audiences is enough.
            let value = parameter(name).and_then(|values| values.split(',').next());
            if let Some(value) = value {
                claims[claim] = value.into();
            }
        }
        if let Some(extension) = &self.extension {
            let name = parameter("TokenExtensionClaim").unwrap_or("extension");
            let extension = Extension::try_from(extension.as_str());
            let extension =
                extension.map_err(|error| Failure::wrong_use(format!("The {error}.")))?;
            put(&mut claims, name, extension.as_str().into());
        }
        if let Some(role) = self.role {
            let name = parameter("TokenRoleClaim").unwrap_or("role");
            put(&mut claims, name, role.as_str().into());
        }
        if let Some(device) = &self.device_id {
            claims["device_id"] = device.as_str().into();
        }
        Ok(claims)
    }

    fn subject(&self) -> Result<String> {
        let environment = Environment::of_process();
        let named = self
            .subject
            .clone()
            .or_else(|| environment.optional("USER"));
        let named = named.unwrap_or_else(|| "ringback".to_owned());
        match Subject::parse(&named) {
            Some(_) => Ok(named),
            None => Err(Failure::wrong_use(
                "The subject must have 1 to 255 characters, such as --subject priya@example.com.",
            )),
        }
    }
}

/// Puts a claim where its name says: a name, or a JSON pointer to a nested claim.
fn put(claims: &mut Value, name: &str, value: Value) {
    let Some(path) = name.strip_prefix('/') else {
        claims[name] = value;
        return;
    };
    let mut place = claims;
    for step in path.split('/') {
        let step = step.replace("~1", "/").replace("~0", "~");
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[step];
    }
    *place = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRES: Timestamp = Timestamp::from_millis(1_732_175_943_999);

    fn claims(parameters: &[(&str, &'static str)], claims: &Claims) -> Value {
        let parameter = |name: &str| {
            let found = parameters.iter().find(|(named, _)| *named == name);
            found.map(|(_, value)| *value)
        };
        claims.to_json(&parameter, EXPIRES).unwrap()
    }

    #[test]
    fn the_claims_are_where_the_deployment_reads_them() {
        let admin = Claims {
            extension: Some("1001".to_owned()),
            role: Some(Role::Admin),
            device_id: Some("pixel".to_owned()),
            subject: Some("priya".to_owned()),
        };
        assert_eq!(
            claims(&[], &admin),
            json!({
                "sub": "priya", "exp": 1_732_175_943, "extension": "1001", "role": "admin", "device_id": "pixel",
            })
        );
        let parameters = [
            ("TokenIssuer", "https://id.example.com"),
            ("TokenAudience", "app,desk"),
            ("TokenExtensionClaim", "/app~1data/phone/extension"),
            ("TokenRoleClaim", "/app~1data/role"),
        ];
        assert_eq!(
            claims(&parameters, &admin),
            json!({
                "sub": "priya", "exp": 1_732_175_943, "iss": "https://id.example.com", "aud": "app", "device_id": "pixel",
                "app/data": { "phone": { "extension": "1001" }, "role": "admin" },
            })
        );
    }

    #[test]
    fn a_wrong_extension_or_subject_is_refused() {
        let none = |_: &str| None;
        let wrong = Claims::of_extension("10 01").to_json(&none, EXPIRES);
        assert!(wrong.unwrap_err().to_string().contains("extension"));
        let nobody = Claims {
            subject: Some("a\nb".to_owned()),
            ..Claims::of_role(Role::Admin)
        };
        assert!(nobody.to_json(&none, EXPIRES).is_err());
    }
}
