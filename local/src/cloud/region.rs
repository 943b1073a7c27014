//! A region of the local cloud: a local AWS of its own, the application in it, and a gateway in front.

use crate::settings::{LOOPBACK, PORTS};

/// One region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// As AWS names it.
    pub name: &'static str,
    /// Begins the names of its logs, pid files and folders.
    pub part: &'static str,
    /// The port of its local AWS.
    pub cloud_port: u16,
    /// The port of its gateway.
    pub gateway_port: u16,
}

/// The region that a stack of one region is in, and whose table a second one shares.
pub const PRIMARY: Region = Region {
    name: "ap-south-1",
    part: "cloud",
    cloud_port: PORTS.cloud,
    gateway_port: PORTS.gateway,
};

/// The region that takes over, in a stack of two.
pub const FALLBACK: Region = Region {
    name: "ap-southeast-1",
    part: "cloud-fallback",
    cloud_port: PORTS.fallback_cloud,
    gateway_port: PORTS.fallback_gateway,
};

/// In how many regions a stack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// In [`PRIMARY`].
    OneRegion,
    /// In [`PRIMARY`] and [`FALLBACK`].
    TwoRegions,
}

impl Region {
    /// The endpoint of every AWS service.
    #[must_use]
    pub fn endpoint(self) -> String {
        format!("http://{LOOPBACK}:{}", self.cloud_port)
    }

    /// The HTTP API, as clients reach it.
    #[must_use]
    pub fn http_url(self) -> String {
        format!("http://{LOOPBACK}:{}", self.gateway_port)
    }

    /// The name of one of its files or folders: `cloud-deploy.log`.
    #[must_use]
    pub fn file(self, name: &str) -> String {
        format!("{}-{name}", self.part)
    }
}
