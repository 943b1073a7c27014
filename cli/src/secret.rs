//! `ringback secret`: writes the secrets of a deployment. No value is ever an argument, because other users of the machine and the
//! history of the shell would have it.

use std::io::IsTerminal;

use clap::{Args, Subcommand, ValueEnum};
use ringback::doctor::{Fault, Finding};
use ringback::platform::secrets::{
    AppSecret, AriCredentials, ExotelAccount, HookSecret, ServiceAccount, SigningSecret,
    WebhookSecret,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::deployment::Deployment;
use crate::doctor;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::prompt;

/// The shortest HS256 key (RFC 7518, 3.2), which is long enough for the other generated secrets too.
const SHORTEST: usize = 32;

#[derive(Subcommand, Debug)]
pub(crate) enum SecretCommand {
    /// Set fields of a secret, and try the value; the other fields stay as they are. Exit code 1: the value is set, and not accepted
    #[command(after_help = SET_HELP)]
    Set(SetArguments),
    /// Replace a secret that Ringback generates; the old value stays accepted until --finish
    #[command(after_help = ROTATE_HELP)]
    Rotate(RotateArguments),
}

const SET_HELP: &str = "\
With FIELD, the value is read from stdin, or typed without echo. Without FIELD, stdin has a JSON object with the fields to set, and
a field that is null is removed; in a terminal, each field is asked for. A field whose value is not typed stays.

Then the function doctor tries the values of exotel, asterisk and fcm. You need lambda:InvokeFunction on STACK-doctor for it.

Fields:
  app       jwt_secret, jwt_secret_previous
  webhook   webhook_secret, webhook_secret_previous
  hook      hook_secret, hook_secret_previous
  signing   signing_secret, signing_secret_previous
  exotel    account_sid, api_key, api_token, caller_id
  asterisk  ari_username, ari_password, ari_ca_pem
  fcm       the key file of the Firebase service account, as a whole, from stdin

Examples:
  ringback secret set fcm < service-account.json
  ringback secret set asterisk
  ringback secret set asterisk ari_ca_pem < ca.pem";

const ROTATE_HELP: &str = "\
1. `ringback secret rotate hook` makes a new value. The old one stays accepted, so no call is lost.
2. Wait a minute: a process of a function may fetch a changed secret only once a minute.
3. Give the new value to who sends it: `webhook` to Exotel, `hook` to the PBX, `app` to your server. `signing` stays here.
4. `ringback secret rotate hook --finish` ends the old value. For `app`, do it when the old tokens have expired; for `signing`, after
   HistoryDays (7), because until then calls have ids that the old key has signed.

Exotel, Asterisk and Firebase make their secrets themselves: write those with `ringback secret set`.

Example:
  ringback secret rotate hook --print | ssh pbx 'cat > hook-secret'";

#[derive(Args, Debug)]
pub(crate) struct SetArguments {
    /// The secret
    name: SecretName,
    /// The only field to set
    field: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct RotateArguments {
    /// The secret
    name: SecretName,
    /// End the old value of an earlier rotation
    #[arg(long, conflicts_with_all = ["leaked", "print"])]
    finish: bool,
    /// The old value has leaked: it is not accepted any more, and who still sends it is refused
    #[arg(long)]
    leaked: bool,
    /// Print the new value, and nothing else, on stdout
    #[arg(long)]
    print: bool,
}

/// A secret, by the last part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SecretName {
    App,
    Webhook,
    Hook,
    Signing,
    Exotel,
    Asterisk,
    Fcm,
}

type Fields = Map<String, Value>;

/// Whether a value comes from an example: `change-me`, `<key>`, `…`.
fn is_placeholder(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.contains("change-me") || text.starts_with('<') || text.contains('…')
}

impl SecretName {
    /// All secrets.
    pub(crate) const ALL: [Self; 7] = [
        Self::App,
        Self::Webhook,
        Self::Hook,
        Self::Signing,
        Self::Exotel,
        Self::Asterisk,
        Self::Fcm,
    ];

    /// Reads the secret. One without a value has no fields.
    pub(crate) async fn read(self, deployment: &Deployment) -> Result<Fields> {
        match deployment.secret(self.output()).await? {
            None => Ok(Fields::new()),
            Some(Ok(Value::Object(fields))) => Ok(fields),
            // The parser's error may contain parts of the secret.
            Some(_) => Err(Failure::refused(format!(
                "The secret {} is not a JSON object: write it again with `aws secretsmanager put-secret-value`.",
                self.name()
            ))),
        }
    }

    /// Whether the secret still has the value that its stack has generated.
    pub(crate) async fn is_as_generated(self, deployment: &Deployment) -> Result<bool> {
        let versions = deployment.secret_versions(self.output());
        Ok(self.generated().is_some() && versions.await? == 1)
    }

    /// What is wrong with the value of the secret.
    pub(crate) async fn fault(self, deployment: &Deployment) -> Result<Option<Finding>> {
        let unusable = Fault::SecretUnusable.at(self.name());
        let fields = match deployment.secret(self.output()).await? {
            Some(Ok(Value::Object(fields))) => fields,
            Some(_) => return Ok(Some(unusable.seen("it is not a JSON object"))),
            // A deployment without calls to telephones has none.
            None if self == Self::Exotel => return Ok(None),
            None => return Ok(Some(Fault::SecretMissing.at(self.name()))),
        };
        let placeholder = fields.iter().find(|(_, value)| is_placeholder(value));
        let lacking = self
            .fields()
            .iter()
            .find(|field| !fields.contains_key(**field));
        Ok(match (self.check(&fields), placeholder, lacking) {
            (Err(failure), ..) => Some(unusable.seen(failure)),
            (_, Some((field, _)), _) => Some(unusable.seen(format!("{field} is a placeholder"))),
            (_, _, Some(field)) if self == Self::Exotel && !fields.is_empty() => {
                Some(unusable.seen(format!("it has no {field}, which calls to telephones need")))
            }
            _ => None,
        })
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Webhook => "webhook",
            Self::Hook => "hook",
            Self::Signing => "signing",
            Self::Exotel => "exotel",
            Self::Asterisk => "asterisk",
            Self::Fcm => "fcm",
        }
    }

    /// The stack's output with its ARN.
    pub(crate) const fn output(self) -> &'static str {
        match self {
            Self::App => "AppSecretArn",
            Self::Webhook => "WebhookSecretArn",
            Self::Hook => "HookSecretArn",
            Self::Signing => "SigningSecretArn",
            Self::Exotel => "ExotelSecretArn",
            Self::Asterisk => "AsteriskSecretArn",
            Self::Fcm => "FcmSecretArn",
        }
    }

    /// The fields that can be set one by one; none of the key file of a service account.
    const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::App => &["jwt_secret", "jwt_secret_previous"],
            Self::Webhook => &["webhook_secret", "webhook_secret_previous"],
            Self::Hook => &["hook_secret", "hook_secret_previous"],
            Self::Signing => &["signing_secret", "signing_secret_previous"],
            Self::Exotel => &["account_sid", "api_key", "api_token", "caller_id"],
            Self::Asterisk => &["ari_username", "ari_password", "ari_ca_pem"],
            Self::Fcm => &[],
        }
    }

    /// The fields that a person types. A certificate has several lines, and the previous value of a rotation is not typed.
    fn typed_fields(self) -> impl Iterator<Item = &'static str> {
        let fields = self.fields().iter().copied();
        fields.filter(|field| !field.ends_with("_pem") && !field.ends_with("_previous"))
    }

    /// The field that Ringback generates, and the field of its previous value.
    const fn generated(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::App | Self::Webhook | Self::Hook | Self::Signing => {
                let fields = self.fields();
                Some((fields[0], fields[1]))
            }
            Self::Exotel | Self::Asterisk | Self::Fcm => None,
        }
    }

    /// Whether the fault says that the other side refuses this secret, or is not reachable. No other side knows a secret that Ringback
    /// generates.
    const fn concerns(self, fault: Fault) -> bool {
        match self {
            Self::Exotel => matches!(fault, Fault::ExotelRefused | Fault::ExotelUnreachable),
            Self::Asterisk => matches!(
                fault,
                Fault::AriPassword
                    | Fault::AriCertificate
                    | Fault::AriRefused
                    | Fault::AriUnreachable
            ),
            Self::Fcm => matches!(fault, Fault::FcmRefused | Fault::FcmUnreachable),
            Self::App | Self::Webhook | Self::Hook | Self::Signing => false,
        }
    }

    /// When the functions use a changed value.
    const fn takes_effect(self) -> &'static str {
        match self {
            Self::App | Self::Webhook | Self::Hook | Self::Signing => {
                "The functions fetch it when somebody uses the new value, at the latest after a minute."
            }
            Self::Exotel => {
                "The functions fetch it when Exotel refuses the old value; only new processes use a changed caller_id."
            }
            Self::Asterisk => "The functions fetch it when the PBX refuses the old value.",
            Self::Fcm => "The functions fetch it when Google refuses the old key.",
        }
    }

    /// Checks that the functions can use the secret. The errors contain no values.
    fn check(self, fields: &Fields) -> Result<()> {
        let value = Value::Object(fields.clone());
        if self == Self::Fcm {
            // Another file of Google's has other fields, and what is wrong with them says nothing.
            self.check_as::<ServiceAccount>(value.clone())?;
        }
        for (field, value) in fields {
            if self != Self::Fcm && !self.fields().contains(&field.as_str()) {
                return Err(self.no_such_field(field));
            }
            if value.as_str().is_none_or(|text| text.trim().is_empty()) {
                return Err(Failure::wrong_use(format!(
                    "{field} must be a text that is not empty."
                )));
            }
        }
        match self {
            Self::App => self.check_as::<AppSecret>(value)?,
            Self::Webhook => self.check_as::<WebhookSecret>(value)?,
            Self::Hook => self.check_as::<HookSecret>(value)?,
            Self::Signing => self.check_as::<SigningSecret>(value)?,
            Self::Exotel => self.check_as::<ExotelAccount>(value)?,
            Self::Asterisk => self.check_as::<AriCredentials>(value)?,
            Self::Fcm => {}
        }
        let text = |field: &str| {
            fields
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        if let Some((field, _)) = self.generated()
            && text(field).len() < SHORTEST
        {
            return Err(Failure::wrong_use(format!(
                "{field} must have at least {SHORTEST} characters, or others can guess it."
            )));
        }
        let pem = text("ari_ca_pem");
        if !pem.is_empty() && !pem.contains("-----BEGIN CERTIFICATE-----") {
            return Err(Failure::wrong_use(
                "ari_ca_pem must be a certificate in PEM: it begins with -----BEGIN CERTIFICATE-----.",
            ));
        }
        if self == Self::Fcm && !text("private_key").contains("-----BEGIN") {
            return Err(Failure::wrong_use(
                "private_key must be a key in PEM: use the file that Google's console exports, unchanged.",
            ));
        }
        Ok(())
    }

    /// Reads the secret as the functions do. The parser's error can contain values, so it is dropped.
    fn check_as<T: DeserializeOwned>(self, value: Value) -> Result<()> {
        let required = match self {
            Self::Asterisk => "ari_username and ari_password",
            Self::Fcm => {
                "project_id, client_email, private_key, private_key_id and token_uri: this is not the key file of a service account. \
                 Make one in the Firebase console, at Project settings > Service accounts > Generate new private key"
            }
            _ => self.fields().first().copied().unwrap_or_default(),
        };
        match serde_json::from_value::<T>(value) {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::wrong_use(format!(
                "The secret {} needs {required}.",
                self.name()
            ))),
        }
    }

    /// Lets the function `doctor` try the value, which is set already.
    async fn try_value(self, deployment: &Deployment, output: Output) -> Vec<Finding> {
        if self.generated().is_some() {
            return vec![];
        }
        match doctor::ask_function(deployment).await {
            Ok(examination) => {
                let findings = examination.findings.into_iter();
                findings
                    .filter(|finding| self.concerns(finding.fault))
                    .collect()
            }
            Err(failure) => {
                output.note(&format!(
                    "The value is set, and was not tried: {failure} `ringback doctor` tries it later."
                ));
                vec![]
            }
        }
    }

    fn no_such_field(self, field: &str) -> Failure {
        let known = self.fields().join(", ");
        Failure::wrong_use(match self {
            Self::Fcm => "fcm has no fields to set one by one: use `ringback secret set fcm < service-account.json`.".to_owned(),
            _ => format!("{} has no field {field:.64}, only {known}.", self.name()),
        })
    }
}

/// Runs `ringback secret`, and returns whether no fault of the value was found.
pub(crate) async fn run(
    deployment: &Deployment,
    command: SecretCommand,
    output: Output,
) -> Result<bool> {
    match command {
        SecretCommand::Set(arguments) => set(deployment, &arguments, output).await,
        SecretCommand::Rotate(arguments) => {
            let rotated = rotate(deployment, &arguments, output).await;
            rotated.map(|()| true)
        }
    }
}

async fn set(deployment: &Deployment, arguments: &SetArguments, output: Output) -> Result<bool> {
    let name = arguments.name;
    let given = match &arguments.field {
        Some(field) if !name.fields().contains(&field.as_str()) => {
            return Err(name.no_such_field(field));
        }
        Some(field) => Fields::from_iter([(field.clone(), read_value(field)?.into())]),
        None if std::io::stdin().is_terminal() => ask_for_fields(name)?,
        None => read_fields(name)?,
    };
    let before = name.read(deployment).await?;
    let after = match name {
        // A key file has one meaning as a whole.
        SecretName::Fcm => given,
        _ => merged(before.clone(), given),
    };
    name.check(&after)?;
    let changed: Vec<&str> = after
        .iter()
        .filter(|(field, value)| before.get(*field) != Some(value))
        .map(|(field, _)| field.as_str())
        .chain(
            before
                .keys()
                .filter(|field| !after.contains_key(*field))
                .map(String::as_str),
        )
        .collect();
    let secret = format!("{}/{}", deployment.name, name.name());
    let mut document = json!({ "secret": secret, "changed": changed });
    let mut text = format!("{secret} has these values already.");
    if !changed.is_empty() {
        deployment
            .put_secret(name.output(), &Value::Object(after.clone()))
            .await?;
        text = format!("{secret}: {} changed.", changed.join(", "));
    }
    let findings = name.try_value(deployment, output).await;
    if !findings.is_empty() {
        document["findings"] = doctor::documents(&findings).into();
        text = format!("{text}\n\n{}", doctor::text(&findings));
    }
    output.print(&document, &text)?;
    if !changed.is_empty() {
        output.note(name.takes_effect());
        note_other_region(deployment, name, output);
    }
    Ok(findings.is_empty())
}

/// Merges fields as a JSON merge patch does: null removes a field.
fn merged(mut fields: Fields, given: Fields) -> Fields {
    for (field, value) in given {
        match value {
            Value::Null => fields.remove(&field),
            value => fields.insert(field, value),
        };
    }
    fields
}

fn read_value(field: &str) -> Result<String> {
    let value = match std::io::stdin().is_terminal() {
        true => prompt::ask(&format!("{field}: "))?,
        false => read_stdin()?,
    };
    // `echo` and editors add a line break. In a certificate it does no harm, and is not needed.
    let value = value.trim_end_matches(['\r', '\n']);
    match value.is_empty() {
        false => Ok(value.to_owned()),
        true => Err(Failure::wrong_use(format!(
            "No value was given for {field}; nothing was changed."
        ))),
    }
}

fn read_stdin() -> Result<String> {
    std::io::read_to_string(std::io::stdin())
        .map_err(|error| Failure::wrong_use(format!("stdin cannot be read: {error}.")))
}

fn read_fields(name: SecretName) -> Result<Fields> {
    parse_fields(name, &read_stdin()?)
}

fn parse_fields(name: SecretName, text: &str) -> Result<Fields> {
    // The parser's error may contain parts of the secret.
    serde_json::from_str(text).map_err(|_| {
        let example = name.typed_fields().map(|field| format!("\"{field}\":\"…\""));
        let example = example.collect::<Vec<_>>().join(",");
        Failure::wrong_use(match name {
            SecretName::Fcm => "stdin must have the key file of a service account: `ringback secret set fcm < service-account.json`.".to_owned(),
            _ => format!("stdin must have a JSON object with the fields to set, such as {{{example}}}."),
        })
    })
}

/// Asks for each field, in a terminal.
fn ask_for_fields(name: SecretName) -> Result<Fields> {
    if name.fields().is_empty() {
        return Err(name.no_such_field(""));
    }
    let mut given = Fields::new();
    for field in name.typed_fields() {
        let value = prompt::ask(&format!("{field} (empty: as it is): "))?;
        if !value.is_empty() {
            given.insert(field.to_owned(), value.into());
        }
    }
    Ok(given)
}

async fn rotate(
    deployment: &Deployment,
    arguments: &RotateArguments,
    output: Output,
) -> Result<()> {
    let name = arguments.name;
    let Some((field, previous)) = name.generated() else {
        return Err(Failure::wrong_use(format!(
            "Ringback does not make the secret {0}: make a new one where it comes from, and write it with `ringback secret set {0}`.",
            name.name()
        )));
    };
    if name == SecretName::App
        && let Some(algorithm) = deployment.providers_algorithm()
    {
        return Err(Failure::refused(format!(
            "This deployment accepts {algorithm} tokens of your identity provider and does not use the secret app."
        )));
    }
    let mut fields = name.read(deployment).await?;
    let secret = format!("{}/{}", deployment.name, name.name());
    let has_previous = fields.contains_key(previous);
    let (document, text, value) = if arguments.finish {
        if fields.remove(previous).is_none() {
            let text = format!("{secret} has no old value.");
            return output.print(&json!({ "secret": secret, "changed": [] }), &text);
        }
        let text = format!(
            "{secret}: the old value is not accepted any more, at the latest after a minute."
        );
        (
            json!({ "secret": secret, "changed": [previous] }),
            text,
            None,
        )
    } else {
        if has_previous && !arguments.leaked {
            return Err(Failure::refused(format!(
                "{secret} still has the old value of an earlier rotation: end that first with `ringback secret rotate {} --finish`.",
                name.name()
            )));
        }
        let value = generate();
        let old = fields.insert(field.to_owned(), value.as_str().into());
        match old {
            Some(old) if !arguments.leaked => fields.insert(previous.to_owned(), old),
            _ => fields.remove(previous),
        };
        let text = match arguments.leaked {
            true => format!(
                "{secret} has a new value. The old one is refused as soon as somebody uses the new one."
            ),
            false => format!(
                "{secret} has a new value, and the old one stays accepted. Wait a minute, use the new value, then run `ringback secret rotate {} --finish`.",
                name.name()
            ),
        };
        (
            json!({ "secret": secret, "changed": [field, previous] }),
            text,
            Some(value),
        )
    };
    name.check(&fields)?;
    deployment
        .put_secret(name.output(), &Value::Object(fields))
        .await?;
    match value.filter(|_| arguments.print) {
        Some(value) => {
            output.note(&text);
            let mut document = document;
            document["value"] = value.as_str().into();
            output.print(&document, &value)?;
        }
        None => output.print(&document, &text)?,
    }
    note_other_region(deployment, name, output);
    Ok(())
}

fn note_other_region(deployment: &Deployment, name: SecretName, output: Output) {
    if let Some(other) = deployment.parameter("OtherRegion") {
        output.note(&format!(
            "This is the secret of {}. The one of {other} must be equal: set it too, with `ringback secret set {} --region {other}`.",
            deployment.region(),
            name.name()
        ));
    }
}

/// 244 random bits, in characters that are safe in URLs, headers and configuration files.
pub(crate) fn generate() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "0123456789abcdef0123456789abcdef";

    fn fields(value: Value) -> Fields {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn given_fields_replace_and_null_removes() {
        let before = fields(
            json!({ "ari_username": "ringback", "ari_password": "old", "ari_ca_pem": "pem" }),
        );
        let given = fields(json!({ "ari_password": "new", "ari_ca_pem": null }));
        let expected = json!({ "ari_username": "ringback", "ari_password": "new" });
        assert_eq!(Value::Object(merged(before, given)), expected);
    }

    #[test]
    fn a_secret_that_the_functions_cannot_use_is_refused_without_its_values() {
        use SecretName::{App, Asterisk, Exotel, Fcm, Signing};
        for (name, value, expected) in [
            (App, json!({}), "needs jwt_secret"),
            (App, json!({ "jwt_secret": "hush" }), "at least 32"),
            (
                App,
                json!({ "jwt_secret": ["hush"] }),
                "jwt_secret must be a text",
            ),
            (
                App,
                json!({ "jwt_secret": LONG, "hush": LONG }),
                "no field hush",
            ),
            (Signing, json!({ "signing_secret": " " }), "not empty"),
            (Asterisk, json!({ "ari_username": "u" }), "ari_password"),
            (
                Asterisk,
                json!({ "ari_username": "u", "ari_password": "hush", "ari_ca_pem": "hush" }),
                "in PEM",
            ),
            (Exotel, json!({ "sid": "hush" }), "only account_sid"),
            (Fcm, json!({ "project_id": "hush" }), "needs project_id"),
            // google-services.json
            (
                Fcm,
                json!({ "project_info": { "project_id": "hush" }, "client": [], "configuration_version": "1" }),
                "not the key file of a service account",
            ),
        ] {
            let failure = name.check(&fields(value)).unwrap_err();
            assert_eq!(failure.number(), 2);
            assert!(failure.to_string().contains(expected), "{failure}");
            assert!(
                !failure
                    .to_string()
                    .replace("no field hush", "")
                    .contains("hush"),
                "{failure}"
            );
        }
        for (name, value) in [
            (
                App,
                json!({ "jwt_secret": LONG, "jwt_secret_previous": "short" }),
            ),
            (Exotel, json!({ "account_sid": "acme" })),
            (
                Asterisk,
                json!({ "ari_username": "u", "ari_password": "p" }),
            ),
            (
                Fcm,
                json!({
                    "type": "service_account", "project_id": "p", "client_email": "c", "private_key_id": "i", "token_uri": "t",
                    "private_key": "-----BEGIN PRIVATE KEY-----",
                }),
            ),
        ] {
            assert_eq!(name.check(&fields(value)), Ok(()));
        }
    }

    #[test]
    fn a_text_that_is_no_object_gets_the_example_of_its_secret() {
        for (name, expected) in [
            (SecretName::App, r#"{"jwt_secret":"…"}"#),
            (
                SecretName::Asterisk,
                r#"{"ari_username":"…","ari_password":"…"}"#,
            ),
            (SecretName::Fcm, "set fcm < service-account.json"),
        ] {
            let failure = parse_fields(name, "").unwrap_err().to_string();
            assert!(failure.contains(expected), "{failure}");
        }
    }

    #[test]
    fn a_generated_value_is_accepted_and_never_the_same() {
        let (one, two) = (generate(), generate());
        assert_ne!(one, two);
        let app = fields(json!({ "jwt_secret": one, "jwt_secret_previous": two }));
        assert_eq!(SecretName::App.check(&app), Ok(()));
    }
}
