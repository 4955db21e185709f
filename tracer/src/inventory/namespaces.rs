//! Which network namespaces there are.
//!
//! Those of processes, by the main thread of each; those that are mounted (`ip netns`, Docker, any
//! other bind mount that our own mount namespace shows); and our own. Other threads are not looked
//! at: one link for each thread of a host would cost more than all else together, and a namespace
//! that one thread has entered has nearly always a process or a mount of its own. A namespace that
//! only a thread, an open descriptor or a socket keeps alive is therefore not found.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::stream::Skipped;

use super::dump::count_sockets;

/// Ways into a namespace that are remembered: processes end.
const WAYS: usize = 4;

/// A network namespace, and how to come to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Its inode.
    pub inode: u32,
    /// Files that are it, mounts first: they stay.
    pub ways: Vec<PathBuf>,
    /// How many sockets it held when that was asked; `None`: only who enters it can ask.
    pub sockets: Option<u64>,
}

impl Namespace {
    /// The first way to it, for the report.
    pub fn path(&self) -> String {
        let way = self.ways.first();
        way.map(|way| way.display().to_string()).unwrap_or_default()
    }
}

/// All that can be found, by inode, and what cannot be looked at.
pub(crate) fn find() -> (Vec<Namespace>, Vec<Skipped>) {
    let mut ways: BTreeMap<u32, Vec<PathBuf>> = BTreeMap::new();
    let mut skipped = Vec::new();
    let mut add = |inode, way: PathBuf| {
        let ways = ways.entry(inode).or_default();
        if ways.len() < WAYS {
            ways.push(way);
        }
    };
    match fs::read("/proc/self/mountinfo") {
        Ok(mounts) => mounted(&mounts).for_each(|(inode, way)| add(inode, way)),
        Err(error) => skipped.push(unread("/proc/self/mountinfo", &error)),
    }
    // The main thread never leaves it.
    match inode_of_link(Path::new("/proc/self/ns/net")) {
        Ok(inode) => add(inode, "/proc/self/ns/net".into()),
        Err(error) => skipped.push(unread("/proc/self/ns/net", &error)),
    }
    let mut of_process = BTreeMap::new();
    let mut hidden = Vec::new();
    match processes() {
        Ok(processes) => {
            for pid in processes {
                let way = PathBuf::from(format!("/proc/{pid}/ns/net"));
                match inode_of_link(&way) {
                    Ok(inode) => {
                        of_process.entry(inode).or_insert(pid);
                        add(inode, way);
                    }
                    Err(error) if is_gone(&error) => {}
                    Err(error) => hidden.push((pid, error)),
                }
            }
        }
        Err(error) => skipped.push(unread("/proc", &error)),
    }
    let known = of_process.values().copied();
    skipped.extend(elsewhere(hidden, known));
    let found = ways.into_iter().map(|(inode, ways)| Namespace {
        inode,
        ways,
        sockets: of_process
            .get(&inode)
            .and_then(|pid| count_sockets(&net_of(*pid))),
    });
    (found.collect(), skipped)
}

/// Of processes whose namespace may not be looked at, those where it holds sockets and is none that
/// other processes lead to; one for each such namespace.
fn elsewhere(
    hidden: Vec<(u32, io::Error)>,
    known: impl Iterator<Item = u32>,
) -> impl Iterator<Item = Skipped> {
    // The files in /proc/PID/net are those of the namespace: one that two processes share has one
    // inode. Everybody may see that, while the link in /proc/PID/ns asks for CAP_SYS_PTRACE.
    let identity = |pid| fs::metadata(format!("{}/sockstat", net_of(pid))).map(|file| file.ino());
    let mut seen: BTreeSet<u64> = match hidden.is_empty() {
        true => BTreeSet::new(),
        false => known.filter_map(|pid| identity(pid).ok()).collect(),
    };
    hidden.into_iter().filter_map(move |(pid, error)| {
        let is_new = seen.insert(identity(pid).ok()?);
        let is_empty = count_sockets(&net_of(pid)) == Some(0);
        (is_new && !is_empty).then(|| unread(&format!("/proc/{pid}/ns/net"), &error))
    })
}

fn net_of(pid: u32) -> String {
    format!("/proc/{pid}/net")
}

fn unread(path: &str, error: &io::Error) -> Skipped {
    Skipped {
        netns: None,
        path: path.to_owned(),
        reason: format!("failed to read it: {error}"),
    }
}

fn processes() -> io::Result<impl Iterator<Item = u32>> {
    // An entry that cannot be read is a process that has ended.
    let entries = fs::read_dir("/proc")?.filter_map(Result::ok);
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// The inode in a link of /proc: `net:[4026531840]`.
fn inode_of_link(link: &Path) -> io::Result<u32> {
    let target = fs::read_link(link)?;
    let name = target.to_str().and_then(inode_in);
    name.ok_or_else(|| io::Error::other("it names no network namespace"))
}

fn inode_in(name: &str) -> Option<u32> {
    name.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// The network namespaces that a mountinfo names, and where they are mounted.
fn mounted(mounts: &[u8]) -> impl Iterator<Item = (u32, PathBuf)> {
    mounts.split(|byte| *byte == b'\n').filter_map(|mount| {
        let mut fields = mount.split(|byte| *byte == b' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let inode = inode_in(str::from_utf8(root).ok()?)?;
        Some((inode, OsString::from_vec(unescaped(point)).into()))
    })
}

/// A field of mountinfo, where blanks and the like are three octal digits: `\040`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|_| *first == b'\\');
        let code = digits
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        text.push(code.unwrap_or(*first));
        rest = &tail[if code.is_some() { 3 } else { 0 }..];
    }
    text
}

/// Its process has ended, or the namespace itself is gone.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Why a namespace cannot be entered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnterError {
    /// It, or all who led to it, are gone meanwhile.
    #[error("it is gone")]
    Gone,
    /// None of its files can be opened.
    #[error("failed to open it: {0}")]
    Open(io::Error),
    /// The kernel does not let us in.
    #[error("failed to enter it: {0}")]
    Enter(io::Error),
}

/// The namespace that the calling thread is in. It never comes back by itself: the thread is to end.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    inode: Option<u32>,
}

impl Whereabouts {
    /// Where the calling thread is.
    pub fn here() -> Self {
        Self {
            inode: inode_of_link(Path::new("/proc/thread-self/ns/net")).ok(),
        }
    }

    /// Moves the calling thread into `namespace`, where it is not there already.
    pub fn enter(&mut self, namespace: &Namespace) -> Result<(), EnterError> {
        // Without CAP_SYS_ADMIN our own can be looked at all the same.
        if self.inode == Some(namespace.inode) {
            return Ok(());
        }
        let file = open(namespace)?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| EnterError::Enter(errno.into()))?;
        self.inode = Some(namespace.inode);
        Ok(())
    }
}

/// Opens the namespace by the first way that still leads to it.
fn open(namespace: &Namespace) -> Result<File, EnterError> {
    let mut result = Err(EnterError::Gone);
    for way in &namespace.ways {
        let opened = File::open(way).and_then(|file| Ok((file.metadata()?.ino(), file)));
        match opened {
            Ok((inode, file)) if inode == u64::from(namespace.inode) => return Ok(file),
            // The process has another one now, or its number went to another process.
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => result = Err(EnterError::Open(error)),
        }
    }
    result
}

#[cfg(test)]
mod tests;
