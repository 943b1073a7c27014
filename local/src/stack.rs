//! `target/local/stack.json`: what the running stack says about itself. Its keys are a contract.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::settings::Transport;

/// The file's name in the state directory.
pub const FILE: &str = "stack.json";

/// Where the stack is and how to talk to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stack {
    /// The HTTP API.
    pub http_url: String,
    /// The WebSocket API.
    pub ws_url: String,
    /// Exotel's webhook, with its secret.
    pub exotel_webhook_url: String,
    /// The PBX's hook for a caller's leg; needs `headers.asterisk`.
    pub asterisk_incoming_url: String,
    /// Headers that a caller must send, by who calls.
    pub headers: Headers,
    /// The local AWS.
    pub aws: Aws,
    /// The PBX's REST interface.
    pub ari: Ari,
    /// The PBX's SIP side.
    pub sip: Sip,
    /// All PBXs; `ari` and `sip` are the first one's.
    pub pbxs: Vec<Pbx>,
    /// Phones that may register and answer.
    pub phones: Vec<Phone>,
    /// Somebody who watches all calls.
    pub operator: Operator,
    /// Dialled number to extension.
    pub numbers: BTreeMap<String, String>,
    /// What the stand-ins have received.
    pub requests: Requests,
    /// The same of the second region, where there is one. Phones, SIP and stand-ins are the same ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Box<Stack>>,
    /// Where a region is lost and found, and replication slowed down, in a stack of two regions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_url: Option<String>,
    /// How things can be made to go wrong, in a stack that was started with `FAULTS=yes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<Faults>,
}

/// How things can be made to go wrong.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Faults {
    /// Where faults are asked for.
    pub control: String,
    /// More phones, so that as many calls can go wrong at a time.
    pub phones: Vec<Phone>,
    /// Their numbers, as `numbers`.
    pub numbers: BTreeMap<String, String>,
}

/// Headers by caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Headers {
    /// Those of the PBX's hooks.
    pub asterisk: BTreeMap<String, String>,
}

/// The local AWS.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Aws {
    /// Endpoint of every service.
    pub endpoint: String,
    /// The region deployed into.
    pub region: String,
    /// The table of calls, devices and routes.
    pub table: String,
}

/// The PBX's REST interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ari {
    /// Base URL for the functions: the proxy passes what they ask for, and nothing else.
    pub url: String,
    /// Base URL of Asterisk itself, for tools and tests on this machine.
    pub local_url: String,
    /// Basic auth user.
    pub username: String,
    /// Basic auth password.
    pub password: String,
    /// The certificate authority its certificate is signed by, in PEM.
    pub ca_pem: String,
}

/// The PBX's SIP side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sip {
    /// Address and port, UDP and TCP.
    pub address: String,
    /// Address and port, TLS.
    pub tls: String,
    /// URL, WebSocket with TLS.
    pub wss: String,
    /// SHA-256 of the public key of both, in Base64, as Chromium's `--ignore-certificate-errors-spki-list` takes it.
    pub spki_sha256: String,
    /// An INVITE from here is the Exotel trunk calling.
    pub trunk_source: String,
    /// An INVITE from here is a trunk calling that has TLS and SRTP.
    pub encrypted_trunk_source: String,
}

/// A PBX.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pbx {
    /// What the application calls it.
    pub name: String,
    /// Its REST interface.
    pub ari: Ari,
    /// Its SIP side.
    pub sip: Sip,
}

/// A phone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Phone {
    /// Its extension, also its SIP user.
    pub extension: String,
    /// Its SIP password.
    pub sip_password: String,
    /// How it reaches its PBX, which decides how its calls are protected.
    pub transport: Transport,
    /// Where it registers: at the first PBX.
    pub uri: String,
    /// Its app's bearer token.
    pub token: String,
    /// Its owner's phone number (E.164), which Exotel calls first when the owner calls a phone number.
    pub mobile_number: String,
}

/// Somebody who watches all calls.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Operator {
    /// The bearer token.
    pub token: String,
}

/// What the stand-ins have received.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Requests {
    /// FCM's.
    pub fcm: String,
    /// Exotel's.
    pub exotel: String,
}

impl Stack {
    /// Reads the running stack's description from the state directory.
    pub fn load(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join(FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "no stack is running ({} is missing); start one with `make up`",
                path.display()
            )
        })?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a stack's description", path.display()))
    }

    /// Writes the description in one step: a reader sees all of it or none.
    pub fn write(&self, state_dir: &Path) -> Result<()> {
        let path = state_dir.join(FILE);
        let unfinished = state_dir.join(format!("{FILE}.new"));
        std::fs::write(&unfinished, serde_json::to_string_pretty(self)?)
            .and_then(|()| std::fs::rename(&unfinished, &path))
            .with_context(|| format!("could not write {}", path.display()))
    }

    /// Takes the description away: the stack is no longer there.
    pub fn remove(state_dir: &Path) {
        // Already gone is as good.
        let _ = std::fs::remove_file(state_dir.join(FILE));
    }

    /// The phones that speak SIP over UDP.
    pub fn plain_phones(&self) -> impl Iterator<Item = &Phone> {
        let phones = self.phones.iter();
        phones.filter(|phone| phone.transport == Transport::Udp)
    }

    /// The phone of an extension.
    pub fn phone(&self, extension: &str) -> Option<&Phone> {
        self.phones
            .iter()
            .find(|phone| phone.extension == extension)
    }
}
