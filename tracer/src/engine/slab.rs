//! Values in numbered places, in chunks of a fixed size: growing moves nothing, and a chunk that
//! has become empty is given back.

/// Values of a chunk.
const CHUNK: usize = 512;
/// After the last free place of a chunk.
const NONE: u16 = CHUNK as u16;

/// The values.
pub(super) struct Slab<T> {
    chunks: Vec<Chunk<T>>,
    /// Chunks that have free places; some may have been filled or given back meanwhile.
    open: Vec<u32>,
    /// Chunks that were given back.
    vacant: Vec<u32>,
    /// One that became empty and was kept; it may have been used since.
    spare: Option<u32>,
}

/// Places in a row. A free one says which is the next free one.
struct Chunk<T> {
    /// `None`: given back, or not fetched yet.
    slots: Option<Box<[Slot<T>; CHUNK]>>,
    first_free: u16,
    taken: u16,
    /// It is among the open ones.
    is_open: bool,
}

enum Slot<T> {
    Taken(T),
    Free(u16),
}

impl<T> Chunk<T> {
    fn vacant() -> Self {
        Self {
            slots: None,
            first_free: NONE,
            taken: 0,
            is_open: false,
        }
    }

    fn fill(&mut self) {
        let slots: Box<[_]> = (1..=NONE).map(Slot::Free).collect();
        self.slots = slots.try_into().ok();
        self.first_free = 0;
    }

    fn is_spare(&self) -> bool {
        self.taken == 0 && self.slots.is_some()
    }
}

impl<T> Slab<T> {
    /// Bytes of a place.
    #[cfg(test)]
    pub const SLOT: usize = size_of::<Slot<T>>();

    /// No values.
    pub const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            open: Vec::new(),
            vacant: Vec::new(),
            spare: None,
        }
    }

    /// How many places there are, taken and free.
    pub fn capacity(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// Takes a value in, and gives its place.
    pub fn insert(&mut self, value: T) -> u32 {
        let number = self.open_chunk();
        let chunk = &mut self.chunks[number as usize];
        let place = chunk.first_free;
        if let Some(slots) = &mut chunk.slots {
            let slot = &mut slots[usize::from(place) % CHUNK];
            if let Slot::Free(next) = *slot {
                chunk.first_free = next;
                chunk.taken += 1;
                *slot = Slot::Taken(value);
            }
        }
        number * CHUNK as u32 + u32::from(place)
    }

    /// The value in a place.
    #[inline]
    pub fn get(&self, place: u32) -> Option<&T> {
        let chunk = self.chunks.get(place as usize / CHUNK)?;
        match &chunk.slots.as_ref()?[place as usize % CHUNK] {
            Slot::Taken(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    /// The value in a place.
    #[inline]
    pub fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(place as usize / CHUNK)?;
        match &mut chunk.slots.as_mut()?[place as usize % CHUNK] {
            Slot::Taken(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    /// Takes the value out of its place.
    pub fn remove(&mut self, place: u32) -> Option<T> {
        let number = place / CHUNK as u32;
        let chunk = self.chunks.get_mut(number as usize)?;
        let slot = &mut chunk.slots.as_mut()?[place as usize % CHUNK];
        if let Slot::Free(_) = slot {
            return None;
        }
        let Slot::Taken(value) = std::mem::replace(slot, Slot::Free(chunk.first_free)) else {
            return None;
        };
        chunk.first_free = (place as usize % CHUNK) as u16;
        chunk.taken -= 1;
        let is_empty = chunk.taken == 0;
        if !chunk.is_open {
            chunk.is_open = true;
            self.open.push(number);
        }
        if is_empty {
            self.give_back(number);
        }
        Some(value)
    }

    /// A chunk has become empty. One such is kept: what comes and goes is not to fetch a chunk each
    /// time.
    fn give_back(&mut self, number: u32) {
        let is_spare = |spare: u32| spare != number && self.chunks[spare as usize].is_spare();
        if !self.spare.is_some_and(is_spare) {
            self.spare = Some(number);
            return;
        }
        let chunk = &mut self.chunks[number as usize];
        chunk.slots = None;
        chunk.first_free = NONE;
        self.vacant.push(number);
    }

    /// A chunk that has a free place.
    fn open_chunk(&mut self) -> u32 {
        while let Some(number) = self.open.last().copied() {
            let chunk = &mut self.chunks[number as usize];
            if chunk.first_free != NONE {
                return number;
            }
            chunk.is_open = false;
            self.open.pop();
        }
        let number = match self.vacant.pop() {
            Some(number) => number,
            None => {
                self.chunks.push(Chunk::vacant());
                self.chunks.len() as u32 - 1
            }
        };
        let chunk = &mut self.chunks[number as usize];
        chunk.fill();
        // One that was given back may still stand there.
        if !chunk.is_open {
            chunk.is_open = true;
            self.open.push(number);
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_again_once_it_is_free() {
        let mut slab = Slab::new();
        let places: Vec<_> = (0..2_000).map(|value| slab.insert(value)).collect();
        assert_eq!(slab.get(places[1_999]), Some(&1_999));
        assert_eq!(slab.remove(places[7]), Some(7));
        assert_eq!(slab.remove(places[7]), None);
        assert_eq!(slab.get(places[7]), None);
        assert_eq!(slab.insert(2_000), places[7]);
        assert_eq!(slab.get_mut(places[7]), Some(&mut 2_000));
    }

    #[test]
    fn an_empty_chunk_is_given_back_and_taken_again() {
        let mut slab = Slab::new();
        for round in 0..3 {
            let places: Vec<_> = (0..100 * CHUNK).map(|value| slab.insert(value)).collect();
            assert_eq!(slab.capacity(), 100 * CHUNK, "{round}");
            for (value, place) in places.iter().enumerate() {
                assert_eq!(slab.remove(*place), Some(value));
            }
            let held = slab.chunks.iter().filter(|chunk| chunk.slots.is_some());
            assert!(held.count() <= 2);
        }
    }

    #[test]
    fn no_two_values_share_a_place() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut slab = Slab::new();
        let mut held = Vec::new();
        for value in 0..200_000_u32 {
            // It grows and shrinks by turns.
            if random.u32(..100) < if value / 20_000 % 2 == 0 { 70 } else { 30 } || held.is_empty()
            {
                held.push((slab.insert(value), value));
            } else {
                let (place, value) = held.swap_remove(random.usize(..held.len()));
                assert_eq!(slab.remove(place), Some(value));
            }
        }
        for (place, value) in held {
            assert_eq!(slab.remove(place), Some(value));
        }
    }
}
