//! The lines of `tracer watch --json`, as far as the tests look at them. A line that does not fit
//! is a failure: the field names are a contract.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer};

use crate::kernel::Wall;

/// One line.
#[derive(Debug)]
pub enum Line {
    /// The first.
    Meta(Meta),
    /// With `--transitions`.
    Transition(Transition),
    /// The verdict.
    Close(Record),
    /// The tuple is free again.
    End(Record),
    /// With `--calls`.
    Call(Call),
    /// Events were lost.
    Loss(Loss),
    /// All namespaces were looked at.
    Inventory(Inventory),
    /// The last.
    Summary(Summary),
    /// A type that the tests do not know.
    Other,
}

impl Line {
    /// Reads one; an error names the line.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let shown = || String::from_utf8_lossy(line).into_owned();
        let rest = line
            .strip_prefix(br#"{"type":""#)
            .ok_or_else(|| format!("a line does not begin with its type: {}", shown()))?;
        let kind = rest.split(|byte| *byte == b'"').next().unwrap_or_default();
        let parsed = match kind {
            b"meta" => serde_json::from_slice(line).map(Self::Meta),
            b"transition" => serde_json::from_slice(line).map(Self::Transition),
            b"close" => serde_json::from_slice(line).map(Self::Close),
            b"end" => serde_json::from_slice(line).map(Self::End),
            b"call" => serde_json::from_slice(line).map(Self::Call),
            b"loss" => serde_json::from_slice(line).map(Self::Loss),
            b"inventory" => serde_json::from_slice(line).map(Self::Inventory),
            b"summary" => serde_json::from_slice(line).map(Self::Summary),
            _ => Ok(Self::Other),
        };
        parsed.map_err(|error| format!("{error}: {}", shown()))
    }
}

/// What the program says of itself and the host.
#[derive(Clone, Debug, Deserialize)]
pub struct Meta {
    /// CONFIG_HZ.
    pub hz: u32,
    /// The probes and their states, in whatever form.
    pub probes: serde_json::Value,
}

impl Meta {
    /// The state of the program of this name.
    pub fn state(&self, program: &str) -> String {
        let mut probes = self.probes.as_array().into_iter().flatten();
        let probe = probes.find(|probe| probe["name"] == program);
        let state = probe.and_then(|probe| probe["state"].as_str());
        state.unwrap_or("absent").to_owned()
    }

    /// Whether the program of this name is attached.
    pub fn has(&self, program: &str) -> bool {
        self.state(program) == "attached"
    }

    /// Whether FIN_WAIT2 → TIME_WAIT is seen as it happens: by the segment that brings it (Linux
    /// 6.11 and later), or by the setting of the timer. Without, it shows at the end alone, by when
    /// the timer was set last.
    pub fn sees_flips(&self) -> bool {
        self.has("free_segment") || self.has("schedule")
    }
}

/// A system call that failed.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    pub call: String,
    pub errno: String,
    /// What was asked for.
    pub address: Option<Endpoint>,
    pub state: Option<String>,
    pub netns: Option<u32>,
    pub local: Endpoint,
    pub pid: u32,
    pub tid: u32,
    pub comm: String,
    pub name: String,
    pub has_record: bool,
}

/// A connection, at its verdict or at its end.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    pub id: String,
    pub generation: u32,
    pub netns: u32,
    pub family: Option<String>,
    pub socket_family: Option<String>,
    pub local: Endpoint,
    pub peer: Endpoint,
    pub role: String,
    pub source_port_bound: Option<bool>,
    #[serde(default, deserialize_with = "wall")]
    pub opened_at: Option<Wall>,
    #[serde(default, deserialize_with = "wall")]
    pub closed_at: Option<Wall>,
    #[serde(default, deserialize_with = "wall")]
    pub ended_at: Option<Wall>,
    pub handshake_ns: Option<u64>,
    pub syn_retransmits: Option<u32>,
    pub states: Vec<Visit>,
    pub close: Close,
    pub fin_wait2: Option<FinWait2>,
    pub time_wait: Option<TimeWait>,
    pub time_wait_skipped: Option<String>,
    pub previous: Option<Previous>,
    pub process: Option<Processes>,
    pub uid: Option<u32>,
    pub cgroup: Option<String>,
    pub unit: Option<String>,
    pub container: Option<Container>,
    pub traffic: Option<Traffic>,
    pub complete: bool,
    pub incomplete_reasons: Vec<String>,
}

impl Record {
    /// When it came to this state.
    pub fn arrival_in(&self, state: &str) -> Option<Wall> {
        let visit = self.states.iter().find(|visit| visit.state == state)?;
        visit.at
    }

    /// The names of the states in order.
    pub fn path(&self) -> Vec<&str> {
        self.states
            .iter()
            .map(|visit| visit.state.as_str())
            .collect()
    }

    /// Whether a minisocket was seen, in either of its states.
    pub fn has_minisocket(&self) -> bool {
        self.time_wait.is_some()
            || self
                .fin_wait2
                .as_ref()
                .is_some_and(|fin_wait2| fin_wait2.in_minisocket)
    }

    /// How the TIME_WAIT ended; `None`: there was none, or it lasts.
    pub fn time_wait_exit(&self) -> Option<&str> {
        self.time_wait.as_ref()?.exit.as_deref()
    }

    /// Kind and cause in one word, as the tests write them.
    pub fn verdict(&self) -> String {
        match &self.close.cause {
            Some(cause) => format!("{}/{cause}", self.close.kind),
            None => self.close.kind.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self {
            address: Some(address.ip().to_canonical()),
            port: Some(address.port()),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct Visit {
    pub state: String,
    #[serde(default, deserialize_with = "wall")]
    pub at: Option<Wall>,
    pub for_ns: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Close {
    pub kind: String,
    pub initiator: String,
    pub cause: Option<String>,
    pub errno: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct FinWait2 {
    pub dwell_ns: Option<u64>,
    pub in_minisocket: bool,
    pub exit: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct TimeWait {
    #[serde(default, deserialize_with = "wall")]
    pub entered_at: Option<Wall>,
    pub entered_from: Option<String>,
    pub entry_precision: String,
    pub dwell_ns: Option<u64>,
    pub nominal_ns: u64,
    pub refreshes: u32,
    pub fin_retransmits: Option<u32>,
    pub old_duplicates: Option<u32>,
    pub exit: Option<String>,
    pub late: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Previous {
    pub id: String,
    pub generation: u32,
    pub gap_ns: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Processes {
    pub opener: Process,
    pub closer: Process,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    pub pid: Option<u32>,
    pub tid: Option<u32>,
    pub comm: Option<String>,
    pub name: Option<String>,
    pub source: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Container {
    pub id: String,
    pub runtime: Option<String>,
    pub pod_uid: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Traffic {
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// A state change.
#[derive(Clone, Debug, Deserialize)]
pub struct Transition {
    pub id: String,
    pub netns: u32,
    pub local: Endpoint,
    pub peer: Endpoint,
    pub from: String,
    pub to: String,
}

/// A `loss` line.
#[derive(Clone, Debug, Deserialize)]
pub struct Loss {
    /// Records that found no room in the ring.
    pub count: u64,
}

/// An `inventory` line.
#[derive(Clone, Debug, Deserialize)]
pub struct Inventory {
    pub purpose: String,
    pub namespaces: u64,
    pub sockets: u64,
    pub fin_wait2s: u64,
    pub time_waits: u64,
    pub cpu_ns: u64,
    pub skipped: Vec<Skipped>,
}

/// What was not looked at.
#[derive(Clone, Debug, Deserialize)]
pub struct Skipped {
    pub netns: Option<u32>,
    pub path: String,
    pub reason: String,
}

/// The last line.
#[derive(Clone, Debug, Deserialize)]
pub struct Summary {
    pub opened: u64,
    pub closed: u64,
    pub ended: u64,
    pub open: u64,
    pub in_time_wait: u64,
    pub shown_open: u64,
    pub shown_in_time_wait: u64,
    pub hits: u64,
    pub received: u64,
    pub ring_lost: u64,
    pub missed: u64,
}

fn wall<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Wall>, D::Error> {
    let Some(text) = Option::<&str>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let stamp: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
    i64::try_from(stamp.as_nanosecond())
        .map(Some)
        .map_err(serde::de::Error::custom)
}

#[test]
fn the_example_line_of_the_contract_parses() {
    let line = br#"{"type":"end","id":"4099","generation":0,"netns":4026531840,"netns_cookie":"1","netns_name":null,
 "family":"ipv4","socket_family":"ipv6","local":{"address":"10.0.0.5","port":40112},"peer":{"address":"10.0.0.9","port":3306},
 "role":"client","source_port_bound":false,
 "opened_at":"2026-11-20T23:58:01.123456789Z","established_at":null,"close_began_at":null,"closed_at":null,"ended_at":null,"monotonic_ns":874105959716,
 "handshake_ns":324000,"syn_retransmits":0,
 "states":[{"state":"SYN_SENT","at":"2026-11-20T23:58:01.123456789Z","for_ns":324000},{"state":"TIME_WAIT","at":"2026-11-20T23:58:01.2Z","for_ns":60960000000}],
 "close":{"kind":"active","initiator":"local","cause":"fin","errno":null,"evidence":["a"]},
 "fin_wait2":{"began_at":null,"dwell_ns":158000000,"in_minisocket":true,"exit":"peer_fin"},
 "time_wait":{"entered_at":null,"entered_from":"FIN_WAIT2","entry_precision":"exact","dwell_ns":60960000000,"nominal_ns":60000000000,
              "refreshes":0,"fin_retransmits":0,"old_duplicates":0,"exit":"expired","late":false},"time_wait_skipped":null,
 "previous":null,
 "process":{"opener":{"pid":812,"tid":812,"comm":"php-fpm","name":"php-fpm","source":"exact"},"closer":{"pid":812,"tid":812,"comm":"php-fpm","name":"php-fpm","source":"exact"}},
 "uid":33,"cgroup":"/system.slice/php-fpm.service","container":null,
 "traffic":{"bytes_sent":512,"bytes_received":2048,"segments_sent":6,"segments_received":5,"retransmits":0,"srtt_us":180,"min_rtt_us":120},
 "complete":true,"incomplete_reasons":[]}"#;
    let Ok(Line::End(record)) = Line::parse(line) else {
        panic!("not an end line: {:?}", Line::parse(line));
    };
    assert_eq!(record.verdict(), "active/fin");
    assert_eq!(record.path(), ["SYN_SENT", "TIME_WAIT"]);
    assert_eq!(record.opened_at, Some(1_795_219_081_123_456_789));
    assert!(record.has_minisocket());
    assert_eq!(record.time_wait_exit(), Some("expired"));
}
