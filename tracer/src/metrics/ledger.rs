//! What is counted of every record, and the families that come of it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::routes::{Outlooks, families as of_routes};
use super::{Family, Histogram, Sample, Unit, Value};
use crate::consumer::Books;
use crate::engine::{EndedBy, EnteredFrom, Evicted};
use crate::output::errno;
use crate::record::{Call, CloseCause, CloseKind, Initiator, Record, Role, TimeWaitSkipped};
use crate::stream::{Meta, ProbeState};

/// Seconds. TIME_WAIT is 60 s and the timer wheel's slack of up to 4; what is shorter was cut short,
/// what is longer was refreshed.
const TIME_WAIT: &[f64] = &[
    0.001, 0.01, 0.1, 1.0, 5.0, 15.0, 30.0, 55.0, 60.0, 61.0, 62.0, 64.0, 68.0, 80.0, 120.0, 240.0,
];
/// Seconds. tcp_fin_timeout is 60 s.
const FIN_WAIT2: &[f64] = &[
    0.000_1, 0.001, 0.01, 0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 64.0, 120.0,
];
/// Seconds. A SYN is sent again after 1, 3, 7 and 15.
const HANDSHAKE: &[f64] = &[
    0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 3.5, 7.5, 16.0,
];
/// Seconds.
const CONNECTION: &[f64] = &[0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 86_400.0];

/// What a close is counted under: kind, cause, and the numbers of initiator and role.
type Close = (CloseKind, Option<CloseCause>, usize, usize);

/// The counts since the start.
#[derive(Debug)]
pub struct Ledger {
    probes: Vec<(&'static str, bool)>,
    /// The most connections that are followed at once.
    most_connections: usize,
    closes: BTreeMap<Close, u64>,
    /// System calls that failed, by their names and errnos.
    calls: BTreeMap<(&'static str, u16), u64>,
    /// Closes that had no TIME_WAIT where one was due.
    overflows: u64,
    refreshes: u64,
    time_wait: Histogram,
    fin_wait2: Histogram,
    handshake: Histogram,
    connection: Histogram,
}

impl Ledger {
    /// Nothing is counted yet; `meta` tells which probes are attached. At most `most_connections`
    /// are followed at once.
    #[must_use]
    pub fn new(meta: &Meta, most_connections: usize) -> Self {
        let is_up = |state: &ProbeState| matches!(state, ProbeState::Attached);
        Self {
            probes: (meta.probes.iter())
                .map(|probe| (probe.name, is_up(&probe.state)))
                .collect(),
            most_connections,
            closes: BTreeMap::new(),
            calls: BTreeMap::new(),
            overflows: 0,
            refreshes: 0,
            time_wait: Histogram::new(TIME_WAIT),
            fin_wait2: Histogram::new(FIN_WAIT2),
            handshake: Histogram::new(HANDSHAKE),
            connection: Histogram::new(CONNECTION),
        }
    }

    /// Counts a verdict.
    pub fn close(&mut self, record: &Record) {
        let close = record.close;
        let key = (
            close.kind,
            close.cause,
            close.initiator as usize,
            record.role as usize,
        );
        *self.closes.entry(key).or_default() += 1;
        match record.time_wait_skipped {
            Some(TimeWaitSkipped::Overflow) => self.overflows += 1,
            None => {}
        }
        if let Some(handshake) = record.handshake_ns {
            self.handshake.observe_ns(handshake);
        }
        if record.role != Role::Listener
            && let (Some(opened), Some(closed)) = (record.opened_at, record.closed_at)
        {
            self.connection.observe_ns(closed.since(opened));
        }
    }

    /// Counts the end of a record, whose verdict has been counted.
    pub fn end(&mut self, record: &Record) {
        if let Some(dwell) = record.fin_wait2.and_then(|wait| wait.dwell_ns) {
            self.fin_wait2.observe_ns(dwell);
        }
        if let Some(wait) = record.time_wait {
            self.refreshes += u64::from(wait.refreshes);
            if let Some(dwell) = wait.dwell_ns {
                self.time_wait.observe_ns(dwell);
            }
        }
    }

    /// Counts a system call that failed.
    pub fn call(&mut self, call: &Call) {
        let key = (call.failed.call.name(), call.failed.errno);
        *self.calls.entry(key).or_default() += 1;
    }

    /// Everything, as it stands. What has few series and must not be missed comes first.
    #[must_use]
    pub fn families(
        &self,
        books: &Books<'_>,
        findings: impl IntoIterator<Item = Family>,
        routes: &Outlooks,
    ) -> Vec<Family> {
        let mut families = self.of_the_agent(books);
        families.extend(findings);
        families.extend(self.of_connections(books));
        families.extend(self.of_durations());
        families.extend(of_routes(routes));
        families
    }

    /// Clients that sent no SYN: the kernel found no port for them, and did not count them.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        let is_unsent = |cause| matches!(cause, CloseCause::NoPort | CloseCause::TupleInUse);
        let closes = self.closes.iter();
        let unsent = closes.filter(|((_, cause, ..), _)| cause.is_some_and(is_unsent));
        unsent.map(|(_, count)| count).sum()
    }

    fn of_the_agent(&self, books: &Books<'_>) -> Vec<Family> {
        let labelled = |name, label: &'static str, count| {
            Sample::of([(name, label.into())], Value::Counter(count))
        };
        let events = [
            ("received", books.received),
            ("ring_lost", books.reading.ring_lost),
            ("missed", books.missed),
        ];
        let probes = self.probes.iter().map(|(name, is_up)| {
            let label = ("probe", (*name).into());
            let is_up = *is_up && !books.reading.gone.contains(name);
            Sample::of([label], Value::Gauge(f64::from(u8::from(is_up))))
        });
        let programs = &books.reading.programs;
        // The kernel counts them only while its statistics are on: a 0 would be a lie.
        let counted = || programs.iter().filter(|program| program.runs > 0);
        let runs = counted().map(|program| labelled("probe", program.name, program.runs));
        let seconds = counted().map(|program| {
            let label = ("probe", program.name.into());
            Sample::of([label], Value::Sum(program.nanoseconds as f64 / 1e9))
        });
        vec![
            Family::new(
                "tracer.events",
                "Events that the hooks met: received, lost for want of room in the ring, or missed \
                 because no program was run",
                Unit::None,
                events.map(|(result, count)| labelled("result", result, count)),
            ),
            Family::new(
                "tracer.probe_up",
                "Whether a probe is attached",
                Unit::None,
                probes,
            ),
            Family::new(
                "tracer.probe_runs",
                "Runs of a probe's program, while kernel.bpf_stats_enabled is set",
                Unit::None,
                runs,
            ),
            Family::new(
                "tracer.probe",
                "Time in a probe's program, while kernel.bpf_stats_enabled is set",
                Unit::Seconds,
                seconds,
            ),
            gauge(
                "tracer.connections.tracked",
                "Connections that are followed now, those in TIME_WAIT among them",
                books.totals.tracked(),
            ),
            gauge(
                "tracer.connections.limit",
                "The most connections that are followed at once: trace.connections",
                self.most_connections as u64,
            ),
            Family::new(
                "tracer.connections.evicted",
                "Connections that were let go because the limit was reached, by what they held",
                Unit::None,
                evicted(&books.totals.evicted)
                    .map(|(state, count)| labelled("state", state, count)),
            ),
            Family::new(
                "tracer.connections.passed_over",
                "How often a connection was met that began before, and was not taken up because the \
                 limit was reached: each look at all sockets meets it again",
                Unit::None,
                [Sample::alone(Value::Counter(books.totals.passed_over))],
            ),
        ]
    }

    fn of_connections(&self, books: &Books<'_>) -> Vec<Family> {
        let totals = books.totals;
        let counts = |name: &'static str, counts: &[(&'static str, u64)]| {
            let sample = |(label, count): &(&'static str, u64)| {
                Sample::of([(name, (*label).into())], Value::Counter(*count))
            };
            counts.iter().map(sample).collect::<Vec<_>>()
        };
        let opens = [
            (Role::Client, totals.opened_clients),
            (Role::Server, totals.opened_servers),
            (Role::Listener, totals.opened_listeners),
        ]
        .map(|(role, count)| (role.name(), count));
        let EnteredFrom {
            fin_wait2,
            closing,
            fin_wait1,
            unknown,
        } = totals.entered_from;
        let entries = [
            ("FIN_WAIT2", fin_wait2),
            ("CLOSING", closing),
            ("FIN_WAIT1", fin_wait1),
            ("unknown", unknown),
        ];
        vec![
            Family::new(
                "tracer.tcp.opens",
                "Sockets that were seen to open",
                Unit::None,
                counts("role", &opens),
            ),
            Family::new(
                "tracer.tcp.closes",
                "Sockets that came to CLOSE, by how, why, who began, and the side of the handshake",
                Unit::None,
                self.closes
                    .iter()
                    .map(|((kind, cause, initiator, role), count)| {
                        Sample::of(
                            [
                                ("kind", kind.name().into()),
                                ("cause", cause.map_or("", CloseCause::name).into()),
                                ("initiator", Initiator::ALL[*initiator].name().into()),
                                ("role", Role::ALL[*role].name().into()),
                            ],
                            Value::Counter(*count),
                        )
                    }),
            ),
            Family::new(
                "tracer.tcp.connect_failures",
                "connect() calls that failed after TCP had begun, by why",
                Unit::None,
                counts("cause", &self.connect_failures()),
            ),
            Family::new(
                "tracer.calls.failed",
                "connect(), bind(), socket() and accept() calls that failed, where trace.calls is \
                 set",
                Unit::None,
                self.calls.iter().map(|((call, errno), count)| {
                    let name = errno::name(*errno).map(Cow::from);
                    let name = name.unwrap_or_else(|| format!("E{errno}").into());
                    Sample::of(
                        [("call", (*call).into()), ("errno", name)],
                        Value::Counter(*count),
                    )
                }),
            ),
            Family::new(
                "tracer.tcp.time_wait_entries",
                "TIME_WAITs that were entered, by the state before",
                Unit::None,
                counts("from", &entries),
            ),
            Family::new(
                "tracer.tcp.time_wait_skipped",
                "Closes without the TIME_WAIT that was due, by why: overflow is tcp_max_tw_buckets \
                 or memory",
                Unit::None,
                counts(
                    "reason",
                    &[(TimeWaitSkipped::Overflow.name(), self.overflows)],
                ),
            ),
            Family::new(
                "tracer.tcp.time_wait_ends",
                "TIME_WAITs that ended, by how",
                Unit::None,
                counts("exit", &ends(&totals.ended_by)),
            ),
            Family::new(
                "tracer.tcp.time_wait_refreshes",
                "How often the timers of TIME_WAITs were set anew, counted when these end",
                Unit::None,
                [Sample::alone(Value::Counter(self.refreshes))],
            ),
            gauge(
                "tracer.tcp.time_wait_current",
                "Connections in TIME_WAIT now",
                totals.in_time_wait,
            ),
        ]
    }

    fn of_durations(&self) -> Vec<Family> {
        let histogram = |name, help, histogram: &Histogram| {
            let value = Value::Histogram(histogram.clone());
            Family::new(name, help, Unit::Seconds, [Sample::alone(value)])
        };
        vec![
            histogram(
                "tracer.tcp.time_wait",
                "How long TIME_WAIT held a connection, measured from entry to end",
                &self.time_wait,
            ),
            histogram(
                "tracer.tcp.fin_wait2",
                "How long the peer's FIN was waited for, in socket and minisocket",
                &self.fin_wait2,
            ),
            histogram(
                "tracer.tcp.handshake",
                "SYN_SENT to ESTABLISHED, of clients",
                &self.handshake,
            ),
            histogram(
                "tracer.tcp.connection",
                "From the opening of a connection to CLOSE",
                &self.connection,
            ),
        ]
    }

    /// By cause; each that there is from the start, so that a first failure is a change.
    fn connect_failures(&self) -> Vec<(&'static str, u64)> {
        let causes = [
            CloseCause::Refused,
            CloseCause::TimedOut,
            CloseCause::NoPort,
            CloseCause::TupleInUse,
            CloseCause::Unreachable,
            CloseCause::Abandoned,
        ];
        let of = |wanted| {
            let failed = self.closes.iter().filter(|((kind, cause, ..), _)| {
                (*kind, *cause) == (CloseKind::ConnectFailed, Some(wanted))
            });
            failed.map(|(_, count)| count).sum()
        };
        causes.map(|cause| (cause.name(), of(cause))).into()
    }
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Family {
    let sample = Sample::alone(Value::Gauge(value as f64));
    Family::new(name, help, Unit::None, [sample])
}

fn evicted(evicted: &Evicted) -> [(&'static str, u64); 3] {
    let Evicted {
        open,
        fin_wait2,
        time_wait,
    } = *evicted;
    [
        ("open", open),
        ("FIN_WAIT2", fin_wait2),
        ("TIME_WAIT", time_wait),
    ]
}

fn ends(by: &EndedBy) -> [(&'static str, u64); 7] {
    let EndedBy {
        expired,
        reused_by_connect,
        reused_by_syn,
        reset,
        purged,
        destroyed,
        unknown,
    } = *by;
    [
        ("expired", expired),
        ("reused_by_connect", reused_by_connect),
        ("reused_by_syn", reused_by_syn),
        ("reset", reset),
        ("purged", purged),
        ("destroyed", destroyed),
        ("unknown", unknown),
    ]
}
