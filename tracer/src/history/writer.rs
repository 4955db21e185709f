//! The queue between the loop and the thread that writes the files.

use std::io;
use std::mem;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::files::Files;
use super::row::Row;
use super::{Settings, Stats};
use crate::clock;

/// Rows that cross to the thread at once: its wake-up is shared by them.
const BATCH: usize = 256;
/// Batches of which the room is kept to be filled again.
const SPARE: usize = 16;
/// How long the last file may take once the end was asked for.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The writing end: rows go in, a thread makes files of them.
#[derive(Debug)]
pub struct History {
    gathered: Vec<Row>,
    queue: SyncSender<Vec<Row>>,
    /// Batches that have been written: their room is used again.
    spare: Receiver<Vec<Row>>,
    shared: Arc<Mutex<Shared>>,
    done: Receiver<()>,
    offered: u64,
    /// Rows that found no room in the queue.
    refused: u64,
    is_dead: bool,
}

/// What both sides look at. Nobody holds it while something is read or written.
#[derive(Debug, Default)]
struct Shared {
    /// The files' account.
    stats: Stats,
    /// Rows that were gathered when the end came, which may not wait for room in the queue.
    last: Vec<Row>,
}

impl History {
    /// Makes the directory and starts the thread.
    ///
    /// # Errors
    /// Where there can be no such directory, or no more threads. What fails afterwards is told by
    /// [`Self::stats`].
    pub fn start(settings: Settings) -> io::Result<Self> {
        std::fs::create_dir_all(&settings.directory)?;
        Self::start_with(settings.queue_rows, |thread| thread.write(settings))
    }

    fn start_with(
        queue_rows: usize,
        body: impl FnOnce(Thread) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, rows) = sync_channel(queue_rows.div_ceil(BATCH).max(1));
        let (give_back, spare) = sync_channel(SPARE);
        let (tell, done) = sync_channel(1);
        let shared = Arc::new(Mutex::new(Shared::default()));
        let thread = Thread {
            queue: rows,
            give_back,
            shared: Arc::clone(&shared),
            _done: tell,
        };
        thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || body(thread))?;
        Ok(Self {
            gathered: Vec::with_capacity(BATCH),
            queue,
            spare,
            shared,
            done,
            offered: 0,
            refused: 0,
            is_dead: false,
        })
    }

    /// Takes a row in. Where the queue is full it is dropped and counted; never waits.
    #[inline]
    pub fn offer(&mut self, row: Row) {
        self.offered += 1;
        self.gathered.push(row);
        if self.gathered.len() >= BATCH {
            self.hand_over();
        }
    }

    /// Hands over what is gathered: call it about once a second.
    pub fn tick(&mut self) {
        if !self.gathered.is_empty() {
            self.hand_over();
        }
    }

    /// The account so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let files = locked(&self.shared).stats.clone();
        let dropped = files.rows_dropped + self.refused;
        // Whatever is neither was offered and not yet accounted for by the thread.
        let settled = files.rows_written + dropped;
        Stats {
            rows_dropped: dropped,
            rows_waiting: self.offered.saturating_sub(settled),
            ..files
        }
    }

    /// Finishes the file under way with all that was offered, and gives the last account. Waits for
    /// some seconds at most: what is not written by then is told as waiting.
    #[must_use]
    pub fn close(mut self) -> Stats {
        locked(&self.shared).last = mem::take(&mut self.gathered);
        // The thread ends when the queue does.
        let (closed, _) = sync_channel(1);
        drop(mem::replace(&mut self.queue, closed));
        if let Err(RecvTimeoutError::Timeout) = self.done.recv_timeout(LAST_WORDS) {
            tracing::error!("the history's last file was not finished within {LAST_WORDS:?}");
        }
        self.stats()
    }

    fn hand_over(&mut self) {
        let spare = self.spare.try_recv();
        let spare = spare.unwrap_or_else(|_| Vec::with_capacity(BATCH));
        let batch = mem::replace(&mut self.gathered, spare);
        match self.queue.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(batch)) => self.refuse(batch),
            Err(TrySendError::Disconnected(batch)) => {
                if !mem::replace(&mut self.is_dead, true) {
                    tracing::error!("the thread that writes the history died");
                }
                self.refuse(batch);
            }
        }
    }

    fn refuse(&mut self, mut batch: Vec<Row>) {
        self.refused += batch.len() as u64;
        batch.clear();
        self.gathered = batch;
    }
}

/// The other end.
struct Thread {
    queue: Receiver<Vec<Row>>,
    give_back: SyncSender<Vec<Row>>,
    shared: Arc<Mutex<Shared>>,
    /// Closed as the thread ends, however it does.
    _done: SyncSender<()>,
}

impl Thread {
    fn write(self, settings: Settings) {
        let (now, wall) = (clock::monotonic(), clock::wall_offset());
        let mut files = Files::new(Arc::new(settings), now, wall);
        loop {
            self.tell(&files);
            let timeout = files.timeout(clock::monotonic());
            let received = self.queue.recv_timeout(timeout);
            let (now, wall) = (clock::monotonic(), clock::wall_offset());
            match received {
                Ok(mut rows) => {
                    files.write(&rows, now, wall);
                    rows.clear();
                    // Where there are enough already it is dropped.
                    let _ = self.give_back.try_send(rows);
                }
                Err(RecvTimeoutError::Timeout) => files.handle_timeout(now, wall),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let (now, wall) = (clock::monotonic(), clock::wall_offset());
        let last = mem::take(&mut locked(&self.shared).last);
        files.write(&last, now, wall);
        files.finish_all(clock::monotonic());
        self.tell(&files);
    }

    fn tell(&self, files: &Files) {
        locked(&self.shared).stats = files.stats();
    }
}

/// Nobody panics while he holds it, and the numbers would be right all the same.
fn locked(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::samples::whole;
    use super::*;

    #[test]
    fn a_full_queue_drops_and_counts_and_nobody_waits() {
        let directory = TempDir::new().unwrap();
        let settings = Settings::new(directory.path().to_owned(), "web", "");
        let (go, may_go) = sync_channel(0);
        let mut history = History::start_with(512, move |thread| {
            may_go.recv().unwrap();
            thread.write(settings);
        })
        .unwrap();
        (0..1_000).map(whole).for_each(|row| history.offer(row));
        history.tick();
        let stats = history.stats();
        // Two batches found room, two did not: 256 and 232 rows.
        assert_eq!((stats.rows_waiting, stats.rows_dropped), (512, 488));

        go.send(()).unwrap();
        let stats = history.close();
        assert_eq!((stats.rows_written, stats.rows_dropped), (512, 488));
        assert_eq!(stats.rows_waiting, 0);
    }

    #[test]
    fn a_thread_that_died_drops_and_counts() {
        let mut history = History::start_with(512, drop).unwrap();
        let _ = history.done.recv();
        (0..256).map(whole).for_each(|row| history.offer(row));
        assert_eq!(history.stats().rows_dropped, 256);
        assert_eq!(history.close().rows_waiting, 0);
    }
}
