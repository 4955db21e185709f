//! Processes as a connection keeps them: the names of processes, of which there are few, each kept
//! once.

use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;

use crate::record::{Process, Source};

type Name = [u8; 16];

/// A process, its name by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Who {
    pub pid: u32,
    pub tid: u32,
    pub comm: Name,
    /// Number of the name plus one; 0: not known.
    pub name: u16,
    /// Bits of what is known, and the source.
    pub known: u8,
}

const PID: u8 = 1 << 0;
const TID: u8 = 1 << 1;
const COMM: u8 = 1 << 2;
/// Where the source begins.
const SOURCE: u8 = 3;

impl Who {
    /// How it is known.
    pub fn source(&self) -> Source {
        match self.known >> SOURCE {
            0 => Source::Unknown,
            1 => Source::Exact,
            2 => Source::Inherited,
            _ => Source::Inferred,
        }
    }

    /// The same process, known otherwise.
    pub fn known_as(mut self, source: Source) -> Self {
        let number = match source {
            Source::Unknown => 0,
            Source::Exact => 1,
            Source::Inherited => 2,
            Source::Inferred => 3,
        };
        self.known = self.known & (PID | TID | COMM) | number << SOURCE;
        self
    }

    pub fn tid(&self) -> Option<u32> {
        (self.known & TID != 0).then_some(self.tid)
    }
}

/// The names that connections hold now.
#[derive(Default)]
pub(super) struct Lexicon {
    numbers: std::collections::HashMap<Name, u16, RandomState>,
    names: Vec<(Name, u32)>,
    free: Vec<u16>,
    /// The name that was asked for last, and its number.
    last: Option<(Name, u16)>,
}

impl Lexicon {
    /// `process`, whose name is held until [`Self::release`].
    pub fn hold(&mut self, process: &Process) -> Who {
        let bit = |known: bool, bit: u8| if known { bit } else { 0 };
        let who = Who {
            pid: process.pid.unwrap_or(0),
            tid: process.tid.unwrap_or(0),
            comm: process.comm.unwrap_or_default(),
            name: process.name.map_or(0, |name| self.number(name)),
            known: bit(process.pid.is_some(), PID)
                | bit(process.tid.is_some(), TID)
                | bit(process.comm.is_some(), COMM),
        };
        who.known_as(process.source)
    }

    /// `who` once more.
    pub fn hold_again(&mut self, who: Who) -> Who {
        if let Some((_, holders)) = self.entry(who.name) {
            *holders += 1;
        }
        who
    }

    /// A connection lets go of `who`.
    pub fn release(&mut self, who: &Who) {
        let Some((name, holders)) = self.entry(who.name) else {
            return;
        };
        *holders -= 1;
        if *holders == 0 {
            let name = *name;
            self.numbers.remove(&name);
            self.free.push(who.name);
            self.last = None;
        }
    }

    /// The process in full.
    pub fn tell(&self, who: &Who) -> Process {
        let known = |bit: u8| who.known & bit != 0;
        let name = usize::from(who.name).checked_sub(1);
        Process {
            pid: known(PID).then_some(who.pid),
            tid: known(TID).then_some(who.tid),
            comm: known(COMM).then_some(who.comm),
            name: name.and_then(|place| Some(self.names.get(place)?.0)),
            source: who.source(),
        }
    }

    /// Whether `who` is `process`.
    pub fn is(&self, who: &Who, process: &Process) -> bool {
        self.tell(who) == *process
    }

    fn entry(&mut self, number: u16) -> Option<(&mut Name, &mut u32)> {
        let (name, holders) = self.names.get_mut(usize::from(number).checked_sub(1)?)?;
        Some((name, holders))
    }

    /// The number of a name that is held once more. Of more than 65,535 names at a time the later
    /// ones are not kept: they are then not known.
    fn number(&mut self, name: Name) -> u16 {
        if let Some((last, number)) = self.last
            && last == name
        {
            if let Some((_, holders)) = self.entry(number) {
                *holders += 1;
            }
            return number;
        }
        let number = match self.numbers.entry(name) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let fresh = || u16::try_from(self.names.len() + 1).ok();
                let Some(number) = self.free.pop().or_else(fresh) else {
                    return 0;
                };
                let place = usize::from(number) - 1;
                if place == self.names.len() {
                    self.names.push((name, 0));
                }
                self.names[place] = (name, 0);
                *entry.insert(number)
            }
        };
        if let Some((_, holders)) = self.entry(number) {
            *holders += 1;
        }
        self.last = Some((name, number));
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: u32) -> Process {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&name.to_le_bytes());
        Process {
            pid: Some(name),
            tid: None,
            comm: Some(bytes),
            name: Some(bytes),
            source: Source::Exact,
        }
    }

    #[test]
    fn a_process_comes_back_as_it_was() {
        let mut lexicon = Lexicon::default();
        let unknown = Process::default();
        for process in [process(1), process(2), process(1), unknown] {
            let who = lexicon.hold(&process);
            assert_eq!(lexicon.tell(&who), process);
        }
    }

    #[test]
    fn a_name_that_nobody_holds_is_let_go() {
        let mut lexicon = Lexicon::default();
        for round in 0..200_000 {
            let who = lexicon.hold(&process(round));
            let again = lexicon.hold_again(who);
            lexicon.release(&who);
            assert_eq!(lexicon.tell(&again), process(round));
            lexicon.release(&again);
        }
        assert_eq!(lexicon.names.len(), 1);
        assert!(lexicon.numbers.is_empty());
    }

    #[test]
    fn a_name_too_many_is_not_known_and_takes_no_other() {
        let mut lexicon = Lexicon::default();
        let held: Vec<_> = (0..70_000)
            .map(|name| lexicon.hold(&process(name)))
            .collect();
        let told = |who: &Who| lexicon.tell(who).name;
        assert_eq!(told(&held[65_534]), process(65_534).name);
        assert_eq!(told(&held[65_535]), None);
        assert_eq!(lexicon.tell(&held[69_999]).comm, process(69_999).comm);
    }
}
