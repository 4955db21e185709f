use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Pages of a map, shared with the kernel.
pub(super) struct Shared {
    address: *mut u8,
    size: usize,
}

// SAFETY: the pages are read and written by atomic operations alone, but for bytes() whose caller
// promises that nobody writes there, and are unmapped once, at drop.
unsafe impl Send for Shared {}

impl Shared {
    /// Maps `size` bytes of `map` from `offset` on, to be read.
    pub fn map(map: BorrowedFd<'_>, offset: usize, size: usize) -> io::Result<Self> {
        Self::map_for(map, offset, size, ProtFlags::READ)
    }

    /// The same, to be written too.
    pub fn map_writable(map: BorrowedFd<'_>, offset: usize, size: usize) -> io::Result<Self> {
        Self::map_for(map, offset, size, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn map_for(
        map: BorrowedFd<'_>,
        offset: usize,
        size: usize,
        access: ProtFlags,
    ) -> io::Result<Self> {
        // SAFETY: a new mapping; the kernel refuses pages that the map does not have.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                size,
                access,
                MapFlags::SHARED,
                map,
                offset as u64,
            )
        }?;
        Ok(Self {
            address: address.cast(),
            size,
        })
    }

    /// Bytes that are mapped.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The word at `at`.
    #[inline]
    pub fn load_u64(&self, at: usize) -> u64 {
        // SAFETY: mapped, aligned, and lives as long as self.
        unsafe { AtomicU64::from_ptr(self.place::<u64>(at)) }.load(Ordering::Acquire)
    }

    /// The half word at `at`.
    #[inline]
    pub fn load_u32(&self, at: usize) -> u32 {
        // SAFETY: mapped, aligned, and lives as long as self.
        unsafe { AtomicU32::from_ptr(self.place::<u32>(at)) }.load(Ordering::Acquire)
    }

    /// Sets the word at `at` of writable pages.
    #[inline]
    pub fn store_u64(&self, at: usize, value: u64) {
        // SAFETY: mapped, aligned, and lives as long as self.
        unsafe { AtomicU64::from_ptr(self.place::<u64>(at)) }.store(value, Ordering::Release);
    }

    /// The bytes from `at` on.
    ///
    /// # Safety
    /// Nobody may write there as long as they are borrowed.
    #[inline]
    pub unsafe fn bytes(&self, at: usize, len: usize) -> &[u8] {
        assert!(len <= self.size && at <= self.size - len);
        // SAFETY: mapped, as was just seen; not written to, as the caller promises.
        unsafe { std::slice::from_raw_parts(self.address.add(at), len) }
    }

    #[inline]
    fn place<T>(&self, at: usize) -> *mut T {
        assert!(at.is_multiple_of(size_of::<T>()) && at < self.size);
        // SAFETY: within the mapping, which is of whole pages.
        unsafe { self.address.add(at) }.cast()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by map(), not used after this. Nothing can be done about a failure.
        let _ = unsafe { munmap(self.address.cast(), self.size) };
    }
}
