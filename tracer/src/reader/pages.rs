//! The ring as the kernel lays it out: a page with the consumer's position, one with the
//! producer's, and the data twice, so that no record is cut at the end.
//!
//! Source: `kernel/bpf/ringbuf.c` at v6.18.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{Ordering, fence};

use bytes::BytesMut;

use super::shared::Shared;
use super::window::{WINDOW, Window};

/// What the kernel puts before each record: the length with two bits, and where its page is.
const HEADER: u64 = 8;
/// The record is being filled.
const BUSY: u32 = 1 << 31;
/// The record was given up.
const DISCARDED: u32 = 1 << 30;

/// The consumer's end of the ring.
pub(super) struct Pages {
    consumer: Shared,
    producer: Shared,
    data: Window,
    /// What is read is given back after as many bytes.
    stride: u64,
}

impl Pages {
    /// Maps the ring `map`, which has room for `size` bytes.
    pub fn map(map: BorrowedFd<'_>, size: u32) -> io::Result<Self> {
        Self::map_with_window(map, size, WINDOW)
    }

    fn map_with_window(map: BorrowedFd<'_>, size: u32, window: u64) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let consumer = Shared::map_writable(map, 0, page)?;
        let at = consumer.load_u64(0);
        Ok(Self {
            consumer,
            producer: Shared::map(map, page, page)?,
            data: Window::new(map.try_clone_to_owned()?, size, window, at)?,
            // A small ring must not be kept full of what was read.
            stride: (64 << 10).min(u64::from(size) / 16),
        })
    }

    /// Up to where it was read.
    pub fn consumer(&self) -> u64 {
        self.consumer.load_u64(0)
    }

    /// Up to where places were reserved.
    pub fn producer(&self) -> u64 {
        // The flag that says "parked" was set before this look, by a system call: see must_wake()
        // on the kernel's side.
        fence(Ordering::SeqCst);
        self.producer.load_u64(0)
    }

    /// Takes the records up to `target` off the ring, until `into` holds `most` bytes: appends them
    /// one behind the other. Whether it came to `target`: before it lies one that is being filled,
    /// or one that cannot be mapped.
    ///
    /// The position is given back for many records at a time: the kernel's side reads it for each
    /// record that it reserves, and has to fetch it from here whenever it has moved.
    ///
    /// # Errors
    /// Where the very first record cannot be mapped: nothing was taken then. What was taken before
    /// a record that cannot be mapped is returned, and the error by the next call.
    pub fn take(&mut self, target: u64, most: usize, into: &mut BytesMut) -> io::Result<bool> {
        let start = self.consumer();
        let mut given_back = start;
        let mut at = start;
        while at != target && into.len() < most {
            match self.take_one(at, into) {
                Ok(Some(end)) => at = end,
                Err(error) if at == start => return Err(error),
                Ok(None) | Err(_) => break,
            }
            if at - given_back >= self.stride {
                self.consumer.store_u64(0, at);
                given_back = at;
            }
        }
        if at != given_back {
            self.consumer.store_u64(0, at);
        }
        Ok(at == target)
    }

    /// Appends the record at the position `at`, but for one that was given up; the position behind
    /// it. `None`: it is being filled.
    #[inline]
    fn take_one(&mut self, at: u64, into: &mut BytesMut) -> io::Result<Option<u64>> {
        let header = self.data.load_u32(at)?;
        if header & BUSY != 0 {
            return Ok(None);
        }
        let len = header & !DISCARDED;
        if header & DISCARDED == 0 {
            // SAFETY: the record is filled, and its place is not given back before it is copied.
            let record = unsafe { self.data.bytes(at + HEADER, len) }?;
            into.extend_from_slice(record);
        }
        Ok(Some(at + (HEADER + u64::from(len)).next_multiple_of(8)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::fake::FakeRing;
    use super::*;

    /// Rings are of whole pages, and those differ from machine to machine.
    fn page() -> u64 {
        rustix::param::page_size() as u64
    }

    fn map(ring: &FakeRing, window: u64) -> Pages {
        Pages::map_with_window(ring.as_fd(), ring.size(), window).expect("a file can be mapped")
    }

    fn take(pages: &mut Pages, most: usize) -> (Vec<u8>, bool) {
        let mut into = BytesMut::new();
        let came_to_target = pages.take(pages.producer(), most, &mut into);
        (into.to_vec(), came_to_target.expect("it can be mapped"))
    }

    /// Fills and reads the ring in turns, for several laps; the seeds differ in where records lie.
    fn laps(ring_pages: u64, window: u64, longest: u64, seed: u64) {
        let mut ring = FakeRing::new(ring_pages * page());
        let mut pages = map(&ring, window);
        let mut random = fastrand::Rng::with_seed(seed);
        while ring.producer() < 20 * u64::from(ring.size()) {
            let mut expected = Vec::new();
            loop {
                let record: Vec<u8> = (0..random.u64(1..=longest))
                    .map(|_| random.u8(..))
                    .collect();
                let is_discarded = random.u8(..8) == 0;
                if !ring.put(&record, if is_discarded { DISCARDED } else { 0 }) {
                    break;
                }
                if !is_discarded {
                    expected.extend(record);
                }
            }
            let (taken, is_all) = take(&mut pages, usize::MAX);
            assert!(taken == expected, "other bytes than were put, seed {seed}");
            assert!(is_all);
            assert_eq!(pages.consumer(), ring.producer());
            let mapped = pages.data.mapped();
            let first_copy = mapped.start % u64::from(ring.size());
            let end = first_copy + (mapped.end - mapped.start);
            assert!(end <= 2 * u64::from(ring.size()), "mapped beyond the ring");
        }
    }

    #[test]
    fn records_are_read_whole_where_the_window_ends_and_where_the_ring_does() {
        for seed in 0..8 {
            laps(8, 2 * page(), 500, seed);
        }
    }

    #[test]
    fn a_ring_smaller_than_the_window_is_read() {
        for ring_pages in [1, 4] {
            laps(ring_pages, WINDOW, 200, 1);
        }
    }

    #[test]
    fn a_record_longer_than_the_window_is_read() {
        laps(8, page(), 3 * page(), 1);
    }

    #[test]
    fn no_more_is_mapped_than_the_window() {
        let mut ring = FakeRing::new(16 * page());
        let mut pages = map(&ring, 4 * page());
        while ring.put(&[7; 100], 0) {}
        let (taken, _) = take(&mut pages, usize::MAX);
        assert!(taken.len() as u64 > 12 * page());
        let mapped = pages.data.mapped();
        assert_eq!(mapped.end - mapped.start, 4 * page());
    }

    #[test]
    fn reading_stops_before_a_record_that_is_being_filled_and_then_goes_on() {
        let mut ring = FakeRing::new(page());
        let mut pages = map(&ring, WINDOW);
        ring.put(b"one", 0);
        let at = ring.producer();
        ring.put(b"two", BUSY);
        ring.put(b"three", 0);
        assert_eq!(take(&mut pages, usize::MAX), (b"one".to_vec(), false));
        assert_eq!(pages.consumer(), at, "what was read is given back");
        assert_eq!(take(&mut pages, usize::MAX), (Vec::new(), false));
        ring.commit(at);
        assert_eq!(take(&mut pages, usize::MAX), (b"twothree".to_vec(), true));
    }

    #[test]
    fn a_record_that_was_given_up_is_left_out() {
        let mut ring = FakeRing::new(page());
        let mut pages = map(&ring, WINDOW);
        ring.put(b"one", 0);
        ring.put(b"two", DISCARDED);
        ring.put(b"three", 0);
        assert_eq!(take(&mut pages, usize::MAX), (b"onethree".to_vec(), true));
        assert_eq!(pages.consumer(), ring.producer());
    }

    #[test]
    fn a_batch_ends_with_the_record_that_makes_it_full() {
        let mut ring = FakeRing::new(page());
        let mut pages = map(&ring, WINDOW);
        for record in [b"one", b"two", b"six"] {
            ring.put(record, 0);
        }
        assert_eq!(take(&mut pages, 4), (b"onetwo".to_vec(), false));
        assert_eq!(take(&mut pages, 4), (b"six".to_vec(), true));
    }

    #[test]
    fn where_the_window_cannot_move_what_was_read_comes_first_then_the_error_and_nothing_is_lost() {
        let mut ring = FakeRing::new(8 * page());
        let mut pages = map(&ring, page());
        let mut expected = Vec::new();
        for number in 0..=u8::MAX {
            assert!(ring.put(&[number; 50], 0));
            expected.extend([number; 50]);
        }
        let unmappable = File::open("/").expect("there is a root").into();
        let mappable = pages.data.replace_ring(unmappable);

        let (mut taken, is_all) = take(&mut pages, usize::MAX);
        assert!(!taken.is_empty() && !is_all);
        let at = pages.consumer();
        for _ in 0..2 {
            let mut into = BytesMut::new();
            let result = pages.take(pages.producer(), usize::MAX, &mut into);
            assert!(result.is_err() && into.is_empty());
            assert_eq!(pages.consumer(), at);
        }

        pages.data.replace_ring(mappable);
        let (rest, is_all) = take(&mut pages, usize::MAX);
        taken.extend(rest);
        assert!(is_all);
        assert!(taken == expected);
    }
}
