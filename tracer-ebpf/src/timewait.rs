//! Minisockets: their timers, and the segments that they handle.
//!
//! `inet_sock_set_state` never shows TIME_WAIT. The minisocket that holds the tuple is found behind
//! its timer, which is known by its handler, and as the receiver of the segments that it frees.

use core::mem::MaybeUninit;
use core::ptr::addr_of_mut;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_probe_read_kernel};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext};
use tracer_common::event::{Hook, Kind, Minisocket, V6, flags};
use tracer_common::layout::{ABSENT, MINISOCKET_COPY};
use tracer_common::tcp::TcpState;

use crate::context;
use crate::emit::{Desk, Subject};
use crate::fields::{Typed, Word, field, handler, offset};
use crate::sock::{AF_INET6, Addresses, Net, Pair, Ports, is_v4_mapped, ports, probe};
use crate::twice::{First, Pass, Sighting, is_foreign, is_mine, low_half};

/// `timer_start(timer, …)`, `timer_cancel(timer)`, `timer_expire_entry(timer, …)`. Most timers are
/// not ours: what is for those that are stands apart, so that nothing is made ready for it here.
#[inline(always)]
pub fn on_timer(ctx: &BtfTracePointContext, on_minisocket: impl FnOnce(Typed)) {
    let timer = Typed::new(ctx.arg(0));
    let function: u64 = field!(timer, timer_function);
    if function == handler() {
        on_minisocket(timer);
    }
}

/// A minisocket's timer is started.
#[inline(never)]
pub fn on_start(timer: Typed) {
    on_minisocket_timer::<{ Kind::TimerStart as u8 }>(timer);
}

/// A minisocket's timer is taken off the wheel.
#[inline(never)]
pub fn on_cancel(timer: Typed) {
    on_minisocket_timer::<{ Kind::TimerCancel as u8 }>(timer);
}

/// A minisocket's timer expires.
#[inline(never)]
pub fn on_expire(timer: Typed) {
    on_minisocket_timer::<{ Kind::TimerExpire as u8 }>(timer);
}

#[inline(always)]
fn on_minisocket_timer<const KIND: u8>(timer: Typed) {
    let Some(desk) = Desk::here() else {
        return;
    };
    let expires: u64 = field!(timer, timer_expires);
    let address = (timer.pointer() as u64).wrapping_sub(offset!(tw_timer).into());
    let mut place = Copied::place();
    if let Some(minisocket) = place.at(address) {
        minisocket.emit::<KIND, First>(desk, address, expires, Segment::default());
    }
}

/// After `__inet_twsk_schedule(tw, timeo, rearm)`: the timer's end is the new one, also where the
/// timer stayed in its bucket of the wheel and `timer_start` is silent.
#[inline(always)]
pub fn on_schedule(ctx: &FExitContext) {
    let Some(desk) = Desk::here() else {
        return;
    };
    let address = ctx.arg::<u64>(0);
    let mut place = Copied::place();
    if let Some(minisocket) = place.at(address)
        && let Some(expires) = expires(address)
    {
        minisocket.emit::<{ Kind::Schedule as u8 }, First>(
            desk,
            address,
            expires,
            Segment::default(),
        );
    }
}

/// The end of a minisocket's timer, in jiffies.
#[inline(always)]
fn expires(address: u64) -> Option<u64> {
    probe(address + u64::from(offset!(tw_timer)) + u64::from(offset!(timer_expires)))
}

/// What a segment brought to a minisocket.
#[derive(Clone, Copy, Default)]
struct Segment {
    tcp_flags: u8,
    payload: u16,
}

/// `kfree_skb(skb, location, reason, rx_sk)`, 6.11 and later.
#[inline(always)]
pub fn on_segment<P: Pass>(ctx: &BtfTracePointContext) {
    let Some(desk) = Desk::here() else {
        return;
    };
    let address = ctx.arg::<u64>(3);
    let skb = Typed::new(ctx.arg(0));
    // Buffers have no cookie and come again within microseconds; seldom for the same receiver, from
    // the same place, with the same length.
    let length: u32 = field!(skb, skb_len);
    let receiver = low_half(address as *const u8);
    let seen = Sighting {
        hook: Hook::Segment,
        context: ctx.as_ptr().cast(),
        object: skb.pointer(),
        detail: ctx.arg::<u64>(1) as u16,
        cookie: (u64::from(length) << 32) | u64::from(receiver),
    };
    if !is_mine::<P>(desk, &seen) {
        return;
    }
    if address == 0 || probe(address + u64::from(offset!(state))) != Some(TcpState::TimeWait as u8)
    {
        is_foreign::<P>(desk, Hook::Segment);
        return;
    }
    let mut place = Copied::place();
    let Some(minisocket) = place.at(address) else {
        return;
    };
    let Some(expires) = expires(address) else {
        return;
    };
    minisocket.emit::<{ Kind::Segment as u8 }, P>(desk, address, expires, segment(skb));
}

/// The TCP header's flags and the payload behind it. By the time a minisocket frees a segment, its
/// data begins with the TCP header.
#[inline(always)]
fn segment(skb: Typed) -> Segment {
    let (head, transport, length): (u64, u16, u32) = (
        field!(skb, skb_head),
        field!(skb, skb_transport),
        field!(skb, skb_len),
    );
    let Some(word) = probe::<[u8; 2]>(head + u64::from(transport) + 12) else {
        return Segment::default();
    };
    let header = u32::from(word[0] >> 4) * 4;
    Segment {
        tcp_flags: word[1],
        payload: length.saturating_sub(header).min(0xffff) as u16,
    }
}

/// A copy of the beginning of a socket whose pointer the verifier does not know.
pub struct Copied([MaybeUninit<u8>; MINISOCKET_COPY as usize]);

impl Copied {
    /// A place on the stack; it is too large to be moved about there.
    #[inline(always)]
    pub const fn place() -> Self {
        Self([const { MaybeUninit::uninit() }; MINISOCKET_COPY as usize])
    }

    /// Copies into the place; `None` where the address faults, as NULL does.
    #[inline(always)]
    pub fn at(&mut self, address: u64) -> Option<&Self> {
        // SAFETY: the destination is that large; the helper checks the source.
        let result = unsafe {
            bpf_probe_read_kernel(
                self.0.as_mut_ptr().cast(),
                MINISOCKET_COPY,
                address as *const _,
            )
        };
        (result == 0).then_some(self)
    }

    /// Loads a field that lies within the copy: the loader checks that all that are used do.
    #[inline(always)]
    fn load<T: Word, const AT: i16>(&self) -> T {
        // SAFETY: see above; the verifier refuses the program otherwise.
        unsafe { T::load::<AT>(self.0.as_ptr().cast()) }
    }

    /// `skc_family`.
    #[inline(always)]
    pub fn family(&self) -> u16 {
        field!(self, family)
    }

    /// `skc_state`.
    #[inline(always)]
    pub fn state(&self) -> u8 {
        field!(self, state)
    }

    /// `skc_cookie`; 0: it has none.
    #[inline(always)]
    pub fn cookie(&self) -> u64 {
        field!(self, cookie)
    }

    /// The ports.
    #[inline(always)]
    pub fn ports(&self) -> Ports {
        ports(field!(self, port_pair))
    }

    /// IPv4 addresses.
    #[inline(always)]
    pub fn v4(&self) -> Pair {
        Pair::new(field!(self, address_pair))
    }

    /// IPv6 addresses, or `None` where they are v4-mapped.
    #[inline(always)]
    pub fn v6(&self) -> Option<V6> {
        if offset!(v6_peer) == ABSENT {
            return None;
        }
        let addresses = V6 {
            local: [
                field!(self, v6_local),
                field!(self, v6_local, 1),
                field!(self, v6_local, 2),
                field!(self, v6_local, 3),
            ],
            peer: [
                field!(self, v6_peer),
                field!(self, v6_peer, 1),
                field!(self, v6_peer, 2),
                field!(self, v6_peer, 3),
            ],
        };
        (!is_v4_mapped(&addresses)).then_some(addresses)
    }

    /// The network namespace.
    #[inline(always)]
    pub fn net(&self) -> Net {
        let net: u64 = field!(self, net);
        Net {
            cookie: probe(net + u64::from(offset!(net_cookie))).unwrap_or(0),
            inode: probe(net + u64::from(offset!(net_inode))).unwrap_or(0),
        }
    }

    /// Whether the network namespace is being taken down.
    #[inline(always)]
    fn is_net_dying(&self) -> bool {
        if offset!(net_count) == ABSENT {
            return false;
        }
        let net: u64 = field!(self, net);
        probe::<u32>(net + u64::from(offset!(net_count))) == Some(0)
    }

    #[inline(always)]
    fn emit<const KIND: u8, P: Pass>(
        &self,
        desk: Desk,
        address: u64,
        expires: u64,
        segment: Segment,
    ) {
        let kind = const { Kind::ALL[KIND as usize - 1] };
        let mut bits = 0;
        // Who ends a TIME_WAIT is asked at its end alone: each of these follows pointers.
        if KIND == Kind::TimerCancel as u8 {
            bits = context::flags();
            if self.is_net_dying() {
                bits |= flags::NETNS_DYING;
            }
            if bits & flags::IN_TASK != 0 {
                bits |= context::sending();
            }
        }
        let subject = Subject {
            family: 4,
            flags: bits,
            net: self.net(),
        };
        if self.family() == AF_INET6
            && let Some(addresses) = self.v6()
        {
            desk.emit::<_, P>(
                kind,
                Subject {
                    family: 6,
                    ..subject
                },
                |record| {
                    self.fill(record, address, expires, segment, addresses);
                },
            );
        } else {
            desk.emit::<_, P>(kind, subject, |record| {
                self.fill(record, address, expires, segment, self.v4());
            });
        }
    }

    #[inline(always)]
    fn fill<A: Addresses>(
        &self,
        record: *mut Minisocket<A::Wire>,
        address: u64,
        expires: u64,
        segment: Segment,
        addresses: A,
    ) {
        let ports = self.ports();
        // SAFETY: the place is as large as the record; the helpers have no preconditions.
        unsafe {
            (*record).socket = address;
            (*record).cookie = self.cookie();
            (*record).expires = expires;
            (*record).jiffies = bpf_jiffies64();
            (*record).entry_stamp_ms = if offset!(tw_entry_stamp) == ABSENT {
                0
            } else {
                field!(self, tw_entry_stamp)
            };
            (*record).tid = bpf_get_current_pid_tgid() as u32;
            (*record).substate = field!(self, tw_substate);
            (*record).tcp_flags = segment.tcp_flags;
            (*record).payload = segment.payload;
            (*record).local_port = ports.local;
            (*record).peer_port = ports.peer;
            addresses.write(addr_of_mut!((*record).addresses));
        }
    }
}
