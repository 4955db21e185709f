//! Writing to a file in few pieces, and without filling the host's page cache: what a tracer writes,
//! nobody reads soon, and it would push out what others need. Fresh pages are also what a write costs
//! most: copying into pages that go and come again takes a quarter of the time.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, IoSlice, ReadWriteFlags, pwritev2, writev};

/// `RWF_DONTCACHE` of `include/uapi/linux/fs.h` (Linux 6.14 and later): written pages leave the cache
/// once they are on the disk.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// Where the file's position is.
const HERE: u64 = u64::MAX;
/// Smaller pieces are written as ever: each page that is written in two parts would be fetched from
/// the disk again.
const LARGE: usize = 64 << 10;

/// How small chunks are gathered where they come for long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathering {
    /// Bytes that are written without gathering more.
    pub enough: usize,
    /// How long the others wait for more.
    pub patience: Duration,
}

/// For a reader that waits: 200 writes a second.
const TO_A_READER: Gathering = Gathering {
    enough: 256 << 10,
    patience: Duration::from_millis(5),
};
/// Nobody waits for a file, and each write to one is a request to the disk: 20 MB a second in 40
/// writes take 2 % of a processor, in 200 they take 5.
const TO_A_FILE: Gathering = Gathering {
    enough: 1 << 20,
    patience: Duration::from_millis(25),
};

/// A descriptor that is written to.
pub(super) struct Descriptor<'fd> {
    fd: BorrowedFd<'fd>,
    /// The kernel and what is written to allow it, as far as is known.
    may_be_uncached: bool,
}

impl<'fd> Descriptor<'fd> {
    pub fn new(fd: BorrowedFd<'fd>) -> Self {
        Self {
            fd,
            may_be_uncached: true,
        }
    }

    /// How what is written to it is best gathered.
    pub fn gathering(&self) -> Gathering {
        let mode = fstat(self.fd).map(|stat| stat.st_mode);
        match mode.map(FileType::from_raw_mode) {
            Ok(FileType::RegularFile) => TO_A_FILE,
            _ => TO_A_READER,
        }
    }

    /// Writes all of `pieces`, one behind the other: 1,024 of them at most.
    ///
    /// # Errors
    /// Where the kernel refuses it. Part of it may have been written.
    pub fn write_all(&mut self, pieces: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let mut pieces: Vec<_> = pieces
            .iter()
            .map(|piece| IoSlice::new(piece.as_ref()))
            .filter(|piece| !piece.is_empty())
            .collect();
        let mut pieces = pieces.as_mut_slice();
        while !pieces.is_empty() {
            match self.write(pieces) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut pieces, written),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.may_be_uncached && bytes >= LARGE {
            match pwritev2(self.fd, pieces, HERE, DONTCACHE) {
                // A pipe, a terminal, a file system or a kernel that knows nothing of it.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::SPIPE) => {
                    self.may_be_uncached = false;
                }
                told => return told,
            }
        }
        writev(self.fd, pieces)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::thread;

    use super::*;

    /// Pieces of sizes on both sides of [`LARGE`], each of another byte.
    fn pieces() -> impl Iterator<Item = Vec<u8>> {
        let sizes = [1, 3 * LARGE + 17, 5, LARGE, LARGE - 1, 2 * LARGE];
        (b'a'..).zip(sizes).map(|(byte, size)| vec![byte; size])
    }

    #[test]
    fn what_is_written_to_a_file_stands_behind_what_was_there() -> io::Result<()> {
        let path = tempfile::NamedTempFile::new()?.into_temp_path();
        fs::write(&path, "before")?;
        for append in [true, false] {
            let file = fs::OpenOptions::new()
                .append(append)
                .write(true)
                .open(&path)?;
            rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
            let mut descriptor = Descriptor::new(file.as_fd());
            descriptor.write_all(&pieces().collect::<Vec<_>>())?;
            pieces().try_for_each(|piece| descriptor.write_all(&[piece]))?;
        }
        let mut expected = b"before".to_vec();
        for _ in 0..4 {
            expected.extend(pieces().flatten());
        }
        assert!(fs::read(&path)? == expected);
        Ok(())
    }

    #[test]
    fn a_file_waits_longer_than_who_reads_a_pipe_or_looks_at_a_terminal() -> io::Result<()> {
        let file = tempfile::tempfile()?;
        let (_reader, pipe) = io::pipe()?;
        // A device, as a terminal is.
        let device = fs::File::options().write(true).open("/dev/null")?;
        let patience = |fd: BorrowedFd<'_>| Descriptor::new(fd).gathering().patience;
        assert_eq!(patience(file.as_fd()), TO_A_FILE.patience);
        assert_eq!(patience(pipe.as_fd()), TO_A_READER.patience);
        assert_eq!(patience(device.as_fd()), TO_A_READER.patience);
        Ok(())
    }

    #[test]
    fn a_pipe_gets_it_all() -> io::Result<()> {
        let (mut reader, writer) = io::pipe()?;
        let read = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        let mut descriptor = Descriptor::new(writer.as_fd());
        descriptor.write_all(&pieces().collect::<Vec<_>>())?;
        assert!(!descriptor.may_be_uncached, "a pipe has no cache");
        drop(writer);
        let all = read.join().expect("the reader did not panic")?;
        assert!(all == pieces().flatten().collect::<Vec<u8>>());
        Ok(())
    }
}
