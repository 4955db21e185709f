//! Two programs on one hook, so that the second can tell what the first was not run for.
//!
//! The first program leaves a mark of the event on its processor; the second, which runs right
//! after it for the same event, takes the mark away. No mark: the first was not run, because the
//! event interrupted it.
//!
//! Marks lie in slots, by the place on the stack that the event is told from. Both programs are
//! called from there, and what interrupts between them is told from elsewhere, deeper or on the
//! interrupts' stack: a softirq's hundred events take few slots, and always the same. One that falls
//! on the slot of what it interrupted makes a double, never a loss, and user space drops it. A mark
//! that stays, because the second program was interrupted by the event, is gone with the next event
//! that is told from there.

use core::arch::asm;
use core::ptr::addr_of_mut;

use tracer_common::event::{Account, Hook, flags};

use crate::emit::Desk;

/// Which of the two programs on a hook is running. A type, so that each has its own code.
pub trait Pass {
    /// Whether it is the second.
    const IS_SECOND: bool;
    /// What all its records bear.
    const FLAGS: u16 = if Self::IS_SECOND { flags::RECOVERED } else { 0 };
}

/// Sees everything but what interrupts it.
pub enum First {}

/// Sees what the first did not.
pub enum Second {}

impl Pass for First {
    const IS_SECOND: bool = false;
}

impl Pass for Second {
    const IS_SECOND: bool = true;
}

/// An event, as both programs on a hook know it.
pub struct Sighting {
    /// The hook.
    pub hook: Hook,
    /// What a program is given: it lies on the stack, in the same place for both.
    pub context: *const u8,
    /// The kernel's object.
    pub object: *const u8,
    /// What tells two events of one object apart.
    pub detail: u16,
    /// What tells this object from others that will lie at its address: a mark whose second program
    /// was itself not run stays, and must not be taken for a later event's. 0: nothing does.
    pub cookie: u64,
}

/// Whether the program `P` is the one to report the event.
#[inline(always)]
pub fn is_mine<P: Pass>(desk: Desk, seen: &Sighting) -> bool {
    let low = low_half(seen.object);
    let mark = seen.cookie ^ u64::from(low).rotate_left(16) ^ (u64::from(seen.detail) << 48);
    let slot = slot(seen.context);
    // SAFETY: the pointer is into this processor's element; what interrupts this program may write
    // it too, which costs a double at worst.
    unsafe {
        let place = addr_of_mut!((*desk.account()).marks[seen.hook as usize][slot]);
        if !P::IS_SECOND {
            place.write_volatile(mark);
        } else if place.read_volatile() == mark {
            place.write_volatile(0);
            return false;
        }
    }
    true
}

/// The slot of what is told from this place on the stack. Stacks are alike at their ends and differ
/// in where they lie: multiplied, all bits of the place come to the top ones (Fibonacci hashing).
#[inline(always)]
fn slot(context: *const u8) -> usize {
    const GOLDEN_RATIO: u32 = 0x9e37_79b1;
    const SHIFT: u32 = u32::BITS - Account::MARKS.ilog2();
    ((low_half(context) >> 3).wrapping_mul(GOLDEN_RATIO) >> SHIFT) as usize % Account::MARKS
}

/// Notes that the event is none of ours after all, so that the account of what was missed does not
/// hold it.
#[inline(always)]
pub fn is_foreign<P: Pass>(desk: Desk, hook: Hook) {
    if P::IS_SECOND {
        desk.count_foreign(hook);
    }
}

/// The low half of a kernel pointer: enough for a mark that is compared within one processor and a
/// few nanoseconds. Of a typed pointer the verifier gives away no more, and only by a 32-bit move,
/// which the compiler would turn into shifts.
#[inline(always)]
pub fn low_half(pointer: *const u8) -> u32 {
    let low: u32;
    // SAFETY: moves one register to another.
    unsafe {
        asm!("{low} = {pointer}", low = lateout(wreg) low, pointer = in(wreg) pointer as u32,
             options(pure, nomem, nostack));
    }
    low
}
