//! `POST /asterisk/incoming`, `/asterisk/bridged`, `/asterisk/ended`: the PBX's dialplan tells what its legs do.

use std::sync::Arc;
use std::time::Duration;

use lambda_http::Request;
use ringback::api::http::{self, ApiAnswer, ApiError, ApiErrorCode};
use ringback::asterisk::hook::{Report, Which};
use ringback::asterisk::{AsteriskError, Pbxs};
use ringback::auth::signing::Signing;
use ringback::auth::webhook_auth::WebhookAuth;
use ringback::effect_runner::OutsideError;
use ringback::form_fields::FormFields;
use ringback::platform::invocation::InvocationContext;
use ringback::platform::secrets::HookSecret;
use ringback::start::{LiveSwitchboard, Start};
use ringback::store::number_routes::NumberRoutes;
use ringback::switchboard::{InboundCallReport, Outcome, SwitchboardError};
use ringback_core::call::Event;
use ringback_core::ids::{CallId, Extension};
use ringback_core::timestamp::Timestamp;
use serde_json::json;

/// The dialplan waits 5 s for an answer, and then asks again.
const PATIENCE_OF_THE_PBX: Duration = Duration::from_secs(4);

struct AsteriskIncoming {
    switchboard: LiveSwitchboard,
    routes: NumberRoutes,
    gate: WebhookAuth<HookSecret>,
    signing: Arc<Signing>,
    country: String,
    pbxs: Pbxs,
}

impl AsteriskIncoming {
    async fn handle(
        &self,
        request: Request,
        invocation: InvocationContext,
    ) -> Result<ApiAnswer, ApiError> {
        let InvocationContext { now, deadline } = invocation.within(PATIENCE_OF_THE_PBX);
        let secret = http::header(&request, "x-ringback-secret");
        let admitted = self.gate.authenticate(http::source(&request), secret, now);
        // A new call's id is signed.
        let (admitted, ()) = tokio::join!(admitted, self.signing.get_ready());
        admitted?;
        let content_type = http::header(&request, "content-type").unwrap_or_default();
        let fields = FormFields::from_body(content_type, http::body(&request)?).await?;
        let report = Report::parse(&fields, &self.country, &self.pbxs)?;
        match http::path(&request).rsplit('/').next() {
            Some("incoming") if report.app_call().is_some() => {
                self.report(&report, &report.arrival(), now, deadline).await
            }
            Some("incoming") => self.incoming(report, now, deadline).await,
            Some("bridged") => self.report(&report, &Event::Bridged, now, deadline).await,
            Some("ended") => {
                self.report(&report, &report.end_of_leg(), now, deadline)
                    .await
            }
            _ => Err(ApiErrorCode::NoSuchRoute.into()),
        }
    }

    async fn incoming(
        &self,
        report: Report,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        let extension = self.extension(&report).await?;
        let sighting = InboundCallReport {
            call_id: self.signing.sign(report.id_of_call(&extension)).await?,
            extension,
            caller: report.caller,
            call_sid: report.call_sid,
            caller_leg: Some(report.leg),
        };
        let call = match self.switchboard.witness(&sighting, now, until).await {
            Ok(outcome) => outcome.call,
            // The caller waits, the app is ready, its SIP registration takes its time: the timer goes on with it.
            Err(SwitchboardError::Effect {
                call,
                source: OutsideError::Asterisk(AsteriskError::PhoneOffline),
            }) => *call,
            Err(error) => return Err(error.into()),
        };
        Ok(ApiAnswer::ok(
            json!({ "call_id": call.call_id, "status": call.status }),
        ))
    }

    async fn report(
        &self,
        report: &Report,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        let id = self.call_of(report).await?;
        let outcome = match self.switchboard.handle(id, event, now, until).await {
            Ok(outcome) => outcome,
            // A phone that was lost is called again as soon as it registers: the timer goes on with it.
            Err(SwitchboardError::Effect {
                call,
                source: OutsideError::Asterisk(AsteriskError::PhoneOffline),
            }) => Outcome {
                call: *call,
                refused: None,
            },
            Err(error) => return Err(error.into()),
        };
        match outcome.refused {
            None => Ok(ApiAnswer::ok(
                json!({ "call_id": id, "status": outcome.call.status }),
            )),
            Some(refusal) => Err(ApiError::rejected(refusal, &outcome.call, now)),
        }
    }

    async fn call_of(&self, report: &Report) -> Result<CallId, ApiError> {
        let place = match report.which() {
            Which::Call(id) => return Ok(id),
            Which::Caller => report.place(self.extension(report).await?),
        };
        let call = self.switchboard.met_at(&place).await?;
        Ok(call.ok_or(ApiErrorCode::NoSuchCall)?)
    }

    async fn extension(&self, report: &Report) -> Result<Extension, ApiError> {
        if let Some(extension) = &report.extension {
            return Ok(extension.clone());
        }
        let number = report.number.as_ref().ok_or_else(|| {
            ApiError::with_message(
                ApiErrorCode::BadField,
                "number or extension must say whom the caller wants",
            )
        })?;
        if let Some(extension) = self.routes.of(number).await? {
            return Ok(extension);
        }
        tracing::error!(leg = %report.leg, ?number, "the number has no route");
        Err(ApiErrorCode::NumberNotRouted.into())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let start = Start::function().await;
    let this = AsteriskIncoming {
        switchboard: start.switchboard()?,
        routes: start.routes()?,
        gate: start.pbx_hook_auth()?,
        signing: start.signing()?,
        country: start.country(),
        pbxs: start.pbxs()?,
    };
    http::serve(|request, invocation| this.handle(request, invocation)).await
}
