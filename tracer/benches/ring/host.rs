//! A host whose processors make records and take the ring's lock in turn.
//!
//! Assumed:
//! - The lock is fair (it is a queue) and is taken as long as [`Machine::hold`] says for as many
//!   processors as are at it when it is handed over.
//! - Steps of connections come to each processor at random (Poisson), one or two records each; a
//!   processor that waits for the lock does nothing else, so its next steps wait too.
//! - Beside the lock a record takes 60 ns: looking the socket up, filling, submitting.
//! - Each connection ends in one TIME_WAIT, as long as there may be more. The timer wheel runs those of a whole granule in one
//!   jiffy, on all processors at once: 2.048 s of them at HZ = 250. Each takes 1 µs and makes two
//!   records. No other step comes before them on a processor that runs them.
//! - Nothing else of the host competes for the same cache lines.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::lock::Machine;

/// Beside the lock, nanoseconds a record.
const BESIDE: f64 = 60.0;
/// What an expiry takes without us, nanoseconds.
const EXPIRY: f64 = 1_000.0;
/// Timers of so long end together, seconds.
const GRANULE: f64 = 2.048;
/// How long a TIME_WAIT lasts, seconds.
const DWELL: f64 = 61.0;
/// Records of an expiry: the timer is cancelled, the timer expires.
const OF_EXPIRY: u32 = 2;
/// The steps are looked at for so long before the expiry, and for so long at most after it.
const BEFORE: f64 = 200e6;
const AFTER: f64 = 2_048e6;
/// From then on.
const WARM: f64 = 20e6;

/// What the host does.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections a second, opened and closed.
    pub connections: u64,
    /// Records of each.
    pub records: u64,
    /// TIME_WAITs that there may be.
    pub buckets: u64,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Part of the time that the lock is taken, between expiries.
    pub busy: f64,
    /// Nanoseconds that a record waits for the lock, between expiries: in the mean, and 99 in 100.
    pub wait: f64,
    pub wait_p99: f64,
    /// Processors that do nothing but make records, between expiries.
    pub spent: f64,
    /// How long an expiry keeps the processors, milliseconds; and without us.
    pub expiry: f64,
    pub expiry_untraced: f64,
    /// How long after the expiry began the steps that had to wait are done, milliseconds; as long
    /// as was looked where they are not.
    pub recovery: f64,
}

/// Records a second of `processors` that do nothing else.
pub fn saturated(machine: &Machine, processors: usize) -> f64 {
    1e9 / machine.hold(processors)
}

/// What a processor is at.
#[derive(Clone, Copy, Debug)]
struct Processor {
    /// When its next step comes.
    next_step: f64,
    /// Records that its step still makes.
    left: u32,
    /// When it began to wait for the lock.
    asked: f64,
    /// Expiries that it still runs.
    expiries: u64,
}

/// A simulation.
pub struct Host<'a> {
    machine: &'a Machine,
    processors: Vec<Processor>,
    /// Mean time between the steps of a processor.
    between: f64,
    expiries: u64,
    /// Who comes to the lock and when; the bits of a positive float are in its order.
    coming: BinaryHeap<Reverse<(u64, usize)>>,
    queue: VecDeque<usize>,
    random: fastrand::Rng,
    waits: Vec<f32>,
}

impl<'a> Host<'a> {
    pub fn new(machine: &'a Machine, processors: usize, load: Load, seed: u64) -> Self {
        let steps = load.records.saturating_sub(u64::from(OF_EXPIRY)) as f64 / 1.5;
        let between = 1e9 * processors as f64 / (load.connections as f64 * steps);
        let time_waits = (load.connections as f64).min(load.buckets as f64 / DWELL);
        let expiries = (time_waits * GRANULE / processors as f64) as u64;
        let mut host = Self {
            machine,
            processors: Vec::with_capacity(processors),
            between,
            expiries,
            coming: BinaryHeap::new(),
            queue: VecDeque::new(),
            random: fastrand::Rng::with_seed(seed),
            waits: Vec::new(),
        };
        for number in 0..processors {
            let next_step = host.pause();
            host.processors.push(Processor {
                next_step,
                left: 0,
                asked: 0.0,
                expiries: 0,
            });
            host.go_on(number, 0.0);
        }
        host
    }

    /// The steps, then an expiry among them.
    pub fn run(mut self) -> Told {
        let (mut taken, mut waited) = (0.0, 0.0);
        let (mut begun, mut expired, mut recovered) = (false, BEFORE, None);
        let mut free_at = 0.0;
        while let Some(owner) = self.next_owner(&mut free_at) {
            if free_at > BEFORE + AFTER {
                break;
            }
            if !begun && free_at >= BEFORE {
                begun = true;
                for processor in &mut self.processors {
                    processor.expiries = self.expiries;
                }
            }
            let hold = self.machine.hold(self.queue.len() + 1);
            let wait = free_at - self.processors[owner].asked;
            let runs_expiry = begun && self.processors[owner].expiries > 0;
            free_at += hold;
            if (WARM..BEFORE).contains(&free_at) {
                taken += hold;
                waited += wait + hold + BESIDE;
                self.waits.push(wait as f32);
            }
            self.processors[owner].left -= 1;
            self.go_on(owner, free_at + BESIDE);
            if runs_expiry && self.processors[owner].expiries == 0 {
                expired = free_at;
            }
            let behind = |processor: &Processor| processor.next_step < free_at - 100_000.0;
            if begun
                && recovered.is_none()
                && self.waits_nowhere()
                && !self.processors.iter().any(behind)
            {
                recovered = Some(free_at);
                break;
            }
        }
        let looked = BEFORE - WARM;
        let count = self.waits.len().max(1);
        let wait = self.waits.iter().map(|wait| f64::from(*wait)).sum::<f64>() / count as f64;
        let place = count * 99 / 100;
        let wait_p99 = if self.waits.is_empty() {
            0.0
        } else {
            f64::from(*self.waits.select_nth_unstable_by(place, f32::total_cmp).1)
        };
        let unfinished = self.processors.iter().any(|p| p.expiries > 0);
        let end = if unfinished { BEFORE + AFTER } else { expired };
        Told {
            busy: taken / looked,
            wait,
            wait_p99,
            spent: waited / looked,
            expiry: (end - BEFORE) / 1e6,
            expiry_untraced: self.expiries as f64 * EXPIRY / 1e6,
            recovery: (recovered.unwrap_or(BEFORE + AFTER) - BEFORE) / 1e6,
        }
    }

    /// Whom the lock is handed to next, and when: `free_at` is when it was given back.
    fn next_owner(&mut self, free_at: &mut f64) -> Option<usize> {
        if self.queue.is_empty()
            && let Some(Reverse((at, _))) = self.coming.peek()
        {
            *free_at = free_at.max(f64::from_bits(*at));
        }
        while let Some(Reverse((at, number))) = self.coming.peek().copied()
            && f64::from_bits(at) <= *free_at
        {
            self.coming.pop();
            self.queue.push_back(number);
        }
        self.queue.pop_front()
    }

    /// The processor is free at `now`: when does it come to the lock next?
    fn go_on(&mut self, number: usize, now: f64) {
        let pause = self.pause();
        let twice = self.random.bool();
        let processor = &mut self.processors[number];
        let mut at = now;
        if processor.left == 0 && processor.expiries > 0 {
            processor.expiries -= 1;
            if processor.expiries > 0 {
                processor.left = OF_EXPIRY;
                at += EXPIRY;
            }
        }
        if processor.left == 0 {
            at = now.max(processor.next_step);
            processor.next_step += pause;
            processor.left = if twice { 2 } else { 1 };
        }
        processor.asked = at;
        self.coming.push(Reverse((at.to_bits(), number)));
    }

    fn waits_nowhere(&self) -> bool {
        self.queue.is_empty() && self.processors.iter().all(|p| p.expiries == 0)
    }

    fn pause(&mut self) -> f64 {
        -self.between * (1.0 - self.random.f64()).ln()
    }
}
