//! Lets containers reach the local stack, which listens on loopback only: the address of Docker's bridge accepts connections
//! while an event is invoked, and each goes to the same port on loopback.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::process::output;
use crate::settings::{LOOPBACK, PBXS, PORTS};

/// The relays. Dropping it ends them.
pub(super) struct Relays {
    /// This machine's address on Docker's bridge.
    pub(super) address: IpAddr,
    _ports: JoinSet<()>,
}

impl Relays {
    /// Opens a relay to each part of the stack that functions use.
    pub(super) async fn open() -> Result<Self> {
        let address = bridge().await?;
        let mut ports = JoinSet::new();
        let of_pbxs = PBXS.map(|pbx| pbx.ari);
        for port in [PORTS.cloud, PORTS.gateway, PORTS.fcm, PORTS.exotel]
            .into_iter()
            .chain(of_pbxs)
        {
            let listener = TcpListener::bind((address, port)).await.with_context(|| {
                format!("could not listen on {address}:{port}, Docker's bridge: Docker must run on this machine, with its default bridge")
            })?;
            ports.spawn(relay(listener, port));
        }
        Ok(Self {
            address,
            _ports: ports,
        })
    }
}

async fn relay(listener: TcpListener, port: u16) {
    while let Ok((mut from, _)) = listener.accept().await {
        tokio::spawn(async move {
            if let Ok(mut to) = TcpStream::connect((LOOPBACK, port)).await {
                // A connection may end in any way. Its client sees it.
                let _ended = copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

async fn bridge() -> Result<IpAddr> {
    let mut docker = Command::new("docker");
    docker.args(["network", "inspect", "bridge", "--format"]);
    docker.arg("{{with index .IPAM.Config 0}}{{or .Gateway .Subnet}}{{end}}");
    let printed = output(&mut docker).await;
    let printed = printed.context("`sam local invoke` needs a running Docker engine")?;
    address(printed.trim()).with_context(|| format!("Docker's bridge has no address: {printed}"))
}

/// The bridge's address. Some versions of Docker name only its subnet, in which it has the first one.
fn address(gateway_or_subnet: &str) -> Option<IpAddr> {
    let Some((network, _)) = gateway_or_subnet.split_once('/') else {
        return gateway_or_subnet.parse().ok();
    };
    let network: Ipv4Addr = network.parse().ok()?;
    Some(Ipv4Addr::from(u32::from(network) + 1).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_has_the_first_address_of_its_subnet_unless_docker_names_it() {
        let expected = Some(IpAddr::from([172, 17, 0, 1]));
        assert_eq!(address("172.17.0.1"), expected);
        assert_eq!(address("172.17.0.0/16"), expected);
        assert_eq!(address(""), None);
    }
}
