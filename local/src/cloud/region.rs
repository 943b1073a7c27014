//! A region of the local cloud: its own local AWS with the application, and a gateway in front.

use crate::settings::{LOOPBACK, PORTS};

/// One region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// The AWS name.
    pub name: &'static str,
    /// The prefix of its logs, pid files and folders.
    pub part: &'static str,
    /// The port of its local AWS.
    pub cloud_port: u16,
    /// The port of its gateway.
    pub gateway_port: u16,
}

/// The only region of a stack with one region. With two, the table is created here and replicated.
pub const PRIMARY: Region = Region {
    name: "ap-south-1",
    part: "cloud",
    cloud_port: PORTS.cloud,
    gateway_port: PORTS.gateway,
};

/// The second region of a stack with two.
pub const FALLBACK: Region = Region {
    name: "ap-southeast-1",
    part: "cloud-fallback",
    cloud_port: PORTS.fallback_cloud,
    gateway_port: PORTS.fallback_gateway,
};

/// The number of regions of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionCount {
    /// [`PRIMARY`] only.
    One,
    /// [`PRIMARY`] and [`FALLBACK`].
    Two,
}

impl Region {
    /// The endpoint of every AWS service.
    #[must_use]
    pub fn endpoint(self) -> String {
        format!("http://{LOOPBACK}:{}", self.cloud_port)
    }

    /// The URL of the HTTP API.
    #[must_use]
    pub fn http_url(self) -> String {
        format!("http://{LOOPBACK}:{}", self.gateway_port)
    }

    /// The name of a file or folder of this region, such as `cloud-deploy.log`.
    #[must_use]
    pub fn file(self, name: &str) -> String {
        format!("{}-{name}", self.part)
    }
}
