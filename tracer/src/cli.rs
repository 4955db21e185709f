//! The command line as it is typed. What it means on this host is [`crate::config`]'s.

use std::io;

use clap::builder::{FalseyValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, ColorChoice, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{BufferSize, Span};
use crate::filter::{CgroupPath, Network};
use crate::probes::{Dispensable, Indispensable};
use crate::record::{CloseKind, UnknownName};

mod agent;

pub use agent::AgentArgs;

/// How TCP connections end on this host, measured.
///
/// tracer watches the kernel close TCP connections: who closed first, how, and how long the kernel
/// then kept the port in TIME_WAIT. It measures, and says so where it could not see.
#[derive(Debug, Parser)]
#[command(name = "tracer", version, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show closes and ends of TIME_WAIT as they happen.
    ///
    /// A connection is shown once it has closed, and again when its TIME_WAIT is over and the port
    /// is free: marked └ in the table.
    #[command(after_help = WATCH_EXAMPLES)]
    Watch(WatchArgs),
    /// Tell what is wrong with this host's connections, who does it, and what to change.
    ///
    /// Watches until something is certain, for 30 seconds at most, and looks at the sockets that are
    /// there already: it is made to be started when connections fail.
    #[command(after_help = DIAGNOSE_EXIT)]
    Diagnose(DiagnoseArgs),
    /// Show which ephemeral ports are in use now, and by what.
    ///
    /// From sock_diag alone, at once. A row is what connect() shares one space of ports among:
    /// network namespace, source address, destination address and port.
    #[command(after_help = PORTS_EXAMPLES)]
    Ports(PortsArgs),
    /// Run as a daemon: metrics, health, findings, history and logs.
    ///
    /// Flags stand above TRACER_* variables, these above the file, and the file above the defaults.
    /// On SIGHUP it takes the file in anew.
    #[command(after_help = agent::EXAMPLES)]
    Agent(AgentArgs),
    /// Tell what this host supports: kernel, BTF, probes, capabilities.
    #[command(after_help = CHECK_EXIT)]
    Check(CheckArgs),
    /// Print the completions of a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the manual page, of tracer or of one command.
    Man {
        /// The command; none: tracer itself.
        command: Option<String>,
    },
}

/// `tracer watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Show every state change.
    ///
    /// In place of the closes in the table; beside them with --json.
    #[arg(long, env = "TRACER_TRANSITIONS", value_parser = FalseyValueParser::new())]
    pub transitions: bool,
    /// Tell failed connect(), bind(), socket() and accept() calls too.
    ///
    /// Each with its errno and its task: a connect() that finds no route never reaches TCP and has
    /// no close. While it runs, every system call on the host takes a little longer.
    #[arg(long, env = "TRACER_CALLS", value_parser = FalseyValueParser::new())]
    pub calls: bool,
    /// Write NDJSON: one object a line.
    ///
    /// The first line is of type meta, the last of type summary.
    #[arg(long, env = "TRACER_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    /// Show the account of the whole run alone, and no rows.
    ///
    /// It is the line that stderr gets at the end; with --json what remains on stdout are the lines
    /// of type meta, loss and summary. The cheapest way to watch: nothing is formatted.
    #[arg(long, env = "TRACER_SUMMARY", value_parser = FalseyValueParser::new())]
    pub summary: bool,
    /// Stop after this time.
    ///
    /// Such as 500ms, 10s, 2m or 1h30m. Without it: until Ctrl-C.
    #[arg(long, value_name = "TIME", env = "TRACER_DURATION")]
    pub duration: Option<Span>,
    /// How to trace.
    #[command(flatten)]
    pub tracing: TracingArgs,
    /// How to show it.
    #[command(flatten)]
    pub color: ColorArgs,
    /// What to show.
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// `tracer diagnose`.
#[derive(Debug, Args)]
pub struct DiagnoseArgs {
    /// Show what each finding rests on, and all of the advice.
    #[arg(long, short, env = "TRACER_VERBOSE", value_parser = FalseyValueParser::new())]
    pub verbose: bool,
    /// Write one JSON object.
    #[arg(long, env = "TRACER_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    /// Watch for just this time.
    ///
    /// Such as 10s or 2m. Without it: until something is certain, for 30s at most.
    #[arg(long, value_name = "TIME", env = "TRACER_DURATION")]
    pub duration: Option<Span>,
    /// How to trace.
    #[command(flatten)]
    pub tracing: TracingArgs,
    /// How to show it.
    #[command(flatten)]
    pub color: ColorArgs,
    /// Which findings to show.
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// How to trace, the same everywhere.
#[derive(Debug, Args)]
pub struct TracingArgs {
    /// Size of the kernel's ring buffer.
    ///
    /// A power of two from 256KiB to 1GiB. What finds no room there is lost, counted and told.
    #[arg(
        long,
        value_name = "SIZE",
        env = "TRACER_BUFFER",
        default_value = "32MiB"
    )]
    pub buffer: BufferSize,
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
    pub without: Vec<Dispensable>,
}

/// How to show what is shown, the same everywhere.
#[derive(Debug, Args)]
pub struct ColorArgs {
    /// When to colour what is shown.
    ///
    /// auto: on a terminal, unless NO_COLOR is set.
    #[arg(
        long = "color",
        value_name = "WHEN",
        env = "TRACER_COLOR",
        default_value = "auto",
        value_enum
    )]
    pub when: ColorChoice,
}

/// The filters, the same everywhere.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Filters (values are alternatives; filters must all hold)")]
pub struct FilterArgs {
    /// Only connections with this port at either end.
    #[arg(long, value_name = "N", env = "TRACER_PORT", value_delimiter = ',',
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Vec<u16>,
    /// Only connections whose local address is in this network.
    #[arg(long, value_name = "CIDR", env = "TRACER_LOCAL", value_delimiter = ',')]
    pub local: Vec<Network>,
    /// Only connections whose peer's address is in this network.
    #[arg(long, value_name = "CIDR", env = "TRACER_PEER", value_delimiter = ',')]
    pub peer: Vec<Network>,
    /// Only this network namespace.
    ///
    /// By its inode number, its name in /run/netns, or a path such as /proc/PID/ns/net.
    #[arg(
        long,
        value_name = "INODE|NAME|PATH",
        env = "TRACER_NETNS",
        value_delimiter = ','
    )]
    pub netns: Vec<String>,
    /// Only connections of this control group and those below it.
    ///
    /// By its path, such as /system.slice/nginx.service. One whose group is not known is not shown;
    /// of transitions that is so until its process has acted.
    #[arg(
        long,
        value_name = "PATH",
        env = "TRACER_CGROUP",
        value_delimiter = ','
    )]
    pub cgroup: Vec<CgroupPath>,
    /// Only connections that a thread or process of this name opened or closed.
    ///
    /// The kernel keeps the first 15 bytes of a name; so does this. Of transitions, those that the
    /// process itself made.
    #[arg(long, value_name = "NAME", env = "TRACER_COMM", value_delimiter = ',')]
    pub comm: Vec<String>,
    /// Only closes of this kind.
    ///
    /// Transitions have none and are shown all the same.
    #[arg(long, value_name = "KIND", env = "TRACER_KIND", value_delimiter = ',',
          value_parser = close_kind())]
    pub kind: Vec<CloseKind>,
}

/// `tracer ports`.
#[derive(Debug, Args)]
pub struct PortsArgs {
    /// Write one JSON object.
    #[arg(long, env = "TRACER_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    /// Show all routes, not only the busiest 20. JSON has all.
    #[arg(long, env = "TRACER_ALL", value_parser = FalseyValueParser::new())]
    pub all: bool,
    /// How to show it.
    #[command(flatten)]
    pub color: ColorArgs,
    /// What to show.
    #[command(flatten)]
    pub filter: RouteFilterArgs,
}

/// The filters that a route can be chosen by.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Filters (values are alternatives; filters must all hold)")]
pub struct RouteFilterArgs {
    /// Only routes with this port at either end.
    #[arg(long, value_name = "N", env = "TRACER_PORT", value_delimiter = ',',
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Vec<u16>,
    /// Only routes whose local address is in this network.
    #[arg(long, value_name = "CIDR", env = "TRACER_LOCAL", value_delimiter = ',')]
    pub local: Vec<Network>,
    /// Only routes whose destination is in this network.
    #[arg(long, value_name = "CIDR", env = "TRACER_PEER", value_delimiter = ',')]
    pub peer: Vec<Network>,
    /// Only this network namespace.
    ///
    /// By its inode number, its name in /run/netns, or a path such as /proc/PID/ns/net.
    #[arg(
        long,
        value_name = "INODE|NAME|PATH",
        env = "TRACER_NETNS",
        value_delimiter = ','
    )]
    pub netns: Vec<String>,
}

/// `tracer check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Write one JSON object.
    #[arg(long, env = "TRACER_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    /// Measure what each program costs.
    ///
    /// The kernel's BPF statistics are on while it measures, and off again after.
    #[arg(long, env = "TRACER_COST", value_parser = FalseyValueParser::new())]
    pub cost: bool,
    /// How long to measure.
    #[arg(
        long,
        value_name = "TIME",
        env = "TRACER_DURATION",
        default_value = "10s"
    )]
    pub duration: Span,
}

fn close_kind() -> impl TypedValueParser<Value = CloseKind> {
    PossibleValuesParser::new(CloseKind::ALL.map(CloseKind::name))
        .try_map(|name: String| -> Result<CloseKind, UnknownName> { name.parse() })
}

fn dispensable_probe() -> impl TypedValueParser<Value = Dispensable> {
    PossibleValuesParser::new(Dispensable::names())
        .try_map(|name: String| -> Result<Dispensable, Indispensable> { name.parse() })
}

/// Writes the completions of `shell`.
pub fn completions(shell: Shell, out: &mut impl io::Write) {
    clap_complete::generate(shell, &mut Cli::command(), "tracer", out);
}

/// Writes the manual page of `command`, or of tracer itself.
///
/// # Errors
///
/// Where `out` fails, or there is no such command ([`io::ErrorKind::NotFound`]).
pub fn man(command: Option<&str>, out: &mut impl io::Write) -> io::Result<()> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let page = match command {
        None => root,
        Some(name) => root.find_subcommand(name).cloned().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no command {name:?}"),
            )
        })?,
    };
    clap_mangen::Man::new(page).render(out)
}

const EXAMPLES: &str = "\
Examples:
  tracer watch --port 3306             who closes connections to the database, and how
  tracer watch --kind reset_sent,reset_received
  tracer diagnose                      what is wrong, who does it, what to change
  tracer ports                         who uses up the ephemeral ports, and how many are left
  tracer check                         what can be seen on this host

Root is needed, or the capabilities that `tracer check` names.";

const WATCH_EXAMPLES: &str = "\
Examples:
  tracer watch --peer 10.0.0.0/8 --port 3306,5432
  tracer watch --netns web --kind timed_out
  tracer watch --transitions --comm nginx
  tracer watch --summary --duration 1m
  tracer watch --json --duration 1m | jq 'select(.type == \"end\") | .time_wait.dwell_ns'

Exit status:
  0  watched to the end: of --duration, by Ctrl-C or SIGTERM, or by a closed pipe
  2  could not run, or the command line is wrong";

const DIAGNOSE_EXIT: &str = "\
Examples:
  tracer diagnose                      at once, when connections fail
  tracer diagnose --verbose            with the evidence and all of the advice
  tracer diagnose --peer 10.0.0.9 --port 3306 --duration 1m

Exit status:
  0  healthy: no error was found, and nothing stood in the way of finding one
  1  a finding of severity error
  2  could not run, or the command line is wrong
  3  inconclusive: no error was found, but a probe is missing, events were lost, or too little
     was to be seen";

const PORTS_EXAMPLES: &str = "\
Examples:
  tracer ports --port 3306
  tracer ports --netns web --all
  tracer ports --json | jq '.routes[] | select(.share > 0.8)'

A route whose USED comes to its CAPACITY has no port left: connect() fails with EADDRNOTAVAIL.
Without root: this network namespace alone, and no names of other users' programs.

Exit status:
  0  looked; what could not be looked at is on stderr
  2  could not run, or the command line is wrong";

const CHECK_EXIT: &str = "\
Exit status:
  0  everything can be seen
  1  degraded: something cannot be seen, and the report says what
  2  cannot trace at all, or the command line is wrong";
