//! From a hash to places of the table. It grows a small part at a time, so that no insertion stops
//! the world.

use hashbrown::HashTable;

/// Parts of a large index. Each grows for itself: at ten million places a part holds some 1,200,
/// and to move these takes a fraction of a millisecond.
const PARTS: usize = 8192;

/// Places by hash. Several may have one hash: who asks compares the names.
pub(super) struct Index {
    parts: Box<[HashTable<u32>]>,
}

impl Index {
    /// An index for as many places as there are connections.
    pub fn large() -> Self {
        Self::of(PARTS)
    }

    /// An index for a hundred thousand or so.
    pub fn medium() -> Self {
        Self::of(PARTS / 128)
    }

    /// An index for few.
    pub fn small() -> Self {
        Self::of(1)
    }

    fn of(parts: usize) -> Self {
        Self {
            parts: (0..parts).map(|_| HashTable::new()).collect(),
        }
    }

    /// The places that were entered with `hash`, and perhaps others.
    pub fn places(&self, hash: u64) -> impl Iterator<Item = u32> {
        self.part(hash).iter_hash(hash).copied()
    }

    /// Enters a place. `hash_of` gives the hash that a place was entered with.
    pub fn enter(&mut self, hash: u64, place: u32, hash_of: impl Fn(&u32) -> u64) {
        self.part_mut(hash).insert_unique(hash, place, hash_of);
    }

    /// Takes a place out that was entered with `hash`.
    pub fn leave(&mut self, hash: u64, place: u32) {
        if let Ok(entry) = self
            .part_mut(hash)
            .find_entry(hash, |entry| *entry == place)
        {
            entry.remove();
        }
    }

    /// How many places are entered.
    pub fn len(&self) -> usize {
        self.parts.iter().map(HashTable::len).sum()
    }

    fn part(&self, hash: u64) -> &HashTable<u32> {
        &self.parts[self.number(hash)]
    }

    fn part_mut(&mut self, hash: u64) -> &mut HashTable<u32> {
        &mut self.parts[self.number(hash)]
    }

    /// The part that a hash belongs to: by bits that a table of hashbrown's uses neither for its
    /// buckets (the lowest) nor for its tags (the highest).
    fn number(&self, hash: u64) -> usize {
        (hash >> 40) as usize & (self.parts.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_entered_is_found_until_it_leaves() {
        let hash = |place: &u32| u64::from(*place / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for mut index in [Index::small(), Index::large()] {
            for place in 0..100_000 {
                index.enter(hash(&place), place, hash);
            }
            for place in (0..100_000).step_by(2) {
                index.leave(hash(&place), place);
            }
            assert_eq!(index.len(), 50_000);
            for place in 0..100_000 {
                let found = index.places(hash(&place)).any(|found| found == place);
                assert_eq!(found, place % 2 == 1, "{place}");
            }
        }
    }
}
