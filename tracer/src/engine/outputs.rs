//! What comes out, in its turn. A row of a state change that a task may follow waits for that, and
//! what comes after it waits too: events of other processors may lie between.

use std::collections::VecDeque;

use super::{Output, exactly};
use crate::record::TransitionRow;
use crate::stream::{Event, Task};
use crate::time::Timestamp;

/// The outputs that nobody has taken yet.
#[derive(Default)]
pub(super) struct Outputs(VecDeque<Pending>);

struct Pending {
    held: Option<Held>,
    output: Output,
}

/// Why an output is held back: its task may follow.
#[derive(Clone, Copy)]
struct Held {
    /// Kernel address of its socket.
    address: u64,
    until: Timestamp,
}

impl Outputs {
    pub fn push(&mut self, output: Output) {
        self.0.push_back(Pending { held: None, output });
    }

    pub fn push_row(&mut self, row: TransitionRow) {
        self.push(Output::Transition(Box::new(row)));
    }

    /// A row that waits for the task of its socket's step until `until`, the latest.
    pub fn hold(&mut self, row: TransitionRow, address: u64, until: Timestamp) {
        let output = Output::Transition(Box::new(row));
        let held = Some(Held { address, until });
        self.0.push_back(Pending { held, output });
    }

    /// The task of a held row: it waits no longer.
    pub fn complete(&mut self, event: &Event, task: &Task) {
        for pending in self.0.iter_mut().rev() {
            if let Output::Transition(row) = &mut pending.output
                && let Some(held) = pending.held
                && held.address == event.socket.address
                && row.cookie == event.socket.cookie
                && (row.from, row.to) == (task.from, task.to)
            {
                row.process = exactly(task);
                row.cgroup_id = row.cgroup_id.or(Some(task.cgroup).filter(|id| *id != 0));
                pending.held = None;
                return;
            }
        }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next one, unless it waits longer than `now`.
    #[inline]
    pub fn pop(&mut self, now: Timestamp) -> Option<Output> {
        if self.held_until().is_some_and(|until| until > now) {
            return None;
        }
        self.0.pop_front().map(|pending| pending.output)
    }

    /// Until when the next one waits for its task; `None`: it does not.
    #[inline]
    pub fn held_until(&self) -> Option<Timestamp> {
        Some(self.0.front()?.held?.until)
    }
}
