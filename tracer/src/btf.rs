//! Field offsets from the running kernel's BTF, so that nothing about its layout is hard-coded.

use std::path::Path;

use btf_rs::{Btf, BtfType as _, Member, Type};
use tracer_common::layout::{MINISOCKET_COPY, Offsets};

/// Where the kernel shows its own BTF (CONFIG_DEBUG_INFO_BTF).
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the kernel's layout could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// No BTF, or not readable as such.
    #[error("failed to read the kernel's BTF from {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: btf_rs::Error,
    },
    /// A structure that is needed is not there.
    #[error("the kernel's BTF has no structure {0}")]
    NoStructure(&'static str),
    /// A field that is needed is not there.
    #[error("the kernel's BTF has no field {structure}.{path}")]
    NoField {
        /// The structure.
        structure: &'static str,
        /// The members to follow.
        path: &'static str,
    },
    /// A field has another size than the programs load.
    #[error("the kernel's {structure}.{path} has {found} bytes, the programs load {expected}")]
    Size {
        /// The structure.
        structure: &'static str,
        /// The members to follow.
        path: &'static str,
        /// Bytes that BTF tells.
        found: u32,
        /// Bytes that the programs load.
        expected: u32,
    },
    /// A field of a minisocket lies too far from its start.
    #[error(
        "the kernel's {structure}.{path} lies at {offset}, beyond the {MINISOCKET_COPY} bytes copied"
    )]
    TooFar {
        /// The structure.
        structure: &'static str,
        /// The members to follow.
        path: &'static str,
        /// Its offset.
        offset: u32,
    },
    /// An enumerator has another value than the programs assume.
    #[error("the kernel's {name} is {found:?}, the programs assume {expected}")]
    Enumerator {
        /// The enumerator.
        name: &'static str,
        /// Its value; `None`: there is none.
        found: Option<u32>,
        /// The value assumed.
        expected: u32,
    },
}

/// What the loader writes into the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The offsets.
    pub offsets: Offsets,
    /// The bit of `tcp_sock.repair` in its byte.
    pub repair_mask: u8,
    /// The bit of SOCK_BINDPORT_LOCK in the byte of `sock.sk_userlocks`.
    pub port_lock_mask: u8,
}

/// A field as BTF tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    bits: u32,
    type_id: Option<u32>,
    bitfield: u32,
}

/// The kernel's BTF, parsed.
pub struct KernelBtf {
    btf: Btf,
}

impl KernelBtf {
    /// Reads the kernel's BTF, or another one with the same contents.
    ///
    /// # Errors
    /// [`BtfError::Read`] where the file is absent or no BTF.
    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        // Linux maps this file from 6.16 on, which saves parsing all of it.
        Btf::from_file_with_backend(path, btf_rs::Backend::Mmap)
            .or_else(|_| Btf::from_file(path))
            .map(|btf| Self { btf })
            .map_err(|source| BtfError::Read {
                path: path.display().to_string(),
                source,
            })
    }

    /// Resolves every field that the programs read.
    ///
    /// # Errors
    /// Says which required field is absent, of another size, or out of reach.
    pub fn layout(&self) -> Result<Layout, BtfError> {
        let mut offsets = Offsets::UNKNOWN;
        let mut found: Vec<(&str, Vec<Member>)> = Vec::new();
        for field in Offsets::FIELDS {
            let members = match found.iter().find(|(name, _)| *name == field.structure) {
                Some((_, members)) => members,
                None => match self.structure(field.structure) {
                    Some(members) => {
                        found.push((field.structure, members));
                        &found[found.len() - 1].1
                    }
                    None if field.required => return Err(BtfError::NoStructure(field.structure)),
                    None => continue,
                },
            };
            let Some(place) = self.follow(members, field.path) else {
                if field.required {
                    return Err(BtfError::NoField {
                        structure: field.structure,
                        path: field.path,
                    });
                }
                continue;
            };
            let size = if place.bitfield > 0 {
                1
            } else {
                self.size(place.type_id)
            };
            if field.size > 0 && size != field.size {
                return Err(BtfError::Size {
                    structure: field.structure,
                    path: field.path,
                    found: size,
                    expected: field.size,
                });
            }
            let offset = place.bits / 8;
            let is_copied = matches!(field.structure, "sock_common" | "inet_timewait_sock");
            if is_copied && offset + field.size > MINISOCKET_COPY {
                return Err(BtfError::TooFar {
                    structure: field.structure,
                    path: field.path,
                    offset,
                });
            }
            *(field.slot)(&mut offsets) = offset;
        }
        self.check_socket_flags()?;
        Ok(Layout {
            offsets,
            repair_mask: self.mask("tcp_sock", "repair", 1)?,
            port_lock_mask: self.mask("sock", "sk_userlocks", 8)?,
        })
    }

    /// How many arguments the tracepoint `name` has, its own data pointer not counted; `None`: the
    /// kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        let types = self
            .btf
            .resolve_types_by_name(&format!("btf_trace_{name}"))
            .ok()?;
        types.into_iter().find_map(|found| {
            let Type::Typedef(typedef) = found else {
                return None;
            };
            let Ok(Type::Ptr(pointer)) = self.btf.resolve_chained_type(&typedef) else {
                return None;
            };
            let Ok(Type::FuncProto(prototype)) = self.btf.resolve_chained_type(&pointer) else {
                return None;
            };
            Some(prototype.parameters.len().saturating_sub(1))
        })
    }

    fn structure(&self, name: &str) -> Option<Vec<Member>> {
        let types = self.btf.resolve_types_by_name(name).ok()?;
        types.into_iter().find_map(|found| match found {
            Type::Struct(structure) if !structure.members.is_empty() => Some(structure.members),
            _ => None,
        })
    }

    /// Follows a dotted path, looking through anonymous members.
    fn follow(&self, members: &[Member], path: &str) -> Option<Place> {
        let (name, rest) = match path.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (path, None),
        };
        members.iter().find_map(|member| {
            let label = self.btf.resolve_name(member).unwrap_or_default();
            let inner = || match self.resolve(member.get_type_id()) {
                Some(Type::Struct(inner) | Type::Union(inner)) => Some(inner.members),
                _ => None,
            };
            let mut place = if label.is_empty() {
                self.follow(&inner()?, path)?
            } else if label != name {
                return None;
            } else if let Some(rest) = rest {
                self.follow(&inner()?, rest)?
            } else {
                Place {
                    bits: 0,
                    type_id: member.get_type_id(),
                    bitfield: member.bitfield_size().unwrap_or(0),
                }
            };
            place.bits += member.bit_offset();
            Some(place)
        })
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, id: Option<u32>) -> Option<Type> {
        let mut current = self.btf.resolve_type_by_id(id?).ok()?;
        loop {
            current = match &current {
                Type::Typedef(inner) => self.btf.resolve_chained_type(inner).ok()?,
                Type::Volatile(inner) | Type::Const(inner) | Type::Restrict(inner) => {
                    self.btf.resolve_chained_type(inner).ok()?
                }
                Type::TypeTag(inner) => self.btf.resolve_chained_type(inner).ok()?,
                _ => return Some(current),
            };
        }
    }

    fn size(&self, id: Option<u32>) -> u32 {
        let bytes = match self.resolve(id) {
            Some(Type::Int(int)) => int.size(),
            Some(Type::Ptr(_)) => 8,
            Some(Type::Enum(enumeration)) => enumeration.size(),
            Some(Type::Struct(inner) | Type::Union(inner)) => inner.size(),
            Some(Type::Array(array)) => array.len() * self.size(array.get_type_id()) as usize,
            _ => 0,
        };
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// `value` moved to where the bit field `path` keeps it in its byte.
    fn mask(&self, structure: &'static str, path: &'static str, value: u8) -> Result<u8, BtfError> {
        let place = self
            .structure(structure)
            .and_then(|members| self.follow(&members, path))
            .ok_or(BtfError::NoField { structure, path })?;
        Ok(value << (place.bits % 8))
    }

    /// The programs know SOCK_DEAD, SOCK_DONE, SOCK_KEEPOPEN and SOCK_LINGER by number.
    fn check_socket_flags(&self) -> Result<(), BtfError> {
        let members = self
            .btf
            .resolve_types_by_name("sock_flags")
            .unwrap_or_default()
            .into_iter()
            .find_map(|found| match found {
                Type::Enum(enumeration) => Some(enumeration.members),
                _ => None,
            })
            .ok_or(BtfError::NoStructure("sock_flags"))?;
        let expected = [
            ("SOCK_DEAD", 0),
            ("SOCK_DONE", 1),
            ("SOCK_KEEPOPEN", 3),
            ("SOCK_LINGER", 4),
        ];
        for (name, expected) in expected {
            let found = members
                .iter()
                .find(|member| {
                    self.btf
                        .resolve_name(*member)
                        .is_ok_and(|label| label == name)
                })
                .map(btf_rs::EnumMember::val);
            if found != Some(expected) {
                return Err(BtfError::Enumerator {
                    name,
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::layout::ABSENT;

    /// The kernel that runs the tests tells the truth about itself; where it has no BTF, that is
    /// said and nothing is held.
    fn running_kernel() -> Option<KernelBtf> {
        match KernelBtf::from_file(Path::new(VMLINUX)) {
            Ok(btf) => Some(btf),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    #[test]
    fn every_required_field_of_the_running_kernel_is_found() {
        let Some(btf) = running_kernel() else { return };
        let mut layout = btf.layout().expect("the running kernel's layout");
        for field in Offsets::FIELDS.iter().filter(|field| field.required) {
            let offset = *(field.slot)(&mut layout.offsets);
            assert_ne!(offset, ABSENT, "{}.{}", field.structure, field.path);
        }
    }

    #[test]
    fn what_the_user_interface_fixes_is_where_it_says() {
        let Some(btf) = running_kernel() else { return };
        let offsets = btf.layout().expect("the running kernel's layout").offsets;
        // struct sock_common begins with the addresses, the hash and the ports.
        assert_eq!((offsets.address_pair, offsets.port_pair), (0, 12));
        assert_eq!(offsets.family + 2, offsets.state);
    }

    #[test]
    fn arguments_are_counted_without_the_data_pointer() {
        let Some(btf) = running_kernel() else { return };
        assert_eq!(btf.tracepoint_arguments("inet_sock_set_state"), Some(3));
        assert_eq!(btf.tracepoint_arguments("no_such_tracepoint"), None);
    }

    #[test]
    fn a_file_that_is_no_btf_is_named_in_the_error() {
        let error = KernelBtf::from_file(Path::new("/proc/self/status"))
            .err()
            .expect("an error");
        assert!(error.to_string().contains("/proc/self/status"), "{error}");
    }
}
