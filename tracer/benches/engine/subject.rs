//! What is measured: decoding and the engine, fed as the pipeline feeds them. All that comes out is
//! held against what went in: who feeds garbage measures nothing.

use std::hint::black_box;

use bytes::Bytes;
use tracer::decode::{self, DecodeError};
use tracer::engine::{Config, EVENTS_AHEAD, Engine, Output};
use tracer::record::{CloseKind, Record, TimeWaitExit};
use tracer::stream::Event;
use tracer::time::Timestamp;

use crate::meter::Calls;
use crate::traffic::{HZ, SECOND, Told, Traffic};
use crate::wire::Identity;

/// One record in so many is compared with what its connection was.
const COMPARED: u64 = 1 << 10;

/// Calls of handle_timeout() at one time.
const ENOUGH: u64 = 1 << 28;

/// Makes the engine's calls.
pub trait Caller {
    fn call<R>(&mut self, call: impl FnOnce() -> R) -> R;
}

/// Without looking at the clock.
pub struct Untimed;

impl Caller for Untimed {
    #[inline]
    fn call<R>(&mut self, call: impl FnOnce() -> R) -> R {
        call()
    }
}

impl Caller for Calls {
    #[inline]
    fn call<R>(&mut self, call: impl FnOnce() -> R) -> R {
        self.time(call)
    }
}

/// What came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    active: u64,
    passive: u64,
    other: u64,
    ends: u64,
    expired: u64,
    incomplete: u64,
    wrong: u64,
}

/// The engine and what came out of it.
pub struct Subject {
    engine: Engine,
    seen: Seen,
}

impl Subject {
    pub fn new() -> Self {
        Self::bounded(usize::MAX)
    }

    /// An engine that follows so many connections at most.
    pub fn bounded(connections: usize) -> Self {
        Self {
            engine: Engine::new(Config {
                hz: HZ as u32,
                sees_timers: true,
                sees_segments: true,
                sees_resets: true,
                sees_schedules: false,
                rows: true,
                transitions: false,
                holdings: false,
                connections,
            }),
            seen: Seen::default(),
        }
    }

    /// Connections that were let go.
    pub fn evicted(&self) -> u64 {
        self.engine.totals().evicted.all()
    }

    /// Takes a batch in, and its watermark.
    #[inline(never)]
    pub fn take(&mut self, mut batch: Bytes, now: u64, caller: &mut impl Caller) {
        let mut events = Vec::with_capacity(EVENTS_AHEAD);
        while !batch.is_empty() {
            if !self.engine.wants_to_expect() {
                // Looked at where it was decoded: a copy would wait for what was just written.
                match &decode::next_event(&mut batch) {
                    Some(Ok(event)) => self.handle(event, caller),
                    Some(Err(error)) => refuse(*error),
                    None => break,
                }
                continue;
            }
            decode::next_events(&mut batch, &mut events, |error| refuse(error));
            caller.call(|| self.engine.expect(&events));
            for event in &events {
                self.handle(event, caller);
            }
        }
        self.reach(now, caller);
    }

    #[inline]
    fn handle(&mut self, event: &Event, caller: &mut impl Caller) {
        while caller.call(|| self.engine.settle_before(event)) {
            self.poll(caller);
        }
        caller.call(|| self.engine.handle_event(event));
        self.poll(caller);
    }

    /// The time is `now`: what is due by then is done, in as many calls as the engine wants.
    ///
    /// # Panics
    /// Where it never has enough.
    pub fn reach(&mut self, now: u64, caller: &mut impl Caller) {
        let now = Timestamp(now);
        for _ in 0..ENOUGH {
            caller.call(|| self.engine.handle_timeout(now));
            self.poll(caller);
            if self.engine.poll_timeout().is_none_or(|due| due > now) {
                return;
            }
        }
        panic!("the engine has always something more to do at one time");
    }

    fn poll(&mut self, caller: &mut impl Caller) {
        while let Some(output) = caller.call(|| self.engine.poll()) {
            match black_box(output) {
                Output::Close(record) => self.look_at_verdict(&record),
                Output::Over(record) => {
                    self.look_at_verdict(&record);
                    self.seen.ends += 1;
                }
                Output::End(record) => {
                    let exit = record.time_wait.and_then(|time_wait| time_wait.exit);
                    self.seen.ends += 1;
                    self.seen.expired += u64::from(exit == Some(TimeWaitExit::Expired));
                    self.look_at(&record);
                }
                _ => self.seen.other += 1,
            }
        }
    }

    fn look_at_verdict(&mut self, record: &Record) {
        match record.close.kind {
            CloseKind::Active => self.seen.active += 1,
            CloseKind::Passive => self.seen.passive += 1,
            _ => self.seen.other += 1,
        }
        self.look_at(record);
    }

    fn look_at(&mut self, record: &Record) {
        self.seen.incomplete += u64::from(!record.incomplete.is_empty());
        if record.cookie % COMPARED < 4 {
            self.seen.wrong += u64::from(!is_right(record));
        }
    }

    /// What came out is what `traffic` told. Lets a moment pass first.
    ///
    /// # Panics
    /// Where it is not.
    pub fn check(&mut self, traffic: &Traffic, overdue: u64) {
        self.reach(traffic.now() + SECOND / 100, &mut Untimed);
        let Told {
            opened,
            closed_clients,
            closed_servers,
            time_waits_ended,
            ..
        } = traffic.told();
        let expected = Seen {
            active: closed_clients,
            passive: closed_servers,
            other: 0,
            ends: closed_servers + time_waits_ended + overdue,
            expired: time_waits_ended,
            incomplete: overdue,
            wrong: 0,
        };
        assert_eq!(self.seen, expected, "what came out is not what went in");
        let totals = self.engine.totals();
        let listeners = totals.opened_listeners;
        let found = [
            totals.opened - listeners,
            totals.closed,
            totals.in_time_wait,
            totals.open - listeners,
            totals.minisockets_overdue,
        ];
        let expected = [
            opened,
            closed_clients + closed_servers,
            closed_clients - time_waits_ended - overdue,
            opened - closed_clients - closed_servers,
            overdue,
        ];
        assert_eq!(found, expected, "{totals:#?}");
        let strange = [
            totals.found_open,
            totals.vanished,
            totals.minisockets_found,
            totals.minisockets_killed,
            totals.doubles,
            totals.impossible,
            totals.unknown_closes,
            totals.incomplete_closes,
        ];
        assert_eq!(strange, [0; 8], "{totals:#?}");
    }
}

/// Whether a record tells of the connection that its cookie names.
fn is_right(record: &Record) -> bool {
    let identity = Identity(record.cookie);
    let ports = (record.flow.local.port, record.flow.peer.port);
    let comm = if identity.is_server() {
        record.closer.comm
    } else {
        record.opener.comm
    };
    let opener = record.opener.comm.is_some() && record.opener.name.is_some();
    opener
        && comm == Some(identity.comm())
        && ports == identity.ports()
        && record.flow.local.address.is_ipv6() == identity.is_v6()
        && record.socket_is_v6 == identity.is_v6()
        && record.states.len() == if identity.is_server() { 4 } else { 5 }
        && record.traffic.is_some()
}

#[cold]
fn refuse(error: DecodeError) -> ! {
    panic!("a record of the benchmark's cannot be decoded: {error}");
}
