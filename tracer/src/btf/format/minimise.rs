//! Cuts a kernel's BTF, some megabytes, down to what tracer asks of it: tens of kilobytes that are
//! kept as fixtures, so that a change is held to kernels that are not at hand.
//!
//! A structure that is asked for keeps all its members, with their names and offsets: a wrong one
//! can still be found. But only those on the way to a field keep their types; the others are void.

use std::collections::{BTreeMap, HashMap};

use super::{Kind, PARAMETER, Type, Types, VARIABLE, word};

/// What is kept.
#[derive(Default)]
pub struct Wanted<'a> {
    /// The members to follow, joined by dots, by structure.
    pub structures: BTreeMap<&'a str, Vec<&'a str>>,
    /// Enumerations, with their values.
    pub enumerations: Vec<&'a str>,
    /// Tracepoints and how many arguments they have.
    pub tracepoints: Vec<&'a str>,
    /// Functions and the names of their parameters.
    pub functions: Vec<&'a str>,
    /// Variables of a section.
    pub section: &'a str,
    pub variables: Vec<&'a str>,
}

/// A file in the same format with nothing but what is wanted and there.
pub fn minimise(full: &Types, wanted: &Wanted<'_>) -> Vec<u8> {
    let mut maker = Maker {
        full,
        wanted,
        types: Vec::new(),
        last: 0,
        strings: vec![0],
        string_at: HashMap::new(),
        kept: HashMap::new(),
    };
    for name in wanted.structures.keys() {
        if let Some(id) = full.find(Kind::Struct, name) {
            maker.keep(id, &[]);
        }
    }
    for name in &wanted.enumerations {
        if let Some(id) = full.find(Kind::Enum, name) {
            maker.keep_enumeration(id);
        }
    }
    for name in &wanted.tracepoints {
        if let Some(id) = full.find(Kind::Typedef, &format!("btf_trace_{name}")) {
            maker.keep_tracepoint(id);
        }
    }
    for name in &wanted.functions {
        if let Some(id) = full.find(Kind::Function, name) {
            maker.keep_function(id);
        }
    }
    maker.keep_variables();
    maker.file()
}

impl Types {
    fn find(&self, kind: Kind, name: &str) -> Option<u32> {
        let found = self.types.iter().position(|found| {
            let is_whole = found.count > 0 || !matches!(kind, Kind::Struct | Kind::Enum);
            found.kind == kind && is_whole && self.is_string(found.name, name)
        })?;
        u32::try_from(found + 1).ok()
    }

    fn text(&self, offset: u32) -> &str {
        let from = &self.data[self.strings.clone()][offset as usize..];
        let end = from.iter().position(|byte| *byte == 0);
        str::from_utf8(&from[..end.unwrap_or(0)]).unwrap_or_default()
    }

    fn word_of(&self, of: Type, at: usize) -> u32 {
        word(&self.data, of.rest as usize + at)
    }
}

struct Maker<'a> {
    full: &'a Types,
    wanted: &'a Wanted<'a>,
    types: Vec<u32>,
    last: u32,
    strings: Vec<u8>,
    string_at: HashMap<String, u32>,
    /// The new id by the old one and what is followed within.
    kept: HashMap<(u32, Vec<String>), u32>,
}

impl Maker<'_> {
    fn string(&mut self, offset: u32) -> u32 {
        let text = self.full.text(offset);
        if text.is_empty() {
            return 0;
        }
        *self.string_at.entry(text.to_owned()).or_insert_with(|| {
            let at = self.strings.len() as u32;
            self.strings.extend_from_slice(text.as_bytes());
            self.strings.push(0);
            at
        })
    }

    /// Adds a type like `of` with other contents; returns its id.
    fn add(&mut self, of: Type, count: u32, size_or_type: u32, rest: &[u32]) -> u32 {
        let name = self.string(of.name);
        let info = (u32::from(of.has_bit_fields) << 31) | (of.kind.number() << 24) | count;
        self.types.extend_from_slice(&[name, info, size_or_type]);
        self.types.extend_from_slice(rest);
        self.last += 1;
        self.last
    }

    /// Keeps a type and what `paths` lead to within; returns its new id. Void: 0.
    fn keep(&mut self, id: u32, paths: &[&str]) -> u32 {
        let full = self.full;
        let Some(of) = full.get(id) else { return 0 };
        let mut paths = paths.to_vec();
        if of.kind == Kind::Struct
            && let Some(more) = self.wanted.structures.get(full.text(of.name))
        {
            paths.extend(more);
        }
        paths.sort_unstable();
        paths.dedup();
        let key = (id, paths.iter().map(|path| (*path).to_owned()).collect());
        if let Some(kept) = self.kept.get(&key) {
            return *kept;
        }
        let kept = match of.kind {
            Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                let behind = self.keep(of.size_or_type, &paths);
                self.add(of, 0, behind, &[])
            }
            Kind::Struct | Kind::Union => {
                let members = self.members(of, &paths);
                self.add(of, of.count, of.size_or_type, &members)
            }
            Kind::Array => {
                let element = self.keep(full.word_of(of, 0), &[]);
                self.add(of, 0, 0, &[element, 0, full.word_of(of, 8)])
            }
            Kind::Integer => self.add(of, 0, of.size_or_type, &[full.word_of(of, 0)]),
            Kind::Enum | Kind::Enum64 | Kind::Float => self.add(of, 0, of.size_or_type, &[]),
            // To void: its size is what counts.
            Kind::Pointer => self.add(of, 0, 0, &[]),
            _ => 0,
        };
        self.kept.insert(key, kept);
        kept
    }

    fn members(&mut self, of: Type, paths: &[&str]) -> Vec<u32> {
        let full = self.full;
        let mut members = Vec::new();
        for member in full.members(of) {
            let name = full.text(member.name);
            let is_followed = |path: &&str| name.is_empty() || first(path) == name;
            let within: Vec<&str> = paths
                .iter()
                .filter(|path| is_followed(path))
                .filter_map(|path| {
                    if name.is_empty() {
                        Some(*path)
                    } else {
                        rest(path)
                    }
                })
                .collect();
            let type_id = if name.is_empty() || paths.iter().any(is_followed) {
                self.keep(member.type_id, &within)
            } else {
                0
            };
            let name = self.string(member.name);
            members.extend([name, type_id, (member.width << 24) | member.bits]);
        }
        members
    }

    fn keep_enumeration(&mut self, id: u32) {
        let full = self.full;
        let Some(of) = full.get(id) else { return };
        let mut values = Vec::new();
        for at in (0..of.count as usize).map(|index| index * super::ENUMERATOR) {
            values.extend([self.string(full.word_of(of, at)), full.word_of(of, at + 4)]);
        }
        self.add(of, of.count, of.size_or_type, &values);
    }

    fn keep_tracepoint(&mut self, id: u32) {
        let full = self.full;
        let Some(typedef) = full.get(id) else { return };
        let Some(pointer) = full.get(typedef.size_or_type) else {
            return;
        };
        let prototype = self.keep_prototype(pointer.size_or_type);
        let pointer = self.add(pointer, 0, prototype, &[]);
        self.add(typedef, 0, pointer, &[]);
    }

    fn keep_function(&mut self, id: u32) {
        let Some(function) = self.full.get(id) else {
            return;
        };
        let prototype = self.keep_prototype(function.size_or_type);
        self.add(function, function.count, prototype, &[]);
    }

    fn keep_prototype(&mut self, id: u32) -> u32 {
        let full = self.full;
        let Some(of) = full.get(id) else { return 0 };
        let mut parameters = Vec::new();
        for at in (0..of.count as usize).map(|index| index * PARAMETER) {
            parameters.extend([self.string(full.word_of(of, at)), 0]);
        }
        self.add(of, of.count, 0, &parameters)
    }

    fn keep_variables(&mut self) {
        let full = self.full;
        let Some(section) = full.named(Kind::Section, self.wanted.section).next() else {
            return;
        };
        let mut entries = Vec::new();
        for at in (0..section.count as usize).map(|index| index * VARIABLE) {
            let Some(variable) = full.get(full.word_of(section, at)) else {
                continue;
            };
            let name = full.text(variable.name);
            if !self.wanted.variables.contains(&name) {
                continue;
            }
            let is_asked = |id| {
                let structure = full.resolve(id)?;
                self.wanted.structures.get(full.text(structure.name))
            };
            let type_id = match is_asked(variable.size_or_type) {
                Some(_) => self.keep(variable.size_or_type, &[]),
                None => 0,
            };
            let id = self.add(variable, 0, type_id, &[full.word_of(variable, 0)]);
            entries.extend([
                id,
                full.word_of(section, at + 4),
                full.word_of(section, at + 8),
            ]);
        }
        let count = entries.len() / 3;
        self.add(section, count as u32, section.size_or_type, &entries);
    }

    fn file(&self) -> Vec<u8> {
        let types = self.types.len() as u32 * 4;
        let mut file = super::MAGIC.to_ne_bytes().to_vec();
        file.extend_from_slice(&[super::VERSION, 0]);
        for number in [24, 0, types, types, self.strings.len() as u32] {
            file.extend_from_slice(&number.to_ne_bytes());
        }
        for number in &self.types {
            file.extend_from_slice(&number.to_ne_bytes());
        }
        file.extend_from_slice(&self.strings);
        file
    }
}

impl Kind {
    fn number(self) -> u32 {
        (1..)
            .find(|number| Self::new(*number).is_some_and(|(kind, ..)| kind == self))
            .unwrap_or_default()
    }
}

fn first(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

fn rest(path: &str) -> Option<&str> {
    path.split_once('.').map(|(_, rest)| rest)
}
