//! From a hash to places of the table. It grows by parts: a full one is split in two, so no insertion
//! moves more than a part, and few places take little room.

use hashbrown::HashTable;

/// Places that a part holds: as many as a table of 2,048 buckets takes. To split one takes a fraction
/// of a millisecond.
const PART: usize = 1792;
/// Parts are chosen by bits that a table of hashbrown's uses neither for its buckets (the lowest) nor
/// for its tags (the highest): at most so many, for thousands of millions of places.
const MOST_BITS: u32 = 24;
const FIRST_BIT: u32 = 32;
/// Room for so many places is kept where there are few.
const SMALL: usize = 64;

/// Places by hash. Several may have one hash: who asks compares the names.
pub(super) struct Index {
    parts: Vec<Part>,
    /// Number of the part for each combination of the bits that choose one.
    directory: Vec<u32>,
    len: usize,
}

/// The names that places were entered with.
pub(super) trait Names {
    /// Hash of the name of `place`.
    fn hash(&self, place: u32) -> u64;

    /// Brings what the hashes of `places` need into the processor's cache: asked for one after the
    /// other, each would be waited for.
    fn expect(&self, places: impl Iterator<Item = u32>);
}

/// The places whose hashes agree in some bits.
struct Part {
    places: HashTable<u32>,
    /// In how many bits.
    bits: u32,
}

impl Index {
    /// Without places.
    pub fn new() -> Self {
        Self {
            parts: vec![Part {
                places: HashTable::new(),
                bits: 0,
            }],
            directory: vec![0],
            len: 0,
        }
    }

    /// The places that were entered with `hash`, and perhaps others.
    pub fn places(&self, hash: u64) -> impl Iterator<Item = u32> {
        let part = self.directory[self.slot(hash)];
        self.parts[part as usize].places.iter_hash(hash).copied()
    }

    /// One of the places that were entered with `hash` that is it.
    #[inline]
    pub fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let part = self.directory[self.slot(hash)];
        let places = &self.parts[part as usize].places;
        places.find(hash, |place| is_it(*place)).copied()
    }

    /// Enters a place that bears its name in `names` already.
    pub fn enter(&mut self, hash: u64, place: u32, names: &impl Names) {
        self.len += 1;
        let mut number = self.directory[self.slot(hash)] as usize;
        while self.parts[number].places.len() >= PART && self.parts[number].bits < MOST_BITS {
            self.split(number, hash, names);
            number = self.directory[self.slot(hash)] as usize;
        }
        let places = &mut self.parts[number].places;
        if places.len() == places.capacity() {
            // It grows, or is put in order anew, and every name is asked for.
            names.expect(places.iter().copied());
            places.reserve(1, |place| names.hash(*place));
        }
        places.insert_unique(hash, place, |place| names.hash(*place));
    }

    /// Takes a place out that was entered with `hash`.
    pub fn leave(&mut self, hash: u64, place: u32, names: &impl Names) {
        let part = self.directory[self.slot(hash)] as usize;
        let places = &mut self.parts[part].places;
        let Ok(entry) = places.find_entry(hash, |entry| *entry == place) else {
            return;
        };
        entry.remove();
        self.len -= 1;
        // Room for four times as many stays: what comes and goes must not cost this each time.
        if places.capacity() > SMALL && places.len() < places.capacity() / 16 {
            places.shrink_to(4 * places.len(), |place| names.hash(*place));
        }
    }

    /// How many places are entered.
    pub fn len(&self) -> usize {
        self.len
    }

    fn slot(&self, hash: u64) -> usize {
        (hash >> FIRST_BIT) as usize & (self.directory.len() - 1)
    }

    /// Splits the part that `hash` belongs to by one more bit.
    fn split(&mut self, number: usize, hash: u64, names: &impl Names) {
        let bit = 1 << self.parts[number].bits;
        if bit == self.directory.len() {
            self.directory.extend_from_within(..);
        }
        let part = &mut self.parts[number];
        part.bits += 1;
        names.expect(part.places.iter().copied());
        let goes = |place: &mut u32| (names.hash(*place) >> FIRST_BIT) as usize & bit != 0;
        let mut places = HashTable::with_capacity(PART);
        for place in part.places.extract_if(goes) {
            places.insert_unique(names.hash(place), place, |place| names.hash(*place));
        }
        let fresh = self.parts.len() as u32;
        let bits = self.parts[number].bits;
        self.parts.push(Part { places, bits });
        // Every combination that agrees with the new part's hashes in its bits.
        let first = ((hash >> FIRST_BIT) as usize & (bit - 1)) | bit;
        for slot in (first..self.directory.len()).step_by(2 * bit) {
            self.directory[slot] = fresh;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that follow from their places.
    struct Given(fn(u32) -> u64);

    impl Names for Given {
        fn hash(&self, place: u32) -> u64 {
            self.0(place)
        }

        fn expect(&self, _: impl Iterator<Item = u32>) {}
    }

    fn hash(place: u32) -> u64 {
        let mixed = u64::from(place / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    #[test]
    fn what_was_entered_is_found_until_it_leaves() {
        let mut index = Index::new();
        for place in 0..100_000 {
            index.enter(hash(place), place, &Given(hash));
        }
        assert_eq!(index.len(), 100_000);
        for place in (0..100_000).step_by(2) {
            index.leave(hash(place), place, &Given(hash));
        }
        assert_eq!(index.len(), 50_000);
        for place in 0..100_000 {
            let found = index.places(hash(place)).any(|found| found == place);
            assert_eq!(found, place % 2 == 1, "{place}");
        }
    }

    #[test]
    fn room_is_given_back() {
        let mut index = Index::new();
        for place in 0..100_000 {
            index.enter(hash(place), place, &Given(hash));
        }
        for place in 0..99_000 {
            index.leave(hash(place), place, &Given(hash));
        }
        let room: usize = index.parts.iter().map(|part| part.places.capacity()).sum();
        assert!(room < 16 * 1_000 + SMALL * index.parts.len(), "{room}");
        for place in 99_000..100_000 {
            assert!(index.places(hash(place)).any(|found| found == place));
        }
    }

    #[test]
    fn no_part_grows_beyond_its_size() {
        let mut index = Index::new();
        for place in 0..300_000 {
            index.enter(hash(place), place, &Given(hash));
        }
        assert!(index.parts.iter().all(|part| part.places.len() <= PART));
        assert!(index.parts.len() < 400, "{}", index.parts.len());
    }

    #[test]
    fn places_of_one_hash_are_all_kept() {
        let mut index = Index::new();
        for place in 0..3 * PART as u32 {
            index.enter(7, place, &Given(|_| 7));
        }
        assert_eq!(index.places(7).count(), 3 * PART);
        assert!(index.directory.len() <= 1 << MOST_BITS);
    }
}
