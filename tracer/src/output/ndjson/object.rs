//! JSON written straight into a line: what rows are made of, which come by tens of thousands a
//! second. Keys and punctuation are joined when this is compiled. All that serde_json would write is
//! written byte for byte the same.

use std::net::IpAddr;
use std::ops::Range;

use crate::filter::until_nul;
use crate::output::{address, errno};
use crate::time::{Timestamp, WallOffset};

use super::moment::Moments;

/// A line under way, and what it shares with those before it.
#[derive(Debug, Default)]
pub(super) struct Line {
    text: Vec<u8>,
    /// Where what is [`Placed`] stands.
    placed: Range<usize>,
    moments: Moments,
    wall: WallOffset,
}

impl Line {
    /// The bytes of a line that is `object`, with its end. Moments are shown by `wall`.
    pub fn of(&mut self, object: impl Value, wall: WallOffset) -> &[u8] {
        self.text.clear();
        self.wall = wall;
        object.write(self);
        self.text.push(b'\n');
        &self.text
    }

    /// The line just made with another value where one was [`Placed`]: what stands before it, that
    /// value, and what stands behind.
    pub fn with(&mut self, other: impl Value) -> [&[u8]; 3] {
        let end = self.text.len();
        other.write(self);
        let Range { start, end: behind } = self.placed;
        [
            &self.text[..start],
            &self.text[end..],
            &self.text[behind..end],
        ]
    }

    /// Appends what is JSON already.
    #[inline]
    pub fn raw(&mut self, json: &str) {
        self.text.extend_from_slice(json.as_bytes());
    }

    /// Appends `text`, in which nothing needs an escape, as a string.
    #[inline]
    fn quoted(&mut self, text: &[u8]) {
        debug_assert!(!text.iter().any(needs_escape));
        self.text.push(b'"');
        self.text.extend_from_slice(text);
        self.text.push(b'"');
    }

    /// Appends any text as a string.
    #[cold]
    fn escaped(&mut self, text: &str) {
        // What it writes to takes all, and a string is always JSON.
        let _ = serde_json::to_writer(&mut self.text, text);
    }
}

/// Whether JSON has the byte in a string as an escape alone.
fn needs_escape(byte: &u8) -> bool {
    *byte < b' ' || *byte == b'"' || *byte == b'\\'
}

/// What can stand behind a key.
pub(super) trait Value {
    /// Appends it.
    fn write(self, line: &mut Line);
}

/// A value that [`Line::with`] takes another one for. A line has one at most.
pub(super) struct Placed<T>(pub T);

impl<T: Value> Value for Placed<T> {
    fn write(self, line: &mut Line) {
        let start = line.text.len();
        self.0.write(line);
        line.placed = start..line.text.len();
    }
}

/// An object with these keys, in this order: a [`Value`].
macro_rules! object {
    ({ $first:literal: $first_value:expr, $($key:literal: $value:expr,)* }) => {
        $crate::output::ndjson::object::Written(
            move |line: &mut $crate::output::ndjson::object::Line| {
                line.raw(concat!("{\"", $first, "\":"));
                $crate::output::ndjson::object::Value::write($first_value, line);
                $(
                    line.raw(concat!(",\"", $key, "\":"));
                    $crate::output::ndjson::object::Value::write($value, line);
                )*
                line.raw("}");
            },
        )
    };
}
pub(super) use object;

/// A value as the function that appends it.
pub(super) struct Written<F>(pub F);

impl<F: FnOnce(&mut Line)> Value for Written<F> {
    #[inline]
    fn write(self, line: &mut Line) {
        (self.0)(line);
    }
}

/// An array.
pub(super) struct List<I>(pub I);

impl<I: Iterator<Item: Value>> Value for List<I> {
    #[inline]
    fn write(self, line: &mut Line) {
        line.raw("[");
        for (index, value) in self.0.enumerate() {
            if index > 0 {
                line.raw(",");
            }
            value.write(line);
        }
        line.raw("]");
    }
}

impl<T: Value> Value for Option<T> {
    #[inline]
    fn write(self, line: &mut Line) {
        match self {
            Some(value) => value.write(line),
            None => line.raw("null"),
        }
    }
}

impl Value for bool {
    #[inline]
    fn write(self, line: &mut Line) {
        line.raw(if self { "true" } else { "false" });
    }
}

macro_rules! numbers {
    ($($number:ty)+) => {$(
        impl Value for $number {
            #[inline]
            fn write(self, line: &mut Line) {
                line.raw(itoa::Buffer::new().format(self));
            }
        }
    )+};
}
numbers! { u8 u16 u32 u64 }

/// A word of ours: a name of a state, a kind, a reason. For what others chose there is [`Text`].
impl Value for &'static str {
    #[inline]
    fn write(self, line: &mut Line) {
        line.quoted(self.as_bytes());
    }
}

/// Text that may hold anything.
pub(super) struct Text<'a>(pub &'a str);

impl Value for Text<'_> {
    #[inline]
    fn write(self, line: &mut Line) {
        match self.0.bytes().any(|byte| needs_escape(&byte)) {
            false => line.quoted(self.0.as_bytes()),
            true => line.escaped(self.0),
        }
    }
}

/// A NUL-padded name; what is not UTF-8 in it is replaced.
pub(super) struct Name<'a>(pub &'a [u8; 16]);

impl Value for Name<'_> {
    #[inline]
    fn write(self, line: &mut Line) {
        let name = until_nul(self.0);
        let is_plain = |byte: &u8| byte.is_ascii() && !needs_escape(byte);
        match name.iter().all(is_plain) {
            true => line.quoted(name),
            false => line.escaped(&String::from_utf8_lossy(name)),
        }
    }
}

/// A 64-bit id as a string, since JavaScript and jq drop digits; 0 is none.
pub(super) struct Id(pub u64);

impl Value for Id {
    #[inline]
    fn write(self, line: &mut Line) {
        match self.0 {
            0 => line.raw("null"),
            id => line.quoted(itoa::Buffer::new().format(id).as_bytes()),
        }
    }
}

/// A symbolic errno.
pub(super) struct Errno(pub u16);

impl Value for Errno {
    fn write(self, line: &mut Line) {
        match errno::name(self.0) {
            Some(name) => name.write(line),
            None => line.quoted(format!("E{}", self.0).as_bytes()),
        }
    }
}

/// A time stamp as RFC 3339 in UTC, to the nanosecond.
pub(super) struct Moment(pub Timestamp);

impl Value for Moment {
    #[inline]
    fn write(self, line: &mut Line) {
        line.moments
            .write(line.wall.unix_nanoseconds(self.0), &mut line.text);
    }
}

impl Value for IpAddr {
    #[inline]
    fn write(self, line: &mut Line) {
        line.text.push(b'"');
        address::push(self, &mut line.text);
        line.text.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_chose_is_escaped_as_serde_escapes_it() {
        let mut line = Line::default();
        for text in [
            "",
            "plain",
            "a\"b",
            "a\\b",
            "\u{1b}[31m",
            "\u{7f}é\u{202e}",
            "\n\t\u{0}",
        ] {
            let expected = format!("{}\n", serde_json::to_string(text).unwrap());
            assert_eq!(line.of(Text(text), WallOffset(0)), expected.as_bytes());
        }
    }
}
