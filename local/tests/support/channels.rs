//! What is left in a PBX.

use anyhow::Result;
use ringback_local::pbx::server::ari_client;
use serde_json::Value;

use crate::scene::Scene;

impl Scene {
    /// The channels of the stack's first PBX.
    pub(crate) async fn channels(&self) -> Result<Vec<Value>> {
        let ari = &self.stack.ari;
        let request = ari_client(&ari.ca_pem)?
            .get(format!("{}/channels", ari.local_url))
            .basic_auth(&ari.username, Some(&ari.password));
        Ok(request.send().await?.error_for_status()?.json().await?)
    }
}
