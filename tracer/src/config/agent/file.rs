//! The file as it is written: each section with its defaults.

use std::time::Duration;

use bytesize::ByteSize;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::values::{Directory, FileSize, HostName, Interval, section};
use super::{AgentConfig, Health, History, Host, Http, Metrics, Trace};
use crate::cli::AgentArgs;
use crate::host;

/// All sections.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    #[serde(deserialize_with = "section")]
    trace: Trace,
    #[serde(deserialize_with = "section")]
    http: Http,
    #[serde(deserialize_with = "section")]
    metrics: Metrics,
    #[serde(deserialize_with = "section")]
    health: Health,
    #[serde(deserialize_with = "consistent_history")]
    history: HistorySection,
    #[serde(deserialize_with = "section")]
    host: HostSection,
}

impl File {
    pub(super) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// What the command line and the variables say stands above the file.
    pub(super) fn overridden_by(mut self, args: &AgentArgs) -> Self {
        // Written out, so that a new flag is not forgotten here.
        let AgentArgs {
            config: _,
            print_config: _,
            check_config: _,
            listen,
            buffer,
            without,
            calls,
            history,
        } = args.clone();
        self.http.listen = listen.unwrap_or(self.http.listen);
        self.trace.buffer = buffer.unwrap_or(self.trace.buffer);
        self.trace.without = without.unwrap_or(self.trace.without);
        self.trace.calls = calls.unwrap_or(self.trace.calls);
        self.history.directory = history.or(self.history.directory);
        self
    }

    pub(super) fn into_config(self) -> AgentConfig {
        AgentConfig {
            file: None,
            trace: self.trace,
            http: self.http,
            metrics: self.metrics,
            health: self.health,
            history: self.history.into_config(),
            host: Host {
                name: self
                    .host
                    .name
                    .map_or_else(host::node_name, |HostName(name)| name),
            },
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HistorySection {
    directory: Option<Directory>,
    roll_size: FileSize,
    roll_after: Interval,
    keep: Interval,
    keep_size: FileSize,
}

impl Default for HistorySection {
    fn default() -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            directory: None,
            roll_size: FileSize(ByteSize::mib(64)),
            roll_after: Interval(Duration::from_secs(5 * 60)),
            keep: Interval(Duration::from_secs(7 * DAY)),
            keep_size: FileSize(ByteSize::gib(10)),
        }
    }
}

impl HistorySection {
    fn into_config(self) -> Option<History> {
        let FileSize(roll_size) = self.roll_size;
        let FileSize(keep_size) = self.keep_size;
        Some(History {
            directory: self.directory?.into(),
            roll_size: roll_size.as_u64(),
            roll_after: self.roll_after.0,
            keep: self.keep.0,
            keep_size: keep_size.as_u64(),
        })
    }
}

/// A file that is still written to cannot be deleted: what is kept holds one at least.
fn consistent_history<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<HistorySection, D::Error> {
    let history: HistorySection = section(deserializer)?;
    let (FileSize(file), FileSize(all)) = (history.roll_size, history.keep_size);
    if all < file {
        return Err(D::Error::custom(format_args!(
            "keep_size, {}, is less than roll_size, {}: not one file could be kept",
            all.display().iec(),
            file.display().iec()
        )));
    }
    let (Interval(file), Interval(all)) = (history.roll_after, history.keep);
    if all < file {
        return Err(D::Error::custom(format_args!(
            "keep, {all:?}, is less than roll_after, {file:?}: not one file could be kept"
        )));
    }
    Ok(history)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostSection {
    name: Option<HostName>,
}
