//! Reads of the kernel's sockets through [`Offsets`](tracer_common::layout::Offsets).
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

use crate::maps::constant;

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
pub struct Sock(*const u8);

/// Loads a field through a typed pointer.
///
/// # Safety
/// `base` is a typed kernel pointer and `offset` that of a field of `T`'s size: the verifier
/// refuses the program otherwise.
#[inline(always)]
pub unsafe fn load<T>(base: *const u8, offset: u32) -> T {
    // SAFETY: by the caller's promise.
    unsafe { base.add(offset as usize).cast::<T>().read_volatile() }
}

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
        Self(pointer)
    }

    /// Its address.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    /// Loads a field of `struct sock` or of what it begins with.
    #[inline(always)]
    pub fn load<T>(self, offset: u32) -> T {
        // SAFETY: the pointer is typed, and the loader has checked the field's size.
        unsafe { load(self.0, offset) }
    }

    /// `skc_family`.
    #[inline(always)]
    pub fn family(self) -> u16 {
        self.load(constant!(OFFSETS.family))
    }

    /// The cookie, made if there was none, so that the minisocket inherits one.
    #[inline(always)]
    pub fn cookie(self) -> u64 {
        // SAFETY: the helper takes a socket.
        unsafe { bpf_get_socket_cookie(self.0 as *mut _) }
    }

    /// The network namespace.
    #[inline(always)]
    pub fn net(self) -> Net {
        let net: *const u8 = self.load(constant!(OFFSETS.net));
        // SAFETY: the verifier follows the typed pointer.
        unsafe {
            Net {
                cookie: load(net, constant!(OFFSETS.net_cookie)),
                inode: load(net, constant!(OFFSETS.net_inode)),
            }
        }
    }

    /// Whether the network namespace is being taken down.
    #[inline(always)]
    pub fn is_net_dying(self) -> bool {
        if constant!(OFFSETS.net_count) == ABSENT {
            return false;
        }
        let net: *const u8 = self.load(constant!(OFFSETS.net));
        // SAFETY: the verifier follows the typed pointer.
        unsafe { load::<u32>(net, constant!(OFFSETS.net_count)) == 0 }
    }

    /// The bits of [`flags`] that a socket tells.
    #[inline(always)]
    pub fn flags(self, family: u16) -> u16 {
        let mut bits = 0;
        if self.load::<u32>(constant!(OFFSETS.lock_owned)) != 0 {
            bits |= flags::OWNED;
        }
        if family == AF_INET6 {
            bits |= flags::SOCKET_V6;
        }
        bits
    }

    /// The pointer itself.
    #[inline(always)]
    pub fn pointer(self) -> *const u8 {
        self.0
    }

    /// The ports; the local one is 0 when the socket is not bound (any more).
    #[inline(always)]
    pub fn ports(self) -> Ports {
        ports(self.load(constant!(OFFSETS.port_pair)))
    }

    /// IPv4 addresses.
    #[inline(always)]
    pub fn v4(self) -> V4 {
        v4(self.load(constant!(OFFSETS.address_pair)))
    }

    /// IPv6 addresses, or `None` where they are v4-mapped, so that the IPv4 ones hold.
    #[inline(always)]
    pub fn v6(self, family: u16) -> Option<V6> {
        if family != AF_INET6 || constant!(OFFSETS.v6_peer) == ABSENT {
            return None;
        }
        let peer = self.address_words(constant!(OFFSETS.v6_peer));
        let local = self.address_words(constant!(OFFSETS.v6_local));
        let addresses = V6 { local, peer };
        (!is_v4_mapped(&addresses)).then_some(addresses)
    }

    /// A typed load may not span two array elements: four words.
    #[inline(always)]
    fn address_words(self, offset: u32) -> [u32; 4] {
        [
            self.load(offset),
            self.load(offset + 4),
            self.load(offset + 8),
            self.load(offset + 12),
        ]
    }

    /// The same socket as `struct tcp_sock`, typed.
    #[inline(always)]
    pub fn tcp(self) -> Option<Tcp> {
        // SAFETY: the helper takes a socket and checks that it is TCP's.
        let pointer = unsafe { bpf_skc_to_tcp_sock(self.0 as *mut _) } as *const u8;
        (!pointer.is_null()).then_some(Tcp(pointer))
    }
}

/// A typed `struct tcp_sock *`.
#[derive(Clone, Copy)]
pub struct Tcp(*const u8);

impl Tcp {
    /// Loads a field of `struct tcp_sock` or of what it begins with.
    #[inline(always)]
    pub fn load<T>(self, offset: u32) -> T {
        // SAFETY: the pointer is typed, and the loader has checked the field's size.
        unsafe { load(self.0, offset) }
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

/// Splits `skc_addrpair`: the peer's address, then the local one.
#[inline(always)]
pub fn v4(pair: u64) -> V4 {
    let bytes = pair.to_ne_bytes();
    V4 {
        local: [bytes[4], bytes[5], bytes[6], bytes[7]],
        peer: [bytes[0], bytes[1], bytes[2], bytes[3]],
    }
}
