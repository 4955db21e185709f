//! The log records that wait, no more of them than there is room for.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::history::Row;
use crate::output::otlp::{LogRecord, close};

/// Something to be told: what it takes to make a log record, which is made where it is sent.
#[derive(Debug)]
pub(super) enum Entry {
    /// A close, and when we came to know of it.
    Close(Box<Row>, u64),
    /// What is one already.
    Record(Box<LogRecord>),
}

impl Entry {
    pub fn into_record(self) -> LogRecord {
        match self {
            Self::Close(row, observed_at) => close(&row, observed_at),
            Self::Record(record) => *record,
        }
    }
}

/// Filled by the loop, emptied by the thread. Nobody holds it while something is sent.
#[derive(Debug)]
pub(super) struct Queue {
    most: usize,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Entry>,
    is_closed: bool,
}

impl Queue {
    /// An empty one, for `most` entries.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            state: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Takes in as many `entries` as there is room for, and drops the others: how many those are.
    pub fn extend(&self, entries: &mut VecDeque<Entry>) -> u64 {
        let mut state = self.state();
        let room = self.most.saturating_sub(state.waiting.len());
        let fitting = room.min(entries.len());
        state.waiting.extend(entries.drain(..fitting));
        drop(state);
        self.news.notify_one();
        let dropped = entries.len() as u64;
        entries.clear();
        dropped
    }

    /// Waits for the next entries, `most` of them at most. `None`: the queue is closed and empty.
    /// Cancel safe.
    pub async fn next(&self, most: usize) -> Option<Vec<Entry>> {
        loop {
            {
                let mut state = self.state();
                if !state.waiting.is_empty() {
                    let count = most.min(state.waiting.len());
                    return Some(state.waiting.drain(..count).collect());
                }
                if state.is_closed {
                    return None;
                }
            }
            self.news.notified().await;
        }
    }

    /// No more will come.
    pub fn close(&self) {
        self.state().is_closed = true;
        self.news.notify_one();
    }

    /// All that waits.
    pub fn take_all(&self) -> VecDeque<Entry> {
        std::mem::take(&mut self.state().waiting)
    }

    /// Nobody panics while he holds it, and what waits would be right all the same.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
