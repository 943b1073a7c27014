//! `ringback pbx init`: the examples of `asterisk/ringback-site/`, filled in from the deployment.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use ringback_core::ids::Extension;
use serde_json::{Value, json};

use crate::deployment::Deployment;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::secret::generate;
use crate::secret_name::SecretName;

pub(crate) const HELP: &str = "\
Each phone gets a new password. ARI's user and password are those of the secret asterisk; if that is empty, they are new, and
--set-secret writes them there too. Existing files are never changed. `transports.conf` and `haproxy.cfg` have the paths of the examples
for certificates: edit them, and behind NAT the addresses in `transports.conf` and `rtp.conf`.

Example:
  ringback pbx init --trunk 203.0.113.7 --trunk 203.0.113.8 --extension 1001 --extension 1002 --set-secret";

/// The names of the examples and their texts.
macro_rules! examples {
    ($($name:literal),*) => {
        [$(($name, include_str!(concat!("../../../asterisk/ringback-site/", $name, ".example")))),*]
    };
}

const EXAMPLES: [(&str, &str); 10] = examples!(
    "ari.conf",
    "dialplan.conf",
    "haproxy.cfg",
    "http.conf",
    "musiconhold.conf",
    "phones.conf",
    "rtp.conf",
    "smoke.conf",
    "transports.conf",
    "trunk.conf"
);

#[derive(Args, Debug)]
pub(crate) struct InitArguments {
    /// An address from which Exotel's trunk calls; ask Exotel for those of your account's region
    #[arg(long, required = true, value_name = "ADDRESS")]
    trunk: Vec<IpAddr>,
    /// An extension that gets a SIP account, which its devices share
    #[arg(long, value_name = "EXTENSION")]
    extension: Vec<String>,
    /// The name of this PBX in AriUrl, if that lists several
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The RegionalHttpUrl of a second region, which gets the reports that the first one does not accept
    #[arg(long, value_name = "URL")]
    fallback: Option<String>,
    /// The folder for the files
    #[arg(long, default_value = "ringback-site")]
    into: PathBuf,
    /// Write a new ARI user and password into the secret asterisk too; its other fields stay
    #[arg(long)]
    set_secret: bool,
}

/// What the site files are filled in with.
struct Site<'a> {
    arguments: &'a InitArguments,
    hook_url: &'a str,
    hook_secret: String,
    ari: (String, String),
    longest_wait: u32,
}

/// Runs `ringback pbx init`.
pub(crate) async fn run(
    deployment: &Deployment,
    arguments: InitArguments,
    output: Output,
) -> Result<()> {
    check_arguments(deployment, &arguments)?;
    let hook = SecretName::Hook.read(deployment).await?;
    let hook_secret = hook.get("hook_secret").and_then(Value::as_str);
    let hook_secret = hook_secret.ok_or_else(|| {
        Failure::refused(
            "The secret hook has no hook_secret: make one with `ringback secret set hook hook_secret`.",
        )
    })?;
    let mut asterisk = SecretName::Asterisk.read(deployment).await?;
    let stored = |name: &str| {
        asterisk
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let known = stored("ari_username").zip(stored("ari_password"));
    let is_new = known.is_none();
    let seconds = |name: &str, default| {
        let value = deployment
            .parameter(name)
            .and_then(|value| value.parse().ok());
        value.unwrap_or(default)
    };
    let site = Site {
        hook_url: deployment.output("RegionalHttpUrl")?,
        hook_secret: hook_secret.to_owned(),
        ari: known.unwrap_or_else(|| ("ringback".to_owned(), generate())),
        // Longer than the cloud lets a call wait, with a reserve for its timers.
        longest_wait: seconds("RingTimeoutSeconds", 30) + seconds("ConnectTimeoutSeconds", 15) + 15,
        arguments: &arguments,
    };
    write_all(&site)?;
    if is_new && arguments.set_secret {
        let (user, password) = site.ari.clone();
        asterisk.insert("ari_username".to_owned(), user.into());
        asterisk.insert("ari_password".to_owned(), password.into());
        let asterisk = Value::Object(asterisk);
        let output = SecretName::Asterisk.output();
        deployment.put_secret(output, &asterisk).await?;
    }
    let folder = arguments.into.display();
    let secret = match (is_new, arguments.set_secret) {
        (false, _) => "ARI's user and password are those of the secret asterisk.",
        (true, true) => "The secret asterisk has ARI's new user and password.",
        (true, false) => {
            "Set ari_username and ari_password of ari.conf with `ringback secret set asterisk`."
        }
    };
    let text = format!(
        "Wrote {} files to {folder}. {secret}\n\
         Edit the certificates in transports.conf and haproxy.cfg, and behind NAT the addresses in transports.conf and rtp.conf.\n\
         Then, on the PBX: copy the folder to /etc/asterisk/ringback-site, and its haproxy.cfg to /etc/haproxy/ringback-site.cfg,\n\
         run `chown -R asterisk: /etc/asterisk/ringback-site`, restart Asterisk and haproxy, and run `ringback pbx check`.",
        EXAMPLES.len()
    );
    let names: Vec<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
    let document = json!({ "folder": arguments.into, "files": names, "secret_set": is_new && arguments.set_secret });
    output.print(&document, &text)
}

fn check_arguments(deployment: &Deployment, arguments: &InitArguments) -> Result<()> {
    if let Some(loopback) = arguments.trunk.iter().find(|address| address.is_loopback()) {
        return Err(Failure::wrong_use(format!(
            "{loopback} is an address of the PBX itself: WebSocket phones connect from there, and would be the trunk."
        )));
    }
    for extension in &arguments.extension {
        let checked = Extension::try_from(extension.as_str());
        checked.map_err(|error| Failure::wrong_use(format!("The {error}.")))?;
    }
    let list = deployment.parameter("AriUrl").unwrap_or_default();
    if arguments.name.is_none() && !list.contains(',') {
        return Ok(());
    }
    match &arguments.name {
        Some(name) => super::check_name(deployment, name),
        None => Err(Failure::wrong_use(format!(
            "AriUrl lists several PBXs ({}): say which one this is, with --name.",
            super::names(deployment)?.join(", ")
        ))),
    }
}

/// Writes all files, or none.
fn write_all(site: &Site<'_>) -> Result<()> {
    let folder = &site.arguments.into;
    let problem = |path: &Path, error: std::io::Error| {
        Failure::refused(format!("{} cannot be written: {error}.", path.display()))
    };
    fs::create_dir_all(folder).map_err(|error| problem(folder, error))?;
    if let Some((name, _)) = EXAMPLES.iter().find(|(name, _)| folder.join(name).exists()) {
        return Err(Failure::refused(format!(
            "{} exists already, and nothing was written: remove it, or write into another folder with --into.",
            folder.join(name).display()
        )));
    }
    for (name, example) in EXAMPLES {
        let path = folder.join(name);
        // Passwords: only for their owner, and for the group that the owner gives them.
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(&path);
        file.and_then(|mut file| file.write_all(site.file(name, example).as_bytes()))
            .map_err(|error| problem(&path, error))?;
    }
    Ok(())
}

impl Site<'_> {
    /// The text of a site file.
    fn file(&self, name: &str, example: &str) -> String {
        let first = format!("Copy to {name}. ");
        let text = example.replacen(&first, "Written by `ringback pbx init`. ", 1);
        match name {
            "ari.conf" => {
                let (user, password) = &self.ari;
                let text = text.replace("[ringback]", &format!("[{user}]"));
                with_value(&text, "password", password)
            }
            "dialplan.conf" => self.dialplan(&text),
            "phones.conf" => self.phones(),
            "trunk.conf" => self.trunk(&text),
            _ => text,
        }
    }

    fn dialplan(&self, text: &str) -> String {
        let InitArguments { name, fallback, .. } = self.arguments;
        let wait = self.longest_wait.to_string();
        let mut text = with_value(
            text,
            "RINGBACK_HOOK_URL",
            self.hook_url.trim_end_matches('/'),
        );
        text = with_value(&text, "RINGBACK_HOOK_SECRET", &self.hook_secret);
        text = with_value(&text, "RINGBACK_MAX_WAIT_SECONDS", &wait);
        for (variable, value) in [
            ("RINGBACK_PBX", name),
            ("RINGBACK_FALLBACK_HOOK_URL", fallback),
        ] {
            if let Some(value) = value {
                text = text.replace(&format!(";{variable} = "), &format!("{variable} = "));
                text = with_value(&text, variable, value);
            }
        }
        text
    }

    fn phones(&self) -> String {
        let mut text =
            "; Written by `ringback pbx init`. phones.conf.example explains the templates.\n"
                .to_owned();
        for extension in &self.arguments.extension {
            let password = generate();
            text.push_str(&format!(
                "\n[{extension}](phone)\nauth = {extension}\naors = {extension}\n\n\
                 [{extension}](phone-auth)\nusername = {extension}\npassword = {password}\n\n\
                 [{extension}](phone-aor)\n"
            ));
        }
        text
    }

    fn trunk(&self, text: &str) -> String {
        let lines = text.lines().filter(|line| !line.starts_with("match = "));
        let addresses = self.arguments.trunk.iter();
        let addresses = addresses.map(|address| format!("match = {address}"));
        let lines = lines.map(str::to_owned).chain(addresses);
        lines.collect::<Vec<_>>().join("\n") + "\n"
    }
}

/// The text with another value of this setting.
fn with_value(text: &str, setting: &str, value: &str) -> String {
    let begin = format!("{setting} = ");
    let lines = text.lines().map(|line| match line.starts_with(&begin) {
        true => format!("{begin}{value}\n"),
        false => format!("{line}\n"),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_written() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../asterisk/ringback-site");
        let mut examples: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".example").map(str::to_owned))
            .collect();
        examples.sort();
        assert_eq!(examples, EXAMPLES.map(|(name, _)| name.to_owned()));
    }
}
