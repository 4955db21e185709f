//! Reserve, fill, submit; count what found no room; wake the reader only when it sleeps.

use core::intrinsics::{AtomicOrdering, atomic_xadd, atomic_xchg};
use core::ptr::addr_of_mut;

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use tracer_common::event::{Account, Header, Hook, Kind, Losses, Task, flags};

use crate::maps::{ACCOUNT, EVENTS, LOSSES, PARKED};
use crate::sock::Net;
use crate::twice::Pass;

/// What a record is about, beside its kind.
#[derive(Clone, Copy)]
pub struct Subject<N = Net> {
    /// 4, 6, or 0 for a record without addresses.
    pub family: u8,
    /// Bits of [`flags`], but for those that the pass tells.
    pub flags: u16,
    /// The network namespace, or what leads to it. What is read only once the place is reserved
    /// need not be kept meanwhile.
    pub net: N,
}

/// Where this processor's accounts lie. Looked up once a run.
#[derive(Clone, Copy)]
pub struct Desk(*mut Account);

impl Desk {
    /// This processor's.
    #[inline(always)]
    pub fn here() -> Option<Self> {
        ACCOUNT.get_ptr_mut(0).map(Self)
    }

    /// The one at `account`, which [`Self::account`] gave.
    #[inline(always)]
    pub fn at(account: *mut Account) -> Self {
        Self(account)
    }

    /// What lies there: a valid element of a map.
    #[inline(always)]
    pub fn account(self) -> *mut Account {
        self.0
    }

    /// Counts a run of a second program that was for none of our events.
    #[inline(always)]
    pub fn count_foreign(self, hook: Hook) {
        // SAFETY: a valid element; the addition is atomic.
        unsafe { add(addr_of_mut!((*self.0).foreign[hook as usize]), 1) };
    }

    /// Makes one record. `T` starts with a [`Header`]; `fill` writes everything behind it.
    #[inline(always)]
    pub fn emit<T: 'static, P: Pass>(
        self,
        kind: Kind,
        subject: Subject<impl Into<Net>>,
        fill: impl FnOnce(*mut T),
    ) {
        let family = subject.family;
        make::<P, _, T, 1>(self.0, [kind], subject, |record: *mut T, stamp| {
            stamp.write::<T>(record.cast(), 0, kind, family);
            fill(record);
        });
    }

    /// Makes a record and the task's behind it, in one place in the ring: a second one would cost
    /// as much again. The reader sees two records.
    #[inline(always)]
    pub fn emit_with_task<T: 'static, P: Pass>(
        self,
        kind: Kind,
        subject: Subject<impl Into<Net>>,
        fill: impl FnOnce(*mut T),
        fill_task: impl FnOnce(*mut Task),
    ) {
        let kinds = [kind, Kind::Task];
        let family = subject.family;
        make::<P, _, Both<T>, 2>(self.0, kinds, subject, |both, stamp| {
            // SAFETY: the place is as large as both.
            let (record, task) =
                unsafe { (addr_of_mut!((*both).record), addr_of_mut!((*both).task)) };
            stamp.write::<T>(record.cast(), 0, kind, family);
            fill(record);
            stamp.write::<Task>(task.cast(), 1, Kind::Task, 0);
            fill_task(task);
        });
    }
}

#[repr(C)]
struct Both<T> {
    record: T,
    task: Task,
}

/// What the headers of records made together have in common.
#[derive(Clone, Copy)]
struct Stamp {
    flags: u16,
    net: Net,
    cpu: u16,
    seq: u32,
    time_ns: u64,
}

impl Stamp {
    /// Writes the header of a `T`, the `nth` of those made together.
    #[inline(always)]
    fn write<T>(self, header: *mut Header, nth: u32, kind: Kind, family: u8) {
        // Whatever is told by the first record is no news at the second.
        let flags = if nth == 0 {
            self.flags
        } else {
            self.flags & !flags::AFTER_LOSS
        };
        // SAFETY: every T begins with a Header, and the place is as large as T.
        unsafe {
            (*header).kind = kind as u8;
            (*header).family = family;
            (*header).len = size_of::<T>() as u16;
            (*header).cpu = self.cpu;
            (*header).flags = flags;
            (*header).seq = self.seq.wrapping_add(nth);
            (*header).netns = self.net.inode;
            (*header).time_ns = self.time_ns;
            (*header).netns_cookie = self.net.cookie;
        }
    }
}

/// Makes records of `kinds` in one place.
///
/// The time is taken after the place is reserved: a record that the reader could not have seen
/// when it looked at the clock bears a later stamp.
#[inline(always)]
fn make<P: Pass, M: Into<Net>, T: 'static, const N: usize>(
    account: *mut Account,
    kinds: [Kind; N],
    subject: Subject<M>,
    fill: impl FnOnce(*mut T, Stamp),
) {
    let Some(losses) = LOSSES.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a valid element.
    let attempts = unsafe { addr_of_mut!((*account).attempts) };
    // Before the place is reserved: an atomic addition waits for all writes before it, and the
    // first to a new place is to memory that no cache holds. What a second program finds no room
    // for stays among the missed: whether it is a double nobody will know.
    let mut attempt = 0;
    if !P::IS_SECOND {
        // SAFETY: a valid element; the addition is atomic, since programs nest.
        attempt = unsafe { add(attempts, N as u64) };
    }
    // SAFETY: a valid element. Looked at before the place is reserved: a loss that this sees came
    // before whatever lies behind this record.
    let (told, lost) = unsafe {
        (
            addr_of_mut!((*losses).told).read_volatile(),
            addr_of_mut!((*losses).lost).read_volatile(),
        )
    };
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        // SAFETY: valid elements; the additions are atomic.
        unsafe {
            note_losses(losses, N as u32);
            if !P::IS_SECOND {
                for kind in kinds {
                    add(addr_of_mut!((*account).lost[kind as usize]), 1);
                }
            }
        }
        return;
    };
    if P::IS_SECOND {
        if let Some(hook) = hook(kinds[0]) {
            // SAFETY: a valid element; the addition is atomic.
            unsafe { add(addr_of_mut!((*account).recovered[hook as usize]), 1) };
        }
        // SAFETY: a valid element; the addition is atomic, since programs nest.
        attempt = unsafe { add(attempts, N as u64) };
    }
    let mut bits = subject.flags | P::FLAGS;
    if told != lost {
        bits |= flags::AFTER_LOSS;
        // SAFETY: a valid element. Where others write too, the older count may stay: the flag is
        // then borne once more.
        unsafe { addr_of_mut!((*losses).told).write_volatile(lost) };
    }
    let stamp = Stamp {
        flags: bits,
        net: subject.net.into(),
        // SAFETY: the helpers have no preconditions.
        cpu: unsafe { bpf_get_smp_processor_id() } as u16,
        seq: attempt as u32,
        // SAFETY: as above.
        time_ns: unsafe { bpf_ktime_get_ns() },
    };
    fill(entry.as_mut_ptr(), stamp);
    entry.submit(BPF_RB_NO_WAKEUP.into());
    wake_reader();
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

/// Wakes the reader where it sleeps and nobody else does it.
///
/// To submit a record is a full barrier. So it is in the ring before this looks, and the reader
/// looks into the ring after it has said that it sleeps: one of the two sees the other. What wakes
/// is a place that is given back: a submitted one can no longer say it.
#[inline(always)]
fn wake_reader() {
    let Some(parked) = PARKED.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a valid element; the plain look keeps the exchange off the busy path.
    unsafe {
        if parked.read_volatile() == 0
            || atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(parked, 0) == 0
        {
            return;
        }
    }
    match EVENTS.reserve::<u64>(0) {
        Some(place) => place.discard(BPF_RB_FORCE_WAKEUP.into()),
        // SAFETY: as above. The next one tries again.
        None => unsafe { parked.write_volatile(1) },
    }
}

/// Notes that the next record comes after `count` losses.
///
/// # Safety
/// `losses` points to a map's element.
#[inline(always)]
unsafe fn note_losses(losses: *mut Losses, count: u32) {
    // SAFETY: by the caller's promise.
    unsafe {
        atomic_xadd::<u32, u32, { AtomicOrdering::SeqCst }>(addr_of_mut!((*losses).lost), count);
    }
}

/// Adds `count`, and returns what was there.
///
/// # Safety
/// `counter` points to an aligned `u64` in a map.
#[inline(always)]
unsafe fn add(counter: *mut u64, count: u64) -> u64 {
    // SAFETY: by the caller's promise. With the relaxed order LLVM 22 makes an addition that does
    // not fetch, and gives back the addend.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, count) }
}

const _: () = assert!(align_of::<Account>() == 8);
