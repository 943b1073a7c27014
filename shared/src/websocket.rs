//! What API Gateway's WebSocket API hands to its functions, and how they answer.
//!
//! <https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-websocket-api-mapping-template-reference.html>

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::Party;
use crate::connections::Connection;
use crate::names::{DeviceId, Extension};

/// A request of a connected client, or of one that connects or has gone.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// What API Gateway knows of it.
    pub request_context: Context,
    /// The message's text; absent on connecting and disconnecting.
    #[serde(default)]
    pub body: Option<String>,
}

/// What API Gateway knows of a request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Context {
    connection_id: String,
    /// What the authorizer found out when the client connected.
    authorizer: Who,
}

/// Who is connected. Settled once, on connecting; it comes with each later message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// For whom the client speaks.
    pub extension: Extension,
    /// Its device, if its token names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
}

impl Request {
    /// The client's connection.
    #[must_use]
    pub fn connection(&self) -> Connection {
        let context = &self.request_context;
        Connection {
            id: context.connection_id.clone(),
            extension: context.authorizer.extension.clone(),
        }
    }

    /// The client, as a party to calls.
    #[must_use]
    pub fn party(&self) -> Party {
        let who = &self.request_context.authorizer;
        Party {
            extension: who.extension.clone(),
            device: who.device_id.clone(),
        }
    }
}

/// API Gateway's word for "done".
#[must_use]
pub fn done() -> Value {
    json!({ "statusCode": 200 })
}

/// A message back to the client that has sent one.
#[must_use]
pub fn answer(message: &Value) -> Value {
    json!({ "statusCode": 200, "body": message.to_string() })
}
