//! When records were lost: what was not seen there may have happened all the same.

use std::collections::VecDeque;

use crate::time::Timestamp;

/// How far from a loss an event of the same moment may lie, nanoseconds: what bears on a verdict is
/// waited for as long.
const MARGIN: u64 = 1_000_000;
/// How many spans are kept apart.
const SPANS: usize = 64;

/// Spans of time in which records were lost, in their order.
#[derive(Default)]
pub(super) struct Losses {
    spans: VecDeque<(Timestamp, Timestamp)>,
}

impl Losses {
    /// Records were lost in this span, somewhere.
    pub fn note(&mut self, from: Timestamp, until: Timestamp) {
        let until = until.max(from);
        match self.spans.back_mut() {
            Some((_, last)) if after(*last) >= from => *last = until.max(*last),
            _ => self.spans.push_back((from, until)),
        }
        if self.spans.len() > SPANS {
            // The oldest two become one: what lies between is then taken for lost too.
            if let (Some((from, _)), Some(second)) =
                (self.spans.pop_front(), self.spans.front_mut())
            {
                second.0 = from;
            }
        }
    }

    /// Whether something of this span of time may be lacking.
    pub fn touch(&self, from: Timestamp, until: Timestamp) -> bool {
        self.spans
            .iter()
            .rev()
            .take_while(|(_, end)| after(*end) >= from)
            .any(|(begin, _)| *begin <= after(until))
    }
}

fn after(at: Timestamp) -> Timestamp {
    Timestamp(at.0.saturating_add(MARGIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp(milliseconds * MILLISECOND)
    }

    #[test]
    fn a_loss_touches_what_lies_within_a_millisecond() {
        let mut losses = Losses::default();
        assert!(!losses.touch(at(0), at(1_000)));
        losses.note(at(10), at(20));
        for (from, until, touched) in [(5, 8, false), (5, 9, true), (21, 30, true), (22, 30, false)]
        {
            assert_eq!(
                losses.touch(at(from), at(until)),
                touched,
                "{from}..{until}"
            );
        }
        assert!(losses.touch(at(1), at(100)));
    }

    #[test]
    fn what_lies_between_two_losses_is_untouched() {
        let mut losses = Losses::default();
        losses.note(at(10), at(20));
        losses.note(at(30), at(31));
        assert!(!losses.touch(at(23), at(28)));
        assert!(losses.touch(at(15), at(15)));
    }

    #[test]
    fn without_end_it_grows_coarser_and_forgets_nothing() {
        let mut losses = Losses::default();
        for step in 0..1_000 {
            losses.note(at(step * 10), at(step * 10));
        }
        assert_eq!(losses.spans.len(), SPANS);
        assert!((0..1_000).all(|step| losses.touch(at(step * 10), at(step * 10))));
        assert!(!losses.touch(at(9_985), at(9_985)));
    }
}
