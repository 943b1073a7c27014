//! Which function is behind a connection: the process that has its other end.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::PidFile;

/// How often a connection is looked for.
const TRIES: usize = 3;

/// A function's process.
#[derive(Clone, Debug)]
pub(super) struct Function {
    /// As the template has it: without the stack's name.
    pub(super) name: String,
    pid: Pid,
}

impl Function {
    /// Ends it at once, as when its machine dies.
    pub(super) fn end(&self) {
        // It may have ended by itself meanwhile.
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}

/// The functions' processes, as far as they are known.
#[derive(Debug)]
pub(super) struct Functions {
    /// Whose children they are.
    cloud: PidFile,
    known: Mutex<Vec<Function>>,
}

impl Functions {
    pub(super) fn of(cloud: PidFile) -> Self {
        Self {
            cloud,
            known: Mutex::default(),
        }
    }

    /// The function that `peer` is the address of, if it is a child of the local AWS. The system's table of connections
    /// changes while it is read, so that one may be passed over.
    pub(super) fn at(&self, peer: SocketAddr) -> Option<Function> {
        (0..TRIES).find_map(|_| self.found_at(peer))
    }

    /// Only if none that is known has the connection are all processes of the machine looked through.
    fn found_at(&self, peer: SocketAddr) -> Option<Function> {
        let socket = inode_of(peer)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let has_it = |function: &&Function| has_open(function.pid, &socket);
        if let Some(function) = known.iter().find(has_it) {
            return Some(function.clone());
        }
        let named = |pid| {
            Some(Function {
                name: function_name(pid)?,
                pid,
            })
        };
        *known = children_of(self.cloud.running()?)
            .filter_map(named)
            .collect();
        known.iter().find(has_it).cloned()
    }
}

/// The socket's number in the system's table of connections, where the peer's end is the local one.
fn inode_of(peer: SocketAddr) -> Option<String> {
    let SocketAddr::V4(peer) = peer else {
        return None;
    };
    let address = u32::from_le_bytes(peer.ip().octets());
    let wanted = format!("{address:08X}:{:04X}", peer.port());
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let is_meant = fields.nth(1) == Some(wanted.as_str());
        let inode = fields.nth(7)?;
        is_meant.then(|| format!("socket:[{inode}]"))
    })
}

fn children_of(parent: Pid) -> impl Iterator<Item = Pid> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name in parentheses may hold spaces; the parent is the second field after it.
        let of = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        (of.parse() == Ok(parent.as_raw())).then(|| Pid::from_raw(pid))
    })
}

fn has_open(pid: Pid, socket: &str) -> bool {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
    files.into_iter().flatten().flatten().any(|file| {
        std::fs::read_link(file.path())
            .is_ok_and(|target| target.as_os_str().as_bytes() == socket.as_bytes())
    })
}

fn function_name(pid: Pid) -> Option<String> {
    let environment =
        std::fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).ok()?;
    let name = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(b"AWS_LAMBDA_FUNCTION_NAME="))?;
    let name = String::from_utf8_lossy(name);
    let prefix = format!("{}-", crate::settings::STACK_NAME);
    Some(name.strip_prefix(&prefix).unwrap_or(&name).to_owned())
}
