//! Which extension a dialled number leads to, and on which number an extension's person is called.
//!
//! Items: `pk` = `NUMBER#{E.164}`, `sk` = `ROUTE`, `extension`; `pk` = `EXTENSION#{extension}`, `sk` = `NUMBER`,
//! `number`. Written by whoever runs the deployment (README, Routes).

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;

use crate::store::calls::StoreError;
use ringback_core::ids::Extension;
use ringback_core::phone_number::PhoneNumber;

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
        let doing = "looking up a number's route";
        let pk = format!("NUMBER#{number}");
        let text = self.text(pk, "ROUTE", "extension", doing).await?;
        Ok(text.and_then(|text| Extension::try_from(text).ok()))
    }

    /// The telephone on which the extension's person is called when its app calls a number; `None` if it has none.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn number_of(
        &self,
        extension: &Extension,
        country: &str,
    ) -> Result<Option<PhoneNumber>, StoreError> {
        let doing = "looking up an extension's number";
        let pk = format!("EXTENSION#{extension}");
        let text = self.text(pk, "NUMBER", "number", doing).await?;
        Ok(text.and_then(|text| PhoneNumber::parse(&text, country)))
    }

    async fn text(
        &self,
        pk: String,
        sk: &str,
        attribute: &str,
        doing: &'static str,
    ) -> Result<Option<String>, StoreError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .key("pk", AttributeValue::S(pk))
            .key("sk", AttributeValue::S(sk.to_owned()))
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        let item = answer.item.unwrap_or_default();
        Ok(item
            .get(attribute)
            .and_then(|value| value.as_s().ok())
            .cloned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wiremock::matchers::header;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::testing;

    /// What the table says of `09876543210`, and the request that asked it.
    async fn route(answer: ResponseTemplate) -> (Result<Option<Extension>, StoreError>, Value) {
        let table = MockServer::start().await;
        Mock::given(header("x-amz-target", "DynamoDB_20120810.GetItem"))
            .respond_with(answer)
            .mount(&table)
            .await;
        let client = Client::new(&testing::aws(&table));
        let number = PhoneNumber::parse("09876543210", "IN").unwrap();
        let route = Routes::new(client, "calls".to_owned()).of(&number).await;
        let request = testing::requests(&table).await.remove(0);
        (route, request.body_json().unwrap())
    }

    fn found(item: &Value) -> ResponseTemplate {
        ResponseTemplate::new(200).set_body_json(item)
    }

    #[tokio::test]
    async fn a_number_leads_where_its_route_says_however_it_is_written() {
        let item = json!({ "Item": { "extension": { "S": "1001" } } });
        let (route, request) = route(found(&item)).await;
        assert_eq!(route.unwrap(), Extension::try_from("1001").ok());
        let key = json!({ "pk": { "S": "NUMBER#+919876543210" }, "sk": { "S": "ROUTE" } });
        assert_eq!(request["Key"], key);
        assert_eq!(request["TableName"], "calls");
    }

    #[tokio::test]
    async fn without_a_route_that_makes_sense_a_number_leads_nowhere() {
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
    async fn a_table_that_does_not_answer_is_not_taken_for_a_number_without_a_route() {
        let (route, _) = route(ResponseTemplate::new(500)).await;
        assert!(matches!(route, Err(StoreError::Unavailable { .. })));
    }
}
