//! What `tracer agent` is to do: from flags, variables, a file and defaults, the first of them that
//! says something. A configuration that exists is valid.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderMap;
use serde::Deserialize;

use crate::cli::AgentArgs;
use crate::config::BufferSize;
use crate::probes::Dispensable;
use crate::record::CloseKind;

use file::File;
use values::whole;

mod file;
mod mistake;
#[cfg(test)]
mod tests;
mod values;

pub use mistake::{AgentConfigError, Mistake};
pub use values::{
    CollectorUrl, Directory, InvalidCollectorUrl, InvalidDirectory, InvalidListen, Listen, Share,
};

/// Where the file is looked for when nobody names one.
const STANDARD_FILE: &str = "/etc/tracer/tracer.toml";

/// `tracer agent`.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfig {
    /// The file that was read; `None`: there was none.
    pub file: Option<PathBuf>,
    /// How to trace.
    pub trace: Trace,
    /// What is served over HTTP.
    pub http: Http,
    /// How much the metrics may grow.
    pub metrics: Metrics,
    /// When to call oneself unhealthy.
    pub health: Health,
    /// Whether rules are asked.
    pub diagnose: Diagnose,
    /// The Parquet files; `None`: none are written.
    pub history: Option<History>,
    /// The OpenTelemetry collector; `None`: nothing is sent.
    pub otlp: Option<Otlp>,
    /// What this host is called.
    pub host: Host,
}

/// `[trace]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trace {
    /// Size of the ring buffer.
    pub buffer: BufferSize,
    /// Probes to leave out.
    pub without: Vec<Dispensable>,
    /// Whether failed system calls are told.
    pub calls: bool,
    /// The most connections that are followed at once; beyond it those that were silent the longest
    /// are let go and counted.
    #[serde(deserialize_with = "whole::<1_000, 100_000_000, _>")]
    pub connections: usize,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            buffer: BufferSize::default(),
            without: Vec::new(),
            calls: false,
            connections: 1_000_000,
        }
    }
}

/// `[http]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where /metrics and /healthz are served.
    pub listen: Listen,
}

/// `[metrics]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// How many of the busiest destinations have series of their own; the rest is "other".
    #[serde(deserialize_with = "whole::<0, 1_000, _>")]
    pub destinations: usize,
    /// The most series, all metrics together.
    #[serde(deserialize_with = "whole::<100, 1_000_000, _>")]
    pub series: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            destinations: 20,
            series: 2_000,
        }
    }
}

/// `[health]`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// The share of a minute's events whose loss /healthz still calls healthy.
    pub losses: Share,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            losses: Share::THOUSANDTH,
        }
    }
}

/// `[diagnose]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Diagnose {
    /// Whether findings are looked for.
    pub enabled: bool,
}

impl Default for Diagnose {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[history]`, with a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Where the files are: an absolute path.
    pub directory: PathBuf,
    /// Bytes after which a file is finished.
    pub roll_size: u64,
    /// How long after its first row a file is finished; a second or more.
    pub roll_after: Duration,
    /// How long a file is kept, no less than `roll_after`.
    pub keep: Duration,
    /// Bytes of all files together, no less than `roll_size`; beyond it the oldest are deleted.
    pub keep_size: u64,
}

/// `[otlp]`, with an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Otlp {
    /// The collector's base, which /v1/metrics and /v1/logs are put behind.
    pub endpoint: CollectorUrl,
    /// How often metrics are sent; a second or more.
    pub interval: Duration,
    /// How long the collector may take to answer; a second or more.
    pub timeout: Duration,
    /// The most log records that wait to be sent; what comes on top is dropped and counted.
    pub queue: usize,
    /// Whether what is sent is compressed.
    pub compression: Compression,
    /// Sent with every request. The values are marked sensitive and do not show in `Debug`.
    pub headers: HeaderMap,
    /// Closes as log records; `None`: none are sent.
    pub logs: Option<Logs>,
}

/// `otlp.compression`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// By gzip.
    #[default]
    Gzip,
    /// Not at all.
    None,
}

/// `[otlp.logs]`, enabled.
#[derive(Clone, Debug, PartialEq)]
pub struct Logs {
    /// Closes of these kinds alone; empty: of all kinds.
    pub kinds: Vec<CloseKind>,
    /// The share of them that is sent.
    pub sample: Share,
}

/// `[host]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// As configured, else the kernel's node name.
    pub name: String,
}

impl AgentConfig {
    /// What `--print-config` prints: every key with its default, or, where absent is the default,
    /// an example behind a `#`.
    pub const TEMPLATE: &str = include_str!("agent/tracer.toml");

    /// The configuration as it is now: at the start, and again on every reload.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read or something in it is wrong. A file that nobody named need not
    /// be there.
    pub fn load(args: &AgentArgs) -> Result<Self, AgentConfigError> {
        Self::load_with(args, Path::new(STANDARD_FILE))
    }

    /// As [`Self::load`], the file's text being `text` already; messages call it `file`.
    ///
    /// # Errors
    ///
    /// Where something in it is wrong.
    pub fn parse(text: &str, file: &Path, args: &AgentArgs) -> Result<Self, AgentConfigError> {
        let parsed = File::parse(text).map_err(|error| Mistake::new(file, text, &error))?;
        let config = parsed.overridden_by(args).into_config()?;
        Ok(Self {
            file: Some(file.to_owned()),
            ..config
        })
    }

    fn load_with(args: &AgentArgs, standard: &Path) -> Result<Self, AgentConfigError> {
        let path = args.config.as_deref().unwrap_or(standard);
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path, args),
            Err(error) if error.kind() == io::ErrorKind::NotFound && args.config.is_none() => {
                File::default().overridden_by(args).into_config()
            }
            Err(source) => Err(AgentConfigError::Unreadable {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// The keys whose change from `self` to `new` only a restart takes in, none where there are
    /// none: to be asked on a reload, and told.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let (old, fresh) = (&self.trace, &new.trace);
        [
            ("trace.buffer", old.buffer != fresh.buffer),
            ("trace.without", old.without != fresh.without),
            ("trace.calls", old.calls != fresh.calls),
            ("trace.connections", old.connections != fresh.connections),
            ("http.listen", self.http != new.http),
            ("history", self.history != new.history),
            ("host.name", self.host != new.host),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}
