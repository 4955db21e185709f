//! A ring without a kernel: a file with the same layout, for tests.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};

const HEADER: u64 = 8;

/// The producer's end of a ring in memory.
pub(super) struct FakeRing {
    file: File,
    page: u64,
    size: u64,
    producer: u64,
}

impl FakeRing {
    /// An empty ring of `size` bytes: whole pages, and a power of two.
    pub fn new(size: u64) -> Self {
        let page = rustix::param::page_size() as u64;
        let file = memfd_create(c"ring", MemfdFlags::CLOEXEC).expect("memory");
        let file = File::from(file);
        file.set_len(2 * page + 2 * size).expect("memory");
        Self {
            file,
            page,
            size,
            producer: 0,
        }
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub fn size(&self) -> u32 {
        self.size as u32
    }

    pub fn producer(&self) -> u64 {
        self.producer
    }

    /// Puts a record whose length bears `flags`. Whether there was room.
    pub fn put(&mut self, record: &[u8], flags: u32) -> bool {
        let mut consumer = [0; 8];
        self.file.read_exact_at(&mut consumer, 0).expect("in it");
        let at = self.producer;
        let end = at + (HEADER + record.len() as u64).next_multiple_of(8);
        if end - u64::from_ne_bytes(consumer) > self.size {
            return false;
        }
        self.write(at, &(record.len() as u32 | flags).to_ne_bytes());
        self.write(at + HEADER, record);
        self.write_position(end);
        true
    }

    /// Marks the record at the position `at` as filled.
    pub fn commit(&self, at: u64) {
        let mut header = [0; 4];
        let place = 2 * self.page + at % self.size;
        self.file.read_exact_at(&mut header, place).expect("in it");
        let len = u32::from_ne_bytes(header) & (u32::MAX >> 2);
        self.write(at, &len.to_ne_bytes());
    }

    /// Writes wherever the data lies: the kernel has the same pages there twice.
    fn write(&self, at: u64, bytes: &[u8]) {
        let place = at % self.size;
        let until_end = (self.size - place).min(bytes.len() as u64);
        let (head, tail) = bytes.split_at(until_end as usize);
        for (place, bytes) in [(place, head), (0, tail)] {
            for copy in [place, self.size + place] {
                let written = self.file.write_all_at(bytes, 2 * self.page + copy);
                written.expect("in it");
            }
        }
    }

    fn write_position(&mut self, at: u64) {
        self.producer = at;
        let written = self.file.write_all_at(&at.to_ne_bytes(), self.page);
        written.expect("in it");
    }
}
