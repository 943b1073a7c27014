//! `target/local/stack.json`: the description of the running stack. Scripts rely on its keys.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::settings::Transport;

/// The name of the file.
pub const FILE: &str = "stack.json";

/// The addresses and credentials of the stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stack {
    /// The HTTP API.
    pub http_url: String,
    /// The WebSocket API.
    pub ws_url: String,
    /// The URL of Exotel's webhook, with its secret.
    pub exotel_webhook_url: String,
    /// The URL of the PBX's hook for a new caller's leg. It requires `headers.asterisk`.
    pub asterisk_incoming_url: String,
    /// The headers that a client must send.
    pub headers: Headers,
    /// The local AWS.
    pub aws: Aws,
    /// The PBX's REST interface (ARI).
    pub ari: Ari,
    /// The PBX's SIP addresses.
    pub sip: Sip,
    /// All PBXs. `ari` and `sip` belong to the first one.
    pub pbxs: Vec<Pbx>,
    /// The phones.
    pub phones: Vec<Phone>,
    /// An operator, who sees all calls.
    pub operator: RoleToken,
    /// An admin, who also changes numbers.
    pub admin: RoleToken,
    /// Dialled numbers with their extensions.
    pub numbers: BTreeMap<String, String>,
    /// The recorded requests of the stand-ins.
    pub requests: Requests,
    /// The description of the second region, if there is one. Phones, SIP and stand-ins are shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Box<Stack>>,
    /// The API that simulates a region outage, in a stack with two regions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region_control_url: Option<String>,
    /// The fault injection, in a stack that was started with `FAULTS=yes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<Faults>,
}

/// The fault injection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Faults {
    /// The URL of the control API.
    pub control: String,
    /// Extra phones, so that many calls can run at the same time.
    pub phones: Vec<Phone>,
    /// The numbers of the extra phones, in the same format as `numbers`.
    pub numbers: BTreeMap<String, String>,
}

/// Required headers by client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Headers {
    /// The headers of the PBX's hooks.
    pub asterisk: BTreeMap<String, String>,
}

/// The local AWS.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Aws {
    /// The endpoint of every AWS service.
    pub endpoint: String,
    /// The region.
    pub region: String,
    /// The name of the DynamoDB table.
    pub table: String,
}

/// The PBX's REST interface (ARI).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ari {
    /// The URL for the functions: the proxy, which passes only the requests that they need.
    pub url: String,
    /// The URL of Asterisk itself, for tools and tests on this machine.
    pub local_url: String,
    /// The Basic auth user.
    pub username: String,
    /// The Basic auth password.
    pub password: String,
    /// The certificate authority that signed the PBX's certificate, in PEM.
    pub ca_pem: String,
}

/// The PBX's SIP addresses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sip {
    /// UDP and TCP: address and port.
    pub address: String,
    /// TLS: address and port.
    pub tls: String,
    /// The URL for secure WebSocket.
    pub wss: String,
    /// SHA-256 of the public key of the TLS and WebSocket certificate, in Base64, as Chromium's
    /// `--ignore-certificate-errors-spki-list` takes it.
    pub spki_sha256: String,
    /// The source address of the Exotel trunk.
    pub trunk_source: String,
    /// The source address of the trunk with TLS and SRTP.
    pub encrypted_trunk_source: String,
}

/// A PBX.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pbx {
    /// The name that the application uses.
    pub name: String,
    /// The REST interface.
    pub ari: Ari,
    /// The SIP addresses.
    pub sip: Sip,
}

/// A phone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Phone {
    /// The extension, which is also the SIP user.
    pub extension: String,
    /// The SIP password.
    pub sip_password: String,
    /// How the phone connects to its PBX.
    pub transport: Transport,
    /// The URI where it registers: at the first PBX.
    pub uri: String,
    /// The bearer token of its app.
    pub token: String,
    /// Its owner's phone number (E.164). Exotel calls it first when the owner calls a phone number.
    pub mobile_number: String,
}

/// The token of a role.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoleToken {
    /// The bearer token.
    pub token: String,
}

/// The URLs of the recorded requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Requests {
    /// The stand-in for FCM.
    pub fcm: String,
    /// The stand-in for Exotel.
    pub exotel: String,
}

impl Stack {
    /// Reads the description of the running stack.
    pub fn load(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join(FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "no stack is running here ({} is missing); start one with `make up`, or in a release with `local/tools/prerequisites.sh release ringback-local up`",
                path.display()
            )
        })?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a stack's description", path.display()))
    }

    /// Writes the file atomically, so that a reader never sees half of it.
    pub fn write(&self, state_dir: &Path) -> Result<()> {
        let path = state_dir.join(FILE);
        let unfinished = state_dir.join(format!("{FILE}.new"));
        std::fs::write(&unfinished, serde_json::to_string_pretty(self)?)
            .and_then(|()| std::fs::rename(&unfinished, &path))
            .with_context(|| format!("could not write {}", path.display()))
    }

    /// Deletes the file, because the stack is stopping.
    pub fn remove(state_dir: &Path) {
        // It may be deleted already.
        let _ = std::fs::remove_file(state_dir.join(FILE));
    }

    /// The phones with SIP over UDP.
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
