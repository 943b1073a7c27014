//! Asterisk, through ARI over HTTPS: the phone is called and joined to the waiting caller, legs are taken down.
//!
//! The joining itself is the dialplan's (`asterisk/extensions.conf`): the phone's leg runs `Bridge()` on the caller's
//! channel once it is answered. No request here lists the PBX's channels.

pub mod hook;
#[cfg(test)]
mod tests;

use std::time::Duration;

use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::call::{Call, CallType};
use crate::clock::Timestamp;
use crate::config::{ConfigError, Environment};
use crate::names::{CallId, Caller, ChannelId, Extension};
use crate::secrets::{AsteriskSecret, Secret, SecretError};

/// Asterisk answers an originate at once, and lives near us.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// How often, and after which pause, taking a leg down is tried again.
const TRIES_MORE: usize = 2;
const PAUSE: Duration = Duration::from_millis(300);

/// How long an app that calls may take to register its phone.
const REGISTERS_WITHIN: Duration = Duration::from_secs(5);

/// What the phones' endpoints allow (`asterisk/pjsip.conf`).
const VIDEO_FORMATS: &str = "opus,ulaw,alaw,vp8,h264";

/// How often a phone that has not registered yet is looked for. ARI answers in a few milliseconds.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Why Asterisk did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum AsteriskError {
    /// It did not answer, or not in time. Trying again may help.
    #[error("Asterisk could not be reached while {0}")]
    Unreachable(&'static str, #[source] reqwest::Error),
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
    /// The password is not at hand.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// How a request to join the legs ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridging {
    /// The phone is being called, now or since an earlier request.
    UnderWay,
    /// The caller's channel is gone, so the phone was left alone.
    CallerGone,
}

/// One Asterisk.
#[derive(Debug)]
pub struct Asterisk {
    url: String,
    secret: Secret<AsteriskSecret>,
    client: Mutex<Option<Trusting>>,
}

/// A client, and the certificate authority that it trusts.
#[derive(Debug)]
struct Trusting {
    client: Client,
    ari_ca_pem: Option<String>,
}

impl Asterisk {
    /// The Asterisk at `ARI_URL`, such as `https://pbx.example.com:8089/ari`.
    ///
    /// # Errors
    /// When the variable is missing.
    pub fn from_environment(
        environment: &Environment,
        secret: Secret<AsteriskSecret>,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            url: environment.url("ARI_URL")?,
            secret,
            client: Mutex::default(),
        })
    }

    /// Calls the phone, to be joined to the caller who waits on `caller_leg`.
    ///
    /// A phone that is woken registers with SIP only seconds after its app has accepted; until then Asterisk says
    /// "Allocation failed". So the phone is waited for, until `until` or the call's deadline.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn bridge(
        &self,
        call: &Call,
        caller_leg: &ChannelId,
        until: Timestamp,
    ) -> Result<Bridging, AsteriskError> {
        let until = call
            .deadline()
            .map_or(until, |deadline| deadline.min(until));
        let leg = NewLeg::of_phone(call, caller_leg);
        while !self.originate(&leg).await? {
            self.wait_for_phone(&call.extension, until).await?;
            // Seconds have passed: a phone must not ring for a caller who has gone.
            if !self.channel_exists(caller_leg).await? {
                return Ok(Bridging::CallerGone);
            }
        }
        Ok(Bridging::UnderWay)
    }

    /// Calls the own phone of `caller`, an app that calls another, so that it waits as any caller does. An app that
    /// calls is awake: its phone is waited for only as long as registering takes.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn call_caller(
        &self,
        call: &Call,
        caller: &Extension,
        until: Timestamp,
    ) -> Result<(), AsteriskError> {
        let until = until.min(Timestamp::now() + REGISTERS_WITHIN);
        let leg = NewLeg::of_app_caller(call, caller);
        while !self.originate(&leg).await? {
            self.wait_for_phone(caller, until).await?;
        }
        Ok(())
    }

    /// Whether the call's phone has been answered, which is when the dialplan joins it to the caller.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn phone_talks(&self, call: CallId) -> Result<bool, AsteriskError> {
        let doing = "looking for the phone's leg";
        let path = format!("/channels/{}", ChannelId::of_phone(call));
        let answer = self.ask(doing, Method::GET, &path, None).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        expect(&answer, doing, &[StatusCode::OK])?;
        let channel: Channel = read(answer, doing).await?;
        Ok(channel.state == "Up")
    }

    /// Lets the caller on this channel hear busy: Asterisk refuses the unanswered INVITE with 486. A channel that is
    /// gone is no error.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn busy(&self, caller_leg: &ChannelId) -> Result<(), AsteriskError> {
        self.take_down(caller_leg, "busy").await
    }

    /// Ends a leg. One that is gone is no error.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn hang_up(&self, leg: &ChannelId) -> Result<(), AsteriskError> {
        self.take_down(leg, "normal").await
    }

    /// Whether Asterisk is there, has booted, and knows our password.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn ping(&self) -> Result<(), AsteriskError> {
        let doing = "asking whether it is there";
        let answer = self.ask(doing, Method::GET, "/asterisk/ping", None).await?;
        expect(&answer, doing, &[StatusCode::OK])
    }

    /// Asks for a leg. `false`: the phone is not registered. The leg's id is made from the call's, so that however
    /// often this is asked, there is one leg at most.
    async fn originate(&self, leg: &NewLeg) -> Result<bool, AsteriskError> {
        let doing = "calling a phone";
        let path = format!("/channels/{}", leg.channel);
        let answer = self
            .ask(doing, Method::POST, &path, Some(&leg.body))
            .await?;
        match answer.status() {
            StatusCode::INTERNAL_SERVER_ERROR if allocation_failed(answer).await => Ok(false),
            StatusCode::OK | StatusCode::CONFLICT => Ok(true),
            status => Err(AsteriskError::Refused { doing, status }),
        }
    }

    /// Pauses before every look, so that a phone which is online and still cannot be called is not called at once
    /// again, and again, for ever.
    async fn wait_for_phone(
        &self,
        extension: &Extension,
        until: Timestamp,
    ) -> Result<(), AsteriskError> {
        while Timestamp::now() + LOOK_AGAIN_AFTER < until {
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            if self.is_online(extension).await? {
                return Ok(());
            }
        }
        Err(AsteriskError::PhoneOffline)
    }

    async fn is_online(&self, extension: &Extension) -> Result<bool, AsteriskError> {
        let doing = "looking for the phone";
        let path = format!("/endpoints/PJSIP/{extension}");
        let answer = self.ask(doing, Method::GET, &path, None).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Err(AsteriskError::NoSuchEndpoint);
        }
        expect(&answer, doing, &[StatusCode::OK])?;
        let endpoint: Endpoint = read(answer, doing).await?;
        Ok(endpoint.state == "online")
    }

    async fn channel_exists(&self, channel: &ChannelId) -> Result<bool, AsteriskError> {
        let doing = "looking for the caller";
        let path = format!("/channels/{channel}");
        let answer = self.ask(doing, Method::GET, &path, None).await?;
        expect(&answer, doing, &[StatusCode::OK, StatusCode::NOT_FOUND])?;
        Ok(answer.status() == StatusCode::OK)
    }

    async fn take_down(&self, leg: &ChannelId, reason: &'static str) -> Result<(), AsteriskError> {
        let doing = "taking a leg down";
        let path = format!("/channels/{leg}?reason={reason}");
        let mut answer = self.ask(doing, Method::DELETE, &path, None).await;
        // A caller who should hear busy now would wait for the next timer otherwise, which is far.
        for _ in 0..TRIES_MORE {
            if answer.is_ok() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            answer = self.ask(doing, Method::DELETE, &path, None).await;
        }
        let answer = answer?;
        expect(
            &answer,
            doing,
            &[StatusCode::NO_CONTENT, StatusCode::NOT_FOUND],
        )
    }

    /// Asks with the password that we have and, if Asterisk does not take that, with the one that has replaced it. A
    /// refused request has done nothing, so asking again is safe.
    async fn ask(
        &self,
        doing: &'static str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response, AsteriskError> {
        let asking = Asking {
            doing,
            method,
            path,
            body,
        };
        let secret = self.secret.value().await?;
        let answer = self.ask_with(&secret, &asking).await;
        if !may_be_outdated(&answer) {
            return answer;
        }
        match self.secret.after_refusal(&secret).await {
            Some(newer) => self.ask_with(&newer, &asking).await,
            None => answer,
        }
    }

    async fn ask_with(
        &self,
        secret: &AsteriskSecret,
        asking: &Asking<'_>,
    ) -> Result<Response, AsteriskError> {
        let client = self.client(secret).await?;
        let url = format!("{}{}", self.url, asking.path);
        let password = secret.ari_password.expose_secret();
        let mut request = client
            .request(asking.method.clone(), url)
            .basic_auth(&secret.ari_username, Some(password));
        if let Some(body) = asking.body {
            request = request.json(body);
        }
        send(request, asking.doing).await
    }

    /// The client, with its open connections, for as long as it trusts whom the secret says.
    async fn client(&self, secret: &AsteriskSecret) -> Result<Client, AsteriskError> {
        let mut held = self.client.lock().await;
        if let Some(held) = held.as_ref()
            && held.ari_ca_pem == secret.ari_ca_pem
        {
            return Ok(held.client.clone());
        }
        let client = client(secret)?;
        *held = Some(Trusting {
            client: client.clone(),
            ari_ca_pem: secret.ari_ca_pem.clone(),
        });
        Ok(client)
    }
}

/// A request of ARI, but for who asks.
struct Asking<'a> {
    doing: &'static str,
    method: Method,
    path: &'a str,
    body: Option<&'a Value>,
}

/// Whether a newer secret may help: the password was refused, or we do not trust Asterisk's certificate, or were not
/// able to say whom to trust. A certificate that is not trusted is not told from an Asterisk that is not there.
fn may_be_outdated(answer: &Result<Response, AsteriskError>) -> bool {
    match answer {
        Ok(answer) => answer.status() == StatusCode::UNAUTHORIZED,
        Err(AsteriskError::Unreachable(_, error)) => error.is_connect() && !error.is_timeout(),
        Err(error) => matches!(error, AsteriskError::BadCertificate(_)),
    }
}

/// Asterisk closes a connection that has been idle for 15 s, which a function that was frozen meanwhile notices only
/// when it has sent the next request. So what breaks off is sent again; every request here may be.
async fn send(request: RequestBuilder, doing: &'static str) -> Result<Response, AsteriskError> {
    let again = request.try_clone();
    let answer = match (request.send().await, again) {
        (Err(error), Some(again)) if !error.is_timeout() && !error.is_connect() => {
            again.send().await
        }
        (answer, _) => answer,
    };
    answer.map_err(|error| AsteriskError::Unreachable(doing, error.without_url()))
}

/// A leg to be originated.
struct NewLeg {
    channel: ChannelId,
    body: Value,
}

impl NewLeg {
    /// The leg of the phone that is wanted; once answered, it takes the caller's away from its wait (S1's request).
    fn of_phone(call: &Call, caller_leg: &ChannelId) -> Self {
        let caller = call.caller.shown();
        let mut body = json!({
            "endpoint": format!("PJSIP/{}", call.extension),
            "context": "incoming-calls",
            "extension": caller,
            "priority": 1,
            "timeout": 30,
            "callerId": caller_id(&call.caller),
        });
        body["variables"] = variables(call, "mobile_ready", "ringback-phone-ended,s,1");
        body["variables"]["ORIGINAL_CALLER"] = caller.into();
        body["variables"]["CALLER_CHANNEL"] = caller_leg.as_str().into();
        Self::new(ChannelId::of_phone(call.call_id), body, call.call_type)
    }

    /// The own leg of the app that calls. Its phone shows whom it calls.
    fn of_app_caller(call: &Call, caller: &Extension) -> Self {
        let mut body = json!({
            "endpoint": format!("PJSIP/{caller}"),
            "context": "ringback-callers",
            "extension": call.extension,
            "priority": 1,
            "timeout": 30,
            "callerId": format!("<{}>", call.extension),
        });
        body["variables"] = variables(call, "outgoing", "ringback-app-caller-ended,s,1");
        // Whoever has just asked for the call need not pick up (RFC 5373); a phone that knows no better rings.
        body["variables"]["PJSIP_HEADER(add,Answer-Mode)"] = "Auto".into();
        Self::new(ChannelId::of_app_caller(call.call_id), body, call.call_type)
    }

    fn new(channel: ChannelId, mut body: Value, call_type: CallType) -> Self {
        // Left to itself, Asterisk offers sound alone.
        if call_type == CallType::Video {
            body["formats"] = VIDEO_FORMATS.into();
        }
        Self { channel, body }
    }
}

/// What the dialplan needs to know of a leg. Handlers are pushed here, because a leg that is never answered runs none
/// of the dialplan.
fn variables(call: &Call, call_type: &str, hangup_handler: &str) -> Value {
    json!({
        "CALL_TYPE": call_type,
        "RINGBACK_CALL_ID": call.call_id,
        "RINGBACK_CALL_TYPE": call.call_type,
        // So that an app can tell which of its calls this INVITE is.
        "PJSIP_HEADER(add,X-Ringback-Call-Id)": call.call_id,
        "CHANNEL(hangup_handler_push)": hangup_handler,
    })
}

/// A caller id as Asterisk parses it: `"name" <number>`. A bare word, as `anonymous` or an extension may be, would be
/// taken for a name.
fn caller_id(caller: &Caller) -> String {
    let number = caller.shown();
    let name = match (&caller.number, &caller.name) {
        (None, _) if caller.extension.is_some() => return format!("<{number}>"),
        (None, _) => "Anonymous",
        (Some(_), Some(name)) => name.as_str(),
        (Some(_), None) => return number.to_owned(),
    };
    let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\" <{number}>")
}

#[derive(Deserialize)]
struct Endpoint {
    state: String,
}

#[derive(Deserialize)]
struct Channel {
    state: String,
}

async fn read<T: DeserializeOwned>(
    answer: Response,
    doing: &'static str,
) -> Result<T, AsteriskError> {
    let read = answer.json().await;
    read.map_err(|error| AsteriskError::Unreachable(doing, error.without_url()))
}

fn client(secret: &AsteriskSecret) -> Result<Client, AsteriskError> {
    let mut builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REPLY_TIMEOUT);
    if let Some(pem) = &secret.ari_ca_pem {
        builder = builder.tls_certs_only(authorities(pem)?);
    }
    builder.build().map_err(bad_certificate)
}

/// What holds no certificate would be taken for trust in nobody, and show as an Asterisk that cannot be reached.
fn authorities(pem: &str) -> Result<Vec<Certificate>, AsteriskError> {
    let authorities = Certificate::from_pem_bundle(pem.as_bytes()).map_err(bad_certificate)?;
    if authorities.is_empty() {
        return Err(AsteriskError::BadCertificate(None));
    }
    Ok(authorities)
}

fn bad_certificate(error: reqwest::Error) -> AsteriskError {
    AsteriskError::BadCertificate(Some(error))
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Reads what may be an answer of ARI's.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_any_answer(body: &[u8]) {
    let endpoint = serde_json::from_slice::<Endpoint>(body).map(|endpoint| endpoint.state);
    let refusal = serde_json::from_slice::<Refusal>(body).map(|refusal| refusal.error);
    let _read = (endpoint, refusal);
}

async fn allocation_failed(answer: Response) -> bool {
    answer
        .json::<Refusal>()
        .await
        .is_ok_and(|refusal| refusal.error == "Allocation failed")
}

fn expect(
    answer: &Response,
    doing: &'static str,
    expected: &[StatusCode],
) -> Result<(), AsteriskError> {
    let status = answer.status();
    if expected.contains(&status) {
        Ok(())
    } else {
        Err(AsteriskError::Refused { doing, status })
    }
}
