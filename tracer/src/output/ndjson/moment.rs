//! Time stamps as RFC 3339 in UTC, to the nanosecond, a dozen in each row: all that a second's have
//! in common is worked out once.

use std::io::Write as _;
use std::time::Duration;

/// Seconds that are kept: a minute of TIME_WAIT lies between the first and the last of a row.
const KEPT: usize = 128;
/// `"2026-11-20T23:58:01.123456789Z"`, with its quotes.
const LENGTH: usize = 32;
/// Where its nanoseconds begin.
const NANOSECONDS: usize = 21;

/// The seconds that were shown lately, by their number.
#[derive(Debug)]
pub(super) struct Moments(Vec<Second>);

/// One second since 1970, and its first nanosecond as it is shown.
#[derive(Clone, Copy, Debug)]
struct Second {
    number: u64,
    text: [u8; LENGTH],
}

impl Default for Moments {
    fn default() -> Self {
        // 1970's first second is none that is known before it is worked out.
        let none = Second {
            number: u64::MAX,
            text: [0; LENGTH],
        };
        Self(vec![none; KEPT])
    }
}

impl Moments {
    /// Appends a time in nanoseconds since 1970, or null where no calendar has it.
    #[inline]
    pub fn write(&mut self, unix_nanoseconds: i128, text: &mut Vec<u8>) {
        const SECOND: u64 = Duration::from_secs(1).as_nanos() as u64;

        // Up to the year 2554.
        let Ok(nanoseconds) = u64::try_from(unix_nanoseconds) else {
            return write_any(unix_nanoseconds, text);
        };
        let (number, nanoseconds) = (nanoseconds / SECOND, nanoseconds % SECOND);
        let known = &mut self.0[number as usize % KEPT];
        if known.number != number {
            *known = Second::new(number);
        }
        let mut moment = known.text;
        put_digits(nanoseconds as u32, &mut moment);
        text.extend_from_slice(&moment);
    }
}

impl Second {
    #[cold]
    fn new(number: u64) -> Self {
        let mut shown = Vec::with_capacity(LENGTH);
        write_any(i128::from(number) * 1_000_000_000, &mut shown);
        let mut text = [0; LENGTH];
        // The years up to 2554 have four digits, so it is just as long.
        text.copy_from_slice(&shown);
        Self { number, text }
    }
}

/// Puts nine digits where the nanoseconds are.
#[inline]
fn put_digits(nanoseconds: u32, moment: &mut [u8; LENGTH]) {
    let digits = &mut moment[NANOSECONDS..NANOSECONDS + 9];
    let mut rest = nanoseconds;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

#[cold]
fn write_any(unix_nanoseconds: i128, text: &mut Vec<u8>) {
    // What it writes to takes all.
    let _ = match jiff::Timestamp::from_nanosecond(unix_nanoseconds) {
        Ok(at) => write!(text, "\"{at:.9}\""),
        Err(_) => write!(text, "null"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_shown_as_the_calendar_has_it() {
        let mut moments = Moments::default();
        let mut random = fastrand::Rng::with_seed(7);
        let anywhere = (0..20_000).map(|step| match step % 4 {
            0 => i128::from(random.u64(..)),
            1 => i128::from(random.i64(..)),
            2 => i128::from(u64::MAX) + i128::from(random.u64(..)) * 40,
            _ => 1_795_219_080_000_000_000 + i128::from(random.u64(..90_000_000_000)),
        });
        let edges = [0, -1, 999_999_999, 1_000_000_000, i128::from(u64::MAX)];
        for at in edges.into_iter().chain(anywhere) {
            let (mut text, mut expected) = (Vec::new(), Vec::new());
            moments.write(at, &mut text);
            write_any(at, &mut expected);
            assert_eq!(text, expected, "{at}");
        }
    }
}
