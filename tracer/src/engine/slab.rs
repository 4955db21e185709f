//! Values in numbered places, in chunks of a fixed size, so that growing moves nothing.

/// Values of a chunk.
const CHUNK: usize = 512;

/// The values. A free place says which is the next free one.
pub(super) struct Slab<T> {
    chunks: Vec<Box<[Slot<T>]>>,
    first_free: u32,
}

enum Slot<T> {
    Taken(T),
    Free(u32),
}

/// After the last free place.
const NONE: u32 = u32::MAX;

impl<T> Slab<T> {
    /// Bytes of a place.
    #[cfg(test)]
    pub const SLOT: usize = size_of::<Slot<T>>();

    /// No values.
    pub const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            first_free: NONE,
        }
    }

    /// How many places there are, taken and free.
    pub fn capacity(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// Takes a value in, and gives its place.
    pub fn insert(&mut self, value: T) -> u32 {
        if self.first_free == NONE {
            self.grow();
        }
        let place = self.first_free;
        let slot = std::mem::replace(self.slot_mut(place), Slot::Taken(value));
        self.first_free = match slot {
            Slot::Free(next) => next,
            // The list of free places holds free ones alone.
            Slot::Taken(_) => NONE,
        };
        place
    }

    /// The value in a place.
    pub fn get(&self, place: u32) -> Option<&T> {
        match self
            .chunks
            .get(place as usize / CHUNK)?
            .get(place as usize % CHUNK)?
        {
            Slot::Taken(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    /// The value in a place.
    pub fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(place as usize / CHUNK)?;
        match chunk.get_mut(place as usize % CHUNK)? {
            Slot::Taken(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    /// Takes the value out of its place.
    pub fn remove(&mut self, place: u32) -> Option<T> {
        self.get(place)?;
        let free = Slot::Free(self.first_free);
        self.first_free = place;
        match std::mem::replace(self.slot_mut(place), free) {
            Slot::Taken(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    fn grow(&mut self) {
        let base = (self.chunks.len() * CHUNK) as u32;
        let last = base + CHUNK as u32 - 1;
        let next = |place| if place == last { NONE } else { place + 1 };
        self.chunks
            .push((base..=last).map(|place| Slot::Free(next(place))).collect());
        self.first_free = base;
    }

    fn slot_mut(&mut self, place: u32) -> &mut Slot<T> {
        &mut self.chunks[place as usize / CHUNK][place as usize % CHUNK]
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
}
