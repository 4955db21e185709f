//! Who has been silent the longest, as far as a look at a few tells.

use super::whereabouts::Entry;
use super::{Id, Table};
use crate::engine::connection::Connection;
use crate::time::Timestamp;

/// How many that may be let go are compared. The hand goes round all places, so that each is compared
/// once in a round, and one in so many leaves: those who leave are older than seven of eight.
const COMPARED: usize = 8;
/// How many places the hand passes at most, so that no look takes long.
const PASSED: usize = 1024;

impl Table {
    /// Of the next few that may be let go, the one whose latest step lies the longest ago. `None`:
    /// there is none such. It may be at rest.
    pub fn longest_silent(&mut self) -> Option<Id> {
        let places = self.places_in_all();
        let mut awake: Option<(Timestamp, Id)> = None;
        let mut resting: Option<(u32, Id)> = None;
        let mut compared = 0;
        for _ in 0..places.min(PASSED) {
            let index = self.hand;
            self.hand = if (index as usize) + 1 < places {
                index + 1
            } else {
                0
            };
            let Some(Entry {
                version,
                whereabouts,
            }) = self.directory.get(index).copied()
            else {
                continue;
            };
            let id = Id { index, version };
            match whereabouts.told() {
                Ok(number) => {
                    let connection = self.awake.get(number);
                    let Some(connection) = connection.filter(|it| it.may_be_let_go()) else {
                        continue;
                    };
                    let heard = connection.last_heard();
                    if awake.is_none_or(|(earliest, _)| heard < earliest) {
                        awake = Some((heard, id));
                    }
                }
                // To unpack each would take long; they went to rest about as they came.
                Err(_) => {
                    let age = self.versions.get().wrapping_sub(version.get());
                    if resting.is_none_or(|(oldest, _)| age > oldest) {
                        resting = Some((age, id));
                    }
                }
            }
            compared += 1;
            if compared == COMPARED {
                break;
            }
        }
        match (awake, resting.map(|(_, id)| id)) {
            (Some((heard, awake)), Some(resting)) => {
                let is_later = |connection: &Connection| connection.last_heard() >= heard;
                let resting_is_later = self.see(resting.index).is_some_and(|it| is_later(&it));
                Some(if resting_is_later { awake } else { resting })
            }
            (awake, resting) => awake.map(|(_, id)| id).or(resting),
        }
    }
}
