//! How many ports connect() can choose from, and how many it could.

use std::fmt::Write as _;

use super::Account;
use crate::stream::Settings;

/// The ports of one network namespace that connect() chooses from where the client has bound none,
/// as `__inet_hash_connect()` does: `ip_local_port_range`, less `ip_local_reserved_ports`, less those
/// that bind() took, whatever their destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// `ip_local_port_range`, both ends included.
    pub range: (u16, u16),
    /// `ip_local_reserved_ports`, both ends of each span included.
    pub reserved_ports: Vec<(u16, u16)>,
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
        let (first, last) = settings.port_range?;
        let mut space = Self {
            range: (first, last),
            reserved_ports: settings.reserved_ports.clone(),
            reserved: 0,
            bound: Vec::new(),
        };
        space.bound = bound.filter(|port| space.is_choosable(*port)).collect();
        space.bound.sort_unstable();
        space.bound.dedup();
        // The kernel writes spans in order, and none across another.
        let within = (space.reserved_ports.iter()).map(|(from, until)| {
            let (from, until) = ((*from).max(first), (*until).min(last));
            (u32::from(until) + 1).saturating_sub(from.into())
        });
        space.reserved = within.sum();
        Some(space)
    }

    /// The space that a namespace with these settings would have with another range.
    #[must_use]
    pub fn with_range(
        account: &Account,
        netns_cookie: u64,
        settings: &Settings,
        range: (u16, u16),
    ) -> Option<Self> {
        let settings = Settings {
            port_range: Some(range),
            ..settings.clone()
        };
        Self::new(&settings, account.bound_ports(netns_cookie))
    }

    /// Whether connect() may choose this port.
    #[must_use]
    pub fn is_choosable(&self, port: u16) -> bool {
        let (first, last) = self.range;
        (first..=last).contains(&port)
            && !self.is_reserved(port)
            && self.bound.binary_search(&port).is_err()
    }

    /// Ports of the range, whoever holds them.
    #[must_use]
    pub const fn size(&self) -> u64 {
        let (first, last) = self.range;
        (last as u64 + 1).saturating_sub(first as u64)
    }

    /// How many tuples to one destination it allows.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.size()
            .saturating_sub(self.reserved as u64)
            .saturating_sub(self.bound.len() as u64)
    }

    fn is_reserved(&self, port: u16) -> bool {
        let mut spans = self.reserved_ports.iter();
        spans.any(|(first, last)| (*first..=*last).contains(&port))
    }
}

/// The listeners of a namespace whose ports lie in `wider`, in order. While such a program is down,
/// for a restart perhaps, connect() may take its port; then it cannot listen again. To be reserved
/// before the range is set: see [`reservation`].
#[must_use]
pub fn collisions(account: &Account, netns_cookie: u64, wider: (u16, u16)) -> Vec<u16> {
    let (first, last) = wider;
    let mut ports = account.listened(netns_cookie);
    ports.retain(|port| (first..=last).contains(port));
    ports
}

/// What `ip_local_reserved_ports` has to say so that `ports` are reserved beside those that are.
#[must_use]
pub fn reservation(settings: &Settings, ports: &[u16]) -> String {
    let mut spans = settings.reserved_ports.clone();
    spans.extend(ports.iter().map(|port| (*port, *port)));
    spans.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in spans {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    let mut line = String::new();
    for (first, last) in merged {
        let comma = if line.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = match first == last {
            true => write!(line, "{comma}{first}"),
            false => write!(line, "{comma}{first}-{last}"),
        };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            port_range: Some((32_768, 60_999)),
            reserved_ports: vec![(8_000, 8_001), (40_000, 40_009)],
            ..Settings::default()
        }
    }

    #[test]
    fn what_is_reserved_or_bound_within_the_range_is_no_capacity() {
        let bound = [80, 40_003, 50_000, 50_000, 60_999, 61_000];
        let space = Space::new(&settings(), bound.into_iter()).expect("the range is known");
        assert_eq!((space.size(), space.reserved), (28_232, 10));
        assert_eq!(space.bound, [50_000, 60_999]);
        assert_eq!(space.capacity(), 28_232 - 10 - 2);
        let choosable = (1..=u16::MAX).filter(|port| space.is_choosable(*port));
        assert_eq!(choosable.count() as u64, space.capacity());
        assert_eq!(Space::new(&Settings::default(), [].into_iter()), None);
    }

    #[test]
    fn a_range_of_all_ports_is_reserved_without_an_overflow() {
        let settings = Settings {
            port_range: Some((0, u16::MAX)),
            reserved_ports: vec![(0, u16::MAX)],
            ..Settings::default()
        };
        let space = Space::new(&settings, [].into_iter()).expect("the range is known");
        assert_eq!((space.size(), space.capacity()), (65_536, 0));
        assert_eq!(reservation(&settings, &[65_535]), "0-65535");
    }

    #[test]
    fn a_reservation_keeps_what_is_reserved() {
        assert_eq!(
            reservation(&settings(), &[3_306, 7_999, 8_080, 8_081, 40_010]),
            "3306,7999-8001,8080-8081,40000-40010"
        );
        assert_eq!(reservation(&Settings::default(), &[]), "");
    }
}
