//! What `ringback doctor` can find. The command and the function `doctor` check; this table says what each fault means and what fixes it.

use serde::{Deserialize, Serialize};

/// Makes the table: a name, its id, what is wrong, and what fixes it. `{}` stands for the place.
macro_rules! faults {
    ($($name:ident, $id:literal, $what:literal => $fix:literal;)*) => {
        /// A fault of a deployment.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Fault {
            $(#[doc = $what] #[serde(rename = $id)] $name,)*
        }

        impl Fault {
            /// All faults, in the order of the page.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name for scripts.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// What is wrong.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$name => $what,)* }
            }

            const fn fix_at_a_place(self) -> &'static str {
                match self { $(Self::$name => $fix,)* }
            }
        }
    };
}

faults! {
    SecretMissing, "secret_missing",
        "A secret has no value."
        => "`ringback secret set {}`";
    SecretUnusable, "secret_unusable",
        "A secret lacks a field, or has a value that cannot be right."
        => "`ringback secret set {}`";
    AriUnreachable, "ari_unreachable",
        "The functions do not reach ARI, the interface of the PBX."
        => "On the PBX, `systemctl restart asterisk haproxy`. If that does not help, correct AriUrl in samconfig.toml and run `sam deploy`, or let the functions through the firewall (docs/vpc.md)";
    AriCertificate, "ari_certificate",
        "The functions do not trust the certificate of the PBX."
        => "`ringback secret set asterisk ari_ca_pem < ca.pem`, with the authority that signed it. If that authority is a public one, `echo '{\"ari_ca_pem\":null}' | ringback secret set asterisk`";
    AriPassword, "ari_password",
        "The PBX does not accept the user or the password of the functions."
        => "`ringback secret set asterisk`, with the values of ringback-site/ari.conf on the PBX";
    AriRefused, "ari_refused",
        "ARI accepts the password, and refuses a request that the functions need."
        => "Check the path in AriUrl, which ends with /ari, and remove `read_only` from ringback-site/ari.conf. Then copy haproxy.cfg of this version to the PBX, and `systemctl reload haproxy`";
    DialplanIncomplete, "dialplan_incomplete",
        "The dialplan of the PBX does not have all parts that calls need."
        => "Copy extensions.conf and modules.conf of this version to the PBX, then `systemctl restart asterisk`";
    HookUnreachable, "hook_unreachable",
        "The PBX does not reach the HTTP API, so no call can begin."
        => "Set RINGBACK_HOOK_URL in ringback-site/dialplan.conf to the output RegionalHttpUrl, then `asterisk -rx 'dialplan reload'`";
    HookRefused, "hook_refused",
        "The HTTP API does not accept the reports of the PBX, so no call can begin."
        => "`ringback secret rotate hook --print`. Set RINGBACK_HOOK_SECRET in ringback-site/dialplan.conf to this value, then `asterisk -rx 'dialplan reload'`. For source_not_allowed, correct the parameter PbxSourceCidrs instead";
    PbxName, "pbx_name",
        "The PBX has another name than AriUrl gives it, so its calls are looked for elsewhere."
        => "Set RINGBACK_PBX in ringback-site/dialplan.conf to the name in AriUrl, then `asterisk -rx 'dialplan reload'`";
    PbxWait, "pbx_wait",
        "The PBX gives up on a waiting caller before the call's own time is over."
        => "Set RINGBACK_MAX_WAIT_SECONDS in ringback-site/dialplan.conf to more than RingTimeoutSeconds + ConnectTimeoutSeconds, then `asterisk -rx 'dialplan reload'`";
    FcmUnreachable, "fcm_unreachable",
        "The functions do not reach FCM, or it fails, so phones do not wake."
        => "Check https://status.firebase.google.com, the parameter FcmBaseUrl and, in a VPC, the NAT gateway (docs/vpc.md). Then `ringback doctor` again";
    FcmRefused, "fcm_refused",
        "FCM does not accept the service account, so phones do not wake."
        => "Make a new key in Google's console, and `ringback secret set fcm < service-account.json`. The project needs the Firebase Cloud Messaging API, and the account the role Firebase Cloud Messaging API Admin";
    ExotelUnreachable, "exotel_unreachable",
        "The functions do not reach Exotel's API, or it fails."
        => "Check the parameter ExotelBaseUrl and, in a VPC, the NAT gateway (docs/vpc.md). Then `ringback doctor` again";
    ExotelRefused, "exotel_refused",
        "Exotel does not accept the account or its API key, so apps cannot call telephones."
        => "`ringback secret set exotel`, with the values of Exotel's page API Settings. The region of the account decides ExotelBaseUrl";
    NoRoute, "no_route",
        "No number leads to an extension, so every caller is refused."
        => "`ringback route set NUMBER EXTENSION`";
    RouteWithoutDevice, "route_without_device",
        "A number leads to an extension that has no device, so no push wakes a phone."
        => "Start the app of this extension, which registers its device, or `ringback route set NUMBER EXTENSION` with another extension";
    NoTelephone, "no_telephone",
        "Exotel is set up, and no extension has a telephone, so apps cannot call telephones."
        => "`ringback telephone set EXTENSION NUMBER`, or CallerIdPolicy=any in samconfig.toml and `sam deploy`";
    SnsMissing, "sns_missing",
        "A platform application of SNS does not exist, so its phones do not wake."
        => "`aws sns create-platform-application`, then `sam deploy` with its ARN in the parameter of this platform";
    SnsDisabled, "sns_disabled",
        "A platform application of SNS is disabled, so its phones do not wake."
        => "`aws sns set-platform-application-attributes --platform-application-arn {} --attributes Enabled=true`, with a new PlatformCredential if Apple or Google refused the old one";
    SnsCertificate, "sns_certificate",
        "Apple's certificate in a platform application of SNS ends within 30 days, or has ended."
        => "`aws sns set-platform-application-attributes --platform-application-arn {} --attributes file://certificate.json`, with a new PlatformPrincipal and PlatformCredential";
    HttpUnreachable, "http_unreachable",
        "The address of the HTTP API does not lead to this deployment."
        => "Correct the DNS record of HttpDomainName, or the proxy at PublicHttpUrl. `curl {}/health` shows who answers";
    WebSocketUnreachable, "websocket_unreachable",
        "Apps cannot connect to the WebSocket API."
        => "Correct the DNS record of WebSocketDomainName. `ringback call tail` prints `connected` when it works";
    Concurrency, "concurrency",
        "Fewer than 100 functions can run at the same time beside those with reserved concurrency, so AWS refuses requests."
        => "`aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384 --desired-value 1000`, or `sam deploy` with a lower CallPathConcurrency";
}

impl Fault {
    /// What fixes the fault at this place.
    #[must_use]
    pub fn fix(self, place: &str) -> String {
        self.fix_at_a_place().replace("{}", place)
    }

    /// The fault at this place.
    #[must_use]
    pub fn at(self, place: impl ToString) -> Finding {
        Finding {
            fault: self,
            place: place.to_string(),
            detail: None,
        }
    }
}

/// A fault that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which one.
    pub fault: Fault,
    /// Where: a PBX, a secret, an extension, an address.
    #[serde(rename = "where")]
    pub place: String,
    /// What exactly was seen. It never contains a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Finding {
    /// The same with what was seen.
    #[must_use]
    pub fn seen(self, detail: impl ToString) -> Self {
        Self {
            detail: Some(detail.to_string()),
            ..self
        }
    }
}

/// What the function `doctor` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Examination {
    /// The faults that only a function can see.
    pub findings: Vec<Finding>,
}

/// The page `docs/doctor.md`.
#[must_use]
pub fn page() -> String {
    let rows = Fault::ALL.iter().map(|fault| {
        let (id, what, fix) = (fault.id(), fault.what(), fault.fix("WHERE"));
        format!("| `{id}` | {what} | {fix}. |\n")
    });
    format!("{PAGE}{}", rows.collect::<String>())
}

const PAGE: &str = "\
# What `ringback doctor` finds

`ringback doctor` checks a deployment where it matters: from this machine, and from a function in AWS, which alone may reach the PBX. It
places no call, wakes no phone and costs nothing. It changes nothing: on each PBX, a local channel tries a report about a call that does not
exist. With `--json`, it prints `findings` with `fault`, `where`, `what`, `detail` and `fix`. With two regions, run it in each one.

A test creates each of these faults in the running local stack, and expects exactly this finding. In a fix, WHERE is the place that the
finding names.

| fault | what is wrong | what fixes it |
| --- | --- | --- |
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_this_table() {
        let written = include_str!("../../../docs/doctor.md");
        assert_eq!(written, page(), "write the right side into docs/doctor.md");
    }
}
