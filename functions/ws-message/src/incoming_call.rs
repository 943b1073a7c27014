//! `incoming_call`: an app starts a call.

use std::sync::Arc;

use ringback::api::http::{ApiError, ApiErrorCode};
use ringback::api::new_call::{Address, CallRequest};
use ringback::api::status_update::call_initiated;
use ringback::auth::signing::Signing;
use ringback::exotel::dialling::{CallerIdPolicy, DialRules, Forbidden};
use ringback::platform::invocation::InvocationContext;
use ringback::start::LiveSwitchboard;
use ringback::store::number_routes::NumberRoutes;
use ringback::switchboard::{Destination, NewCallRequest, StartLimits, SwitchboardError};
use ringback::telemetry::metrics;
use ringback_core::call::{Call, CallType, EndReason};
use ringback_core::ids::{CallId, Extension};
use ringback_core::phone_number::PhoneNumber;
use serde_json::Value;

/// What starting a call takes.
pub(crate) struct Starting {
    pub(crate) switchboard: LiveSwitchboard,
    pub(crate) signing: Arc<Signing>,
    pub(crate) routes: NumberRoutes,
    pub(crate) country: String,
    pub(crate) rules: DialRules,
    pub(crate) limits: StartLimits,
}

impl Starting {
    /// Starts the call that `app` asks for, or says how the call stands that it has asked for before.
    pub(crate) async fn start(
        &self,
        app: &Extension,
        request: CallRequest,
        invocation: InvocationContext,
    ) -> Result<Value, ApiError> {
        let InvocationContext { now, deadline } = invocation;
        let reference = request.reference.clone();
        let named = reference
            .as_ref()
            .map(|name| CallId::of_reference(app, name));
        let id = self.signing.sign(named.unwrap_or_else(CallId::fresh));
        let (id, whom) = futures::join!(id, self.whom(app, request));
        let wanted = NewCallRequest {
            whom: whom?,
            call_id: id?,
            by: app.clone(),
            within: self.limits,
        };
        let started = self.switchboard.start(&wanted, now, deadline).await;
        if let Err(SwitchboardError::TooMany { limit, .. }) = &started {
            refuse(app, limit.rule());
        }
        let call = started?.call;
        if call.is_outbound() {
            tracing::info!(call_id = %call.call_id, extension = %app, "call to a telephone number");
        }
        if !wanted.is(&call) {
            return Err(ApiError::from(ApiErrorCode::ReferenceUsed).about_call(&call));
        }
        match failure(&call) {
            None => Ok(call_initiated(&call, reference.as_ref())),
            Some(code) => Err(ApiError::from(code).about_call(&call)),
        }
    }

    async fn whom(&self, app: &Extension, request: CallRequest) -> Result<Destination, ApiError> {
        match request.recipient {
            Address::Telephone(_) if request.call_type == CallType::Video => {
                Err(ApiErrorCode::NoVideoToATelephone.into())
            }
            Address::Telephone(to) => {
                let refused = |rule: Forbidden| {
                    refuse(app, rule.rule());
                    ApiError::from(rule)
                };
                self.rules.allow(&to).map_err(refused)?;
                let from = self.telephone_of(app, request.caller).await?;
                // Exotel dials it too, and first.
                self.rules.allow(&from).map_err(refused)?;
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
                    "callerId must be the app's own extension in a call to an extension",
                )),
            },
        }
    }

    /// Exotel calls the caller's telephone first: the extension's own, unless the deployment allows others.
    async fn telephone_of(
        &self,
        app: &Extension,
        caller: Option<Address>,
    ) -> Result<PhoneNumber, ApiError> {
        let named = match caller {
            Some(Address::App(extension)) if extension != *app => {
                return Err(ApiErrorCode::NotYourExtension.into());
            }
            Some(Address::Telephone(number)) => Some(number),
            Some(Address::App(_)) | None => None,
        };
        if let (Some(number), CallerIdPolicy::Any) = (&named, self.rules.caller_id()) {
            return Ok(number.clone());
        }
        let own = self.routes.number_of(app, &self.country).await?;
        if named.is_some() && named != own {
            refuse(app, Forbidden::CallerId.rule());
            return Err(Forbidden::CallerId.into());
        }
        Ok(own.ok_or(ApiErrorCode::CallerHasNoTelephone)?)
    }
}

/// Counts a call that a rule forbids, and logs whose app asked for it.
fn refuse(app: &Extension, rule: &'static str) {
    metrics::call_refused(rule);
    tracing::warn!(extension = %app, rule, "call refused");
}

/// The error for the app that started the call, if the call has failed.
fn failure(call: &Call) -> Option<ApiErrorCode> {
    match call.end_reason {
        Some(EndReason::NoDevice) => Some(ApiErrorCode::NoDevice),
        Some(EndReason::PushFailed) => Some(ApiErrorCode::PushFailed),
        Some(EndReason::CallerUnreachable) => Some(ApiErrorCode::CallerUnreachable),
        Some(EndReason::ExotelRefused) => Some(ApiErrorCode::ExotelRefused),
        Some(EndReason::ExotelNoBalance) => Some(ApiErrorCode::ExotelNoBalance),
        Some(EndReason::ExotelTooMany) => Some(ApiErrorCode::ExotelTooMany),
        Some(EndReason::ExotelUnavailable) => Some(ApiErrorCode::ExotelUnavailable),
        Some(EndReason::ExotelNotConfigured) => Some(ApiErrorCode::ExotelNotConfigured),
        // Exotel took the request and gave no answer: the call may be on its way.
        _ if call.may_have_been_placed() => Some(ApiErrorCode::ExotelSilent),
        _ => None,
    }
}
