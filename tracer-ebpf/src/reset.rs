//! `tcp_receive_reset` and `tcp_send_reset`.

use core::ptr::addr_of_mut;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::BtfTracePointContext;
use tracer_common::event::{Hook, Kind, Reset};

use crate::emit::{Desk, Subject};
use crate::fields::field;
use crate::maps::constant;
use crate::sock::{AF_INET6, Addresses, Ports, Sock};
use crate::timewait::Copied;
use crate::twice::{Pass, Sighting, is_foreign, is_mine};

/// `tcp_receive_reset(sk)`.
#[inline(always)]
pub fn on_receive_reset<P: Pass>(ctx: &BtfTracePointContext) {
    let Some(desk) = Desk::here() else {
        return;
    };
    let sock = Sock::new(ctx.arg(0));
    let cookie = sock.cookie();
    let seen = Sighting {
        hook: Hook::ResetReceived,
        context: ctx.as_ptr().cast(),
        object: sock.pointer(),
        detail: 0,
        cookie,
    };
    if !is_mine::<P>(desk, &seen) {
        return;
    }
    let family = sock.family();
    let subject = Subject {
        family: 4,
        flags: sock.flags(family),
        net: sock.net(),
    };
    let facts = Facts {
        address: sock.address(),
        cookie,
        state: field!(sock, state),
        ports: sock.ports(),
        answers_segment: false,
        reason: 0,
    };
    match sock.v6(family) {
        Some(addresses) => {
            desk.emit::<_, P>(
                Kind::ResetReceived,
                Subject {
                    family: 6,
                    ..subject
                },
                |record| {
                    fill(record, facts, addresses);
                },
            );
        }
        None => desk.emit::<_, P>(Kind::ResetReceived, subject, |record| {
            fill(record, facts, sock.v4())
        }),
    }
}

/// `tcp_send_reset(sk, skb)`, from 6.10 `(sk, skb, reason)`. Without a socket there is no
/// connection of ours.
#[inline(always)]
pub fn on_send_reset<P: Pass>(ctx: &BtfTracePointContext) {
    let Some(desk) = Desk::here() else {
        return;
    };
    let address = ctx.arg::<u64>(0);
    let object = address as *const u8;
    let seen = Sighting {
        hook: Hook::ResetSent,
        context: ctx.as_ptr().cast(),
        object,
        detail: 0,
        cookie: 0,
    };
    if !is_mine::<P>(desk, &seen) {
        return;
    }
    let mut place = Copied::place();
    let Some(sock) = place.at(address) else {
        is_foreign::<P>(desk, Hook::ResetSent);
        return;
    };
    let family = sock.family();
    let subject = Subject {
        family: 4,
        flags: 0,
        net: sock.net(),
    };
    let facts = Facts {
        address,
        cookie: sock.cookie(),
        state: sock.state(),
        ports: sock.ports(),
        answers_segment: ctx.arg::<u64>(1) != 0,
        reason: if constant!(SEND_RESET_ARGUMENTS) > 2 {
            third_argument(ctx) + 1
        } else {
            0
        },
    };
    if family == AF_INET6
        && let Some(addresses) = sock.v6()
    {
        desk.emit::<_, P>(
            Kind::ResetSent,
            Subject {
                family: 6,
                ..subject
            },
            |record| {
                fill(record, facts, addresses);
            },
        );
    } else {
        desk.emit::<_, P>(Kind::ResetSent, subject, |record| {
            fill(record, facts, sock.v4())
        });
    }
}

/// The reason, read so that the compiler cannot move the load before the test of the number of
/// arguments: a kernel without it would refuse the program.
#[inline(always)]
fn third_argument(ctx: &BtfTracePointContext) -> u32 {
    // SAFETY: the context holds a word for each argument.
    unsafe { ctx.as_ptr().cast::<u64>().add(2).read_volatile() as u32 }
}

#[derive(Clone, Copy)]
struct Facts {
    address: u64,
    cookie: u64,
    state: u8,
    ports: Ports,
    answers_segment: bool,
    reason: u32,
}

#[inline(always)]
fn fill<A: Addresses>(record: *mut Reset<A::Wire>, facts: Facts, addresses: A) {
    // SAFETY: the place is as large as the record.
    unsafe {
        (*record).socket = facts.address;
        (*record).cookie = facts.cookie;
        (*record).state = facts.state;
        (*record).answers_segment = facts.answers_segment.into();
        (*record).padding = 0;
        (*record).local_port = facts.ports.local;
        (*record).peer_port = facts.ports.peer;
        (*record).reason = facts.reason;
        (*record).padding2 = 0;
        addresses.write(addr_of_mut!((*record).addresses));
    }
}
