//! Reads of the kernel's fields, whose offsets the loader writes into the instructions.
//!
//! A load stands in the object with a [`placeholder`] where its offset belongs, as the compiler
//! would leave it for a relocation. The verifier and the processor see one instruction a field:
//! kept in .rodata, each offset would be read and added as the program runs.

use core::arch::asm;

use tracer_common::layout::placeholder;

/// A pointer into the kernel whose type the verifier knows: what is loaded from it is checked as
/// the program is loaded, and made safe by the kernel.
#[derive(Clone, Copy)]
pub struct Typed(*const u8);

impl Typed {
    /// Takes a tracepoint's argument or what a helper returned, not NULL.
    #[inline(always)]
    pub fn new(pointer: *const u8) -> Self {
        Self(pointer)
    }

    /// The pointer itself.
    #[inline(always)]
    pub fn pointer(self) -> *const u8 {
        self.0
    }

    /// Loads a field: see [`field`].
    #[inline(always)]
    pub fn load<T: Word, const AT: i16>(self) -> T {
        // SAFETY: the loader has checked the field's size, and the verifier checks the rest.
        unsafe { T::load::<AT>(self.0) }
    }
}

/// What can be loaded in one instruction.
pub trait Word: Copy {
    /// Loads what lies `AT` behind `base`.
    ///
    /// # Safety
    /// `base` is a typed kernel pointer, or one to memory of the program's own, and a field of this
    /// size lies there: the verifier refuses the program otherwise.
    unsafe fn load<const AT: i16>(base: *const u8) -> Self;
}

macro_rules! words {
    ($($word:ty, $register:ident, $size:literal;)*) => {
        $(impl Word for $word {
            #[inline(always)]
            unsafe fn load<const AT: i16>(base: *const u8) -> Self {
                let value: $word;
                // SAFETY: by the caller's promise. Not `pure`: it must stay behind the tests that
                // guard it.
                unsafe {
                    asm!(
                        concat!("{value} = *(", $size, " *)({base} + {at})"),
                        value = lateout($register) value,
                        base = in(reg) base,
                        at = const AT,
                        options(readonly, nostack),
                    );
                }
                value
            }
        })*
    };
}

words! {
    u32, wreg, "u32";
    i32, wreg, "u32";
    u64, reg, "u64";
    *const u8, reg, "u64";
}

impl Word for Typed {
    #[inline(always)]
    unsafe fn load<const AT: i16>(base: *const u8) -> Self {
        // SAFETY: by the caller's promise.
        Self(unsafe { <*const u8>::load::<AT>(base) })
    }
}

macro_rules! narrow_words {
    ($($word:ty, $size:literal;)*) => {
        $(impl Word for $word {
            #[inline(always)]
            unsafe fn load<const AT: i16>(base: *const u8) -> Self {
                let value: u32;
                // SAFETY: as above. The load fills the register up with zeros.
                unsafe {
                    asm!(
                        concat!("{value} = *(", $size, " *)({base} + {at})"),
                        value = lateout(wreg) value,
                        base = in(reg) base,
                        at = const AT,
                        options(readonly, nostack),
                    );
                }
                value as $word
            }
        })*
    };
}

narrow_words! {
    u8, "u8";
    u16, "u16";
}

/// The number of a field by its place in `Offsets`.
#[inline(always)]
pub fn offset_of<const NUMBER: i32>() -> u32 {
    let offset: u32;
    // SAFETY: moves a constant to a register.
    unsafe {
        asm!("{offset} = {number}", offset = lateout(wreg) offset, number = const NUMBER,
             options(pure, nomem, nostack));
    }
    offset
}

/// Address of the kernel's `tw_timer_handler`, by which a minisocket's timer is known.
#[inline(always)]
pub fn handler() -> u64 {
    let address: u64;
    // SAFETY: moves a constant to a register.
    unsafe {
        asm!("{address} = {placeholder} ll", address = lateout(reg) address,
             placeholder = const placeholder::HANDLER, options(pure, nomem, nostack));
    }
    address
}

/// Loads a field of what has a method `load`: `field!(sock, cookie)`, or the 32-bit word `n` of it:
/// `field!(sock, v6_peer, n)`.
macro_rules! field {
    ($base:expr, $name:ident) => {
        $crate::fields::field!($base, $name, 0)
    };
    ($base:expr, $name:ident, $word:literal) => {
        $base.load::<_, {
            tracer_common::layout::placeholder::load(
                core::mem::offset_of!(tracer_common::layout::Offsets, $name),
                $word,
            )
        }>()
    };
}

/// A field's offset, or `ABSENT`: `offset!(cgroup)`.
macro_rules! offset {
    ($name:ident) => {
        $crate::fields::offset_of::<
            {
                tracer_common::layout::placeholder::offset(core::mem::offset_of!(
                    tracer_common::layout::Offsets,
                    $name
                ))
            },
        >()
    };
}

pub(crate) use {field, offset};
