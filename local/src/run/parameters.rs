//! The template parameters of the local deployment, and the URLs of the systems that the functions use.

use std::collections::BTreeMap;

use crate::cloud::apis;
use crate::cloud::region::{PRIMARY, Region};
use crate::faults::rule::System;
use crate::faults::{self, SystemUrls};
use crate::pbx::fleet::ari_urls;
use crate::pbx::server::ari_url;
use crate::settings::{
    ARCHITECTURE, LOOPBACK, PBXS, PORTS, PbxPorts, Settings, TOKEN_AUDIENCE, TOKEN_ISSUER,
};

/// The SIP URIs of the PBXs that `listed` (the value of `ARI_URL`) contains, encrypted ones first. A PBX without a name is the first
/// one. Another PBX than the stack's own has none.
fn sip_uris(settings: &Settings, listed: &str) -> String {
    if settings.variable("ARI_URL").is_some() {
        return String::new();
    }
    let pbxs: Vec<(&str, &PbxPorts)> = if listed.contains(PBXS[0].name) {
        PBXS.iter().map(|pbx| (pbx.name, pbx)).collect()
    } else {
        vec![("pbx", &PBXS[0])]
    };
    let uris = pbxs.into_iter().flat_map(|(name, pbx)| {
        let PbxPorts {
            sip, sip_tls, wss, ..
        } = pbx;
        [
            format!("{name}=sips:{LOOPBACK}:{sip_tls};transport=tls"),
            format!("{name}=sip:{LOOPBACK}:{sip};transport=udp"),
            format!("{name}=sip:{LOOPBACK}:{sip};transport=tcp"),
            format!("{name}=wss://{LOOPBACK}:{wss}/ws"),
        ]
    });
    uris.collect::<Vec<_>>().join(",")
}

/// The template parameters with the URLs of systems that can be behind a fault proxy.
const PROXIED_URLS: [&str; 3] = ["AriUrl", "FcmBaseUrl", "ExotelBaseUrl"];

/// The URLs of the systems that the functions use.
#[derive(Debug)]
pub(super) struct FunctionUrls {
    pub(super) aws: String,
    pub(super) pbx: String,
    pub(super) fcm: String,
    exotel: String,
    /// Whether these are the URLs of fault proxies. Then the proxies apply the environment variables, and the
    /// parameters must not.
    are_proxies: bool,
}

impl FunctionUrls {
    /// The systems themselves, or their fault proxies. The local AWS of the second region has no proxy.
    pub(super) fn of(region: Region, faults: bool) -> Self {
        let or_proxy = |system, own| if faults { faults::url(system) } else { own };
        let stand_in = |port| format!("http://{LOOPBACK}:{port}");
        Self {
            aws: match region {
                PRIMARY => or_proxy(System::Aws, region.endpoint()),
                other => other.endpoint(),
            },
            pbx: or_proxy(System::Pbx, ari_urls()),
            fcm: or_proxy(System::Fcm, stand_in(PORTS.fcm)),
            exotel: or_proxy(System::Exotel, stand_in(PORTS.exotel)),
            are_proxies: faults,
        }
    }
}

/// The URLs behind the fault proxies: from the environment, or the stack's own.
pub(super) fn system_urls(settings: &Settings) -> SystemUrls {
    let own = FunctionUrls::of(PRIMARY, false);
    SystemUrls {
        aws: own.aws,
        pbx: settings.override_or("ARI_URL", ari_url(&PBXS[0])),
        fcm: settings.override_or("FCM_BASE_URL", own.fcm),
        exotel: settings.override_or("EXOTEL_BASE_URL", own.exotel),
    }
}

/// The stack's own template parameters, overridden by the environment.
pub(super) fn parameters(
    settings: &Settings,
    declared: &[String],
    urls: &FunctionUrls,
    region: Region,
    region_parameters: Vec<(&'static str, String)>,
) -> BTreeMap<String, String> {
    let defaults = [
        ("Architecture", ARCHITECTURE.to_owned()),
        ("AriUrl", urls.pbx.clone()),
        ("SipUris", sip_uris(settings, &urls.pbx)),
        ("FcmBaseUrl", urls.fcm.clone()),
        ("ExotelBaseUrl", urls.exotel.clone()),
        ("PublicHttpUrl", region.http_url()),
        ("LocalApiGatewayUrl", apis(&urls.aws)),
        ("TokenIssuer", TOKEN_ISSUER.to_owned()),
        ("TokenAudience", TOKEN_AUDIENCE.to_owned()),
        // Tests place as many calls in a minute as one extension's apps in a month.
        ("CallsPerMinute", "600".to_owned()),
        ("CallsAtOnce", "100".to_owned()),
        ("ConcurrentCallsPerExtension", "100".to_owned()),
        ("PhoneCallsPerDay", "10000".to_owned()),
        ("RegistrationsPerMinute", "600".to_owned()),
        ("RegistrationsAtOnce", "100".to_owned()),
        // The example call in the README starts from a number that belongs to no extension.
        ("CallerIdPolicy", "any".to_owned()),
    ];
    let mut parameters: BTreeMap<String, String> = defaults
        .into_iter()
        .chain(region_parameters)
        .filter(|(name, _)| declared.iter().any(|declared| declared == name))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let mut overrides = settings.parameters_from_environment(declared);
    if urls.are_proxies {
        overrides.retain(|name, _| !PROXIED_URLS.contains(&name.as_str()));
    }
    parameters.extend(overrides);
    parameters
}
