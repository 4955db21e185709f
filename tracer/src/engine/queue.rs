//! What comes in an order and goes in the same: a queue that never moves what it holds.

use std::collections::VecDeque;

/// Values in pieces of one size. A deque in one place would move all that it holds when it grows,
/// and for millions that takes long.
pub(super) struct Queue<T> {
    /// None is empty but, perhaps, the last; all but that are full.
    pieces: VecDeque<Vec<T>>,
    /// Of the first piece, those that are gone.
    gone: usize,
}

impl<T: Copy> Queue<T> {
    const PIECE: usize = 1_024;

    /// Without values; it takes room with the first.
    pub const fn new() -> Self {
        Self {
            pieces: VecDeque::new(),
            gone: 0,
        }
    }

    pub fn push(&mut self, value: T) {
        match self.pieces.back_mut() {
            Some(last) if last.len() < Self::PIECE => last.push(value),
            _ => {
                let mut piece = Vec::with_capacity(Self::PIECE);
                piece.push(value);
                self.pieces.push_back(piece);
            }
        }
    }

    pub fn pop(&mut self) -> Option<T> {
        let value = *self.first()?;
        self.gone += 1;
        if self.gone == Self::PIECE {
            self.gone = 0;
            self.pieces.pop_front();
        }
        Some(value)
    }

    #[inline]
    pub fn first(&self) -> Option<&T> {
        self.pieces.front()?.get(self.gone)
    }

    pub fn last(&self) -> Option<&T> {
        let first_is_last = self.pieces.len() == 1;
        let gone = if first_is_last { self.gone } else { 0 };
        self.pieces.back()?.get(gone..)?.last()
    }

    pub fn len(&self) -> usize {
        let held: usize = match self.pieces.back() {
            Some(last) => (self.pieces.len() - 1) * Self::PIECE + last.len(),
            None => 0,
        };
        held - self.gone
    }

    /// The value at `place`, counted from the first.
    pub fn get(&self, place: usize) -> Option<&T> {
        let at = self.gone + place;
        self.pieces.get(at / Self::PIECE)?.get(at % Self::PIECE)
    }

    pub fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        let at = self.gone + place;
        self.pieces
            .get_mut(at / Self::PIECE)?
            .get_mut(at % Self::PIECE)
    }

    /// The values, the first of them first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten().skip(self.gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_what_a_deque_gives() {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut queue, mut deque) = (Queue::new(), VecDeque::new());
        for value in 0..40_000_u32 {
            // It grows and shrinks by turns, to nothing and over several pieces.
            if random.u32(..100) < if value / 6_000 % 2 == 0 { 80 } else { 20 } {
                queue.push(value);
                deque.push_back(value);
            } else {
                assert_eq!(queue.pop(), deque.pop_front());
            }
            assert_eq!(queue.len(), deque.len());
            assert_eq!(queue.first(), deque.front());
            assert_eq!(queue.last(), deque.back());
            let place = random.usize(..deque.len() + 2);
            assert_eq!(queue.get(place), deque.get(place));
            assert_eq!(queue.get_mut(place), deque.get_mut(place));
            if value % 1_000 == 0 {
                assert!(queue.iter().eq(&deque));
            }
        }
    }
}
