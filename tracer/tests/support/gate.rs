//! Who may run, and what may run at the same time.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use crate::pace;
use crate::witness::Witness;

/// Readers measure milliseconds; the writer puts both processors under full load.
static LOAD: RwLock<()> = RwLock::new(());

/// Readers start a tracer; the writer has changed a setting of the whole host.
static SETTINGS: RwLock<()> = RwLock::new(());

/// No full load runs while it is held.
pub type Company = RwLockReadGuard<'static, ()>;

/// How often a test may run anew because the machine hid events from it.
const ATTEMPTS: u32 = 3;

/// Runs a test as root beside others, but not beside full load; without root it says why not.
///
/// A machine may hide events from every BPF program (see [`crate::witness`]). A test that fails
/// while such were hidden has shown nothing and runs anew, a few times at most. One that fails
/// otherwise has failed.
///
/// Nor has one shown anything whose emulated processor was away for the millisecond that tells two
/// events apart: on such a machine what fails runs anew too. What is wrong fails each time.
pub fn quiet(test: impl Fn()) {
    quiet_at_first(|company| {
        test();
        drop(company);
    });
}

/// The same for a test that minds no load once it has dropped its company.
pub fn quiet_at_first(test: impl Fn(Company)) {
    if !is_root() {
        return;
    }
    for attempt in 1.. {
        let company = LOAD.read().unwrap_or_else(PoisonError::into_inner);
        let witness = Witness::of_all_ports();
        let Err(failure) = panic::catch_unwind(AssertUnwindSafe(|| test(company))) else {
            return;
        };
        let may_be_excused = witness.hidden().events() > 0 || pace::is_slow();
        if attempt == ATTEMPTS || !may_be_excused {
            panic::resume_unwind(failure);
        }
        println!(
            "attempt {attempt} counts for nothing: events were hidden, or the machine is slow"
        );
    }
}

/// How long the kernel may take to take down the namespaces of a load after the test, and some
/// 100,000 TIME_WAITs with them: as many events at once fill the ring of a tracer that starts then.
const TAKEN_DOWN: Duration = Duration::from_secs(2);

/// Runs a test as root without all that is quiet, and without another full load. It must itself
/// account for what the machine hides.
pub fn alone(test: impl FnOnce()) {
    if !is_root() {
        return;
    }
    let _company = LOAD.write().unwrap_or_else(PoisonError::into_inner);
    test();
    thread::sleep(TAKEN_DOWN);
}

/// Whether this process is root. Not being it is a failure where tests must not be skipped.
fn is_root() -> bool {
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

/// Held while a tracer starts: the host's settings are as they were found.
pub fn ordinary_settings() -> RwLockReadGuard<'static, ()> {
    SETTINGS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held while a setting of the whole host is other than it was found.
pub fn changed_settings() -> RwLockWriteGuard<'static, ()> {
    SETTINGS.write().unwrap_or_else(PoisonError::into_inner)
}
