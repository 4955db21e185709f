//! tracer's BPF programs: they watch, copy out what they see, and decide nothing.
//!
//! Hooks on which something of ours can be interrupted by the same hook have a second program,
//! attached after the first (see [`twice`]): the kernel does not run a program on a processor where
//! it is already running, so an event inside a softirq that interrupts the first program would be
//! lost without a trace.

#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the entry macro makes a twin of each program without its docs"
)]
#![expect(
    internal_features,
    reason = "a fetch-add and an exchange are what the accounts need"
)]
#![feature(asm_experimental_arch, core_intrinsics)]

mod calls;
mod context;
mod emit;
mod fields;
mod learn;
mod maps;
mod reset;
mod sock;
mod state;
mod timewait;
mod twice;

use aya_ebpf::macros::{btf_tracepoint, fexit, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext, TracePointContext};

use crate::twice::{First, Second};

/// Every state change of a TCP socket.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn set_state(ctx: BtfTracePointContext) -> i32 {
    state::on_set_state(&ctx);
    0
}

/// What [`set_state`] was not run for.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn set_state_2(ctx: BtfTracePointContext) -> i32 {
    state::on_missed_set_state(&ctx);
    0
}

/// A minisocket's timer is started or moved. Runs with interrupts off: it cannot be interrupted by
/// itself.
#[btf_tracepoint(function = "timer_start")]
pub fn timer_start(ctx: BtfTracePointContext) -> i32 {
    timewait::on_timer(&ctx, timewait::on_start);
    0
}

/// A minisocket's timer is taken off the wheel. Runs with interrupts off.
#[btf_tracepoint(function = "timer_cancel")]
pub fn timer_cancel(ctx: BtfTracePointContext) -> i32 {
    timewait::on_timer(&ctx, timewait::on_cancel);
    0
}

/// A minisocket's timer expires. Runs in the timer softirq, which does not nest.
#[btf_tracepoint(function = "timer_expire_entry")]
pub fn timer_expire(ctx: BtfTracePointContext) -> i32 {
    timewait::on_timer(&ctx, timewait::on_expire);
    0
}

/// Which function is the minisockets' timer handler. Attached for a moment, where it is hidden.
#[btf_tracepoint(function = "timer_start")]
pub fn learn_handler(ctx: BtfTracePointContext) -> i32 {
    learn::on_timer_start(&ctx);
    0
}

/// `tcp_reset()` runs on a socket.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn receive_reset(ctx: BtfTracePointContext) -> i32 {
    reset::on_receive_reset::<First>(&ctx);
    0
}

/// What [`receive_reset`] was not run for.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn receive_reset_2(ctx: BtfTracePointContext) -> i32 {
    reset::on_receive_reset::<Second>(&ctx);
    0
}

/// An RST is sent; kernels that tell a reason (6.10 and later).
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn send_reset(ctx: BtfTracePointContext) -> i32 {
    reset::on_send_reset::<First>(&ctx);
    0
}

/// What [`send_reset`] was not run for.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn send_reset_2(ctx: BtfTracePointContext) -> i32 {
    reset::on_send_reset::<Second>(&ctx);
    0
}

/// A segment is freed; kernels that tell the receiving socket (6.11 and later).
#[btf_tracepoint(function = "kfree_skb")]
pub fn free_segment(ctx: BtfTracePointContext) -> i32 {
    timewait::on_segment::<First>(&ctx);
    0
}

/// What [`free_segment`] was not run for.
#[btf_tracepoint(function = "kfree_skb")]
pub fn free_segment_2(ctx: BtfTracePointContext) -> i32 {
    timewait::on_segment::<Second>(&ctx);
    0
}

/// A minisocket's timer has been set: at its start and at each refresh.
#[fexit(function = "__inet_twsk_schedule")]
pub fn schedule(ctx: FExitContext) -> i32 {
    timewait::on_schedule(&ctx);
    0
}

/// connect() has failed. None of these can be interrupted by itself: they run as a system call
/// returns.
#[tracepoint(category = "syscalls", name = "sys_exit_connect")]
pub fn connect_exit(ctx: TracePointContext) -> u32 {
    calls::on_exit(&ctx, tracer_common::event::calls::CONNECT);
    0
}

/// bind() has failed.
#[tracepoint(category = "syscalls", name = "sys_exit_bind")]
pub fn bind_exit(ctx: TracePointContext) -> u32 {
    calls::on_exit(&ctx, tracer_common::event::calls::BIND);
    0
}

/// socket() has failed for want of something.
#[tracepoint(category = "syscalls", name = "sys_exit_socket")]
pub fn socket_exit(ctx: TracePointContext) -> u32 {
    calls::on_exit(&ctx, tracer_common::event::calls::SOCKET);
    0
}

/// accept() has failed for want of something.
#[tracepoint(category = "syscalls", name = "sys_exit_accept")]
pub fn accept_exit(ctx: TracePointContext) -> u32 {
    calls::on_exit(&ctx, tracer_common::event::calls::ACCEPT);
    0
}

/// accept4() has failed for want of something.
#[tracepoint(category = "syscalls", name = "sys_exit_accept4")]
pub fn accept4_exit(ctx: TracePointContext) -> u32 {
    calls::on_exit(&ctx, tracer_common::event::calls::ACCEPT);
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: nothing here panics; were it so, the verifier would refuse the program.
    unsafe { core::hint::unreachable_unchecked() }
}

/// The timer tracepoints' helpers and the socket cookie are for GPL-compatible programs alone.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
