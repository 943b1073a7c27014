//! `GET` and `POST /exotel/webhook`: Exotel tells of a caller, or of the end of a call.

use ringback::platform::clock;
use std::sync::Arc;

use lambda_http::Request;
use ringback::api::form::Fields;
use ringback::api::http::{self, Answer, ApiError};
use ringback::auth::signing::{SignatureError, Signing};
use ringback::auth::webhook_auth::Gate;
use ringback::exotel::{Direction, ExotelWebhook, Source};
use ringback::platform::secrets::WebhookSecret;
use ringback::platform::start::{LiveSwitchboard, Start};
use ringback::store::number_routes::Routes;
use ringback::switchboard::{InboundCallReport, SwitchboardError};
use ringback_core::call::Event;
use ringback_core::ids::{CallId, Extension};
use ringback_core::timestamp::Timestamp;
use serde_json::json;

struct Handler {
    switchboard: LiveSwitchboard,
    routes: Routes,
    gate: Gate<WebhookSecret>,
    signing: Arc<Signing>,
    country: String,
}

/// What a request may report, by what its URL shows.
enum Reporter {
    /// With the webhook's secret: every call.
    Flow,
    /// With the token of a call that we placed: that call.
    OneCall(CallId),
}

impl Handler {
    async fn handle(&self, request: Request) -> Result<Answer, ApiError> {
        let now = clock::now();
        let query = Fields::from_form(request.uri().query().unwrap_or_default().as_bytes());
        let reporter = self.reporter(&request, &query, now).await?;
        let content_type = http::header(&request, "content-type").unwrap_or_default();
        let body = Fields::from_body(content_type, http::body(&request)?).await?;
        let extension = query
            .text("extension")
            .map(Extension::try_from)
            .transpose()?;
        // What our own callback URL says of its call goes before what Exotel says.
        let is_ours = query.text("CustomField").is_some();
        let fields = if is_ours {
            query.or(body)
        } else {
            body.or(query)
        };
        let notice = ExotelWebhook::parse(&fields, &self.country)?;
        let until = http::until(&request);
        let by_sid = CallId::of_call_sid(&notice.call_sid);
        match (reporter, notice.direction, notice.end(), notice.reported()) {
            (reporter, Direction::Outbound, _, Some(reported)) => {
                let call = match reporter {
                    Reporter::OneCall(call) => call,
                    Reporter::Flow => notice.call_id.unwrap_or(by_sid),
                };
                self.report(call, &reported, now, until).await
            }
            // A call of the account's that we did not ask for, or a word that Exotel does not document.
            (_, Direction::Outbound, _, None) => Ok(Answer::ok(json!({ "status": "ignored" }))),
            (Reporter::OneCall(_), Direction::Inbound, _, _) => {
                Err(SignatureError::WrongToken.into())
            }
            (Reporter::Flow, Direction::Inbound, Some(end), _) => {
                self.report(by_sid, &end, now, until).await
            }
            (Reporter::Flow, Direction::Inbound, None, _) => {
                self.ring(notice, extension, now, until).await
            }
        }
    }

    /// Who reports. The key that a new call's id is signed with is fetched beside the secret.
    async fn reporter(
        &self,
        request: &Request,
        query: &Fields,
        now: Timestamp,
    ) -> Result<Reporter, ApiError> {
        let source = http::source(request);
        if let (Some(token), Some(call)) = (query.text("call_token"), query.text("CustomField")) {
            self.gate.admit_source(source)?;
            let call = CallId::try_from(call)?;
            self.signing.check_callback(call, token, now).await?;
            return Ok(Reporter::OneCall(call));
        }
        let admitted = self.gate.admit(source, query.text("secret"), now);
        let (admitted, ()) = tokio::join!(admitted, self.signing.get_ready());
        admitted?;
        Ok(Reporter::Flow)
    }

    /// Anything but 200 makes Exotel repeat a report, which would not make an unknown call known.
    async fn report(
        &self,
        call: CallId,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Answer, ApiError> {
        match self.switchboard.handle(call, event, now, until).await {
            Err(SwitchboardError::NoSuchCall) => {
                tracing::info!(call_id = %call, "a report of a call that is not known");
                Ok(Answer::ok(json!({ "status": "unknown" })))
            }
            outcome => Ok(Answer::ok(
                json!({ "call_id": call, "status": outcome?.call.status }),
            )),
        }
    }

    async fn ring(
        &self,
        notice: ExotelWebhook,
        extension: Option<Extension>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Answer, ApiError> {
        if notice.is_repetition(self.switchboard.limits().ring, now) {
            tracing::warn!(call_sid = %notice.call_sid, "Exotel repeats a call whose caller has gone");
            return Ok(Answer::ok(json!({ "status": "too_late" })));
        }
        let extension = match extension {
            Some(extension) => extension,
            None => self.route(&notice).await?,
        };
        let sighting = InboundCallReport {
            call_id: self
                .signing
                .sign(CallId::of_call_sid(&notice.call_sid))
                .await?,
            extension,
            caller: notice.caller,
            call_sid: Some(notice.call_sid),
            caller_leg: None,
        };
        let call = self
            .switchboard
            .report_inbound_call(&sighting, now, until)
            .await?
            .call;
        Ok(Answer::ok(
            json!({ "call_id": call.call_id, "status": call.status }),
        ))
    }

    /// A number that leads nowhere sends Exotel's flow down its failure branch: to a Passthru applet, 302 says so.
    async fn route(&self, notice: &ExotelWebhook) -> Result<Extension, ApiError> {
        if let Some(number) = &notice.to
            && let Some(extension) = self.routes.of(number).await?
        {
            return Ok(extension);
        }
        tracing::error!(call_sid = %notice.call_sid, number = ?notice.to, "the number has no route");
        let nowhere = ApiError::not_found(
            "number_not_routed",
            "the number leads to no extension; add its route, or ?extension= to the webhook URL",
        );
        Err(match notice.source {
            Source::Passthru => nowhere.with_status(302),
            Source::StatusCallback => nowhere,
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let start = Start::function().await?;
    let this = Handler {
        switchboard: start.switchboard()?,
        routes: start.routes(),
        gate: start.exotels_gate()?,
        signing: start.signing()?,
        country: start.country(),
    };
    http::serve(|request| this.handle(request)).await
}
