//! Names for the numbers of live events, before the events that bear them.

use std::fs;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::cgroups::{Answer, Cgroups};
use super::recent::Recent;
use crate::config::netns;
use crate::filter::until_nul;
use crate::stream::{Body, Event, Inventory, Name};
use crate::time::Timestamp;

/// How long a name is taken for granted that may go to something else.
const FRESH: Duration = Duration::from_secs(60);
/// What looking at one file in the folders of namespaces entitles to: no further look for so long.
/// It costs a few microseconds.
const REST: Duration = Duration::from_micros(100);

/// Looks up what the events of a live kernel name by number, once for each number. Of a cgroup that
/// was looked at last, and a namespace likewise, an event costs a comparison, of others a look into
/// a hash table.
#[derive(Debug)]
pub struct Resolver {
    cgroups: Cgroups,
    /// Ids that were told; whether the path says nothing.
    told: Recent<u64, IsRoot>,
    last: Option<(u64, IsRoot)>,
    /// Whether processes have groups in the old hierarchies too.
    has_old_hierarchies: bool,
    processes: Recent<u32, Process>,
    namespaces: Recent<u32, Namespace>,
    /// The namespace of the event before: inode, cookie, how long its name is fresh.
    last_namespace: (u32, u64, Timestamp),
    folders: Folders,
}

/// The path of a cgroup is `/`, or not known: the process's may say more.
type IsRoot = bool;

#[derive(Debug)]
struct Process {
    name: [u8; 16],
    fresh_until: Timestamp,
    path: String,
}

#[derive(Debug)]
struct Namespace {
    cookie: u64,
    fresh_until: Timestamp,
    name: Option<String>,
}

/// What stood in the folders of namespaces.
#[derive(Debug, Default)]
struct Folders {
    names: HashMap<u32, String, RandomState>,
    /// Not to be looked at before.
    rest_until: Timestamp,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new()
    }
}

impl Resolver {
    /// One for this host.
    #[must_use]
    pub fn new() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self {
            cgroups: Cgroups::mounted(),
            told: Recent::default(),
            last: None,
            has_old_hierarchies: own.lines().any(|line| !line.starts_with("0::")),
            processes: Recent::default(),
            namespaces: Recent::default(),
            last_namespace: (0, 0, Timestamp::default()),
            folders: Folders::default(),
        }
    }

    /// Tells what `event` names and has not been told. To be called before the event is fed.
    pub fn resolve(&mut self, event: &Event, mut tell: impl FnMut(Name)) {
        self.resolve_netns(event.netns, event.netns_cookie, event.at, &mut tell);
        match &event.body {
            Body::Task(task) => {
                let is_root = self.resolve_cgroup(task.cgroup, event.at, &mut tell);
                if is_root && self.has_old_hierarchies {
                    self.resolve_process(task.pid, task.name, event.at, &mut tell);
                }
            }
            Body::Close { facts, .. } => {
                self.resolve_cgroup(facts.cgroup, event.at, &mut tell);
            }
            _ => {}
        }
    }

    /// Tells what an inventory names, as of `now`. To be called before it is fed.
    pub fn resolve_inventory(
        &mut self,
        inventory: &Inventory,
        now: Timestamp,
        mut tell: impl FnMut(Name),
    ) {
        self.resolve_netns(inventory.netns, inventory.netns_cookie, now, &mut tell);
        if self.has_old_hierarchies {
            for owner in &inventory.owners {
                self.resolve_process(owner.pid, owner.name, now, &mut tell);
            }
        }
    }

    /// Tells what the namespace with this inode is called, where that has not been told. Inodes are
    /// recycled, cookies are not.
    fn resolve_netns(
        &mut self,
        inode: u32,
        cookie: u64,
        now: Timestamp,
        mut tell: impl FnMut(Name),
    ) {
        let (last_inode, last_cookie, fresh_until) = self.last_namespace;
        if (inode, cookie) == (last_inode, last_cookie) && now < fresh_until || inode == 0 {
            return;
        }
        if let Some(known) = self.namespaces.get(&inode)
            && known.cookie == cookie
            && now < known.fresh_until
        {
            self.last_namespace = (inode, cookie, known.fresh_until);
            return;
        }
        let name = match self.folders.name(inode, now) {
            Answer::Found(name) => Some(name),
            Answer::Gone => None,
            Answer::NotNow => return,
        };
        let fresh_until = now + FRESH;
        self.last_namespace = (inode, cookie, fresh_until);
        match self.namespaces.get_mut(&inode) {
            Some(known) if known.name == name => {
                (known.cookie, known.fresh_until) = (cookie, fresh_until);
            }
            _ => {
                tell(Name::Netns {
                    inode,
                    name: name.clone(),
                });
                let namespace = Namespace {
                    cookie,
                    fresh_until,
                    name,
                };
                self.namespaces.insert(inode, namespace);
            }
        }
    }

    /// Tells the path of a cgroup; whether it says nothing.
    fn resolve_cgroup(&mut self, id: u64, now: Timestamp, mut tell: impl FnMut(Name)) -> IsRoot {
        if let Some((last, is_root)) = self.last
            && last == id
        {
            return is_root;
        }
        if id == 0 {
            return true;
        }
        let is_root = match self.told.get(&id) {
            Some(is_root) => *is_root,
            None => {
                let path = match self.cgroups.path(id, now) {
                    Answer::Found(path) => Some(path),
                    Answer::Gone => None,
                    Answer::NotNow => return true,
                };
                let is_root = path.as_deref().is_none_or(|path| path == "/");
                self.told.insert(id, is_root);
                tell(Name::Cgroup { id, path });
                is_root
            }
        };
        self.last = Some((id, is_root));
        is_root
    }

    /// Tells the group of a process. Its number may have gone to another one: so the name must be
    /// the same, and counts for a minute.
    fn resolve_process(
        &mut self,
        pid: u32,
        name: [u8; 16],
        now: Timestamp,
        mut tell: impl FnMut(Name),
    ) {
        let is_known = |known: &Process| known.name == name && now < known.fresh_until;
        if self.processes.get(&pid).is_some_and(is_known) {
            return;
        }
        let process = Process {
            name,
            fresh_until: now + FRESH,
            path: group_of_process(pid, &name).unwrap_or_default(),
        };
        match self.processes.get_mut(&pid) {
            Some(known) if known.path == process.path => *known = process,
            _ => {
                tell(Name::CgroupOfProcess {
                    pid,
                    path: process.path.clone(),
                });
                self.processes.insert(pid, process);
            }
        }
    }
}

impl Folders {
    /// The name of the namespace with this inode.
    fn name(&mut self, inode: u32, now: Timestamp) -> Answer {
        if let Some(name) = self.names.get(&inode)
            && now < self.rest_until
        {
            return Answer::Found(name.clone());
        }
        if now < self.rest_until {
            return Answer::NotNow;
        }
        self.names.clear();
        let mut files = 0;
        for (inode, name) in netns::named() {
            files += 1;
            // The first folder's name counts.
            self.names.entry(inode).or_insert(name);
        }
        self.rest_until = now + REST * files;
        match self.names.get(&inode) {
            Some(name) => Answer::Found(name.clone()),
            None => Answer::Gone,
        }
    }
}

/// The group of a process in the old hierarchies; `None` where it has ended, or another process
/// has its number, or our /proc is not the host's.
fn group_of_process(pid: u32, name: &[u8; 16]) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let is_named = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let is_same = is_named.strip_suffix(b"\n") == Some(until_nul(name));
    is_same.then(|| telling_group(&groups).to_owned())
}

/// The group of the hierarchy that tells most: the first of those with a path of its own.
fn telling_group(groups: &str) -> &str {
    const TELLING: [&str; 4] = ["name=systemd", "pids", "memory", "cpu"];

    let path_in = |wanted: &&str| {
        groups.lines().find_map(|line| {
            let (_, line) = line.split_once(':')?;
            // Controllers have no colon, while a path may have.
            let (controllers, path) = line.split_once(':')?;
            let is_it = controllers
                .split(',')
                .any(|controller| controller == *wanted);
            (is_it && path != "/").then_some(path)
        })
    };
    TELLING.iter().find_map(path_in).unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use tracer_common::tcp::{Endpoint, Flow, TcpState};

    use super::*;
    use crate::stream::{Socket, Task};

    const NETNS: (u32, u64) = (4_026_531_840, 1);

    /// A task's event, `at` seconds.
    fn event(at: u64, netns: (u32, u64), task: Task) -> Event {
        let end = Endpoint {
            address: std::net::Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
        };
        Event {
            at: Timestamp(at * 1_000_000_000),
            cpu: 0,
            seq: 0,
            flags: 0,
            netns: netns.0,
            netns_cookie: netns.1,
            socket: Socket {
                address: 1,
                cookie: 1,
                flow: Flow {
                    local: end,
                    peer: end,
                },
            },
            body: Body::Task(task),
        }
    }

    fn task(pid: u32, cgroup: u64, name: &[u8]) -> Task {
        let mut padded = [0; 16];
        padded[..name.len()].copy_from_slice(name);
        Task {
            pid,
            tid: pid,
            uid: 0,
            cgroup,
            from: TcpState::Close,
            to: TcpState::SynSent,
            comm: padded,
            name: padded,
        }
    }

    fn told(resolver: &mut Resolver, event: &Event) -> Vec<Name> {
        let mut names = Vec::new();
        resolver.resolve(event, |name| names.push(name));
        names
    }

    fn our_name() -> Vec<u8> {
        let comm = fs::read("/proc/self/comm").unwrap();
        comm.strip_suffix(b"\n").unwrap().to_vec()
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        let mut resolver = Resolver {
            has_old_hierarchies: false,
            ..Resolver::new()
        };
        let gone = Name::Cgroup {
            id: u64::MAX,
            path: None,
        };
        let nameless = |inode| Name::Netns { inode, name: None };
        let first = event(1, (7, 1), task(1, u64::MAX, b"x"));
        assert_eq!(told(&mut resolver, &first), [nameless(7), gone]);
        assert_eq!(told(&mut resolver, &first), []);
        // Looking at the folders entitles to no further look for a while.
        let second = event(2, (8, 2), task(1, u64::MAX, b"x"));
        assert_eq!(told(&mut resolver, &second), [nameless(8)]);
        assert_eq!(told(&mut resolver, &first), []);
        // An inode that went to another namespace, which has no name either.
        let recycled = event(90, (7, 3), task(1, 0, b"x"));
        assert_eq!(told(&mut resolver, &recycled), []);
    }

    #[test]
    fn a_process_tells_its_group_where_its_socket_cannot() {
        let mut resolver = Resolver {
            has_old_hierarchies: true,
            ..Resolver::new()
        };
        let pid = std::process::id();
        let of_process = |names: &[Name]| {
            names.iter().find_map(|name| match name {
                Name::CgroupOfProcess { pid: named, path } if *named == pid => Some(path.clone()),
                _ => None,
            })
        };
        let ours = event(1, NETNS, task(pid, 0, &our_name()));
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = of_process(&told(&mut resolver, &ours));
        assert_eq!(path.as_deref(), Some(telling_group(&groups)));
        assert_eq!(of_process(&told(&mut resolver, &ours)), None);
        // Another process that had our number before: nothing is known of it.
        let other = event(2, NETNS, task(pid, 0, b"somebody else"));
        assert_eq!(
            of_process(&told(&mut resolver, &other)).as_deref(),
            Some("")
        );
        let ours = event(3, NETNS, task(pid, 0, &our_name()));
        assert_eq!(of_process(&told(&mut resolver, &ours)), path);
    }

    #[test]
    fn a_namespace_is_called_as_its_file() {
        let mut resolver = Resolver::new();
        resolver.folders.names.insert(7, "blue".to_owned());
        resolver.folders.rest_until = Timestamp(u64::MAX);
        let mut names = Vec::new();
        for inode in [7, 7, 8] {
            resolver.resolve_netns(inode, 1, Timestamp(1), |name| names.push(name));
        }
        let blue = Name::Netns {
            inode: 7,
            name: Some("blue".to_owned()),
        };
        // Of the other it is not known yet.
        assert_eq!(names, [blue]);
    }

    #[test]
    fn the_hierarchy_that_tells_most_is_taken() {
        for (groups, expected) in [
            ("0::/\n", "/"),
            ("9:name=systemd:/\n4:memory:/docker/x\n0::/\n", "/docker/x"),
            ("2:cpu,cpuacct:/a\n1:name=systemd:/b\n", "/b"),
            ("2:cpu,cpuacct:/a:b\n3:cpuset:/c\n", "/a:b"),
            ("3:cpuset:/c\n", "/"),
        ] {
            assert_eq!(telling_group(groups), expected, "{groups}");
        }
    }
}
