//! `tracer agent` as it is typed. All of it but what to do may be in the file too.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::dispensable_probe;
use crate::config::BufferSize;
use crate::config::agent::{CollectorUrl, Directory, Listen};
use crate::probes::Dispensable;

/// `tracer agent`. What is `None` is left to the file.
#[derive(Clone, Debug, Default, Args)]
pub struct AgentArgs {
    /// The configuration, in TOML.
    ///
    /// Without it: /etc/tracer/tracer.toml if there is such a file, else the defaults.
    #[arg(long, value_name = "FILE", env = "TRACER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print a configuration with every key, its default and what it means, and exit.
    #[arg(long, conflicts_with = "check_config")]
    pub print_config: bool,
    /// Read the configuration, say whether it is right, and exit.
    #[arg(long)]
    pub check_config: bool,
    /// Where to serve /metrics and /healthz; off: nowhere.
    ///
    /// An address with its port, such as 127.0.0.1:9435, or 0.0.0.0:9435 for other hosts too.
    #[arg(long, value_name = "ADDRESS|off", env = "TRACER_LISTEN")]
    pub listen: Option<Listen>,
    /// Size of the kernel's ring buffer.
    ///
    /// A power of two from 256KiB to 1GiB. What finds no room there is lost, counted and told.
    #[arg(long, value_name = "SIZE", env = "TRACER_BUFFER")]
    pub buffer: Option<BufferSize>,
    /// Leave these probes out.
    ///
    /// Named as `tracer check` names them; what is lost by it is told. set_state cannot be left out.
    #[arg(
        long,
        value_name = "PROBE",
        env = "TRACER_WITHOUT",
        value_delimiter = ',',
        value_parser = dispensable_probe()
    )]
    pub without: Option<Vec<Dispensable>>,
    /// Tell failed connect(), bind(), socket() and accept() calls too.
    ///
    /// While it runs, every system call on the host takes a little longer. --calls=false takes back
    /// what the file says.
    #[arg(
        long,
        value_name = "BOOL",
        env = "TRACER_CALLS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub calls: Option<bool>,
    /// Keep a history of Parquet files in this directory.
    #[arg(long, value_name = "DIR", env = "TRACER_HISTORY")]
    pub history: Option<Directory>,
    /// Send metrics to this OpenTelemetry collector, by OTLP over HTTP.
    ///
    /// Its base, such as http://127.0.0.1:4318: /v1/metrics and /v1/logs are put behind it.
    #[arg(long, value_name = "URL", env = "TRACER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<CollectorUrl>,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  tracer agent --print-config > /etc/tracer/tracer.toml
  tracer agent --check-config          before a reload
  tracer agent --listen '[::]:9435' --history /var/lib/tracer

Exit status:
  0  stopped by SIGTERM or Ctrl-C; with --check-config: the configuration is right
  2  could not run, or the command line or the configuration is wrong";
