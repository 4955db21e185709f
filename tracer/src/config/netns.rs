//! Which network namespace an inode, a name or a path means.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where `ip netns` and Docker keep namespaces by name.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// `NSFS_MAGIC` of `include/uapi/linux/magic.h`.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A network namespace was not found.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path cannot be looked at.
    #[error("failed to look at {}", path.display())]
    Unreadable {
        /// Which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No namespace bears the name.
    #[error("no namespace of this name in {}; give its inode, or a path such as /proc/PID/ns/net", NAMED.join(" or "))]
    NoSuchName,
    /// The path is some other file.
    #[error("{} is not a network namespace", path.display())]
    NotANetns {
        /// Which path.
        path: PathBuf,
    },
    /// An inode that no namespace can have.
    #[error("no namespace has this inode number")]
    NoSuchInode,
}

/// The inode of the namespace that `asked` means: digits are the inode itself, a text with a slash
/// is a path, any other a name.
pub(super) fn inode(asked: &str) -> Result<u32, NetnsError> {
    if !asked.is_empty() && asked.bytes().all(|byte| byte.is_ascii_digit()) {
        return match asked.parse() {
            Ok(0) | Err(_) => Err(NetnsError::NoSuchInode),
            Ok(inode) => Ok(inode),
        };
    }
    if asked.contains('/') {
        return inode_of(Path::new(asked));
    }
    NAMED
        .iter()
        .map(|folder| Path::new(folder).join(asked))
        .find(|path| !asked.is_empty() && path.is_file())
        .map_or(Err(NetnsError::NoSuchName), |path| inode_of(&path))
}

/// The namespaces that have a name, by inode.
pub(crate) fn named() -> impl Iterator<Item = (u32, String)> {
    let entries = NAMED.iter().flat_map(fs::read_dir).flatten().flatten();
    entries.filter_map(|entry| {
        let inode = inode_of(&entry.path()).ok()?;
        Some((inode, entry.file_name().to_string_lossy().into_owned()))
    })
}

fn inode_of(path: &Path) -> Result<u32, NetnsError> {
    let unreadable = |source| NetnsError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    let filesystem = rustix::fs::statfs(path).map_err(|errno| unreadable(errno.into()))?;
    // /proc tells the namespace's type in the link; a bind mount does not.
    let is_other_type = fs::read_link(path).is_ok_and(
        |link| matches!(link.to_str(), Some(to) if to.contains(":[") && !to.starts_with("net:[")),
    );
    match u32::try_from(metadata.ino()) {
        Ok(inode) if filesystem.f_type as i64 == NSFS_MAGIC && !is_other_type => Ok(inode),
        _ => Err(NetnsError::NotANetns {
            path: path.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_the_inode_itself() {
        assert_eq!(inode("4026531840").unwrap(), 4_026_531_840);
        assert!(matches!(inode("0"), Err(NetnsError::NoSuchInode)));
        assert!(matches!(inode("99999999999"), Err(NetnsError::NoSuchInode)));
    }

    #[test]
    fn our_own_namespace_is_found_by_its_path() {
        let link = fs::read_link("/proc/self/ns/net").unwrap();
        let inode = inode("/proc/self/ns/net").unwrap();
        assert_eq!(link.to_str().unwrap(), format!("net:[{inode}]"));
    }

    #[test]
    fn errors_say_what_and_where() {
        // As it is printed.
        let error = |asked: &str| format!("{:#}", anyhow::Error::from(inode(asked).unwrap_err()));
        assert_eq!(
            error("/proc/self/ns/pid"),
            "/proc/self/ns/pid is not a network namespace"
        );
        assert_eq!(
            error("/proc/version"),
            "/proc/version is not a network namespace"
        );
        assert_eq!(
            error("/nowhere/ns"),
            "failed to look at /nowhere/ns: No such file or directory (os error 2)"
        );
        for name in ["no-such-namespace", ""] {
            assert_eq!(
                error(name),
                "no namespace of this name in /run/netns or /run/docker/netns; give its inode, \
                 or a path such as /proc/PID/ns/net"
            );
        }
    }
}
