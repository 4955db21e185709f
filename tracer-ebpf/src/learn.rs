//! Learns the address of the minisockets' timer handler where the kernel hides its symbols: user
//! space closes a connection of its own, and this finds the timer in whose minisocket that
//! connection's tuple stands.

use aya_ebpf::programs::BtfTracePointContext;
use tracer_common::tcp::TcpState;

use crate::fields::{Typed, field, offset};
use crate::maps::{LEARNED, constant};
use crate::sock::probe;

/// `timer_start(timer, …)`. Every timer comes by here, and few are inside a minisocket: what lies
/// before them may be anything, so all of state, ports and addresses must agree.
#[inline(always)]
pub fn on_timer_start(ctx: &BtfTracePointContext) {
    let timer = Typed::new(ctx.arg(0));
    let minisocket = (timer.pointer() as u64).wrapping_sub(offset!(tw_timer).into());
    if probe(minisocket + u64::from(offset!(state))) != Some(TcpState::TimeWait as u8)
        || probe(minisocket + u64::from(offset!(port_pair))) != Some(constant!(OUR_PORTS))
        || probe(minisocket + u64::from(offset!(address_pair))) != Some(constant!(OUR_ADDRESSES))
    {
        return;
    }
    if let Some(learned) = LEARNED.get_ptr_mut(0) {
        // SAFETY: a valid element.
        unsafe { learned.write_volatile(field!(timer, timer_function)) };
    }
}
