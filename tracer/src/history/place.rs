//! Where files are and what they are called:
//! `DIRECTORY/date=2026-11-20/host=web-1/tracer-BOOT-PROCESS-000001.parquet`.

use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::time::Timestamp;

/// What Hive calls the partition of rows that have no value for it.
const NO_HOST: &str = "__HIVE_DEFAULT_PARTITION__";
/// Bytes of a host's name that a directory is named by: 255 are the most that a name can have.
const HOST_BYTES: usize = 200;
const DATE: &str = "date=";
const HOST: &str = "host=";
const PREFIX: &str = "tracer-";
const SUFFIX: &str = ".parquet";
const UNFINISHED: &str = ".tmp";

/// Makes a process's file names, no two of which are the same on any host: they have the boot, when
/// the process began in it, and a number.
#[derive(Debug)]
pub(super) struct Names {
    host: String,
    process: String,
    sequence: u64,
}

/// A file's paths.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The directory of its date and host.
    pub directory: PathBuf,
    /// Its path once it is whole.
    pub path: PathBuf,
    /// Its path until then. Hive and Spark pass over what begins with a dot, and no engine's
    /// `*.parquet` matches the end.
    pub unfinished: PathBuf,
}

impl Names {
    /// Of a process that began at `started`.
    pub fn new(host: &str, boot_id: &str, started: Timestamp) -> Self {
        let boot: String = boot_id.chars().filter(char::is_ascii_hexdigit).collect();
        let boot = if boot.is_empty() { "0" } else { &boot };
        Self {
            host: escaped(host),
            process: format!("{boot}-{:x}", started.0),
            sequence: 0,
        }
    }

    /// The next file below `directory`, for rows of `date`.
    pub fn next(&mut self, directory: &Path, date: Date) -> Place {
        self.sequence += 1;
        let name = format!("{PREFIX}{}-{:06}{SUFFIX}", self.process, self.sequence);
        let directory = directory
            .join(format!("{DATE}{date}"))
            .join(format!("{HOST}{}", self.host));
        Place {
            path: directory.join(&name),
            unfinished: directory.join(format!(".{name}{UNFINISHED}")),
            directory,
        }
    }
}

/// The day of a moment in UTC.
pub(super) fn date(unix_nanoseconds: i128) -> Date {
    let moment = jiff::Timestamp::from_nanosecond(unix_nanoseconds);
    TimeZone::UTC.to_datetime(moment.unwrap_or_default()).date()
}

/// Whether a file of this name is a whole one of ours.
pub(super) fn is_whole(name: &str) -> bool {
    let of = || name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX);
    let parts = |name: &str| {
        let is_part =
            |part: &str| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        name.split('-').count() == 3 && name.split('-').all(is_part)
    };
    of().is_some_and(parts)
}

/// Whether a file of this name is one of ours that was not finished.
pub(super) fn is_unfinished(name: &str) -> bool {
    let of = || name.strip_prefix('.')?.strip_suffix(UNFINISHED);
    of().is_some_and(is_whole)
}

/// The day that a directory is of, or `None` for one that is not ours.
pub(super) fn date_of_directory(name: &str) -> Option<Date> {
    name.strip_prefix(DATE)?.parse().ok()
}

/// Whether a directory of this name is a host's.
pub(super) fn is_of_host(name: &str) -> bool {
    name.starts_with(HOST)
}

/// A host's name as Hive writes a partition's value: what could mean something in a path is `%` and
/// two digits. More is written so than Hive does, and read back by all alike; what is not ASCII
/// stands, for Hive would not put its bytes together again.
fn escaped(host: &str) -> String {
    let mut escaped = String::new();
    for character in host.chars() {
        let part = match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => character.to_string(),
            _ if character.is_ascii() => format!("%{:02X}", character as u32),
            _ => character.to_string(),
        };
        if escaped.len() + part.len() > HOST_BYTES {
            break;
        }
        escaped.push_str(&part);
    }
    match escaped.is_empty() {
        true => NO_HOST.to_owned(),
        false => escaped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str) -> Place {
        let date = date(1_795_219_080_000_000_000);
        Names::new(host, "5f0c-77", Timestamp(255)).next(Path::new("/d"), date)
    }

    #[test]
    fn a_file_is_named_by_date_host_boot_and_process() {
        let place = place("web-1.example");
        let directory = "/d/date=2026-11-20/host=web-1.example";
        assert_eq!(place.directory, Path::new(directory));
        let name = "tracer-5f0c77-ff-000001.parquet";
        assert_eq!(place.path, Path::new(directory).join(name));
        assert!(is_whole(name) && !is_unfinished(name));
        let unfinished = place.unfinished.file_name().unwrap().to_str().unwrap();
        assert!(is_unfinished(unfinished) && !is_whole(unfinished));
        assert!(unfinished.starts_with('.') && !unfinished.ends_with(".parquet"));
    }

    #[test]
    fn a_hostile_host_stays_in_the_directory() {
        for (host, expected) in [
            ("../../etc", "host=..%2F..%2Fetc"),
            ("..", "host=.."),
            ("a/b=c%", "host=a%2Fb%3Dc%25"),
            ("a\0\n", "host=a%00%0A"),
            ("münchen", "host=münchen"),
            ("", "host=__HIVE_DEFAULT_PARTITION__"),
        ] {
            let place = place(host);
            let directory = Path::new("/d/date=2026-11-20").join(expected);
            assert_eq!(place.directory, directory, "{host:?}");
            assert_eq!(place.path.components().count(), 5, "{host:?}");
        }
        let long = place(&"/".repeat(1_000));
        let name = long.directory.file_name().unwrap();
        assert!(name.len() <= 255);
    }

    #[test]
    fn what_others_named_is_not_ours() {
        for name in [
            "tracer.parquet",
            "tracer-notes-for-me.parquet",
            "tracer-1-2-.parquet",
            "tracer-1-2-3-4.parquet",
            "tracer-1-2-3.parquet.bak",
            "backup-tracer-1-2-3.parquet",
        ] {
            assert!(!is_whole(name), "{name}");
            assert!(!is_unfinished(&format!(".{name}")), "{name}");
        }
    }
}
