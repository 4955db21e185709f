//! Hashes of the names that connections are found by, in as few words as they have.

use std::hash::{BuildHasher as _, Hasher};
use std::net::IpAddr;

use foldhash::fast::RandomState;
use tracer_common::tcp::{Endpoint, Flow};

/// Of a number in a network namespace: a cookie, or an address.
pub(super) fn of(hasher: &RandomState, netns: u64, number: u64) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u64(netns);
    state.write_u64(number);
    mix(state.finish())
}

/// Of a flow in a network namespace.
pub(super) fn of_flow(hasher: &RandomState, netns: u64, flow: &Flow) -> u64 {
    let mut state = hasher.build_hasher();
    let ports = u32::from(flow.local.port) << 16 | u32::from(flow.peer.port);
    state.write_u64(netns);
    state.write_u32(ports);
    write(&mut state, flow.local.address);
    write(&mut state, flow.peer.address);
    mix(state.finish())
}

/// Of one end in a network namespace.
pub(super) fn of_end(hasher: &RandomState, netns: u64, end: &Endpoint) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u64(netns);
    state.write_u16(end.port);
    write(&mut state, end.address);
    mix(state.finish())
}

/// foldhash's bits are good enough for one table. Ours are used in several places at once: to choose
/// a part of an index, a bucket, a tag, a set.
fn mix(hash: u64) -> u64 {
    let spread = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    spread ^ spread >> 29
}

fn write(state: &mut impl Hasher, address: IpAddr) {
    match address {
        IpAddr::V4(address) => state.write_u32(address.to_bits()),
        IpAddr::V6(address) => state.write_u128(address.to_bits()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_spread_over_all_bits() {
        for seed in 0..50 {
            let hasher = RandomState::default();
            let mut ones = [0_u32; 64];
            let mut sets = vec![0_u32; 1 << 10];
            let count = 1 << 14;
            for number in 0..count {
                let hash = of(&hasher, 1, u64::from(number) * 8);
                for (bit, ones) in ones.iter_mut().enumerate() {
                    *ones += (hash >> bit & 1) as u32;
                }
                sets[(hash & 0x3ff) as usize] += 1;
            }
            let half = count / 2;
            assert!(
                ones.iter().all(|ones| ones.abs_diff(half) < half / 4),
                "{seed}: {ones:?}"
            );
            // Sixteen each, if they were dealt; by chance at most some forty.
            assert!(sets.iter().all(|held| *held < 48), "{seed}");
        }
    }
}
