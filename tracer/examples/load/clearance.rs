//! When the kernel has cleared a network namespace away, with its TIME_WAITs.
//!
//! It does so later, batch by batch in one queue, and tells nobody; what it does then would be seen,
//! and paid for, in the next round. But a device goes in the first steps of a batch, and takes the
//! other end of its pair along: so the end of such a pair tells that the batch has begun, and the
//! same of a later batch that it is over.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::namespace::Namespace;

/// Sockets that are not over yet keep a namespace alive.
const LIMIT: Duration = Duration::from_secs(60);

/// Has the ends of the pairs.
struct Keeper {
    namespace: Namespace,
    file: File,
}

/// Lets go of `owner`, to whom `namespaces` belong, and returns once they are gone.
pub fn clear<T>(owner: T, namespaces: impl FnOnce(&T) -> [&Namespace; 2]) -> Result<()> {
    const ENDS: [&str; 2] = ["end1", "end2"];
    let keeper = Keeper::new()?;
    for (namespace, end) in namespaces(&owner).into_iter().zip(ENDS) {
        keeper.tie(namespace, end);
    }
    drop(owner);
    for end in ENDS {
        keeper.wait_until_gone(end)?;
    }
    let later = Namespace::new();
    keeper.tie(&later, "later");
    drop(later);
    keeper.wait_until_gone("later")
}

impl Keeper {
    fn new() -> Result<Self> {
        let namespace = Namespace::new();
        let file = namespace.run(|| File::open("/proc/thread-self/ns/net"))?;
        Ok(Self { namespace, file })
    }

    /// Makes a pair of devices, of which we have the end of this name.
    fn tie(&self, namespace: &Namespace, end: &str) {
        let ours = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        namespace.ip(&format!(
            "link add tie type veth peer name {end} netns {ours}"
        ));
    }

    fn wait_until_gone(&self, end: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let begins = format!("{end}:");
        loop {
            let devices = self
                .namespace
                .run(|| fs::read_to_string("/proc/thread-self/net/dev"))
                .context("failed to read the devices")?;
            if !devices
                .lines()
                .any(|line| line.trim_start().starts_with(&begins))
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("a network namespace has not gone after {LIMIT:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
