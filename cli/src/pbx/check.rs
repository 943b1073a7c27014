//! `ringback pbx check`: looks at the files of this PBX, its running Asterisk, its ports and certificates, and at the cloud as the
//! dialplan reaches it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Finished};
use std::time::Duration;

use clap::Args;
use reqwest::{Client, StatusCode, Url};
use ringback::asterisk::DIALPLAN_CONTEXTS;
use ringback::platform::clock;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api::http_client;
use crate::deployment::{innermost, sentence};
use crate::failure::{Failure, Result};
use crate::output::Output;

pub(crate) const HELP: &str = "\
Run it on the PBX, as a user who may read the site files and use Asterisk's console, such as root. It changes nothing. The exit code
is 1 if it finds a mistake.

Example:
  sudo ringback pbx check";

/// The longest wait for the cloud and for a port.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A certificate must be valid for so long, or its renewal does not work.
const CERTIFICATE_DAYS: u32 = 14;
/// The largest difference between the clocks of this PBX and of the cloud. NTP keeps it below 0.1 s.
const CLOCK_SECONDS: u64 = 5;

/// The modules that Asterisk must load.
const MODULES: &str = include_str!("../../../asterisk/modules.conf");
/// A call that does not exist. The cloud answers `no_such_call` to a report of it, if it accepts the secret.
const NO_CALL: &str = "channel_id=ringback-check&call_id=00000000-0000-8000-8000-000000000000";

#[derive(Args, Debug)]
pub(crate) struct CheckArguments {
    /// The folder with Asterisk's configuration
    #[arg(long, value_name = "FOLDER", default_value = "/etc/asterisk")]
    config: PathBuf,
    /// The command that starts Asterisk, with its arguments
    #[arg(long, value_name = "COMMAND", default_value = "asterisk")]
    asterisk: String,
}

/// The PBX on this machine, and what is wrong with it.
struct Pbx {
    arguments: CheckArguments,
    http: Client,
    mistakes: Vec<Mistake>,
}

/// What is wrong, and what to do.
struct Mistake {
    kind: &'static str,
    problem: String,
    fix: String,
}

/// Runs `ringback pbx check`.
pub(crate) async fn run(arguments: CheckArguments, output: Output) -> Result<()> {
    let mut pbx = Pbx {
        arguments,
        http: http_client(TIMEOUT)?,
        mistakes: Vec::new(),
    };
    pbx.check_site_files()?;
    pbx.check_certificates()?;
    pbx.check_ports().await?;
    if pbx.runs() {
        pbx.check_modules()?;
        pbx.check_contexts()?;
        pbx.check_ari().await?;
        pbx.check_hooks().await?;
    }
    let mistakes = &pbx.mistakes;
    let document: Vec<Value> = mistakes.iter().map(Mistake::to_json).collect();
    let lines: Vec<String> = mistakes.iter().map(Mistake::text).collect();
    let text = match lines.is_empty() {
        true => "No mistake found.".to_owned(),
        false => lines.join("\n"),
    };
    output.print(&json!({ "mistakes": document }), &text)?;
    match mistakes.len() {
        0 => Ok(()),
        1 => Err(Failure::refused("There is a mistake.")),
        many => Err(Failure::refused(format!("There are {many} mistakes."))),
    }
}

impl Pbx {
    fn found(&mut self, kind: &'static str, problem: impl Into<String>, fix: impl Into<String>) {
        self.mistakes.push(Mistake {
            kind,
            problem: problem.into(),
            fix: fix.into(),
        });
    }

    fn site(&self, name: &str) -> PathBuf {
        self.arguments.config.join("ringback-site").join(name)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.site(name);
        fs::read_to_string(&path).map_err(|error| {
            Failure::wrong_use(format!(
                "{} cannot be read: {error}. Name Asterisk's folder with --config, and run this command as root.",
                path.display()
            ))
        })
    }

    /// Runs the script that Asterisk's unit runs before each start.
    fn check_site_files(&mut self) -> Result<()> {
        let script = self.arguments.config.join("check-site.sh");
        if !script.exists() {
            self.found(
                "site_check",
                format!("{} is missing.", script.display()),
                "Copy check-site.sh, and the *.example files of ringback-site, beside the site files.",
            );
            return Ok(());
        }
        let checked = finish(Command::new("sh").arg(&script))?;
        for line in String::from_utf8_lossy(&checked.stderr).lines() {
            let problem = line.strip_prefix("ringback-site: ").unwrap_or(line);
            self.found(
                "site_file",
                sentence(problem),
                "Edit the file, and run `asterisk -rx \"core reload\"`.",
            );
        }
        Ok(())
    }

    /// The certificates of SIP over TLS and of the proxy.
    fn check_certificates(&mut self) -> Result<()> {
        let of_sip = values(&self.read("transports.conf")?, "cert_file");
        let of_sip = of_sip.into_iter().map(|path| (path, "transports.conf"));
        let of_proxy = proxy_values(&self.read("haproxy.cfg")?, "RINGBACK_CERTIFICATE");
        let of_proxy = of_proxy.into_iter().map(|path| (path, "haproxy.cfg"));
        for (path, site_file) in of_sip.chain(of_proxy) {
            if Path::new(&path).try_exists().is_ok_and(|exists| !exists) {
                self.found(
                    "certificate",
                    format!("There is no file {path}, which {site_file} names."),
                    format!("Put the certificate there, or correct the path in ringback-site/{site_file}."),
                );
                continue;
            }
            let within = (CERTIFICATE_DAYS * 24 * 60 * 60).to_string();
            let mut openssl = Command::new("openssl");
            let openssl = openssl.args(["x509", "-noout", "-checkend", &within, "-in", &path]);
            let checked = finish(openssl)?;
            if checked.status.success() {
                continue;
            }
            // `openssl` says "Certificate will expire" on stdout, and on stderr why a file is no certificate.
            let problem = match checked.stdout.is_empty() {
                false => format!(
                    "The certificate {path} has expired, or expires within {CERTIFICATE_DAYS} days."
                ),
                true => format!("{path} has no certificate that can be read."),
            };
            let fix = "Renew it, restart Asterisk, and for the proxy put certificate and key into one file again and reload haproxy.";
            self.found("certificate", problem, fix);
        }
        Ok(())
    }

    /// Connects to each TCP port of SIP and of the proxy.
    async fn check_ports(&mut self) -> Result<()> {
        let proxy = self.read("haproxy.cfg")?;
        let of_proxy = ["RINGBACK_PHONES_BIND", "RINGBACK_ARI_BIND"]
            .iter()
            .flat_map(|name| proxy_values(&proxy, name))
            .map(|bind| ("haproxy", bind));
        let transports = self.read("transports.conf")?;
        let of_sip = transports
            .split("\n[")
            .filter(|section| {
                let protocol = values(section, "protocol");
                protocol.iter().any(|name| name == "tls" || name == "tcp")
            })
            .flat_map(|section| values(section, "bind"))
            .map(|bind| ("Asterisk", bind));
        for (program, bind) in of_sip.chain(of_proxy).collect::<Vec<_>>() {
            let address = match bind.rsplit_once(':') {
                Some(("" | "*" | "0.0.0.0" | "[::]", port)) => format!("127.0.0.1:{port}"),
                _ => bind.clone(),
            };
            let connected = timeout(TIMEOUT, TcpStream::connect(&address)).await;
            if !connected.is_ok_and(|connected| connected.is_ok()) {
                self.found(
                    "port",
                    format!("{program} does not listen at {bind}."),
                    format!(
                        "Start {program}, and look at its log: another program may use the port, or its certificate cannot be read."
                    ),
                );
            }
        }
        Ok(())
    }

    /// The answer of Asterisk's console to a command. `None` if Asterisk does not run, or does not let this user in.
    fn console(&self, command: &str) -> Option<String> {
        let mut words = self.arguments.asterisk.split_whitespace();
        let mut asterisk = Command::new(words.next()?);
        let done = asterisk.args(words).args(["-rx", command]).output().ok()?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        done.status.success().then_some(text)
    }

    fn runs(&mut self) -> bool {
        let runs = self.console("core show version").is_some();
        if !runs {
            self.found(
                "asterisk",
                format!("`{} -rx` cannot connect to Asterisk.", self.arguments.asterisk),
                "Start Asterisk, run this command as root, or name the command with --asterisk. The other checks need it.",
            );
        }
        runs
    }

    fn check_modules(&mut self) -> Result<()> {
        let loaded = self.console("module show").unwrap_or_default();
        let is_loaded = |module: &String| {
            let mut lines = loaded.lines();
            lines.any(|line| {
                line.split_whitespace().next() == Some(module) && line.contains(" Running ")
            })
        };
        let missing: Vec<String> = values(MODULES, "require")
            .into_iter()
            .filter(|module| !is_loaded(module))
            .collect();
        if !missing.is_empty() {
            self.found(
                "modules",
                format!("Asterisk does not run the modules {}.", missing.join(", ")),
                "Let modules.conf load them, install the packages that have them, and restart Asterisk.",
            );
        }
        Ok(())
    }

    fn check_contexts(&mut self) -> Result<()> {
        let dialplan = self.console("dialplan show").unwrap_or_default();
        let missing: Vec<&str> = DIALPLAN_CONTEXTS
            .into_iter()
            .filter(|name| !dialplan.contains(&format!("Context '{name}' created by")))
            .collect();
        if !missing.is_empty() {
            self.found(
                "contexts",
                format!("The dialplan has no context {}.", missing.join(", ")),
                "Copy extensions.conf, or #include it in yours, and run `asterisk -rx \"dialplan reload\"`.",
            );
        }
        Ok(())
    }

    /// Logs in at ARI with the user of the site file, directly at Asterisk.
    async fn check_ari(&mut self) -> Result<()> {
        let user_file = self.read("ari.conf")?;
        let mut sections = user_file.lines().filter_map(|line| {
            let name = line.trim().strip_prefix('[')?;
            Some(name.split_once(']')?.0.to_owned())
        });
        let user = sections.next().unwrap_or_default();
        let password = values(&user_file, "password").pop();
        let port = values(&self.read("http.conf")?, "bindport").pop();
        let port = port.unwrap_or_else(|| "8088".to_owned());
        let url = format!("http://127.0.0.1:{port}/ari/asterisk/ping");
        let ping = self.http.get(url).basic_auth(&user, password);
        match ping.send().await {
            Ok(answer) if answer.status().is_success() => {}
            Ok(answer) => self.found(
                "ari_user",
                format!("Asterisk answers {} to ARI's user {user} of ari.conf.", answer.status()),
                "Run `asterisk -rx \"core reload\"`. The secret asterisk must have the same user and password (`ringback secret set asterisk`).",
            ),
            Err(_) => self.found(
                "ari_port",
                format!("Asterisk's HTTP does not answer at 127.0.0.1:{port}."),
                "Copy http.conf and ari.conf, set bindport in ringback-site/http.conf, and restart Asterisk.",
            ),
        }
        Ok(())
    }

    /// Sends a report as the dialplan does, with the values that the running dialplan has.
    async fn check_hooks(&mut self) -> Result<()> {
        let globals = self.console("dialplan show globals").unwrap_or_default();
        let globals: BTreeMap<&str, &str> = globals
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .collect();
        let global = |name: &str| globals.get(name).copied().unwrap_or_default();
        let (secret, name) = (global("RINGBACK_HOOK_SECRET"), global("RINGBACK_PBX"));
        let form = match name {
            "" => NO_CALL.to_owned(),
            name => format!("{NO_CALL}&pbx={name}"),
        };
        let urls = ["RINGBACK_HOOK_URL", "RINGBACK_FALLBACK_HOOK_URL"];
        let urls = urls
            .into_iter()
            .filter(|variable| *variable == "RINGBACK_HOOK_URL" || !global(variable).is_empty());
        for variable in urls {
            self.check_hook(variable, global(variable), secret, &form)
                .await;
        }
        Ok(())
    }

    async fn check_hook(&mut self, variable: &str, url: &str, secret: &str, form: &str) {
        let report = self.http.post(format!("{url}/asterisk/bridged"));
        let report = report
            .header("x-ringback-secret", secret)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned());
        let edit = "in ringback-site/dialplan.conf, and run `asterisk -rx \"dialplan reload\"`.";
        let answer = match report.send().await {
            Ok(answer) => answer,
            Err(error) => {
                let fix = match is_loopback(url) {
                    true => format!(
                        "This address leads to the local cloud: start it on this machine with `make up`, or open the tunnel to it (docs/pbx.md). For a deployment on AWS, put the stack's output RegionalHttpUrl {edit}"
                    ),
                    false => format!(
                        "Put the stack's output RegionalHttpUrl {edit} This machine needs DNS and HTTPS to the internet."
                    ),
                };
                let cause = innermost(&error);
                return self.found(
                    "hook_url",
                    format!("{variable} ({url}) cannot be reached: {}", sentence(&cause)),
                    fix,
                );
            }
        };
        let cloud = answer
            .headers()
            .get("date")
            .and_then(|date| date.to_str().ok());
        if let Some(difference) = cloud.and_then(seconds_between)
            && difference > CLOCK_SECONDS
        {
            self.found(
                "clock",
                format!("The clock of this PBX differs from that of the cloud by {difference} s."),
                "Let NTP set the clock, for example with `timedatectl set-ntp true`.",
            );
        }
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        match (status, body["code"].as_str()) {
            (_, Some("no_such_call")) => {}
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => self.found(
                "hook_secret",
                format!("The cloud at {variable} rejects the secret of this PBX, or its address."),
                format!("Put hook_secret of the secret STACK/hook as RINGBACK_HOOK_SECRET {edit} PbxSourceCidrs, if set, must have this PBX."),
            ),
            (StatusCode::BAD_REQUEST, _) => self.found(
                "pbx_name",
                format!("The cloud refuses a report: {}", sentence(body["error"].as_str().unwrap_or("no reason"))),
                format!("Put the name that AriUrl has for this PBX as RINGBACK_PBX {edit}"),
            ),
            _ => self.found(
                "hook_url",
                format!("{variable} ({url}) answers {status}, and is not Ringback's API."),
                format!("Put the stack's output RegionalHttpUrl {edit}"),
            ),
        }
    }
}

impl Mistake {
    fn to_json(&self) -> Value {
        json!({ "kind": self.kind, "problem": self.problem, "fix": self.fix })
    }

    fn text(&self) -> String {
        format!("{}: {}\n  {}", self.kind, self.problem, self.fix)
    }
}

/// Whether the host of a URL is this machine.
fn is_loopback(url: &str) -> bool {
    let url = Url::parse(url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn finish(command: &mut Command) -> Result<Finished> {
    command.output().map_err(|error| {
        let program = command.get_program().display();
        Failure::wrong_use(format!("{program} cannot be started: {error}. Install it."))
    })
}

/// The values of a setting in one of Asterisk's files, without comments.
fn values(text: &str, setting: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.split(';').next()?.split_once('=')?;
        let value = value.trim_start_matches('>').trim();
        (name.trim() == setting).then(|| value.to_owned())
    });
    lines.collect()
}

/// The values of a variable in the proxy's site file.
fn proxy_values(text: &str, variable: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let is_it = words.next() == Some("setenv") && words.next() == Some(variable);
        is_it.then(|| words.next().map(|value| value.trim_matches('"').to_owned()))?
    });
    lines.collect()
}

/// How far the time of a `Date` header is from the clock of this machine.
fn seconds_between(date: &str) -> Option<u64> {
    let cloud = time::OffsetDateTime::parse(date, &time::format_description::well_known::Rfc2822);
    let cloud = u64::try_from(cloud.ok()?.unix_timestamp()).ok()?;
    Some((clock::now().as_millis() / 1000).abs_diff(cloud))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_without_comments() {
        let text = "[a]\nbind = 1:2 ; why\n;bind = 3\n[b]\nbind=>4\nbinder = 5\n";
        assert_eq!(values(text, "bind"), ["1:2", "4"]);
        let text = "global\n  setenv A :443\n  # setenv A 1\n  setenv B \"x\"\n";
        assert_eq!(proxy_values(text, "A"), [":443"]);
        assert_eq!(proxy_values(text, "B"), ["x"]);
    }

    #[test]
    fn a_missing_certificate_is_named_with_the_file_that_names_it() {
        let name = format!("ringback-check-{}", uuid::Uuid::new_v4().simple());
        let config = std::env::temp_dir().join(name);
        let site = config.join("ringback-site");
        fs::create_dir_all(&site).unwrap();
        let missing = config.join("sip.pem").display().to_string();
        fs::write(
            site.join("transports.conf"),
            format!("cert_file = {missing}\n"),
        )
        .unwrap();
        fs::write(site.join("haproxy.cfg"), "").unwrap();
        let mut pbx = Pbx {
            arguments: CheckArguments {
                config: config.clone(),
                asterisk: String::new(),
            },
            http: http_client(TIMEOUT).unwrap(),
            mistakes: vec![],
        };
        let checked = pbx.check_certificates();
        fs::remove_dir_all(config).unwrap();
        checked.unwrap();
        let found: Vec<&str> = pbx.mistakes.iter().map(|one| &*one.problem).collect();
        let expected = format!("There is no file {missing}, which transports.conf names.");
        assert_eq!(found, [expected]);
    }

    #[test]
    fn a_loopback_url_leads_to_this_machine() {
        for here in [
            "http://127.0.0.1:5050",
            "http://localhost:5050",
            "http://[::1]:5050",
        ] {
            assert!(is_loopback(here), "{here}");
        }
        assert!(!is_loopback(
            "https://abc.execute-api.ap-south-1.amazonaws.com"
        ));
        assert!(!is_loopback(""));
    }

    #[test]
    fn a_date_header_is_compared_with_the_clock() {
        let long_ago = seconds_between("Thu, 01 Jan 1970 00:00:00 GMT").unwrap();
        assert!(long_ago > 1_700_000_000);
        assert_eq!(seconds_between("yesterday"), None);
    }
}
