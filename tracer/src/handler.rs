//! The address of the kernel's `tw_timer_handler`, by which a minisocket's timer is known among all
//! timers: from the kernel's symbols, or, where these are hidden, from a minisocket of our own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use aya::maps::{Array, MapError};
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, EbpfError, EbpfLoader};

use crate::btf::Layout;
use crate::kallsyms::{self, SymbolError};
use crate::object::{self, ObjectError};

/// The function.
const NAME: &str = "tw_timer_handler";
/// How long a connection over loopback may take to reach its minisocket.
const PATIENCE: Duration = Duration::from_millis(500);

/// Why the handler is not known.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The symbols do not tell, and not because they are hidden.
    #[error(transparent)]
    Symbol(#[from] SymbolError),
    /// The symbols are hidden, and no connection of our own could be made to learn from.
    #[error(
        "kernel addresses are hidden (kernel.kptr_restrict), and no loopback connection could be made to learn from: {0}"
    )]
    Connection(io::Error),
    /// The symbols are hidden, and the program that learns could not be run.
    #[error(
        "kernel addresses are hidden (kernel.kptr_restrict), and the program that learns one was refused: {0}"
    )]
    Program(String),
    /// The symbols are hidden, and our own connection's minisocket did not show.
    #[error(
        "kernel addresses are hidden: set kernel.kptr_restrict to 0 or 1, or let this process use loopback"
    )]
    NotSeen,
}

impl From<ObjectError> for HandlerError {
    fn from(error: ObjectError) -> Self {
        Self::Program(error.to_string())
    }
}

impl From<EbpfError> for HandlerError {
    fn from(error: EbpfError) -> Self {
        Self::Program(error.to_string())
    }
}

impl From<ProgramError> for HandlerError {
    fn from(error: ProgramError) -> Self {
        Self::Program(
            error
                .to_string()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
        )
    }
}

impl From<MapError> for HandlerError {
    fn from(error: MapError) -> Self {
        Self::Program(error.to_string())
    }
}

/// What the kernel's symbols tell of the handler. To read them all takes a while.
///
/// # Errors
/// Where they do not tell.
pub fn symbol(kallsyms: &Path) -> Result<u64, SymbolError> {
    kallsyms::address_of(kallsyms, NAME)
}

/// The handler, by its [`symbol`] or, where that is hidden or must not be read, by a minisocket of our own.
///
/// # Errors
/// Where neither the symbols nor a connection of our own tell.
pub fn address(
    symbol: Result<u64, SymbolError>,
    object: &[u8],
    btf: &Btf,
    layout: &Layout,
) -> Result<u64, HandlerError> {
    match symbol {
        Err(SymbolError::Hidden | SymbolError::Read { .. }) => learn(object, btf, layout),
        told => Ok(told?),
    }
}

/// Loads the learning program alone, makes a minisocket, and reads what was seen.
fn learn(object: &[u8], btf: &Btf, layout: &Layout) -> Result<u64, HandlerError> {
    let connection = Connection::open().map_err(HandlerError::Connection)?;
    let (ports, addresses) = connection.as_the_kernel_keeps_it();
    let object = object::for_kernel(object, &layout.offsets, 0)?;
    let mut ebpf = EbpfLoader::new()
        .btf(Some(btf))
        .override_global("OUR_PORTS", &ports, true)
        .override_global("OUR_ADDRESSES", &addresses, true)
        .override_global(aya_log::LEVEL, &0_u8, false)
        .map_max_entries("EVENTS", 4096)
        .load(&object)?;
    let program: &mut BtfTracePoint = ebpf
        .program_mut("learn_handler")
        .ok_or_else(|| HandlerError::Program("the BPF object lacks it".to_owned()))?
        .try_into()?;
    program.load("timer_start", btf)?;
    program.attach()?;
    connection.close();
    let map = ebpf
        .map("LEARNED")
        .ok_or_else(|| HandlerError::Program("the BPF object lacks its map".to_owned()))?;
    let learned = Array::<_, u64>::try_from(map)?;
    let step = Duration::from_millis(1);
    for _ in 0..PATIENCE.as_millis() {
        match learned.get(&0, 0)? {
            0 => thread::sleep(step),
            address => return Ok(address),
        }
    }
    Err(HandlerError::NotSeen)
}

/// A connection of ours over loopback.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    from: SocketAddrV4,
    to: SocketAddrV4,
}

impl Connection {
    fn open() -> io::Result<Self> {
        let v4 = |address| match address {
            SocketAddr::V4(address) => Ok(address),
            SocketAddr::V6(_) => Err(io::Error::from(io::ErrorKind::AddrNotAvailable)),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let to = v4(listener.local_addr()?)?;
        let client = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
        let from = v4(client.local_addr()?)?;
        loop {
            let (server, peer) = listener.accept()?;
            // Anybody on this host may connect to the listener.
            if peer == SocketAddr::V4(from) {
                return Ok(Self {
                    client,
                    server,
                    from,
                    to,
                });
            }
        }
    }

    /// The client's `skc_portpair` and `skc_addrpair`: the peer's part first in memory.
    fn as_the_kernel_keeps_it(&self) -> (u32, u64) {
        let mut ports = [0; 4];
        ports[..2].copy_from_slice(&self.to.port().to_be_bytes());
        ports[2..].copy_from_slice(&self.from.port().to_ne_bytes());
        let mut addresses = [0; 8];
        addresses[..4].copy_from_slice(&self.to.ip().octets());
        addresses[4..].copy_from_slice(&self.from.ip().octets());
        (u32::from_ne_bytes(ports), u64::from_ne_bytes(addresses))
    }

    /// The client closes first: the minisocket is its.
    fn close(self) {
        drop(self.client);
        drop(self.server);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_described_as_the_kernel_keeps_it() -> io::Result<()> {
        let connection = Connection::open()?;
        let (ports, addresses) = connection.as_the_kernel_keeps_it();
        assert_eq!(ports.to_ne_bytes()[..2], connection.to.port().to_be_bytes());
        assert_eq!(addresses.to_ne_bytes(), [127, 0, 0, 1, 127, 0, 0, 1]);
        Ok(())
    }
}
