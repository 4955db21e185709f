//! The file as it is written: each section with its defaults.

use std::time::Duration;

use bytesize::ByteSize;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::values::{
    CollectorUrl, Directory, FileSize, Headers, HostName, Interval, Share, section, whole,
};
use super::{
    AgentConfig, AgentConfigError, Compression, Diagnose, Health, History, Host, Http, Logs,
    Metrics, Otlp, Trace,
};
use crate::cli::AgentArgs;
use crate::host;
use crate::record::CloseKind;

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
    #[serde(deserialize_with = "section")]
    diagnose: Diagnose,
    #[serde(deserialize_with = "consistent_history")]
    history: HistorySection,
    #[serde(deserialize_with = "section")]
    otlp: OtlpSection,
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
            otlp_endpoint,
        } = args.clone();
        self.http.listen = listen.unwrap_or(self.http.listen);
        self.trace.buffer = buffer.unwrap_or(self.trace.buffer);
        self.trace.without = without.unwrap_or(self.trace.without);
        self.trace.calls = calls.unwrap_or(self.trace.calls);
        self.history.directory = history.or(self.history.directory);
        self.otlp.endpoint = otlp_endpoint.or(self.otlp.endpoint);
        self
    }

    pub(super) fn into_config(self) -> Result<AgentConfig, AgentConfigError> {
        Ok(AgentConfig {
            file: None,
            trace: self.trace,
            http: self.http,
            metrics: self.metrics,
            health: self.health,
            diagnose: self.diagnose,
            history: self.history.into_config(),
            otlp: self.otlp.into_config()?,
            host: Host {
                name: self
                    .host
                    .name
                    .map_or_else(host::node_name, |HostName(name)| name),
            },
        })
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

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OtlpSection {
    endpoint: Option<CollectorUrl>,
    interval: Interval,
    timeout: Interval,
    #[serde(deserialize_with = "whole::<1, 1_000_000, _>")]
    queue: usize,
    compression: Compression,
    headers: Headers,
    #[serde(deserialize_with = "section")]
    logs: LogsSection,
}

impl Default for OtlpSection {
    fn default() -> Self {
        Self {
            endpoint: None,
            interval: Interval(Duration::from_secs(15)),
            timeout: Interval(Duration::from_secs(10)),
            queue: 4_096,
            compression: Compression::default(),
            headers: Headers::default(),
            logs: LogsSection::default(),
        }
    }
}

impl OtlpSection {
    fn into_config(self) -> Result<Option<Otlp>, AgentConfigError> {
        let LogsSection {
            enabled,
            kinds,
            sample,
        } = self.logs;
        let Some(endpoint) = self.endpoint else {
            return match enabled {
                true => Err(AgentConfigError::LogsWithoutEndpoint),
                false => Ok(None),
            };
        };
        Ok(Some(Otlp {
            endpoint,
            interval: self.interval.0,
            timeout: self.timeout.0,
            queue: self.queue,
            compression: self.compression,
            headers: self.headers.0,
            logs: enabled.then_some(Logs { kinds, sample }),
        }))
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LogsSection {
    enabled: bool,
    kinds: Vec<CloseKind>,
    sample: Share,
}

impl Default for LogsSection {
    fn default() -> Self {
        Self {
            enabled: false,
            kinds: Vec::new(),
            sample: Share::ALL,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostSection {
    name: Option<HostName>,
}
