//! From a control group's id to its path.
//!
//! The id is a file handle of kernfs, which the kernel opens for who has CAP_DAC_READ_SEARCH: one
//! system call and no search. For others the hierarchy is walked, which costs a system call for
//! each group, and therefore not often.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::time::Timestamp;

/// `FILEID_KERNFS` of `include/linux/exportfs.h`: the handle is the 64 bits of the id.
const FILEID_KERNFS: i32 = 0xfe;
/// How long the hierarchy is not walked again.
const WALKS_APART: Duration = Duration::from_secs(1);

/// What can be said of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// What it is called: the path below the root.
    Found(String),
    /// There is no such group, or none that can be seen from here.
    Gone,
    /// That would cost too much now: to be asked again.
    NotNow,
}

/// The unified hierarchy (v2).
#[derive(Debug)]
pub(super) struct Cgroups {
    mount: Option<Mount>,
    /// `None`: handles can be opened, as far as known.
    walk: Option<Walk>,
}

#[derive(Debug)]
struct Mount {
    point: PathBuf,
    /// What the mount shows as its root: `/` but in a bind mount.
    root: String,
    directory: File,
}

/// Paths by id, as a walk over the hierarchy found them.
#[derive(Debug, Default)]
struct Walk {
    at: Option<Timestamp>,
    paths: HashMap<u64, String, RandomState>,
}

impl Cgroups {
    /// The hierarchy as this process sees it mounted. Where it is not, no group has a path.
    pub fn mounted() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mount = mount_in(&mounts).and_then(|(root, point)| {
            let directory = File::open(&point).ok()?;
            Some(Mount {
                point,
                root,
                directory,
            })
        });
        Self { mount, walk: None }
    }

    /// The path of the group `id`.
    pub fn path(&mut self, id: u64, now: Timestamp) -> Answer {
        let Some(mount) = &self.mount else {
            return Answer::Gone;
        };
        if self.walk.is_none() {
            match mount.open(id) {
                Ok(group) => return mount.path_of(&group).map_or(Answer::Gone, Answer::Found),
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return Answer::Gone,
                // Not privileged, or a kernel without such handles.
                Err(_) => self.walk = Some(Walk::default()),
            }
        }
        match &mut self.walk {
            Some(walk) => walk.path(mount, id, now),
            None => Answer::NotNow,
        }
    }
}

impl Mount {
    fn open(&self, id: u64) -> io::Result<OwnedFd> {
        #[repr(C)]
        struct Handle {
            bytes: u32,
            kind: i32,
            id: [u8; 8],
        }

        let mut handle = Handle {
            bytes: 8,
            kind: FILEID_KERNFS,
            id: id.to_ne_bytes(),
        };
        // SAFETY: `handle` is laid out as `struct file_handle` with the eight bytes that it tells.
        let opened = unsafe {
            libc::open_by_handle_at(
                self.directory.as_raw_fd(),
                (&raw mut handle).cast(),
                libc::O_PATH | libc::O_CLOEXEC,
            )
        };
        match opened {
            // SAFETY: the kernel has just made it, for us alone.
            0.. => Ok(unsafe { OwnedFd::from_raw_fd(opened) }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn path_of(&self, group: &OwnedFd) -> Option<String> {
        let link = fs::read_link(format!("/proc/self/fd/{}", group.as_raw_fd())).ok()?;
        self.relative(&link)
    }

    /// A path in the file system as one below the hierarchy's root.
    fn relative(&self, path: &Path) -> Option<String> {
        let below = path.strip_prefix(&self.point).ok()?.to_string_lossy();
        // Removed since it was opened: that was its path.
        let below = below.strip_suffix(" (deleted)").unwrap_or(&below);
        let root = self.root.trim_end_matches('/');
        Some(match below {
            "" if root.is_empty() => "/".to_owned(),
            "" => root.to_owned(),
            below => format!("{root}/{below}"),
        })
    }
}

impl Walk {
    fn path(&mut self, mount: &Mount, id: u64, now: Timestamp) -> Answer {
        if let Some(path) = self.paths.get(&id) {
            return Answer::Found(path.clone());
        }
        if self.at.is_some_and(|at| now < at + WALKS_APART) {
            return Answer::NotNow;
        }
        self.at = Some(now);
        self.paths.clear();
        if let Ok(root) = rustix::fs::fstat(&mount.directory) {
            self.paths
                .extend(mount.relative(&mount.point).map(|path| (root.st_ino, path)));
        }
        let mut directories = vec![mount.point.clone()];
        while let Some(directory) = directories.pop() {
            // One that cannot be read is gone meanwhile.
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let path = entry.path();
                    self.paths
                        .extend(mount.relative(&path).map(|path| (entry.ino(), path)));
                    directories.push(path);
                }
            }
        }
        self.paths
            .get(&id)
            .map_or(Answer::Gone, |path| Answer::Found(path.clone()))
    }
}

/// Root and place of the mount of the unified hierarchy that a mountinfo names: one of the whole
/// hierarchy where there is one.
fn mount_in(mounts: &str) -> Option<(String, PathBuf)> {
    let mounts: Vec<_> = mounts
        .lines()
        .filter_map(|mount| {
            let (place, kind) = mount.split_once(" - ")?;
            let mut fields = place.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            (kind.split(' ').next()? == "cgroup2").then_some((root, point))
        })
        .collect();
    let whole = mounts.iter().find(|(root, _)| *root == "/");
    let (root, point) = whole.or(mounts.first())?;
    Some(((*root).to_owned(), PathBuf::from(point)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 /docker/x /mnt rw,relatime shared:3 - cgroup2 cgroup2 rw
41 31 0:37 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn the_mount_of_the_whole_hierarchy_is_taken() {
        let unified = ("/".to_owned(), "/sys/fs/cgroup/unified".into());
        assert_eq!(mount_in(HYBRID), Some(unified));
        let bound = HYBRID.lines().take(3).collect::<Vec<_>>().join("\n");
        assert_eq!(
            mount_in(&bound),
            Some(("/docker/x".to_owned(), "/mnt".into()))
        );
        assert_eq!(mount_in(HYBRID.lines().next().unwrap()), None);
    }

    #[test]
    fn paths_are_below_the_hierarchys_root() {
        let mount = |root: &str| Mount {
            point: "/sys/fs/cgroup".into(),
            root: root.to_owned(),
            directory: File::open("/").unwrap(),
        };
        for (root, path, expected) in [
            ("/", "/sys/fs/cgroup", Some("/")),
            ("/", "/sys/fs/cgroup/a/b", Some("/a/b")),
            ("/", "/sys/fs/cgroup/a (deleted)", Some("/a")),
            ("/docker/x", "/sys/fs/cgroup", Some("/docker/x")),
            ("/docker/x", "/sys/fs/cgroup/a", Some("/docker/x/a")),
            ("/", "/elsewhere", None),
        ] {
            let relative = mount(root).relative(Path::new(path));
            assert_eq!(relative.as_deref(), expected, "{root} {path}");
        }
    }

    /// The id of the group that a walk finds last, and the path that it gives.
    fn some_group() -> Option<(u64, String)> {
        let mut cgroups = Cgroups {
            walk: Some(Walk::default()),
            ..Cgroups::mounted()
        };
        cgroups.path(u64::MAX, Timestamp(1));
        let found = cgroups.walk?.paths.into_iter();
        found.max_by_key(|(_, path)| path.len())
    }

    #[test]
    fn handle_and_walk_give_the_same_path() {
        let Some((id, path)) = some_group() else {
            println!("skipped: no cgroup2 is mounted");
            return;
        };
        let answer = Cgroups::mounted().path(id, Timestamp(1));
        assert_eq!(answer, Answer::Found(path));
    }

    #[test]
    fn a_walk_is_made_once_a_second_at_most() {
        let Some((id, _)) = some_group() else {
            println!("skipped: no cgroup2 is mounted");
            return;
        };
        let mut cgroups = Cgroups {
            walk: Some(Walk::default()),
            ..Cgroups::mounted()
        };
        let at = |milliseconds: u64| Timestamp(milliseconds * 1_000_000);
        assert_eq!(cgroups.path(u64::MAX, at(1)), Answer::Gone);
        assert_eq!(cgroups.path(u64::MAX, at(900)), Answer::NotNow);
        assert!(matches!(cgroups.path(id, at(900)), Answer::Found(_)));
        assert_eq!(cgroups.path(u64::MAX, at(1_001)), Answer::Gone);
    }

    #[test]
    fn a_group_that_is_gone_has_no_path() {
        assert_eq!(
            Cgroups::mounted().path(u64::MAX, Timestamp(1)),
            Answer::Gone
        );
    }
}
