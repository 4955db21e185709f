//! Two programs on one hook, so that the second can tell what the first was not run for.
//!
//! The first program lays a mark of the event on a pile of its processor's; the second, which runs
//! right after it for the same event, takes the mark off. No mark: the first was not run, because
//! the event interrupted it.
//!
//! A pile, since events on one processor are nested: what interrupts between the two programs, be it
//! a hundred events of one softirq, lays its marks on top and takes them off before it ends. Only
//! what interrupts the second program leaves marks behind, since that is not run for it: they are
//! thrown off with the mark below them. More of them at once than the pile holds bury that mark. That
//! makes a double, never a loss, and user space drops it.

use core::arch::asm;
use core::ptr::addr_of_mut;

use tracer_common::event::{Hook, Pile, flags};

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
    // SAFETY: a valid element of a map.
    let pile = unsafe { addr_of_mut!((*desk.account()).piles[seen.hook as usize]) };
    if P::IS_SECOND {
        !take_off(pile, mark)
    } else {
        lay_on(pile, mark);
        true
    }
}

/// Lays a mark on top. What interrupts this may lay marks too, and has taken them off by the time
/// that this goes on: the first program, the only one that lays them, does not interrupt itself.
#[inline(always)]
fn lay_on(pile: *mut Pile, mark: u64) {
    // SAFETY: a valid element, and the place is one of its marks.
    unsafe {
        let height = addr_of_mut!((*pile).height).read_volatile();
        place(pile, height).write_volatile(mark);
        addr_of_mut!((*pile).height).write_volatile(height.wrapping_add(1));
    }
}

/// Takes a mark off, if it lies there.
#[inline(always)]
fn take_off(pile: *mut Pile, mark: u64) -> bool {
    // SAFETY: a valid element, and the place is one of its marks.
    unsafe {
        let top = addr_of_mut!((*pile).height)
            .read_volatile()
            .wrapping_sub(1);
        let place = place(pile, top);
        if place.read_volatile() != mark {
            return dig(pile, mark);
        }
        place.write_volatile(0);
        addr_of_mut!((*pile).height).write_volatile(top);
    }
    true
}

/// Takes a mark off from below others, which are thrown off with it.
#[inline(never)]
fn dig(pile: *mut Pile, mark: u64) -> bool {
    // SAFETY: a valid element, and each place is one of its marks.
    unsafe {
        let height = addr_of_mut!((*pile).height).read_volatile();
        let mut depth = 2;
        while depth <= Pile::MARKS as u64 {
            let at = height.wrapping_sub(depth);
            if place(pile, at).read_volatile() == mark {
                addr_of_mut!((*pile).height).write_volatile(at);
                while depth > 0 {
                    place(pile, height.wrapping_sub(depth)).write_volatile(0);
                    depth -= 1;
                }
                return true;
            }
            depth += 1;
        }
    }
    false
}

/// Where the mark at that height lies: the pile's lowest ones make room for its highest.
///
/// # Safety
/// `pile` points to a valid one.
#[inline(always)]
unsafe fn place(pile: *mut Pile, height: u64) -> *mut u64 {
    // SAFETY: by the caller's promise.
    unsafe { addr_of_mut!((*pile).marks[height as usize % Pile::MARKS]) }
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
