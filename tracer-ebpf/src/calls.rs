//! System calls on sockets that failed, as they return to their task.
//!
//! connect() that finds no route changes no state, and of one that finds no port the states do not
//! tell the errno: it exists only here. These are classic tracepoints, whose programs run for their
//! own system call alone. Calls made through io_uring, and those of 32-bit programs, do not come by.

use core::ptr::addr_of_mut;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_get_current_task_btf, bpf_probe_read_user, bpf_task_pt_regs,
};
use aya_ebpf::programs::TracePointContext;
use tracer_common::event::{CallFailed, Kind, calls, flags};

use crate::context;
use crate::emit::{Desk, Subject};
use crate::fields::{Typed, field, offset};
use crate::sock::{AF_INET, AF_INET6, Addresses, IPPROTO_TCP, Net, Pair, Ports, probe};
use crate::timewait::Copied;
use crate::twice::First;

/// Where a program finds the result: behind `struct trace_entry` and the call's number, the same
/// from 4.7 to 6.18.
const RESULT: usize = 16;

/// SOCK_STREAM of `enum sock_type`, but on MIPS.
const SOCK_STREAM: u16 = 1;

// The same on all architectures that BPF runs on but MIPS, PA-RISC and SPARC.
const EINTR: i64 = 4;
const ENOMEM: i64 = 12;
const ENFILE: i64 = 23;
const EMFILE: i64 = 24;
const ENOBUFS: i64 = 105;
const EISCONN: i64 = 106;
const EALREADY: i64 = 114;
const EINPROGRESS: i64 = 115;
/// From here on the kernel's own: the call is made again, or returns EINTR.
const ERESTARTSYS: i64 = 512;

/// `sys_exit_connect` and its like; `call` is one of [`calls`].
#[inline(always)]
pub fn on_exit(ctx: &TracePointContext, call: u8) {
    // SAFETY: the record that the program is given is longer than that.
    let result: i64 = unsafe { ctx.as_ptr().add(RESULT).cast::<i64>().read_volatile() };
    let errno = result.wrapping_neg();
    if errno <= 0 || errno >= ERESTARTSYS || !is_told(call, errno) {
        return;
    }
    let Some(desk) = Desk::here() else {
        return;
    };
    let mut failed = Failed {
        call,
        errno: errno as u16,
        ..Failed::default()
    };
    let mut subject = Subject {
        family: 4,
        flags: flags::IN_TASK,
        net: Net {
            cookie: 0,
            inode: 0,
        },
    };
    if call == calls::SOCKET {
        emit_without_socket(desk, subject, failed);
        return;
    }
    // SAFETY: the helper takes the typed pointer of the other, and its own is typed.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf() as *mut _) };
    let registers = Typed::new(registers as *const u8);
    let (first, second): (u64, u64) = (
        field!(registers, call_first),
        field!(registers, call_second),
    );
    let mut place = Copied::place();
    let Some((address, socket)) = tcp_socket(first as u32)
        .and_then(|address| Some((address, place.at(address)?)))
        .filter(|(_, socket)| [AF_INET, AF_INET6].contains(&socket.family()))
    else {
        // accept() fails for want of descriptors whatever it accepts.
        if call == calls::ACCEPT {
            emit_without_socket(desk, subject, failed);
        }
        return;
    };
    subject.net = socket.net();
    if socket.family() == AF_INET6 {
        subject.flags |= flags::SOCKET_V6;
    }
    failed.socket = address;
    failed.cookie = socket.cookie();
    failed.state = socket.state();
    failed.ports = socket.ports();
    if call != calls::ACCEPT {
        failed.asked = Asked::read(second);
    }
    if socket.family() == AF_INET6
        && let Some(addresses) = socket.v6()
    {
        subject.family = 6;
        desk.emit::<_, First>(Kind::CallFailed, subject, |record| {
            failed.fill(record, addresses);
        });
    } else {
        desk.emit::<_, First>(Kind::CallFailed, subject, |record| {
            failed.fill(record, socket.v4());
        });
    }
}

/// Whether the failure says something that nothing else does. A connect() that goes on has not
/// failed, nor has one whose connection stands.
#[inline(always)]
fn is_told(call: u8, errno: i64) -> bool {
    match call {
        calls::BIND => true,
        calls::CONNECT => !matches!(errno, EINPROGRESS | EALREADY | EISCONN | EINTR),
        _ => matches!(errno, EMFILE | ENFILE | ENOBUFS | ENOMEM),
    }
}

/// The TCP socket behind the current task's descriptor `fd`.
///
/// What a descriptor's private data is, only its file's kind tells; a socket is known by pointing
/// back. Another thread may close the descriptor meanwhile: every read is a probe.
#[inline(always)]
fn tcp_socket(fd: u32) -> Option<u64> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task_btf() } as u64;
    let files: u64 = follow(task, offset!(task_files))?;
    let table: u64 = follow(files, offset!(files_table))?;
    if fd >= follow::<u32>(table, offset!(table_size))? {
        return None;
    }
    let array: u64 = follow(table, offset!(table_files))?;
    let file: u64 = probe(array + u64::from(fd) * 8)?;
    let socket: u64 = follow(file, offset!(file_data))?;
    let sock: u64 = follow(socket, offset!(socket_sock))?;
    let is_socket = follow::<u64>(sock, offset!(socket))? == socket;
    let is_tcp = follow::<u16>(socket, offset!(socket_type))? == SOCK_STREAM
        && follow::<u16>(sock, offset!(protocol))? == IPPROTO_TCP;
    (is_socket && is_tcp).then_some(sock)
}

/// Copies a field of what lies at `base`.
#[inline(always)]
fn follow<T: Copy + Default>(base: u64, offset: u32) -> Option<T> {
    probe(base + u64::from(offset))
}

/// The address that a call asks for, as its record has it.
#[derive(Clone, Copy, Default)]
struct Asked {
    family: u8,
    port: u16,
    address: [u64; 2],
}

impl Asked {
    /// From a `struct sockaddr_in` or `sockaddr_in6` of the task's.
    #[inline(always)]
    fn read(from: u64) -> Self {
        // Family, port, and the address of IPv4: the longer one may not be there.
        let Some(word) = probe_user::<u64>(from) else {
            return Self::default();
        };
        let bytes = word.to_ne_bytes();
        let port = u16::from_be_bytes([bytes[2], bytes[3]]);
        match u16::from_ne_bytes([bytes[0], bytes[1]]) {
            AF_INET => Self {
                family: 4,
                port,
                address: [
                    u64::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7], 0, 0, 0, 0]),
                    0,
                ],
            },
            AF_INET6 => match probe_user(from + 8) {
                Some(address) => Self {
                    family: 6,
                    port,
                    address,
                },
                None => Self::default(),
            },
            _ => Self::default(),
        }
    }
}

/// Copies from the task's own memory; `None` where that is not at hand.
#[inline(always)]
fn probe_user<T: Copy + Default>(address: u64) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the destination is a local of that size; the helper checks the source.
    let result = unsafe {
        bpf_probe_read_user(
            addr_of_mut!(value).cast(),
            size_of::<T>() as u32,
            address as *const core::ffi::c_void,
        )
    };
    (result == 0).then_some(value)
}

/// What a record tells beside addresses and names.
#[derive(Clone, Copy)]
struct Failed {
    call: u8,
    errno: u16,
    socket: u64,
    cookie: u64,
    state: u8,
    ports: Ports,
    asked: Asked,
}

impl Default for Failed {
    #[inline(always)]
    fn default() -> Self {
        Self {
            call: 0,
            errno: 0,
            socket: 0,
            cookie: 0,
            state: 0,
            ports: Ports { local: 0, peer: 0 },
            asked: Asked::default(),
        }
    }
}

#[inline(always)]
fn emit_without_socket(desk: Desk, subject: Subject, failed: Failed) {
    desk.emit::<_, First>(Kind::CallFailed, subject, |record| {
        failed.fill(record, Pair::NONE);
    });
}

impl Failed {
    #[inline(always)]
    fn fill<A: Addresses>(&self, record: *mut CallFailed<A::Wire>, addresses: A) {
        let id = bpf_get_current_pid_tgid();
        // SAFETY: the place is as large as the record.
        unsafe {
            (*record).socket = self.socket;
            (*record).cookie = self.cookie;
            (*record).pid = (id >> 32) as u32;
            (*record).tid = id as u32;
            (*record).errno = self.errno;
            (*record).call = self.call;
            (*record).state = self.state;
            (*record).asked_family = self.asked.family;
            (*record).padding = 0;
            (*record).asked_port = self.asked.port;
            (*record).local_port = self.ports.local;
            (*record).peer_port = self.ports.peer;
            (*record).padding2 = 0;
            addr_of_mut!((*record).asked)
                .cast::<[u64; 2]>()
                .write(self.asked.address);
            context::write_names(
                addr_of_mut!((*record).comm),
                addr_of_mut!((*record).name),
                (id >> 32) as u32 == id as u32,
            );
            addresses.write(addr_of_mut!((*record).addresses));
        }
    }
}
