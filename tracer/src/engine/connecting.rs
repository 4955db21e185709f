//! Which connection each thread is connecting: what takes the tuple of a minisocket may be that.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::table::Id;

/// A map in one place would move all that it holds when it grows: millions of threads, at worst.
const PARTS: usize = 256;
/// Room for so many threads is kept in a part.
const SMALL: usize = 64;

/// By thread. The numbers of threads that are about at one time are close together, so the parts are
/// filled alike.
pub(super) struct Connecting {
    parts: Vec<HashMap<u32, Id, RandomState>>,
}

impl Connecting {
    pub fn new() -> Self {
        Self {
            parts: vec![HashMap::default(); PARTS],
        }
    }

    /// `tid` connects `id` now.
    pub fn begin(&mut self, tid: u32, id: Id) {
        self.parts[tid as usize % PARTS].insert(tid, id);
    }

    /// The connection that `tid` began last, while that is under way.
    pub fn of(&self, tid: u32) -> Option<Id> {
        self.parts[tid as usize % PARTS].get(&tid).copied()
    }

    /// `tid` no longer connects `id`.
    pub fn end(&mut self, tid: u32, id: Id) {
        let part = &mut self.parts[tid as usize % PARTS];
        if part.get(&tid) != Some(&id) {
            return;
        }
        part.remove(&tid);
        if part.capacity() > SMALL && part.len() < part.capacity() / 16 {
            part.shrink_to(4 * part.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn id(index: u32) -> Id {
        let version = NonZeroU32::MIN;
        Id { index, version }
    }

    #[test]
    fn a_thread_connects_what_it_began_last() {
        let mut connecting = Connecting::new();
        connecting.begin(7, id(1));
        connecting.begin(7 + PARTS as u32, id(2));
        connecting.begin(7, id(3));
        connecting.end(7, id(1));
        assert_eq!(connecting.of(7), Some(id(3)));
        connecting.end(7, id(3));
        assert_eq!(connecting.of(7), None);
        assert_eq!(connecting.of(7 + PARTS as u32), Some(id(2)));
    }

    #[test]
    fn room_is_given_back() {
        let mut connecting = Connecting::new();
        for tid in 0..100_000 {
            connecting.begin(tid, id(tid));
        }
        for tid in 0..100_000 {
            connecting.end(tid, id(tid));
        }
        let room: usize = connecting.parts.iter().map(HashMap::capacity).sum();
        assert!(room <= SMALL * PARTS, "{room}");
    }
}
