//! What the daemon may still do once its probes are attached.

use caps::{CapSet, Capability, CapsHashSet};

/// What is kept, and why. Without one of them less is seen; nothing fails.
const KEPT: [(Capability, &str); 3] = [
    (
        Capability::CAP_SYS_ADMIN,
        "to enter other network namespaces, whose sockets and counters are read",
    ),
    (
        Capability::CAP_SYS_PTRACE,
        "to see which process holds a socket of another user",
    ),
    (
        Capability::CAP_DAC_READ_SEARCH,
        "to find the path of a control group by its id",
    ),
];

/// Drops every capability that is not needed any more, for good, and says in the log which are kept.
/// Call it before there are other threads: each has capabilities of its own.
///
/// # Errors
/// Where the kernel refuses.
pub fn narrow() -> Result<(), caps::errors::CapsError> {
    let had = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = (KEPT.iter())
        .map(|(capability, _)| *capability)
        .filter(|capability| had.contains(capability))
        .collect();
    caps::clear(None, CapSet::Ambient)?;
    // CAP_SETPCAP itself goes last: without it the bounding set stays as it is.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)? {
            if !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    for (capability, why) in KEPT.iter().filter(|(kept, _)| had.contains(kept)) {
        tracing::info!("kept {capability}: {why}");
    }
    tracing::info!("dropped {} other capabilities", had.len() - kept.len());
    Ok(())
}
