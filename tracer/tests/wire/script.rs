//! Scripts: text to steps. A file in `scripts/` is comments (`#`), settings, steps, then a line
//! `---` and what the records must say; its name says in a sentence what happens.
//!
//! ```text
//! family ipv4 ipv6                      it is played in each; nothing said is ipv4
//! sysctl NAME = VALUE                   in a namespace of the script's own; skipped without it
//! sysctl? NAME = VALUE                  the same where the kernel has it
//! ip WORDS                              `ip` does this there; skipped where it cannot
//! needs mptcp | destroy                 it is skipped on a kernel without
//!
//! [WHO:] > SYN ACK [seq=] [ack=] [data=] [again]     the kernel sends it
//! [WHO:] < SYN [seq=] [ack=] [data=] [win=] [ts] [clock=] [again]    the peer sends it
//! [WHO:] < ICMP host_unreachable | port_unreachable | prohibited     about the kernel's last segment
//! [WHO:] local connect [to WHO] [error=ERRNO] | reconnect WHO | listen | accept | bind PORT | bind like WHO
//! [WHO:] local write N | read N | read end | error ERRNO | shutdown rd|wr|both | close | disconnect
//! [WHO:] local linger N | linger2 N | user_timeout MS | keepalive IDLE INTERVAL PROBES
//! [WHO:] local repair | recverr | quickack | mptcp | listener close | close under SYSCTL=VALUE
//! [WHO:] holds STATE | minisocket STATE | nothing     sock_diag says so of the tuple
//! [WHO:] port PORT                      the kernel's, where neither the wire nor a socket tells
//! [WHO:] destroy                        SOCK_DESTROY of whatever holds the tuple
//! wait 20ms                             nothing is done
//! silence 20ms                          and the kernel sends nothing new
//! ignore | heed                         from here on what the kernel sends does not matter, or does
//! delete namespace                      at the end, before the records are looked at
//! ```
//!
//! A number is where the next one is due, or `+5` and `-1` from there, `7` counted from the SYN,
//! `any`; a segment whose number is said does not move the next one on. WHO is a connection; without it the script's first. Segments that the kernel sends again
//! are passed over where they are not expected. `within 5s` gives a step that much time; 10 s
//! otherwise.
//!
//! What follows `---` is in `expect.rs`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::expect::Expectation;
use crate::local::{Act, Setting};
use crate::peer::Family;
use crate::segment::Unreachable;
use crate::sock_diag::Holder;
use crate::talk::Line;

/// How long a step may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// A script that waits longer than this at once is a slow one.
const SLOW: Duration = Duration::from_secs(5);

/// A script, ready to be played.
#[derive(Debug)]
pub struct Script {
    /// The file's name: a sentence.
    pub name: String,
    pub families: Vec<Family>,
    pub sysctls: Vec<Sysctl>,
    /// What `ip` is called with in its namespace.
    pub ip: Vec<String>,
    pub needs: Vec<Need>,
    /// The names of its connections; there is one at least.
    pub connections: Vec<String>,
    pub steps: Vec<Step>,
    pub deletes_namespace: bool,
    pub expectations: Vec<Expectation>,
}

/// A setting of the script's own namespace.
#[derive(Clone, Debug)]
pub struct Sysctl {
    pub name: String,
    pub value: String,
    /// The script says nothing without it.
    pub is_needed: bool,
}

/// What not every kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Mptcp,
    Destroy,
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its line, from 1.
    pub number: usize,
    pub text: String,
    /// An index into [`Script::connections`].
    pub who: usize,
    pub what: What,
    pub patience: Duration,
}

/// What a step does or expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Expect(Line),
    Send(Line),
    Icmp(Unreachable),
    Local(Act),
    Holds(Holder),
    /// The kernel's port of the connection, where nothing else tells.
    Port(u16),
    Destroy,
    Wait(Duration),
    Silence(Duration),
    Ignore,
    Heed,
}

impl Script {
    /// Reads every script of a directory.
    pub fn all(directory: &Path) -> Vec<Self> {
        let mut paths: Vec<_> = fs::read_dir(directory)
            .unwrap_or_else(|error| panic!("list {}: {error}", directory.display()))
            .map(|entry| entry.expect("a directory entry").path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "wire")
            })
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| {
                let text = fs::read_to_string(path)
                    .unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                Self::parse(&name, &text).unwrap_or_else(|mistake| panic!("{mistake}"))
            })
            .collect()
    }

    /// It waits for a timer of many seconds.
    pub fn is_slow(&self) -> bool {
        self.steps.iter().any(|step| match step.what {
            What::Wait(time) | What::Silence(time) => time >= SLOW,
            _ => step.patience > PATIENCE,
        })
    }

    /// It needs no timer at all, and nothing of its own but its addresses.
    pub fn is_quick(&self) -> bool {
        let waits = |step: &Step| match &step.what {
            What::Wait(_) | What::Silence(_) => true,
            // What was not answered in time.
            What::Expect(line) => line.again,
            What::Local(Act::CloseUnder { .. } | Act::Mptcp) => true,
            What::Local(Act::Error(name)) => name == "ETIMEDOUT",
            What::Local(Act::Set(Setting::Linger2(seconds))) => *seconds > 0,
            What::Local(Act::Set(Setting::UserTimeout(_) | Setting::Keepalive(..))) => true,
            _ => step.patience != PATIENCE,
        };
        !self.has_own_namespace() && !self.steps.iter().any(waits)
    }

    /// It changes what others in the same namespace would see.
    pub fn has_own_namespace(&self) -> bool {
        !self.sysctls.is_empty() || !self.ip.is_empty() || self.deletes_namespace
    }
}
