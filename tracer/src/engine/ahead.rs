//! A look ahead. Where millions of connections live, what an event needs lies in places that the
//! processor's cache has long forgotten, one behind the other: index, directory, connection. Asked
//! for one event after the other each would be waited for; asked for many events at once, the waits
//! overlap.

use std::array;
use std::hint::black_box;

use super::Engine;
use super::table::Glimpse;
use crate::stream::{Body, Event};

/// How many events it pays to look ahead: their places must still be in the cache when they come.
pub const EVENTS_AHEAD: usize = 32;
/// Up to so many connections most of what an event needs is in a near cache anyway, and the look
/// costs more than it brings.
const FEW: usize = 32_768;

impl Engine {
    /// Whether it pays to call [`Self::expect`].
    #[must_use]
    pub fn wants_to_expect(&self) -> bool {
        self.table.len() > FEW
    }

    /// Brings what the next events will need, [`EVENTS_AHEAD`] at most, into the processor's cache.
    /// It changes nothing.
    pub fn expect(&self, events: &[Event]) {
        let parked = self.timers.parked();
        let mut glimpses: [Glimpse; 2 * EVENTS_AHEAD] = array::from_fn(|_| Glimpse::default());
        let (of_events, of_parked) = glimpses.split_at_mut(EVENTS_AHEAD);
        for (glimpse, event) in of_events.iter_mut().zip(events) {
            let (netns, socket) = (event.netns_cookie, &event.socket);
            *glimpse = self.table.glimpse(netns, socket.cookie);
            if is_first_or_last(&event.body) {
                black_box(self.table.touch_flow(netns, &socket.flow));
                black_box(self.ended.touch(netns, &socket.flow, socket.cookie));
            }
        }
        for (glimpse, id) in of_parked.iter_mut().zip(parked) {
            *glimpse = Glimpse::of(id);
        }
        for glimpse in &mut glimpses {
            self.table.find(glimpse);
        }
        for glimpse in &glimpses {
            black_box(self.table.peep(glimpse));
        }
    }
}

/// Whether the names of a connection are entered or taken out by this event, or just after.
fn is_first_or_last(body: &Body) -> bool {
    use tracer_common::tcp::TcpState::Established;
    match body {
        Body::Transition { to, .. } => *to == Established,
        Body::Close { .. } | Body::TimerExpire(_) => true,
        _ => false,
    }
}
