//! The BPF object inside this program, and what the running kernel's layout makes of it.

use object::{Object as _, ObjectSection as _, SectionKind};
use tracer_common::layout::{ABSENT, Offsets, placeholder};

/// Aligned as the ELF reader wants it; empty where the build found no object.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer.bpf.o"));

/// The BPF programs to load, or `None` in a build that has none.
///
/// A plain `cargo build` embeds what is in the target directory, and nothing where nothing is.
/// `cargo xtask build` makes the object first.
pub fn object() -> Option<&'static [u8]> {
    Some(OBJECT).filter(|object| !object.is_empty())
}

/// Why an object could not be made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Not an ELF file.
    #[error("the BPF object is no ELF file")]
    Format,
    /// It asks for a field that this program does not know.
    #[error("the BPF object asks for the unknown field {0}: it is of another version")]
    UnknownField(usize),
    /// An instruction has no room for the offset.
    #[error("the kernel's {structure}.{path} lies too far from its structure's start to be loaded")]
    TooFar {
        /// The structure.
        structure: &'static str,
        /// The members to follow.
        path: &'static str,
    },
}

/// The object with the running kernel's offsets, and the address of its `tw_timer_handler`, in the
/// instructions that stand for them: see [`placeholder`].
///
/// # Errors
/// Where `object` is none of ours, or a field lies where no load reaches.
pub fn for_kernel(object: &[u8], offsets: &Offsets, handler: u64) -> Result<Vec<u8>, ObjectError> {
    let file = object::File::parse(object).map_err(|_| ObjectError::Format)?;
    let code: Vec<(u64, u64)> = file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .filter_map(|section| section.file_range())
        .collect();
    let mut filled = object.to_vec();
    for (start, size) in code {
        let range = start as usize..(start + size) as usize;
        let code = filled.get_mut(range).ok_or(ObjectError::Format)?;
        fill(code, offsets, handler)?;
    }
    Ok(filled)
}

/// Instructions, as `linux/bpf.h` numbers them: class, width and mode in the first byte, registers
/// in the second, then 16 bits of offset and 32 of a constant.
const LOADS: [u8; 4] = [0x61, 0x69, 0x71, 0x79];
const MOVES: [u8; 2] = [0xb4, 0xb7];
const MOVE_64: u8 = 0x18;
const INSTRUCTION: usize = 8;

fn fill(code: &mut [u8], offsets: &Offsets, handler: u64) -> Result<(), ObjectError> {
    let mut at = 0;
    while let Some(bytes) = code.get_mut(at..at + INSTRUCTION) {
        at += INSTRUCTION;
        let operation = bytes[0];
        let offset = i16::from_ne_bytes([bytes[2], bytes[3]]);
        let constant = i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        if LOADS.contains(&operation) && offset >= placeholder::LOAD {
            let number = (offset - placeholder::LOAD) as usize;
            let (field, word) = (number / placeholder::WORDS, number % placeholder::WORDS);
            let at = place(offsets, field, word)?;
            bytes[2..4].copy_from_slice(&at.to_ne_bytes());
        } else if MOVES.contains(&operation) && constant >> 16 == placeholder::OFFSET >> 16 {
            let field = (constant - placeholder::OFFSET) as usize;
            let offset = known(offsets, field)?;
            bytes[4..8].copy_from_slice(&offset.to_ne_bytes());
        } else if operation == MOVE_64 {
            let second = code.get(at..at + INSTRUCTION).ok_or(ObjectError::Format)?;
            let high = i32::from_ne_bytes([second[4], second[5], second[6], second[7]]);
            let whole = i64::from(high) << 32 | i64::from(constant as u32);
            if whole == placeholder::HANDLER {
                let (low, high) = (handler as u32, (handler >> 32) as u32);
                code[at - 4..at].copy_from_slice(&low.to_ne_bytes());
                code[at + 4..at + 8].copy_from_slice(&high.to_ne_bytes());
            }
            at += INSTRUCTION;
        }
    }
    Ok(())
}

/// The offset of a load. Of a field that the kernel has not, any: the load is never reached, and the
/// verifier knows.
fn place(offsets: &Offsets, number: usize, word: usize) -> Result<i16, ObjectError> {
    match known(offsets, number)? {
        ABSENT => Ok(0),
        offset => i16::try_from(offset as usize + word * size_of::<u32>()).map_err(|_| {
            let field = &Offsets::FIELDS[number];
            ObjectError::TooFar {
                structure: field.structure,
                path: field.path,
            }
        }),
    }
}

fn known(offsets: &Offsets, number: usize) -> Result<u32, ObjectError> {
    let field = Offsets::FIELDS
        .get(number)
        .ok_or(ObjectError::UnknownField(number))?;
    let mut offsets = *offsets;
    Ok(*(field.slot)(&mut offsets))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    fn instruction(operation: u8, offset: i16, constant: i32) -> Vec<u8> {
        let mut bytes = vec![operation, 0x21];
        bytes.extend(offset.to_ne_bytes());
        bytes.extend(constant.to_ne_bytes());
        bytes
    }

    #[test]
    fn each_placeholder_becomes_what_it_stands_for_and_nothing_else_changes() {
        let mut offsets = Offsets::UNKNOWN;
        offsets.cookie = 96;
        offsets.rtt_min = 1_000;
        let handler = 0xffff_ffff_81a0_0010_u64;
        let load = |slot, word| placeholder::load(slot, word);
        let cookie = offset_of!(Offsets, cookie);
        let halves = |value: u64| {
            let (low, high) = (value as u32 as i32, (value >> 32) as u32 as i32);
            [instruction(0x18, 0, low), instruction(0, 0, high)].concat()
        };
        let mut code = [
            instruction(0x79, load(cookie, 0), 0),
            instruction(0x61, load(offset_of!(Offsets, rtt_min), 1), 0),
            instruction(0x79, load(offset_of!(Offsets, net_count), 0), 0),
            instruction(0xb4, 0, placeholder::offset(cookie)),
            instruction(0xb4, 0, placeholder::offset(offset_of!(Offsets, net_count))),
            halves(placeholder::HANDLER as u64),
            instruction(0x7b, load(cookie, 0), 7),
            instruction(0x79, -16, 0),
            halves(u64::from(placeholder::offset(cookie) as u32)),
        ]
        .concat();
        fill(&mut code, &offsets, handler).expect("all known");
        let expected = [
            instruction(0x79, 96, 0),
            instruction(0x61, 1_004, 0),
            instruction(0x79, 0, 0),
            instruction(0xb4, 0, 96),
            instruction(0xb4, 0, -1),
            halves(handler),
            instruction(0x7b, load(cookie, 0), 7),
            instruction(0x79, -16, 0),
            halves(u64::from(placeholder::offset(cookie) as u32)),
        ]
        .concat();
        assert_eq!(code, expected);
    }

    #[test]
    fn what_no_load_reaches_is_said() {
        let mut offsets = Offsets::UNKNOWN;
        offsets.cookie = 0x8000;
        let slot = offset_of!(Offsets, cookie);
        let mut code = instruction(0x79, placeholder::load(slot, 0), 0);
        assert!(matches!(
            fill(&mut code, &offsets, 0),
            Err(ObjectError::TooFar {
                path: "skc_cookie",
                ..
            })
        ));
        let beyond = size_of::<Offsets>();
        let mut code = instruction(0x79, placeholder::load(beyond, 0), 0);
        let number = beyond / size_of::<u32>();
        let error = fill(&mut code, &offsets, 0).expect_err("there is no such field");
        assert_eq!(error, ObjectError::UnknownField(number));
    }

    #[test]
    fn the_fields_are_numbered_as_they_lie() {
        for (number, field) in Offsets::FIELDS.iter().enumerate() {
            let mut offsets = Offsets::UNKNOWN;
            let start = (&raw const offsets).addr();
            let slot: *const u32 = (field.slot)(&mut offsets);
            assert_eq!(slot.addr() - start, number * size_of::<u32>());
        }
    }

    #[test]
    fn an_embedded_object_is_one_for_bpf_and_aligned() {
        const EM_BPF: u16 = 247;
        let Some(object) = object() else { return };
        assert!(object.starts_with(b"\x7fELF"));
        assert_eq!(u16::from_ne_bytes([object[18], object[19]]), EM_BPF);
        assert_eq!(object.as_ptr().align_offset(8), 0);
    }
}
