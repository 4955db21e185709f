//! The part of the ring's data that is mapped: it moves along with what is read.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use super::shared::Shared;

/// Bytes that are mapped at a time: a batch and its headers fit several times over.
///
/// The kernel counts its own pages as this program's memory as soon as they are mapped, and it has
/// the ring's data there twice: to map all of 32 MiB makes 64 MiB resident. To map the next 1 MiB and
/// unmap the last takes 32 to 42 µs (6.18, two virtual processors), so reading 100 MB/s takes 0.4 %
/// of a processor more. It is the pages that take the time: other sizes cost as much for a byte.
pub(super) const WINDOW: u64 = 1 << 20;

/// What is mapped of the data.
pub(super) struct Window {
    ring: OwnedFd,
    page: u64,
    /// Bytes of the ring: a power of two.
    size: u64,
    /// Bytes to map at a time; a record that is longer has more.
    room: u64,
    mapped: Shared,
    /// The position of the first byte that is mapped.
    from: u64,
}

impl Window {
    /// Maps what is at the position `at` of a ring of `size` bytes, and what follows.
    pub fn new(ring: OwnedFd, size: u32, room: u64, at: u64) -> io::Result<Self> {
        let (page, size) = (rustix::param::page_size() as u64, u64::from(size));
        let (mapped, from) = map(&ring, page, size, room, at, 0)?;
        Ok(Self {
            ring,
            page,
            size,
            room,
            mapped,
            from,
        })
    }

    /// The half word at the position `at`. Positions may not become less from call to call.
    ///
    /// # Errors
    /// Where it is not mapped and cannot be. The next call tries again.
    #[inline]
    pub fn load_u32(&mut self, at: u64) -> io::Result<u32> {
        let place = self.place(at, size_of::<u32>() as u64)?;
        Ok(self.mapped.load_u32(place))
    }

    /// The bytes from the position `at` on. Positions may not become less from call to call.
    ///
    /// # Errors
    /// Where they are not mapped and cannot be. The next call tries again.
    ///
    /// # Safety
    /// Nobody may write there as long as they are borrowed.
    #[inline]
    pub unsafe fn bytes(&mut self, at: u64, len: u32) -> io::Result<&[u8]> {
        let place = self.place(at, len.into())?;
        // SAFETY: as the caller promises.
        Ok(unsafe { self.mapped.bytes(place, len as usize) })
    }

    /// Where `len` bytes from the position `at` on lie in what is mapped.
    #[inline]
    fn place(&mut self, at: u64, len: u64) -> io::Result<usize> {
        if at - self.from + len > self.mapped.size() as u64 {
            self.slide(at, len)?;
        }
        Ok((at - self.from) as usize)
    }

    #[cold]
    fn slide(&mut self, at: u64, len: u64) -> io::Result<()> {
        // The old one goes last: where the kernel refuses the new one, nothing has changed.
        (self.mapped, self.from) = map(&self.ring, self.page, self.size, self.room, at, len)?;
        Ok(())
    }
}

/// Maps `room` bytes from the page of the position `at` on, or more where `len` bytes want it; what
/// is mapped, and the position where that begins.
fn map(
    ring: &OwnedFd,
    page: u64,
    size: u64,
    room: u64,
    at: u64,
    len: u64,
) -> io::Result<(Shared, u64)> {
    let from = at & !(page - 1);
    let offset = from & (size - 1);
    // The second time that the data lies there follows the first, so that a whole ring is left from
    // anywhere in the first. The kernel refuses what reaches beyond.
    let left = 2 * size - offset;
    let wanted = (at - from + len).next_multiple_of(page);
    let bytes = room.min(left).max(wanted);
    // Behind the positions' pages.
    let place = 2 * page + offset;
    let mapped = Shared::map(ring.as_fd(), place as usize, bytes as usize)?;
    Ok((mapped, from))
}

#[cfg(test)]
impl Window {
    /// The positions that are mapped.
    pub fn mapped(&self) -> std::ops::Range<u64> {
        self.from..self.from + self.mapped.size() as u64
    }

    /// Maps from another file from now on.
    pub fn replace_ring(&mut self, ring: OwnedFd) -> OwnedFd {
        std::mem::replace(&mut self.ring, ring)
    }
}
