//! What a rule has found, and what it advises.

use std::net::IpAddr;

use tracer_common::tcp::Endpoint;

use crate::ports::{Dwell, Program};
use crate::record::Source;

/// How bad a finding is. In this order they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Something fails now, or will within minutes.
    Error,
    /// Something is wrong that has not failed yet, or fails now and then.
    Warning,
    /// Worth knowing; nothing is to be done.
    Info,
}

impl Severity {
    /// The worst first.
    pub const ALL: [Self; 3] = [Self::Error, Self::Warning, Self::Info];

    /// As JSON spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// What a finding is about. What has no bearing on it, or is not known, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Inode of the network namespace; filled in by the watch from its cookie.
    pub netns: Option<u32>,
    /// Cookie of the network namespace.
    pub netns_cookie: Option<u64>,
    /// The program, whose name may hold any bytes.
    pub program: Option<Program>,
    /// How the program is known.
    pub program_source: Source,
    /// Some of its processes.
    pub pids: Vec<u32>,
    /// The local address.
    pub source: Option<IpAddr>,
    /// The peer's address and port.
    pub destination: Option<Endpoint>,
    /// A listener's port.
    pub local_port: Option<u16>,
    /// How many of something that is limited are in use.
    pub used: Option<u64>,
    /// Their limit.
    pub capacity: Option<u64>,
    /// How often something failed since the start.
    pub failed: Option<u64>,
}

/// One thing to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// What to do, in one clause that begins with a verb.
    pub what: String,
    /// The exact command or the line of code; `None`: it is not a matter of one.
    pub command: Option<String>,
    /// The present value, in this network namespace.
    pub present: Option<String>,
    /// The value that is proposed.
    pub proposed: Option<String>,
    /// What it brings, with a figure for this host where one can be had.
    pub effect: String,
    /// What to mind.
    pub caution: Option<String>,
    /// Where it is written: an RFC with its section, or a manual page.
    pub reference: &'static str,
}

/// What a rule has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The rule's name, as `ports-exhausted`.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub subject: Subject,
    /// What fails, whose fault it is, to where, with used and capacity: one line of 78 columns if
    /// at all possible, since it may be the first that is read.
    pub summary: String,
    /// What it rests on, a sentence each.
    pub evidence: Vec<String>,
    /// How long TIME_WAIT holds a port, where that bears on it.
    pub dwell: Option<Dwell>,
    /// What to change, the best first.
    pub advice: Vec<Advice>,
    /// What not to change, and why, a sentence each.
    pub warnings: Vec<String>,
    /// How much it weighs among findings of its severity: connections that fail or are bound to.
    pub weight: u64,
}
