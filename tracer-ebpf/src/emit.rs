//! Reserve, fill, submit; count what found no room; wake the reader only when it sleeps.

use core::intrinsics::{AtomicOrdering, atomic_xadd, atomic_xchg};
use core::ptr::addr_of_mut;

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use tracer_common::event::{Account, Header, Hook, Kind, Losses, flags};

use crate::maps::{ACCOUNT, EVENTS, LOSSES, PARKED};
use crate::sock::Net;

/// What a record is about, beside its kind.
#[derive(Clone, Copy)]
pub struct Subject {
    /// 4, 6, or 0 for a record without addresses.
    pub family: u8,
    /// Bits of [`flags`].
    pub flags: u16,
    /// The network namespace.
    pub net: Net,
}

/// Makes one record. `T` starts with a [`Header`]; `fill` writes everything behind it.
///
/// The stamp is taken after the place is reserved: a record that the reader could not have seen
/// when it looked at the clock bears a later stamp.
#[inline(always)]
pub fn emit<T: 'static>(kind: Kind, subject: Subject, fill: impl FnOnce(*mut T)) {
    let Some(account) = ACCOUNT.get_ptr_mut(0) else {
        return;
    };
    let Some(losses) = LOSSES.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a valid element. Looked at before the place is reserved: a loss that this sees came
    // before whatever lies behind this record.
    let (told, lost) = unsafe {
        (
            addr_of_mut!((*losses).told).read_volatile(),
            addr_of_mut!((*losses).lost).read_volatile(),
        )
    };
    let recovered = subject.flags & flags::RECOVERED != 0;
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        // SAFETY: a valid element; the addition is atomic.
        unsafe { note_loss(losses) };
        // What a second program finds no room for stays among the missed: whether it is a double
        // nobody will know.
        if !recovered {
            // SAFETY: a valid element; the additions are atomic.
            unsafe {
                add(addr_of_mut!((*account).attempts));
                add(addr_of_mut!((*account).lost[kind as usize]));
            }
        }
        return;
    };
    // SAFETY: a valid element; the additions are atomic, since programs nest.
    let attempt = unsafe {
        if recovered && let Some(hook) = hook(kind) {
            add(addr_of_mut!((*account).recovered[hook as usize]));
        }
        add(addr_of_mut!((*account).attempts))
    };
    let mut bits = subject.flags;
    if told != lost {
        bits |= flags::AFTER_LOSS;
        // SAFETY: a valid element. Where others write too, the older count may stay: the flag is
        // then borne once more.
        unsafe { addr_of_mut!((*losses).told).write_volatile(lost) };
    }
    let record = entry.as_mut_ptr();
    let header = record.cast::<Header>();
    // SAFETY: every T begins with a Header, and the place is as large as T; the helpers have no
    // preconditions.
    unsafe {
        (*header).kind = kind as u8;
        (*header).family = subject.family;
        (*header).len = size_of::<T>() as u16;
        (*header).cpu = bpf_get_smp_processor_id() as u16;
        (*header).flags = bits;
        (*header).seq = attempt as u32;
        (*header).netns = subject.net.inode;
        (*header).time_ns = bpf_ktime_get_ns();
        (*header).netns_cookie = subject.net.cookie;
    }
    fill(record);
    entry.submit(
        if must_wake() {
            BPF_RB_FORCE_WAKEUP
        } else {
            BPF_RB_NO_WAKEUP
        }
        .into(),
    );
}

/// The hook that two programs watch and that shows events of this kind. A task is told beside a
/// transition, which stands for both.
#[inline(always)]
fn hook(kind: Kind) -> Option<Hook> {
    match kind {
        Kind::Transition | Kind::Close => Some(Hook::State),
        Kind::ResetReceived => Some(Hook::ResetReceived),
        Kind::ResetSent => Some(Hook::ResetSent),
        Kind::Segment => Some(Hook::Segment),
        Kind::Task
        | Kind::TimerStart
        | Kind::TimerCancel
        | Kind::TimerExpire
        | Kind::Schedule
        | Kind::CallFailed => None,
    }
}

/// Counts a run of a second program that was for none of our events.
#[inline(always)]
pub fn count_foreign(hook: Hook) {
    if let Some(account) = ACCOUNT.get_ptr_mut(0) {
        // SAFETY: a valid element; the addition is atomic.
        unsafe { add(addr_of_mut!((*account).foreign[hook as usize])) };
    }
}

/// Whether the reader sleeps and this program is the one to wake it.
///
/// The place is reserved before this looks, and the reader looks for reserved places after it has
/// said that it sleeps: one of the two sees the other.
#[inline(always)]
fn must_wake() -> bool {
    let Some(parked) = PARKED.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a valid element; the plain look keeps the exchange off the busy path.
    unsafe {
        parked.read_volatile() != 0
            && atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(parked, 0) != 0
    }
}

/// Notes that the next record comes after a loss.
///
/// # Safety
/// `losses` points to a map's element.
#[inline(always)]
unsafe fn note_loss(losses: *mut Losses) {
    // SAFETY: by the caller's promise.
    unsafe {
        atomic_xadd::<u32, u32, { AtomicOrdering::SeqCst }>(addr_of_mut!((*losses).lost), 1);
    }
}

/// Adds one, and returns what was there.
///
/// # Safety
/// `counter` points to an aligned `u64` in a map.
#[inline(always)]
unsafe fn add(counter: *mut u64) -> u64 {
    // SAFETY: by the caller's promise. With the relaxed order LLVM 22 makes an addition that does
    // not fetch, and gives back the addend.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, 1) }
}

const _: () = assert!(align_of::<Account>() == 8);
