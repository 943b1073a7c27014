//! `POST /asterisk/incoming`, `/asterisk/bridged`, `/asterisk/ended`: the PBX's dialplan tells what its legs do.

use ringback::platform::clock;
use std::sync::Arc;
use std::time::Duration;

use lambda_http::Request;
use ringback::api::form::Fields;
use ringback::api::http::{self, Answer, ApiError};
use ringback::asterisk::hook::{Report, Which};
use ringback::asterisk::{AsteriskError, Pbxs};
use ringback::auth::signing::Signing;
use ringback::auth::webhook_auth::Gate;
use ringback::effect_runner::OutsideError;
use ringback::platform::secrets::HookSecret;
use ringback::platform::start::{LiveSwitchboard, Start};
use ringback::store::number_routes::Routes;
use ringback::switchboard::{InboundCallReport, Outcome, SwitchboardError};
use ringback_core::call::Event;
use ringback_core::ids::{CallId, Extension};
use ringback_core::timestamp::Timestamp;
use serde_json::json;

/// The dialplan waits 5 s for an answer, and then asks again.
const PATIENCE_OF_THE_PBX: Duration = Duration::from_secs(4);

struct AsteriskIncoming {
    switchboard: LiveSwitchboard,
    routes: Routes,
    gate: Gate<HookSecret>,
    signing: Arc<Signing>,
    country: String,
    pbxs: Pbxs,
}

impl AsteriskIncoming {
    async fn handle(&self, request: Request) -> Result<Answer, ApiError> {
        let now = clock::now();
        let secret = http::header(&request, "x-ringback-secret");
        let admitted = self.gate.admit(http::source(&request), secret, now);
        // A new call's id is signed.
        let (admitted, ()) = tokio::join!(admitted, self.signing.get_ready());
        admitted?;
        let content_type = http::header(&request, "content-type").unwrap_or_default();
        let fields = Fields::from_body(content_type, http::body(&request)?).await?;
        let report = Report::parse(&fields, &self.country, &self.pbxs)?;
        let until = http::until(&request);
        match http::path(&request).rsplit('/').next() {
            Some("incoming") if report.app_call().is_some() => {
                self.report(&report, &report.arrival(), now, until).await
            }
            Some("incoming") => self.incoming(report, now, until).await,
            Some("bridged") => self.report(&report, &Event::Bridged, now, until).await,
            Some("ended") => self.report(&report, &report.end_of_leg(), now, until).await,
            _ => Err(ApiError::not_found(
                "no_such_route",
                "there is no such route",
            )),
        }
    }

    async fn incoming(
        &self,
        report: Report,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Answer, ApiError> {
        let extension = self.extension(&report).await?;
        let sighting = InboundCallReport {
            call_id: self.signing.sign(report.id_of_call(&extension)).await?,
            extension,
            caller: report.caller,
            call_sid: report.call_sid,
            caller_leg: Some(report.leg),
        };
        let until = until.min(now + PATIENCE_OF_THE_PBX);
        let call = match self
            .switchboard
            .report_inbound_call(&sighting, now, until)
            .await
        {
            Ok(outcome) => outcome.call,
            // The caller waits, the app is ready, its SIP registration takes its time: the timer goes on with it.
            Err(SwitchboardError::Effect {
                call,
                source: OutsideError::Asterisk(AsteriskError::PhoneOffline),
            }) => *call,
            Err(error) => return Err(error.into()),
        };
        Ok(Answer::ok(
            json!({ "call_id": call.call_id, "status": call.status }),
        ))
    }

    async fn report(
        &self,
        report: &Report,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Answer, ApiError> {
        let id = self.call_of(report).await?;
        let until = until.min(now + PATIENCE_OF_THE_PBX);
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
        match outcome.rejected {
            None => Ok(Answer::ok(
                json!({ "call_id": id, "status": outcome.call.status }),
            )),
            Some(refusal) => Err(http::refused(refusal, &outcome.call, now)),
        }
    }

    async fn call_of(&self, report: &Report) -> Result<CallId, ApiError> {
        let place = match report.which() {
            Which::Call(id) => return Ok(id),
            Which::Caller => report.place(self.extension(report).await?),
        };
        self.switchboard
            .find_by_correlation_key(&place)
            .await?
            .ok_or_else(ApiError::no_such_call)
    }

    async fn extension(&self, report: &Report) -> Result<Extension, ApiError> {
        if let Some(extension) = &report.extension {
            return Ok(extension.clone());
        }
        let number = report.number.as_ref().ok_or_else(|| {
            ApiError::bad_request(
                "bad_field",
                "number or extension must say whom the caller wants",
            )
        })?;
        if let Some(extension) = self.routes.of(number).await? {
            return Ok(extension);
        }
        tracing::error!(leg = %report.leg, ?number, "the number has no route");
        Err(ApiError::not_found(
            "number_not_routed",
            "the number leads to no extension; add its route",
        ))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let start = Start::function().await?;
    let this = AsteriskIncoming {
        switchboard: start.switchboard()?,
        routes: start.routes(),
        gate: start.pbxs_gate()?,
        signing: start.signing()?,
        country: start.country(),
        pbxs: start.pbxs()?,
    };
    http::serve(|request| this.handle(request)).await
}
