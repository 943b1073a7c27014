//! `ARI_URL`: the names and addresses of the PBXs.

use ringback_core::ids::{BadName, PbxName};

use crate::platform::config::{ConfigError, Environment};

/// The name of a PBX that `ARI_URL` lists without one.
const DEFAULT_NAME: &str = "pbx";

/// The PBXs with their ARI URLs, in the order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PbxList(Vec<(PbxName, String)>);

impl PbxList {
    /// Reads `ARI_URL`, see [`PbxList::parse`].
    ///
    /// # Errors
    /// When the variable is missing or malformed.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        Self::parse(&environment.required("ARI_URL")?)
    }

    /// Parses one URL, `https://pbx.example.com:8089/ari`, or a list with names,
    /// `pbx1=https://a.example.com:8089/ari,pbx2=https://b.example.com:8089/ari`.
    ///
    /// # Errors
    /// When an entry is no URL, or a name of a list is missing, malformed or repeated.
    pub fn parse(list: &str) -> Result<Self, ConfigError> {
        let invalid = || ConfigError::Invalid {
            name: "ARI_URL",
            rule: "a URL, or a list of different names with a URL each: pbx1=https://a:8089/ari,pbx2=https://b:8089/ari",
        };
        let mut pbxs: Vec<(PbxName, String)> = Vec::new();
        for entry in list.split(',') {
            let (name, url) = match entry.split_once('=') {
                // A colon before the equals sign means that the equals sign is part of a URL.
                Some((name, url)) if !name.contains(':') => (name, url),
                _ if list == entry => (DEFAULT_NAME, entry),
                _ => return Err(invalid()),
            };
            let name = PbxName::try_from(name).map_err(|_| invalid())?;
            let is_url = url.starts_with("https://") || url.starts_with("http://");
            if !is_url || pbxs.iter().any(|(known, _)| *known == name) {
                return Err(invalid());
            }
            pbxs.push((name, url.trim_end_matches('/').to_owned()));
        }
        Ok(Self(pbxs))
    }

    /// The listed PBX with this name. A PBX that reports without a name is the first one.
    ///
    /// # Errors
    /// When no PBX has this name.
    pub fn find(&self, name: Option<&str>) -> Result<PbxName, BadName> {
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

impl IntoIterator for PbxList {
    type Item = (PbxName, String);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_url_is_one_pbx_and_a_list_has_names() {
        let names = |list: &str| {
            let pbxs = PbxList::parse(list).unwrap().into_iter();
            let names: Vec<String> = pbxs.map(|(name, url)| format!("{name} {url}")).collect();
            names.join(", ")
        };
        assert_eq!(names("https://a:8089/ari/"), "pbx https://a:8089/ari");
        assert_eq!(
            names("pbx1=https://a/ari,pbx2=https://b/ari"),
            "pbx1 https://a/ari, pbx2 https://b/ari"
        );
    }

    #[test]
    fn a_malformed_list_is_rejected() {
        for malformed in [
            "",
            "a:8089/ari",
            "https://a/ari,https://b/ari",
            "pbx1=https://a/ari,https://b/ari",
            "pbx1=https://a/ari,pbx1=https://b/ari",
            "PBX=https://a/ari",
            "pbx1=",
            "pbx1=https://a/ari,",
        ] {
            assert!(PbxList::parse(malformed).is_err(), "{malformed}");
        }
    }
}
