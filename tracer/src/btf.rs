//! Field offsets from the running kernel's BTF, so that nothing about its layout is hard-coded.

mod format;
#[cfg(test)]
mod saved;
#[cfg(test)]
mod tests;

use std::path::Path;

use tracer_common::layout::{ABSENT, Field, MINISOCKET_COPY, Offsets};

pub use format::FormatError;
use format::{Kind, Type, Types};

/// Where the kernel shows its own BTF (CONFIG_DEBUG_INFO_BTF).
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// No field that is read lies within as many structures; anything deeper holds itself.
const MAX_NESTING: usize = 16;

/// Why the kernel's layout could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// No BTF, or not readable as such.
    #[error("failed to read the kernel's BTF from {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: FormatError,
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
    /// The bit of `tcp_sock.rx_opt.tstamp_ok` in its byte.
    pub timestamps_mask: u8,
    /// The bit of SOCK_BINDPORT_LOCK in the byte of `sock.sk_userlocks`.
    pub port_lock_mask: u8,
    /// Bytes from a processor's run queue to its count of contexts; 0: the kernel does not tell.
    pub run_queue_to_preempt_count: i32,
}

/// A field as BTF tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    bits: u32,
    type_id: u32,
    width: u32,
}

/// The kernel's BTF, parsed.
pub struct KernelBtf {
    types: Types,
}

impl KernelBtf {
    /// Reads the kernel's BTF, or another one with the same contents.
    ///
    /// # Errors
    /// [`BtfError::Read`] where the file is absent or no BTF.
    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        std::fs::read(path)
            .map_err(FormatError::from)
            .and_then(Types::parse)
            .map(|types| Self { types })
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
        let mut found: Vec<(&str, Type)> = Vec::new();
        for field in Offsets::FIELDS {
            let structure = match found.iter().find(|(name, _)| *name == field.structure) {
                Some((_, structure)) => *structure,
                None => match self.structure(field.structure) {
                    Some(structure) => {
                        found.push((field.structure, structure));
                        structure
                    }
                    None if field.required => return Err(BtfError::NoStructure(field.structure)),
                    None => continue,
                },
            };
            let Some(place) = self.place(structure, field) else {
                if field.required {
                    return Err(BtfError::NoField {
                        structure: field.structure,
                        path: field.path,
                    });
                }
                continue;
            };
            let size = if place.width > 0 {
                1
            } else {
                self.types.size(place.type_id)
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
        let mut run_queue_to_preempt_count = 0;
        if self.is_softirq_counted_elsewhere() {
            offsets.task_preempt_count = ABSENT;
        } else if offsets.task_cfs_queue != ABSENT && offsets.cfs_queue_run_queue != ABSENT {
            run_queue_to_preempt_count = self.run_queue_to_preempt_count().unwrap_or(0);
        }
        Ok(Layout {
            run_queue_to_preempt_count,
            offsets,
            repair_mask: self.mask("tcp_sock", "repair", 1)?,
            timestamps_mask: self.mask("tcp_sock", "rx_opt.tstamp_ok", 1)?,
            port_lock_mask: self.mask("sock", "sk_userlocks", 8)?,
        })
    }

    /// How many arguments the tracepoint `name` has, its own data pointer not counted; `None`: the
    /// kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        self.types
            .named(Kind::Typedef, &format!("btf_trace_{name}"))
            .find_map(|typedef| self.types.parameters(typedef))
            .map(|parameters| (parameters as usize).saturating_sub(1))
    }

    /// Whether the kernel has a function `name` with parameters of just these names.
    #[must_use]
    pub fn has_function(&self, name: &str, parameters: &[&str]) -> bool {
        self.types
            .named(Kind::Function, name)
            .any(|function| self.types.has_parameters(function, parameters))
    }

    /// A kernel with PREEMPT_RT keeps no softirqs in its count of contexts.
    fn is_softirq_counted_elsewhere(&self) -> bool {
        self.structure("task_struct")
            .is_some_and(|task| self.follow(task, "softirq_disable_cnt").is_some())
    }

    /// How far apart x86 keeps two static variables of a processor: `runqueues`, which can be
    /// found, and the count of contexts, which is a member of `pcpu_hot` in 6.2 to 6.14.
    fn run_queue_to_preempt_count(&self) -> Option<i32> {
        let section = self.types.named(Kind::Section, ".data..percpu").next()?;
        let variable = |name| self.types.variable(section, name);
        let count = match variable("__preempt_count") {
            Some(count) => count.offset,
            None => {
                let hot = variable("pcpu_hot")?;
                let structure = self.types.resolve(hot.type_id)?;
                let count = self.follow(structure, "preempt_count")?;
                hot.offset.checked_add(count.bits / 8)?
            }
        };
        let run_queue = variable("runqueues")?.offset;
        i32::try_from(i64::from(count) - i64::from(run_queue)).ok()
    }

    fn structure(&self, name: &str) -> Option<Type> {
        self.types
            .named(Kind::Struct, name)
            .find(|structure| structure.count > 0)
    }

    /// Where `structure` keeps a field, by whichever of its names it has.
    fn place(&self, structure: Type, field: &Field) -> Option<Place> {
        [field.path]
            .iter()
            .chain(field.others)
            .find_map(|path| self.follow(structure, path))
    }

    /// Follows a dotted path, looking through anonymous members.
    fn follow(&self, structure: Type, path: &str) -> Option<Place> {
        self.follow_within(structure, path, MAX_NESTING)
    }

    fn follow_within(&self, structure: Type, path: &str, nesting: usize) -> Option<Place> {
        let nesting = nesting.checked_sub(1)?;
        let (name, rest) = match path.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (path, None),
        };
        self.types.members(structure).find_map(|member| {
            let within = |path| {
                let inner = self.types.resolve(member.type_id)?;
                self.follow_within(inner, path, nesting)
            };
            let mut place = if self.types.is_named(member, "") {
                within(path)?
            } else if !self.types.is_named(member, name) {
                return None;
            } else if let Some(rest) = rest {
                within(rest)?
            } else {
                Place {
                    bits: 0,
                    type_id: member.type_id,
                    width: member.width,
                }
            };
            place.bits = place.bits.checked_add(member.bits)?;
            Some(place)
        })
    }

    /// `value` moved to where the bit field `path` keeps it in its byte.
    fn mask(&self, structure: &'static str, path: &'static str, value: u8) -> Result<u8, BtfError> {
        let place = self
            .structure(structure)
            .and_then(|found| self.follow(found, path))
            .ok_or(BtfError::NoField { structure, path })?;
        Ok(value << (place.bits % 8))
    }

    /// The programs know SOCK_DEAD, SOCK_DONE, SOCK_KEEPOPEN and SOCK_LINGER by number.
    fn check_socket_flags(&self) -> Result<(), BtfError> {
        let flags = self
            .types
            .named(Kind::Enum, "sock_flags")
            .next()
            .ok_or(BtfError::NoStructure("sock_flags"))?;
        let expected = [
            ("SOCK_DEAD", 0),
            ("SOCK_DONE", 1),
            ("SOCK_KEEPOPEN", 3),
            ("SOCK_LINGER", 4),
        ];
        for (name, expected) in expected {
            let found = self.types.enumerator(flags, name);
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
