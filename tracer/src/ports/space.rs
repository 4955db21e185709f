//! How many ports connect() can choose from.

use crate::stream::Settings;

/// The ports of one network namespace that connect() chooses from where the client has bound none,
/// as `__inet_hash_connect()` does: `ip_local_port_range`, less `ip_local_reserved_ports`, less those
/// that bind() took, whatever their destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// `ip_local_port_range`, both ends included.
    pub range: (u16, u16),
    /// Ports of the range that are reserved.
    pub reserved: u32,
    /// Ports of the range, not reserved, that bind() took: in order.
    pub bound: Vec<u16>,
}

impl Space {
    /// The space of a namespace with these settings, where bind() took `bound`. `None`: the range is
    /// not known.
    #[must_use]
    pub fn new(settings: &Settings, bound: impl Iterator<Item = u16>) -> Option<Self> {
        let range = settings.port_range?;
        let is_reserved = |port: u16| {
            let mut spans = settings.reserved_ports.iter();
            spans.any(|(first, last)| (*first..=*last).contains(&port))
        };
        let (first, last) = range;
        let mut bound: Vec<u16> = bound
            .filter(|port| (first..=last).contains(port) && !is_reserved(*port))
            .collect();
        bound.sort_unstable();
        bound.dedup();
        let reserved = (first..=last).filter(|port| is_reserved(*port)).count();
        Some(Self {
            range,
            reserved: reserved as u32,
            bound,
        })
    }

    /// Ports of the range, whoever holds them.
    #[must_use]
    pub const fn size(&self) -> u64 {
        let (first, last) = self.range;
        (last as u64 + 1).saturating_sub(first as u64)
    }

    /// How many tuples to one destination it allows.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.size() - u64::from(self.reserved) - self.bound.len() as u64
    }
}
