//! In which context a program runs: whether the current task acts, or was merely interrupted.
//!
//! x86 keeps that in a static variable of the processor. Where it lies is told by no symbol that
//! every kernel shows, so it is found from another static variable of the same processor, to which
//! the current task leads: the run queue. BTF tells how far apart the two are. Other architectures
//! keep it in the task. Kernels with PREEMPT_RT do not count softirqs there, and nothing is told.

use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs,
};
use tracer_common::event::flags;
use tracer_common::layout::ABSENT;

use crate::fields::{Typed, field, offset};
use crate::maps::constant;
use crate::sock::probe;

/// A softirq is being served. (Softirqs that are merely off count in steps of twice that.)
const SERVING_SOFTIRQ: u32 = 1 << 8;
/// HARDIRQ_MASK and NMI_MASK.
const INTERRUPTS: u32 = 0x00ff_0000;

/// `PF_KTHREAD` of `include/linux/sched.h`, the same from 2.6 to 6.18.
const PF_KTHREAD: u32 = 0x0020_0000;

/// [`flags::IN_SOFTIRQ`], [`flags::IN_TASK`], or 0 where this cannot be told.
#[inline(always)]
pub fn flags() -> u16 {
    match preempt_count() {
        Some(count) if count & (SERVING_SOFTIRQ | INTERRUPTS) != 0 => flags::IN_SOFTIRQ,
        // The kernel's own threads receive segments too (threaded NAPI): nobody acts there.
        Some(_) if is_kernel_thread() => 0,
        Some(_) => flags::IN_TASK,
        None => 0,
    }
}

/// [`flags::IN_SEND`] where the current task is in sendto() or sendmsg(), else 0. For a task that
/// acts alone: another's is whatever was interrupted.
#[inline(always)]
pub fn sending() -> u16 {
    if offset!(task_call) == ABSENT {
        return 0;
    }
    // SAFETY: the helper takes the typed pointer of the other, and its own is typed.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf() as *mut _) };
    let call: u32 = field!(Typed::new(registers as *const u8), task_call);
    let [sendto, sendmsg] = constant!(SEND_CALLS);
    if call == sendto || call == sendmsg {
        flags::IN_SEND
    } else {
        0
    }
}

/// Writes the current thread's name and its process's, NUL-padded. The two are one where the thread
/// leads its process.
///
/// # Safety
/// Both point to places of that size, aligned to words.
#[inline(always)]
pub unsafe fn write_names(comm: *mut [u8; 16], name: *mut [u8; 16], leads: bool) {
    // SAFETY: by the caller's promise; the helpers write what they are told.
    unsafe {
        bpf_get_current_comm(comm.cast(), 16);
        if leads {
            name.cast::<[u64; 2]>()
                .write(comm.cast::<[u64; 2]>().read());
            return;
        }
        let leader: u64 = field!(current(), task_leader);
        let leaders = leader + u64::from(offset!(task_comm));
        bpf_probe_read_kernel(name.cast(), 16, leaders as *const _);
    }
}

/// The current task.
#[inline(always)]
fn current() -> Typed {
    // SAFETY: the helper has no preconditions.
    Typed::new(unsafe { bpf_get_current_task_btf() } as *const u8)
}

/// Whether the current task is a thread of the kernel's.
#[inline(always)]
fn is_kernel_thread() -> bool {
    let task_flags: u32 = field!(current(), task_flags);
    task_flags & PF_KTHREAD != 0
}

/// The kernel's `preempt_count()`.
#[inline(always)]
fn preempt_count() -> Option<u32> {
    let task = current();
    if offset!(task_preempt_count) != ABSENT {
        return probe(task.pointer() as u64 + u64::from(offset!(task_preempt_count)));
    }
    let distance = constant!(RUN_QUEUE_TO_PREEMPT_COUNT);
    if distance == 0 {
        return None;
    }
    let queue: Typed = field!(task, task_cfs_queue);
    let run_queue: u64 = field!(queue, cfs_queue_run_queue);
    probe(run_queue.wrapping_add_signed(distance.into()))
}
