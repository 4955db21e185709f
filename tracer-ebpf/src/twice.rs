//! Two programs on one hook, so that the second can tell what the first was not run for.
//!
//! The first program leaves a mark of the event on its processor; the second, which runs right
//! after it for the same event, takes the mark away. No mark: the first was not run, because the
//! event interrupted it. Marks lie in slots; an event that comes between the two programs and falls
//! on the same slot makes a double, never a loss, and user space drops it.

use core::arch::asm;

use tracer_common::event::{Hook, flags};

use crate::emit::{self, Subject};
use crate::maps::{MARKS, MARKS_PER_HOOK};

/// Which of the two programs on a hook is running.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Sees everything but what interrupts it.
    First,
    /// Sees what the first did not.
    Second,
}

/// An event, as both programs on a hook know it.
pub struct Sighting {
    /// The hook.
    pub hook: Hook,
    /// The kernel's object.
    pub object: *const u8,
    /// What tells two events of one object apart.
    pub detail: u16,
    /// What tells this object from others that will lie at its address: a mark whose second program
    /// was itself not run stays, and must not be taken for a later event's. 0: nothing does.
    pub cookie: u64,
}

impl Pass {
    /// Whether this program is the one to report the event.
    #[inline(always)]
    pub fn is_mine(self, seen: &Sighting) -> bool {
        let low = low_half(seen.object);
        let mark = seen.cookie ^ u64::from(low).rotate_left(16) ^ (u64::from(seen.detail) << 48);
        let slot = ((low >> 6) ^ (low >> 12)) % MARKS_PER_HOOK;
        let Some(place) = MARKS.get_ptr_mut(seen.hook as u32 * MARKS_PER_HOOK + slot) else {
            return false;
        };
        // SAFETY: the pointer is into this processor's element; what interrupts this program may
        // write it too, which costs a double at worst.
        unsafe {
            match self {
                Self::First => place.write_volatile(mark),
                Self::Second if place.read_volatile() == mark => {
                    place.write_volatile(0);
                    return false;
                }
                Self::Second => {}
            }
        }
        true
    }

    /// `subject`, with the mark that a second program's records bear.
    #[inline(always)]
    pub fn signs(self, mut subject: Subject) -> Subject {
        if self == Self::Second {
            subject.flags |= flags::RECOVERED;
        }
        subject
    }

    /// Notes that the event is none of ours after all, so that the account of what was missed does
    /// not hold it.
    #[inline(always)]
    pub fn is_foreign(self, hook: Hook) {
        if self == Self::Second {
            emit::count_foreign(hook);
        }
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
