//! The running stack described: in `stack.json` for programs, in a summary for people.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::cloud::deploy::Outputs;
use crate::cloud::endpoint;
use crate::credentials::Credentials;
use crate::faults::control_url;
use crate::gateway::WEBSOCKET_PATH;
use crate::pbx::server::ari_url;
use crate::settings::{
    CROWD, EXTENSIONS, LOOPBACK, MOBILE_NUMBERS, NUMBERS, PORTS, REGION, Settings, TRUNK_SOURCE,
    one_of_the_crowd,
};
use crate::stack::{Ari, Aws, Faults, Headers, Operator, Phone, Requests, Sip, Stack};

pub(super) fn http_url() -> String {
    format!("http://{LOOPBACK}:{}", PORTS.gateway)
}

pub(super) fn describe(
    settings: &Settings,
    outputs: &Outputs,
    credentials: &Credentials,
    with_faults: bool,
) -> Result<Stack> {
    let requests = |port| format!("http://{LOOPBACK}:{port}/requests");
    Ok(Stack {
        http_url: http_url(),
        ws_url: format!("ws://{LOOPBACK}:{}{WEBSOCKET_PATH}", PORTS.gateway),
        exotel_webhook_url: format!(
            "{}/exotel/webhook?secret={}",
            http_url(),
            credentials.webhook_secret
        ),
        asterisk_incoming_url: format!("{}/asterisk/incoming", http_url()),
        headers: Headers {
            asterisk: BTreeMap::from([(
                "X-Ringback-Secret".to_owned(),
                credentials.hook_secret.clone(),
            )]),
        },
        aws: Aws {
            endpoint: endpoint(),
            region: REGION.to_owned(),
            table: outputs.require("TableName")?.to_owned(),
        },
        ari: Ari {
            url: settings.override_or("ARI_URL", ari_url()),
            username: credentials.ari_username.clone(),
            password: credentials.ari_password.clone(),
            ca_pem: credentials.ari_ca_pem.clone(),
        },
        sip: Sip {
            address: format!("{LOOPBACK}:{}", PORTS.sip),
            trunk_source: TRUNK_SOURCE.to_owned(),
        },
        phones: phones(credentials, |extension| EXTENSIONS.contains(&extension))?,
        operator: Operator {
            token: credentials.operator_token()?,
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
    })
}

fn faults(credentials: &Credentials) -> Result<Faults> {
    let crowd = (0..CROWD).map(one_of_the_crowd);
    Ok(Faults {
        control: control_url(),
        phones: phones(credentials, |extension| !EXTENSIONS.contains(&extension))?,
        numbers: crowd
            .map(|[extension, number, _]| (number, extension))
            .collect(),
    })
}

fn phones(credentials: &Credentials, is_meant: impl Fn(&str) -> bool) -> Result<Vec<Phone>> {
    let passwords = credentials.sip_passwords.iter();
    passwords
        .filter(|(extension, _)| is_meant(extension))
        .map(|(extension, password)| {
            Ok(Phone {
                extension: extension.clone(),
                sip_password: password.clone(),
                token: credentials.app_token(extension)?,
                mobile_number: mobile_number(extension),
            })
        })
        .collect()
}

fn mobile_number(extension: &str) -> String {
    let owned = |(owner, number): (&str, &str)| (owner.to_owned(), number.to_owned());
    let crowd = (0..CROWD).map(one_of_the_crowd);
    let mut numbers = MOBILE_NUMBERS
        .into_iter()
        .map(owned)
        .chain(crowd.map(|[owner, _, number]| (owner, number)));
    numbers
        .find(|(owner, _)| owner == extension)
        .map_or_else(String::new, |(_, number)| number)
}

pub(super) fn summary(stack: &Stack) -> String {
    let numbers: Vec<String> = stack
        .numbers
        .iter()
        .map(|(number, extension)| format!("{number} rings {extension}"))
        .collect();
    format!(
        "
  HTTP API      {}      (try {}/health)
  Exotel hook   {}
  SIP           {} (the trunk calls from {}; {})
  ARI           {}
  local AWS     {} ({})
  pushes        {}
  all of it     target/local/stack.json, logs beside it

`make call` places a call. `make down`, or Ctrl-C where `make run` runs, stops the stack.
",
        stack.http_url,
        stack.http_url,
        stack.exotel_webhook_url,
        stack.sip.address,
        stack.sip.trunk_source,
        numbers.join(", "),
        stack.ari.url,
        stack.aws.endpoint,
        stack.aws.region,
        stack.requests.fcm,
    )
}
