//! `SIP_URIS`: where phones with an account of their own register.

use ringback_core::ids::PbxName;
use serde::Serialize;

use super::pbx_list::PbxList;
use super::sip_account::PhoneMedia;
use crate::platform::config::{ConfigError, Environment};

/// A PBX, as phones reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SipServer {
    /// Its name.
    pub pbx: PbxName,
    /// The host of its first URI.
    pub domain: String,
    /// Its SIP and WebSocket URIs, in the order of preference.
    pub uris: Vec<String>,
}

/// The PBXs, as phones reach them. Without any, devices get no accounts of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SipServers(Vec<SipServer>);

impl SipServers {
    /// Reads `SIP_URIS`, see [`SipServers::parse`]. It may be missing.
    ///
    /// # Errors
    /// When it is malformed, or names a PBX that is not in this list.
    pub fn from_environment(
        environment: &Environment,
        pbxs: &PbxList,
    ) -> Result<Self, ConfigError> {
        let list = environment.optional("SIP_URIS");
        list.map_or_else(|| Ok(Self::default()), |list| Self::parse(&list, pbxs))
    }

    /// Parses `pbx1=sips:a.example.com:5061;transport=tls,pbx2=sips:b.example.com:5061;transport=tls`. A PBX may have several URIs.
    ///
    /// # Errors
    /// When an entry has no URI, or a name that `pbxs` does not list.
    pub fn parse(list: &str, pbxs: &PbxList) -> Result<Self, ConfigError> {
        let invalid = || ConfigError::Invalid {
            name: "SIP_URIS",
            rule: "a list of names in ARI_URL with a SIP URI each: pbx1=sips:a.example.com:5061;transport=tls,pbx2=…",
        };
        let mut servers: Vec<SipServer> = Vec::new();
        for entry in list.split(',') {
            let (name, uri) = entry.split_once('=').ok_or_else(invalid)?;
            let pbx = pbxs.find(Some(name)).map_err(|_| invalid())?;
            let domain = host(uri).ok_or_else(invalid)?;
            match servers.iter_mut().find(|server| server.pbx == pbx) {
                Some(server) => server.uris.push(uri.to_owned()),
                None => servers.push(SipServer {
                    pbx,
                    domain: domain.to_owned(),
                    uris: vec![uri.to_owned()],
                }),
            }
        }
        Ok(Self(servers))
    }

    /// The PBXs.
    #[must_use]
    pub fn as_slice(&self) -> &[SipServer] {
        &self.0
    }

    /// Encryption is optional if a URI is for unencrypted SIP.
    #[must_use]
    pub fn media(&self) -> PhoneMedia {
        let mut uris = self.0.iter().flat_map(|server| &server.uris);
        if uris.any(|uri| uri.starts_with("sip:") && !uri.ends_with(";transport=tls")) {
            PhoneMedia::EncryptionOptional
        } else {
            PhoneMedia::Encrypted
        }
    }
}

fn host(uri: &str) -> Option<&str> {
    let rest = ["sips:", "sip:"]
        .iter()
        .find_map(|scheme| uri.strip_prefix(scheme))?;
    let host = rest.split([':', ';', '/', '?']).next()?;
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<SipServers, ConfigError> {
        let pbxs = PbxList::parse("a=https://a/ari,b=https://b/ari").unwrap();
        SipServers::parse(list, &pbxs)
    }

    #[test]
    fn a_pbx_may_have_several_uris() {
        let parsed = parse(
            "a=sips:a.example.com:5061;transport=tls,b=sips:b.example.com,a=sip:10.0.0.1;transport=udp",
        );
        let parsed = parsed.unwrap();
        let [a, b] = parsed.as_slice() else { panic!() };
        assert_eq!((a.pbx.as_str(), a.domain.as_str()), ("a", "a.example.com"));
        assert_eq!(
            a.uris,
            [
                "sips:a.example.com:5061;transport=tls",
                "sip:10.0.0.1;transport=udp"
            ]
        );
        assert_eq!((b.domain.as_str(), b.uris.len()), ("b.example.com", 1));
        assert_eq!(parsed.media(), PhoneMedia::EncryptionOptional);
    }

    #[test]
    fn media_is_encrypted_unless_a_uri_allows_otherwise() {
        for encrypted in ["a=sips:a.example.com", "a=sip:a.example.com;transport=tls"] {
            assert_eq!(parse(encrypted).unwrap().media(), PhoneMedia::Encrypted);
        }
        for plain in ["a=sip:a.example.com", "a=sips:a,b=sip:b;transport=tcp"] {
            let parsed = parse(plain).unwrap();
            assert_eq!(parsed.media(), PhoneMedia::EncryptionOptional);
        }
    }

    #[test]
    fn a_malformed_list_is_rejected() {
        for malformed in [
            "",
            "sips:a.example.com",
            "c=sips:c.example.com",
            "a=",
            "a=sips:",
            "a=https://a.example.com",
            "a=sips:a.example.com,",
        ] {
            assert!(parse(malformed).is_err(), "{malformed}");
        }
    }
}
