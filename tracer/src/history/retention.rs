//! What goes: left-overs of processes that died, and files that are old or too many. Only what we
//! named, of whatever host: several may share a directory.

use std::fs::{self, DirEntry, File, FileType};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use rustix::fs::FlockOperation;

use super::Settings;
use super::file::{FileError, Operation};
use super::place;

/// Removes files that their process did not finish; those of one that still runs are locked.
pub(super) fn remove_left_overs(settings: &Settings) -> Result<(), FileError> {
    let mut result = Ok(());
    for (_, host) in hosts(&settings.directory)? {
        for (name, file) in ours(&host, place::is_unfinished)? {
            let is_held = File::open(&file).is_ok_and(|file| {
                let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
                locked == Err(rustix::io::Errno::WOULDBLOCK)
            });
            if !is_held {
                tracing::info!("removing {name:?}, which was not finished");
                result = result.and(removed(&file).map(drop));
            }
        }
    }
    result
}

/// Removes whole files that were finished more than `keep` before `now`, nanoseconds since 1970, and
/// the oldest of the others until they have `keep_bytes`. Gives how many went. Directories of past
/// days that are empty go, too.
pub(super) fn retire(settings: &Settings, now: i128) -> Result<u64, FileError> {
    let mut files = Vec::new();
    let hosts = hosts(&settings.directory)?;
    for (_, host) in &hosts {
        for (name, path) in ours(host, place::is_whole)? {
            // One that went since then is none of ours any more.
            if let Ok(file) = fs::metadata(&path) {
                let finished_at =
                    i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec());
                files.push((finished_at, name, path, file.len()));
            }
        }
    }
    files.sort_unstable();
    let keep = i128::try_from(settings.keep.as_nanos()).unwrap_or(i128::MAX);
    let mut total: u64 = files.iter().map(|(.., bytes)| bytes).sum();
    let mut gone = 0;
    let mut result = Ok(());
    for (finished_at, _, path, bytes) in &files {
        if now - finished_at <= keep && total <= settings.keep_bytes {
            break;
        }
        match removed(path) {
            Ok(was_there) => {
                gone += u64::from(was_there);
                total -= bytes;
            }
            Err(error) => result = result.and(Err(error)),
        }
    }
    remove_empty(hosts, place::date(now));
    result.map(|()| gone)
}

/// Those of days before `today`: where today's are empty, a file may just be about to be made.
fn remove_empty(hosts: Vec<(Date, PathBuf)>, today: Date) {
    for (date, host) in hosts {
        // One that is not empty says so, and stays.
        if date < today && fs::remove_dir(&host).is_ok() {
            let _ = host.parent().map(fs::remove_dir);
        }
    }
}

/// The directories of hosts, with their dates.
fn hosts(directory: &Path) -> Result<Vec<(Date, PathBuf)>, FileError> {
    let mut hosts = Vec::new();
    for (date, path) in entries(directory, FileType::is_dir, place::date_of_directory)? {
        let of_date = entries(&path, FileType::is_dir, |name| {
            place::is_of_host(name).then_some(())
        })?;
        hosts.extend(of_date.into_iter().map(|((), host)| (date, host)));
    }
    Ok(hosts)
}

fn ours(host: &Path, is_ours: fn(&str) -> bool) -> Result<Vec<(String, PathBuf)>, FileError> {
    entries(host, FileType::is_file, |name| {
        is_ours(name).then(|| name.to_owned())
    })
}

/// What `wanted` makes of the names of the directories, or of the files, in a directory. Links and
/// pipes are neither. A directory that is gone has none.
fn entries<T>(
    directory: &Path,
    is_wanted: fn(&FileType) -> bool,
    wanted: impl Fn(&str) -> Option<T>,
) -> Result<Vec<(T, PathBuf)>, FileError> {
    let of_entry = |entry: DirEntry| {
        let wanted = wanted(entry.file_name().to_str()?)?;
        let is_wanted = entry.file_type().is_ok_and(|kind| is_wanted(&kind));
        is_wanted.then(|| (wanted, entry.path()))
    };
    let list = || -> io::Result<Vec<_>> {
        let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
        Ok(entries.into_iter().filter_map(of_entry).collect())
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(Operation::List.on(directory)),
    }
}

/// Whether it was still there to be removed.
fn removed(file: &Path) -> Result<bool, FileError> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Operation::Remove.on(file)(error)),
    }
}
