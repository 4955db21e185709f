//! The lines of a scenario file:
//!
//! ```text
//! config hz=250 timers=yes segments=yes resets=yes schedules=no transitions=no
//!        holdings=no
//! socket NAME cookie=1 address=0x10 flow=10.0.0.5:40112>10.0.0.9:80 [v6socket]
//! SECONDS NAME FROM>TO [key=value…]          a step; to CLOSE with facts (unacked: not all that was
//!                                            sent is acknowledged)
//! SECONDS NAME task [FROM>TO] tid=812        who made the step before
//! SECONDS NAME timer_start|timer_cancel|timer_expire|schedule TIME_WAIT|FIN_WAIT2 [left=jiffies|expires=jiffies]
//! SECONDS NAME segment TIME_WAIT [tcp=FIN|RST|…] [payload=10]
//! SECONDS NAME reset_received | reset_sent state=TIME_WAIT [answers]
//! SECONDS NAME connect|bind|socket|accept errno=EADDRNOTAVAIL [asked=10.0.0.9:80] [tid=812] [state=SYN_SENT]
//!                                            a system call that failed
//! SECONDS sweep [skipped=INODE|unnamed]       all network namespaces have been asked
//! SECONDS watermark
//! lost                                       the next event comes after others that were lost
//! SECONDS lost                               events before this time were lost
//! SECONDS inventory from=SECONDS [broken] NAME=STATE[~SECONDS] NAME=SUBSTATE@SECONDS owner=NAME:PID
//!                                            what sock_diag found; @: the minisocket's nominal end
//! finish
//! ```
//!
//! Every event takes `cpu=`, `seq=`, `recovered`, `owned`, `in_send`, `in_softirq`, `dying`, `cookie=`, `address=`, `flow=`,
//! `local_port=`. Jiffies run from 1,000,000 at second 0; `expires` stays as it was set last.

use std::collections::HashMap;
use std::time::Duration;

use tracer::engine::{Config, Engine};
use tracer::stream::{
    Body, Call, Event, FailedCall, Found, Holder, Inventory, Minisocket, Ownership, Purpose,
    Skipped, Socket, Sweep, Task,
};
use tracer::time::Timestamp;
use tracer_common::event::{CloseFacts, flags, marks};
use tracer_common::tcp::{Endpoint, Flow, TcpState};

use crate::printed::{Names, drain};

const FIRST_JIFFY: u64 = 1_000_000;

/// A scenario under way.
#[derive(Default)]
pub struct Script {
    engine: Option<Engine>,
    hz: u64,
    sockets: HashMap<String, Socket>,
    v6: HashMap<String, bool>,
    names: Names,
    sequences: HashMap<u16, u32>,
    /// The next event says that others were lost.
    after_loss: bool,
    expires: HashMap<(String, u64), u64>,
    last_step: HashMap<String, (TcpState, TcpState)>,
}

type Parsed<T> = Result<T, String>;

/// The words of a line: `key=value` and bare ones.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn value(&self, key: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn has(&self, word: &str) -> bool {
        self.0.contains(&word)
    }

    fn number<T: TryFrom<i64>>(&self, key: &str, default: T) -> Parsed<T> {
        let Some(text) = self.value(key) else {
            return Ok(default);
        };
        let number = match text.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        number
            .ok()
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("bad {key}"))
    }
}

impl Script {
    pub fn engine(&mut self) -> &mut Engine {
        self.hz = if self.hz == 0 { 250 } else { self.hz };
        let hz = self.hz as u32;
        self.engine.get_or_insert_with(|| {
            Engine::new(Config {
                hz,
                sees_timers: true,
                sees_segments: true,
                sees_resets: true,
                sees_schedules: false,
                rows: true,
                transitions: false,
                holdings: false,
                connections: usize::MAX,
            })
        })
    }

    /// Writes every output that is due.
    pub fn drain(&mut self, text: &mut String) {
        let names = self.names.clone();
        drain(self.engine(), &names, text);
    }

    /// Does what a line says.
    pub fn line(&mut self, line: &str) -> Parsed<()> {
        let mut words: Vec<_> = line.split_whitespace().collect();
        match words[0] {
            "config" => return self.config(&Words(words)),
            "socket" => return self.socket(&Words(words)),
            "finish" => {
                self.engine().finish();
                return Ok(());
            }
            "lost" => {
                self.after_loss = true;
                return Ok(());
            }
            _ => {}
        }
        let at = time(words.remove(0))?;
        if words.first() == Some(&"watermark") {
            self.engine().handle_timeout(at);
            return Ok(());
        }
        if words.first() == Some(&"lost") {
            self.engine().handle_loss(at);
            return Ok(());
        }
        if words.first() == Some(&"inventory") {
            let inventory = self.inventory(at, &Words(words))?;
            self.engine().handle_inventory(&inventory);
            return Ok(());
        }
        if words.first() == Some(&"sweep") {
            let sweep = sweep(at, &Words(words));
            self.engine().handle_sweep(&sweep);
            return Ok(());
        }
        let name = words.remove(0).to_owned();
        let event = self.event(at, &name, words.remove(0), &Words(words))?;
        self.engine().handle_event(&event);
        Ok(())
    }

    fn config(&mut self, words: &Words<'_>) -> Parsed<()> {
        let on = |key, default| words.value(key).map_or(default, |value| value == "yes");
        self.hz = words.number("hz", 250)?;
        self.engine = Some(Engine::new(Config {
            hz: self.hz as u32,
            sees_timers: on("timers", true),
            sees_segments: on("segments", true),
            sees_resets: on("resets", true),
            sees_schedules: on("schedules", false),
            rows: true,
            transitions: on("transitions", false),
            holdings: on("holdings", false),
            connections: usize::MAX,
        }));
        Ok(())
    }

    fn socket(&mut self, words: &Words<'_>) -> Parsed<()> {
        let name = words.0[1].to_owned();
        let cookie = words.number("cookie", 0)?;
        let socket = Socket {
            cookie,
            address: words.number("address", cookie * 16)?,
            flow: flow(words.value("flow").ok_or("no flow")?)?,
        };
        self.names.insert(cookie, name.clone());
        self.v6.insert(name.clone(), words.has("v6socket"));
        self.sockets.insert(name, socket);
        Ok(())
    }

    fn inventory(&mut self, until: Timestamp, words: &Words<'_>) -> Parsed<Inventory> {
        let mut found = Vec::new();
        let mut owners = Vec::new();
        for word in &words.0[1..] {
            let Some((name, held)) = word.split_once('=') else {
                continue;
            };
            if name == "owner" {
                let (name, pid) = held.split_once(':').ok_or("owner=NAME:PID")?;
                let socket = self.sockets.get(name).ok_or("unknown socket")?;
                owners.push(Ownership {
                    cookie: socket.cookie,
                    pid: pid.parse().map_err(|_| "not a pid")?,
                    name: *b"owner\0\0\0\0\0\0\0\0\0\0\0",
                    reuse_address: None,
                });
                continue;
            }
            let Some(socket) = self.sockets.get(name) else {
                continue;
            };
            let (held, silence) = match held.split_once('~') {
                Some((held, silence)) => (held, Some(time(silence)?)),
                None => (held, None),
            };
            let mut holder = match held.split_once('@') {
                Some((substate, end)) => Holder::Minisocket {
                    substate: state(substate)?,
                    ends_at: time(end)?,
                },
                None => Holder::socket(state(held)?, Some(33)),
            };
            if let Holder::Socket { silent_for, .. } = &mut holder {
                *silent_for = silence.map(|time| Duration::from_nanos(time.0));
            }
            found.push(Found {
                cookie: socket.cookie,
                flow: socket.flow,
                socket_is_v6: self.v6[name],
                holder,
            });
        }
        Ok(Inventory {
            netns: 4_026_531_840,
            netns_cookie: words.number("netns", 1)?,
            from: time(words.value("from").ok_or("from when?")?)?,
            until,
            whole: !words.has("broken"),
            found,
            owners,
        })
    }

    fn event(&mut self, at: Timestamp, name: &str, verb: &str, words: &Words<'_>) -> Parsed<Event> {
        let mut socket = *self.sockets.get(name).ok_or("unknown socket")?;
        let cpu = words.number("cpu", 0_u16)?;
        let next = self.sequences.entry(cpu).or_default();
        let seq = words.number("seq", *next)?;
        *next = seq.wrapping_add(1);
        socket.cookie = words.number("cookie", socket.cookie)?;
        if let Some(text) = words.value("flow") {
            socket.flow = flow(text)?;
        }
        socket.flow.local.port = words.number("local_port", socket.flow.local.port)?;
        let minisocket = matches!(
            verb,
            "timer_start" | "timer_cancel" | "timer_expire" | "schedule" | "segment"
        ) || words.value("state") == Some("TIME_WAIT");
        socket.address += u64::from(minisocket);
        socket.address = words.number("address", socket.address)?;
        let body = match verb.split_once('>') {
            Some((from, to)) => self.step(name, state(from)?, state(to)?, words)?,
            None => self.other(at, name, verb, socket.address, words)?,
        };
        if matches!(
            body,
            Body::Transition {
                from: TcpState::Close,
                to: TcpState::SynSent,
                ..
            }
        ) && !words.has("bound")
        {
            socket.flow.local.port = 0;
        }
        let mut bits = 0;
        if std::mem::take(&mut self.after_loss) {
            bits |= flags::AFTER_LOSS;
        }
        for (word, bit) in [
            ("recovered", flags::RECOVERED),
            ("owned", flags::OWNED),
            ("in_send", flags::IN_TASK | flags::IN_SEND),
            ("in_softirq", flags::IN_SOFTIRQ),
            ("dying", flags::NETNS_DYING),
        ] {
            bits |= if words.has(word) { bit } else { 0 };
        }
        bits |= if self.v6[name] { flags::SOCKET_V6 } else { 0 };
        Ok(Event {
            at,
            cpu,
            seq,
            flags: bits,
            netns: 4_026_531_840,
            netns_cookie: words.number("netns", 1)?,
            socket,
            body,
        })
    }

    fn step(
        &mut self,
        name: &str,
        from: TcpState,
        to: TcpState,
        words: &Words<'_>,
    ) -> Parsed<Body> {
        self.last_step.insert(name.to_owned(), (from, to));
        if to != TcpState::Close {
            let detail = words.number("detail", 0)?;
            return Ok(Body::Transition { from, to, detail });
        }
        let mut bits = if words.has("unacked") {
            0
        } else {
            marks::ALL_ACKED
        };
        for mark in words.value("marks").unwrap_or("DEAD").split('|') {
            bits |= match mark {
                "DEAD" => marks::DEAD,
                "DONE" => marks::DONE,
                "KEEP_OPEN" => marks::KEEP_OPEN,
                "LINGER" => marks::LINGER,
                "LINGER_ZERO" => marks::LINGER_ZERO,
                "NO_SOCKET" => marks::NO_SOCKET,
                "REPAIR" => marks::REPAIR,
                "PORT_BOUND" => marks::PORT_BOUND,
                "-" => 0,
                _ => return Err(format!("unknown mark {mark}")),
            };
        }
        Ok(Body::Close {
            from,
            facts: CloseFacts {
                error: errno(words.value("error").unwrap_or("0"))?,
                soft_error: errno(words.value("soft_error").unwrap_or("0"))?,
                marks: bits,
                retransmits: words.number("retransmits", 0)?,
                probes_out: words.number("probes", 0)?,
                linger2: words.number("linger2", 0)?,
                user_timeout_ms: words.number("user_timeout", 0)?,
                unread: words.number("unread", 0)?,
                segs_out: words.number("segs_out", 6)?,
                segs_in: words.number("segs_in", 5)?,
                srtt_us: 180,
                min_rtt_us: u32::MAX,
                bytes_sent: 512,
                bytes_received: 2048,
                uid: 33,
                shutdown: words.number("shutdown", 3)?,
                ..CloseFacts::default()
            },
        })
    }

    fn other(
        &mut self,
        at: Timestamp,
        name: &str,
        verb: &str,
        address: u64,
        words: &Words<'_>,
    ) -> Parsed<Body> {
        Ok(match verb {
            "task" => {
                let tid = words.number("tid", 812)?;
                let step = words.0.iter().find_map(|word| word.split_once('>'));
                let (from, to) = match step {
                    Some((from, to)) => (state(from)?, state(to)?),
                    None => *self.last_step.get(name).ok_or("no step before")?,
                };
                let mut comm = [0; 16];
                let text = words.value("comm").unwrap_or("app").as_bytes();
                comm[..text.len()].copy_from_slice(text);
                Body::Task(Task {
                    pid: words.number("pid", tid)?,
                    tid,
                    uid: 33,
                    cgroup: 77,
                    from,
                    to,
                    comm,
                    name: comm,
                })
            }
            "timer_start" => Body::TimerStart(self.minisocket(at, name, address, true, words)?),
            "timer_cancel" => Body::TimerCancel(self.minisocket(at, name, address, false, words)?),
            "timer_expire" => Body::TimerExpire(self.minisocket(at, name, address, false, words)?),
            "schedule" => Body::Schedule(self.minisocket(at, name, address, false, words)?),
            "segment" => {
                let mut bits = 0;
                for flag in words.value("tcp").unwrap_or("ACK").split('|') {
                    bits |= match flag {
                        "FIN" => 1,
                        "SYN" => 2,
                        "RST" => 4,
                        "ACK" => 16,
                        _ => return Err(format!("unknown flag {flag}")),
                    };
                }
                Body::Segment {
                    minisocket: self.minisocket(at, name, address, false, words)?,
                    tcp_flags: bits,
                    payload: words.number("payload", 0)?,
                }
            }
            "connect" | "bind" | "socket" | "accept" => Body::CallFailed(FailedCall {
                call: match verb {
                    "connect" => Call::Connect,
                    "bind" => Call::Bind,
                    "socket" => Call::Socket,
                    _ => Call::Accept,
                },
                errno: errno(words.value("errno").ok_or("no errno")?)?,
                address: match words.value("asked") {
                    Some(asked) => Some(asked.parse().map_err(|_| "bad address")?),
                    None => None,
                },
                state: match verb {
                    "socket" => None,
                    _ => Some(state(words.value("state").unwrap_or("CLOSE"))?),
                },
                pid: words.number("tid", 812)?,
                tid: words.number("tid", 812)?,
                comm: [0; 16],
                name: [0; 16],
            }),
            "reset_received" => Body::ResetReceived { state: 1 },
            "reset_sent" => Body::ResetSent {
                state: match words.value("state") {
                    Some(name) => state(name)?.number(),
                    None => self
                        .last_step
                        .get(name)
                        .map_or(TcpState::Established, |(_, to)| *to)
                        .number(),
                },
                answers_segment: words.has("answers"),
                reason: None,
            },
            _ => return Err("unknown verb".into()),
        })
    }

    fn minisocket(
        &mut self,
        at: Timestamp,
        name: &str,
        address: u64,
        start: bool,
        words: &Words<'_>,
    ) -> Parsed<Minisocket> {
        let substate = if words.has("FIN_WAIT2") {
            TcpState::FinWait2
        } else {
            TcpState::TimeWait
        };
        let jiffies = FIRST_JIFFY + at.0 * self.hz.max(1) / 1_000_000_000;
        let key = (name.to_owned(), address);
        let kept = match (start, self.expires.get(&key)) {
            (false, Some(kept)) => *kept,
            _ => jiffies + 60 * self.hz,
        };
        let kept = match words.value("left") {
            Some(_) => jiffies + words.number("left", 0_u64)?,
            None => words.number("expires", kept)?,
        };
        self.expires.insert(key, kept);
        Ok(Minisocket {
            substate,
            expires: kept,
            jiffies: words.number("jiffies", jiffies)?,
            entry_stamp_ms: words.number("stamp", 0)?,
            tid: words.number("tid", 0)?,
        })
    }
}

fn sweep(at: Timestamp, words: &Words<'_>) -> Sweep {
    let skipped = words.value("skipped").map(|inode| Skipped {
        netns: inode.parse().ok(),
        path: String::new(),
        reason: String::new(),
    });
    Sweep {
        at,
        purpose: Purpose::Periodic,
        namespaces: 0,
        sockets: 0,
        fin_wait2s: 0,
        time_waits: 0,
        cpu: Duration::ZERO,
        skipped: skipped.into_iter().collect(),
    }
}

fn time(text: &str) -> Parsed<Timestamp> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{part:0<9}");
    let whole: u64 = whole.parse().map_err(|_| "bad time")?;
    let part: u64 = digits[..9].parse().map_err(|_| "bad time")?;
    Ok(Timestamp(whole * 1_000_000_000 + part))
}

fn state(name: &str) -> Parsed<TcpState> {
    TcpState::from_name(name).ok_or_else(|| format!("unknown state {name}"))
}

fn flow(text: &str) -> Parsed<Flow> {
    let (local, peer) = text.split_once('>').ok_or("bad flow")?;
    let end = |text: &str| -> Parsed<Endpoint> {
        let (address, port) = text.rsplit_once(':').ok_or("bad address")?;
        let address = address.trim_matches(['[', ']']);
        Ok(Endpoint {
            address: address.parse().map_err(|_| "bad address")?,
            port: port.parse().map_err(|_| "bad port")?,
        })
    };
    Ok(Flow {
        local: end(local)?,
        peer: end(peer)?,
    })
}

fn errno(name: &str) -> Parsed<u16> {
    Ok(match name {
        "0" => 0,
        "ECONNRESET" => libc::ECONNRESET as u16,
        "ECONNREFUSED" => libc::ECONNREFUSED as u16,
        "ECONNABORTED" => libc::ECONNABORTED as u16,
        "EADDRNOTAVAIL" => libc::EADDRNOTAVAIL as u16,
        "EADDRINUSE" => libc::EADDRINUSE as u16,
        "EMFILE" => libc::EMFILE as u16,
        "ENETUNREACH" => libc::ENETUNREACH as u16,
        "EPIPE" => libc::EPIPE as u16,
        "ETIMEDOUT" => libc::ETIMEDOUT as u16,
        "EHOSTUNREACH" => libc::EHOSTUNREACH as u16,
        _ => return Err(format!("unknown errno {name}")),
    })
}
