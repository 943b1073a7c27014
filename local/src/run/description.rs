//! Describes the running stack: in `stack.json` for programs, and as a summary for people.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::cloud::deploy::Outputs;
use crate::cloud::region::{PRIMARY, Region};
use crate::credentials::Credentials;
use crate::faults::control_url;
use crate::gateway::WEBSOCKET_PATH;
use crate::pbx::server::{ari_url, local_ari_url};
use crate::settings::{
    ENCRYPTED_TRUNK_SOURCE, EXTENSIONS, EXTRA_PHONES, LOOPBACK, MOBILE_NUMBERS, NUMBERS, PBXS,
    PORTS, PbxPorts, Settings, TRUNK_SOURCE, Transport, extra_phone,
};
use crate::stack::{Ari, Aws, Faults, Headers, Pbx, Phone, Requests, RoleToken, Sip, Stack};

/// Describes one region, including the parts that all regions share.
pub(super) fn describe(
    settings: &Settings,
    region: Region,
    outputs: &Outputs,
    credentials: &Credentials,
    with_faults: bool,
) -> Result<Stack> {
    let requests = |port| format!("http://{LOOPBACK}:{port}/requests");
    Ok(Stack {
        http_url: region.http_url(),
        ws_url: format!("ws://{LOOPBACK}:{}{WEBSOCKET_PATH}", region.gateway_port),
        exotel_webhook_url: format!(
            "{}/exotel/webhook?secret={}",
            region.http_url(),
            credentials.webhook_secret
        ),
        asterisk_incoming_url: format!("{}/asterisk/incoming", region.http_url()),
        headers: Headers {
            asterisk: BTreeMap::from([(
                "X-Ringback-Secret".to_owned(),
                credentials.hook_secret.clone(),
            )]),
        },
        aws: Aws {
            endpoint: region.endpoint(),
            region: region.name.to_owned(),
            table: outputs.require("TableName")?.to_owned(),
        },
        ari: Ari {
            url: first_url(&settings.override_or("ARI_URL", ari_url(&PBXS[0]))),
            ..ari(&PBXS[0], credentials)
        },
        sip: sip(&PBXS[0], credentials),
        pbxs: PBXS.map(|pbx| describe_pbx(&pbx, credentials)).into(),
        phones: phones(credentials, is_standard)?,
        operator: RoleToken {
            token: credentials.operator_token()?,
        },
        admin: RoleToken {
            token: credentials.admin_token()?,
        },
        numbers: NUMBERS
            .iter()
            .map(|(number, extension)| ((*number).into(), (*extension).into()))
            .collect(),
        requests: Requests {
            fcm: requests(PORTS.fcm),
            exotel: requests(PORTS.exotel),
        },
        faults: with_faults.then(|| faults(credentials)).transpose()?,
        fallback: None,
        region_control_url: None,
    })
}

fn describe_pbx(pbx: &PbxPorts, credentials: &Credentials) -> Pbx {
    Pbx {
        name: pbx.name.to_owned(),
        ari: ari(pbx, credentials),
        sip: sip(pbx, credentials),
    }
}

fn ari(pbx: &PbxPorts, credentials: &Credentials) -> Ari {
    Ari {
        url: ari_url(pbx),
        local_url: local_ari_url(pbx),
        username: credentials.ari_username.clone(),
        password: credentials.ari_password.clone(),
        ca_pem: credentials.ari_ca_pem.clone(),
    }
}

fn sip(pbx: &PbxPorts, credentials: &Credentials) -> Sip {
    Sip {
        address: format!("{LOOPBACK}:{}", pbx.sip),
        tls: format!("{LOOPBACK}:{}", pbx.sip_tls),
        wss: format!("wss://{LOOPBACK}:{}/ws", pbx.wss),
        spki_sha256: credentials.ari_certificate.spki_sha256.clone(),
        trunk_source: TRUNK_SOURCE.to_owned(),
        encrypted_trunk_source: ENCRYPTED_TRUNK_SOURCE.to_owned(),
    }
}

/// The first URL of a list such as `pbx1=https://…,pbx2=https://…`.
fn first_url(listed: &str) -> String {
    let first = listed.split(',').next().unwrap_or_default();
    let url = first.find("https://").map_or(first, |at| &first[at..]);
    url.to_owned()
}

fn faults(credentials: &Credentials) -> Result<Faults> {
    let extra = (0..EXTRA_PHONES).map(extra_phone);
    Ok(Faults {
        control: control_url(),
        phones: phones(credentials, |extension| !is_standard(extension))?,
        numbers: extra
            .map(|[extension, number, _]| (number, extension))
            .collect(),
    })
}

fn phones(credentials: &Credentials, is_included: impl Fn(&str) -> bool) -> Result<Vec<Phone>> {
    let accounts = credentials.sip_accounts.iter();
    accounts
        .filter(|account| is_included(&account.extension))
        .map(|account| {
            Ok(Phone {
                extension: account.extension.clone(),
                sip_password: account.password.clone(),
                transport: account.transport,
                uri: registrar(account.transport, credentials),
                token: credentials.app_token(&account.extension)?,
                mobile_number: mobile_number(&account.extension),
            })
        })
        .collect()
}

/// Whether this is one of the phones that every stack has, and not an extra phone.
fn is_standard(extension: &str) -> bool {
    EXTENSIONS
        .iter()
        .any(|(standard, _)| *standard == extension)
}

/// The URI where a phone registers: at the first PBX.
fn registrar(transport: Transport, credentials: &Credentials) -> String {
    let sip = sip(&PBXS[0], credentials);
    match transport {
        Transport::Udp => format!("sip:{}", sip.address),
        Transport::Tls => format!("sips:{};transport=tls", sip.tls),
        Transport::Wss => sip.wss,
    }
}

fn mobile_number(extension: &str) -> String {
    let to_owned = |(owner, number): (&str, &str)| (owner.to_owned(), number.to_owned());
    let extra = (0..EXTRA_PHONES).map(extra_phone);
    let mut numbers = MOBILE_NUMBERS
        .into_iter()
        .map(to_owned)
        .chain(extra.map(|[owner, _, number]| (owner, number)));
    numbers
        .find(|(owner, _)| owner == extension)
        .map_or_else(String::new, |(_, number)| number)
}

pub(super) fn summary(settings: &Settings, stack: &Stack) -> String {
    let place_a_call = if settings.variable("ARI_URL").is_some() {
        "`ringback --local smoke` tests your PBX; the SIP addresses above are those of the stack's own".to_owned()
    } else {
        format!(
            "`{}` in another terminal places a call",
            settings.command("call")
        )
    };
    let stop = settings.command("down");
    let numbers: Vec<String> = stack
        .numbers
        .iter()
        .map(|(number, extension)| format!("{number} rings {extension}"))
        .collect();
    format!(
        "
  console       {}      (in a browser)
  HTTP API      {}      (try {}/health)
  Exotel hook   {}
  SIP           {} (the trunk calls from {}; {})
  ARI           {} (without proxy: {})
  local AWS     {} ({})
  pushes        {}
{}  all addresses target/local/stack.json, with the logs beside it

{place_a_call}. `{stop}`, or Ctrl-C in the terminal where it runs, stops the stack.
",
        stack.http_url,
        stack.http_url,
        stack.http_url,
        stack.exotel_webhook_url,
        stack.sip.address,
        stack.sip.trunk_source,
        numbers.join(", "),
        stack.ari.url,
        stack.ari.local_url,
        stack.aws.endpoint,
        stack.aws.region,
        stack.requests.fcm,
        second_region(stack),
    )
}

fn second_region(stack: &Stack) -> String {
    let (Some(fallback), Some(control)) = (&stack.fallback, &stack.region_control_url) else {
        return String::new();
    };
    format!(
        "  fallback      {} ({}, local AWS {})\n  stop one      curl -X PUT {control}/regions/{} -d '{{\"state\":\"refusing\"}}'\n",
        fallback.http_url, fallback.aws.region, fallback.aws.endpoint, PRIMARY.name,
    )
}
