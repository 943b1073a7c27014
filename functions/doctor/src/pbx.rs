//! Each PBX is there, accepts the functions, and has a dialplan that can report to the cloud.

use futures::future::join_all;
use lambda_runtime::Error;
use ringback::asterisk::{Asterisk, AsteriskError, DialplanNotes, HookAnswer, Pbx};
use ringback::doctor::{Fault, Finding};
use ringback::platform::secrets::AriCredentials;
use ringback::start::Start;
use ringback_core::call::CallSettings;

/// Asterisk answers a wrong user or password with this.
const UNAUTHORIZED: u16 = 401;

pub(crate) async fn check(start: &Start) -> Result<Vec<Finding>, Error> {
    let credentials = start.secret::<AriCredentials>("ASTERISK_SECRET_ARN")?;
    if !super::is_usable(credentials.value().await)? {
        return Ok(vec![]);
    }
    let settings = start.environment.call_settings()?;
    let asterisk = Asterisk::new(start.pbxs()?, credentials);
    let pbxs = asterisk.pbxs().iter().enumerate();
    let checks = pbxs.map(|(index, pbx)| check_pbx(pbx, index == 0, &settings));
    Ok(join_all(checks).await.concat())
}

/// A PBX that reports no name is the first one of the list.
async fn check_pbx(pbx: &Pbx, is_first: bool, settings: &CallSettings) -> Vec<Finding> {
    if let Err(error) = pbx.ping().await {
        return vec![fault_of(pbx, &error)];
    }
    match pbx.examine_dialplan().await {
        Ok(None) => vec![
            Fault::DialplanIncomplete
                .at(pbx.name())
                .seen("ringback-doctor"),
        ],
        Ok(Some(notes)) => check_notes(pbx, is_first, &notes, settings),
        Err(error) => vec![fault_of(pbx, &error)],
    }
}

fn fault_of(pbx: &Pbx, error: &AsteriskError) -> Finding {
    let fault = match error {
        AsteriskError::Refused { status, .. } if *status == UNAUTHORIZED => Fault::AriPassword,
        AsteriskError::Refused { .. } => Fault::AriRefused,
        error if error.is_about_trust() => Fault::AriCertificate,
        _ => Fault::AriUnreachable,
    };
    fault.at(pbx.name()).seen(error.with_causes())
}

fn check_notes(
    pbx: &Pbx,
    is_first: bool,
    notes: &DialplanNotes,
    settings: &CallSettings,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !notes.missing.is_empty() {
        let missing = notes.missing.join(", ");
        findings.push(Fault::DialplanIncomplete.at(pbx.name()).seen(missing));
    }
    for (url, answer) in &notes.hooks {
        let fault = match answer {
            HookAnswer::Accepted => continue,
            HookAnswer::None => Fault::HookUnreachable.at(pbx.name()).seen(url),
            // Its name is not in the list: said below.
            HookAnswer::Refused(code) if code == "bad_field" => continue,
            HookAnswer::Refused(code) => {
                let seen = format!("{code} from {url}");
                Fault::HookRefused.at(pbx.name()).seen(seen)
            }
        };
        findings.push(fault);
    }
    let is_named = match &notes.name {
        Some(name) => name == pbx.name().as_str(),
        None => is_first,
    };
    if !is_named {
        let name = notes.name.as_deref().unwrap_or("no name");
        let seen = format!("it has {name}");
        findings.push(Fault::PbxName.at(pbx.name()).seen(seen));
    }
    let needed = settings.ring + settings.connect;
    // Without a number, the dialplan waits for 60 s.
    let wait = notes.wait.map_or(60, |wait| wait.as_secs());
    if wait <= needed.as_secs() {
        let seen = format!(
            "it waits {wait} s, and a call may take {} s",
            needed.as_secs()
        );
        findings.push(Fault::PbxWait.at(pbx.name()).seen(seen));
    }
    findings
}
