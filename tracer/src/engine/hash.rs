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
    state.finish()
}

/// Of a flow in a network namespace.
pub(super) fn of_flow(hasher: &RandomState, netns: u64, flow: &Flow) -> u64 {
    let mut state = hasher.build_hasher();
    let ports = u32::from(flow.local.port) << 16 | u32::from(flow.peer.port);
    state.write_u64(netns);
    state.write_u32(ports);
    write(&mut state, flow.local.address);
    write(&mut state, flow.peer.address);
    state.finish()
}

/// Of one end in a network namespace.
pub(super) fn of_end(hasher: &RandomState, netns: u64, end: &Endpoint) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u64(netns);
    state.write_u16(end.port);
    write(&mut state, end.address);
    state.finish()
}

fn write(state: &mut impl Hasher, address: IpAddr) {
    match address {
        IpAddr::V4(address) => state.write_u32(address.to_bits()),
        IpAddr::V6(address) => state.write_u128(address.to_bits()),
    }
}
