//! The watch that never ends: what was seen in the last half minute, and the rules asked of it.
//!
//! ```text
//! seconds    0         15        30        45        60
//! seen       |---------+---------|
//! half                 |---------|                        becomes seen at 30
//! seen                 |---------+---------|
//! half                           |---------|              becomes seen at 45
//! ```
//!
//! What is a fact now (who holds which ports, listeners, CLOSE_WAITs, settings) stays. What is counted
//! belongs to a window of [`WINDOW`], which ends every half of it, so that two windows share a half:
//! what lies across an end of one is whole in the next, and what goes on is in each. At the end of a
//! window the rules say of it what `tracer diagnose --duration 30s` would have said. Where there are
//! [`MANY`] destinations they are asked in [`PARTS`], one a second, of which the last is the end, so
//! that none holds the loop for long: the first are then asked of 26 seconds.
//!
//! What falls into both windows is counted twice rather than added up in the end: that is one more
//! count for each row, and no moment in which all is copied.

use std::mem;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::answer::Answer;
use super::left_out::LeftOut;
use super::rule::Rule;
use super::seen::Seen;
use super::tallies::Tallies;
use crate::ports::Program;
use crate::record::holding::HoldingChange;
use crate::record::{Call, Record};
use crate::stream::{Inventory, Name, NamespaceReading, Purpose, Sweep};
use crate::time::Timestamp;

/// How long a window is: as long as `tracer diagnose` watches when nobody says how long.
pub const WINDOW: Duration = Duration::from_secs(30);

/// After so long the next window begins.
const HALF: u64 = WINDOW.as_nanos() as u64 / 2;

/// In so many parts the rules are asked, a second apart.
const PARTS: u64 = 5;

/// From so many destinations on. At 10,000 all rules together take a tenth of a second.
const MANY: usize = 1_000;

const SECOND: u64 = 1_000_000_000;

/// How long a network namespace is remembered that is no longer read, nanoseconds.
const FORGOTTEN: u64 = 300 * SECOND;

/// A diagnosis that goes on and on.
pub struct Rolling {
    rules: Vec<&'static dyn Rule>,
    /// Whether anything is counted, and rules are asked.
    is_on: bool,
    seen: Seen,
    half: Half,
    /// How many parts of the rules were asked of this window.
    asked: u64,
    answer: Answer,
    /// What there was no room for before this window.
    left_out: LeftOut,
}

/// What the window that is to come has seen so far.
#[derive(Debug, Default)]
struct Half {
    began: Timestamp,
    tallies: Tallies,
    /// How things stood when it began: what had no room,
    left_out: LeftOut,
    /// how many CLOSE_WAITs of each program had been entered and left,
    close_waits: HashMap<(u64, Program), (u64, u64), RandomState>,
    /// and the counters of each network namespace.
    namespaces: HashMap<u64, NamespaceReading, RandomState>,
}

impl Rolling {
    /// One that asks `rules`, if it is on.
    #[must_use]
    pub fn new(rules: Vec<&'static dyn Rule>, is_on: bool) -> Self {
        Self {
            rules,
            is_on,
            seen: Seen::default(),
            half: Half::default(),
            asked: 0,
            answer: Answer::default(),
            left_out: LeftOut::default(),
        }
    }

    /// It begins.
    pub fn begin(&mut self, at: Timestamp) {
        self.seen.begin(at);
        self.seen.tallies = Tallies::since(at);
        self.half = Half {
            began: at,
            tallies: Tallies::since(at),
            ..Half::default()
        };
        self.left_out += mem::take(&mut self.seen.left_out);
        for namespace in self.seen.namespaces.values_mut() {
            namespace.first = namespace.latest.clone();
        }
        self.forget_past_close_waits();
        self.asked = 0;
        self.answer = Answer::default();
    }

    /// Who holds CLOSE_WAITs stays, whatever came and went before.
    fn forget_past_close_waits(&mut self) {
        self.seen.close_waits.retain(|_, waits| {
            (waits.entered, waits.left) = (0, 0);
            waits.since_unknown > 0 || !waits.since.is_empty()
        });
    }

    /// Turns it on or off: while it is off, only what is a fact is kept.
    pub fn turn(&mut self, is_on: bool) {
        if mem::replace(&mut self.is_on, is_on) != is_on {
            self.begin(self.seen.now);
        }
    }

    /// Whether rules are asked.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.is_on
    }

    /// What was seen of late.
    #[must_use]
    pub const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// What there was no room for since the start.
    #[must_use]
    pub fn left_out(&self) -> LeftOut {
        let mut all = self.left_out;
        all += self.seen.left_out;
        all
    }

    /// Takes a verdict in.
    pub fn close(&mut self, record: &Record) {
        if self.is_on
            && let Some(place) = self.seen.place(record)
        {
            self.seen.close(place, record);
            // Whatever has no room here had none there.
            self.half.tallies.close(place, record);
        }
    }

    /// Takes an end in.
    pub fn end(&mut self, record: &Record) {
        if self.is_on
            && let Some(place) = self.seen.place(record)
        {
            self.seen.end(place, record);
            self.half.tallies.end(place, record);
        }
    }

    /// Takes a failed call in.
    pub fn call(&mut self, call: &Call) {
        if self.is_on {
            self.seen.call(call);
            self.half.tallies.call(call);
        }
    }

    /// Takes a change of what is held in.
    pub fn holding(&mut self, change: &HoldingChange) {
        self.seen.holding(change);
    }

    /// Takes a reading of a network namespace in.
    pub fn namespace(&mut self, reading: &NamespaceReading) {
        self.seen.namespace(reading);
    }

    /// Takes the sockets of a network namespace in.
    pub fn inventory(&mut self, inventory: &Inventory) {
        self.seen.inventory(inventory);
    }

    /// Takes in that all network namespaces were looked at.
    pub fn sweep(&mut self, sweep: &Sweep) {
        if sweep.purpose == Purpose::Start {
            self.seen.swept = Some(sweep.clone());
        }
    }

    /// Takes a name in.
    pub fn name(&mut self, name: &Name) {
        self.seen.names.learn(name);
    }

    /// It is `now`: to be called about once a second. Gives what the rules say of the window that has
    /// ended, if one has.
    pub fn tick(&mut self, now: Timestamp) -> Option<Answer> {
        self.seen.tick(now);
        let now = self.seen.now;
        // A namespace that is no longer read is gone.
        let namespaces = &mut self.seen.namespaces;
        namespaces.retain(|_, seen| now.since(seen.latest.at) < FORGOTTEN);
        if !self.is_on {
            self.forget_past_close_waits();
            return None;
        }
        let age = now.since(self.half.began);
        let places = self.seen.ports.route_count().max(self.seen.tallies.pairs());
        let due = match age.checked_sub(HALF - PARTS * SECOND) {
            _ if age >= HALF => PARTS,
            Some(late) if places >= MANY => late / SECOND,
            _ => 0,
        };
        while self.asked < due {
            let count = self.rules.len() as u64;
            let [from, until] = [self.asked, self.asked + 1].map(|part| part * count / PARTS);
            let rules = &self.rules[from as usize..until as usize];
            self.answer.ask(rules, &self.seen);
            self.asked += 1;
        }
        (age >= HALF).then(|| {
            self.turn_over();
            let mut answer = mem::take(&mut self.answer);
            answer.sort();
            answer
        })
    }

    /// The window has ended; the half becomes the window, and another half begins.
    fn turn_over(&mut self) {
        let now = self.seen.now;
        let seen = &mut self.seen;
        let half = mem::take(&mut self.half);
        seen.began = half.began;
        seen.tallies = half.tallies;
        self.left_out += half.left_out;
        seen.left_out = seen.left_out - half.left_out;
        for (key, waits) in &mut seen.close_waits {
            let before = half.close_waits.get(key).copied().unwrap_or_default();
            waits.entered = waits.entered.saturating_sub(before.0);
            waits.left = waits.left.saturating_sub(before.1);
        }
        seen.close_waits.retain(|_, waits| {
            let is_held = waits.since_unknown > 0 || !waits.since.is_empty();
            is_held || waits.entered + waits.left > 0
        });
        for (cookie, reading) in half.namespaces {
            if let Some(namespace) = seen.namespaces.get_mut(&cookie) {
                namespace.first = reading;
            }
        }
        let close_waits = seen.close_waits.iter();
        let namespaces = seen.namespaces.iter();
        self.half = Half {
            began: now,
            tallies: Tallies::since(now),
            left_out: seen.left_out,
            close_waits: close_waits
                .map(|(key, waits)| (*key, (waits.entered, waits.left)))
                .collect(),
            namespaces: namespaces
                .map(|(cookie, namespace)| (*cookie, namespace.latest.clone()))
                .collect(),
        };
        self.asked = 0;
    }
}

#[cfg(test)]
mod tests;
