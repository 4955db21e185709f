//! Reads of the kernel's sockets.
//!
//! A tracepoint's typed argument is read by plain loads, which the verifier checks against BTF and
//! the kernel makes safe. A pointer that was computed, or that may be NULL without the verifier's
//! knowledge, is read by `bpf_probe_read_kernel` alone: on 6.2 to 6.12 the verifier believes
//! tcp_send_reset's and kfree_skb's sockets to be never NULL, and a plain load would then crash.

use core::ptr::addr_of_mut;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_skc_to_tcp_sock};
use tracer_common::event::{V4, V6, flags};
use tracer_common::layout::ABSENT;

use crate::fields::{Typed, Word, field, offset};

/// AF_INET.
pub const AF_INET: u16 = 2;
/// AF_INET6.
pub const AF_INET6: u16 = 10;
/// IPPROTO_TCP.
pub const IPPROTO_TCP: u16 = 6;

/// A network namespace.
#[derive(Clone, Copy)]
pub struct Net {
    /// `net_cookie`.
    pub cookie: u64,
    /// `ns.inum`.
    pub inode: u32,
}

impl From<Typed> for Net {
    /// Reads it where the pointer leads.
    #[inline(always)]
    fn from(net: Typed) -> Self {
        Self {
            cookie: field!(net, net_cookie),
            inode: field!(net, net_inode),
        }
    }
}

/// Whether the network namespace is being taken down.
#[inline(always)]
pub fn is_net_dying(net: Typed) -> bool {
    if offset!(net_count) == ABSENT {
        return false;
    }
    let holders: u32 = field!(net, net_count);
    holders == 0
}

/// Addresses and ports, as a record wants them.
#[derive(Clone, Copy)]
pub struct Ports {
    /// Local port, host order.
    pub local: u16,
    /// The other end's port, host order.
    pub peer: u16,
}

/// A tracepoint's typed `struct sock *`.
#[derive(Clone, Copy)]
pub struct Sock(Typed);

/// Copies from any kernel address; `None` where that faults.
#[inline(always)]
pub fn probe<T: Copy + Default>(address: u64) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the destination is a local of that size; the helper checks the source.
    let result = unsafe {
        bpf_probe_read_kernel(
            addr_of_mut!(value).cast(),
            size_of::<T>() as u32,
            address as *const core::ffi::c_void,
        )
    };
    (result == 0).then_some(value)
}

impl Sock {
    /// The typed pointer from a tracepoint's argument.
    #[inline(always)]
    pub fn new(pointer: *const u8) -> Self {
        Self(Typed::new(pointer))
    }

    /// Its address.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.pointer() as u64
    }

    /// The pointer itself.
    #[inline(always)]
    pub fn pointer(self) -> *const u8 {
        self.0.pointer()
    }

    /// Loads a field of `struct sock` or of what it begins with.
    #[inline(always)]
    pub fn load<T: Word, const AT: i16>(self) -> T {
        self.0.load::<T, AT>()
    }

    /// `skc_family`.
    #[inline(always)]
    pub fn family(self) -> u16 {
        field!(self, family)
    }

    /// The cookie, made if there was none, so that the minisocket inherits one.
    #[inline(always)]
    pub fn cookie(self) -> u64 {
        match field!(self, cookie) {
            // SAFETY: the helper takes a socket.
            0 => unsafe { bpf_get_socket_cookie(self.pointer() as *mut _) },
            cookie => cookie,
        }
    }

    /// The network namespace. To load a pointer of a socket's is slow to verify: from 6.2 on the
    /// verifier looks three times through all names of the kernel's BTF for what it may be.
    #[inline(always)]
    pub fn net_pointer(self) -> Typed {
        field!(self, net)
    }

    /// The network namespace, where nothing but its names is wanted.
    #[inline(always)]
    pub fn net(self) -> Net {
        self.net_pointer().into()
    }

    /// The bits of [`flags`] that a socket tells.
    #[inline(always)]
    pub fn flags(self, family: u16) -> u16 {
        let mut bits = 0;
        let owned: u32 = field!(self, lock_owned);
        if owned != 0 {
            bits |= flags::OWNED;
        }
        if family == AF_INET6 {
            bits |= flags::SOCKET_V6;
        }
        bits
    }

    /// The ports; the local one is 0 when the socket is not bound (any more).
    #[inline(always)]
    pub fn ports(self) -> Ports {
        ports(field!(self, port_pair))
    }

    /// IPv4 addresses.
    #[inline(always)]
    pub fn v4(self) -> V4Of {
        V4Of(self)
    }

    /// IPv6 addresses, or `None` where they are v4-mapped, so that the IPv4 ones hold.
    #[inline(always)]
    pub fn v6(self, family: u16) -> Option<V6Of> {
        if family != AF_INET6 || offset!(v6_peer) == ABSENT {
            return None;
        }
        let addresses = V6Of(self);
        (!is_v4_mapped(&addresses.read())).then_some(addresses)
    }

    /// The same socket as `struct tcp_sock`, typed.
    #[inline(always)]
    pub fn tcp(self) -> Option<Typed> {
        // SAFETY: the helper takes a socket and checks that it is TCP's.
        let pointer = unsafe { bpf_skc_to_tcp_sock(self.pointer() as *mut _) } as *const u8;
        (!pointer.is_null()).then_some(Typed::new(pointer))
    }
}

/// Whether both ends are v4-mapped (or the local one is still unspecified).
#[inline(always)]
pub fn is_v4_mapped(addresses: &V6) -> bool {
    let mapped = u32::from_be(0x0000_ffff);
    addresses.peer[0] == 0 && addresses.peer[1] == 0 && addresses.peer[2] == mapped
        || addresses.local[0] == 0 && addresses.local[1] == 0 && addresses.local[2] == mapped
}

/// Splits `skc_portpair`: the peer's port in network order, then the local one in host order.
#[inline(always)]
pub fn ports(pair: u32) -> Ports {
    let bytes = pair.to_ne_bytes();
    Ports {
        local: u16::from_ne_bytes([bytes[2], bytes[3]]),
        peer: u16::from_be_bytes([bytes[0], bytes[1]]),
    }
}

/// A socket's IPv4 addresses, read as they are written.
#[derive(Clone, Copy)]
pub struct V4Of(Sock);

impl Addresses for V4Of {
    type Wire = V4;
    const FAMILY: u8 = 4;

    #[inline(always)]
    unsafe fn write(self, place: *mut V4) {
        // SAFETY: by the caller's promise.
        unsafe { Pair::new(field!(self.0, address_pair)).write(place) };
    }
}

/// A socket's IPv6 addresses, read as they are written: eight words would be kept on the stack.
#[derive(Clone, Copy)]
pub struct V6Of(Sock);

impl V6Of {
    /// A typed load may not span two array elements: four words each.
    #[inline(always)]
    fn read(self) -> V6 {
        V6 {
            local: [
                field!(self.0, v6_local),
                field!(self.0, v6_local, 1),
                field!(self.0, v6_local, 2),
                field!(self.0, v6_local, 3),
            ],
            peer: [
                field!(self.0, v6_peer),
                field!(self.0, v6_peer, 1),
                field!(self.0, v6_peer, 2),
                field!(self.0, v6_peer, 3),
            ],
        }
    }
}

impl Addresses for V6Of {
    type Wire = V6;
    const FAMILY: u8 = 6;

    #[inline(always)]
    unsafe fn write(self, place: *mut V6) {
        // SAFETY: by the caller's promise.
        unsafe { place.write(self.read()) };
    }
}

/// IPv4 addresses as they lie in a record, in one word: its own are bytes, which would be written
/// one by one.
#[derive(Clone, Copy)]
pub struct Pair(u64);

impl Pair {
    /// None are known.
    pub const NONE: Self = Self(0);

    /// From `skc_addrpair`: the peer's address comes first there.
    #[inline(always)]
    pub fn new(pair: u64) -> Self {
        Self(pair.rotate_left(32))
    }
}

/// The addresses of a record.
pub trait Addresses: Copy {
    /// As the record has them.
    type Wire: 'static;
    /// What its header calls them.
    const FAMILY: u8;

    /// Writes them.
    ///
    /// # Safety
    /// `place` is in a record, where addresses are aligned to words of 64 bits.
    unsafe fn write(self, place: *mut Self::Wire);
}

impl Addresses for Pair {
    type Wire = V4;
    const FAMILY: u8 = 4;

    #[inline(always)]
    unsafe fn write(self, place: *mut V4) {
        // SAFETY: by the caller's promise.
        unsafe { place.cast::<u64>().write(self.0) };
    }
}

impl Addresses for V6 {
    type Wire = Self;
    const FAMILY: u8 = 6;

    #[inline(always)]
    unsafe fn write(self, place: *mut Self) {
        // SAFETY: by the caller's promise.
        unsafe { place.write(self) };
    }
}
