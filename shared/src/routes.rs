//! Which extension a dialled number leads to.
//!
//! Item: `pk` = `NUMBER#{E.164}`, `sk` = `ROUTE`, `extension`. Written by whoever runs the deployment (README, Routes).

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;

use crate::calls::StoreError;
use crate::names::{Extension, PhoneNumber};

/// The routes in the table.
#[derive(Clone, Debug)]
pub struct Routes {
    client: Client,
    table: String,
}

impl Routes {
    /// The routes in this table.
    #[must_use]
    pub const fn new(client: Client, table: String) -> Self {
        Self { client, table }
    }

    /// The extension that `number` leads to; `None` if it leads nowhere.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn of(&self, number: &PhoneNumber) -> Result<Option<Extension>, StoreError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .key("pk", AttributeValue::S(format!("NUMBER#{number}")))
            .key("sk", AttributeValue::S("ROUTE".to_owned()))
            .send()
            .await
            .map_err(|error| StoreError::Unavailable {
                doing: "looking up a number's route",
                source: error.into(),
            })?;
        let item = answer.item.unwrap_or_default();
        let extension = item.get("extension").and_then(|value| value.as_s().ok());
        Ok(extension.and_then(|text| Extension::try_from(text.as_str()).ok()))
    }
}
