//! The maps and the constants that the loader fills in; offsets are in [`crate::fields`].

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray, RingBuf};
use tracer_common::event::{Account, Losses};

/// Everything that goes to user space, in one order. The loader sets the size.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// 1 while the reader sleeps: who exchanges it to 0 wakes it.
#[map]
pub static PARKED: Array<u32> = Array::with_max_entries(1, 0);

/// Losses that no record has told yet. The reader maps it, to look without a system call.
#[map]
pub static LOSSES: Array<Losses> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What each processor has counted.
#[map]
pub static ACCOUNT: PerCpuArray<Account> = PerCpuArray::with_max_entries(1, 0);

/// The timer handler that [`crate::learn`] has found.
#[map]
pub static LEARNED: Array<u64> = Array::with_max_entries(1, 0);

/// `skc_portpair` of the connection to learn from.
#[unsafe(no_mangle)]
pub static OUR_PORTS: u32 = 0;

/// `skc_addrpair` of the connection to learn from.
#[unsafe(no_mangle)]
pub static OUR_ADDRESSES: u64 = 0;

/// From a processor's run queue to its count of contexts, both its static variables; 0: not known.
#[unsafe(no_mangle)]
pub static RUN_QUEUE_TO_PREEMPT_COUNT: i32 = 0;

/// Numbers of the system calls sendto() and sendmsg().
#[unsafe(no_mangle)]
pub static SEND_CALLS: [u32; 2] = [u32::MAX; 2];

/// Number of tcp_send_reset's arguments: 2, or 3 with the reason (6.10 and later).
#[unsafe(no_mangle)]
pub static SEND_RESET_ARGUMENTS: u32 = 2;

/// The bit of TCP_REPAIR in its byte.
#[unsafe(no_mangle)]
pub static REPAIR_MASK: u8 = 0;

/// The bit of `tstamp_ok` in its byte.
#[unsafe(no_mangle)]
pub static TIMESTAMPS_MASK: u8 = 0;

/// The bit of SOCK_BINDPORT_LOCK (bind() chose the port) in `sk_userlocks`'s byte.
#[unsafe(no_mangle)]
pub static PORT_LOCK_MASK: u8 = 0;

/// Reads a constant as the loader has set it; the compiler must not use what stands in the source.
#[inline(always)]
pub fn as_loaded<T: Copy>(constant: &'static T) -> T {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::from_ref(constant).read_volatile() }
}

/// A constant of the loader's that is read from memory: `constant!(REPAIR_MASK)`.
macro_rules! constant {
    ($($path:tt)+) => {
        $crate::maps::as_loaded(&$crate::maps::$($path)+)
    };
}
pub(crate) use constant;
