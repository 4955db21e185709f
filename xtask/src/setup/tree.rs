//! Walks over unpacked packages.

use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;

/// Calls `visit` with each entry below `root` that is no directory, in no order.
pub fn visit(root: &Path, mut visit: impl FnMut(&DirEntry) -> io::Result<()>) -> io::Result<()> {
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else {
                visit(&entry)?;
            }
        }
    }
    Ok(())
}
