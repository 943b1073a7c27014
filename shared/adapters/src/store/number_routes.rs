//! What a call looks up in the two directories of [`crate::store::directories`].

use crate::store::directories::{EntryKey, text_in};
use crate::store::table::{StoreError, Table};
use ringback_core::ids::Extension;
use ringback_core::phone_number::PhoneNumber;

/// The number routes in the table.
#[derive(Clone, Debug)]
pub struct NumberRoutes {
    table: Table,
}

impl NumberRoutes {
    /// The number routes in this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table }
    }

    /// The extension that `number` leads to. `None` if it has no route, or its route is not a valid extension.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn of(&self, number: &PhoneNumber) -> Result<Option<Extension>, StoreError> {
        let key = EntryKey::Number(number.clone());
        let text = self.text(&key, "looking up a number's route").await?;
        Ok(text.and_then(|text| Extension::try_from(text).ok()))
    }

    /// The telephone number of an extension's person, which Exotel calls first when the app calls a telephone. `None` if
    /// the extension has none. A number without a country code belongs to `country` (ISO 3166).
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn number_of(
        &self,
        extension: &Extension,
        country: &str,
    ) -> Result<Option<PhoneNumber>, StoreError> {
        let key = EntryKey::Extension(extension.clone());
        let text = self.text(&key, "looking up an extension's number").await?;
        Ok(text.and_then(|text| PhoneNumber::parse(&text, country)))
    }

    async fn text(
        &self,
        key: &EntryKey,
        doing: &'static str,
    ) -> Result<Option<String>, StoreError> {
        let answer = self.table.get(key.item_key()).send().await;
        let answer = answer.map_err(StoreError::unavailable(doing))?;
        Ok(text_in(
            &answer.item.unwrap_or_default(),
            key.directory().value_name(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wiremock::matchers::header;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::testing;

    /// The route of `09876543210`, and the request that reads it, when the table answers like this.
    async fn route(answer: ResponseTemplate) -> (Result<Option<Extension>, StoreError>, Value) {
        let table = MockServer::start().await;
        Mock::given(header("x-amz-target", "DynamoDB_20120810.GetItem"))
            .respond_with(answer)
            .mount(&table)
            .await;
        let number = PhoneNumber::parse("09876543210", "IN").unwrap();
        let route = NumberRoutes::new(testing::table(&table)).of(&number).await;
        let request = testing::requests(&table).await.remove(0);
        (route, request.body_json().unwrap())
    }

    fn found(item: &Value) -> ResponseTemplate {
        ResponseTemplate::new(200).set_body_json(item)
    }

    #[tokio::test]
    async fn a_route_is_found_by_the_number_in_any_notation() {
        let item = json!({ "Item": { "extension": { "S": "1001" } } });
        let (route, request) = route(found(&item)).await;
        assert_eq!(route.unwrap(), Extension::try_from("1001").ok());
        let key = json!({ "pk": { "S": "NUMBERS" }, "sk": { "S": "+919876543210" } });
        assert_eq!(request["Key"], key);
        assert_eq!(request["TableName"], "calls");
    }

    #[tokio::test]
    async fn a_missing_or_malformed_route_leads_nowhere() {
        for item in [
            json!({}),
            json!({ "Item": {} }),
            json!({ "Item": { "extension": { "N": "1001" } } }),
            json!({ "Item": { "extension": { "S": "10 01" } } }),
        ] {
            assert_eq!(route(found(&item)).await.0.unwrap(), None, "{item}");
        }
    }

    #[tokio::test]
    async fn a_table_that_does_not_answer_is_an_error_and_not_a_missing_route() {
        let (route, _) = route(ResponseTemplate::new(500)).await;
        assert!(matches!(route, Err(StoreError::Unavailable { .. })));
    }
}
