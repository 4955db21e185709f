//! The ring buffer's reader: copies what is there into [`Bytes`], says up to when that is
//! everything, and sleeps so that the kernel side need not wake it under load.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use aya::maps::{Array, MapData, MapError};
use bytes::{Bytes, BytesMut};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};
use tracer_common::event::Losses;

use crate::clock;
use crate::pace::Pace;
use crate::probes::Ring;
use crate::time::Timestamp;

#[cfg(test)]
mod fake;
mod pages;
mod shared;
mod window;

use pages::Pages;
use shared::Shared;

/// Bytes that a batch holds at most, but for its last record.
const BATCH: usize = 256 << 10;
/// Room for that.
const LAST: usize = 4096;
/// How often the reader may ask to be woken in a burst: a wake-up costs the host more than all else
/// that a record costs.
const WAKE_UPS: u32 = 16;
/// And for long: 500 times a second.
const REFILL: Duration = Duration::from_millis(2);
/// How long the reader stays awake without asking to be woken, once it has been woken often.
const WINDOW: Duration = Duration::from_millis(5);
/// It looks no more often than this then, whatever is due: under load something always is. Longer
/// would take less time for an event, but what it does at once would keep others waiting longer.
const BREAK: Duration = Duration::from_millis(2);

/// What one look at the ring brought.
#[derive(Debug)]
pub struct Batch {
    /// Whole records, one behind the other.
    pub records: Bytes,
    /// Every event with an earlier stamp is in this batch or was in one before it.
    pub watermark: Option<Timestamp>,
    /// Between the last record here and the watermark others found no room. Told once: the next
    /// record that finds room tells it again, by its flag AFTER_LOSS.
    pub lost: bool,
}

/// The one consumer of the ring.
pub struct Reader {
    /// To be woken by.
    ring: AsyncFd<OwnedFd>,
    parked: Array<MapData, u32>,
    pages: Pages,
    losses: UntoldLosses,
    pace: Pace,
    buffer: BytesMut,
    last_was_full: bool,
}

impl Reader {
    /// Takes over the ring, the flag by which the kernel side knows that the reader sleeps, and the
    /// mark of losses. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the ring or the mark cannot be mapped or registered.
    pub fn new(ring: Ring) -> io::Result<Self> {
        let Ring {
            events,
            parked,
            losses,
        } = ring;
        let size = events.info().map_err(io_error)?.max_entries();
        let ring = events.fd().as_fd();
        let pages = Pages::map(ring, size)?;
        let ring = ring.try_clone_to_owned()?;
        let losses = UntoldLosses::map(&losses)?;
        // SAFETY: an OwnedFd answers with the same descriptor as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(Self {
            ring,
            parked,
            pages,
            losses,
            pace: Pace::new(WAKE_UPS, REFILL, clock::monotonic()),
            buffer: BytesMut::with_capacity(BATCH + LAST),
            last_was_full: false,
        })
    }

    /// Waits until there are records, or until `deadline`, and returns what is there: a batch
    /// without records bears a watermark at `deadline` or later. Cancel safe.
    ///
    /// # Errors
    /// Where the kernel refuses to poll or to map the ring, or to set the flag. Nothing that was
    /// read is lost by it, and the next call tries again.
    pub async fn next_batch(&mut self, deadline: Option<Timestamp>) -> io::Result<Batch> {
        loop {
            if !self.last_was_full {
                self.wait(deadline).await?;
            }
            let batch = self.drain()?;
            self.last_was_full = batch.records.len() >= BATCH;
            let due = batch
                .watermark
                .is_some_and(|now| deadline.is_some_and(|due| now >= due));
            if !batch.records.is_empty() || due {
                return Ok(batch);
            }
        }
    }

    /// Takes what is in the ring now, without waiting.
    ///
    /// # Errors
    /// Where the kernel refuses to map what comes next. What came before it has been returned.
    pub fn drain(&mut self) -> io::Result<Batch> {
        // In this order: a loss before `now` is seen here, or else the record that has told it
        // found its place before `target`.
        let now = clock::monotonic();
        let losses = self.losses.read();
        let target = self.pages.producer();
        // The batch before is gone by now, and its room is free again.
        self.buffer.reserve(BATCH + LAST);
        let is_drained = self.pages.take(target, BATCH, &mut self.buffer)?;
        let records = self.buffer.split().freeze();
        Ok(Batch {
            records,
            watermark: is_drained.then_some(now),
            lost: is_drained && self.losses.are_news(losses),
        })
    }

    /// Sleeps: asking to be woken while that is rare, else for [`WINDOW`].
    async fn wait(&mut self, deadline: Option<Timestamp>) -> io::Result<()> {
        let now = clock::monotonic();
        let left = deadline.map(|due| Duration::from_nanos(due.since(now)));
        if !self.pace.may(now) {
            sleep(left.map_or(WINDOW, |left| left.clamp(BREAK, WINDOW))).await;
            return Ok(());
        }
        self.set_parked(1)?;
        // A record whose place was reserved before the flag was set wakes nobody.
        if self.pages.producer() != self.pages.consumer() {
            return self.set_parked(0);
        }
        let readable = async {
            let mut guard = self.ring.readable().await?;
            guard.clear_ready();
            Ok(())
        };
        let result = match left {
            Some(left) => timeout(left, readable).await.unwrap_or(Ok(())),
            None => readable.await,
        };
        self.set_parked(0)?;
        result
    }

    fn set_parked(&mut self, value: u32) -> io::Result<()> {
        self.parked.set(0, value, 0).map_err(io_error)
    }
}

fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

/// The kernel side's mark of losses that no record has told, and what was told of it.
struct UntoldLosses {
    page: Shared,
    known: u32,
}

impl UntoldLosses {
    fn map(losses: &MapData) -> io::Result<Self> {
        Ok(Self {
            page: Shared::map(losses.fd().as_fd(), 0, rustix::param::page_size())?,
            known: 0,
        })
    }

    /// Both counts at one time.
    fn read(&self) -> Losses {
        let bytes = self.page.load_u64(0).to_ne_bytes();
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Losses {
            lost: word(0),
            told: word(offset_of!(Losses, told)),
        }
    }

    /// Whether `losses` holds some that neither a record nor this has told.
    fn are_news(&mut self, losses: Losses) -> bool {
        let are_news = are_news(losses, self.known);
        self.known = losses.lost;
        are_news
    }
}

const fn are_news(losses: Losses, known: u32) -> bool {
    losses.lost != losses.told && losses.lost != known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_news_until_a_record_or_the_reader_has_told_it() {
        let losses = |lost, told| Losses { lost, told };
        assert!(!are_news(losses(0, 0), 0), "none yet");
        assert!(are_news(losses(3, 0), 0));
        assert!(!are_news(losses(3, 0), 3), "told by the reader");
        assert!(are_news(losses(4, 0), 3), "and one more");
        assert!(!are_news(losses(4, 4), 0), "told by a record");
        assert!(are_news(losses(0, u32::MAX), u32::MAX), "counts wrap");
    }
}
