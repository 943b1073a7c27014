//! `ringback secret`: writes the secrets of a deployment. No value is ever an argument, because other users of the machine and the
//! history of the shell would have it.

use std::io::IsTerminal;

use clap::{Args, Subcommand};
use ringback::doctor::Finding;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::deployment::Deployment;
use crate::doctor;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::prompt;
use crate::secret_name::{Fields, SecretName};

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
    let findings = try_value(name, deployment, output).await;
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

/// Lets the function `doctor` try the value, which is set already.
async fn try_value(name: SecretName, deployment: &Deployment, output: Output) -> Vec<Finding> {
    if name.generated().is_some() {
        return vec![];
    }
    match doctor::ask_function(deployment).await {
        Ok(examination) => {
            let findings = examination.findings.into_iter();
            findings
                .filter(|finding| name.concerns(finding.fault))
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
