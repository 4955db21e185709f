//! `inet_sock_set_state`: every transition, why a socket came to CLOSE, and who acts.

use core::arch::asm;
use core::ffi::c_void;
use core::ptr::addr_of_mut;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::debug;
use tracer_common::event::{
    Account, Close, CloseFacts, Hook, Kind, Task, Transition, flags, marks,
};
use tracer_common::layout::ABSENT;
use tracer_common::tcp::TcpState;

use crate::context;
use crate::emit::{Desk, Subject};
use crate::fields::{Typed, field, offset};
use crate::maps::constant;
use crate::sock::{Addresses, IPPROTO_TCP, Ports, Sock, is_net_dying};
use crate::twice::{First, Pass, Second, Sighting, is_foreign, is_mine};

const ESTABLISHED: u8 = TcpState::Established as u8;
const SYN_SENT: u8 = TcpState::SynSent as u8;
const SYN_RECV: u8 = TcpState::SynRecv as u8;
const FIN_WAIT1: u8 = TcpState::FinWait1 as u8;
const FIN_WAIT2: u8 = TcpState::FinWait2 as u8;
const CLOSE: u8 = TcpState::Close as u8;
const CLOSE_WAIT: u8 = TcpState::CloseWait as u8;
const LAST_ACK: u8 = TcpState::LastAck as u8;
const LISTEN: u8 = TcpState::Listen as u8;

/// SOCK_DEAD, SOCK_DONE, SOCK_KEEPOPEN and SOCK_LINGER of `enum sock_flags`, in that order: numbers of
/// the bits in `sk_flags`, and our marks for them. The loader checks the numbers against BTF.
const SOCK_FLAGS: [(u32, u16); 4] = [
    (0, marks::DEAD),
    (1, marks::DONE),
    (3, marks::KEEP_OPEN),
    (4, marks::LINGER),
];

/// One state change.
#[derive(Clone, Copy)]
struct Change {
    sock: Sock,
    cookie: u64,
    old: u8,
    new: u8,
    detail: u8,
    /// Of the socket; 0 where nothing tells it.
    cgroup: u64,
}

impl Change {
    /// What the arguments tell, and the cookie.
    #[inline(always)]
    fn of(ctx: &BtfTracePointContext) -> Self {
        let sock = Sock::new(ctx.arg(0));
        Self {
            sock,
            cookie: sock.cookie(),
            old: ctx.arg::<i32>(1) as u8,
            new: ctx.arg::<i32>(2) as u8,
            detail: 0,
            cgroup: 0,
        }
    }
}

/// `inet_sock_set_state(sk, oldstate, newstate)`, in the first program.
#[inline(always)]
pub fn on_set_state(ctx: &BtfTracePointContext) {
    if let Some((desk, change)) = sight::<First>(ctx) {
        report::<First>(ctx, desk, change);
    }
}

/// The same in the second: what there is to report stands apart, so that nothing is made ready for
/// it where there is nothing.
#[inline(always)]
pub fn on_missed_set_state(ctx: &BtfTracePointContext) {
    if let Some((desk, _)) = sight::<Second>(ctx) {
        report_missed(ctx.as_ptr(), desk.account());
    }
}

#[inline(never)]
fn report_missed(ctx: *mut c_void, account: *mut Account) {
    let ctx = BtfTracePointContext::new(ctx);
    report::<Second>(&ctx, Desk::at(account), Change::of(&ctx));
}

/// The change, where the program `P` is the one to report it.
#[inline(always)]
fn sight<P: Pass>(ctx: &BtfTracePointContext) -> Option<(Desk, Change)> {
    let desk = Desk::here()?;
    let change = Change::of(ctx);
    let seen = Sighting {
        hook: Hook::State,
        context: ctx.as_ptr().cast(),
        object: change.sock.pointer(),
        detail: u16::from_ne_bytes([change.old, change.new]),
        cookie: change.cookie,
    };
    is_mine::<P>(desk, &seen).then_some((desk, change))
}

#[inline(always)]
fn report<P: Pass>(ctx: &BtfTracePointContext, desk: Desk, mut change: Change) {
    let Change { sock, old, new, .. } = change;
    // Multipath TCP's master socket, SCTP and DCCP come by here too.
    let protocol: u16 = field!(sock, protocol);
    if protocol != IPPROTO_TCP {
        is_foreign::<P>(desk, Hook::State);
        return;
    }
    let family = sock.family();
    // At LISTEN -> SYN_RECV it may still be the listener's (to 6.14): none is told.
    if old == LISTEN && new == SYN_RECV {
        change.cookie = 0;
    }
    let net = sock.net_pointer();
    let mut subject = Subject {
        family: 4,
        flags: sock.flags(family),
        net,
    };
    let is_by_task = is_made_by_a_task(old, new, subject.flags);
    // Here, once for all records that bear it: see `net_pointer`.
    if is_by_task || new == CLOSE {
        change.cgroup = cgroup(sock);
    }
    if new == CLOSE {
        let Some(tcp) = sock.tcp() else {
            debug!(ctx, "a TCP socket at CLOSE is no tcp_sock");
            return;
        };
        if is_net_dying(net) {
            subject.flags |= flags::NETNS_DYING;
        }
        let socket: u64 = field!(sock, socket);
        let marks = if socket == 0 { marks::NO_SOCKET } else { 0 };
        match sock.v6(family) {
            Some(addresses) => emit_close::<P, _>(desk, subject, change, tcp, marks, addresses),
            None => emit_close::<P, _>(desk, subject, change, tcp, marks, sock.v4()),
        }
        if is_by_task {
            desk.emit::<_, P>(Kind::Task, about_no_address(subject), |record| {
                fill_task(record, &change);
            });
        }
    } else {
        change.detail = detail(&change);
        match sock.v6(family) {
            Some(addresses) => {
                emit_transition::<P, _>(desk, subject, change, addresses, is_by_task)
            }
            None => emit_transition::<P, _>(desk, subject, change, sock.v4(), is_by_task),
        }
    }
}

/// A task's record bears no addresses.
#[inline(always)]
fn about_no_address(subject: Subject<Typed>) -> Subject<Typed> {
    Subject {
        family: 0,
        ..subject
    }
}

#[inline(always)]
fn emit_transition<P: Pass, A: Addresses>(
    desk: Desk,
    subject: Subject<Typed>,
    change: Change,
    addresses: A,
    is_by_task: bool,
) {
    let subject = Subject {
        family: A::FAMILY,
        ..subject
    };
    if is_by_task {
        desk.emit_with_task::<_, P>(
            Kind::Transition,
            subject,
            |record| fill_transition(record, &change, change.sock.ports(), addresses),
            |record| fill_task(record, &change),
        );
    } else {
        desk.emit::<_, P>(Kind::Transition, subject, |record| {
            fill_transition(record, &change, change.sock.ports(), addresses);
        });
    }
}

#[inline(always)]
fn fill_transition<A: Addresses>(
    record: *mut Transition<A::Wire>,
    change: &Change,
    ports: Ports,
    addresses: A,
) {
    // SAFETY: the place is as large as the record.
    unsafe {
        (*record).socket = change.sock.address();
        (*record).cookie = change.cookie;
        (*record).old = change.old;
        (*record).new = change.new;
        (*record).detail = change.detail;
        (*record).padding = 0;
        (*record).local_port = ports.local;
        (*record).peer_port = ports.peer;
        addresses.write(addr_of_mut!((*record).addresses));
    }
}

#[inline(always)]
fn emit_close<P: Pass, A: Addresses>(
    desk: Desk,
    subject: Subject<Typed>,
    change: Change,
    tcp: Typed,
    marks: u16,
    addresses: A,
) {
    desk.emit::<_, P>(
        Kind::Close,
        Subject {
            family: A::FAMILY,
            ..subject
        },
        |record: *mut Close<A::Wire>| {
            // SAFETY: the place is as large as the record.
            unsafe {
                // The port is unbound by now; the one in the header's copy stays.
                let ports = Ports {
                    local: u16::from_be(field!(tcp, source_port)),
                    peer: change.sock.ports().peer,
                };
                fill_transition(
                    addr_of_mut!((*record).transition),
                    &change,
                    ports,
                    addresses,
                );
                fill_close_facts(addr_of_mut!((*record).facts), &change, tcp, marks);
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
unsafe fn fill_close_facts(facts: *mut CloseFacts, change: &Change, tcp: Typed, marks: u16) {
    let sock = change.sock;
    let sock_flags: u64 = field!(sock, flags);
    let done = (sock_flags >> 1) as u32 & 1;
    let (error, soft_error): (u32, u32) = (field!(sock, error), field!(sock, soft_error));
    let srtt: u32 = field!(tcp, srtt);
    let rcv_nxt: u32 = field!(tcp, rcv_nxt);
    let copied_seq: u32 = field!(tcp, copied_seq);
    // SAFETY: by the caller's promise.
    unsafe {
        (*facts).error = error as u16;
        (*facts).soft_error = soft_error as u16;
        (*facts).marks = marks | close_marks(sock, tcp, sock_flags);
        (*facts).retransmits = field!(tcp, retransmits);
        (*facts).probes_out = field!(tcp, probes_out);
        (*facts).linger2 = field!(tcp, linger2);
        (*facts).user_timeout_ms = field!(tcp, user_timeout);
        (*facts).unread = rcv_nxt.wrapping_sub(copied_seq).wrapping_sub(done);
        (*facts).segs_out = field!(tcp, segs_out);
        (*facts).segs_in = field!(tcp, segs_in);
        (*facts).total_retransmits = field!(tcp, total_retrans);
        (*facts).srtt_us = srtt >> 3;
        // struct minmax begins with its best sample: a time, then the value.
        (*facts).min_rtt_us = field!(tcp, rtt_min, 1);
        (*facts).bytes_sent = field!(tcp, bytes_sent);
        (*facts).bytes_received = field!(tcp, bytes_received);
        (*facts).cgroup = change.cgroup;
        (*facts).uid = field!(sock, uid);
        // With the padding, whose three bytes would be a call of their own.
        let shutdown: u8 = field!(sock, shutdown);
        addr_of_mut!((*facts).shutdown)
            .cast::<u32>()
            .write(u32::from_ne_bytes([shutdown, 0, 0, 0]));
    }
}

/// The one-bit facts, without a branch for each: the verifier would walk every combination.
#[inline(always)]
fn close_marks(sock: Sock, tcp: Typed, sock_flags: u64) -> u16 {
    let mut bits = 0;
    for (flag, mark) in SOCK_FLAGS {
        bits |= (sock_flags >> flag & 1) << mark.trailing_zeros();
    }
    let mut mark_if = |is: u64, mark: u16| bits |= is << mark.trailing_zeros();
    let linger_time: u64 = field!(sock, linger_time);
    mark_if(is_zero(linger_time), marks::LINGER_ZERO);
    let (repair, timestamps): (u8, u8) = (field!(tcp, repair), field!(tcp, timestamps));
    mark_if(is_set(repair, constant!(REPAIR_MASK)), marks::REPAIR);
    mark_if(
        is_set(timestamps, constant!(TIMESTAMPS_MASK)),
        marks::TIMESTAMPS,
    );
    let (snd_una, write_seq): (u32, u32) = (field!(tcp, snd_una), field!(tcp, write_seq));
    mark_if(is_zero((snd_una ^ write_seq).into()), marks::ALL_ACKED);
    let user_locks: u8 = field!(sock, user_locks);
    mark_if(
        is_set(user_locks, constant!(PORT_LOCK_MASK)),
        marks::PORT_BOUND,
    );
    bits as u16
}

/// 1 if it is 0, else 0.
#[inline(always)]
fn is_zero(value: u64) -> u64 {
    // Hidden from the compiler, which would make the branch of it again.
    let borrow: u64;
    // SAFETY: turns one register's sign bit into a number.
    unsafe {
        asm!("{value} >>= 63", value = inlateout(reg) value | value.wrapping_neg() => borrow,
             options(pure, nomem, nostack));
    }
    borrow ^ 1
}

/// 1 if `byte` has the one bit of `mask`, else 0.
#[inline(always)]
fn is_set(byte: u8, mask: u8) -> u64 {
    is_zero((byte & mask).into()) ^ 1
}

/// Id of the socket's cgroup; 0 where the kernel has none.
#[inline(always)]
fn cgroup(sock: Sock) -> u64 {
    if offset!(cgroup) == ABSENT || offset!(cgroup_node) == ABSENT || offset!(node_id) == ABSENT {
        return 0;
    }
    let cgroup: Typed = field!(sock, cgroup);
    let node: Typed = field!(cgroup, cgroup_node);
    field!(node, node_id)
}

/// See [`Transition::detail`].
#[inline(always)]
fn detail(change: &Change) -> u8 {
    match (change.old, change.new) {
        (SYN_SENT, _) => change.sock.tcp().map_or(0, |tcp| {
            let retransmits: u32 = field!(tcp, total_retrans);
            retransmits.min(255) as u8
        }),
        (FIN_WAIT1, FIN_WAIT2) => change.sock.tcp().map_or(0, |tcp| {
            let segments: u32 = field!(tcp, segs_in);
            segments as u8
        }),
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
fn fill_task(record: *mut Task, change: &Change) {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    // SAFETY: the place is as large as the record.
    unsafe {
        (*record).socket = change.sock.address();
        (*record).cookie = change.cookie;
        (*record).pid = pid;
        (*record).tid = tid;
        (*record).uid = field!(change.sock, uid);
        (*record).old = change.old;
        (*record).new = change.new;
        (*record).padding = 0;
        (*record).cgroup = change.cgroup;
        context::write_names(
            addr_of_mut!((*record).comm),
            addr_of_mut!((*record).name),
            pid == tid,
        );
    }
}
