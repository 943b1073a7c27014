//! What a call looks up in the two directories of [`crate::store::directories`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::platform::clock;
use crate::store::directories::{EntryKey, text_in};
use crate::store::table::{StoreError, Table};
use ringback_core::ids::Extension;
use ringback_core::phone_number::PhoneNumber;
use ringback_core::timestamp::Timestamp;

/// How long a process uses a route without reading it again. The first call of a number waits for the read, the calls just after it do
/// not. A changed or deleted route is used for this long.
pub const ROUTE_KEPT: Duration = Duration::from_secs(5);

/// A process forgets all routes when it knows more than this.
const MOST_KNOWN: usize = 1_000;

/// The number routes in the table.
#[derive(Debug)]
pub struct NumberRoutes {
    table: Table,
    known: Mutex<HashMap<PhoneNumber, KnownRoute>>,
}

/// A route that was read a short time ago.
#[derive(Clone, Debug)]
struct KnownRoute {
    extension: Extension,
    read_at: Timestamp,
}

impl NumberRoutes {
    /// The number routes in this table.
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self {
            table,
            known: Mutex::default(),
        }
    }

    /// The extension that `number` leads to. `None` if it has no route, or its route is not a valid extension. Up to [`ROUTE_KEPT`] old.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn of(&self, number: &PhoneNumber) -> Result<Option<Extension>, StoreError> {
        let now = clock::now();
        if let Some(extension) = self.known_route(number, now) {
            return Ok(Some(extension));
        }
        let key = EntryKey::Number(number.clone());
        let text = self.text(&key, "looking up a number's route").await?;
        let route = text.and_then(|text| Extension::try_from(text).ok());
        if let Some(extension) = &route {
            self.remember(number, extension, now);
        }
        Ok(route)
    }

    fn known_route(&self, number: &PhoneNumber, now: Timestamp) -> Option<Extension> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let route = known.get(number)?;
        (now.since(route.read_at) < ROUTE_KEPT).then(|| route.extension.clone())
    }

    fn remember(&self, number: &PhoneNumber, extension: &Extension, read_at: Timestamp) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        let route = KnownRoute {
            extension: extension.clone(),
            read_at,
        };
        known.insert(number.clone(), route);
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
    async fn a_route_is_kept_for_a_short_time() {
        let table = MockServer::start().await;
        let item = json!({ "Item": { "extension": { "S": "1001" } } });
        Mock::given(header("x-amz-target", "DynamoDB_20120810.GetItem"))
            .respond_with(found(&item))
            .mount(&table)
            .await;
        let routes = NumberRoutes::new(testing::table(&table));
        let number = |text| PhoneNumber::parse(text, "IN").unwrap();
        let dialled = number("09876543210");
        for _ in 0..3 {
            let route = routes.of(&dialled).await.unwrap();
            assert_eq!(route, Extension::try_from("1001").ok());
        }
        routes.of(&number("09876543211")).await.unwrap();
        assert_eq!(testing::requests(&table).await.len(), 2);

        let read_at = routes.known.lock().unwrap()[&dialled].read_at;
        let known_at = |at| routes.known_route(&dialled, at).is_some();
        assert!(known_at(
            read_at + ROUTE_KEPT.saturating_sub(Duration::from_millis(1))
        ));
        assert!(!known_at(read_at + ROUTE_KEPT));
    }

    #[tokio::test]
    async fn a_process_forgets_all_routes_when_it_knows_many() {
        let routes = NumberRoutes::new(testing::table(&MockServer::start().await));
        let extension = Extension::try_from("1001").unwrap();
        for last in 0..=MOST_KNOWN {
            let number = PhoneNumber::parse(&format!("+919876{last:06}"), "IN").unwrap();
            routes.remember(&number, &extension, clock::now());
        }
        assert_eq!(routes.known.lock().unwrap().len(), 1);
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
