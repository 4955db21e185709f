//! Who may run, and what may run at the same time.

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Readers measure milliseconds; the writer puts both processors under full load.
static LOAD: RwLock<()> = RwLock::new(());

/// Readers start a tracer; the writer has changed a setting of the whole host.
static SETTINGS: RwLock<()> = RwLock::new(());

/// Returns from the test, with the reason on stdout, unless it runs as root. Else it keeps company
/// with the other tests as said, to the end of the calling block:
///
/// - `quiet`: beside others, but not beside full load;
/// - `alone`: without all that is quiet, or another full load;
macro_rules! needs_root {
    ($company:ident) => {
        if !$crate::gate::is_root() {
            return;
        }
        let _company = $crate::gate::$company();
    };
}
pub(crate) use needs_root;

/// Whether this process is root. Not being it is a failure where tests must not be skipped.
pub fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let required = std::env::var_os("CI").is_some()
        || std::env::var_os("TRACER_TEST_ROOT").is_some_and(|value| value == "1");
    assert!(
        !required,
        "this live test needs root, and CI or TRACER_TEST_ROOT=1 says it must not be skipped"
    );
    println!("skipped: needs root (network namespaces, BPF): run the test binary under sudo");
    false
}

/// Held by a test while milliseconds matter to it: no full-rate load runs meanwhile.
pub fn quiet() -> RwLockReadGuard<'static, ()> {
    LOAD.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Held by a test that loads the host fully, or that must have it to itself.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    LOAD.write()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Held while a tracer starts: the host's settings are as they were found.
pub fn ordinary_settings() -> RwLockReadGuard<'static, ()> {
    SETTINGS
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Held while a setting of the whole host is other than it was found.
pub fn changed_settings() -> RwLockWriteGuard<'static, ()> {
    SETTINGS
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
