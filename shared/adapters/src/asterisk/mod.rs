//! Asterisk, through ARI over HTTPS: phones are called and joined to the waiting caller, legs are taken down.
//!
//! The joining itself is the dialplan's (`asterisk/extensions.conf`): the phone's leg runs `Bridge()` on the caller's
//! channel once it is answered. No request here lists a PBX's channels.
//!
//! There may be several, which know nothing of each other: a call is where its caller's leg is ([`Call::pbx`]), and the
//! phone is called there. Only the own leg of an app that calls may be anywhere: it is called where its phone is
//! registered, and a PBX that does not answer is passed over.

mod ari;
pub mod hook;
mod leg;
mod pbx;
#[cfg(test)]
mod tests;

use crate::platform::clock;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use reqwest::StatusCode;

#[cfg(any(test, feature = "testing"))]
pub(crate) use pbx::read_any_answer;
pub use pbx::{Bridging, Pbx, PhoneLeg};

use crate::platform::config::{ConfigError, Environment};
use crate::platform::secrets::{AriCredentials, Secret, SecretError};
use ari::{Access, Ari};
use pbx::LOOK_AGAIN_AFTER;
use ringback_core::call::Call;
use ringback_core::ids::{BadName, Extension, PbxName};
use ringback_core::timestamp::Timestamp;

/// How long an app that calls may take to register its phone.
const REGISTERS_WITHIN: Duration = Duration::from_secs(5);

/// How long a PBX may take to say whether a phone is registered, where another might hold it. ARI answers in a few
/// milliseconds, and a first connection takes three ways there and back.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why Asterisk did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum AsteriskError {
    /// It did not answer, or not in time. Trying again may help.
    #[error("Asterisk could not be reached while {0}")]
    Unreachable(&'static str, #[source] reqwest::Error),
    /// It took a connection and said nothing. Trying again may help.
    #[error("Asterisk did not answer while {0}")]
    Silent(&'static str),
    /// It refused: a wrong password (401), or a request that it does not understand.
    #[error("Asterisk answered {status} while {doing}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// ARI's status code.
        status: StatusCode,
    },
    /// The phone did not register with SIP in time. The app may try again.
    #[error("the phone did not register in time")]
    PhoneOffline,
    /// The extension has no PJSIP endpoint.
    #[error("Asterisk has no endpoint for the extension")]
    NoSuchEndpoint,
    /// The certificate authority in the secret is no certificate.
    #[error("ari_ca_pem is not a PEM certificate")]
    BadCertificate(#[source] Option<reqwest::Error>),
    /// The call is on a PBX that `ARI_URL` does not list, or no longer.
    #[error("the call is on the PBX {0}, which ARI_URL does not list")]
    NotListed(PbxName),
    /// The password is not at hand.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Where the PBXs are, by name, in the order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pbxs(Vec<(PbxName, String)>);

impl Pbxs {
    /// The name of a PBX that is listed without one.
    const UNNAMED: &str = "pbx";

    /// What `ARI_URL` lists: `https://pbx.example.com:8089/ari`, or with names
    /// `pbx1=https://a.example.com:8089/ari,pbx2=https://b.example.com:8089/ari`.
    ///
    /// # Errors
    /// When it is missing or makes no sense.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        Self::listed(&environment.required("ARI_URL")?)
    }

    /// The PBXs of such a list.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn listed(list: &str) -> Result<Self, ConfigError> {
        let no_list = || ConfigError::Invalid {
            name: "ARI_URL",
            rule: "a URL, or a list of different names with a URL each: pbx1=https://a:8089/ari,pbx2=https://b:8089/ari",
        };
        let mut pbxs: Vec<(PbxName, String)> = Vec::new();
        for entry in list.split(',') {
            let (name, url) = match entry.split_once('=') {
                Some((name, url)) if !name.contains(':') => (name, url),
                _ if list == entry => (Self::UNNAMED, entry),
                _ => return Err(no_list()),
            };
            let name = PbxName::try_from(name).map_err(|_| no_list())?;
            let is_url = url.starts_with("https://") || url.starts_with("http://");
            if !is_url || pbxs.iter().any(|(known, _)| *known == name) {
                return Err(no_list());
            }
            pbxs.push((name, url.trim_end_matches('/').to_owned()));
        }
        Ok(Self(pbxs))
    }

    /// The one that says it is called so; the first, if it does not say.
    ///
    /// # Errors
    /// When none is.
    pub fn named(&self, name: Option<&str>) -> Result<PbxName, BadName> {
        let mut names = self.0.iter().map(|(listed, _)| listed);
        let found = match name {
            None => names.next(),
            Some(name) => names.find(|listed| listed.as_str() == name),
        };
        found.cloned().ok_or(BadName {
            what: "pbx",
            rule: "must be one of the names that ARI_URL lists",
        })
    }
}

/// How a request to call the phone of an app that calls ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Calling {
    /// It is being called, now or since an earlier request.
    UnderWay,
    /// It is registered with this PBX, where it may be called once the call knows that.
    Found(PbxName),
}

/// How a PBX finds itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is there, has booted, and knows our password.
    Ok,
    /// It does not answer, or not yet.
    Unreachable,
    /// It does not know our password.
    Refused,
}

impl Health {
    /// As `/health` says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
        }
    }
}

/// Every Asterisk that there is.
#[derive(Debug)]
pub struct Asterisk {
    pbxs: Vec<Pbx>,
    access: Arc<Access>,
}

impl Asterisk {
    /// Those at these places. One user, password and authority is good for all.
    #[must_use]
    pub fn at(pbxs: Pbxs, secret: Secret<AriCredentials>) -> Self {
        let access = Arc::new(Access::by(secret));
        let pbx = |(name, url)| Pbx::new(name, Ari::at(url, Arc::clone(&access)));
        Self {
            pbxs: pbxs.0.into_iter().map(pbx).collect(),
            access,
        }
    }

    /// Fetches what the first request will need.
    pub async fn get_ready(&self) {
        self.access.get_ready().await;
    }

    /// The PBX that the call is on; `None` as long as that may be any.
    ///
    /// # Errors
    /// When it is on none that we know.
    pub fn of(&self, call: &Call) -> Result<Option<&Pbx>, AsteriskError> {
        if let Some(name) = &call.pbx {
            let pbx = self.pbxs.iter().find(|pbx| pbx.name() == name);
            return pbx
                .map(Some)
                .ok_or_else(|| AsteriskError::NotListed(name.clone()));
        }
        // Its leg may be from a time when there was only one.
        let is_first = self.pbxs.len() == 1 || call.caller_leg.is_some();
        Ok(self.pbxs.first().filter(|_| is_first))
    }

    /// Calls the own phone of `caller`, an app that calls another, so that it waits as any caller does; or, where there
    /// are several PBXs, says first where that is to be. An app that calls is awake: its phone is waited for only as long
    /// as registering takes.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn call_caller(
        &self,
        call: &Call,
        caller: &Extension,
        until: Timestamp,
    ) -> Result<Calling, AsteriskError> {
        let until = until.min(clock::now() + REGISTERS_WITHIN);
        match self.of(call)? {
            Some(pbx) => pbx
                .call_caller(call, caller, until)
                .await
                .map(|()| Calling::UnderWay),
            None => self.find(caller, until).await.map(Calling::Found),
        }
    }

    /// How each PBX finds itself, as far as it says within this time.
    pub async fn health(&self, within: Duration) -> Vec<(&PbxName, Health)> {
        let each = self.pbxs.iter().map(async |pbx| {
            let health = match tokio::time::timeout(within, pbx.ping()).await {
                Ok(Ok(())) => Health::Ok,
                Ok(Err(AsteriskError::Refused { status, .. })) if is_about_us(status) => {
                    Health::Refused
                }
                Ok(Err(_)) | Err(_) => Health::Unreachable,
            };
            (pbx.name(), health)
        });
        join_all(each).await
    }

    /// The first PBX with which the phone is registered, as soon as it is with any.
    async fn find(&self, phone: &Extension, until: Timestamp) -> Result<PbxName, AsteriskError> {
        loop {
            let answers = self.look_for(phone).await;
            if let Some((pbx, _)) = answers
                .iter()
                .find(|(_, online)| matches!(online, Ok(true)))
            {
                return Ok(pbx.name().clone());
            }
            if clock::now() + LOOK_AGAIN_AFTER >= until {
                return Err(why_not_found(answers));
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Asks all at once whether the phone is registered with them, but for those which did not answer just now. If none
    /// did, one of them may be back.
    async fn look_for(&self, phone: &Extension) -> Vec<(&Pbx, Result<bool, AsteriskError>)> {
        let now = clock::now();
        let mut asked: Vec<&Pbx> = self.pbxs.iter().collect();
        if asked.iter().any(|pbx| !pbx.is_passed_over(now)) {
            asked.retain(|pbx| !pbx.is_passed_over(now));
        }
        let each = asked.into_iter().map(async |pbx| {
            let looked = tokio::time::timeout(PATIENCE, pbx.is_online(phone)).await;
            let online = looked.unwrap_or(Err(AsteriskError::Silent("looking for the phone")));
            pbx.pass_over_if_dead(&online, clock::now());
            (pbx, online)
        });
        join_all(each).await
    }
}

/// Whoever answers that the phone is not there knows better than whoever does not answer.
fn why_not_found(answers: Vec<(&Pbx, Result<bool, AsteriskError>)>) -> AsteriskError {
    let mut why = AsteriskError::PhoneOffline;
    for (_, online) in answers {
        match online {
            Ok(_) => return AsteriskError::PhoneOffline,
            Err(error) => why = error,
        }
    }
    why
}

const fn is_about_us(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}
