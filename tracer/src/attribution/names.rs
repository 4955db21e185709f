//! The names that the stream has told so far.

use super::Container;
use super::container;
use super::recent::Recent;
use crate::record::{Record, Source};
use crate::stream::Name;

/// Names by number. Old ones that have not been told again are forgotten in the end, at the same
/// time as the [`super::Resolver`] forgets that it told them.
#[derive(Clone, Debug, Default)]
pub struct Names {
    cgroups: Recent<u64, Option<Group>>,
    processes: Recent<u32, Option<Group>>,
    netns: Recent<u32, Option<String>>,
}

/// A control group, and what its path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its path below the hierarchy's root, beginning with `/`.
    pub path: String,
    /// The container that it is, or is in.
    pub container: Option<Container>,
    unit: Option<String>,
}

impl Group {
    /// The group at `path`.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            container: Container::of(path),
            unit: container::unit(path).map(str::to_owned),
        }
    }

    /// The innermost unit of systemd that it belongs to.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_deref()
    }
}

impl Names {
    /// Takes a name in.
    pub fn learn(&mut self, name: &Name) {
        match name {
            Name::Cgroup { id, path } => {
                self.cgroups.insert(*id, path.as_deref().map(Group::new));
            }
            Name::CgroupOfProcess { pid, path } => {
                let group = (!path.is_empty()).then(|| Group::new(path));
                self.processes.insert(*pid, group);
            }
            Name::Netns { inode, name } => self.netns.insert(*inode, name.clone()),
        }
    }

    /// The control group of a socket whose own has the id `cgroup_id`, and which the first of the
    /// processes `pids` opened, or else the next one closed. Where the host's containers are in the old hierarchies, every socket's own is the
    /// root of the new one, and the process's says more.
    #[must_use]
    pub fn group(&self, cgroup_id: Option<u64>, pids: &[Option<u32>]) -> Option<&Group> {
        let own = cgroup_id.and_then(|id| self.cgroups.get(&id)?.as_ref());
        let of_process = || {
            let mut pids = pids.iter().flatten();
            pids.find_map(|pid| self.processes.get(pid)?.as_ref())
        };
        match own {
            Some(group) if group.path != "/" => Some(group),
            _ => of_process().or(own),
        }
    }

    /// The control group of a connection, by its socket or else by who opened it.
    #[must_use]
    pub fn group_of(&self, record: &Record) -> Option<&Group> {
        self.group(record.cgroup_id, &[record.opener.pid, record.closer.pid])
    }

    /// The same, and how it is known: exactly, where it is the socket's own; inferred, where it is
    /// that of a process.
    #[must_use]
    pub fn group_and_source(&self, record: &Record) -> (Option<&Group>, Source) {
        let group = self.group_of(record);
        let is_own = |group: &Group| {
            self.group(record.cgroup_id, &[])
                .is_some_and(|own| std::ptr::eq(own, group) || own == group)
        };
        let source = match group {
            None => Source::Unknown,
            Some(group) if is_own(group) => Source::Exact,
            Some(_) => Source::Inferred,
        };
        (group, source)
    }

    /// The path of a cgroup.
    #[must_use]
    pub fn cgroup(&self, id: u64) -> Option<&str> {
        Some(&self.group(Some(id), &[])?.path)
    }

    /// The container of a cgroup.
    #[must_use]
    pub fn container(&self, cgroup_id: u64) -> Option<&Container> {
        self.group(Some(cgroup_id), &[])?.container.as_ref()
    }

    /// What people call a network namespace.
    #[must_use]
    pub fn netns(&self, inode: u32) -> Option<&str> {
        self.netns.get(&inode)?.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(told: &[Name]) -> Names {
        let mut names = Names::default();
        told.iter().for_each(|name| names.learn(name));
        names
    }

    fn cgroup(id: u64, path: Option<&str>) -> Name {
        let path = path.map(str::to_owned);
        Name::Cgroup { id, path }
    }

    fn of_process(pid: u32, path: &str) -> Name {
        let path = path.to_owned();
        Name::CgroupOfProcess { pid, path }
    }

    #[test]
    fn a_sockets_own_group_is_its_group() {
        let names = names(&[
            cgroup(7, Some("/system.slice/nginx.service")),
            of_process(812, "/docker/x"),
        ]);
        let group = names.group(Some(7), &[Some(812)]).expect("it was told");
        assert_eq!(group.path, "/system.slice/nginx.service");
        assert_eq!(group.unit(), Some("nginx.service"));
        assert_eq!(names.cgroup(7), Some("/system.slice/nginx.service"));
        assert_eq!(names.group(Some(8), &[]), None);
    }

    #[test]
    fn the_root_says_less_than_the_process_in_the_old_hierarchies() {
        let path = format!("/docker/{}", "0a".repeat(32));
        let mut names = names(&[cgroup(1, Some("/")), of_process(812, &path)]);
        let group = names
            .group(Some(1), &[None, Some(812)])
            .expect("it was told");
        assert_eq!(group.path, path);
        assert!(group.container.is_some());
        // Of others the root is all that is known.
        for pid in [Some(813), None] {
            assert_eq!(names.group(Some(1), &[pid]).expect("the root").path, "/");
        }
        // The process has ended.
        names.learn(&of_process(812, ""));
        assert_eq!(
            names.group(Some(1), &[Some(812)]).expect("the root").path,
            "/"
        );
    }

    #[test]
    fn what_is_gone_has_no_path() {
        let names = names(&[
            cgroup(7, None),
            Name::Netns {
                inode: 5,
                name: None,
            },
        ]);
        assert_eq!(names.cgroup(7), None);
        assert_eq!(names.container(7), None);
        assert_eq!(names.netns(5), None);
    }

    #[test]
    fn the_latest_word_counts() {
        let netns = |name: &str| Name::Netns {
            inode: 5,
            name: Some(name.to_owned()),
        };
        let names = names(&[netns("blue"), netns("green")]);
        assert_eq!(names.netns(5), Some("green"));
    }
}
