//! Reads the BPF type format, as much of it as tells where the kernel keeps its fields.
//!
//! The format is part of the kernel's interface to user space: `Documentation/bpf/btf.rst` and
//! `include/uapi/linux/btf.h`. All bounds are checked once, by [`Types::parse`]; what it has taken
//! is then read without another error.

#[cfg(test)]
pub mod minimise;

use std::io;
use std::ops::Range;

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// `struct btf_header` as it was first defined; later ones are longer and begin the same.
const HEADER: usize = 24;
/// `struct btf_type`.
const TYPE: usize = 12;
/// `struct btf_member`.
const MEMBER: usize = 12;
/// `struct btf_enum`.
const ENUMERATOR: usize = 8;
/// `struct btf_param`.
const PARAMETER: usize = 8;
/// `struct btf_var_secinfo`.
const VARIABLE: usize = 12;
/// No chain of typedefs and qualifiers is as long in C; one that is longer bites its tail.
const MAX_CHAIN: usize = 32;

/// Why a file is not read as BTF.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else, or of another byte order.
    #[error("not BTF: it does not begin with its magic number and version {VERSION}")]
    Header,
    /// A section reaches beyond the end.
    #[error("the {0} section is cut short")]
    Section(&'static str),
    /// A type reaches beyond its section.
    #[error("type {0} is cut short")]
    Type(usize),
    /// A kind that this version cannot step over.
    #[error("type {id} is of the unknown kind {kind}")]
    Kind {
        /// The type.
        id: usize,
        /// Its kind.
        kind: u32,
    },
}

/// What a type describes: BTF_KIND_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Integer,
    Pointer,
    Array,
    Struct,
    Union,
    Enum,
    Forward,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Function,
    Prototype,
    Variable,
    Section,
    Float,
    DeclarationTag,
    TypeTag,
    Enum64,
}

impl Kind {
    /// The kind of a number, and the bytes that follow such a type: once, and for each of the
    /// entries it counts.
    fn new(number: u32) -> Option<(Self, usize, usize)> {
        Some(match number {
            1 => (Self::Integer, 4, 0),
            2 => (Self::Pointer, 0, 0),
            3 => (Self::Array, 12, 0),
            4 => (Self::Struct, 0, MEMBER),
            5 => (Self::Union, 0, MEMBER),
            6 => (Self::Enum, 0, ENUMERATOR),
            7 => (Self::Forward, 0, 0),
            8 => (Self::Typedef, 0, 0),
            9 => (Self::Volatile, 0, 0),
            10 => (Self::Const, 0, 0),
            11 => (Self::Restrict, 0, 0),
            12 => (Self::Function, 0, 0),
            13 => (Self::Prototype, 0, PARAMETER),
            14 => (Self::Variable, 4, 0),
            15 => (Self::Section, 0, VARIABLE),
            16 => (Self::Float, 0, 0),
            17 => (Self::DeclarationTag, 4, 0),
            18 => (Self::TypeTag, 0, 0),
            19 => (Self::Enum64, 0, 12),
            _ => return None,
        })
    }
}

/// One type.
#[derive(Clone, Copy, Debug)]
pub struct Type {
    pub kind: Kind,
    /// How many members, enumerators or parameters it has.
    pub count: u32,
    name: u32,
    has_bit_fields: bool,
    /// Its size in bytes, or the type that it refers to: the kind tells which.
    size_or_type: u32,
    /// Where in the file that which follows it starts.
    rest: u32,
}

/// A member of a structure or union.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    name: u32,
    /// The id of its type.
    pub type_id: u32,
    /// Bits from the start of the structure.
    pub bits: u32,
    /// Width of a bit field; 0: it is none.
    pub width: u32,
}

/// A variable, and where it lies in its section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The id of its type.
    pub type_id: u32,
    /// Bytes from the start of the section.
    pub offset: u32,
}

/// All the types of a file.
pub struct Types {
    data: Vec<u8>,
    strings: Range<usize>,
    /// By id, from 1 on: 0 is void.
    types: Vec<Type>,
}

impl Types {
    /// Takes a file apart.
    pub fn parse(data: Vec<u8>) -> Result<Self, FormatError> {
        let is_btf = data.len() >= HEADER
            && data[..2] == MAGIC.to_ne_bytes()
            && data[2] == VERSION
            && word(&data, 4) as usize >= HEADER;
        if !is_btf {
            return Err(FormatError::Header);
        }
        let section = |name, at| {
            let start = word(&data, 4) as usize + word(&data, at) as usize;
            let section = start..start + word(&data, at + 4) as usize;
            // A type keeps where it is in 32 bits.
            if section.end > data.len().min(u32::MAX as usize) {
                return Err(FormatError::Section(name));
            }
            Ok(section)
        };
        let (types, strings) = (section("type", 8)?, section("string", 16)?);
        // Each string then ends within the section.
        if data[strings.clone()].last() != Some(&0) {
            return Err(FormatError::Section("string"));
        }
        let types = walk(&data, types)?;
        Ok(Self {
            data,
            strings,
            types,
        })
    }

    fn get(&self, id: u32) -> Option<Type> {
        self.types.get((id as usize).checked_sub(1)?).copied()
    }

    /// The types of a kind that have a name: there can be several.
    pub fn named(&self, kind: Kind, name: &str) -> impl Iterator<Item = Type> {
        self.types
            .iter()
            .filter(move |found| found.kind == kind && self.is_string(found.name, name))
            .copied()
    }

    /// The type of an id, behind typedefs, qualifiers and tags; `None` for void and for what is
    /// none.
    pub fn resolve(&self, id: u32) -> Option<Type> {
        self.skip_names(self.get(id)?)
    }

    /// What is behind typedefs, qualifiers and tags.
    fn skip_names(&self, mut found: Type) -> Option<Type> {
        for _ in 0..MAX_CHAIN {
            match found.kind {
                Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                    found = self.get(found.size_or_type)?;
                }
                _ => return Some(found),
            }
        }
        None
    }

    /// How many parameters the functions have that a typedef names a pointer to.
    pub fn parameters(&self, typedef: Type) -> Option<u32> {
        let pointer = self.skip_names(typedef)?;
        let prototype = match pointer.kind {
            Kind::Pointer => self.resolve(pointer.size_or_type)?,
            _ => return None,
        };
        (prototype.kind == Kind::Prototype).then_some(prototype.count)
    }

    /// Whether a function has parameters of just these names.
    pub fn has_parameters(&self, function: Type, names: &[&str]) -> bool {
        let prototype = match function.kind {
            Kind::Function => self.resolve(function.size_or_type),
            _ => None,
        };
        prototype.is_some_and(|prototype| {
            prototype.kind == Kind::Prototype
                && prototype.count as usize == names.len()
                && names.iter().enumerate().all(|(index, name)| {
                    let at = prototype.rest as usize + index * PARAMETER;
                    self.is_string(word(&self.data, at), name)
                })
        })
    }

    /// The variable of a name in a section.
    pub fn variable(&self, section: Type, name: &str) -> Option<Variable> {
        let count = if section.kind == Kind::Section {
            section.count
        } else {
            0
        };
        (0..count as usize).find_map(|index| {
            let at = section.rest as usize + index * VARIABLE;
            let found = self.get(word(&self.data, at))?;
            let is_it = found.kind == Kind::Variable && self.is_string(found.name, name);
            is_it.then(|| Variable {
                type_id: found.size_or_type,
                offset: word(&self.data, at + 4),
            })
        })
    }

    /// Bytes that a value of the type of an id has; 0: it has no size.
    pub fn size(&self, id: u32) -> u32 {
        let mut elements = 1_u32;
        let mut id = id;
        for _ in 0..MAX_CHAIN {
            let Some(found) = self.resolve(id) else {
                return 0;
            };
            let bytes = match found.kind {
                Kind::Integer
                | Kind::Enum
                | Kind::Enum64
                | Kind::Struct
                | Kind::Union
                | Kind::Float => found.size_or_type,
                Kind::Pointer => 8,
                Kind::Array => {
                    let rest = found.rest as usize;
                    id = word(&self.data, rest);
                    elements = elements.saturating_mul(word(&self.data, rest + 8));
                    continue;
                }
                _ => 0,
            };
            return elements.saturating_mul(bytes);
        }
        0
    }

    /// The members of a structure or union; of anything else none.
    pub fn members(&self, of: Type) -> impl Iterator<Item = Member> {
        let is_composite = matches!(of.kind, Kind::Struct | Kind::Union);
        let count = if is_composite { of.count } else { 0 };
        (0..count as usize).map(move |index| {
            let at = of.rest as usize + index * MEMBER;
            let offset = word(&self.data, at + 8);
            let (bits, width) = if of.has_bit_fields {
                (offset & 0x00ff_ffff, offset >> 24)
            } else {
                (offset, 0)
            };
            Member {
                name: word(&self.data, at),
                type_id: word(&self.data, at + 4),
                bits,
                width,
            }
        })
    }

    /// Whether a member has this name; that of an anonymous one is empty.
    pub fn is_named(&self, member: Member, name: &str) -> bool {
        self.is_string(member.name, name)
    }

    /// The value of an enumerator.
    pub fn enumerator(&self, of: Type, name: &str) -> Option<u32> {
        let count = if of.kind == Kind::Enum { of.count } else { 0 };
        (0..count as usize)
            .map(|index| of.rest as usize + index * ENUMERATOR)
            .find(|at| self.is_string(word(&self.data, *at), name))
            .map(|at| word(&self.data, at + 4))
    }

    fn is_string(&self, offset: u32, expected: &str) -> bool {
        self.data[self.strings.clone()]
            .get(offset as usize..)
            .and_then(|from| from.strip_prefix(expected.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// Reads the head of each type; how long each is follows from its kind alone.
fn walk(data: &[u8], section: Range<usize>) -> Result<Vec<Type>, FormatError> {
    // A type of a kernel takes some thirty bytes.
    let mut types = Vec::with_capacity(section.len() / 32);
    let mut at = section.start;
    while at < section.end {
        let id = types.len() + 1;
        let rest = at + TYPE;
        if rest > section.end {
            return Err(FormatError::Type(id));
        }
        let (name, info, size_or_type) = (word(data, at), word(data, at + 4), word(data, at + 8));
        // The reserved bits beside the count and the kind are zero today. They are read along, so
        // that whatever they come to hold is not taken for something else.
        let (count, number) = (info & 0x00ff_ffff, (info >> 24) & 0x7f);
        let (kind, once, each) = Kind::new(number).ok_or(FormatError::Kind { id, kind: number })?;
        at = rest + once + each * count as usize;
        if at > section.end {
            return Err(FormatError::Type(id));
        }
        types.push(Type {
            kind,
            count,
            name,
            has_bit_fields: info >> 31 == 1,
            size_or_type,
            rest: rest as u32,
        });
    }
    Ok(types)
}

/// The number at an offset that is known to lie within.
fn word(data: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}
