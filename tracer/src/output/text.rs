//! Values as people read them: lengths of time, counts, times of day, names that users chose.

use std::fmt::Write;

use jiff::tz::{Offset, TimeZone};
use unicode_width::UnicodeWidthStr;

use crate::filter::until_nul;
use crate::time::{Timestamp, WallOffset};

/// A length of time in at most six columns, cut and not rounded: `324µs`, `158ms`, `60.96s`,
/// `2m03s`, `1h02m`, `3d04h`.
pub(crate) fn duration(nanoseconds: u64) -> String {
    const MICROSECOND: u64 = 1_000;
    const MILLISECOND: u64 = 1_000 * MICROSECOND;
    const SECOND: u64 = 1_000 * MILLISECOND;

    let seconds = nanoseconds / SECOND;
    if nanoseconds == 0 {
        "0s".to_owned()
    } else if nanoseconds < MICROSECOND {
        format!("{nanoseconds}ns")
    } else if nanoseconds < MILLISECOND {
        format!("{}µs", nanoseconds / MICROSECOND)
    } else if nanoseconds < 10 * MILLISECOND {
        let tenths = nanoseconds / (MILLISECOND / 10);
        format!("{}.{}ms", tenths / 10, tenths % 10)
    } else if nanoseconds < SECOND {
        format!("{}ms", nanoseconds / MILLISECOND)
    } else if seconds < 100 {
        format!("{seconds}.{:02}s", nanoseconds % SECOND / (SECOND / 100))
    } else if seconds < 3_600 {
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    } else if seconds < 86_400 {
        format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60)
    } else {
        format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24)
    }
}

/// A whole number with its thousands set apart: `1,204`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The time of day, to the millisecond: `23:58:01.123`.
pub(super) fn time_of_day(at: Timestamp, wall: WallOffset, zone: &TimeZone) -> String {
    match jiff::Timestamp::from_nanosecond(wall.unix_nanoseconds(at)) {
        Ok(at) => zone.to_datetime(at).strftime("%H:%M:%S.%3f").to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// What `at` is called in `zone`: `UTC`, `+02:00`.
pub(super) fn zone_name(at: Timestamp, wall: WallOffset, zone: &TimeZone) -> String {
    let offset = jiff::Timestamp::from_nanosecond(wall.unix_nanoseconds(at))
        .map(|at| zone.to_offset(at))
        .unwrap_or(Offset::UTC);
    if offset.seconds() == 0 {
        return "UTC".to_owned();
    }
    let minutes = offset.seconds() / 60;
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
}

/// A name that a user chose, so that it can neither move the cursor nor pass for something else:
/// letters, digits and printable ASCII as they are, the rest as `\x1b` or `\u{202e}`.
pub(crate) fn name(padded: &[u8; 16]) -> String {
    escaped(until_nul(padded))
}

/// The same of any text that others chose: a path, a namespace's name.
pub(crate) fn plain(text: &str) -> String {
    escaped(text.as_bytes())
}

/// As [`name`], of any length.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'\\';
    if bytes.iter().all(is_plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                ' '..='~' => text.push(character),
                '\0'..='\x7f' => push(&mut text, format_args!("\\x{:02x}", u32::from(character))),
                _ if character.is_alphanumeric() => text.push(character),
                _ => push(&mut text, format_args!("{}", character.escape_unicode())),
            }
        }
        for byte in chunk.invalid() {
            push(&mut text, format_args!("\\x{byte:02x}"));
        }
    }
    text
}

/// Appends to `text`, which cannot fail.
pub(crate) fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
}

/// Columns that `text` takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    match text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        true => text.len(),
        false => text.width(),
    }
}

/// `text` in at most `room` columns, an ellipsis in place of its end.
pub(super) fn cut_end(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    match room {
        0 => String::new(),
        _ => format!("{}…", head(text, room - 1)),
    }
}

/// `text` in at most `room` columns, an ellipsis in place of its middle. What tells it from others
/// stays: of `name/number` the number, of an endpoint the port and the address's last digits.
pub(super) fn cut_middle(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let Some(kept) = room.checked_sub(1) else {
        return String::new();
    };
    let tail_room = match text.rfind('/') {
        Some(number) => width(&text[number..]).min(kept),
        None => kept - kept / 3,
    };
    let (head, tail) = (head(text, kept - tail_room), tail(text, tail_room));
    format!("{head}…{tail}")
}

fn head(text: &str, room: usize) -> &str {
    let end = text
        .char_indices()
        .map(|(at, character)| at + character.len_utf8());
    end.rev()
        .map(|end| &text[..end])
        .find(|head| width(head) <= room)
        .unwrap_or("")
}

fn tail(text: &str, room: usize) -> &str {
    let mut starts = text.char_indices().map(|(at, _)| &text[at..]);
    starts.find(|tail| width(tail) <= room).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padded(bytes: &[u8]) -> [u8; 16] {
        let mut name = [0; 16];
        name[..bytes.len()].copy_from_slice(bytes);
        name
    }

    #[test]
    fn durations_take_the_unit_that_tells_most_and_never_more_than_six_columns() {
        let shown = |nanoseconds| duration(nanoseconds);
        assert_eq!(shown(0), "0s");
        assert_eq!(shown(999), "999ns");
        assert_eq!(shown(324_999), "324µs");
        assert_eq!(shown(1_590_000), "1.5ms");
        assert_eq!(shown(158_000_000), "158ms");
        assert_eq!(shown(60_960_000_000), "60.96s");
        assert_eq!(shown(99_999_999_999), "99.99s");
        assert_eq!(shown(123_000_000_000), "2m03s");
        assert_eq!(shown(3_720_000_000_000), "1h02m");
        assert_eq!(shown((3 * 24 + 4) * 3_600_000_000_000), "3d04h");
        assert!((0..50).all(|power| width(&shown(1 << power)) <= 6));
    }

    #[test]
    fn counts_have_their_thousands_set_apart() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_204), "1,204");
        assert_eq!(count(12_345_678), "12,345,678");
    }

    #[test]
    fn a_name_cannot_reach_the_terminal() {
        assert_eq!(name(&padded(b"php-fpm")), "php-fpm");
        assert_eq!(
            name(&padded(b"\x1b[2J\x1b]0;x\x07\n")),
            "\\x1b[2J\\x1b]0;x\\x07\\x0a"
        );
        assert_eq!(name(&padded("é\u{202e}x".as_bytes())), "é\\u{202e}x");
        assert_eq!(name(&padded(b"a\xff\x9bb")), "a\\xff\\x9bb");
        assert_eq!(name(&padded("\u{9b}31m".as_bytes())), "\\u{9b}31m");
        assert_eq!(name(&padded(b"a\\x1b")), "a\\\\x1b");
        assert_eq!(name(b"sixteen bytes!!!"), "sixteen bytes!!!");
    }

    #[test]
    fn cutting_keeps_the_port_and_the_room() {
        let endpoint = "[2001:db8:85a3::8a2e:370:7334]:40112";
        assert_eq!(cut_middle(endpoint, 20), "[2001:…0:7334]:40112");
        assert_eq!(cut_middle("nginx/2731", 9), "ngi…/2731");
        assert_eq!(cut_middle("nginx/2731", 4), "…731");
        for room in 0..40 {
            assert_eq!(width(&cut_middle(endpoint, room)), room.min(36));
            assert_eq!(width(&cut_end(endpoint, room)), room.min(36));
        }
        assert_eq!(cut_end("日本語", 4), "日…");
    }

    #[test]
    fn the_time_of_day_is_that_of_the_zone() {
        let at = Timestamp(1_123_456_789);
        let shown = |zone: &TimeZone| {
            (
                time_of_day(at, WallOffset(0), zone),
                zone_name(at, WallOffset(0), zone),
            )
        };
        let text = |time: &str, zone: &str| (time.to_owned(), zone.to_owned());
        assert_eq!(shown(&TimeZone::UTC), text("00:00:01.123", "UTC"));
        let west = TimeZone::fixed(jiff::tz::offset(-5));
        assert_eq!(shown(&west), text("19:00:01.123", "-05:00"));
    }
}
