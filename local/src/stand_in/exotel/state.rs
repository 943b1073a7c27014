//! The account and the calls of the stand-in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Client;
use time::OffsetDateTime;

use super::super::behaviour::SharedBehaviour;
use super::call::{ExotelCall, ExotelStatus};
use super::response::rest_exception;
use crate::credentials::ExotelAccount;

#[derive(Clone)]
pub(super) struct ExotelState {
    pub(super) account: Arc<Mutex<ExotelAccount>>,
    /// The newest is last.
    pub(super) calls: Arc<Mutex<Vec<ExotelCall>>>,
    pub(super) behaviour: SharedBehaviour,
    pub(super) http: Client,
}

impl ExotelState {
    pub(super) fn calls(&self) -> MutexGuard<'_, Vec<ExotelCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn account(&self) -> MutexGuard<'_, ExotelAccount> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error answer if the API key is wrong, or the path names another account.
    pub(super) fn account_error(&self, sid: &str, headers: &HeaderMap) -> Option<Response> {
        let account = self.account();
        let expected = STANDARD.encode(format!("{}:{}", account.api_key, account.api_token));
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
        if given != Some(expected.as_str()) {
            return Some(rest_exception(
                StatusCode::UNAUTHORIZED,
                "Authentication failed",
            ));
        }
        if sid != account.sid {
            let message = "Access to this account is denied";
            return Some(rest_exception(StatusCode::FORBIDDEN, message));
        }
        None
    }

    /// Changes the status of a call. Returns the version to report and the stored one, which differ when the call is
    /// already over.
    pub(super) fn advance(
        &self,
        sid: &str,
        status: ExotelStatus,
        now: OffsetDateTime,
    ) -> Option<(ExotelCall, ExotelCall)> {
        let mut calls = self.calls();
        let call = calls.iter_mut().find(|call| call.sid == sid)?;
        let reported = call.with_status(status, now);
        if !call.is_over() {
            call.clone_from(&reported);
        }
        Some((reported, call.clone()))
    }
}
