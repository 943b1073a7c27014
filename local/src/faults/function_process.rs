//! Finds the function process at the other end of a connection.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::process::PidFile;

/// How often a lookup is tried.
const ATTEMPTS: usize = 3;

/// A function's process.
#[derive(Clone, Debug)]
pub(super) struct FunctionProcess {
    /// The function's name without the stack's name, as in the template.
    pub(super) name: String,
    pid: Pid,
}

impl FunctionProcess {
    /// Kills the process, as if its machine failed.
    pub(super) fn kill(&self) {
        // It may have ended already.
        let _ = signal::kill(self.pid, Signal::SIGKILL);
    }
}

/// The known function processes.
#[derive(Debug)]
pub(super) struct FunctionProcesses {
    /// The pid file of the local AWS, which is their parent process.
    cloud: PidFile,
    known: Mutex<Vec<FunctionProcess>>,
}

impl FunctionProcesses {
    pub(super) fn new(cloud: PidFile) -> Self {
        Self {
            cloud,
            known: Mutex::default(),
        }
    }

    /// The function at the other end of the connection from `peer` to us, if it is a child of the local AWS. The lookup
    /// is repeated because `/proc/net/tcp` changes while it is read, and may skip an entry.
    pub(super) fn at(&self, peer: SocketAddr, local: SocketAddr) -> Option<FunctionProcess> {
        (0..ATTEMPTS).find_map(|_| self.look_up(peer, local))
    }

    /// Looks first at the known processes. Scans all processes of the machine only when none of them has the
    /// connection.
    fn look_up(&self, peer: SocketAddr, local: SocketAddr) -> Option<FunctionProcess> {
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        let socket = socket_inode(&table, peer, local)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let has_socket = |function: &&FunctionProcess| has_open(function.pid, &socket);
        if let Some(function) = known.iter().find(has_socket) {
            return Some(function.clone());
        }
        let named = |pid| {
            Some(FunctionProcess {
                name: function_name(pid)?,
                pid,
            })
        };
        *known = children_of(self.cloud.running()?)
            .filter_map(named)
            .collect();
        known.iter().find(has_socket).cloned()
    }
}

/// The inode of the socket with the local address `peer`, from `/proc/net/tcp`. The remote address must match too,
/// because one local port may have several connections.
fn socket_inode(table: &str, peer: SocketAddr, local: SocketAddr) -> Option<String> {
    let (peer, local) = (table_format(peer)?, table_format(local)?);
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let matches = fields.next()? == peer && fields.next()? == local;
        let inode = fields.nth(6)?;
        matches.then(|| format!("socket:[{inode}]"))
    })
}

/// The format of an address in the table: `0100007F:13B9`.
fn table_format(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    // The kernel prints the address as a number in host byte order, here little-endian.
    let ip = u32::from_le_bytes(address.ip().octets());
    Some(format!("{ip:08X}:{:04X}", address.port()))
}

fn children_of(parent: Pid) -> impl Iterator<Item = Pid> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The command name in parentheses may contain spaces. The parent pid is the second field after it.
        let parent_pid = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        (parent_pid.parse() == Ok(parent.as_raw())).then(|| Pid::from_raw(pid))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_both_of_its_addresses() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:9C40 0100007F:13B8 06 00000000:00000000 03:00000D2C 00000000     0        0 0 3
   1: 0100007F:9C40 0100007F:13B9 01 00000000:00000000 00:00000000 00000000     0        0 4711 1
   2: 0100007F:13B9 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1
";
        let [peer, local, other] = [40_000, 5049, 5050].map(|port| ([127, 0, 0, 1], port).into());
        assert_eq!(
            socket_inode(table, peer, local).as_deref(),
            Some("socket:[4711]")
        );
        assert_eq!(socket_inode(table, peer, other), None);
    }
}
