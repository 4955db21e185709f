/// What something that events name by number is called. It stands in the stream before the first
/// event that bears the number, so that no record has to be changed afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A control group of the unified hierarchy (v2).
    Cgroup {
        /// Its id: the inode of its directory.
        id: u64,
        /// Its path below the hierarchy's root, beginning with `/`. `None`: it is gone, or cannot
        /// be looked up.
        path: Option<String>,
    },
    /// The control group of a process where the host keeps its containers in the old hierarchies
    /// (v1), so that a socket's own group says nothing.
    CgroupOfProcess {
        /// The process.
        pid: u32,
        /// Its path, from the hierarchy that tells most (`name=systemd`, `pids`, `memory`, `cpu`).
        /// Empty: not known, or no longer, since the number went to another process.
        path: String,
    },
    /// A network namespace.
    Netns {
        /// Its inode.
        inode: u32,
        /// What people call it: its name in `/run/netns` or Docker's. `None`: it has no name.
        name: Option<String>,
    },
}
