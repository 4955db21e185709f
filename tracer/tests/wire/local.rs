//! What the local application does: real sockets, none of whose calls waits.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use tracer_common::tcp::TcpState;

use crate::kernel::HostSetting;

/// An act of the application on one of its sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// The next socket is of this protocol.
    Mptcp,
    Bind(BindTo),
    /// Begins to connect, or fails at once with this error.
    Connect {
        to: Option<usize>,
        error: Option<String>,
    },
    /// Connects with the socket of another connection, whose own is over.
    Reconnect(usize),
    Listen,
    Accept,
    Write(usize),
    /// Reads so many bytes.
    Read(usize),
    /// Reads to the peer's FIN.
    ReadEnd,
    /// Waits until the socket is in CLOSE, and takes this error from it. Who took it before would
    /// race the kernel, which sets the error first: the tracer would find none at CLOSE.
    Error(String),
    Shutdown(Shutdown),
    Set(Setting),
    /// connect(AF_UNSPEC).
    Disconnect,
    Close,
    /// The same while a setting of the whole host has this value.
    CloseUnder {
        name: String,
        value: String,
    },
    CloseListener,
}

/// Where a socket is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindTo {
    Port(u16),
    /// The port of another connection of the script.
    PortOf(usize),
}

/// A socket option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// SO_LINGER, seconds.
    Linger(u64),
    /// TCP_LINGER2, seconds.
    Linger2(i32),
    /// TCP_USER_TIMEOUT, milliseconds.
    UserTimeout(u64),
    /// SO_KEEPALIVE: idle seconds, interval, probes.
    Keepalive(u64, u64, u32),
    /// TCP_REPAIR.
    Repair,
    /// IP_RECVERR or IPV6_RECVERR.
    ReceiveErrors,
    /// TCP_QUICKACK: an ACK that is delayed goes out now.
    QuickAck,
}

/// What became of an act.
pub enum Outcome {
    Done,
    /// Not possible yet.
    Later,
}

/// The sockets that an act works on.
#[derive(Default)]
pub struct Sockets {
    pub listener: Option<Socket>,
    /// One for each connection of the script.
    pub connections: Vec<Option<Socket>>,
    mptcp: bool,
}

impl Sockets {
    /// None yet, for so many connections.
    pub fn new(connections: usize) -> Self {
        Self {
            connections: (0..connections).map(|_| None).collect(),
            ..Self::default()
        }
    }

    /// Does it. `local` is where listeners and bound sockets are, `target` whom connect() calls.
    pub fn act(
        &mut self,
        index: usize,
        act: &Act,
        local: SocketAddr,
        target: SocketAddr,
    ) -> io::Result<Outcome> {
        match act {
            Act::Mptcp => self.mptcp = true,
            Act::Listen => {
                let socket = self.make(local)?;
                socket.set_reuse_address(true)?;
                // Its address is routed to this host, but no device has it.
                if local.is_ipv6() {
                    socket.set_freebind_v6(true)?;
                }
                socket.bind(&local.into())?;
                socket.listen(8)?;
                self.listener = Some(socket);
            }
            Act::CloseListener => drop(taken(&mut self.listener)?),
            Act::Accept => {
                let listener = held(&self.listener)?;
                match listener.accept() {
                    Ok((socket, _)) => {
                        socket.set_nonblocking(true)?;
                        self.connections[index] = Some(socket);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        return Ok(Outcome::Later);
                    }
                    Err(error) => return Err(error),
                }
            }
            Act::Bind(_) => {
                let socket = self.made(index, local)?;
                socket.set_reuse_address(true)?;
                socket.bind(&local.into())?;
            }
            Act::Reconnect(other) => {
                self.connections[index] = self.connections[*other].take();
                let again = Act::Connect {
                    to: None,
                    error: None,
                };
                return self.act(index, &again, local, target);
            }
            Act::Connect { error, .. } => {
                let socket = self.made(index, local)?;
                let in_progress = rustix::io::Errno::INPROGRESS.raw_os_error();
                let said = socket.connect(&target.into()).err();
                let said = said.filter(|error| error.raw_os_error() != Some(in_progress));
                same_error(said, error.as_deref())?;
            }
            Act::Write(length) => {
                let written = held(&self.connections[index])?.write(&vec![b'.'; *length])?;
                whole(written, *length)?;
            }
            Act::Read(length) => {
                let socket = held(&self.connections[index])?;
                let mut buffer = vec![MaybeUninit::uninit(); *length];
                match SockRef::from(socket).peek(&mut buffer) {
                    Ok(ready) if ready == *length => {
                        let mut socket = socket;
                        whole(socket.read(&mut vec![0; *length])?, *length)?;
                    }
                    Ok(0) => return Err(io::Error::other("the stream is at its end")),
                    Ok(_) => return Ok(Outcome::Later),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        return Ok(Outcome::Later);
                    }
                    Err(error) => return Err(error),
                }
            }
            Act::ReadEnd => match held(&self.connections[index])?.read(&mut [0; 4096]) {
                Ok(0) => {}
                Ok(_) => return Ok(Outcome::Later),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Outcome::Later),
                Err(error) => return Err(error),
            },
            Act::Error(expected) => {
                let socket = held(&self.connections[index])?;
                if !is_closed(socket)? {
                    return Ok(Outcome::Later);
                }
                same_error(socket.take_error()?, Some(expected))?;
            }
            Act::Shutdown(how) => held(&self.connections[index])?.shutdown(*how)?,
            Act::Set(setting) => set(self.made(index, local)?, setting, local.is_ipv4())?,
            Act::Disconnect => rustix::net::connect_unspec(held(&self.connections[index])?)?,
            Act::Close => drop(taken(&mut self.connections[index])?),
            Act::CloseUnder { name, value } => {
                let socket = taken(&mut self.connections[index])?;
                close_under(socket, name, value)?;
            }
        }
        Ok(Outcome::Done)
    }

    fn made(&mut self, index: usize, address: SocketAddr) -> io::Result<&Socket> {
        if self.connections[index].is_none() {
            self.connections[index] = Some(self.make(address)?);
        }
        held(&self.connections[index])
    }

    fn make(&self, address: SocketAddr) -> io::Result<Socket> {
        let protocol = if self.mptcp {
            Protocol::MPTCP
        } else {
            Protocol::TCP
        };
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

fn held(socket: &Option<Socket>) -> io::Result<&Socket> {
    socket
        .as_ref()
        .ok_or_else(|| io::Error::other("there is no such socket"))
}

fn taken(socket: &mut Option<Socket>) -> io::Result<Socket> {
    socket
        .take()
        .ok_or_else(|| io::Error::other("there is no such socket"))
}

fn whole(done: usize, length: usize) -> io::Result<()> {
    if done == length {
        return Ok(());
    }
    Err(io::Error::other(format!("{done} of {length} bytes")))
}

fn same_error(said: Option<io::Error>, expected: Option<&str>) -> io::Result<()> {
    match (said, expected) {
        (None, None) => Ok(()),
        (Some(error), Some(expected)) if errno(expected) == error.raw_os_error() => Ok(()),
        (None, Some(expected)) => Err(io::Error::other(format!("no error, not {expected}"))),
        (Some(error), _) => Err(error),
    }
}

/// The number of an error that scripts name.
pub fn errno(name: &str) -> Option<i32> {
    Some(match name {
        "EADDRNOTAVAIL" => libc::EADDRNOTAVAIL,
        "EADDRINUSE" => libc::EADDRINUSE,
        "ECONNABORTED" => libc::ECONNABORTED,
        "ECONNREFUSED" => libc::ECONNREFUSED,
        "ECONNRESET" => libc::ECONNRESET,
        "EHOSTUNREACH" => libc::EHOSTUNREACH,
        "ENETUNREACH" => libc::ENETUNREACH,
        "EACCES" => libc::EACCES,
        "EPIPE" => libc::EPIPE,
        "ETIMEDOUT" => libc::ETIMEDOUT,
        _ => return None,
    })
}

fn set(socket: &Socket, setting: &Setting, ipv4: bool) -> io::Result<()> {
    match *setting {
        Setting::Linger(seconds) => socket.set_linger(Some(Duration::from_secs(seconds))),
        Setting::UserTimeout(ms) => socket.set_tcp_user_timeout(Some(Duration::from_millis(ms))),
        Setting::Keepalive(idle, interval, probes) => socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(Duration::from_secs(idle))
                .with_interval(Duration::from_secs(interval))
                .with_retries(probes),
        ),
        Setting::QuickAck => Ok(rustix::net::sockopt::set_tcp_quickack(socket, true)?),
        Setting::Linger2(seconds) => option(socket, libc::IPPROTO_TCP, libc::TCP_LINGER2, seconds),
        Setting::Repair => option(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, 1),
        Setting::ReceiveErrors if ipv4 => option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1),
        Setting::ReceiveErrors => option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1),
    }
}

/// Whether a socket is in CLOSE. The state is there after its tracepoint.
fn is_closed(socket: &Socket) -> io::Result<bool> {
    // tcp_info begins with the state.
    let mut state = 0_u8;
    let mut length: libc::socklen_t = 1;
    // SAFETY: the kernel writes at most `length` bytes at `state`; both live until the call returns.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpState::from_number(state) == Some(TcpState::Close))
}

/// Sets an option that no crate of ours has.
fn option(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes at `value`, which lives until the call returns.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Closes while a setting of the whole host is other than it was. That is for microseconds: others
/// on this host close connections too.
fn close_under(socket: Socket, name: &str, value: &str) -> io::Result<()> {
    thread::scope(|scope| {
        let closer = scope.spawn(|| {
            // Its file is in the first namespace alone, and /proc/self is the first thread.
            let first = File::open("/proc/self/ns/net")?;
            rustix::thread::move_into_link_name_space(first.as_fd(), None)?;
            let setting = HostSetting::set(name, value);
            drop(socket);
            drop(setting);
            Ok(())
        });
        closer.join().expect("close on another thread")
    })
}
