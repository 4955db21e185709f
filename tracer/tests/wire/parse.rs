//! From a script's text to its steps. A line that is none is named with its file, its number and
//! what is wrong with it.

use std::fmt;
use std::net::Shutdown;
use std::time::Duration;

use tracer_common::tcp::TcpState;

use crate::expect::Expectation;
use crate::local::{self, Act, BindTo, Setting};
use crate::peer::Family;
use crate::script::{Need, PATIENCE, Script, Step, Sysctl, What};
use crate::segment::Unreachable;
use crate::sock_diag::Holder;
use crate::talk::{Line, Position};

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
