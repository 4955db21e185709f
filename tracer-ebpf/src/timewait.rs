//! Minisockets: their timers, and the segments that they handle.
//!
//! `inet_sock_set_state` never shows TIME_WAIT. The minisocket that holds the tuple is found behind
//! its timer, which is known by its handler, and as the receiver of the segments that it frees.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_probe_read_kernel};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext};
use tracer_common::event::{Hook, Kind, Minisocket, V4, V6, flags};
use tracer_common::layout::{ABSENT, MINISOCKET_COPY};
use tracer_common::tcp::TcpState;

use crate::context;
use crate::emit::{Subject, emit};
use crate::maps::constant;
use crate::sock::{AF_INET6, Net, Ports, is_v4_mapped, load, ports, probe, v4};
use crate::twice::{Pass, Sighting, low_half};

/// `timer_start(timer, …)`, `timer_cancel(timer)`, `timer_expire_entry(timer, …)`.
#[inline(always)]
pub fn on_timer(ctx: &BtfTracePointContext, kind: Kind) {
    let timer: *const u8 = ctx.arg(0);
    // SAFETY: the tracepoint's argument is typed.
    let function: u64 = unsafe { load(timer, constant!(OFFSETS.timer_function)) };
    if function != constant!(TW_TIMER_HANDLER) {
        return;
    }
    // SAFETY: as above.
    let expires: u64 = unsafe { load(timer, constant!(OFFSETS.timer_expires)) };
    let address = (timer as u64).wrapping_sub(constant!(OFFSETS.tw_timer).into());
    let mut place = Copied::place();
    if let Some(minisocket) = place.at(address) {
        minisocket.emit(kind, Pass::First, address, expires, Segment::default());
    }
}

/// After `__inet_twsk_schedule(tw, timeo, rearm)`: the timer's end is the new one, also where the
/// timer stayed in its bucket of the wheel and `timer_start` is silent.
#[inline(always)]
pub fn on_schedule(ctx: &FExitContext) {
    let address = ctx.arg::<u64>(0);
    let mut place = Copied::place();
    if let Some(minisocket) = place.at(address)
        && let Some(expires) = expires(address)
    {
        minisocket.emit(
            Kind::Schedule,
            Pass::First,
            address,
            expires,
            Segment::default(),
        );
    }
}

/// The end of a minisocket's timer, in jiffies.
#[inline(always)]
fn expires(address: u64) -> Option<u64> {
    probe(
        address
            + u64::from(constant!(OFFSETS.tw_timer))
            + u64::from(constant!(OFFSETS.timer_expires)),
    )
}

/// What a segment brought to a minisocket.
#[derive(Clone, Copy, Default)]
struct Segment {
    tcp_flags: u8,
    payload: u16,
}

/// `kfree_skb(skb, location, reason, rx_sk)`, 6.11 and later.
#[inline(always)]
pub fn on_segment(ctx: &BtfTracePointContext, pass: Pass) {
    let address = ctx.arg::<u64>(3);
    let skb: *const u8 = ctx.arg(0);
    // Buffers have no cookie and come again within microseconds; seldom for the same receiver, from
    // the same place, with the same length.
    // SAFETY: the tracepoint's argument is typed.
    let length: u32 = unsafe { load(skb, constant!(OFFSETS.skb_len)) };
    let receiver = low_half(address as *const u8);
    let seen = Sighting {
        hook: Hook::Segment,
        object: skb,
        detail: ctx.arg::<u64>(1) as u16,
        cookie: (u64::from(length) << 32) | u64::from(receiver),
    };
    if !pass.is_mine(&seen) {
        return;
    }
    if address == 0
        || probe(address + u64::from(constant!(OFFSETS.state))) != Some(TcpState::TimeWait as u8)
    {
        pass.is_foreign(Hook::Segment);
        return;
    }
    let mut place = Copied::place();
    let Some(minisocket) = place.at(address) else {
        return;
    };
    let Some(expires) = expires(address) else {
        return;
    };
    minisocket.emit(Kind::Segment, pass, address, expires, segment(skb));
}

/// The TCP header's flags and the payload behind it. By the time a minisocket frees a segment, its
/// data begins with the TCP header.
#[inline(always)]
fn segment(skb: *const u8) -> Segment {
    // SAFETY: the tracepoint's argument is typed.
    let (head, transport, length): (u64, u16, u32) = unsafe {
        (
            load(skb, constant!(OFFSETS.skb_head)),
            load(skb, constant!(OFFSETS.skb_transport)),
            load(skb, constant!(OFFSETS.skb_len)),
        )
    };
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
    fn load<T>(&self, offset: u32) -> T {
        // SAFETY: see above; the verifier refuses the program otherwise.
        unsafe {
            self.0
                .as_ptr()
                .add(offset as usize)
                .cast::<T>()
                .read_volatile()
        }
    }

    /// `skc_family`.
    #[inline(always)]
    pub fn family(&self) -> u16 {
        self.load(constant!(OFFSETS.family))
    }

    /// `skc_state`.
    #[inline(always)]
    pub fn state(&self) -> u8 {
        self.load(constant!(OFFSETS.state))
    }

    /// `skc_cookie`; 0: it has none.
    #[inline(always)]
    pub fn cookie(&self) -> u64 {
        self.load(constant!(OFFSETS.cookie))
    }

    /// The ports.
    #[inline(always)]
    pub fn ports(&self) -> Ports {
        ports(self.load(constant!(OFFSETS.port_pair)))
    }

    /// IPv4 addresses.
    #[inline(always)]
    pub fn v4(&self) -> V4 {
        v4(self.load(constant!(OFFSETS.address_pair)))
    }

    /// IPv6 addresses, or `None` where they are v4-mapped.
    #[inline(always)]
    pub fn v6(&self) -> Option<V6> {
        if constant!(OFFSETS.v6_peer) == ABSENT {
            return None;
        }
        let peer = self.load(constant!(OFFSETS.v6_peer));
        let local = self.load(constant!(OFFSETS.v6_local));
        let addresses = V6 { local, peer };
        (!is_v4_mapped(&addresses)).then_some(addresses)
    }

    /// The network namespace.
    #[inline(always)]
    pub fn net(&self) -> Net {
        let net: u64 = self.load(constant!(OFFSETS.net));
        Net {
            cookie: probe(net + u64::from(constant!(OFFSETS.net_cookie))).unwrap_or(0),
            inode: probe(net + u64::from(constant!(OFFSETS.net_inode))).unwrap_or(0),
        }
    }

    /// Whether the network namespace is being taken down.
    #[inline(always)]
    fn is_net_dying(&self) -> bool {
        if constant!(OFFSETS.net_count) == ABSENT {
            return false;
        }
        let net: u64 = self.load(constant!(OFFSETS.net));
        probe::<u32>(net + u64::from(constant!(OFFSETS.net_count))) == Some(0)
    }

    #[inline(always)]
    fn emit(&self, kind: Kind, pass: Pass, address: u64, expires: u64, segment: Segment) {
        let mut bits = context::flags();
        if self.is_net_dying() {
            bits |= flags::NETNS_DYING;
        }
        if kind as u8 == Kind::TimerCancel as u8 && bits & flags::IN_TASK != 0 {
            bits |= context::sending();
        }
        let subject = pass.signs(Subject {
            family: 4,
            flags: bits,
            net: self.net(),
        });
        if self.family() == AF_INET6
            && let Some(addresses) = self.v6()
        {
            emit(
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
            emit(kind, subject, |record| {
                self.fill(record, address, expires, segment, self.v4());
            });
        }
    }

    #[inline(always)]
    fn fill<A>(
        &self,
        record: *mut Minisocket<A>,
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
            (*record).entry_stamp_ms = if constant!(OFFSETS.tw_entry_stamp) == ABSENT {
                0
            } else {
                self.load(constant!(OFFSETS.tw_entry_stamp))
            };
            (*record).tid = bpf_get_current_pid_tgid() as u32;
            (*record).substate = self.load(constant!(OFFSETS.tw_substate));
            (*record).tcp_flags = segment.tcp_flags;
            (*record).payload = segment.payload;
            (*record).local_port = ports.local;
            (*record).peer_port = ports.peer;
            (*record).addresses = addresses;
        }
    }
}
