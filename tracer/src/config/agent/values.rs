//! The values of the file: each type takes in only what is right.

use std::fmt;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::{BufferSize, InvalidSpan, Span};
use crate::probes::Dispensable;
use crate::record::CloseKind;

/// Where something is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// At this address; with port 0 the kernel chooses one.
    At(SocketAddr),
}

impl Listen {
    /// The address, if there is one.
    #[must_use]
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }

    /// Whether other hosts may reach it, which is worth a warning: nobody is asked who they are.
    #[must_use]
    pub fn is_exposed(self) -> bool {
        self.address()
            .is_some_and(|address| !address.ip().to_canonical().is_loopback())
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self::At((Ipv4Addr::LOCALHOST, 9_435).into())
    }
}

/// The text says no place to serve at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address with its port, such as 127.0.0.1:9435 or [::1]:9435, or off")]
pub struct InvalidListen;

impl FromStr for Listen {
    type Err = InvalidListen;

    fn from_str(text: &str) -> Result<Self, InvalidListen> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| InvalidListen),
        }
    }
}

/// A directory by its absolute path. It need not be there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory(PathBuf);

impl From<Directory> for PathBuf {
    fn from(Directory(path): Directory) -> Self {
        path
    }
}

/// The path depends on where the program was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an absolute path, such as /var/lib/tracer")]
pub struct InvalidDirectory;

impl FromStr for Directory {
    type Err = InvalidDirectory;

    fn from_str(text: &str) -> Result<Self, InvalidDirectory> {
        match Path::new(text).is_absolute() {
            true => Ok(Self(text.into())),
            false => Err(InvalidDirectory),
        }
    }
}

/// The base URL of an OpenTelemetry collector: scheme, host, and perhaps a port and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorUrl(Uri);

impl CollectorUrl {
    /// The URL as it was given.
    #[must_use]
    pub const fn uri(&self) -> &Uri {
        &self.0
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is no base URL of a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCollectorUrl {
    /// Not a URL of the web.
    #[error(
        "expected a URL that begins with http:// or https:// and has a host, such as \
         http://127.0.0.1:4318"
    )]
    NotAUrl,
    /// There is a password or a query in it.
    #[error(
        "expected scheme, host, port and path alone, such as https://collector:4318; what lets us \
         in belongs in otlp.headers"
    )]
    TooMuch,
}

impl FromStr for CollectorUrl {
    type Err = InvalidCollectorUrl;

    fn from_str(text: &str) -> Result<Self, InvalidCollectorUrl> {
        let uri: Uri = text.parse().map_err(|_| InvalidCollectorUrl::NotAUrl)?;
        let authority = uri.authority().ok_or(InvalidCollectorUrl::NotAUrl)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || authority.host().is_empty() {
            return Err(InvalidCollectorUrl::NotAUrl);
        }
        if authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(InvalidCollectorUrl::TooMuch);
        }
        // A port beyond 65535 is none to http.
        if authority.as_str() != authority.host() && authority.port_u16().is_none() {
            return Err(InvalidCollectorUrl::NotAUrl);
        }
        Ok(Self(uri))
    }
}

/// A share, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// Everything.
    pub const ALL: Self = Self(1.0);
    /// One of a thousand.
    pub const THOUSANDTH: Self = Self(0.001);

    /// The share, from 0 to 1.
    #[must_use]
    pub const fn value(self) -> f64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 1, such as 0.01")
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Share, E> {
                match (0.0..=1.0).contains(&number) {
                    true => Ok(Share(number)),
                    false => Err(E::custom(format_args!("{number} is not between 0 and 1"))),
                }
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Share, E> {
                self.visit_f64(number as f64)
            }
        }

        deserializer.deserialize_f64(Number)
    }
}

/// A length of time that something is done at the end of, again and again: a second or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval(pub(super) Duration);

#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidInterval {
    #[error(transparent)]
    NotASpan(#[from] InvalidSpan),
    #[error("{0:?} is less than 1s")]
    TooShort(Duration),
}

impl FromStr for Interval {
    type Err = InvalidInterval;

    fn from_str(text: &str) -> Result<Self, InvalidInterval> {
        let Span(span) = text.parse()?;
        match span < Duration::from_secs(1) {
            true => Err(InvalidInterval::TooShort(span)),
            false => Ok(Self(span)),
        }
    }
}

/// The size of a file, or of many: a mebibyte or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSize(pub(super) ByteSize);

#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidFileSize {
    #[error("expected a size such as 64MiB or 10GiB")]
    NotASize,
    #[error("{} is less than 1 MiB", .0.display().iec())]
    TooSmall(ByteSize),
}

impl FromStr for FileSize {
    type Err = InvalidFileSize;

    fn from_str(text: &str) -> Result<Self, InvalidFileSize> {
        let size: ByteSize = text.parse().map_err(|_| InvalidFileSize::NotASize)?;
        match size < ByteSize::mib(1) {
            true => Err(InvalidFileSize::TooSmall(size)),
            false => Ok(Self(size)),
        }
    }
}

/// What a host is called.
#[derive(Debug)]
pub(super) struct HostName(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("expected a name of 1 to 253 characters, none of them a space or a control character")]
pub(super) struct InvalidHostName;

impl FromStr for HostName {
    type Err = InvalidHostName;

    fn from_str(text: &str) -> Result<Self, InvalidHostName> {
        let is_printable = |char: char| !char.is_whitespace() && !char.is_control();
        match (1..=253).contains(&text.chars().count()) && text.chars().all(is_printable) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidHostName),
        }
    }
}

/// HTTP headers, their values not to be shown.
#[derive(Debug, Default)]
pub(super) struct Headers(pub(super) HeaderMap);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;

        impl<'de> Visitor<'de> for Table {
            type Value = HeaderMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of strings, such as { authorization = \"Bearer …\" }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<HeaderMap, A::Error> {
                let mut headers = HeaderMap::new();
                while let Some((Name(name), Value(value))) = table.next_entry()? {
                    if headers.contains_key(&name) {
                        return Err(A::Error::custom(format_args!(
                            "the header {name} is there twice"
                        )));
                    }
                    headers.insert(name, value);
                }
                Ok(headers)
            }
        }

        deserializer.deserialize_map(Table).map(Self)
    }
}

struct Name(HeaderName);

#[derive(Debug, thiserror::Error)]
#[error("expected a header's name: letters, digits and hyphens")]
struct InvalidName;

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse().map(Self).map_err(|_| InvalidName)
    }
}

struct Value(HeaderValue);

#[derive(Debug, thiserror::Error)]
#[error("expected a header's value: visible ASCII characters and spaces")]
struct InvalidValue;

impl FromStr for Value {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let mut value = HeaderValue::from_str(text).map_err(|_| InvalidValue)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

/// A section by its keys alone: a struct would be taken from an array, too.
pub(super) fn section<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Section<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Section<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a section: its name once in [brackets], and its keys beneath")
        }

        fn visit_map<A: MapAccess<'de>>(self, keys: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(keys))
        }
    }

    deserializer.deserialize_map(Section(PhantomData))
}

/// A whole number from `LEAST` to `MOST`.
pub(super) fn whole<'de, const LEAST: usize, const MOST: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<usize, D::Error> {
    struct Number<const LEAST: usize, const MOST: usize>;

    impl<const LEAST: usize, const MOST: usize> Visitor<'_> for Number<LEAST, MOST> {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a whole number from {LEAST} to {MOST}")
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<usize, E> {
            usize::try_from(number)
                .ok()
                .filter(|number| (LEAST..=MOST).contains(number))
                .ok_or_else(|| {
                    E::custom(format_args!("{number} is not between {LEAST} and {MOST}"))
                })
        }
    }

    deserializer.deserialize_i64(Number::<LEAST, MOST>)
}

/// Takes a string in, which `T` then parses.
struct Text<T> {
    expected: &'static str,
    parsed: PhantomData<T>,
}

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! from_text {
    ($($type:ty = $expected:literal,)+) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text {
                    expected: $expected,
                    parsed: PhantomData,
                })
            }
        }
    )+};
}

from_text! {
    BufferSize = "a size in quotes, such as \"32MiB\"",
    CloseKind = "a kind of close in quotes, such as \"timed_out\"",
    CollectorUrl = "a URL in quotes, such as \"http://127.0.0.1:4318\"",
    Directory = "a path in quotes, such as \"/var/lib/tracer\"",
    Dispensable = "a probe's name in quotes, such as \"free_segment\"",
    FileSize = "a size in quotes, such as \"64MiB\"",
    HostName = "a name in quotes, such as \"db1\"",
    Interval = "a length of time in quotes, such as \"15s\"",
    Listen = "an address with its port in quotes, such as \"127.0.0.1:9435\", or \"off\"",
    Name = "a header's name",
    Value = "a header's value in quotes",
}
