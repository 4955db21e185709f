//! The ring as the kernel lays it out: a page with the consumer's position, one with the
//! producer's, and the data twice, so that no record is cut at the end.
//!
//! Source: `kernel/bpf/ringbuf.c` at v6.18.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{Ordering, fence};

use bytes::BytesMut;

use super::shared::Shared;

/// What the kernel puts before each record: the length with two bits, and where its page is.
const HEADER: u64 = 8;
/// The record is being filled.
const BUSY: u32 = 1 << 31;
/// The record was given up.
const DISCARDED: u32 = 1 << 30;

/// The consumer's end of the ring.
pub(super) struct Pages {
    consumer: Shared,
    /// The producer's page, and the data behind it.
    producer: Shared,
    page: usize,
    size: u64,
}

impl Pages {
    /// Maps the ring `map`, which has room for `size` bytes.
    pub fn map(map: BorrowedFd<'_>, size: u32) -> io::Result<Self> {
        let page = rustix::param::page_size();
        Ok(Self {
            consumer: Shared::map_writable(map, 0, page)?,
            producer: Shared::map(map, page, page + 2 * size as usize)?,
            page,
            size: size.into(),
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
    /// one behind the other. Whether it came to `target`: before it lies one that is being filled.
    ///
    /// The position is given back for many records at a time: the kernel's side reads it for each
    /// record that it reserves, and has to fetch it from here whenever it has moved.
    pub fn take(&self, target: u64, most: usize, into: &mut BytesMut) -> bool {
        // A small ring must not be kept full of what was read.
        let stride = (64 << 10).min(self.size / 16);
        let mut given_back = self.consumer();
        let mut at = given_back;
        while at != target && into.len() < most {
            let place = self.page + (at & (self.size - 1)) as usize;
            let header = self.producer.load_u32(place);
            if header & BUSY != 0 {
                break;
            }
            let len = header & !DISCARDED;
            if header & DISCARDED == 0 {
                // SAFETY: the record is filled, and its place is not given back before it is copied.
                let record = unsafe { self.producer.bytes(place + HEADER as usize, len as usize) };
                into.extend_from_slice(record);
            }
            at += (HEADER + u64::from(len)).next_multiple_of(8);
            if at - given_back >= stride {
                self.consumer.store_u64(0, at);
                given_back = at;
            }
        }
        if at != given_back {
            self.consumer.store_u64(0, at);
        }
        at == target
    }
}
