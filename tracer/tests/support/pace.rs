//! What a test may ask of the machine. Emulated processors (`cargo xtask vm`) are some twenty times
//! slower: with TRACER_TEST_SLOW=1 loads are smaller and bounds of time wider. What is right stays.

use std::env;
use std::time::Duration;

/// How much smaller loads are.
const FRACTION: u64 = 50;

/// How much wider bounds are.
const FACTOR: u32 = 10;

/// Whether the processors are emulated.
pub fn is_slow() -> bool {
    env::var_os("TRACER_TEST_SLOW").is_some_and(|value| value == "1")
}

/// So many, or the part of it that a slow machine can do in the same time.
pub fn share(usual: u64) -> u64 {
    if is_slow() { usual / FRACTION } else { usual }
}

/// So long, or the longer that a slow machine may take.
pub fn bound(usual: Duration) -> Duration {
    if is_slow() { usual * FACTOR } else { usual }
}
