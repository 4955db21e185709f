//! Short strings of bytes in numbered places, by size, so that each takes little more than its
//! length.

/// Sizes are multiples of this.
const STEP: usize = 8;
/// Strings of one size in a chunk.
const CHUNK: usize = 512;
/// Bytes behind a string that may be read, though they are another's.
const BEYOND: usize = 8;
/// After the last free place.
const NONE: u32 = u32::MAX;

/// The strings.
pub(super) struct Arena {
    sizes: Vec<Size>,
}

/// The strings of one size.
struct Size {
    chunks: Vec<Box<[u8]>>,
    first_free: u32,
}

/// Where a string is: its size in steps, and its number among those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub size: u8,
    pub number: u32,
}

impl Arena {
    /// No strings.
    pub const fn new() -> Self {
        Self { sizes: Vec::new() }
    }

    /// Keeps a string of 1 to 2,040 bytes.
    pub fn keep(&mut self, string: &[u8]) -> Place {
        let steps = string.len().div_ceil(STEP).max(1);
        while self.sizes.len() <= steps {
            self.sizes.push(Size {
                chunks: Vec::new(),
                first_free: NONE,
            });
        }
        let size = &mut self.sizes[steps];
        if size.first_free == NONE {
            size.grow(steps * STEP);
        }
        let number = size.first_free;
        let slot = size.slot_mut(number, steps * STEP);
        let mut next = [0; 4];
        next.copy_from_slice(&slot[..4]);
        slot[..string.len()].copy_from_slice(string);
        size.first_free = u32::from_ne_bytes(next);
        Place {
            size: steps as u8,
            number,
        }
    }

    /// A string that is kept there, with bytes behind it that mean nothing.
    pub fn get(&self, place: Place) -> &[u8] {
        let len = usize::from(place.size) * STEP;
        let chunk = &self.sizes[usize::from(place.size)].chunks[place.number as usize / CHUNK];
        let begin = place.number as usize % CHUNK * len;
        &chunk[begin..begin + len + BEYOND]
    }

    /// Lets go of the string that is kept there.
    pub fn release(&mut self, place: Place) {
        let len = usize::from(place.size) * STEP;
        let size = &mut self.sizes[usize::from(place.size)];
        let next = size.first_free.to_ne_bytes();
        size.slot_mut(place.number, len)[..4].copy_from_slice(&next);
        size.first_free = place.number;
    }
}

impl Size {
    fn grow(&mut self, len: usize) {
        let base = (self.chunks.len() * CHUNK) as u32;
        self.chunks
            .push(vec![0; CHUNK * len + BEYOND].into_boxed_slice());
        let last = base + CHUNK as u32 - 1;
        for number in base..=last {
            let next = if number == last { NONE } else { number + 1 };
            self.slot_mut(number, len)[..4].copy_from_slice(&next.to_ne_bytes());
        }
        self.first_free = base;
    }

    fn slot_mut(&mut self, number: u32, len: usize) -> &mut [u8] {
        let begin = number as usize % CHUNK * len;
        &mut self.chunks[number as usize / CHUNK][begin..begin + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_string_stays_until_it_is_let_go() {
        let mut arena = Arena::new();
        let string = |number: usize| vec![number as u8; number % 300 + 1];
        let places: Vec<_> = (0..5_000).map(|n| arena.keep(&string(n))).collect();
        for (number, place) in places.iter().enumerate() {
            assert_eq!(arena.get(*place)[..number % 300 + 1], string(number));
        }
        arena.release(places[7]);
        let again = arena.keep(&[1; 8]);
        assert_eq!(again, places[7]);
        assert_ne!(arena.keep(&[1; 8]), again);
        assert_eq!(arena.get(places[8])[..9], string(8));
    }
}
