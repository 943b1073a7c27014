//! Writes Asterisk's configuration: the files of the repository unchanged, and the site files with the values of this
//! machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringback_sip::CALLER_HEADER;

use super::source::AsteriskSource;
use crate::credentials::{Credentials, SipAccount};
use crate::settings::{
    ENCRYPTED_TRUNK_SOURCE, LOOPBACK, PbxPorts, SMOKE_SOURCE, Settings, TRUNK_SOURCE,
};
use crate::tools::make_dir;

/// The directories that Asterisk writes to. Modules and sounds stay where the package installs them.
const WRITABLE_DIRECTORIES: [(&str, &str); 7] = [
    ("astetcdir", "etc"),
    ("astvarlibdir", "lib"),
    ("astdbdir", "lib"),
    ("astkeydir", "lib"),
    ("astspooldir", "spool"),
    ("astrundir", "run"),
    ("astlogdir", "log"),
];

/// The certificate for SIP over TLS, and its key.
const CERTIFICATE: &str = "tls.pem";
const KEY: &str = "tls.key";
/// The certificate and the key in one file, as HAProxy requires.
const CERTIFICATE_WITH_KEY: &str = "tls-with-key.pem";
/// The folder with the sound for a party on hold, beside `etc`.
const HOLD_MUSIC: &str = "lib/moh";
/// HAProxy's configuration. Its site file has the same name.
const PROXY: &str = "haproxy.cfg";

/// The cipher suites for SIP over TLS, the same as in `transports.conf.example`.
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256,ECDHE-RSA-AES128-GCM-SHA256,ECDHE-ECDSA-AES256-GCM-SHA384,\
                       ECDHE-RSA-AES256-GCM-SHA384,ECDHE-ECDSA-CHACHA20-POLY1305,ECDHE-RSA-CHACHA20-POLY1305";

/// The settings of the dialplan's hooks.
#[derive(Debug)]
pub struct HookSettings<'a> {
    /// The URL of the HTTP API.
    pub url: &'a str,
    /// The URL in the second region, if there is one.
    pub fallback_url: Option<&'a str>,
    /// The certificate authorities of both URLs, if not those of the machine.
    pub ca_file: Option<&'a str>,
    /// The PBX's name, if the application knows several PBXs.
    pub name: Option<&'a str>,
}

/// The paths of the written configuration.
#[derive(Debug, Clone)]
pub struct WrittenConfiguration {
    /// `asterisk.conf`, as Asterisk sees it.
    pub asterisk: PathBuf,
    /// HAProxy's files, in the order that it reads them.
    pub proxy: [PathBuf; 2],
}

/// Writes all files.
pub fn write(
    settings: &Settings,
    source: &AsteriskSource,
    pbx: &PbxPorts,
    credentials: &Credentials,
    hooks: &HookSettings<'_>,
) -> Result<WrittenConfiguration> {
    let (outside, inside) = (source.outside(pbx), source.inside(pbx));
    if outside.exists() {
        std::fs::remove_dir_all(&outside)
            .with_context(|| format!("could not clear {}", outside.display()))?;
    }
    for (_, folder) in WRITABLE_DIRECTORIES {
        make_dir(&outside.join(folder))?;
    }
    // Asterisk warns when the key directory is missing.
    make_dir(&outside.join("lib/keys"))?;
    let etc = outside.join("etc");
    copy_repository_files(&settings.repository().join("asterisk"), &etc)?;
    let site = etc.join("ringback-site");
    make_dir(&site)?;
    let folders = Folders {
        inside: &inside.join("etc"),
        outside: &etc,
    };
    write_hold_music(settings.repository(), &outside.join(HOLD_MUSIC))?;
    for (name, text) in site_files(pbx, credentials, hooks, &folders) {
        write_text(&site.join(name), &text)?;
    }
    super::site_check::check(settings.repository(), &site)?;
    let certificate = &credentials.ari_certificate;
    write_text(&etc.join(CERTIFICATE), &certificate.certificate_pem)?;
    write_text(&etc.join(KEY), &certificate.key_pem)?;
    let both = format!("{}{}", certificate.certificate_pem, certificate.key_pem);
    write_text(&etc.join(CERTIFICATE_WITH_KEY), &both)?;
    write_text(
        &etc.join("asterisk.conf"),
        &asterisk_conf(&inside, &source.directories()),
    )?;
    Ok(WrittenConfiguration {
        asterisk: inside.join("etc/asterisk.conf"),
        proxy: [site.join(PROXY), etc.join(PROXY)],
    })
}

/// The configuration folder, as Asterisk sees it and as this machine sees it. They differ in a container.
struct Folders<'a> {
    inside: &'a Path,
    outside: &'a Path,
}

/// Copies the files of the repository.
fn copy_repository_files(from: &Path, etc: &Path) -> Result<()> {
    for entry in
        std::fs::read_dir(from).with_context(|| format!("could not read {}", from.display()))?
    {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf" || extension == "cfg")
            && let Some(name) = path.file_name()
        {
            std::fs::copy(&path, etc.join(name))
                .with_context(|| format!("could not copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// Runs the script that an operator runs once.
fn write_hold_music(repository: &Path, folder: &Path) -> Result<()> {
    let script = repository.join("asterisk/hold-music.sh");
    let status = Command::new(&script).arg(folder).status();
    let status = status.with_context(|| format!("could not run {}", script.display()))?;
    ensure!(status.success(), "{} failed: {status}", script.display());
    Ok(())
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

fn asterisk_conf(inside: &Path, packaged: &[(&'static str, PathBuf)]) -> String {
    let written = WRITABLE_DIRECTORIES.map(|(name, folder)| (name, inside.join(folder)));
    let directories: String = written.iter().chain(packaged).fold(
        String::from("[directories]\n"),
        |mut text, (name, folder)| {
            let _ = writeln!(text, "{name} => {}", folder.display());
            text
        },
    );
    format!("{directories}\n[options]\nnocolor = yes\n")
}

/// One site file for each `*.example` in `asterisk/ringback-site`.
fn site_files(
    pbx: &PbxPorts,
    credentials: &Credentials,
    hooks: &HookSettings<'_>,
    folders: &Folders<'_>,
) -> [(&'static str, String); 10] {
    [
        ("ari.conf", ari(credentials)),
        ("dialplan.conf", dialplan(hooks, &credentials.hook_secret)),
        (PROXY, proxy(pbx, folders.outside)),
        ("http.conf", http(pbx)),
        ("musiconhold.conf", music_on_hold(folders.inside)),
        ("phones.conf", phones(&credentials.sip_accounts)),
        ("rtp.conf", rtp(pbx)),
        ("smoke.conf", smoke(pbx)),
        ("transports.conf", transports(pbx, folders.inside)),
        ("trunk.conf", trunk()),
    ]
}

fn ari(credentials: &Credentials) -> String {
    let (user, password) = (&credentials.ari_username, &credentials.ari_password);
    format!("[{user}]\ntype = user\nread_only = no\npassword = {password}\n")
}

fn dialplan(hooks: &HookSettings<'_>, hook_secret: &str) -> String {
    let mut text = format!(
        "[globals]\nRINGBACK_HOOK_URL = {}\nRINGBACK_HOOK_SECRET = {hook_secret}\nRINGBACK_MAX_WAIT_SECONDS = 60\nRINGBACK_CALLER_HEADER = {CALLER_HEADER}\n",
        hooks.url
    );
    if let Some(fallback_url) = hooks.fallback_url {
        let _ = writeln!(text, "RINGBACK_FALLBACK_HOOK_URL = {fallback_url}");
    }
    if let Some(ca_file) = hooks.ca_file {
        let _ = writeln!(text, "RINGBACK_CA_FILE = {ca_file}");
    }
    if let Some(name) = hooks.name {
        let _ = writeln!(text, "RINGBACK_PBX = {name}");
    }
    text
}

fn rtp(pbx: &PbxPorts) -> String {
    let [first, last] = pbx.rtp;
    format!("[general](+)\nrtpstart = {first}\nrtpend = {last}\n")
}

fn music_on_hold(etc: &Path) -> String {
    let folder = etc.with_file_name(HOLD_MUSIC);
    format!(
        "[default]\nmode = files\ndirectory = {}\n",
        folder.display()
    )
}

fn http(pbx: &PbxPorts) -> String {
    format!("[general](+)\nbindport = {}\n", pbx.ari_plain)
}

fn proxy(pbx: &PbxPorts, etc: &Path) -> String {
    let settings = [
        ("PHONES_BIND", format!("{LOOPBACK}:{}", pbx.wss)),
        ("ARI_BIND", format!("{LOOPBACK}:{}", pbx.ari)),
        (
            "CERTIFICATE",
            etc.join(CERTIFICATE_WITH_KEY).display().to_string(),
        ),
        ("ASTERISK_HTTP", format!("{LOOPBACK}:{}", pbx.ari_plain)),
    ];
    settings
        .iter()
        .fold(String::from("global\n"), |mut text, (name, value)| {
            let _ = writeln!(text, "    setenv RINGBACK_{name} \"{value}\"");
            text
        })
}

fn phones(accounts: &[SipAccount]) -> String {
    accounts.iter().fold(String::new(), |mut text, account| {
        let SipAccount { extension, password, .. } = account;
        let template = account.transport.template();
        let _ = write!(
            text,
            "[{extension}]({template})\nauth = {extension}\naors = {extension}\n\n\
             [{extension}](phone-auth)\nusername = {extension}\npassword = {password}\n\n[{extension}](phone-aor)\n\n"
        );
        text
    })
}

fn transports(pbx: &PbxPorts, etc: &Path) -> String {
    let PbxPorts { sip, sip_tls, .. } = pbx;
    let (certificate, key) = (etc.join(CERTIFICATE), etc.join(KEY));
    format!(
        "[transport-udp]\ntype = transport\nprotocol = udp\nbind = {LOOPBACK}:{sip}\n\n\
         [transport-tcp]\ntype = transport\nprotocol = tcp\nbind = {LOOPBACK}:{sip}\n\n\
         [transport-tls]\ntype = transport\nprotocol = tls\nbind = {LOOPBACK}:{sip_tls}\nmethod = tlsv1_2\n\
         cipher = {CIPHERS}\ncert_file = {}\npriv_key_file = {}\n\n\
         [transport-ws]\ntype = transport\nprotocol = ws\nbind = {LOOPBACK}\n\n\
         [site-endpoint](!)\nmedia_address = {LOOPBACK}\nbind_rtp_to_media_address = yes\n",
        certificate.display(),
        key.display(),
    )
}

/// Two trunks: one unencrypted, as most Exotel accounts have it, and one with TLS and SRTP.
fn trunk() -> String {
    let endpoint = |name, template, source| {
        format!(
            "[{name}]({template})\n\n[{name}-identify]\ntype = identify\nendpoint = {name}\nmatch = {source}\n\n"
        )
    };
    endpoint("exotel-encrypted", "trunk", ENCRYPTED_TRUNK_SOURCE)
        + &endpoint("exotel", "trunk-plain", TRUNK_SOURCE)
}

/// Like the example, at the PBX's own port.
fn smoke(pbx: &PbxPorts) -> String {
    let (name, source, port) = ("ringback-smoke", SMOKE_SOURCE, pbx.smoke);
    format!(
        "[{name}-transport]\ntype = transport\nprotocol = udp\nbind = {source}:{port}\n\n\
         [{name}](smoke)\naors = {name}\n\n\
         [{name}]\ntype = aor\ncontact = sip:{name}@{source}:{port}\n\n\
         [{name}-identify]\ntype = identify\nendpoint = {name}\nmatch = {source}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::PBXS;
    use std::collections::{BTreeMap, BTreeSet};

    /// The site files of a PBX, by name.
    fn site_files_of(pbx: &PbxPorts) -> BTreeMap<&'static str, String> {
        let credentials = Credentials::generate("http://127.0.0.1:5051/token").unwrap();
        let hooks = HookSettings {
            url: "http://127.0.0.1:5050",
            fallback_url: None,
            ca_file: None,
            name: None,
        };
        let folders = Folders {
            inside: Path::new("/etc"),
            outside: Path::new("/etc"),
        };
        BTreeMap::from(site_files(pbx, &credentials, &hooks, &folders))
    }

    #[test]
    fn every_site_file_is_written() {
        let written: BTreeSet<String> = site_files_of(&PBXS[0])
            .into_keys()
            .map(str::to_owned)
            .collect();
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../asterisk/ringback-site");
        let shipped: BTreeSet<String> = std::fs::read_dir(examples)
            .unwrap()
            .filter_map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_str()?
                    .strip_suffix(".example")
                    .map(str::to_owned)
            })
            .collect();
        assert_eq!(written, shipped);
    }

    /// The name of a section and its settings, including the inherited ones.
    type Section = (String, BTreeMap<String, String>);

    /// The sections of `pjsip.conf` that are not templates. `site` returns the text of a site file.
    fn sections(site: impl Fn(&str) -> String) -> Vec<Section> {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../asterisk/pjsip.conf");
        let shipped = std::fs::read_to_string(shipped).unwrap();
        let lines: Vec<String> = shipped
            .lines()
            .flat_map(
                |line| match line.strip_prefix("#include \"ringback-site/") {
                    Some(name) => site(name.trim_end_matches('"'))
                        .lines()
                        .map(str::to_owned)
                        .collect(),
                    None => vec![line.to_owned()],
                },
            )
            .collect();
        let mut templates = BTreeMap::new();
        let mut found: Vec<(bool, Section)> = Vec::new();
        for line in &lines {
            let line = line.split(';').next().unwrap_or_default().trim();
            if let Some((name, rest)) = line.strip_prefix('[').and_then(|it| it.split_once(']')) {
                keep_template(&mut templates, found.last());
                let rest = rest.trim_matches(['(', ')']);
                let inherited = rest
                    .split(',')
                    .filter_map(|name| templates.get(name).cloned());
                let settings = inherited.flatten().collect();
                let is_template = rest.split(',').any(|option| option == "!");
                found.push((is_template, (name.to_owned(), settings)));
            } else if let Some((name, value)) = line.split_once('=')
                && let Some((_, (_, settings))) = found.last_mut()
            {
                let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
                // `match` is the only setting here that may occur more than once.
                let so_far = settings.get("match").filter(|_| name == "match");
                let value =
                    so_far.map_or_else(|| value.clone(), |so_far| format!("{so_far},{value}"));
                settings.insert(name, value);
            }
        }
        let sections = found.into_iter().filter(|(is_template, _)| !is_template);
        sections.map(|(_, section)| section).collect()
    }

    fn keep_template(
        templates: &mut BTreeMap<String, BTreeMap<String, String>>,
        section: Option<&(bool, Section)>,
    ) {
        if let Some((true, (name, settings))) = section {
            templates.insert(name.clone(), settings.clone());
        }
    }

    /// The shipped examples, and the files of each PBX of the stack.
    fn all_pjsip_files() -> Vec<Vec<Section>> {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../asterisk/ringback-site");
        let shipped = sections(|name| {
            std::fs::read_to_string(examples.join(format!("{name}.example"))).unwrap()
        });
        let stacks = PBXS.map(|pbx| {
            let written = site_files_of(&pbx);
            sections(|name| written[name].clone())
        });
        [shipped].into_iter().chain(stacks).collect()
    }

    #[test]
    fn only_an_endpoint_without_a_password_is_identified_by_its_address() {
        for file in all_pjsip_files() {
            let is_endpoint = |(_, settings): &&Section| settings["type"] == "endpoint";
            let endpoints: Vec<&Section> = file.iter().filter(is_endpoint).collect();
            for name in ["exotel", "1001"] {
                assert!(endpoints.iter().any(|(it, _)| it == name), "no {name}");
            }
            for (name, settings) in endpoints {
                let expected = match settings.get("auth") {
                    Some(_) => "username",
                    None => "ip",
                };
                let identify_by = settings.get("identify_by").map(String::as_str);
                assert_eq!(identify_by, Some(expected), "{name}");
                let anonymous = settings.get("allow_unauthenticated_options");
                assert_eq!(anonymous, None, "{name}");
            }
        }
    }

    /// WebRTC phones connect through the proxy, so their requests come from its address. A trunk with that address
    /// would let them call without a password.
    #[test]
    fn no_trunk_matches_the_address_of_the_proxy() {
        for file in all_pjsip_files() {
            let is_identify = |(_, settings): &&Section| settings["type"] == "identify";
            let identifies: Vec<&Section> = file.iter().filter(is_identify).collect();
            assert!(!identifies.is_empty());
            for (name, settings) in identifies {
                for matched in settings["match"].split(',') {
                    assert!(
                        !matched.contains('/'),
                        "{name} matches the network {matched}"
                    );
                    let address: std::net::Ipv4Addr = matched.parse().unwrap();
                    assert_ne!(address, std::net::Ipv4Addr::LOCALHOST, "{name}");
                }
            }
        }
    }

    #[test]
    fn anonymous_callers_match_no_endpoint() {
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../asterisk/modules.conf");
        let modules = std::fs::read_to_string(modules).unwrap();
        assert!(modules.contains("autoload = no"));
        let identifiers = modules
            .lines()
            .filter(|line| line.contains("endpoint_identifier"));
        let identifiers: Vec<&str> = identifiers.collect();
        let expected =
            ["ip", "user"].map(|name| format!("require = res_pjsip_endpoint_identifier_{name}.so"));
        assert_eq!(identifiers, expected);
    }
}
