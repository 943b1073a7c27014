//! Streams of calls' audio, by the connection over which Exotel brings them.
//!
//! Item: `pk` = `STREAM#{connection id}`, `sk` = `STREAM`. Nothing deletes it: API Gateway gives an id once.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};

use crate::store::calls::StoreError;
use crate::store::connections::KEPT_FOR;
use ringback_core::call::Call;
use ringback_core::ids::{CallId, CallSid, Extension};
use ringback_core::timestamp::Timestamp;

/// The stream of one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// The call.
    pub call_id: CallId,
    /// Exotel's id of it.
    pub call_sid: CallSid,
    /// Whose apps have part in it.
    pub participants: Vec<Extension>,
}

impl Stream {
    /// The stream of this call, which Exotel knows as `call_sid`.
    #[must_use]
    pub fn of(call: &Call, call_sid: CallSid) -> Self {
        Self {
            call_id: call.call_id,
            call_sid,
            participants: call.participants().cloned().collect(),
        }
    }
}

/// The streams in the table.
#[derive(Clone, Debug)]
pub struct Streams {
    client: Client,
    table: String,
}

impl Streams {
    /// The streams in this table.
    #[must_use]
    pub const fn new(client: Client, table: String) -> Self {
        Self { client, table }
    }

    /// Remembers what comes over a connection.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn begin(
        &self,
        connection_id: &str,
        stream: &Stream,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let doing = "remembering a stream";
        let item: serde_dynamo::Item =
            serde_dynamo::to_item(stream).map_err(StoreError::unreadable(doing))?;
        let expires_at = (now + KEPT_FOR).as_secs_rounded_up();
        self.client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item.into()))
            .item("pk", key(connection_id))
            .item("sk", AttributeValue::S("STREAM".to_owned()))
            .item("expires_at", AttributeValue::N(expires_at.to_string()))
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        Ok(())
    }

    /// The stream that comes over a connection; `None` if it has not begun, or belongs to no call that is known.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn over(&self, connection_id: &str) -> Result<Option<Stream>, StoreError> {
        let doing = "looking up a stream";
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .key("pk", key(connection_id))
            .key("sk", AttributeValue::S("STREAM".to_owned()))
            // A key may be pressed as soon as the stream has begun.
            .consistent_read(true)
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        let stream = answer.item.map(serde_dynamo::from_item);
        stream.transpose().map_err(StoreError::unreadable(doing))
    }
}

fn key(connection_id: &str) -> AttributeValue {
    AttributeValue::S(format!("STREAM#{connection_id}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wiremock::matchers::any;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::testing;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    async fn streams(answer: Value) -> (MockServer, Streams) {
        let server = MockServer::start().await;
        let answer = ResponseTemplate::new(200).set_body_json(answer);
        Mock::given(any()).respond_with(answer).mount(&server).await;
        let client = Client::new(&testing::aws(&server));
        (server, Streams::new(client, "calls".to_owned()))
    }

    fn a_stream() -> Stream {
        let call_sid = CallSid::try_from("5a1e0f9c2b3d4e5f60718293a4b5c6d7").unwrap();
        Stream::of(&ringback_core::testing::a_call(NOW), call_sid)
    }

    #[tokio::test]
    async fn what_was_remembered_of_a_stream_is_found_again() {
        let stream = a_stream();
        let (server, streams_to_fill) = streams(json!({})).await;
        streams_to_fill.begin("L0SM9", &stream, NOW).await.unwrap();
        let request = &testing::requests(&server).await[0];
        let item = request.body_json::<Value>().unwrap()["Item"].clone();
        assert_eq!(
            (&item["pk"]["S"], &item["sk"]["S"]),
            (&"STREAM#L0SM9".into(), &"STREAM".into())
        );
        assert_eq!(item["expires_at"]["N"], "1710425400");

        let (server, streams) = streams(json!({ "Item": item })).await;
        assert_eq!(streams.over("L0SM9").await.unwrap(), Some(stream));
        let request = &testing::requests(&server).await[0];
        assert_eq!(testing::operation(request), "GetItem");
        assert_eq!(
            request.body_json::<Value>().unwrap()["ConsistentRead"],
            true
        );
    }

    #[tokio::test]
    async fn a_stream_that_has_not_begun_is_none() {
        let (_server, streams) = streams(json!({})).await;
        assert_eq!(streams.over("L0SM9").await.unwrap(), None);
    }
}
