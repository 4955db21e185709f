//! What must be reached, and what is aimed at.

use super::{LATENCY, OVERHEAD, figure::Figure};

/// bench, name, target, aim.
#[rustfmt::skip]
const TARGETS: [(&str, &str, f64, Option<f64>); 22] = [
    (OVERHEAD, "saturated/watch-json/rate_kept", 0.85, Some(0.92)),
    (OVERHEAD, "saturated/aggregates/rate_kept", 0.90, Some(0.96)),
    (OVERHEAD, "saturated/watch-table/lost", 0.0, None),
    (OVERHEAD, "saturated/watch-json/lost", 0.0, None),
    (OVERHEAD, "saturated/aggregates/lost", 0.0, None),
    (OVERHEAD, "saturated/watch-json/lines_unaccounted", 0.0, None),
    (OVERHEAD, "steady/watch-table/p99_ratio", 1.05, None),
    (OVERHEAD, "steady/watch-json/p99_ratio", 1.05, None),
    (OVERHEAD, "steady/aggregates/p99_ratio", 1.05, None),
    (OVERHEAD, "steady/watch-json/cpu", 15.0, None),
    (OVERHEAD, "steady/watch-table/lost", 0.0, None),
    (OVERHEAD, "steady/watch-json/lost", 0.0, None),
    (OVERHEAD, "steady/aggregates/lost", 0.0, None),
    (OVERHEAD, "steady/watch-json/lines_unaccounted", 0.0, None),
    (OVERHEAD, "kernel/tracer/ns_per_transition", 200.0, Some(150.0)),
    (OVERHEAD, "kernel/tracer/set_state", 130.0, None),
    (OVERHEAD, "kernel/tracer/foreign_timer", 20.0, None),
    (LATENCY, "quiet/transition/p99", 5.0, None),
    (LATENCY, "loaded/close/p99", 50.0, None),
    (LATENCY, "start/first_event", 0.5, None),
    (LATENCY, "idle/resident", 25.0 * 1024.0 * 1024.0, None),
    (LATENCY, "idle/cpu", 0.2, None),
];

/// Gives each figure its own. The engine's bring theirs along.
pub fn set(figures: &mut [Figure]) {
    for figure in figures {
        let found = TARGETS
            .iter()
            .find(|(bench, name, ..)| figure.bench == *bench && figure.name == *name);
        if let Some((_, _, target, aim)) = found {
            (figure.target, figure.aim) = (Some(*target), *aim);
        }
    }
}
