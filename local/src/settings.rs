//! Where the stack lives, which ports it takes, and what the environment changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The address everything binds to: the stack is never reachable from outside this machine.
pub const LOOPBACK: &str = "127.0.0.1";
/// The source address of the simulated Exotel trunk, which the PBX identifies it by.
pub const TRUNK_SOURCE: &str = "127.0.0.2";
/// The source address of a trunk with TLS and SRTP.
pub const ENCRYPTED_TRUNK_SOURCE: &str = "127.0.0.3";
/// The CloudFormation stack's name.
pub const STACK_NAME: &str = "ringback-local";

/// The ports the stack takes, each with what is behind it.
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
    /// The gateway of the second region, where there is one.
    pub fallback_gateway: u16,
    /// The local AWS of the second region.
    pub fallback_cloud: u16,
    /// What a second region is lost and found by, and its replication slowed down.
    pub loss: u16,
    /// Where faults are asked for, and before the systems (see [`crate::faults`]): this one and the next four.
    pub faults: u16,
}

/// The stack's ports; the contract names the first, and scripts rely on the rest.
pub const PORTS: Ports = Ports {
    gateway: 5050,
    fcm: 5051,
    exotel: 5052,
    cloud: 4566,
    fallback_gateway: 5150,
    fallback_cloud: 4666,
    loss: 5151,
    faults: 5053,
};

/// One of the stack's PBXs, and the ports it takes.
#[derive(Debug, Clone, Copy)]
pub struct PbxPorts {
    /// What the application calls it.
    pub name: &'static str,
    /// The name of its log and pid file.
    pub daemon: &'static str,
    /// The name of its proxy's log and pid file.
    pub proxy_daemon: &'static str,
    /// SIP over UDP and TCP.
    pub sip: u16,
    /// SIP over TLS.
    pub sip_tls: u16,
    /// SIP over WebSocket with TLS, at the proxy.
    pub wss: u16,
    /// ARI over HTTPS, at the proxy, which passes what the functions ask for.
    pub ari: u16,
    /// Asterisk's own HTTP, without TLS and unrestricted.
    pub ari_plain: u16,
    /// The first and the last for media.
    pub rtp: [u16; 2],
}

/// The stack's PBXs, in the order in which the application prefers them.
pub const PBXS: [PbxPorts; 2] = [
    PbxPorts {
        name: "pbx1",
        daemon: "asterisk",
        proxy_daemon: "haproxy",
        sip: 5060,
        sip_tls: 5061,
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
        wss: 8444,
        ari: 8090,
        ari_plain: 8087,
        rtp: [19_000, 19_999],
    },
];

/// Who issues the stack's tokens, and for whom.
pub const TOKEN_ISSUER: &str = "ringback-local";
/// See [`TOKEN_ISSUER`].
pub const TOKEN_AUDIENCE: &str = "ringback-local-apps";

/// How a phone reaches its PBX, which decides how its calls are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// SIP over UDP or TCP, and RTP: nothing is encrypted.
    Udp,
    /// SIP over TLS, and SRTP.
    Tls,
    /// WebRTC: SIP over WebSocket with TLS, and DTLS-SRTP.
    Wss,
}

impl Transport {
    /// The template of `pjsip.conf` that such a phone is made from.
    pub fn template(self) -> &'static str {
        match self {
            Self::Udp => "phone-plain",
            Self::Tls => "phone",
            Self::Wss => "phone-webrtc",
        }
    }
}

/// The numbers callers dial, as Exotel writes them, with the extension each leads to.
pub const NUMBERS: [(&str, &str); 4] = [
    ("08047491899", "1001"),
    ("08047491900", "1002"),
    ("08047491901", "1003"),
    ("08047491902", "1004"),
];
/// The phones that may register.
pub const EXTENSIONS: [(&str, Transport); 4] = [
    ("1001", Transport::Udp),
    ("1002", Transport::Udp),
    ("1003", Transport::Tls),
    ("1004", Transport::Wss),
];
/// Where Exotel calls an extension's owner first when the owner calls a phone number.
pub const MOBILE_NUMBERS: [(&str, &str); 4] = [
    ("1001", "+919800001001"),
    ("1002", "+919800001002"),
    ("1003", "+919800001003"),
    ("1004", "+919800001004"),
];

/// How many more phones there are in a stack with faults, so that as many calls can go wrong at a time.
pub const CROWD: u16 = 24;

/// The extension, the number and the owner's own number of one of the crowd.
pub fn one_of_the_crowd(place: u16) -> [String; 3] {
    [
        format!("{}", 1_101 + place),
        format!("0804749{}", 2_101 + place),
        format!("+91980000{}", 1_101 + place),
    ]
}

/// What is fixed when a command starts.
#[derive(Debug, Clone)]
pub struct Settings {
    repository: PathBuf,
    environment: BTreeMap<String, String>,
}

impl Settings {
    /// Reads the environment, once.
    pub fn from_environment() -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap_or(Path::new("."))
            .to_owned();
        let environment = std::env::vars()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        Self {
            repository,
            environment,
        }
    }

    /// The workspace's root.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// State of the running stack: logs, pid files, `stack.json`.
    pub fn state_dir(&self) -> PathBuf {
        self.repository.join("target/local")
    }

    /// Tools in pinned versions; kept between runs.
    pub fn tools_dir(&self) -> PathBuf {
        self.repository.join("target/tools")
    }

    /// A file in the state directory.
    pub fn state(&self, name: &str) -> PathBuf {
        self.state_dir().join(name)
    }

    /// How long a phone rings in this stack: `RING_TIMEOUT_SECONDS`, or as long as the template says.
    #[must_use]
    pub fn ring(&self) -> Duration {
        let seconds = self.variable("RING_TIMEOUT_SECONDS");
        let seconds = seconds.and_then(|text| text.parse().ok());
        Duration::from_secs(seconds.unwrap_or(30))
    }

    /// One environment variable, if it is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// One of the functions' settings: from the environment when it is set there, otherwise the stack's own.
    pub fn override_or(&self, name: &str, own: impl Into<String>) -> String {
        self.variable(name)
            .map_or_else(|| own.into(), str::to_owned)
    }

    /// The template parameters that the environment sets: `RING_TIMEOUT_SECONDS` for `RingTimeoutSeconds`.
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

/// The environment variable that sets a template parameter.
fn variable_name(parameter: &str) -> String {
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
    fn a_parameter_is_set_by_the_variable_of_its_name() {
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
