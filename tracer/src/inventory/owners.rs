//! Who holds descriptors of the sockets that were there before us: one walk over /proc for all
//! namespaces, since a socket's inode is one of the whole host.

use std::fs;
use std::path::Path;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tracer_common::tcp::TcpState;

use crate::stream::{Found, Holder, Ownership, Skipped};

use super::budget::Budget;

/// `PROC_PID_INIT_INO`: the host's PID namespace, whose numbers the probes tell.
const HOSTS_PIDS: &str = "pid:[4026531836]";
/// After how many descriptors the budget is asked.
const STRETCH: usize = 256;

/// Descriptors of sockets, by the socket's inode.
#[derive(Debug, Default)]
pub(super) struct Owners {
    by_inode: HashMap<u32, Descriptor, RandomState>,
    names: HashMap<u32, Option<[u8; 16]>, RandomState>,
}

/// The descriptor of the process with the lowest number that holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Descriptor {
    pid: u32,
    number: i32,
}

impl Owners {
    /// Looks at the descriptors of all processes, and says what it did not look at.
    pub fn look(budget: &Budget) -> (Self, Option<Skipped>) {
        let skipped = |path: &str, reason: String| Skipped {
            netns: None,
            path: path.to_owned(),
            reason,
        };
        let mut owners = Self::default();
        if !fs::read_link("/proc/self/ns/pid").is_ok_and(|own| own == Path::new(HOSTS_PIDS)) {
            let reason = "process numbers are not the host's in this PID namespace";
            return (owners, Some(skipped("/proc", reason.to_owned())));
        }
        let entries = match fs::read_dir("/proc") {
            Ok(entries) => entries.flatten(),
            Err(error) => {
                let reason = format!("failed to read it: {error}");
                return (owners, Some(skipped("/proc", reason)));
            }
        };
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut processes: Vec<u32> = numbers.collect();
        processes.sort_unstable();
        let mut refused = None;
        for pid in processes {
            let path = format!("/proc/{pid}/fd");
            if budget.is_used_up() {
                return (owners, Some(skipped(&path, budget.reason())));
            }
            if let Err(error) = owners.look_at(pid, &path, budget)
                && matches!(error, rustix::io::Errno::ACCESS | rustix::io::Errno::PERM)
            {
                refused.get_or_insert((path, error));
            }
        }
        let refused =
            refused.map(|(path, error)| skipped(&path, format!("failed to read it: {error}")));
        (owners, refused)
    }

    fn look_at(&mut self, pid: u32, path: &str, budget: &Budget) -> rustix::io::Result<()> {
        let directory = rustix::fs::open(
            path,
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let mut target = Vec::new();
        for (turn, entry) in rustix::fs::Dir::read_from(&directory)?.enumerate() {
            if turn % STRETCH == STRETCH - 1 && budget.is_used_up() {
                break;
            }
            let entry = entry?;
            let name = entry.file_name();
            let Some(number) = name.to_str().ok().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // One that cannot be read was closed meanwhile.
            if let Ok(link) = rustix::fs::readlinkat(&directory, name, target) {
                let inode = link.to_str().ok().and_then(socket_inode);
                target = link.into_bytes();
                if let Some(inode) = inode {
                    let descriptor = Descriptor { pid, number };
                    self.by_inode.entry(inode).or_insert(descriptor);
                }
            } else {
                target = Vec::new();
            }
        }
        Ok(())
    }

    /// The owners of these sockets, as far as they were found and live.
    pub fn of(&mut self, found: &[Found]) -> Vec<Ownership> {
        let mut owners = Vec::new();
        for found in found {
            let Holder::Socket { inode, state, .. } = found.holder else {
                continue;
            };
            let Some(descriptor) = self.by_inode.get(&inode).copied().filter(|_| inode != 0) else {
                continue;
            };
            let pid = descriptor.pid;
            let name = *self.names.entry(pid).or_insert_with(|| name_of(pid));
            owners.extend(name.map(|name| {
                Ownership {
                    cookie: found.cookie,
                    pid,
                    name,
                    reuse_address: (state == TcpState::Listen)
                        .then(|| descriptor.reuses_address(found.cookie))
                        .flatten(),
                }
            }));
        }
        owners
    }
}

impl Descriptor {
    /// SO_REUSEADDR of the socket with this cookie. Needs CAP_SYS_PTRACE. For a few microseconds
    /// the socket has two holders: a close() at that moment would be ours.
    fn reuses_address(self, cookie: u64) -> Option<bool> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let socket = pidfd_getfd(&process, self.number, PidfdGetfdFlags::empty()).ok()?;
        // The number may have gone to another file, or the process's to another process.
        let is_it = rustix::net::sockopt::socket_cookie(&socket).ok()? == cookie;
        is_it
            .then(|| rustix::net::sockopt::socket_reuseaddr(&socket).ok())
            .flatten()
    }
}

/// The inode in a link of /proc/PID/fd: `socket:[12345]`.
fn socket_inode(link: &str) -> Option<u32> {
    let inode = link.strip_prefix("socket:[")?.strip_suffix(']')?;
    inode.parse().ok()
}

/// The name of a process, NUL-padded; `None`: it has ended.
fn name_of(pid: u32) -> Option<[u8; 16]> {
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
    let mut name = [0; 16];
    let length = comm.len().min(15);
    name[..length].copy_from_slice(&comm[..length]);
    Some(name)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, TcpListener};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use tracer_common::tcp::{Endpoint, Flow};

    use super::*;

    fn found(socket: impl AsFd, state: TcpState) -> Found {
        let inode = rustix::fs::fstat(&socket).unwrap().st_ino;
        let end = Endpoint {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 1,
        };
        Found {
            cookie: rustix::net::sockopt::socket_cookie(&socket).unwrap(),
            flow: Flow {
                local: end,
                peer: end,
            },
            socket_is_v6: false,
            holder: Holder::Socket {
                state,
                uid: Some(0),
                inode: u32::try_from(inode).unwrap(),
                queued: 0,
                limit: 0,
                silent_for: None,
            },
        }
    }

    #[test]
    fn a_socket_of_ours_is_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = found(&listener, TcpState::Listen);
        let (mut owners, _) = Owners::look(&Budget::begin(Duration::from_secs(5)));
        let pid = std::process::id();
        let owner = Ownership {
            cookie: found.cookie,
            pid,
            name: name_of(pid).unwrap(),
            // The standard library sets it.
            reuse_address: Some(true),
        };
        assert_eq!(owners.of(&[found]), [owner]);
        rustix::net::sockopt::set_socket_reuseaddr(&listener, false).unwrap();
        assert_eq!(owners.of(&[found])[0].reuse_address, Some(false));
        // Its number has gone to another file.
        let other = Found {
            cookie: found.cookie + 1,
            ..found
        };
        assert_eq!(owners.of(&[other])[0].reuse_address, None);
    }

    #[test]
    fn what_nobody_holds_has_no_owner() {
        let (mut owners, _) = Owners::look(&Budget::begin(Duration::from_secs(5)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut found = found(&listener, TcpState::Established);
        found.holder = Holder::socket(TcpState::CloseWait, None);
        assert_eq!(owners.of(&[found]), []);
    }

    #[test]
    fn what_the_budget_does_not_reach_is_told() {
        let (owners, skipped) = Owners::look(&Budget::begin(Duration::ZERO));
        assert!(owners.by_inode.is_empty());
        assert_eq!(skipped.unwrap().reason, "the budget of 0ns was used up");
    }
}
