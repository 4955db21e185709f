//! What the host says of itself.

use std::fs;

use crate::clock;
use crate::stream::{Meta, ProbeReport};

/// The stream's first record, for this host.
#[must_use]
pub fn meta(probes: &[ProbeReport]) -> Meta {
    Meta {
        host: node_name(),
        boot_id: line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
        kernel: kernel(),
        hz: clock::hz(),
        probes: probes.to_vec(),
    }
}

/// `uname -n`.
#[must_use]
pub fn node_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// `uname -r`.
#[must_use]
pub fn kernel() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// `kernel.kptr_restrict`: 2 hides the kernel's addresses from everybody.
#[must_use]
pub fn kptr_restrict() -> Option<u8> {
    line("/proc/sys/kernel/kptr_restrict")?.parse().ok()
}

/// Where tracefs is mounted.
#[must_use]
pub fn tracefs() -> Option<String> {
    fs::read_to_string("/proc/self/mounts")
        .ok()?
        .lines()
        .find_map(|mount| {
            let mut fields = mount.split(' ');
            let (_, directory, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "tracefs").then(|| directory.to_owned())
        })
}

/// The effective capabilities of this process, a bit each.
#[must_use]
pub fn effective_capabilities() -> u64 {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let bits = status
                .lines()
                .find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(bits.trim(), 16).ok()
        })
        .unwrap_or(0)
}

fn line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}
