//! Audio streams of calls, by the WebSocket connection over which Exotel sends them.
//!
//! Item: `pk` = `STREAM#{connection id}`, `sk` = `STREAM`. It expires and is not deleted before: API Gateway never uses a
//! connection id twice.

use serde::{Deserialize, Serialize};

use crate::store::connections::KEPT_FOR;
use crate::store::table::{ItemKey, StoreError, Table, expiry};
use ringback_core::call::Call;
use ringback_core::ids::{CallId, CallSid, Extension};
use ringback_core::timestamp::Timestamp;

/// The audio stream of one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioStream {
    /// The call.
    pub call_id: CallId,
    /// Exotel's id of the call.
    pub call_sid: CallSid,
    /// The extensions that take part in the call. Their clients get the keys that are pressed.
    pub participants: Vec<Extension>,
}

impl AudioStream {
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

/// The audio streams in the table.
#[derive(Clone, Debug)]
pub struct AudioStreams {
    table: Table,
}

impl AudioStreams {
    /// The audio streams in this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table }
    }

    /// Stores the stream that has started on a connection.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn begin(
        &self,
        connection_id: &str,
        stream: &AudioStream,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let doing = "storing an audio stream";
        let item = serde_dynamo::to_item(stream).map_err(StoreError::unreadable(doing))?;
        let put = self.table.put(key(connection_id), item);
        put.item("expires_at", expiry(now + KEPT_FOR))
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        Ok(())
    }

    /// The stream on this connection. `None` if it has not started, or if its call is unknown.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn over(&self, connection_id: &str) -> Result<Option<AudioStream>, StoreError> {
        let doing = "looking up an audio stream";
        let get = self.table.get(key(connection_id));
        // A key can be pressed right after the stream has started, before replicas have its item.
        let answer = get.consistent_read(true).send().await;
        let answer = answer.map_err(StoreError::unavailable(doing))?;
        let stream = answer.item.map(serde_dynamo::from_item);
        stream.transpose().map_err(StoreError::unreadable(doing))
    }
}

fn key(connection_id: &str) -> ItemKey {
    ItemKey::new(format!("STREAM#{connection_id}"), "STREAM")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wiremock::matchers::any;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::testing;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    async fn streams(answer: Value) -> (MockServer, AudioStreams) {
        let server = MockServer::start().await;
        let answer = ResponseTemplate::new(200).set_body_json(answer);
        Mock::given(any()).respond_with(answer).mount(&server).await;
        let streams = AudioStreams::new(testing::table(&server));
        (server, streams)
    }

    fn a_stream() -> AudioStream {
        let call_sid = CallSid::try_from("5a1e0f9c2b3d4e5f60718293a4b5c6d7").unwrap();
        AudioStream::of(&ringback_core::testing::a_call(NOW), call_sid)
    }

    #[tokio::test]
    async fn a_stored_stream_is_found_by_its_connection() {
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
    async fn a_stream_that_has_not_started_is_not_found() {
        let (_server, streams) = streams(json!({})).await;
        assert_eq!(streams.over("L0SM9").await.unwrap(), None);
    }
}
