//! tracefs, which tells the number that a classic tracepoint is attached by.

use std::io;
use std::path::Path;
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

/// Where it is looked for, as aya does.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Does `work` where tracefs is mounted. Where the host has not mounted it, that is a mount
/// namespace of a thread's own, which goes with it: the host's mounts stay as they are.
///
/// # Errors
/// Where it cannot be mounted: the reason in one line.
pub(super) fn with<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    if PLACES.into_iter().any(is_mounted) {
        return Ok(work());
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            mount().map_err(|error| {
                format!(
                    "failed to mount tracefs, which tells the tracepoint's number: {}",
                    io::Error::from(error)
                )
            })?;
            Ok(work())
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn is_mounted(place: &str) -> bool {
    Path::new(place).join("events").exists()
}

/// Mounts it for the calling thread alone.
fn mount() -> rustix::io::Result<()> {
    // SAFETY: the mount namespace alone is left, not the table of file descriptors, so no owned
    // descriptor changes its meaning in this thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", private)?;
    rustix::mount::mount("tracefs", PLACES[0], "tracefs", MountFlags::empty(), None)
}
