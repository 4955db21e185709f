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

use std::fmt;
use std::fs;
use std::net::Shutdown;
use std::path::Path;
use std::time::Duration;

use tracer_common::tcp::TcpState;

use crate::expect::Expectation;
use crate::local::{self, Act, BindTo, Setting};
use crate::peer::Family;
use crate::segment::Unreachable;
use crate::sock_diag::Holder;
use crate::talk::{Line, Position};

/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(10);
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

/// A line that is none.
#[derive(Debug)]
pub struct Mistake {
    pub file: String,
    pub number: usize,
    pub line: String,
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            number,
            line,
            problem,
        } = self;
        write!(f, "{file}:{number}: {problem}: `{line}`")
    }
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

    /// Reads one.
    pub fn parse(name: &str, text: &str) -> Result<Self, Mistake> {
        let mut script = Self {
            name: name.to_owned(),
            families: Vec::new(),
            sysctls: Vec::new(),
            ip: Vec::new(),
            needs: Vec::new(),
            connections: Vec::new(),
            steps: Vec::new(),
            deletes_namespace: false,
            expectations: Vec::new(),
        };
        let mut steps_over = false;
        for (index, whole) in text.lines().enumerate() {
            let line = whole.split('#').next().unwrap_or_default().trim();
            if line == "---" && !steps_over {
                steps_over = true;
            } else if !line.is_empty() {
                let read = if steps_over {
                    script.expectation(index + 1, line)
                } else {
                    script.line(index + 1, line)
                };
                read.map_err(|problem| Mistake {
                    file: format!("{name}.wire"),
                    number: index + 1,
                    line: line.to_owned(),
                    problem,
                })?;
            }
        }
        if script.families.is_empty() {
            script.families.push(Family::V4);
        }
        Ok(script)
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

    fn expectation(&mut self, number: usize, line: &str) -> Result<(), String> {
        let (who, line) = prefixed(line);
        let who = match who {
            None => Some(0),
            Some("listener") => None,
            Some(name) => Some(self.known(name)?),
        };
        let expectation = Expectation::parse(number, who, line, &self.connections)?;
        self.expectations.push(expectation);
        Ok(())
    }

    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        let (who, rest) = prefixed(line);
        let mut words: Vec<&str> = rest.split_whitespace().collect();
        let mut patience = PATIENCE;
        if let [.., "within", time] = words[..] {
            patience = duration(time)?;
            words.truncate(words.len() - 2);
        }
        match words[..] {
            ["family", ref families @ ..] => {
                for family in families {
                    self.families.push(match *family {
                        "ipv4" => Family::V4,
                        "ipv6" => Family::V6,
                        _ => return Err(format!("{family} is no family")),
                    });
                }
                return Ok(());
            }
            [keyword @ ("sysctl" | "sysctl?"), name, "=", ref value @ ..] if !value.is_empty() => {
                self.sysctls.push(Sysctl {
                    name: name.to_owned(),
                    value: value.join(" "),
                    is_needed: keyword == "sysctl",
                });
                return Ok(());
            }
            ["ip", ref words @ ..] => {
                self.ip.push(words.join(" "));
                return Ok(());
            }
            ["needs", ref what @ ..] => {
                self.needs.push(match *what {
                    ["mptcp"] => Need::Mptcp,
                    ["destroy"] => Need::Destroy,
                    _ => return Err("it is not known how to look for that".to_owned()),
                });
                return Ok(());
            }
            ["delete", "namespace"] => {
                self.deletes_namespace = true;
                return Ok(());
            }
            _ => {}
        }
        let who = match who {
            None if self.connections.is_empty() => self.known_or_new("it"),
            None => 0,
            Some(name) => self.known_or_new(name),
        };
        let what = match words[..] {
            [">", ref segment @ ..] => What::Expect(self::segment(segment, false)?),
            ["<", "ICMP", name] => What::Icmp(
                Unreachable::parse(name).ok_or_else(|| format!("{name} is no ICMP error"))?,
            ),
            ["<", ref segment @ ..] => What::Send(self::segment(segment, true)?),
            ["local", ref act @ ..] => What::Local(self.act(act)?),
            ["holds", "nothing"] => What::Holds(Holder::Nobody),
            ["holds", "minisocket", state] => What::Holds(Holder::Minisocket(self::state(state)?)),
            ["holds", state] => What::Holds(Holder::Socket(self::state(state)?)),
            ["port", port] => What::Port(self::number(port)?),
            ["destroy"] => What::Destroy,
            ["wait", time] => What::Wait(duration(time)?),
            ["silence", time] => What::Silence(duration(time)?),
            ["ignore"] => What::Ignore,
            ["heed"] => What::Heed,
            _ => return Err("not a step".to_owned()),
        };
        self.steps.push(Step {
            number,
            text: line.to_owned(),
            who,
            what,
            patience,
        });
        Ok(())
    }

    fn act(&mut self, words: &[&str]) -> Result<Act, String> {
        let named = |name: &str| {
            local::errno(name)
                .map(|_| name.to_owned())
                .ok_or_else(|| format!("{name} is no error that is known here"))
        };
        Ok(match *words {
            ["mptcp"] => Act::Mptcp,
            ["connect"] => Act::Connect {
                to: None,
                error: None,
            },
            ["connect", ref more @ ..] => {
                let (mut to, mut error) = (None, None);
                let mut more = more.iter();
                while let Some(word) = more.next() {
                    match (*word, word.strip_prefix("error=")) {
                        ("to", _) => {
                            let name = more.next().ok_or("whom does it connect to")?;
                            to = Some(self.known(name)?);
                        }
                        (_, Some(name)) => error = Some(named(name)?),
                        _ => return Err(format!("{word} says nothing here")),
                    }
                }
                Act::Connect { to, error }
            }
            ["reconnect", name] => Act::Reconnect(self.known(name)?),
            ["listen"] => Act::Listen,
            ["listener", "close"] => Act::CloseListener,
            ["accept"] => Act::Accept,
            ["bind", "like", name] => Act::Bind(BindTo::PortOf(self.known(name)?)),
            ["bind", port] => Act::Bind(BindTo::Port(number(port)?)),
            ["write", length] => Act::Write(number(length)?),
            ["read", "end"] => Act::ReadEnd,
            ["read", length] => Act::Read(number(length)?),
            ["error", name] => Act::Error(named(name)?),
            ["shutdown", "rd"] => Act::Shutdown(Shutdown::Read),
            ["shutdown", "wr"] => Act::Shutdown(Shutdown::Write),
            ["shutdown", "both"] => Act::Shutdown(Shutdown::Both),
            ["disconnect"] => Act::Disconnect,
            ["close"] => Act::Close,
            ["close", "under", setting] => {
                let (name, value) = setting.split_once('=').ok_or("SYSCTL=VALUE")?;
                Act::CloseUnder {
                    name: name.to_owned(),
                    value: value.to_owned(),
                }
            }
            ["linger", seconds] => Act::Set(Setting::Linger(number(seconds)?)),
            ["linger2", seconds] => Act::Set(Setting::Linger2(number(seconds)?)),
            ["user_timeout", ms] => Act::Set(Setting::UserTimeout(number(ms)?)),
            ["keepalive", idle, interval, probes] => Act::Set(Setting::Keepalive(
                number(idle)?,
                number(interval)?,
                number(probes)?,
            )),
            ["repair"] => Act::Set(Setting::Repair),
            ["recverr"] => Act::Set(Setting::ReceiveErrors),
            ["quickack"] => Act::Set(Setting::QuickAck),
            _ => return Err("not an act of the application".to_owned()),
        })
    }

    fn known(&self, name: &str) -> Result<usize, String> {
        let mut names = self.connections.iter();
        names
            .position(|known| known == name)
            .ok_or_else(|| format!("no connection is called {name}"))
    }

    fn known_or_new(&mut self, name: &str) -> usize {
        self.known(name).unwrap_or_else(|_| {
            self.connections.push(name.to_owned());
            self.connections.len() - 1
        })
    }
}

/// `who: rest`.
fn prefixed(line: &str) -> (Option<&str>, &str) {
    match line.split_once(": ") {
        Some((who, rest)) if !who.contains(' ') => (Some(who), rest),
        _ => (None, line),
    }
}

fn segment(words: &[&str], sent: bool) -> Result<Line, String> {
    let mut line = Line::default();
    for word in words {
        if line.flags.set(word) {
            continue;
        }
        match word.split_once('=').unwrap_or((word, "")) {
            ("seq", at) => line.seq = Some(position(at)?),
            ("ack", at) => line.ack = Some(position(at)?),
            ("data", length) => line.data = number(length)?,
            ("again", "") => line.again = true,
            ("win", window) if sent => line.window = Some(number(window)?),
            ("ts", "") if sent => line.timestamps = true,
            ("clock", by) if sent => line.clock = number(by)?,
            _ => return Err(format!("{word} is nothing that a segment has here")),
        }
    }
    if line.flags == <_>::default() {
        return Err("a segment has control bits".to_owned());
    }
    Ok(line)
}

fn position(text: &str) -> Result<Position, String> {
    Ok(match text.as_bytes() {
        b"any" => Position::Any,
        [b'+' | b'-', ..] => Position::Relative(number(text)?),
        _ => Position::Absolute(number(text)?),
    })
}

fn state(name: &str) -> Result<u8, String> {
    let state = TcpState::from_name(name).ok_or_else(|| format!("{name} is no state"))?;
    Ok(state.number())
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{text} is no number here"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is no time: 20ms, 3s");
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().map(Duration::from_millis).map_err(|_| wrong());
    }
    let seconds = text.strip_suffix('s').ok_or_else(wrong)?;
    seconds
        .parse()
        .map(Duration::from_secs)
        .map_err(|_| wrong())
}

#[test]
fn a_line_that_is_none_is_named_with_its_place() {
    for (text, said) in [
        (
            "> SYN\n> FNI",
            "x.wire:2: FNI is nothing that a segment has here: `> FNI`",
        ),
        (
            "< data=3",
            "x.wire:1: a segment has control bits: `< data=3`",
        ),
        (
            "> SYN win=1",
            "x.wire:1: win=1 is nothing that a segment has here: `> SYN win=1`",
        ),
        ("wait 3", "x.wire:1: 3 is no time: 20ms, 3s: `wait 3`"),
        (
            "holds ESTABLISHD",
            "x.wire:1: ESTABLISHD is no state: `holds ESTABLISHD`",
        ),
        (
            "local wriet 3",
            "x.wire:1: not an act of the application: `local wriet 3`",
        ),
        (
            "a: > SYN\n---\nb: close active/fin by local",
            "x.wire:3: no connection is called b: `b: close active/fin by local`",
        ),
        (
            "> SYN\n---\nend nothing=1",
            "x.wire:3: no field is called nothing: `end nothing=1`",
        ),
        (
            "---\nclose active/fin",
            "x.wire:2: not what records are held to: `close active/fin`",
        ),
    ] {
        let mistake = Script::parse("x", text).expect_err(text);
        assert_eq!(mistake.to_string(), said);
    }
}
