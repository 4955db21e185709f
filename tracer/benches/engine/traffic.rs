//! Many whole lives at once: which connection takes its next step is drawn at random.
//!
//! ```text
//! client  CLOSE ─> SYN_SENT ─> ESTABLISHED ─> FIN_WAIT1 ─> FIN_WAIT2 ─> CLOSE  ··61 s··  end
//!           + task                 + task             timer_start + close   timer_cancel + _expire
//! server  LISTEN ─> SYN_RECV ─> ESTABLISHED ─> CLOSE_WAIT ─> LAST_ACK ─> CLOSE
//!                                                  + task
//! ```
//!
//! What stands at one step is adjacent in the ring, as the kernel has it. A connection that waits
//! in TIME_WAIT is not drawn: its end comes when its timer has run out, in the order of entering.

use std::collections::VecDeque;

use bytes::Bytes;
use tracer_common::event::{Kind, V4, V6};
use tracer_common::tcp::TcpState::{
    self, Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
};

use crate::wire::{Addresses, FIRST, Identity, LISTENED, Ring};

const MILLISECOND: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MILLISECOND;
/// Timer interrupts a second of the host that is traced.
pub const HZ: u64 = 250;
const JIFFY: u64 = SECOND / HZ;
/// TIME_WAIT as it lasts with the timer wheel's slack.
const DWELL: u64 = 61 * SECOND;
/// When the stream begins.
const BEGIN: u64 = 1_000 * SECOND;
/// A batch holds at most so much and a step, as the reader's does.
const BATCH: usize = 256 << 10;
/// Steps of a life before it has closed, of either role.
const STEPS: u64 = 5;

/// Which connections there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roles {
    Clients,
    Servers,
    /// Half and half.
    Both,
}

/// A connection's number, its steps made, and the jiffy of entering TIME_WAIT, in eight bytes: at
/// ten millions the traffic's own memory must be next to nothing.
#[derive(Clone, Copy)]
struct Life(u64);

impl Life {
    const NUMBER: u32 = 34;
    const STAGE: u32 = 3;

    fn new(number: u64) -> Self {
        assert!(number >> Self::NUMBER == 0, "too many connections");
        Self(number)
    }

    fn identity(self) -> Identity {
        Identity(self.0 & ((1 << Self::NUMBER) - 1))
    }

    fn stage(self) -> u64 {
        self.0 >> Self::NUMBER & ((1 << Self::STAGE) - 1)
    }

    fn with_stage(self, stage: u64) -> Self {
        Self(self.identity().0 | stage << Self::NUMBER)
    }

    /// It has entered TIME_WAIT in this jiffy.
    fn with_jiffy(self, jiffy: u64) -> Self {
        Self(self.0 | jiffy << (Self::NUMBER + Self::STAGE))
    }

    fn jiffy(self) -> u64 {
        self.0 >> (Self::NUMBER + Self::STAGE)
    }
}

/// What the records told so far: the engine's account must agree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    pub opened: u64,
    /// State changes of the kernel: the records of transitions and of closes.
    pub transitions: u64,
    pub closed_clients: u64,
    pub closed_servers: u64,
    pub time_waits_ended: u64,
}

/// The traffic of a host.
pub struct Traffic {
    roles: Roles,
    /// Those that are drawn from; beyond `drawn` they have come as far as they are to.
    pool: Vec<Life>,
    drawn: usize,
    waiting: VecDeque<Life>,
    next: u64,
    now: u64,
    step: u64,
    ring: Ring,
    random: fastrand::Rng,
    told: Told,
}

impl Traffic {
    /// `size` connections that have made no step, and listeners.
    ///
    /// They make their steps within `lasts`. The same calls give the same traffic.
    pub fn new(roles: Roles, size: usize, lasts: u64) -> Self {
        let mut traffic = Self {
            roles,
            pool: Vec::with_capacity(size),
            drawn: size,
            waiting: VecDeque::with_capacity(size + size / 8 + 1_024),
            next: FIRST,
            now: BEGIN,
            step: lasts / (size as u64 * STEPS),
            ring: Ring::with_capacity(BATCH + 4096),
            random: fastrand::Rng::with_seed(7),
            told: Told::default(),
        };
        for _ in 0..size {
            let life = traffic.unborn();
            traffic.pool.push(life);
        }
        traffic
    }

    /// Traffic that goes on with `size` connections, half of which wait in TIME_WAIT.
    ///
    /// Of those that are drawn from, one in [`STEPS`] has not opened yet. A step at each draw, and
    /// one entry into TIME_WAIT in two lives: so many are entered within [`DWELL`].
    pub fn steady(size: usize) -> Self {
        let half = size / 2;
        let drawn = half + half / (STEPS as usize - 1);
        let mut traffic = Self::new(Roles::Both, drawn, 0);
        traffic.step = DWELL / (half as u64 * 2 * STEPS);
        traffic
    }

    /// The first batch: who listens.
    pub fn listeners(&mut self) -> Bytes {
        for (number, port) in (2..).step_by(4).zip(LISTENED) {
            self.ring.listener::<V4>(self.now, number, port);
            self.ring.listener::<V6>(self.now, number + 2, port);
            self.told.transitions += 2;
        }
        self.take()
    }

    /// Goes on as a host does, for one batch: what is due ends, else one of those that are drawn
    /// from makes its next step; where one has closed another opens.
    pub fn go_on(&mut self) -> Bytes {
        while self.ring.bytes().len() < BATCH {
            let due = self
                .waiting
                .front()
                .is_some_and(|life| self.now >= BEGIN + life.jiffy() * JIFFY + DWELL);
            if due && let Some(life) = self.waiting.pop_front() {
                self.end(life);
                continue;
            }
            self.now += self.step;
            let place = self.random.usize(..self.pool.len());
            let life = self.advance(self.pool[place]);
            self.pool[place] = life;
            if life.stage() == STEPS {
                if !life.identity().is_server() {
                    self.waiting.push_back(life);
                }
                self.pool[place] = self.unborn();
            }
        }
        self.take()
    }

    /// Brings each connection to `stage`, drawn at random, for one batch; `None`: all are there.
    pub fn bring_to(&mut self, stage: u64) -> Option<Bytes> {
        while self.drawn > 0 && self.ring.bytes().len() < BATCH {
            self.now += self.step;
            let place = self.random.usize(..self.drawn);
            let life = self.advance(self.pool[place]);
            self.pool[place] = life;
            if life.stage() == stage {
                self.drawn -= 1;
                self.pool.swap(place, self.drawn);
            }
        }
        let batch = self.take();
        if batch.is_empty() {
            self.drawn = self.pool.len();
            return None;
        }
        Some(batch)
    }

    /// Ends every TIME_WAIT of those that [`Self::bring_to`] brought there, in the order of entering,
    /// for one batch; `None`: all have ended.
    pub fn end_all(&mut self) -> Option<Bytes> {
        while self.drawn > 0 && self.ring.bytes().len() < BATCH {
            self.drawn -= 1;
            self.end(self.pool[self.drawn]);
        }
        let batch = self.take();
        (!batch.is_empty()).then_some(batch)
    }

    /// Lets `nanoseconds` pass without events.
    pub fn wait(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
    }

    /// Every event with an earlier stamp has been given.
    pub fn now(&self) -> u64 {
        self.now
    }

    pub fn told(&self) -> Told {
        self.told
    }

    pub fn records(&self) -> u64 {
        self.ring.records()
    }

    /// Connections that have opened and are not over.
    pub fn live(&self) -> u64 {
        let ended = self.told.closed_servers + self.told.time_waits_ended;
        self.told.opened - ended
    }

    fn take(&mut self) -> Bytes {
        let batch = Bytes::copy_from_slice(self.ring.bytes());
        self.ring.clear();
        batch
    }

    fn unborn(&mut self) -> Life {
        let number = match self.roles {
            Roles::Both => self.next,
            Roles::Clients => self.next * 2 - FIRST,
            Roles::Servers => self.next * 2 - FIRST + 1,
        };
        self.next += 1;
        Life::new(number)
    }

    fn advance(&mut self, life: Life) -> Life {
        if life.identity().is_v6() {
            self.advance_as::<V6>(life)
        } else {
            self.advance_as::<V4>(life)
        }
    }

    fn advance_as<A: Addresses>(&mut self, life: Life) -> Life {
        let identity = life.identity();
        let at = self.now;
        let edge = edge(identity.is_server(), life.stage());
        let life = life.with_stage(life.stage() + 1);
        self.told.transitions += 1;
        self.told.opened += u64::from(life.stage() == 1);
        if edge.1 != Close {
            // What came in by then: one less than at CLOSE, so no straight way into TIME_WAIT.
            let detail = if edge.0 == FinWait1 { 8 } else { 0 };
            self.ring.transition::<A>(at, identity, edge, detail);
            if matches!(edge.1, SynSent | FinWait1 | LastAck) {
                self.ring.task(at, identity, edge);
            }
            return life;
        }
        if identity.is_server() {
            self.told.closed_servers += 1;
            self.ring.close::<A>(at, identity, edge.0);
            return life;
        }
        self.told.closed_clients += 1;
        let jiffy = (at - BEGIN) / JIFFY;
        let timer = timer(jiffy, jiffy);
        self.ring.timer::<A>(Kind::TimerStart, at, identity, timer);
        self.ring.close::<A>(at, identity, edge.0);
        life.with_jiffy(jiffy)
    }

    fn end(&mut self, life: Life) {
        if life.identity().is_v6() {
            self.end_as::<V6>(life);
        } else {
            self.end_as::<V4>(life);
        }
    }

    fn end_as<A: Addresses>(&mut self, life: Life) {
        let timer = timer(life.jiffy(), (self.now - BEGIN) / JIFFY);
        let identity = life.identity();
        self.ring
            .timer::<A>(Kind::TimerCancel, self.now, identity, timer);
        self.ring
            .timer::<A>(Kind::TimerExpire, self.now, identity, timer);
        self.told.time_waits_ended += 1;
    }
}

/// The nominal end of a timer that was set for TIME_WAIT's length, and now: both in jiffies.
fn timer(set: u64, now: u64) -> (u64, u64) {
    let first = BEGIN / JIFFY;
    (first + set + 60 * HZ, first + now)
}

/// The step that follows `stage` others.
fn edge(is_server: bool, stage: u64) -> (TcpState, TcpState) {
    let path = if is_server {
        [Listen, SynRecv, Established, CloseWait, LastAck, Close]
    } else {
        [Close, SynSent, Established, FinWait1, FinWait2, Close]
    };
    (path[stage as usize], path[stage as usize + 1])
}
