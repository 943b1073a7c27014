//! SIP accounts that Ringback creates on a PBX while it runs: PJSIP objects in Asterisk's own database (`asterisk/sorcery.conf`).
//!
//! An account has an `auth`, an `aor` and an `endpoint` of its name. Templates of `pjsip.conf` do not apply to such objects, so
//! the endpoint gets all their options.
//!
//! ARI: <https://docs.asterisk.org/Latest_API/API_Documentation/Asterisk_REST_Interface/Asterisk_REST_API/>

use reqwest::{Method, StatusCode};
use ringback_core::ids::SipAccountName;
use serde_json::{Value, json};

use super::ari_client::expect_status;
use super::error::AsteriskError;
use super::pbx::Pbx;
use crate::store::sip_accounts::{REALM, SipAccount};

/// The options of `[phone-base]` in `asterisk/pjsip.conf`, without its fixed `type`.
const ENDPOINT: &[(&str, &str)] = &[
    ("context", "ringback-phones"),
    ("identify_by", "username"),
    ("disallow", "all"),
    ("allow", "opus,ulaw,alaw,vp8,h264"),
    ("direct_media", "no"),
    ("rtp_symmetric", "yes"),
    ("force_rport", "yes"),
    ("rewrite_contact", "yes"),
    ("dtmf_mode", "rfc4733"),
    ("allow_transfer", "no"),
    ("allow_subscribe", "no"),
    ("timers", "always"),
    ("timers_sess_expires", "90"),
];

/// The options of `[phone-aor]`.
const AOR: &[(&str, &str)] = &[
    ("max_contacts", "1"),
    ("remove_existing", "yes"),
    ("remove_unavailable", "yes"),
    ("qualify_frequency", "10"),
    ("qualify_timeout", "3.0"),
    ("minimum_expiration", "30"),
    ("default_expiration", "120"),
    ("maximum_expiration", "3600"),
];

/// The AOR that shows that the PBX has its accounts. It belongs to no endpoint, so nobody can register with it.
const MARKER: &str = "ringback-accounts";

/// How phones with an account of their own send SIP and media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhoneMedia {
    /// SIP over TLS, and SRTP with keys in the SDP, as `[phone]` in `pjsip.conf`.
    Encrypted,
    /// Also over UDP and TCP, without encryption. A phone that supports SRTP still uses it.
    EncryptionOptional,
}

impl PhoneMedia {
    const fn options(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Encrypted => &[
                ("transport", "transport-tls"),
                ("media_encryption", "sdes"),
                ("media_encryption_optimistic", "no"),
            ],
            Self::EncryptionOptional => &[
                ("media_encryption", "sdes"),
                ("media_encryption_optimistic", "yes"),
            ],
        }
    }
}

impl Pbx {
    /// Creates an account, or changes the password of an existing one. The old password stops working at once.
    ///
    /// The AOR and the endpoint of an existing account stay untouched: a second PUT of an AOR would make Asterisk qualify the
    /// registered contact forever, even after the phone has moved (seen with 22.10).
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn put_sip_account(
        &self,
        account: &SipAccount,
        media: PhoneMedia,
    ) -> Result<(), AsteriskError> {
        let name = account.name.as_str();
        let auth = [
            ("auth_type", "digest"),
            ("username", name),
            ("realm", REALM),
            ("password_digest", account.password_digest.expose()),
        ];
        self.put_object("auth", name, &auth).await?;
        let doing = "looking for a SIP account";
        if self.find(doing, &path("endpoint", name)).await?.is_some() {
            return Ok(());
        }
        self.put_object("aor", name, AOR).await?;
        // The endpoint comes last: it makes the account usable, and shows that the other two exist.
        let own = [("auth", name), ("aors", name)];
        let options: Vec<_> = [&own, ENDPOINT, media.options()].concat();
        self.put_object("endpoint", name, &options).await
    }

    /// Deletes an account with its contact. An account that does not exist is no error. A call of the phone goes on.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn delete_sip_account(&self, name: &SipAccountName) -> Result<(), AsteriskError> {
        let doing = "deleting a SIP account";
        // The endpoint first, so that the phone cannot register any more.
        for kind in ["endpoint", "auth", "aor"] {
            let path = path(kind, name.as_str());
            let reply = self.ari.request(doing, Method::DELETE, &path, None).await?;
            expect_status(
                &reply,
                doing,
                &[StatusCode::NO_CONTENT, StatusCode::NOT_FOUND],
            )?;
        }
        Ok(())
    }

    /// Whether the PBX still has the database with its accounts.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn has_sip_accounts(&self) -> Result<bool, AsteriskError> {
        let doing = "looking for the SIP accounts";
        Ok(self.find(doing, &path("aor", MARKER)).await?.is_some())
    }

    /// Records in the PBX's database that it has its accounts.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn mark_sip_accounts(&self) -> Result<(), AsteriskError> {
        self.put_object("aor", MARKER, &[("max_contacts", "0")])
            .await
    }

    async fn put_object(
        &self,
        kind: &str,
        name: &str,
        options: &[(&str, &str)],
    ) -> Result<(), AsteriskError> {
        let doing = "saving a SIP account";
        let fields: Vec<Value> = options
            .iter()
            .map(|(attribute, value)| json!({ "attribute": attribute, "value": value }))
            .collect();
        let body = json!({ "fields": fields });
        let path = path(kind, name);
        let reply = self.ari.request(doing, Method::PUT, &path, Some(&body));
        expect_status(&reply.await?, doing, &[StatusCode::OK])
    }
}

fn path(kind: &str, name: &str) -> String {
    format!("/asterisk/config/dynamic/res_pjsip/{kind}/{name}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The options of a section of `pjsip.conf`.
    fn section(name: &str) -> BTreeMap<&'static str, &'static str> {
        let file = include_str!("../../../../asterisk/pjsip.conf");
        let lines = file.lines().skip_while(|line| {
            !line
                .strip_prefix('[')
                .is_some_and(|line| line.starts_with(&format!("{name}](")))
        });
        let lines = lines.skip(1).take_while(|line| !line.starts_with('['));
        let options = lines.filter(|line| !line.starts_with([';', '#']));
        options
            .filter_map(|line| line.split_once(" = "))
            .filter(|(name, _)| *name != "type")
            .collect()
    }

    fn sent(options: &[(&'static str, &'static str)]) -> BTreeMap<&'static str, &'static str> {
        options.iter().copied().collect()
    }

    #[test]
    fn a_generated_account_has_the_options_of_a_static_one() {
        assert_eq!(sent(AOR), section("phone-aor"));
        let mut endpoint = section("phone-base");
        endpoint.extend(section("phone"));
        let media = PhoneMedia::Encrypted.options();
        assert_eq!(sent(&[ENDPOINT, media].concat()), endpoint);
    }
}
