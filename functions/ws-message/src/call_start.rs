//! `incoming_call`: an app starts a call.

use ringback::platform::invocation::InvocationContext;
use std::sync::Arc;

use ringback::api::http::{ApiError, ApiErrorCode};
use ringback::api::new_call::{Address, CallRequest};
use ringback::api::status_update::call_initiated;
use ringback::auth::signing::Signing;
use ringback::exotel::dial_rules::{CallerIdPolicy, DialRuleViolation, DialRules};
use ringback::start::LiveSwitchboard;
use ringback::store::number_routes::NumberRoutes;
use ringback::switchboard::{Destination, NewCallRequest, StartLimits, SwitchboardError};
use ringback::telemetry::metrics;
use ringback_core::call::{Call, CallParty, CallType, EndReason};
use ringback_core::ids::{CallId, Extension};
use ringback_core::phone_number::PhoneNumber;
use serde_json::Value;

/// Starts the calls that apps request.
pub(crate) struct CallStarter {
    pub(crate) switchboard: LiveSwitchboard,
    pub(crate) signing: Arc<Signing>,
    pub(crate) routes: NumberRoutes,
    pub(crate) country: String,
    pub(crate) rules: DialRules,
    pub(crate) limits: StartLimits,
}

impl CallStarter {
    /// Starts a call for `app`. A request with a `clientReference` that was used before gets the state of that call.
    pub(crate) async fn start(
        &self,
        party: CallParty,
        request: CallRequest,
        invocation: InvocationContext,
    ) -> Result<Value, ApiError> {
        let app = &party.extension;
        let device = request.device.clone().or(party.device);
        let InvocationContext { now, deadline } = invocation;
        let reference = request.reference.clone();
        let call_id = match &reference {
            Some(reference) => CallId::of_reference(app, reference),
            None => CallId::fresh(),
        };
        let (call_id, destination) =
            futures::join!(self.signing.sign(call_id), self.destination(app, request));
        let new_call = NewCallRequest {
            destination: destination?,
            call_id: call_id?,
            by: CallParty {
                extension: app.clone(),
                device,
            },
            limits: self.limits,
        };
        let started = self.switchboard.start_call(&new_call, now, deadline).await;
        if let Err(SwitchboardError::TooMany { limit, .. }) = &started {
            record_refusal(app, limit.rule());
        }
        let call = started?.call;
        if call.is_to_number() {
            tracing::info!(call_id = %call.call_id, extension = %app, "call to a telephone number");
        }
        if !new_call.is_for(&call) {
            return Err(ApiError::from(ApiErrorCode::ReferenceUsed).about_call(&call));
        }
        match start_error(&call) {
            None => Ok(call_initiated(&call, reference.as_ref())),
            Some(code) => Err(ApiError::from(code).about_call(&call)),
        }
    }

    async fn destination(
        &self,
        app: &Extension,
        request: CallRequest,
    ) -> Result<Destination, ApiError> {
        match request.recipient {
            Address::Telephone(_) if request.call_type == CallType::Video => {
                Err(ApiErrorCode::NoVideoToATelephone.into())
            }
            Address::Telephone(to) => {
                let from = self.allowed_numbers(app, request.caller, &to).await?;
                Ok(Destination::Number { from, to })
            }
            Address::App(callee) if callee == *app => Err(ApiErrorCode::OwnExtension.into()),
            Address::App(callee) => match request.caller {
                None => Ok(Destination::App(callee, request.call_type)),
                Some(Address::App(caller)) if caller == *app => {
                    Ok(Destination::App(callee, request.call_type))
                }
                Some(Address::App(_)) => Err(ApiErrorCode::NotYourExtension.into()),
                Some(Address::Telephone(_)) => Err(ApiError::with_message(
                    ApiErrorCode::BadField,
                    "in a call to an extension, callerId must be the app's own extension",
                )),
            },
        }
    }

    /// Checks both numbers of a call to a telephone number, and returns the caller's.
    async fn allowed_numbers(
        &self,
        app: &Extension,
        caller: Option<Address>,
        to: &PhoneNumber,
    ) -> Result<PhoneNumber, ApiError> {
        let forbidden = |rule: DialRuleViolation| {
            record_refusal(app, rule.rule());
            ApiError::from(rule)
        };
        self.rules.allow(to).map_err(forbidden)?;
        let from = self.caller_number(app, caller).await?;
        // Exotel dials the caller's number first, so the rules apply to it too.
        self.rules.allow(&from).map_err(forbidden)?;
        Ok(from)
    }

    /// The telephone that Exotel dials first: the extension's own number, unless the deployment allows any number.
    async fn caller_number(
        &self,
        app: &Extension,
        caller: Option<Address>,
    ) -> Result<PhoneNumber, ApiError> {
        let requested = match caller {
            Some(Address::App(extension)) if extension != *app => {
                return Err(ApiErrorCode::NotYourExtension.into());
            }
            Some(Address::Telephone(number)) => Some(number),
            Some(Address::App(_)) | None => None,
        };
        if let (Some(number), CallerIdPolicy::Any) = (&requested, self.rules.caller_id()) {
            return Ok(number.clone());
        }
        let own = self.routes.number_of(app, &self.country).await?;
        if requested.is_some() && requested != own {
            record_refusal(app, DialRuleViolation::CallerId.rule());
            return Err(DialRuleViolation::CallerId.into());
        }
        Ok(own.ok_or(ApiErrorCode::CallerHasNoTelephone)?)
    }
}

/// Counts and logs a call that a rule forbids.
fn record_refusal(app: &Extension, rule: &'static str) {
    metrics::call_refused(rule);
    tracing::warn!(extension = %app, rule, "call refused");
}

/// The error for a call that failed while it was set up. `None` if it did not fail.
fn start_error(call: &Call) -> Option<ApiErrorCode> {
    Some(match call.end_reason() {
        Some(EndReason::NoDevice) => ApiErrorCode::NoDevice,
        Some(EndReason::PushFailed) => ApiErrorCode::PushFailed,
        Some(EndReason::Busy) => ApiErrorCode::CalleeBusy,
        Some(EndReason::DoNotDisturb) => ApiErrorCode::DoNotDisturb,
        Some(EndReason::CallerUnreachable) => ApiErrorCode::CallerUnreachable,
        Some(EndReason::ExotelRefused) => ApiErrorCode::ExotelRefused,
        Some(EndReason::ExotelNoBalance) => ApiErrorCode::ExotelNoBalance,
        Some(EndReason::ExotelTooMany) => ApiErrorCode::ExotelTooMany,
        Some(EndReason::ExotelUnavailable) => ApiErrorCode::ExotelUnavailable,
        Some(EndReason::ExotelNotConfigured) => ApiErrorCode::ExotelNotConfigured,
        // Exotel did not answer the request, so it may have placed the call.
        _ if call.may_have_been_placed() => ApiErrorCode::ExotelSilent,
        _ => return None,
    })
}
