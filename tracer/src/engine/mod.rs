//! The sans-I/O core: events go in, finished rows come out. It reads no clock; time is the
//! stream's, the latest of the events' stamps and the watermarks.
//!
//! ```text
//! settle_before(&Event)     before each event, until it says that there is no more to settle
//! handle_event(&Event)      each event, in the ring's order
//! handle_timeout(now)       each watermark
//! poll() -> Option<Output>  after each of the three, until it gives None
//! expect(&[Event])          before some events, to have at hand what they need
//! poll_timeout()            when a watermark would bring something
//! handle_loss(now)          where events were lost
//! handle_inventory(…)       what sock_diag says of a network namespace
//! handle_sweep(…)           once it was asked of all of them
//! finish()                  once, when the stream has ended; then poll() again
//! ```
//!
//! A connection lives in the table from its first event to the end of its TIME_WAIT. `state.rs`
//! checks its steps, `close.rs` gives the verdict one millisecond after CLOSE, `timewait.rs`
//! follows the minisocket, `reuse.rs` tells who took the tuple. Where there are too many, `room.rs`
//! lets one go. `patience.rs` keeps each call short.
//!
//! `table.rs` finds a connection by its names. It is 192 bytes (`connection.rs`, in a `slab.rs`) while
//! it is open, and some 120 (`pack.rs`, in an `arena.rs`) while nothing is awaited but the end of its
//! minisocket; an `index.rs` of some 20 bytes comes to either.

mod ahead;
mod alike;
mod arena;
mod calls;
mod close;
mod connecting;
mod connection;
mod ended;
mod finished;
mod hash;
mod holdings;
mod index;
mod inventory;
mod key;
mod lexicon;
mod loss;
mod minisockets;
mod names;
mod outputs;
mod pack;
mod patience;
mod processors;
mod queue;
mod reuse;
mod room;
mod slab;
mod sockets;
mod state;
mod table;
mod timeline;
mod timers;
mod timewait;
mod totals;

use tracer_common::event::flags;
use tracer_common::tcp::TcpState;

use crate::record::holding::HoldingChange;
use crate::record::{Call, Incomplete, Process, Record, Source, TransitionRow};
use crate::stream::{Body, Event, Inventory, Sweep, Task};
use crate::time::Timestamp;

use connecting::Connecting;
use connection::{Bit, Connection};
use ended::{Ended, Memory};
use finished::Stage;
use inventory::Search;
use loss::Losses;
use outputs::Outputs;
use patience::Patience;
use processors::Processors;
use table::{Id, Table};
use timers::Timers;
use timewait::{Jiffies, Minisocket};

pub use ahead::EVENTS_AHEAD;
pub use totals::{EndedBy, EnteredFrom, Evicted, Totals};

/// What the engine must know of the host and of its probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Timer interrupts a second.
    pub hz: u32,
    /// The timers of minisockets are seen: without them no TIME_WAIT is claimed.
    pub sees_timers: bool,
    /// The segments that minisockets handle are seen.
    pub sees_segments: bool,
    /// The resets that are received and sent are seen: without them no verdict rests on there
    /// having been none.
    pub sees_resets: bool,
    /// Every setting of a minisocket's timer is seen.
    pub sees_schedules: bool,
    /// Whether to give [`Output::Close`], [`Output::End`] and [`Output::Call`]: where nobody wants
    /// them, [`Totals`] still counts them.
    pub rows: bool,
    /// Whether to give [`Output::Transition`].
    pub transitions: bool,
    /// Whether to give [`Output::Holding`].
    pub holdings: bool,
    /// The most connections that are followed at once: beyond it one is let go for each that comes.
    pub connections: usize,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A state change.
    Transition(Box<TransitionRow>),
    /// The verdict on a close, one millisecond after it.
    Close(Box<Record>),
    /// The tuple is free again: the whole record.
    End(Box<Record>),
    /// The verdict on a close with which the tuple came free: [`Self::Close`] and [`Self::End`] in
    /// one, which would tell the same but for when it ended.
    Over(Box<Record>),
    /// A tuple is held otherwise than before, or free.
    Holding(Box<HoldingChange>),
    /// A system call failed.
    Call(Box<Call>),
}

/// A connection that is still held.
#[derive(Clone, Debug, PartialEq)]
pub struct Remaining {
    /// What is known of it so far; without a verdict, that is unknown.
    pub record: Record,
    /// Its full socket lives.
    pub open: bool,
    /// It waits in TIME_WAIT.
    pub in_time_wait: bool,
}

/// The engine.
pub struct Engine {
    config: Config,
    jiffies: Jiffies,
    now: Timestamp,
    table: Table,
    timers: Timers,
    ended: Memory,
    connecting: Connecting,
    processors: Processors,
    losses: Losses,
    search: Search,
    outputs: Outputs,
    totals: Totals,
}

impl Engine {
    /// An engine that has seen nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let jiffies = Jiffies::new(config.hz);
        Self {
            config,
            jiffies,
            now: Timestamp::default(),
            table: Table::new(jiffies, config.holdings),
            timers: Timers::new(),
            ended: Memory::new(),
            connecting: Connecting::new(),
            processors: Processors::default(),
            losses: Losses::default(),
            search: Search::default(),
            outputs: Outputs::default(),
            totals: Totals::default(),
        }
    }

    /// Takes an event in. Call it in the ring's order, then [`Self::poll`] until that gives `None`.
    ///
    /// The event's stamp moves the time first, so what was waited for until then is settled without
    /// it. A stamp that is earlier than one before it changes no order: the ring's is the truth.
    pub fn handle_event(&mut self, event: &Event) {
        if event.flags & flags::AFTER_LOSS != 0 {
            self.losses.note(self.now, event.at);
        }
        self.advance(event.at, Patience::AT_AN_EVENT);
        match event.body {
            Body::Transition { from, to, detail } => self.on_transition(event, from, to, detail),
            Body::Close { from, ref facts } => self.on_close(event, from, facts),
            Body::Task(ref task) => self.on_task(event, task),
            Body::TimerStart(ref shown) => self.on_timer_start(event, shown),
            Body::TimerCancel(ref shown) => self.on_timer_cancel(event, shown),
            Body::TimerExpire(ref shown) => self.on_timer_expire(event, shown),
            Body::Schedule(ref shown) => self.on_schedule(event, shown),
            Body::Segment {
                ref minisocket,
                tcp_flags,
                payload,
            } => self.on_segment(event, minisocket, tcp_flags, payload),
            Body::ResetReceived { .. } | Body::ResetSent { .. }
                if self.processors.is_repeated_reset(event) =>
            {
                self.totals.doubles += 1;
            }
            Body::ResetReceived { state } => self.on_reset_received(event, state),
            Body::ResetSent {
                state,
                answers_segment,
                ..
            } => self.on_reset_sent(event, state, answers_segment),
            Body::CallFailed(ref failed) => self.on_call_failed(event, failed),
        }
    }

    /// Events between the last one and `now` were lost. Call it before the watermark that follows.
    pub fn handle_loss(&mut self, now: Timestamp) {
        self.losses.note(self.now, now);
        self.advance(now, Patience::BETWEEN);
    }

    /// Takes in which sockets a network namespace held, in the stream's order: what is not known
    /// yet is taken up, and what is absent from two whole inventories is gone.
    pub fn handle_inventory(&mut self, inventory: &Inventory) {
        self.advance(inventory.until, Patience::BETWEEN);
        self.on_inventory(inventory);
    }

    /// Takes in that all network namespaces which can be found have been looked at: their
    /// inventories came before.
    pub fn handle_sweep(&mut self, sweep: &Sweep) {
        self.advance(sweep.at, Patience::BETWEEN);
        self.on_sweep(sweep);
    }

    /// Moves the time. Call it with each watermark, then [`Self::poll`]; and again while
    /// [`Self::poll_timeout`] is not later: no call does more than takes a moment.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.advance(now, Patience::AT_A_WATERMARK);
    }

    /// When [`Self::handle_timeout`] has something to do next; `None`: nothing is waited for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let under_way = self.search.is_under_way() || self.table.may_rest();
        let now = under_way.then_some(self.now);
        [self.outputs.held_until(), self.timers.next(), now]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next output. Call it until `None` after each event and each watermark.
    #[inline]
    pub fn poll(&mut self) -> Option<Output> {
        if self.config.holdings {
            self.tell_holdings();
        }
        if self.outputs.is_empty() && self.table.may_rest() {
            self.rest();
        }
        self.outputs.pop(self.now)
    }

    /// What has been counted so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The stream has ended: what is parked is settled without waiting. Connections that are open
    /// and minisockets that live give no record. Call it once, then [`Self::poll`].
    pub fn finish(&mut self) {
        self.advance(Timers::soon_after(self.now), Patience::BETWEEN);
        for id in self.killed() {
            self.give_up_reuse(id);
        }
    }

    /// Every connection that is still held, in no order, with what is known of it.
    pub fn remaining(&self) -> impl Iterator<Item = Remaining> {
        self.table.iter().map(|(_, connection)| Remaining {
            record: *finished::record(&connection, &self.table, Stage::Verdict, &self.config),
            open: connection.is_open(),
            in_time_wait: connection.minisocket().is_some_and(|m| m.counted),
        })
    }

    /// The verdict and, where no minisocket lives on, the end.
    fn give_verdict(&mut self, id: Id) {
        let Some(connection) = self.table.connection_mut(id) else {
            return;
        };
        if connection.verdict().is_some() {
            return;
        }
        if connection.is_open() {
            // Its minisocket is over and CLOSE has not come.
            connection.set(Bit::Vanished);
            connection.lacks(Incomplete::TransitionLost);
            self.totals.open -= 1;
            self.totals.vanished += 1;
        }
        let rule = sockets::decide(connection, &self.config, &self.losses);
        let over = !connection.minisocket_lives();
        let acted = connection.late.as_ref().map(|late| late.closing.task);
        if rule.task_acts
            && let Some(task) = acted.filter(|task| task.source != Source::Unknown)
        {
            self.table.set_closer(id, &task);
        }
        let Some(connection) = self.table.connection(id) else {
            return;
        };
        self.totals
            .count_verdict(rule.kind, connection.incomplete());
        // Without a minisocket the whole record says no more.
        let at_once = over && connection.minisocket().is_none();
        if self.config.rows && !at_once {
            let record = finished::record(connection, &self.table, Stage::Verdict, &self.config);
            self.outputs.push(Output::Close(record));
        }
        if over {
            self.give_end(id, if at_once { Output::Over } else { Output::End });
        } else {
            self.table.doze(id);
        }
    }

    /// The minisocket is over: the verdict, where it is still owed, and the end.
    fn conclude(&mut self, id: Id) {
        let owed = self
            .table
            .connection(id)
            .is_some_and(|c| c.verdict().is_none() && !c.is(Bit::MinisocketOnly));
        if owed {
            self.give_verdict(id);
        } else {
            self.give_end(id, Output::End);
        }
    }

    /// The whole record, as `output`; the connection is remembered for its successors and let go.
    fn give_end(&mut self, id: Id, output: fn(Box<Record>) -> Output) {
        let Some(mut connection) = self.table.remove(id) else {
            return;
        };
        if let Some(minisocket) = connection.minisocket_mut() {
            minisocket.segments_lost = self.losses.touch(minisocket.began.0, self.now);
        }
        let exit = finished::time_wait_exit(&connection);
        self.totals.count_end(exit, connection.incomplete());
        self.ended.remember(self.now, remembered(&connection));
        self.tell_freed(&connection);
        if self.config.rows {
            let record = finished::record(&connection, &self.table, Stage::End, &self.config);
            self.outputs.push(output(record));
        }
        self.table.dismiss(&connection);
    }

    /// The full socket is gone and its CLOSE was never seen.
    fn give_up_open(&mut self, id: Id) {
        self.forget_connecting(id);
        let Some(connection) = self.table.connection_mut(id) else {
            return;
        };
        if !connection.is_open() {
            return;
        }
        connection.set(Bit::Vanished);
        connection.lacks(Incomplete::TransitionLost);
        self.totals.open -= 1;
        self.totals.vanished += 1;
        if !connection.minisocket_lives() {
            self.give_verdict(id);
        }
    }

    /// Whether the account holds and the table is whole. For tests: it looks at everything.
    #[doc(hidden)]
    #[must_use]
    pub fn invariants_hold(&self) -> bool {
        let totals = &self.totals;
        let count = |fits: fn(&Connection) -> bool| {
            self.table.iter().filter(|(_, c)| fits(c)).count() as u64
        };
        let alive = |c: &Connection| c.minisocket().is_some_and(Minisocket::is_alive);
        totals.balances()
            && self.table.index_is_whole()
            && self.table.len() as u64 == totals.tracked()
            && totals.open == count(Connection::is_open)
            && totals.minisockets == self.table.iter().filter(|(_, c)| alive(c)).count() as u64
            && totals.in_time_wait == count(|c| c.minisocket().is_some_and(|mini| mini.counted))
    }

    /// How much is parked or waits in a minisocket. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn waiting(&self) -> usize {
        let parked = |c: &Connection| c.minisocket().is_some() || !c.is_open();
        self.table.iter().filter(|(_, c)| parked(c)).count()
    }
}

/// What is remembered of a connection that has ended.
fn remembered(connection: &Connection) -> Ended {
    Ended {
        netns_cookie: connection.netns_cookie,
        cookie: connection.cookie(),
        generation: connection.generation,
        flow: connection.flow,
        closed_from: connection
            .last_step
            .filter(|(_, to)| *to == TcpState::Close)
            .map(|(from, _)| from),
        ended_at: finished::ended_at(connection),
        call_told: connection
            .late
            .as_ref()
            .is_some_and(|late| late.closing.failed_call.is_some()),
    }
}

/// The process of a task that was seen at the step itself.
fn exactly(task: &Task) -> Process {
    Process {
        pid: Some(task.pid),
        tid: Some(task.tid),
        comm: Some(task.comm),
        name: Some(task.name),
        source: Source::Exact,
    }
}
