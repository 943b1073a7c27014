//! `POST /asterisk/incoming`, `/asterisk/bridged`, `/asterisk/ended`: the PBX's dialplan reports the state of its legs.

use ringback::platform::invocation::InvocationContext;
use std::sync::Arc;
use std::time::Duration;

use ringback::api::http::{self, ApiAnswer, ApiError, ApiErrorCode, Request};
use ringback::asterisk::dialplan_report::{DialplanReport, ReportedCall};
use ringback::asterisk::{AsteriskError, PbxList};
use ringback::auth::signing::Signing;
use ringback::auth::webhook_auth::WebhookAuth;
use ringback::effect_runner::EffectError;
use ringback::form_fields::FormFields;
use ringback::platform::secrets::HookSecret;
use ringback::start::{LiveSwitchboard, Start};
use ringback::store::number_routes::NumberRoutes;
use ringback::switchboard::{EventOutcome, InboundCallReport, SwitchboardError};
use ringback_core::call::Event;
use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;
use serde_json::json;

/// The dialplan repeats a report after 5 s without an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

struct AsteriskIncoming {
    switchboard: LiveSwitchboard,
    routes: NumberRoutes,
    hook_auth: WebhookAuth<HookSecret>,
    signing: Arc<Signing>,
    country: String,
    pbxs: PbxList,
}

impl AsteriskIncoming {
    async fn handle(
        &self,
        request: Request,
        invocation: InvocationContext,
    ) -> Result<ApiAnswer, ApiError> {
        let now = invocation.now;
        self.authenticate(&request, now).await?;
        let content_type = request.header("content-type").unwrap_or_default();
        let fields = FormFields::from_body(content_type, request.body()?).await?;
        let report = DialplanReport::parse(&fields, &self.country, &self.pbxs)?;
        let until = invocation.within(ANSWER_WITHIN).deadline;
        let event = match request.path().rsplit('/').next() {
            // The leg of a call that an app has started: the call exists already.
            Some("incoming") if report.app_caller_call().is_some() => report.arrival_event(),
            Some("incoming") => return self.start_call(report, now, until).await,
            Some("bridged") => Event::Bridged,
            Some("ended") => report.leg_ended_event(),
            _ => {
                return Err(ApiErrorCode::NoSuchRoute.into());
            }
        };
        self.handle_event(&report, &event, now, until).await
    }

    /// Checks the hook's secret. Loads the key that signs a new call's id at the same time.
    async fn authenticate(&self, request: &Request, now: Timestamp) -> Result<(), ApiError> {
        let secret = request.header("x-ringback-secret");
        let admitted = self.hook_auth.authenticate(request.source(), secret, now);
        let (admitted, ()) = tokio::join!(admitted, self.signing.get_ready());
        Ok(admitted?)
    }

    async fn start_call(
        &self,
        report: DialplanReport,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        let extension = self.extension(&report).await?;
        let report = InboundCallReport {
            call_id: report.call_id_for(&extension),
            extension,
            caller: report.caller,
            call_sid: report.call_sid,
            caller_leg: Some(report.leg),
        };
        let reported = self
            .switchboard
            .report_inbound_call(&report, self.signing.signer().await?, now, until)
            .await;
        answer(&accept_offline_phone(reported)?, now)
    }

    async fn handle_event(
        &self,
        report: &DialplanReport,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        let handled = match report.reported_call() {
            ReportedCall::ById(id) => self.switchboard.handle(id, event, now, until).await,
            ReportedCall::ByCallSid(sid) => {
                let extension = self.extension(report).await?;
                let rings = (&sid, &extension);
                let handling = self
                    .switchboard
                    .handle_leg(rings, &report.leg, event, now, until);
                handling.await
            }
            ReportedCall::ByCaller => {
                let key = report.correlation_key(self.extension(report).await?);
                let id = self.switchboard.find_by_correlation_key(&key).await?;
                let id = id.ok_or(ApiErrorCode::NoSuchCall)?;
                self.switchboard.handle(id, event, now, until).await
            }
        };
        answer(&accept_offline_phone(handled)?, now)
    }

    /// The extension in the report, or else the extension of the number that was called.
    async fn extension(&self, report: &DialplanReport) -> Result<Extension, ApiError> {
        if let Some(extension) = &report.extension {
            return Ok(extension.clone());
        }
        let number = report.number.as_ref().ok_or_else(|| {
            let message = "number or extension is required";
            ApiError::with_message(ApiErrorCode::BadField, message)
        })?;
        if let Some(extension) = self.routes.of(number).await? {
            return Ok(extension);
        }
        tracing::error!(leg = %report.leg, ?number, "number has no route");
        Err(ApiErrorCode::NumberNotRouted.into())
    }
}

fn answer(outcome: &EventOutcome, now: Timestamp) -> Result<ApiAnswer, ApiError> {
    let call = &outcome.call;
    match outcome.rejected {
        None => Ok(ApiAnswer::ok(json!({
            "call_id": call.call_id,
            "status": call.status,
            "unanswered_status": call.settings.unanswered,
        }))),
        Some(reason) => Err(ApiError::rejected(reason, call, now)),
    }
}

/// An offline phone fails no report: the app may be ready seconds before its SIP registration, or register again after
/// a lost connection. The call's timer dials the phone then.
fn accept_offline_phone(
    result: Result<EventOutcome, SwitchboardError<EffectError>>,
) -> Result<EventOutcome, ApiError> {
    match result {
        Err(SwitchboardError::Effect {
            call,
            source: EffectError::Asterisk(AsteriskError::PhoneOffline),
        }) => Ok(EventOutcome {
            call: *call,
            rejected: None,
        }),
        other => Ok(other?),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let start = Start::function()?;
    let this = AsteriskIncoming {
        switchboard: start.switchboard()?,
        routes: start.routes()?,
        hook_auth: start.pbx_hook_auth()?,
        signing: start.signing()?,
        country: start.country(),
        pbxs: start.pbxs()?,
    };
    http::serve(|request, invocation| this.handle(request, invocation)).await
}
