//! Addresses as the standard library shows them, in a fraction of its time: there are two in each
//! row.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tracer_common::tcp::Endpoint;

/// The longest of IPv6 in brackets, and a port.
const LONGEST: usize = 47;

/// As its [`std::fmt::Display`] has it.
pub(super) fn endpoint(end: Endpoint) -> String {
    let mut text = Vec::with_capacity(LONGEST);
    match end.address {
        address if address.is_unspecified() => text.push(b'*'),
        IpAddr::V4(address) => push_v4(address, &mut text),
        IpAddr::V6(address) => {
            text.push(b'[');
            push_v6(address, &mut text);
            text.push(b']');
        }
    }
    text.push(b':');
    match end.port {
        0 => text.push(b'*'),
        port => text.extend_from_slice(itoa::Buffer::new().format(port).as_bytes()),
    }
    String::from_utf8(text).unwrap_or_else(|_| end.to_string())
}

/// Appends `address`.
#[inline]
pub(super) fn push(address: IpAddr, text: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => push_v4(address, text),
        IpAddr::V6(address) => push_v6(address, text),
    }
}

/// Each octet in digits with a dot behind it, and how long that is.
const OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let [hundreds, tens, ones] = [octet / 100, octet / 10 % 10, octet % 10];
        let digits = [hundreds as u8, tens as u8, ones as u8];
        let mut skipped = if octet < 10 {
            2
        } else if octet < 100 {
            1
        } else {
            0
        };
        octets[octet].1 = 4 - skipped as u8;
        let mut at = 0;
        while skipped < 3 {
            octets[octet].0[at] = b'0' + digits[skipped];
            at += 1;
            skipped += 1;
        }
        octet += 1;
    }
    octets
};

fn push_v4(address: Ipv4Addr, text: &mut Vec<u8>) {
    let mut digits = [0; 16];
    let mut end = 0;
    for octet in address.octets() {
        let (octet, length) = OCTETS[usize::from(octet)];
        digits[end..end + 4].copy_from_slice(&octet);
        end += usize::from(length);
    }
    // The last dot is one too many.
    text.extend_from_slice(&digits[..end - 1]);
}

/// As RFC 5952 has it: without leading zeros, and `::` in place of the longest run of zeros.
fn push_v6(address: Ipv6Addr, text: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";

    if let Some(mapped) = address.to_ipv4_mapped() {
        text.extend_from_slice(b"::ffff:");
        return push_v4(mapped, text);
    }
    let segments = address.segments();
    let (mut zeros, mut run) = (0..0, 0..0);
    for (index, segment) in segments.into_iter().enumerate() {
        run = match segment {
            0 => run.start..index + 1,
            _ => index + 1..index + 1,
        };
        if run.len() > zeros.len() {
            zeros = run.clone();
        }
    }
    if zeros.len() < 2 {
        zeros = segments.len()..segments.len();
    }
    // Eight times four digits and a colon.
    let mut digits = [0; 40];
    let mut end = 0;
    let mut push = |byte: u8| {
        digits[end] = byte;
        end += 1;
    };
    for (index, segment) in segments.into_iter().enumerate() {
        if zeros.contains(&index) {
            if index == zeros.start {
                push(b':');
            }
            if index + 1 == segments.len() {
                push(b':');
            }
            continue;
        }
        if index > 0 {
            push(b':');
        }
        let leading = (segment | 1).leading_zeros() / 4;
        for digit in leading..4 {
            push(DIGITS[usize::from(segment >> (12 - 4 * digit) & 0xf)]);
        }
    }
    text.extend_from_slice(&digits[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_same(address: IpAddr) {
        let mut text = Vec::new();
        push(address, &mut text);
        assert_eq!(String::from_utf8(text).unwrap(), address.to_string());
        for port in [0, 443] {
            let end = Endpoint { address, port };
            assert_eq!(endpoint(end), end.to_string());
        }
    }

    #[test]
    fn addresses_are_as_the_standard_library_shows_them() {
        let mut random = fastrand::Rng::with_seed(7);
        for octet in 0..=255 {
            let octets = [octet, random.u8(..), random.u8(..), 255 - octet];
            assert_same(octets.into());
        }
        for _ in 0..20_000 {
            // Runs of zeros of every length in every place.
            let zeros = random.u8(..);
            let segments: [u16; 8] = std::array::from_fn(|index| match zeros >> index & 1 {
                0 => random.u16(..) >> random.u8(..16),
                _ => 0,
            });
            assert_same(segments.into());
        }
        for address in [
            "0.0.0.0",
            "::",
            "::1",
            "1::",
            "::ffff:10.0.0.9",
            "::10.0.0.9",
        ] {
            assert_same(address.parse().unwrap());
        }
    }
}
