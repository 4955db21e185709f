//! What makes connections: pairs of real sockets for the tests that look at one connection, and
//! loads for those that count many.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::lines::Side;
use crate::namespace::Namespace;

pub mod churn;
pub mod mixed;
pub mod nginx;
pub mod scene;

/// Where the two ends of a connection live.
#[derive(Clone, Copy)]
pub struct Route<'a> {
    /// For messages.
    pub name: &'static str,
    /// The namespace of who connects.
    pub client: &'a Namespace,
    /// The namespace of who listens; the same one for loopback.
    pub server: &'a Namespace,
    /// What the client connects to: a v4-mapped address makes both sockets AF_INET6.
    pub address: IpAddr,
}

impl<'a> Route<'a> {
    /// 127.0.0.1 of a namespace.
    pub fn loopback(namespace: &'a Namespace) -> Self {
        Self::within("loopback IPv4", namespace, IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// ::1 of a namespace.
    pub fn loopback_v6(namespace: &'a Namespace) -> Self {
        Self::within("loopback IPv6", namespace, IpAddr::V6(Ipv6Addr::LOCALHOST))
    }

    /// 127.0.0.1 between AF_INET6 sockets.
    pub fn mapped(namespace: &'a Namespace) -> Self {
        let address = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        Self::within("v4-mapped", namespace, IpAddr::V6(address))
    }

    fn within(name: &'static str, namespace: &'a Namespace, address: IpAddr) -> Self {
        Self {
            name,
            client: namespace,
            server: namespace,
            address,
        }
    }

    /// `ipv4` or `ipv6`: the addresses', as records name it.
    pub fn family(&self) -> &'static str {
        if self.address.to_canonical().is_ipv4() {
            "ipv4"
        } else {
            "ipv6"
        }
    }

    /// The sockets' family, as records name it.
    pub fn socket_family(&self) -> &'static str {
        if self.address.is_ipv4() {
            "ipv4"
        } else {
            "ipv6"
        }
    }

    /// A listening socket at the server's end.
    pub fn listen(self, port: u16) -> Server<'a> {
        let any = if self.address.is_ipv4() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        let listener = self.server.run(|| {
            TcpListener::bind(SocketAddr::new(any, port))
                .unwrap_or_else(|error| panic!("listen on port {port}: {error}"))
        });
        Server {
            route: self,
            port,
            listener,
        }
    }

    /// The client's end of a connection, as records name it.
    pub fn client_side(&self, client: SocketAddr, server: SocketAddr) -> Side {
        Side {
            netns: self.client.inode,
            local: client.into(),
            peer: server.into(),
        }
    }

    /// The server's end of a connection, as records name it.
    pub fn server_side(&self, server: SocketAddr, client: SocketAddr) -> Side {
        Side {
            netns: self.server.inode,
            local: server.into(),
            peer: client.into(),
        }
    }
}

/// A listening socket.
pub struct Server<'a> {
    pub route: Route<'a>,
    pub port: u16,
    pub listener: TcpListener,
}

impl Server<'_> {
    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.route.address, self.port)
    }

    /// A new connection to it, accepted.
    pub fn connect(&self) -> Pair {
        let address = self.address();
        let client = self.route.client.run(|| {
            TcpStream::connect(address)
                .unwrap_or_else(|error| panic!("connect to {address}: {error}"))
        });
        self.accept(client)
    }

    /// The same from a source port of the caller's choice.
    pub fn connect_from(&self, port: u16) -> std::io::Result<Pair> {
        let address = self.address();
        let client = self
            .route
            .client
            .run(|| connect_from(SocketAddr::new(any_of(address), port), address))?;
        Ok(self.accept(client))
    }

    /// Accepts what `client` has connected.
    pub fn accept(&self, client: TcpStream) -> Pair {
        let (server, _) = self.listener.accept().expect("accept a connection");
        let local = client.local_addr().expect("the client has an address");
        let peer = client.peer_addr().expect("the client has a peer");
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_secs(5)))
                .expect("bound the reads");
        }
        Pair {
            client_side: self.route.client_side(local, peer),
            server_side: self.route.server_side(peer, local),
            client_address: local,
            server_address: peer,
            client,
            server,
        }
    }
}

/// A connected pair of sockets.
pub struct Pair {
    pub client: TcpStream,
    pub server: TcpStream,
    pub client_side: Side,
    pub server_side: Side,
    pub client_address: SocketAddr,
    pub server_address: SocketAddr,
}

/// The two ends of a connection that is over.
#[derive(Clone, Copy, Debug)]
pub struct Sides {
    pub client: Side,
    pub server: Side,
}

impl Pair {
    /// Both ends, for when the sockets are gone.
    pub fn sides(&self) -> Sides {
        Sides {
            client: self.client_side,
            server: self.server_side,
        }
    }

    /// Closes the client's socket, and the server's once it has read the end.
    pub fn close_client_first(self) -> Sides {
        let sides = self.sides();
        drop(self.client);
        read_to_end(self.server);
        sides
    }

    /// Closes the server's socket, and the client's once it has read the end.
    pub fn close_server_first(self) -> Sides {
        let sides = self.sides();
        drop(self.server);
        read_to_end(self.client);
        sides
    }
}

/// Sends `from` some bytes to `to`, which reads them all.
pub fn send(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) {
    from.write_all(bytes).expect("send to the other end");
    let mut read = vec![0; bytes.len()];
    to.read_exact(&mut read).expect("read from the other end");
    assert_eq!(read, bytes);
}

/// Makes the socket's close() a reset: SO_LINGER with no time.
pub fn reset_on_close(stream: &TcpStream) {
    SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .expect("set SO_LINGER");
}

/// Reads what is left and closes.
pub fn read_to_end(mut stream: TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("read to the end");
}

/// Connects from a bound source port, in the calling thread's namespace.
pub fn connect_from(source: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(source),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// The unspecified address of the same family.
pub fn any_of(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
