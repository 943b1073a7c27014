//! `GET /api/calls/{id}`: the current state of a call. An app that wakes late asks for it before it rings, so that it does
//! not ring for a call that is over.
//!
//! `GET /api/calls`: the recent calls of an extension.

use ringback::platform::invocation::InvocationContext;
use std::sync::Arc;

use ringback::api::http::{self, ApiAnswer, ApiError, ApiErrorCode, Request};
use ringback::auth::signing::Signing;
use ringback::auth::{Tokens, Viewer};
use ringback::start::Start;
use ringback::store::call_lists::{CallLists, ListPosition};
use ringback::store::calls::{
    CallStore, DynamoCallStore, ReplicationWaitError, find_when_replicated,
};
use ringback::store::missed_calls::MissedCalls;
use ringback_core::call::Call;
use ringback_core::ids::{BadName, CallId, CallSid, Extension};
use ringback_core::timestamp::Timestamp;
use serde_json::{Value, json};

/// The length of a UUID with its dashes.
const UUID_LENGTH: usize = 36;

/// How many calls a list has that does not ask for more or fewer, and at most.
const LISTED: usize = 20;
const MOST_LISTED: usize = 100;

struct CallStatusHandler {
    calls: DynamoCallStore,
    lists: CallLists,
    missed_calls: MissedCalls,
    tokens: Tokens,
    signing: Arc<Signing>,
}

impl CallStatusHandler {
    async fn handle(
        &self,
        request: Request,
        invocation: InvocationContext,
    ) -> Result<ApiAnswer, ApiError> {
        let now = invocation.now;
        let header = request.header("authorization");
        let bearer = self.tokens.bearer(header, now);
        let (bearer, ()) = tokio::join!(bearer, self.signing.get_ready());
        let viewer = bearer?.viewer();
        // Only the route of a single call has this parameter.
        let Ok(id) = request.path_parameter("id") else {
            return self.list(&request, &viewer, now).await;
        };
        let call = self.find(id, &viewer, now).await?;
        let call = call.ok_or(ApiErrorCode::NoSuchCall)?;
        if !viewer.sees(call.participants()) {
            return Err(ApiErrorCode::NotYourCall.into());
        }
        Ok(ApiAnswer::ok(call_json(&call, now)))
    }

    async fn list(
        &self,
        request: &Request,
        viewer: &Viewer,
        now: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        let query = ListQuery::parse(request)?;
        if !viewer.sees(std::iter::once(&query.extension)) {
            return Err(ApiErrorCode::NotYourExtension.into());
        }
        let page = self
            .lists
            .page(&query.extension, query.limit, query.after.as_ref());
        let (page, ()) = tokio::join!(page, self.forget_missed_calls(&query, viewer));
        let page = page?;
        let calls = self.calls.find_all(&page.call_ids).await?;
        // DynamoDB deletes expired items late.
        let kept = |call: &&Call| call.expires_at > now.as_secs_rounded_up();
        let calls: Vec<Value> = calls
            .iter()
            .filter(kept)
            .map(|call| call_json(call, now))
            .collect();
        let next = page.next.map(|next| next.to_string());
        Ok(ApiAnswer::ok(json!({ "calls": calls, "next": next })))
    }

    /// An app that asks for the newest calls knows of those that it has missed. If this fails, the next notice counts them again.
    async fn forget_missed_calls(&self, query: &ListQuery, viewer: &Viewer) {
        let is_app = matches!(viewer, Viewer::App(_));
        if is_app
            && query.after.is_none()
            && let Err(error) = self.missed_calls.forget(&query.extension).await
        {
            tracing::warn!(extension = %query.extension, %error, "missed calls not reset");
        }
    }

    /// Finds a call by its id; for an operator also by Exotel's CallSid: of several calls, the last one. The signature of an id is
    /// checked before the table is read, so that made-up ids cost no read.
    async fn find(
        &self,
        id: &str,
        viewer: &Viewer,
        now: Timestamp,
    ) -> Result<Option<Call>, ApiError> {
        // By its length alone: a CallSid may look like a UUID without dashes.
        let is_id = id.len() == UUID_LENGTH;
        match viewer {
            Viewer::Operator if !is_id => {
                let sid = CallSid::try_from(id)?;
                let mut last: Option<Call> = None;
                for id in self.calls.find_by_sid(&sid, None).await? {
                    let call = self.calls.find(id).await?;
                    last = last
                        .into_iter()
                        .chain(call)
                        .max_by_key(|call| call.created_at);
                }
                Ok(last)
            }
            Viewer::Operator => {
                let id = CallId::try_from(id)?;
                self.signing.check(id, now).await?;
                Ok(self.calls.find(id).await?)
            }
            Viewer::App(extension) => {
                let id = CallId::try_from(id)?;
                self.signing.check(id, now).await?;
                let look = || async { Ok::<_, ReplicationWaitError>(self.calls.find(id).await?) };
                Ok(find_when_replicated(&self.calls, Some(extension), now, look).await?)
            }
        }
    }
}

/// Which calls a client asks for.
struct ListQuery {
    extension: Extension,
    limit: usize,
    after: Option<ListPosition>,
}

impl ListQuery {
    fn parse(request: &Request) -> Result<Self, BadName> {
        let extension = request.query_parameter("extension").unwrap_or_default();
        let limit = match request.query_parameter("limit") {
            Some(text) => text.parse().ok(),
            None => Some(LISTED),
        };
        let limit = limit.filter(|limit| (1..=MOST_LISTED).contains(limit));
        let next = request.query_parameter("next");
        Ok(Self {
            extension: Extension::try_from(extension)?,
            limit: limit.ok_or(BadName {
                what: "limit",
                rule: "must be a number from 1 to 100",
            })?,
            after: next.as_deref().map(ListPosition::try_from).transpose()?,
        })
    }
}

/// The body of one call. A field that is also in the push has the same name as there.
fn call_json(call: &Call, now: Timestamp) -> Value {
    json!({
        "call_id": call.call_id,
        "server_call_id": call.call_id,
        "status": call.status_at(now),
        "extension": call.extension,
        "to": call.number_called(),
        "caller_number": call.caller().shown(),
        "caller_name": call.caller().name,
        "call_type": call.call_type,
        "created_at": call.created_at,
        "expires_at": call.rings_until,
        "ready_at": call.ready_at,
        "bridged_at": call.bridged_at,
        "ended_at": call.ended_at(),
        "reason": call.end_reason(),
        "ring_receipts": ring_receipts(call),
        "stream": call.stream,
        "answered_by": call.answered_by.as_ref().and_then(|answered_by| answered_by.device.as_ref()),
        "history": call.history,
    })
}

/// When each device reported that it rings.
fn ring_receipts(call: &Call) -> Value {
    let receipts = call.ring_receipts.iter().map(|(device, receipt)| {
        let shown = json!({
            "at": receipt.at,
            "platform": receipt.platform,
            "time_to_ring_ms": receipt.time_to_ring().as_millis(),
        });
        (device.to_string(), shown)
    });
    receipts.collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let start = Start::function()?;
    let this = CallStatusHandler {
        calls: start.calls()?,
        lists: start.call_lists()?,
        missed_calls: start.missed_calls()?,
        tokens: start.tokens()?,
        signing: start.signing()?,
    };
    http::serve(|request, invocation| this.handle(request, invocation)).await
}
