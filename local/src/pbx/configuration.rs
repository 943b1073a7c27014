//! Asterisk's configuration: the repository's files as they are, and the site files that each installation
//! fills in, filled in for this machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::source::Source;
use crate::credentials::Credentials;
use crate::settings::{LOOPBACK, PbxPorts, Settings, TRUNK_SOURCE};
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

/// Writes everything and gives the path of `asterisk.conf` as Asterisk sees it.
pub fn write(
    settings: &Settings,
    source: &Source,
    pbx: &PbxPorts,
    credentials: &Credentials,
    hooks: &Hooks<'_>,
) -> Result<PathBuf> {
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
    for (name, text) in site_files(pbx, credentials, hooks, &inside.join("etc")) {
        write_file(&site.join(name), &text)?;
    }
    let certificate = &credentials.ari_certificate;
    write_file(&etc.join("ari.pem"), &certificate.certificate_pem)?;
    write_file(&etc.join("ari.key"), &certificate.key_pem)?;
    write_file(
        &etc.join("asterisk.conf"),
        &asterisk_conf(&inside, &source.directories()),
    )?;
    Ok(inside.join("etc/asterisk.conf"))
}

/// The shipped files, unchanged.
fn copy_shipped(from: &Path, etc: &Path) -> Result<()> {
    for entry in
        std::fs::read_dir(from).with_context(|| format!("could not read {}", from.display()))?
    {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf")
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
    etc: &Path,
) -> [(&'static str, String); 7] {
    [
        ("ari.conf", ari(credentials)),
        ("dialplan.conf", dialplan(hooks, &credentials.hook_secret)),
        ("http.conf", http(pbx, etc)),
        ("phones.conf", phones(&credentials.sip_passwords)),
        ("rtp.conf", rtp(pbx)),
        ("transports.conf", transports(pbx)),
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

fn http(pbx: &PbxPorts, etc: &Path) -> String {
    format!(
        "[general](+)\nbindaddr = {LOOPBACK}\nbindport = {}\ntlsenable = yes\ntlsbindaddr = {LOOPBACK}:{}\n\
         tlscertfile = {}\ntlsprivatekey = {}\n",
        pbx.ari_plain,
        pbx.ari,
        etc.join("ari.pem").display(),
        etc.join("ari.key").display(),
    )
}

fn phones(passwords: &[(String, String)]) -> String {
    passwords.iter().fold(String::new(), |mut text, (extension, password)| {
        let _ = write!(
            text,
            "[{extension}](phone)\nauth = {extension}\naors = {extension}\n\n\
             [{extension}](phone-auth)\nusername = {extension}\npassword = {password}\n\n[{extension}](phone-aor)\n\n"
        );
        text
    })
}

fn transports(pbx: &PbxPorts) -> String {
    format!(
        "[transport-udp]\ntype = transport\nprotocol = udp\nbind = {LOOPBACK}:{}\n\n\
         [site-endpoint](!)\nmedia_address = {LOOPBACK}\nbind_rtp_to_media_address = yes\n",
        pbx.sip
    )
}

fn trunk() -> String {
    format!("[exotel-identify]\ntype = identify\nendpoint = exotel\nmatch = {TRUNK_SOURCE}\n")
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
        let written: BTreeSet<String> =
            site_files(&PBXS[0], &credentials, &hooks, Path::new("/etc"))
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
