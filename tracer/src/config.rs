//! What the command line asks for, checked once: a configuration that exists is valid.

use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;

use crate::cli::{CheckArgs, DiagnoseArgs, FilterArgs, PortsArgs, RouteFilterArgs, WatchArgs};
use crate::filter::{Comm, Filter};
use crate::output::Format;
use crate::probes::Dispensable;

pub mod agent;
pub(crate) mod netns;

pub use netns::NetnsError;

/// What was asked for cannot be had on this host.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A network namespace was not found.
    #[error("--netns {asked}")]
    Netns {
        /// As it was typed.
        asked: String,
        /// Why not.
        source: NetnsError,
    },
}

/// `tracer watch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchConfig {
    /// What to show.
    pub filter: Filter,
    /// How to write it.
    pub format: Format,
    /// Whether every transition is shown.
    pub transitions: bool,
    /// Whether failed system calls are told.
    pub calls: bool,
    /// Whether there are no rows: neither closes nor transitions nor calls.
    pub summary: bool,
    /// How long; `None`: until a signal.
    pub duration: Option<Duration>,
    /// Size of the ring buffer.
    pub buffer: BufferSize,
    /// Probes to leave out.
    pub without: Vec<Dispensable>,
    /// Whether to colour.
    pub color: clap::ColorChoice,
}

impl TryFrom<WatchArgs> for WatchConfig {
    type Error = ConfigError;

    fn try_from(args: WatchArgs) -> Result<Self, ConfigError> {
        Ok(Self {
            filter: args.filter.try_into()?,
            format: format(args.json),
            transitions: args.transitions && !args.summary,
            calls: args.calls && !args.summary,
            summary: args.summary,
            duration: args.duration.map(|Span(duration)| duration),
            buffer: args.tracing.buffer,
            without: args.tracing.without,
            color: args.color.when,
        })
    }
}

/// `tracer diagnose`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiagnoseConfig {
    /// Which findings to show.
    pub filter: Filter,
    /// How to write the report; a table stands for text.
    pub format: Format,
    /// Whether to show what findings rest on, and all of the advice.
    pub verbose: bool,
    /// How long at most.
    pub duration: Duration,
    /// It ends as soon as something is certain.
    pub until_certain: bool,
    /// Size of the ring buffer.
    pub buffer: BufferSize,
    /// Probes to leave out.
    pub without: Vec<Dispensable>,
    /// Whether to colour.
    pub color: clap::ColorChoice,
}

/// `tracer ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortsConfig {
    /// Which routes to show.
    pub filter: Filter,
    /// How to write them.
    pub format: Format,
    /// Whether to show all of them.
    pub all: bool,
    /// Whether to colour.
    pub color: clap::ColorChoice,
}

impl DiagnoseConfig {
    /// How long a diagnosis takes at most where nobody says otherwise.
    const DURATION: Duration = Duration::from_secs(30);
}

impl TryFrom<DiagnoseArgs> for DiagnoseConfig {
    type Error = ConfigError;

    fn try_from(args: DiagnoseArgs) -> Result<Self, ConfigError> {
        let duration = args.duration.map(|Span(duration)| duration);
        Ok(Self {
            filter: args.filter.try_into()?,
            format: format(args.json),
            verbose: args.verbose,
            duration: duration.unwrap_or(Self::DURATION),
            until_certain: duration.is_none(),
            buffer: args.tracing.buffer,
            without: args.tracing.without,
            color: args.color.when,
        })
    }
}

impl TryFrom<PortsArgs> for PortsConfig {
    type Error = ConfigError;

    fn try_from(args: PortsArgs) -> Result<Self, ConfigError> {
        let RouteFilterArgs {
            port,
            local,
            peer,
            netns,
        } = args.filter;
        let filter = FilterArgs {
            port,
            local,
            peer,
            netns,
            ..FilterArgs::default()
        };
        Ok(Self {
            filter: filter.try_into()?,
            format: format(args.json),
            all: args.all,
            color: args.color.when,
        })
    }
}

/// `tracer check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckConfig {
    /// How to write it; a table stands for plain text.
    pub format: Format,
    /// How long to measure what each program costs; `None`: not at all.
    pub cost: Option<Duration>,
}

impl From<CheckArgs> for CheckConfig {
    fn from(args: CheckArgs) -> Self {
        let Span(duration) = args.duration;
        Self {
            format: format(args.json),
            cost: args.cost.then_some(duration),
        }
    }
}

impl TryFrom<FilterArgs> for Filter {
    type Error = ConfigError;

    fn try_from(args: FilterArgs) -> Result<Self, ConfigError> {
        let inode = |asked: String| match netns::inode(&asked) {
            Ok(inode) => Ok(inode),
            Err(source) => Err(ConfigError::Netns { asked, source }),
        };
        Ok(Self {
            ports: args.port,
            local: args.local,
            peer: args.peer,
            netns: args
                .netns
                .into_iter()
                .map(inode)
                .collect::<Result<_, _>>()?,
            cgroups: args.cgroup,
            comms: args.comm.iter().map(|name| Comm::from(&**name)).collect(),
            kinds: args.kind,
        })
    }
}

const fn format(json: bool) -> Format {
    if json { Format::Json } else { Format::Table }
}

/// A length of time above 0, as in `10s`, `500ms`, `1h30m`, `7d`. A day is 24 hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// The text is not a length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a length of time above 0 with its unit, such as 500ms, 10s, 2m or 1h30m")]
pub struct InvalidSpan;

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let span = SpanParser::new()
            .parse_span(text)
            .map_err(|_| InvalidSpan)?;
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours());
        match duration.map(Duration::try_from) {
            Ok(Ok(duration)) if !duration.is_zero() => Ok(Self(duration)),
            _ => Err(InvalidSpan),
        }
    }
}

/// Bytes of the ring buffer: a power of two, which the kernel wants, and, being no less than
/// 256 KiB, a multiple of every page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSize(u32);

impl BufferSize {
    const LEAST: ByteSize = ByteSize::kib(256);
    const MOST: ByteSize = ByteSize::gib(1);

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

impl Default for BufferSize {
    fn default() -> Self {
        Self(32 << 20)
    }
}

/// The text is not a size that a ring buffer can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBufferSize {
    /// Not a size at all.
    #[error("expected a size such as 512KiB or 16MiB")]
    NotASize,
    /// Too small or too large.
    #[error("{} is not between {} and {}", .0.display().iec(), BufferSize::LEAST.display().iec(), BufferSize::MOST.display().iec())]
    OutOfRange(ByteSize),
    /// The kernel takes powers of two only.
    #[error("the kernel takes powers of two only; the nearest are {} and {}", .below.display().iec(), .above.display().iec())]
    NotAPowerOfTwo {
        /// The next smaller size.
        below: ByteSize,
        /// The next larger size.
        above: ByteSize,
    },
}

impl FromStr for BufferSize {
    type Err = InvalidBufferSize;

    fn from_str(text: &str) -> Result<Self, InvalidBufferSize> {
        let size: ByteSize = text.parse().map_err(|_| InvalidBufferSize::NotASize)?;
        let bytes = match u32::try_from(size.as_u64()) {
            Ok(bytes) if (Self::LEAST..=Self::MOST).contains(&size) => bytes,
            _ => return Err(InvalidBufferSize::OutOfRange(size)),
        };
        if !bytes.is_power_of_two() {
            let above = bytes.next_power_of_two();
            return Err(InvalidBufferSize::NotAPowerOfTwo {
                below: ByteSize::b(u64::from(above / 2)),
                above: ByteSize::b(u64::from(above)),
            });
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_units_and_is_above_zero() {
        let seconds = |text: &str| text.parse().map(|Span(span)| span.as_secs_f64());
        assert_eq!(seconds("10s"), Ok(10.0));
        assert_eq!(seconds("500ms"), Ok(0.5));
        assert_eq!(seconds("2m"), Ok(120.0));
        assert_eq!(seconds("1h30m"), Ok(5400.0));
        assert_eq!(seconds("7d"), Ok(604_800.0));
        assert_eq!(seconds("1w 1d"), Ok(691_200.0));
        for text in ["", "10", "0s", "-3s", "3s ago", "soon", "1mo", "1y"] {
            assert_eq!(seconds(text), Err(InvalidSpan), "{text}");
        }
    }

    #[test]
    fn a_buffer_is_a_power_of_two_within_bounds() {
        let bytes = |text: &str| text.parse().map(BufferSize::bytes);
        assert_eq!(bytes("16MiB"), Ok(16 << 20));
        assert_eq!(bytes("256KiB"), Ok(256 << 10));
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert_eq!(bytes("1048576"), Ok(1 << 20));
        assert_eq!(bytes("big"), Err(InvalidBufferSize::NotASize));
        let error = |text: &str| bytes(text).unwrap_err().to_string();
        assert_eq!(
            error("3MiB"),
            "the kernel takes powers of two only; the nearest are 2.0 MiB and 4.0 MiB"
        );
        assert_eq!(
            error("128KiB"),
            "128.0 KiB is not between 256.0 KiB and 1.0 GiB"
        );
        assert_eq!(
            error("8GiB"),
            "8.0 GiB is not between 256.0 KiB and 1.0 GiB"
        );
    }
}
