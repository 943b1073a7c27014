//! What must be on the machine before anything starts; whatever is missing is named with how to get it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Result, bail};

use crate::cloud::region::Extent;
use crate::settings::{ENCRYPTED_TRUNK_SOURCE, PBXS, PORTS, Settings, TRUNK_SOURCE};

/// Python's oldest version that the pinned tools run on.
const PYTHON: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))";

/// Fails with everything that is missing at once.
pub fn check(settings: &Settings, extent: Extent) -> Result<()> {
    let missing: Vec<String> = [
        python(),
        crate::pbx::source::missing(settings),
        haproxy(),
        trunk_source(),
        ports(extent),
    ]
    .into_iter()
    .flatten()
    .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("cannot start yet:\n  - {}", missing.join("\n  - "))
}

fn python() -> Option<String> {
    let works = std::process::Command::new("python3")
        .args(["-c", PYTHON])
        .output()
        .is_ok_and(|it| it.status.success());
    (!works).then(|| {
        "python3, version 3.11 or later, with its venv module: `apt-get install python3-venv` on Debian and Ubuntu, \
         `brew install python` on macOS"
            .to_owned()
    })
}

fn haproxy() -> Option<String> {
    let runs = std::process::Command::new("haproxy").arg("-v").output();
    let works = runs.is_ok_and(|it| it.status.success());
    (!works).then(|| {
        "haproxy, version 2.6 or later: `apt-get install haproxy` on Debian and Ubuntu, `brew install haproxy` on macOS"
            .to_owned()
    })
}

/// Linux answers on all of 127.0.0.0/8; macOS only on 127.0.0.1 until told otherwise.
fn trunk_source() -> Option<String> {
    let sources = [TRUNK_SOURCE, ENCRYPTED_TRUNK_SOURCE];
    let missing = sources
        .into_iter()
        .find(|it| UdpSocket::bind((*it, 0)).is_err())?;
    Some(format!(
        "the address {missing}, for a simulated trunk: `sudo ifconfig lo0 alias {missing}` on macOS"
    ))
}

fn ports(extent: Extent) -> Option<String> {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let tcp = [
        (PORTS.gateway, "the gateway"),
        (PORTS.fcm, "the stand-in for FCM"),
        (PORTS.exotel, "the stand-in for Exotel"),
        (PORTS.cloud, "the local AWS"),
        (PORTS.faults, "asking for faults"),
    ];
    let of_second_region = [
        (PORTS.fallback_gateway, "the second region's gateway"),
        (PORTS.fallback_cloud, "the second region's local AWS"),
        (PORTS.loss, "losing a region"),
    ];
    let with_second = match extent {
        Extent::OneRegion => 0,
        Extent::TwoRegions => of_second_region.len(),
    };
    let mut taken: Vec<String> = tcp
        .into_iter()
        .chain(PBXS.map(|pbx| (pbx.ari, "ARI")))
        .chain(PBXS.map(|pbx| (pbx.ari_plain, "Asterisk's own HTTP")))
        .chain(PBXS.map(|pbx| (pbx.sip, "SIP")))
        .chain(PBXS.map(|pbx| (pbx.sip_tls, "SIP over TLS")))
        .chain(PBXS.map(|pbx| (pbx.wss, "SIP over WebSocket")))
        .chain(of_second_region.into_iter().take(with_second))
        .filter(|(port, _)| TcpListener::bind(local(*port)).is_err())
        .map(|(port, what)| format!("{port}/tcp for {what}"))
        .collect();
    for pbx in PBXS {
        if UdpSocket::bind(local(pbx.sip)).is_err() {
            taken.push(format!("{}/udp for SIP", pbx.sip));
        }
    }
    (!taken.is_empty()).then(|| {
        format!(
            "these ports, which something else uses: {}. `make down` ends a stack of this checkout; \
             `ss -lntup` shows who has them",
            taken.join(", ")
        )
    })
}
