//! `local/tools/prerequisites.sh` on simulated machines: the PATH is one folder with programs that the test makes and
//! a few basic system tools.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringback_local::settings::{PBXS, PORTS, PbxPorts, Ports};

/// The system tools that the scripts use.
const BASICS: [&str; 19] = [
    "awk", "cat", "chmod", "cut", "dirname", "env", "grep", "head", "id", "mkdir", "rm", "sed",
    "sh", "sleep", "sort", "tail", "tr", "touch", "uname",
];
const SCRIPT: &str = "local/tools/prerequisites.sh";
/// The files of the repository that the scripts read.
const FILES: [&str; 5] = [
    SCRIPT,
    "local/tools/unpack.sh",
    "asterisk/modules.conf",
    "rust-toolchain.toml",
    "Cargo.toml",
];

#[test]
fn a_complete_machine_is_left_unchanged() -> Result<()> {
    let machine = Machine::complete("complete")?;
    let run = machine.run("test", &[])?;
    assert_eq!(run.text, "started with path\n");
    ensure!(run.succeeded);
    Ok(())
}

#[test]
fn little_space_is_reported_and_stops_nothing() -> Result<()> {
    let machine = Machine::complete("little-space")?;
    machine.have_space(7_640, 1_500)?;
    let run = machine.run("test", &[])?;
    run.prints("note: 7640 MB are free on the disk")?;
    run.prints("note: 1500 MB of memory are free")?;
    run.prints("started with path\n")?;
    ensure!(run.succeeded);
    Ok(())
}

#[test]
fn missing_programs_are_named_within_a_second_with_the_install_command() -> Result<()> {
    let machine = Machine::complete("missing")?;
    // The script also searches /usr/sbin, so a failing program hides the real one.
    machine.have("haproxy", "false")?;
    for program in ["cc", "strip", "python3", "ps"] {
        machine.lose(program)?;
    }
    machine.have("id", "echo 1000")?;
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        let run = machine.run("stack", &[])?;
        quickest = quickest.min(began.elapsed());
        ensure!(!run.succeeded);
        run.prints("a C compiler")?;
        run.prints("Python 3.11 or later")?;
        run.prints("haproxy 2.6 or later")?;
        run.prints(
            "sudo apt-get update && sudo apt-get install --no-install-recommends \
             gcc libc6-dev binutils python3 python3-venv procps haproxy",
        )?;
    }
    ensure!(quickest < Duration::from_secs(1), "{quickest:?}");
    assert_eq!(machine.apt_was_asked(), "");
    Ok(())
}

#[test]
fn install_no_only_names_missing_programs() -> Result<()> {
    let machine = Machine::complete("install-no")?;
    machine.lose("strip")?;
    let run = machine.run("build", &[("INSTALL", "no")])?;
    ensure!(!run.succeeded);
    run.prints("  apt-get update && apt-get install --no-install-recommends binutils\n")?;
    assert_eq!(machine.apt_was_asked(), "");
    Ok(())
}

#[test]
fn root_installs_missing_programs_and_continues() -> Result<()> {
    let machine = Machine::complete("root")?;
    machine.lose("strip")?;
    let strip = machine.bin().join("strip");
    machine.have_apt(&format!(
        "cat /dev/null >{0}; chmod +x {0}",
        strip.display()
    ))?;
    let run = machine.run("build", &[])?;
    run.prints("apt installs: binutils\n")?;
    run.prints("started")?;
    ensure!(run.succeeded);
    let asked = machine.apt_was_asked();
    ensure!(asked.starts_with("-q update\n"), "{asked}");
    ensure!(asked.ends_with(" install binutils\n"), "{asked}");
    Ok(())
}

#[test]
fn a_failed_apt_install_stops_the_command() -> Result<()> {
    let machine = Machine::complete("not-mended")?;
    machine.have(
        "python3",
        "[ \"$1\" = --version ] && echo Python 3.9.2; false",
    )?;
    let run = machine.run("stack", &[])?;
    ensure!(!run.succeeded);
    run.prints("This machine still lacks:")?;
    run.prints("python3 is Python 3.9.2")?;
    ensure!(!run.text.contains("started"));
    Ok(())
}

#[test]
fn the_stack_of_a_release_needs_no_compiler() -> Result<()> {
    let machine = Machine::complete("release")?;
    for program in ["cargo", "cc", "strip"] {
        machine.lose(program)?;
    }
    let run = machine.run("release", &[])?;
    assert_eq!(run.text, "started with path\n");
    Ok(())
}

/// The script installs nothing if it cannot install everything that is missing.
#[test]
fn missing_rust_is_reported_before_anything_is_installed() -> Result<()> {
    let machine = Machine::complete("no-rust")?;
    machine.lose("cargo")?;
    machine.lose("strip")?;
    let run = machine.run("build", &[])?;
    ensure!(!run.succeeded);
    run.prints("Rust (cargo is not on the PATH)")?;
    run.prints("https://sh.rustup.rs | sh")?;
    run.prints("binutils")?;
    assert_eq!(machine.apt_was_asked(), "");
    Ok(())
}

#[test]
fn an_outdated_rust_is_rejected() -> Result<()> {
    let machine = Machine::complete("old-rust")?;
    machine.have("cargo", "echo 'cargo 1.85.0 (d73d2caf9 2024-12-31)'")?;
    let run = machine.run("build", &[])?;
    ensure!(!run.succeeded);
    run.prints("or later (cargo is 1.85.0)")
}

#[test]
fn rustup_installs_the_toolchain() -> Result<()> {
    let machine = Machine::complete("rustup")?;
    machine.have(
        "cargo",
        "[ -e \"${0%/*}/toolchain\" ] && echo 'cargo 1.95.0 (x)'",
    )?;
    machine.have("rustup", "echo \"$*\" >\"${0%/*}/toolchain\"")?;
    let run = machine.run("build", &[])?;
    ensure!(run.succeeded, "{}", run.text);
    let asked = std::fs::read_to_string(machine.bin().join("toolchain"))?;
    ensure!(asked.starts_with("toolchain install 1.95.0 "), "{asked}");
    Ok(())
}

#[test]
fn an_outdated_asterisk_is_rejected_and_the_next_source_is_tried() -> Result<()> {
    let machine = Machine::complete("old-asterisk")?;
    machine.lose("apt-get")?;
    machine.have("docker", "true")?;
    for version in ["20.6.0~dfsg+~cs6.13", "22.1.1", "certified/20.7-cert5"] {
        machine.have("asterisk", &format!("echo 'Asterisk {version}'"))?;
        let run = machine.run("stack", &[])?;
        run.prints("older than 22.2")?;
        run.prints("started with docker")?;
        let run = machine.run("stack", &[("ASTERISK_FROM", "path")])?;
        ensure!(!run.succeeded);
    }
    machine.have(
        "docker",
        "echo 'Cannot connect to the Docker daemon' >&2; false",
    )?;
    let run = machine.run("stack", &[])?;
    ensure!(!run.succeeded);
    run.prints("Asterisk 22.2 or later from one of these sources:")?;
    run.prints("older than 22.2")?;
    run.prints("debian: this is not Debian")?;
    run.prints("the Docker engine does not run")
}

#[test]
fn an_asterisk_without_a_required_module_is_rejected() -> Result<()> {
    let machine = Machine::complete("no-func-curl")?;
    std::fs::remove_file(machine.root.join("lib/asterisk/modules/func_curl.so"))?;
    let run = machine.run("stack", &[("ASTERISK_FROM", "path")])?;
    ensure!(!run.succeeded);
    run.prints("lacks func_curl.so")
}

#[test]
fn asterisk_comes_from_the_named_debian_archive() -> Result<()> {
    let machine = Machine::complete("mirror")?;
    machine.lose("asterisk")?;
    let keys = Path::new("/usr/share/keyrings/debian-archive-keyring.gpg");
    let run = machine.run(
        "stack",
        &[("DEBIAN_MIRROR", "http://mirror.example/debian")],
    )?;
    if keys.exists() {
        run.prints("started with debian")
    } else {
        ensure!(
            machine.apt_was_asked().contains("debian-archive-keyring"),
            "{}",
            run.text
        );
        Ok(())
    }
}

#[test]
fn an_outdated_haproxy_is_rejected() -> Result<()> {
    let machine = Machine::complete("old-haproxy")?;
    machine.have(
        "haproxy",
        "echo 'HA-Proxy version 2.2.9-2+deb11u6 2023/12/28'",
    )?;
    let run = machine.run("stack", &[("INSTALL", "no")])?;
    ensure!(!run.succeeded);
    run.prints("haproxy 2.6 or later (haproxy is 2.2.9)")
}

#[test]
fn a_chromedriver_of_another_version_than_chromium_is_rejected() -> Result<()> {
    let machine = Machine::complete("driver")?;
    machine.have("chromedriver", "echo 'ChromeDriver 155.0.1 (x)'")?;
    let run = machine.run("test", &[("INSTALL", "no")])?;
    ensure!(!run.succeeded);
    run.prints("of the same version (chromium: 156, chromedriver: 155)")?;
    let run = machine.run("stack", &[])?;
    ensure!(run.succeeded, "only the tests need a browser: {}", run.text);
    Ok(())
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let machine = Machine::complete("ports")?;
    machine.lose("python3")?;
    let python = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()?;
    symlink(
        String::from_utf8(python.stdout)?.trim(),
        machine.bin().join("python3"),
    )?;
    // It may be taken already, which has the same effect.
    let _listener = TcpListener::bind(("127.0.0.1", PORTS.region_control));
    let run = machine.run("regions", &[])?;
    ensure!(!run.succeeded);
    run.prints(&format!("{}/tcp", PORTS.region_control))
}

/// A new port in the settings must also be checked by the script.
#[test]
fn the_script_checks_all_ports_of_the_settings() -> Result<()> {
    let Ports {
        gateway,
        fcm,
        exotel,
        cloud,
        fallback_gateway,
        fallback_cloud,
        region_control,
        faults,
    } = PORTS;
    let mut ports = vec![
        gateway,
        fcm,
        exotel,
        cloud,
        fallback_gateway,
        fallback_cloud,
        region_control,
        faults,
    ];
    for PbxPorts {
        sip,
        sip_tls,
        smoke,
        wss,
        ari,
        ari_plain,
        name: _,
        daemon: _,
        proxy_daemon: _,
        rtp: _,
    } in PBXS
    {
        ports.extend([sip, sip_tls, smoke, wss, ari, ari_plain]);
    }
    let script = std::fs::read_to_string(repository().join(SCRIPT))?;
    let lists: String = script
        .lines()
        .filter(|line| {
            let lists = ["tcp = ", "tcp += ", "/udp"];
            lists.iter().any(|list| line.contains(list))
        })
        .collect();
    for port in ports {
        ensure!(lists.contains(&port.to_string()), "{port}: {lists}");
    }
    Ok(())
}

/// A copy of the scripts and a PATH with only the given programs.
struct Machine {
    root: PathBuf,
}

/// The result of a run.
struct Run {
    succeeded: bool,
    text: String,
}

impl Run {
    fn prints(&self, what: &str) -> Result<()> {
        ensure!(
            self.text.contains(what),
            "not `{what}`, but:\n{}",
            self.text
        );
        Ok(())
    }
}

impl Machine {
    /// A machine with everything installed and a root user.
    fn complete(name: &str) -> Result<Self> {
        let root = std::env::temp_dir().join(format!(
            "ringback-prerequisites-{}-{name}",
            std::process::id()
        ));
        let machine = Self { root };
        std::fs::create_dir_all(machine.bin())?;
        for file in FILES {
            let copy = machine.root.join(file);
            std::fs::create_dir_all(copy.parent().context("the path has no parent folder")?)?;
            std::fs::copy(repository().join(file), copy)?;
        }
        for basic in BASICS {
            symlink(found(basic)?, machine.bin().join(basic))?;
        }
        let modules = machine.root.join("lib/asterisk/modules");
        std::fs::create_dir_all(&modules)?;
        let listed = std::fs::read_to_string(repository().join("asterisk/modules.conf"))?;
        for module in listed
            .lines()
            .filter_map(|line| line.strip_prefix("require = "))
        {
            std::fs::write(modules.join(module), "")?;
        }
        for (program, does) in [
            ("id", "echo 0"),
            ("cc", "cat >/dev/null"),
            ("strip", ""),
            ("ps", ""),
            ("dpkg-deb", ""),
            ("cargo", "echo 'cargo 1.95.0 (f2d3ce0bd 2026-03-21)'"),
            ("python3", ""),
            (
                "haproxy",
                "echo 'HAProxy version 2.6.12-1+deb12u4 2026/01/01 - https://haproxy.org/'",
            ),
            ("asterisk", "echo 'Asterisk 22.10.1+dfsg'"),
            ("chromium", "echo 'Chromium 156.0.8078.108 built on Debian'"),
            ("chromedriver", "echo 'ChromeDriver 156.0.8078.108 (x)'"),
            ("fail2ban-regex", ""),
            ("baresip", ""),
            ("valgrind", ""),
            ("vgdb", ""),
            ("node", "echo v18.20.4"),
            ("npm", ""),
        ] {
            machine.have(program, does)?;
        }
        machine.have_space(20_000, 4_000)?;
        machine.have_apt("")?;
        Ok(machine)
    }

    fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    fn have(&self, program: &str, does: &str) -> Result<()> {
        let path = self.bin().join(program);
        // Remove the link, or the write would go to the real file.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, format!("#!/bin/sh\n{does}\n"))?;
        Ok(std::fs::set_permissions(
            path,
            PermissionsExt::from_mode(0o755),
        )?)
    }

    /// A `df` and a `free` that report this space, in megabytes.
    fn have_space(&self, disk: u32, memory: u32) -> Result<()> {
        let kilobytes = disk * 1024;
        self.have(
            "df",
            &format!("echo Filesystem\necho '/dev/vda 0 0 {kilobytes} 0% /'"),
        )?;
        self.have(
            "free",
            &format!("echo total\necho 'Mem: 0 0 0 0 0 {memory}'"),
        )
    }

    /// An `apt-get` that records its arguments and runs a command.
    fn have_apt(&self, installs_by: &str) -> Result<()> {
        let notes = self.root.join("apt-was-asked");
        self.have(
            "apt-get",
            &format!("echo \"$*\" >>{}\n{installs_by}", notes.display()),
        )
    }

    fn apt_was_asked(&self) -> String {
        std::fs::read_to_string(self.root.join("apt-was-asked")).unwrap_or_default()
    }

    fn lose(&self, program: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.bin().join(program))?)
    }

    fn run(&self, level: &str, environment: &[(&str, &str)]) -> Result<Run> {
        let output = Command::new(self.root.join(SCRIPT))
            .args([level, "sh", "-c", "echo started with $ASTERISK_FROM"])
            .env_clear()
            .env("PATH", self.bin())
            .envs(environment.iter().copied())
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok(Run {
            succeeded: output.status.success(),
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn found(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").context("a PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.exists())
        .with_context(|| format!("{program} is not on the PATH"))
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
