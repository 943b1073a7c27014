//! `make call`.

use anyhow::{Result, bail};

use crate::settings::Settings;

/// Places one call.
pub async fn place(_settings: &Settings) -> Result<()> {
    bail!("not there yet")
}
