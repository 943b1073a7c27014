//! `GET` and `POST /exotel/webhook`: Exotel reports a new call or a call's end. `GET /exotel/voicebot`: Exotel asks where to stream a
//! call's audio.

use ringback::form_fields::FormFields;
use ringback::platform::invocation::InvocationContext;
use std::sync::Arc;

use ringback::api::http::{self, ApiAnswer, ApiError, ApiErrorCode, Request};
use ringback::auth::signing::{SignatureError, Signing};
use ringback::auth::webhook_auth::WebhookAuth;
use ringback::exotel::{CallDirection, CallStage, ExotelWebhook, WebhookSource};
use ringback::platform::secrets::WebhookSecret;
use ringback::start::{LiveSwitchboard, Start};
use ringback::store::number_routes::NumberRoutes;
use ringback::switchboard::{InboundCallReport, SwitchboardError};
use ringback_core::call::Event;
use ringback_core::ids::{BadName, CallId, CallSid, Extension};
use ringback_core::timestamp::Timestamp;
use secrecy::ExposeSecret;
use serde_json::json;

struct ExotelWebhookHandler {
    switchboard: LiveSwitchboard,
    routes: NumberRoutes,
    webhook_auth: WebhookAuth<WebhookSecret>,
    signing: Arc<Signing>,
    country: String,
    /// The WebSocket API, to which Exotel streams audio.
    stream_url: String,
}

/// Which calls a request may report, by the credentials in its URL.
enum ReportScope {
    /// The webhook's secret: every call.
    AllCalls,
    /// The token of a call that we placed: that call.
    OneCall(CallId),
}

impl ExotelWebhookHandler {
    async fn handle(
        &self,
        request: Request,
        invocation: InvocationContext,
    ) -> Result<ApiAnswer, ApiError> {
        let InvocationContext { now, deadline } = invocation;
        let query = request.query();
        if request.path() == "/exotel/voicebot" {
            return self.stream_address(&request, &query, now).await;
        }
        let scope = self.authenticate(&request, &query, now).await?;
        let extension = query
            .text("extension")
            .map(Extension::try_from)
            .transpose()?;
        let webhook = self.parse(&request, query).await?;
        match (scope, webhook.direction) {
            (scope, CallDirection::Outbound) => {
                // A call that Ringback did not place, or a status that Exotel does not document.
                let Some(progress) = webhook.progress_event() else {
                    return Ok(ApiAnswer::ok(json!({ "status": "ignored" })));
                };
                let call_id = match scope {
                    ReportScope::OneCall(call_id) => Some(call_id),
                    ReportScope::AllCalls => webhook.call_id,
                };
                match call_id {
                    Some(id) => self.handle_event(id, &progress, now, deadline).await,
                    None => {
                        let sid = &webhook.call_sid;
                        self.handle_by_sid(sid, None, &progress, now, deadline)
                            .await
                    }
                }
            }
            (ReportScope::OneCall(_), CallDirection::Inbound) => {
                Err(SignatureError::WrongToken.into())
            }
            (ReportScope::AllCalls, CallDirection::Inbound) => match webhook.end_event() {
                Some(end) => {
                    let extension = match webhook.stage {
                        CallStage::AgentDone => self.extension(&webhook, extension).await?,
                        CallStage::Ended | CallStage::Ongoing => None,
                    };
                    let (sid, extension) = (&webhook.call_sid, extension.as_ref());
                    self.handle_by_sid(sid, extension, &end, now, deadline)
                        .await
                }
                None => self.start_call(webhook, extension, now, deadline).await,
            },
        }
    }

    /// Where a Stream or Voicebot applet streams this call's audio. Exotel documents an HTTPS URL in place of the `wss` URL, which gets
    /// the parameters of a Passthru and returns `{"url": "wss://…"}`
    /// (<https://developer.exotel.com/docs/agentstream/stream-voicebot-applet>).
    async fn stream_address(
        &self,
        request: &Request,
        query: &FormFields,
        now: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        let (source, secret) = (request.source(), query.text("secret"));
        self.webhook_auth.authenticate(source, secret, now).await?;
        let call_sid = query.text("CallSid").ok_or(BadName {
            what: "CallSid",
            rule: "is missing",
        })?;
        let call_sid = CallSid::try_from(call_sid)?;
        let token = self.webhook_auth.stream_token(&call_sid, now).await?;
        let url = &self.stream_url;
        let url = format!("{url}?stream_token={}", token.expose_secret());
        Ok(ApiAnswer::ok(json!({ "url": url })))
    }

    /// Checks the credentials. Loads the key that signs a new call's id at the same time.
    async fn authenticate(
        &self,
        request: &Request,
        query: &FormFields,
        now: Timestamp,
    ) -> Result<ReportScope, ApiError> {
        let source = request.source();
        if let (Some(token), Some(call_id)) = (query.text("call_token"), query.text("CustomField"))
        {
            self.webhook_auth.check_source(source)?;
            let call_id = CallId::try_from(call_id)?;
            self.signing.check_callback(call_id, token, now).await?;
            return Ok(ReportScope::OneCall(call_id));
        }
        let admitted = self
            .webhook_auth
            .authenticate(source, query.text("secret"), now);
        let (admitted, ()) = tokio::join!(admitted, self.signing.get_ready());
        admitted?;
        Ok(ReportScope::AllCalls)
    }

    async fn parse(&self, request: &Request, query: FormFields) -> Result<ExotelWebhook, ApiError> {
        let content_type = request.header("content-type").unwrap_or_default();
        let body = FormFields::from_body(content_type, request.body()?).await?;
        // In a callback for a call that we placed, our own URL names the call and so takes precedence over the body.
        let is_callback = query.text("CustomField").is_some();
        let fields = if is_callback {
            query.or(body)
        } else {
            body.or(query)
        };
        Ok(ExotelWebhook::parse(&fields, &self.country)?)
    }

    async fn handle_event(
        &self,
        call_id: CallId,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        match self.switchboard.handle(call_id, event, now, until).await {
            // 200, because Exotel repeats a report after any other status, and the call would stay unknown.
            Err(SwitchboardError::NoSuchCall) => {
                tracing::info!(%call_id, "report of an unknown call");
                Ok(ApiAnswer::ok(json!({ "status": "unknown" })))
            }
            outcome => Ok(ApiAnswer::ok(
                json!({ "call_id": call_id, "status": outcome?.call.status }),
            )),
        }
    }

    /// Handles an event of all calls with this CallSid, or of those that call `extension`.
    async fn handle_by_sid(
        &self,
        sid: &CallSid,
        extension: Option<&Extension>,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        let handled = self
            .switchboard
            .handle_by_sid(sid, extension, event, now, until)
            .await?;
        let Some(outcome) = handled.last() else {
            tracing::info!(call_sid = %sid, "report of an unknown call");
            return Ok(ApiAnswer::ok(json!({ "status": "unknown" })));
        };
        Ok(ApiAnswer::ok(
            json!({ "call_id": outcome.call.call_id, "status": outcome.call.status }),
        ))
    }

    async fn start_call(
        &self,
        webhook: ExotelWebhook,
        extension: Option<Extension>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        if webhook.is_repetition(self.switchboard.settings().ring, now) {
            tracing::warn!(call_sid = %webhook.call_sid, "repeated report of an old call ignored");
            return Ok(ApiAnswer::ok(json!({ "status": "too_late" })));
        }
        let extension = self.extension(&webhook, extension).await?;
        let report = InboundCallReport {
            call_id: None,
            extension: extension.ok_or_else(|| no_route(&webhook))?,
            caller: webhook.caller,
            call_sid: Some(webhook.call_sid),
            caller_leg: None,
        };
        let call = self
            .switchboard
            .report_inbound_call(&report, self.signing.signer().await?, now, until)
            .await?
            .call;
        Ok(ApiAnswer::ok(
            json!({ "call_id": call.call_id, "status": call.status }),
        ))
    }

    /// The extension that the report is about: that of the agent's number, or else the one in the URL, or else that of the number that
    /// was called.
    async fn extension(
        &self,
        webhook: &ExotelWebhook,
        in_url: Option<Extension>,
    ) -> Result<Option<Extension>, ApiError> {
        let of_agent = match &webhook.agent {
            Some(number) => self.routes.of(number).await?,
            None => None,
        };
        Ok(match (of_agent.or(in_url), &webhook.to) {
            (Some(extension), _) => Some(extension),
            (None, Some(number)) => self.routes.of(number).await?,
            (None, None) => None,
        })
    }
}

fn no_route(webhook: &ExotelWebhook) -> ApiError {
    tracing::error!(call_sid = %webhook.call_sid, number = ?webhook.to, "number has no route");
    let no_route = ApiError::with_message(
        ApiErrorCode::NumberNotRouted,
        "the number has no route to an extension; add a route, or add ?extension= to the webhook URL",
    );
    match webhook.source {
        // A Passthru applet takes the flow's failure branch on 302.
        WebhookSource::Passthru => no_route.with_status(302),
        WebhookSource::StatusCallback => no_route,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let start = Start::function()?;
    let this = ExotelWebhookHandler {
        switchboard: start.switchboard()?,
        routes: start.routes()?,
        webhook_auth: start.exotel_webhook_auth()?,
        signing: start.signing()?,
        country: start.country(),
        stream_url: start.environment.required("EXOTEL_STREAM_URL")?,
    };
    http::serve(|request, invocation| this.handle(request, invocation)).await
}
