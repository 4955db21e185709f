//! The names that the stream has told so far.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Container;
use crate::stream::Name;

/// Names by number.
#[derive(Clone, Debug, Default)]
pub struct Names {
    cgroups: HashMap<u64, Cgroup, RandomState>,
    netns: HashMap<u32, Option<String>, RandomState>,
}

#[derive(Clone, Debug)]
struct Cgroup {
    path: Option<String>,
    container: Option<Container>,
}

impl Names {
    /// Takes a name in.
    pub fn learn(&mut self, name: &Name) {
        match name {
            Name::Cgroup { id, path } => {
                let (path, container) = (path.clone(), None);
                self.cgroups.insert(*id, Cgroup { path, container });
            }
            Name::Netns { inode, name } => {
                self.netns.insert(*inode, name.clone());
            }
            Name::CgroupOfProcess { .. } => {}
        }
    }

    /// The path of a cgroup.
    #[must_use]
    pub fn cgroup(&self, id: u64) -> Option<&str> {
        self.cgroups.get(&id)?.path.as_deref()
    }

    /// The container of a cgroup.
    #[must_use]
    pub fn container(&self, cgroup_id: u64) -> Option<&Container> {
        self.cgroups.get(&cgroup_id)?.container.as_ref()
    }

    /// What people call a network namespace.
    #[must_use]
    pub fn netns(&self, inode: u32) -> Option<&str> {
        self.netns.get(&inode)?.as_deref()
    }
}
