//! What puts a connection to rest and wakes it.

use super::whereabouts::Whereabouts;
use super::{Id, Table};
use crate::engine::arena::Place;
use crate::engine::connection::{Bit, Connection, Rest};
use crate::engine::key::Key;
use crate::engine::pack;
use crate::time::Timestamp;

/// How many are put to rest in one call: one takes up to 3 microseconds where memory is cold.
const AT_ONCE: usize = 64;

impl Table {
    /// Wakes a connection, if it lives.
    pub fn wake(&mut self, id: Id) {
        let entry = self.directory.get(id.index);
        if let Some(Err(place)) = entry
            .filter(|entry| entry.version == id.version)
            .map(|entry| entry.whereabouts.told())
            && let Some((mut connection, combination)) = self.unpack(place)
        {
            // Nobody has noted meanwhile who else came.
            connection.set(Bit::Namesake);
            self.combinations.release(combination);
            self.packed.release(place);
            let whereabouts = Whereabouts::awake(self.awake.insert(connection));
            if let Some(entry) = self.directory.get_mut(id.index) {
                entry.whereabouts = whereabouts;
            }
            self.drowsy.push(id);
        }
    }

    /// Whether [`Self::rest`] has something to do.
    #[inline]
    pub fn may_rest(&self) -> bool {
        !self.drowsy.is_empty()
    }

    /// A connection may be put to rest, when it comes to that.
    pub fn doze(&mut self, id: Id) {
        self.drowsy.push(id);
    }

    /// Puts to rest what may, so many at most that it takes but a moment. `later` is called for each
    /// that may soon.
    pub fn rest(&mut self, now: Timestamp, mut later: impl FnMut(Id)) {
        for _ in 0..AT_ONCE {
            let Some(id) = self.drowsy.pop() else {
                return;
            };
            match self.awake_mut(id).map(|connection| connection.rest_at(now)) {
                Some(Rest::Now) => {
                    // Where it cannot be packed it stays as it is.
                    self.put_to_rest(id);
                }
                Some(Rest::Soon) => later(id),
                Some(Rest::No) | None => {}
            }
        }
    }

    fn put_to_rest(&mut self, id: Id) -> Option<()> {
        let number = self.number_of(id)?;
        let connection = self.awake.get(number)?;
        let side = match connection.told() {
            Some(told) => Some(told.side_alone(connection, &self.lexicon, self.jiffies)?),
            None => None,
        };
        let mut bytes = [0; pack::MOST];
        let (len, combination) = pack::pack(connection, side, &mut self.combinations, &mut bytes)?;
        let place = self.packed.keep(&bytes[..len.min(pack::MOST)]);
        let Some(whereabouts) = Whereabouts::packed(place) else {
            self.packed.release(place);
            self.combinations.release(combination);
            return None;
        };
        self.awake.remove(number);
        self.directory.get_mut(id.index)?.whereabouts = whereabouts;
        Some(())
    }

    /// The newest of those that rest and were made before `bound`.
    pub(super) fn newest_at_rest(&self, key: &Key, bound: u64) -> Option<(u64, Id)> {
        self.places(*key)
            .filter_map(|index| {
                let entry = self.directory.get(index)?;
                let serial = self.serial_at_rest(entry.whereabouts.told().err()?, key)?;
                let version = entry.version;
                (serial < bound).then_some((serial, Id { index, version }))
            })
            .max()
    }

    /// The serial of one that rests, if `key` names it.
    pub(super) fn serial_at_rest(&self, place: Place, key: &Key) -> Option<u64> {
        let head = pack::head(self.packed.get(place), &self.combinations)?;
        key.names_packed(&head).then_some(head.serial)
    }

    pub(super) fn unpack(&self, place: Place) -> Option<(Connection, u16)> {
        let bytes = self.packed.get(place);
        pack::unpack(bytes, &self.combinations, &self.lexicon, self.jiffies)
    }
}
