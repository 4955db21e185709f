//! Scenario files: the stream in compact lines, and the records that must come of it.
//!
//! A file in `tests/scenarios/` is comments (`#`), settings, sockets and events, then a line `---`
//! and the expected output. `UPDATE_SCENARIOS=1 cargo test --test scenarios` writes the output that
//! comes; read the difference before you keep it.
//!
//! ```text
//! config hz=250 timers=yes segments=yes resets=yes schedules=no transitions=no
//! socket NAME cookie=1 address=0x10 flow=10.0.0.5:40112>10.0.0.9:80 [v6socket]
//! SECONDS NAME FROM>TO [key=value…]          a step; to CLOSE with facts
//! SECONDS NAME task [FROM>TO] tid=812        who made the step before
//! SECONDS NAME timer_start|timer_cancel|timer_expire TIME_WAIT|FIN_WAIT2 [left=jiffies|expires=jiffies]
//! SECONDS NAME segment TIME_WAIT [tcp=FIN|RST|…] [payload=10]
//! SECONDS NAME reset_received | reset_sent state=TIME_WAIT [answers]
//! SECONDS watermark
//! lost cpu=0                                 a record of that processor found no room
//! finish
//! ```
//!
//! Every event takes `cpu=`, `seq=`, `recovered`, `owned`, `cookie=`, `address=`, `flow=`,
//! `local_port=`. Jiffies run from 1,000,000 at second 0; `expires` stays as it was set last.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;

use tracer::engine::{Config, Engine, Output};
use tracer::record::{Process, Record, Source};
use tracer::stream::{Body, Event, Minisocket, Socket, Task};
use tracer::time::Timestamp;
use tracer_common::event::{CloseFacts, flags, marks};
use tracer_common::tcp::{Endpoint, Flow, TcpState};

const FIRST_JIFFY: u64 = 1_000_000;

#[test]
fn every_scenario_gives_its_expected_output() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<_> = std::fs::read_dir(&directory)
        .expect("the scenarios' directory")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "scn"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut failures = String::new();
    for path in &paths {
        let text = std::fs::read_to_string(path).expect("a scenario");
        let (input, expected) = text.split_once("\n---\n").unwrap_or((text.trim_end(), ""));
        let output = run(input, path);
        if update {
            std::fs::write(path, format!("{input}\n---\n{output}")).expect("the scenario written");
        } else if output != expected {
            let name = path.file_name().unwrap_or_default().display();
            writeln!(
                failures,
                "== {name}\n-- expected\n{expected}-- but got\n{output}"
            )
            .unwrap();
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// Runs one scenario; whatever it does, the engine's invariants hold after each line.
fn run(input: &str, path: &Path) -> String {
    let mut script = Script::default();
    let mut output = String::new();
    for (number, line) in input.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Err(problem) = script.line(line) {
            panic!("{}:{}: {problem}: {line}", path.display(), number + 1);
        }
        script.drain(&mut output);
        assert!(
            script.engine().invariants_hold(),
            "{}:{}: {:#?}",
            path.display(),
            number + 1,
            script.engine().totals()
        );
    }
    let totals = script.engine().totals();
    writeln!(
        output,
        "totals: opened {} found {} closed {} vanished {} open {}; minisockets {} of {}; in TIME_WAIT {}; doubles {} impossible {} estab_resets {}",
        totals.opened,
        totals.found_open,
        totals.closed,
        totals.vanished,
        totals.open,
        totals.minisockets,
        totals.minisockets_seen + totals.minisockets_found,
        totals.in_time_wait,
        totals.doubles,
        totals.impossible,
        totals.estab_resets
    )
    .unwrap();
    output
}

#[derive(Default)]
struct Script {
    engine: Option<Engine>,
    hz: u64,
    sockets: HashMap<String, Socket>,
    v6: HashMap<String, bool>,
    names: BTreeMap<u64, String>,
    sequences: HashMap<u16, u32>,
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
    fn engine(&mut self) -> &mut Engine {
        self.hz = if self.hz == 0 { 250 } else { self.hz };
        let hz = self.hz as u32;
        self.engine.get_or_insert_with(|| {
            Engine::new(Config {
                hz,
                sees_timers: true,
                sees_segments: true,
                sees_resets: true,
                sees_schedules: false,
                transitions: false,
            })
        })
    }

    fn line(&mut self, line: &str) -> Parsed<()> {
        let mut words: Vec<_> = line.split_whitespace().collect();
        match words[0] {
            "config" => return self.config(&Words(words)),
            "socket" => return self.socket(&Words(words)),
            "finish" => {
                self.engine().finish();
                return Ok(());
            }
            "lost" => {
                let cpu = Words(words).number("cpu", 0_u16)?;
                *self.sequences.entry(cpu).or_default() += 1;
                return Ok(());
            }
            _ => {}
        }
        let at = time(words.remove(0))?;
        if words.first() == Some(&"watermark") {
            self.engine().handle_timeout(at);
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
            transitions: on("transitions", false),
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
            "timer_start" | "timer_cancel" | "timer_expire" | "segment"
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
        for (word, bit) in [("recovered", flags::RECOVERED), ("owned", flags::OWNED)] {
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
        let mut bits = 0;
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

    fn drain(&mut self, text: &mut String) {
        let names = self.names.clone();
        let name = |cookie: u64| names.get(&cookie).cloned().unwrap_or(format!("?{cookie}"));
        while let Some(output) = self.engine().poll() {
            match output {
                Output::Transition(row) => {
                    let stay = row.for_ns.map_or("?".into(), seconds);
                    write!(
                        text,
                        "row {} {}/{} {} {} -> {} after {stay}",
                        seconds(row.at.0),
                        name(row.cookie),
                        row.generation,
                        row.flow,
                        row.from,
                        row.to
                    )
                    .unwrap();
                    writeln!(text, "{}", process(" by", &row.process)).unwrap();
                }
                Output::Close(record) => {
                    write!(
                        text,
                        "close {} {}",
                        headline(&record, &name),
                        verdict(&record)
                    )
                    .unwrap();
                    if record
                        .time_wait
                        .is_some_and(|time_wait| time_wait.exit.is_some())
                        || record.ended_at.is_some()
                    {
                        text.push_str(" BUT ALREADY ENDED");
                    }
                    text.push('\n');
                }
                Output::End(record) => end(text, &record, &name),
            }
        }
    }
}

fn headline(record: &Record, name: &dyn Fn(u64) -> String) -> String {
    format!(
        "{}/{} {} {:?}",
        name(record.cookie),
        record.generation,
        record.flow,
        record.role
    )
}

fn verdict(record: &Record) -> String {
    let close = &record.close;
    let cause = close.cause.map_or("-".into(), |cause| format!("{cause:?}"));
    let errno = close
        .errno
        .map_or(String::new(), |errno| format!(" errno {errno}"));
    let evidence = close.evidence.join("; ");
    format!(
        "{:?} {:?} {cause}{errno} ({evidence})",
        close.kind, close.initiator
    )
}

fn end(text: &mut String, record: &Record, name: &dyn Fn(u64) -> String) {
    let close = &record.close;
    writeln!(text, "end {} {:?}", headline(record, name), close.kind).unwrap();
    let at = |at: Option<Timestamp>| at.map_or("-".into(), |at| seconds(at.0));
    let ns = |ns: Option<u64>| ns.map_or("-".into(), seconds);
    writeln!(
        text,
        "    opened {} established {} close began {} closed {} ended {}",
        at(record.opened_at),
        at(record.established_at),
        at(record.close_began_at),
        at(record.closed_at),
        at(record.ended_at)
    )
    .unwrap();
    let states: Vec<_> = record
        .states
        .iter()
        .map(|visit| format!("{} {}", visit.state, ns(visit.for_ns)))
        .collect();
    writeln!(text, "    states {}", states.join(", ")).unwrap();
    let mut extra = String::new();
    if let Some(handshake) = record.handshake_ns {
        write!(extra, " handshake {}", seconds(handshake)).unwrap();
    }
    if let Some(again) = record.syn_retransmits.filter(|again| *again > 0) {
        write!(extra, " SYNs again {again}").unwrap();
    }
    if record.source_port_bound == Some(true) {
        extra.push_str(" source port bound");
    }
    extra += &process(" opener", &record.opener);
    extra += &process(" closer", &record.closer);
    if let Some(previous) = record.previous {
        let (cookie, generation) = (name(previous.cookie), previous.generation);
        write!(
            extra,
            " previous {cookie}/{generation} {} before",
            seconds(previous.gap_ns)
        )
        .unwrap();
    }
    if !extra.is_empty() {
        writeln!(text, "   {extra}").unwrap();
    }
    if let Some(wait) = record.fin_wait2 {
        let place = if wait.in_minisocket {
            "minisocket"
        } else {
            "socket"
        };
        writeln!(
            text,
            "    FIN_WAIT2 began {} dwell {} in {place} exit {:?}",
            at(wait.began_at),
            ns(wait.dwell_ns),
            wait.exit
        )
        .unwrap();
    }
    if let Some(wait) = record.time_wait {
        let count = |count: Option<u32>| count.map_or("?".into(), |count| count.to_string());
        writeln!(
            text,
            "    TIME_WAIT entered {} from {} ({:?}) dwell {} nominal {} refreshes {} FINs again {} old data {} exit {:?}{}",
            at(wait.entered_at),
            wait.entered_from.map_or("?", TcpState::name),
            wait.entry_precision,
            ns(wait.dwell_ns),
            seconds(wait.nominal_ns),
            wait.refreshes,
            count(wait.fin_retransmits),
            count(wait.old_duplicates),
            wait.exit,
            if wait.late { " LATE" } else { "" }
        )
        .unwrap();
    }
    if let Some(skipped) = record.time_wait_skipped {
        writeln!(text, "    TIME_WAIT skipped: {skipped:?}").unwrap();
    }
    if !record.incomplete.is_empty() {
        writeln!(text, "    incomplete: {:?}", record.incomplete).unwrap();
    }
}

fn process(what: &str, process: &Process) -> String {
    match (process.tid, process.source) {
        (Some(tid), Source::Exact) => format!("{what} {tid}"),
        (Some(tid), source) => format!("{what} {tid} ({source:?})"),
        (None, _) => String::new(),
    }
}

fn seconds(nanoseconds: u64) -> String {
    let text = format!(
        "{}.{:09}",
        nanoseconds / 1_000_000_000,
        nanoseconds % 1_000_000_000
    );
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
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
        "EPIPE" => libc::EPIPE as u16,
        "ETIMEDOUT" => libc::ETIMEDOUT as u16,
        "EHOSTUNREACH" => libc::EHOSTUNREACH as u16,
        _ => return Err(format!("unknown errno {name}")),
    })
}
