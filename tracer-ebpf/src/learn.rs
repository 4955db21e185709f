//! Learns the address of the minisockets' timer handler where the kernel hides its symbols: user
//! space closes a connection of its own, and this finds the timer in whose minisocket that
//! connection's tuple stands.

use aya_ebpf::programs::BtfTracePointContext;
use tracer_common::tcp::TcpState;

use crate::maps::{LEARNED, constant};
use crate::sock::{load, probe};

/// `timer_start(timer, …)`. Every timer comes by here, and few are inside a minisocket: what lies
/// before them may be anything, so all of state, ports and addresses must agree.
#[inline(always)]
pub fn on_timer_start(ctx: &BtfTracePointContext) {
    let timer: *const u8 = ctx.arg(0);
    let minisocket = (timer as u64).wrapping_sub(constant!(OFFSETS.tw_timer).into());
    if probe(minisocket + u64::from(constant!(OFFSETS.state))) != Some(TcpState::TimeWait as u8)
        || probe(minisocket + u64::from(constant!(OFFSETS.port_pair))) != Some(constant!(OUR_PORTS))
        || probe(minisocket + u64::from(constant!(OFFSETS.address_pair)))
            != Some(constant!(OUR_ADDRESSES))
    {
        return;
    }
    if let Some(learned) = LEARNED.get_ptr_mut(0) {
        // SAFETY: a valid element, and the tracepoint's argument is typed.
        unsafe { learned.write_volatile(load(timer, constant!(OFFSETS.timer_function))) };
    }
}
