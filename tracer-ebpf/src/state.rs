//! `inet_sock_set_state`: every transition, why a socket came to CLOSE, and who acts.

use core::ptr::addr_of_mut;

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::debug;
use tracer_common::event::{Close, CloseFacts, Hook, Kind, Task, Transition, V4, V6, flags, marks};
use tracer_common::layout::ABSENT;
use tracer_common::tcp::TcpState;

use crate::context;
use crate::emit::{Subject, emit};
use crate::maps::constant;
use crate::sock::{IPPROTO_TCP, Ports, Sock, Tcp, load};
use crate::twice::{Pass, Sighting};

const ESTABLISHED: u8 = TcpState::Established as u8;
const SYN_SENT: u8 = TcpState::SynSent as u8;
const SYN_RECV: u8 = TcpState::SynRecv as u8;
const FIN_WAIT1: u8 = TcpState::FinWait1 as u8;
const FIN_WAIT2: u8 = TcpState::FinWait2 as u8;
const CLOSE: u8 = TcpState::Close as u8;
const CLOSE_WAIT: u8 = TcpState::CloseWait as u8;
const LAST_ACK: u8 = TcpState::LastAck as u8;
const LISTEN: u8 = TcpState::Listen as u8;

/// SOCK_DEAD, SOCK_DONE, SOCK_KEEPOPEN and SOCK_LINGER of `enum sock_flags`, in that order: bits of
/// `sk_flags` and our marks for them. The loader checks the numbers against BTF.
const SOCK_FLAGS: [(u64, u16); 4] = [
    (1 << 0, marks::DEAD),
    (1 << 1, marks::DONE),
    (1 << 3, marks::KEEP_OPEN),
    (1 << 4, marks::LINGER),
];

/// One state change.
#[derive(Clone, Copy)]
struct Change {
    sock: Sock,
    cookie: u64,
    old: u8,
    new: u8,
    detail: u8,
    ports: Ports,
}

/// `inet_sock_set_state(sk, oldstate, newstate)`.
#[inline(always)]
pub fn on_set_state(ctx: &BtfTracePointContext, pass: Pass) {
    let sock = Sock::new(ctx.arg(0));
    let old = ctx.arg::<i32>(1) as u8;
    let new = ctx.arg::<i32>(2) as u8;
    let cookie = sock.cookie();
    let seen = Sighting {
        hook: Hook::State,
        object: sock.pointer(),
        detail: u16::from_ne_bytes([old, new]),
        cookie,
    };
    if !pass.is_mine(&seen) {
        return;
    }
    // Multipath TCP's master socket, SCTP and DCCP come by here too.
    if sock.load::<u16>(constant!(OFFSETS.protocol)) != IPPROTO_TCP {
        pass.is_foreign(Hook::State);
        return;
    }
    let family = sock.family();
    let mut change = Change {
        sock,
        // At LISTEN -> SYN_RECV it may still be the listener's (to 6.14): none is told.
        cookie: if old == LISTEN && new == SYN_RECV {
            0
        } else {
            cookie
        },
        old,
        new,
        detail: 0,
        ports: sock.ports(),
    };
    let mut subject = pass.signs(Subject {
        family: 4,
        flags: sock.flags(family),
        net: sock.net(),
    });
    // `v6` is asked for in each branch, behind the call: kept across it, an address that there is
    // not would be a read of unset stack, which the verifier refuses before Linux 6.3.
    if new == CLOSE {
        let Some(tcp) = sock.tcp() else {
            debug!(ctx, "a TCP socket at CLOSE is no tcp_sock");
            return;
        };
        subject.flags |= context::flags();
        if sock.is_net_dying() {
            subject.flags |= flags::NETNS_DYING;
        }
        // The port is unbound by now; the one in the header's copy stays.
        change.ports.local = u16::from_be(tcp.load(constant!(OFFSETS.source_port)));
        match sock.v6(family) {
            Some(addresses) => emit_close(subject, change, tcp, addresses),
            None => emit_close(subject, change, tcp, sock.v4()),
        }
    } else {
        change.detail = detail(&change);
        match sock.v6(family) {
            Some(addresses) => emit_transition(subject, change, addresses),
            None => emit_transition(subject, change, sock.v4()),
        }
    }
    if is_made_by_a_task(old, new, subject.flags) {
        emit_task(subject, &change);
    }
}

/// The address types of a record, and what its header calls them.
trait Addresses: Copy + 'static {
    const FAMILY: u8;
}

impl Addresses for V4 {
    const FAMILY: u8 = 4;
}

impl Addresses for V6 {
    const FAMILY: u8 = 6;
}

#[inline(always)]
fn emit_transition<A: Addresses>(subject: Subject, change: Change, addresses: A) {
    emit(
        Kind::Transition,
        Subject {
            family: A::FAMILY,
            ..subject
        },
        |record| {
            fill_transition(record, &change, addresses);
        },
    );
}

#[inline(always)]
fn fill_transition<A>(record: *mut Transition<A>, change: &Change, addresses: A) {
    // SAFETY: the place is as large as the record.
    unsafe {
        (*record).socket = change.sock.address();
        (*record).cookie = change.cookie;
        (*record).old = change.old;
        (*record).new = change.new;
        (*record).detail = change.detail;
        (*record).padding = 0;
        (*record).local_port = change.ports.local;
        (*record).peer_port = change.ports.peer;
        (*record).addresses = addresses;
    }
}

#[inline(always)]
fn emit_close<A: Addresses>(subject: Subject, change: Change, tcp: Tcp, addresses: A) {
    emit(
        Kind::Close,
        Subject {
            family: A::FAMILY,
            ..subject
        },
        |record: *mut Close<A>| {
            // SAFETY: the place is as large as the record.
            unsafe {
                fill_transition(addr_of_mut!((*record).transition), &change, addresses);
                fill_close_facts(addr_of_mut!((*record).facts), change.sock, tcp);
            }
        },
    );
}

/// What tells why, and the totals. Field by field into the ring: a structure made on the stack
/// would be copied there word by word.
///
/// # Safety
/// `facts` points to a place of that size.
#[inline(always)]
unsafe fn fill_close_facts(facts: *mut CloseFacts, sock: Sock, tcp: Tcp) {
    let done = sock.load::<u64>(constant!(OFFSETS.flags)) & (1 << 1) != 0;
    let rcv_nxt: u32 = tcp.load(constant!(OFFSETS.rcv_nxt));
    let copied_seq: u32 = tcp.load(constant!(OFFSETS.copied_seq));
    // SAFETY: by the caller's promise.
    unsafe {
        (*facts).error = sock.load::<u32>(constant!(OFFSETS.error)) as u16;
        (*facts).soft_error = sock.load::<u32>(constant!(OFFSETS.soft_error)) as u16;
        (*facts).marks = close_marks(sock, tcp);
        (*facts).retransmits = tcp.load(constant!(OFFSETS.retransmits));
        (*facts).probes_out = tcp.load(constant!(OFFSETS.probes_out));
        (*facts).linger2 = tcp.load(constant!(OFFSETS.linger2));
        (*facts).user_timeout_ms = tcp.load(constant!(OFFSETS.user_timeout));
        (*facts).unread = rcv_nxt.wrapping_sub(copied_seq).wrapping_sub(done.into());
        (*facts).segs_out = tcp.load(constant!(OFFSETS.segs_out));
        (*facts).segs_in = tcp.load(constant!(OFFSETS.segs_in));
        (*facts).total_retransmits = tcp.load(constant!(OFFSETS.total_retrans));
        (*facts).srtt_us = tcp.load::<u32>(constant!(OFFSETS.srtt)) >> 3;
        // struct minmax begins with its best sample: a time, then the value.
        (*facts).min_rtt_us = tcp.load(constant!(OFFSETS.rtt_min) + 4);
        (*facts).bytes_sent = tcp.load(constant!(OFFSETS.bytes_sent));
        (*facts).bytes_received = tcp.load(constant!(OFFSETS.bytes_received));
        (*facts).cgroup = cgroup(sock);
        (*facts).uid = sock.load(constant!(OFFSETS.uid));
        (*facts).shutdown = sock.load(constant!(OFFSETS.shutdown));
        (*facts).padding = [0; 3];
    }
}

/// The one-bit facts.
#[inline(always)]
fn close_marks(sock: Sock, tcp: Tcp) -> u16 {
    let sock_flags: u64 = sock.load(constant!(OFFSETS.flags));
    let mut bits = 0;
    for (flag, mark) in SOCK_FLAGS {
        if sock_flags & flag != 0 {
            bits |= mark;
        }
    }
    if sock.load::<u64>(constant!(OFFSETS.linger_time)) == 0 {
        bits |= marks::LINGER_ZERO;
    }
    if sock.load::<u64>(constant!(OFFSETS.socket)) == 0 {
        bits |= marks::NO_SOCKET;
    }
    if tcp.load::<u8>(constant!(OFFSETS.repair)) & constant!(REPAIR_MASK) != 0 {
        bits |= marks::REPAIR;
    }
    if tcp.load::<u8>(constant!(OFFSETS.timestamps)) & constant!(TIMESTAMPS_MASK) != 0 {
        bits |= marks::TIMESTAMPS;
    }
    if tcp.load::<u32>(constant!(OFFSETS.snd_una)) == tcp.load::<u32>(constant!(OFFSETS.write_seq))
    {
        bits |= marks::ALL_ACKED;
    }
    if sock.load::<u8>(constant!(OFFSETS.user_locks)) & constant!(PORT_LOCK_MASK) != 0 {
        bits |= marks::PORT_BOUND;
    }
    bits
}

/// Id of the socket's cgroup; 0 where the kernel has none.
#[inline(always)]
fn cgroup(sock: Sock) -> u64 {
    if constant!(OFFSETS.cgroup) == ABSENT
        || constant!(OFFSETS.cgroup_node) == ABSENT
        || constant!(OFFSETS.node_id) == ABSENT
    {
        return 0;
    }
    let cgroup: *const u8 = sock.load(constant!(OFFSETS.cgroup));
    // SAFETY: the verifier follows the typed pointers, and the kernel makes the loads safe.
    unsafe {
        let node: *const u8 = load(cgroup, constant!(OFFSETS.cgroup_node));
        load(node, constant!(OFFSETS.node_id))
    }
}

/// See [`Transition::detail`].
#[inline(always)]
fn detail(change: &Change) -> u8 {
    match (change.old, change.new) {
        (SYN_SENT, _) => change.sock.tcp().map_or(0, |tcp| {
            tcp.load::<u32>(constant!(OFFSETS.total_retrans)).min(255) as u8
        }),
        (FIN_WAIT1, FIN_WAIT2) => change
            .sock
            .tcp()
            .map_or(0, |tcp| tcp.load::<u32>(constant!(OFFSETS.segs_in)) as u8),
        _ => 0,
    }
}

/// Whether the current task can be the one that acts: system calls make these edges, or hold the
/// socket's lock while they reach CLOSE from where nobody had closed yet.
#[inline(always)]
fn is_made_by_a_task(old: u8, new: u8, bits: u16) -> bool {
    match (old, new) {
        (CLOSE, SYN_SENT | LISTEN)
        | (LISTEN, CLOSE)
        | (ESTABLISHED | SYN_RECV, FIN_WAIT1)
        | (CLOSE_WAIT, LAST_ACK) => true,
        (ESTABLISHED | SYN_SENT | SYN_RECV | CLOSE_WAIT, CLOSE) => bits & flags::OWNED != 0,
        _ => false,
    }
}

#[inline(always)]
fn emit_task(subject: Subject, change: &Change) {
    emit(
        Kind::Task,
        Subject {
            family: 0,
            ..subject
        },
        |record: *mut Task| {
            let id = bpf_get_current_pid_tgid();
            // SAFETY: the place is as large as the record; the helpers write what they are told.
            unsafe {
                (*record).socket = change.sock.address();
                (*record).cookie = change.cookie;
                (*record).pid = (id >> 32) as u32;
                (*record).tid = id as u32;
                (*record).uid = change.sock.load(constant!(OFFSETS.uid));
                (*record).old = change.old;
                (*record).new = change.new;
                (*record).padding = 0;
                (*record).cgroup = cgroup(change.sock);
                context::write_names(addr_of_mut!((*record).comm), addr_of_mut!((*record).name));
            }
        },
    );
}
