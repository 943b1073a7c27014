//! The paths and ports of the stack, and the environment variables that change it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cloud::template::EXPANDED;

/// The address that everything binds to, so that the stack is not reachable from other machines.
pub const LOOPBACK: &str = "127.0.0.1";
/// The source address of the simulated Exotel trunk. The PBX identifies the trunk by it.
pub const TRUNK_SOURCE: &str = "127.0.0.2";
/// The source address of the trunk with TLS and SRTP.
pub const ENCRYPTED_TRUNK_SOURCE: &str = "127.0.0.3";
/// The address at which a PBX calls itself.
pub const SMOKE_SOURCE: &str = "127.0.0.9";
/// This machine's processor architecture, as Lambda names it.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "x86_64"
};
/// The name of the CloudFormation stack.
pub const STACK_NAME: &str = "ringback-local";

/// The ports of the stack.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// The gateway in front of the HTTP and WebSocket APIs.
    pub gateway: u16,
    /// The stand-in for FCM.
    pub fcm: u16,
    /// The stand-in for Exotel's API.
    pub exotel: u16,
    /// The local AWS.
    pub cloud: u16,
    /// The gateway of the second region.
    pub fallback_gateway: u16,
    /// The local AWS of the second region.
    pub fallback_cloud: u16,
    /// The API that simulates a region outage.
    pub region_control: u16,
    /// The control API of the faults. The next four ports are the fault proxies (see [`crate::faults`]).
    pub faults: u16,
}

/// The ports. The documentation names the first one, and scripts use the others.
pub const PORTS: Ports = Ports {
    gateway: 5050,
    fcm: 5051,
    exotel: 5052,
    cloud: 4566,
    fallback_gateway: 5150,
    fallback_cloud: 4666,
    region_control: 5151,
    faults: 5053,
};

/// The ports of a PBX.
#[derive(Debug, Clone, Copy)]
pub struct PbxPorts {
    /// The name that the application uses.
    pub name: &'static str,
    /// The name of Asterisk's log and pid file.
    pub daemon: &'static str,
    /// The name of the proxy's log and pid file.
    pub proxy_daemon: &'static str,
    /// SIP over UDP and TCP.
    pub sip: u16,
    /// SIP over TLS.
    pub sip_tls: u16,
    /// SIP over UDP, at which the PBX calls itself.
    pub smoke: u16,
    /// SIP over secure WebSocket, at the proxy.
    pub wss: u16,
    /// ARI over HTTPS, at the proxy, which passes only the requests that the functions need.
    pub ari: u16,
    /// Asterisk's own HTTP server: no TLS, all of ARI.
    pub ari_plain: u16,
    /// The first and the last RTP port.
    pub rtp: [u16; 2],
}

/// The PBXs, in the order that the application prefers them.
pub const PBXS: [PbxPorts; 2] = [
    PbxPorts {
        name: "pbx1",
        daemon: "asterisk",
        proxy_daemon: "haproxy",
        sip: 5060,
        sip_tls: 5061,
        smoke: 5069,
        wss: 8443,
        ari: 8089,
        ari_plain: 8088,
        rtp: [18_000, 18_999],
    },
    PbxPorts {
        name: "pbx2",
        daemon: "asterisk-2",
        proxy_daemon: "haproxy-2",
        sip: 5070,
        sip_tls: 5071,
        smoke: 5079,
        wss: 8444,
        ari: 8090,
        ari_plain: 8087,
        rtp: [19_000, 19_999],
    },
];

/// The issuer of the stack's tokens.
pub const TOKEN_ISSUER: &str = "ringback-local";
/// The audience of the stack's tokens.
pub const TOKEN_AUDIENCE: &str = "ringback-local-apps";

/// How a phone connects to its PBX. This decides how its calls are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// SIP over UDP or TCP, and RTP. Not encrypted.
    Udp,
    /// SIP over TLS, and SRTP.
    Tls,
    /// WebRTC: SIP over secure WebSocket, and DTLS-SRTP.
    Wss,
}

impl Transport {
    /// The template in `pjsip.conf` for such a phone.
    pub fn template(self) -> &'static str {
        match self {
            Self::Udp => "phone-plain",
            Self::Tls => "phone",
            Self::Wss => "phone-webrtc",
        }
    }
}

/// The dialled numbers in Exotel's format, with their extensions.
pub const NUMBERS: [(&str, &str); 4] = [
    ("08047491899", "1001"),
    ("08047491900", "1002"),
    ("08047491901", "1003"),
    ("08047491902", "1004"),
];
/// The phones that every stack has.
pub const EXTENSIONS: [(&str, Transport); 4] = [
    ("1001", Transport::Udp),
    ("1002", Transport::Udp),
    ("1003", Transport::Tls),
    ("1004", Transport::Wss),
];
/// The phone number of each extension's owner. Exotel calls it first when the owner calls a phone number.
pub const MOBILE_NUMBERS: [(&str, &str); 4] = [
    ("1001", "+919800001001"),
    ("1002", "+919800001002"),
    ("1003", "+919800001003"),
    ("1004", "+919800001004"),
];

/// The number of extra phones in a stack with faults, so that many calls can run at the same time.
pub const EXTRA_PHONES: u16 = 24;

/// The extension, the number and the owner's phone number of an extra phone.
pub fn extra_phone(index: u16) -> [String; 3] {
    [
        format!("{}", 1_101 + index),
        format!("0804749{}", 2_101 + index),
        format!("+91980000{}", 1_101 + index),
    ]
}

/// The settings of a command.
#[derive(Debug, Clone)]
pub struct Settings {
    repository: PathBuf,
    environment: BTreeMap<String, String>,
}

impl Settings {
    /// Reads the environment.
    pub fn from_environment() -> Self {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let repository = release_of_this_program()
            .unwrap_or_else(|| checkout.unwrap_or(Path::new(".")).to_owned());
        let environment = std::env::vars()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        Self {
            repository,
            environment,
        }
    }

    /// The root of the repository, or of an unpacked release.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// Whether this is an unpacked release, which has built functions.
    pub fn is_release(&self) -> bool {
        self.repository.join(EXPANDED).exists()
    }

    /// How a person starts this command of `ringback-local`.
    pub fn command(&self, name: &str) -> String {
        let program = if self.is_release() {
            "ringback-local"
        } else {
            "make"
        };
        format!("{program} {name}")
    }

    /// The template to deploy.
    pub fn template(&self) -> PathBuf {
        let name = if self.is_release() {
            EXPANDED
        } else {
            "template.yaml"
        };
        self.repository.join(name)
    }

    /// The directory for the state of the running stack: logs, pid files, `stack.json`.
    pub fn state_dir(&self) -> PathBuf {
        self.repository.join("target/local")
    }

    /// The directory for the pinned tools. It is kept between runs.
    pub fn tools_dir(&self) -> PathBuf {
        self.repository.join("target/tools")
    }

    /// A file in the state directory.
    pub fn state(&self, name: &str) -> PathBuf {
        self.state_dir().join(name)
    }

    /// How long a phone rings: `RING_TIMEOUT_SECONDS`, or the template's default.
    #[must_use]
    pub fn ring(&self) -> Duration {
        let seconds = self.variable("RING_TIMEOUT_SECONDS");
        let seconds = seconds.and_then(|text| text.parse().ok());
        Duration::from_secs(seconds.unwrap_or(30))
    }

    /// An environment variable, if it is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// An environment variable, or the stack's own value.
    pub fn override_or(&self, name: &str, default: impl Into<String>) -> String {
        self.variable(name)
            .map_or_else(|| default.into(), str::to_owned)
    }

    /// The template parameters that the environment sets.
    pub fn parameters_from_environment(&self, declared: &[String]) -> BTreeMap<String, String> {
        declared
            .iter()
            .filter_map(|name| {
                Some((
                    name.clone(),
                    self.variable(&variable_name(name))?.to_owned(),
                ))
            })
            .collect()
    }
}

/// The folder of the running program, if it is an unpacked release.
fn release_of_this_program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.canonicalize().ok()?;
    let folder = program.parent()?;
    folder.join(EXPANDED).exists().then(|| folder.to_owned())
}

/// The environment variable that sets a template parameter: `RING_TIMEOUT_SECONDS` for `RingTimeoutSeconds`.
pub fn variable_name(parameter: &str) -> String {
    let mut name = String::new();
    for (index, letter) in parameter.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_name_becomes_a_variable_name() {
        assert_eq!(variable_name("RingTimeoutSeconds"), "RING_TIMEOUT_SECONDS");
        assert_eq!(variable_name("FcmBaseUrl"), "FCM_BASE_URL");
    }

    #[test]
    fn only_declared_parameters_are_taken_from_the_environment() {
        let settings = Settings {
            repository: PathBuf::new(),
            environment: BTreeMap::from([
                ("ARI_URL".into(), "https://pbx/ari".into()),
                ("HOME".into(), "/".into()),
            ]),
        };
        let declared = ["AriUrl".to_owned(), "FcmBaseUrl".to_owned()];
        let expected = BTreeMap::from([("AriUrl".to_owned(), "https://pbx/ari".to_owned())]);
        assert_eq!(settings.parameters_from_environment(&declared), expected);
    }
}
