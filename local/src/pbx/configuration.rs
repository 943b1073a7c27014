//! Asterisk's configuration: the repository's files as they are, and the site files that each installation
//! fills in, filled in for this machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::source::Source;
use crate::credentials::{Credentials, SipAccount};
use crate::settings::{ENCRYPTED_TRUNK_SOURCE, LOOPBACK, PbxPorts, Settings, TRUNK_SOURCE};
use crate::tools::make_dir;

/// Directories Asterisk writes to; its modules and sounds stay where its package put them.
const WRITTEN: [(&str, &str); 7] = [
    ("astetcdir", "etc"),
    ("astvarlibdir", "lib"),
    ("astdbdir", "lib"),
    ("astkeydir", "lib"),
    ("astspooldir", "spool"),
    ("astrundir", "run"),
    ("astlogdir", "log"),
];

/// The certificate of SIP over TLS, and its key.
const CERTIFICATE: &str = "tls.pem";
const KEY: &str = "tls.key";
/// The same for the proxy, which wants both in one file.
const CERTIFICATE_WITH_KEY: &str = "tls-with-key.pem";
/// The proxy's configuration, and its site file.
const PROXY: &str = "haproxy.cfg";

/// The cipher suites of SIP over TLS: those of transports.conf.example.
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256,ECDHE-RSA-AES128-GCM-SHA256,ECDHE-ECDSA-AES256-GCM-SHA384,\
                       ECDHE-RSA-AES256-GCM-SHA384,ECDHE-ECDSA-CHACHA20-POLY1305,ECDHE-RSA-CHACHA20-POLY1305";

/// What the dialplan says to the application, and where.
#[derive(Debug)]
pub struct Hooks<'a> {
    /// The HTTP API.
    pub url: &'a str,
    /// The second region's, where there is one.
    pub fallback_url: Option<&'a str>,
    /// The PBX's name, where there is more than one.
    pub name: Option<&'a str>,
}

/// The written configuration.
#[derive(Debug, Clone)]
pub struct Written {
    /// `asterisk.conf`, as Asterisk sees it.
    pub asterisk: PathBuf,
    /// The proxy's files, in the order in which it reads them.
    pub proxy: [PathBuf; 2],
}

/// Writes everything.
pub fn write(
    settings: &Settings,
    source: &Source,
    pbx: &PbxPorts,
    credentials: &Credentials,
    hooks: &Hooks<'_>,
) -> Result<Written> {
    let (outside, inside) = (source.outside(pbx), source.inside(pbx));
    if outside.exists() {
        std::fs::remove_dir_all(&outside)
            .with_context(|| format!("could not clear {}", outside.display()))?;
    }
    for (_, folder) in WRITTEN {
        make_dir(&outside.join(folder))?;
    }
    // Asterisk looks for keys there, finds none, and would complain of the folder.
    make_dir(&outside.join("lib/keys"))?;
    let etc = outside.join("etc");
    copy_shipped(&settings.repository().join("asterisk"), &etc)?;
    let site = etc.join("ringback-site");
    make_dir(&site)?;
    let folders = Folders {
        inside: &inside.join("etc"),
        outside: &etc,
    };
    for (name, text) in site_files(pbx, credentials, hooks, &folders) {
        write_file(&site.join(name), &text)?;
    }
    let certificate = &credentials.ari_certificate;
    write_file(&etc.join(CERTIFICATE), &certificate.certificate_pem)?;
    write_file(&etc.join(KEY), &certificate.key_pem)?;
    let both = format!("{}{}", certificate.certificate_pem, certificate.key_pem);
    write_file(&etc.join(CERTIFICATE_WITH_KEY), &both)?;
    write_file(
        &etc.join("asterisk.conf"),
        &asterisk_conf(&inside, &source.directories()),
    )?;
    Ok(Written {
        asterisk: inside.join("etc/asterisk.conf"),
        proxy: [site.join(PROXY), etc.join(PROXY)],
    })
}

/// The configuration folder as Asterisk sees it, and as this machine does.
struct Folders<'a> {
    inside: &'a Path,
    outside: &'a Path,
}

/// The shipped files, unchanged.
fn copy_shipped(from: &Path, etc: &Path) -> Result<()> {
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

fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

fn asterisk_conf(inside: &Path, packaged: &[(&'static str, PathBuf)]) -> String {
    let written = WRITTEN.map(|(name, folder)| (name, inside.join(folder)));
    let directories: String = written.iter().chain(packaged).fold(
        String::from("[directories]\n"),
        |mut text, (name, folder)| {
            let _ = writeln!(text, "{name} => {}", folder.display());
            text
        },
    );
    format!("{directories}\n[options]\nnocolor = yes\n")
}

/// One for each `*.example` in `asterisk/ringback-site`.
fn site_files(
    pbx: &PbxPorts,
    credentials: &Credentials,
    hooks: &Hooks<'_>,
    folders: &Folders<'_>,
) -> [(&'static str, String); 8] {
    [
        ("ari.conf", ari(credentials)),
        ("dialplan.conf", dialplan(hooks, &credentials.hook_secret)),
        (PROXY, proxy(pbx, folders.outside)),
        ("http.conf", http(pbx)),
        ("phones.conf", phones(&credentials.sip_accounts)),
        ("rtp.conf", rtp(pbx)),
        ("transports.conf", transports(pbx, folders.inside)),
        ("trunk.conf", trunk()),
    ]
}

fn ari(credentials: &Credentials) -> String {
    let (user, password) = (&credentials.ari_username, &credentials.ari_password);
    format!("[{user}]\ntype = user\nread_only = no\npassword = {password}\n")
}

fn dialplan(hooks: &Hooks<'_>, hook_secret: &str) -> String {
    let mut text = format!(
        "[globals]\nRINGBACK_HOOK_URL = {}\nRINGBACK_HOOK_SECRET = {hook_secret}\nRINGBACK_MAX_WAIT_SECONDS = 60\n",
        hooks.url
    );
    if let Some(fallback_url) = hooks.fallback_url {
        let _ = writeln!(text, "RINGBACK_FALLBACK_HOOK_URL = {fallback_url}");
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

/// Exotel's trunk as most accounts have it, and one with TLS and SRTP beside it.
fn trunk() -> String {
    let one = |name, template, source| {
        format!(
            "[{name}]({template})\n\n[{name}-identify]\ntype = identify\nendpoint = {name}\nmatch = {source}\n\n"
        )
    };
    one("exotel-encrypted", "trunk", ENCRYPTED_TRUNK_SOURCE)
        + &one("exotel", "trunk-plain", TRUNK_SOURCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::PBXS;
    use std::collections::BTreeSet;

    #[test]
    fn every_site_file_is_filled_in() {
        let credentials = Credentials::generate("http://127.0.0.1:5051/token").unwrap();
        let hooks = Hooks {
            url: "http://127.0.0.1:5050",
            fallback_url: None,
            name: None,
        };
        let folders = Folders {
            inside: Path::new("/etc"),
            outside: Path::new("/etc"),
        };
        let written: BTreeSet<String> = site_files(&PBXS[0], &credentials, &hooks, &folders)
            .into_iter()
            .map(|(name, _)| name.to_owned())
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
}
