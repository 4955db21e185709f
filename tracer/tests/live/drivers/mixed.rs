//! A load that ends its connections in every way that two willing ends can, each way on a port of
//! its own. It counts what it does by role and by what the record must say of it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use socket2::SockRef;

use super::{Route, reset_on_close};

/// How many of which verdict, by role.
pub type Verdicts = BTreeMap<(&'static str, &'static str), u64>;

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ClientFirst,
    ServerFirst,
    /// The client closes with SO_LINGER 0.
    ClientResets,
    /// The server closes and leaves data unread.
    ServerResets,
    /// Nobody listens.
    Refused,
}

impl Way {
    /// All of them, and the number of each, which is added to the first port.
    const ALL: [Self; 5] = [
        Self::ClientFirst,
        Self::ServerFirst,
        Self::ClientResets,
        Self::ServerResets,
        Self::Refused,
    ];

    /// The server's ports, counted from the first.
    pub fn ports(first: u16) -> Vec<u16> {
        (first..).take(Self::ALL.len()).collect()
    }

    /// The way of a port.
    pub fn of(port: u16, first: u16) -> Option<Self> {
        Self::ALL
            .get(usize::from(port.checked_sub(first)?))
            .copied()
    }

    /// What the client's record must say, and the server's where there is one.
    pub const fn verdicts(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::ClientFirst => ("active/fin", Some("passive/fin")),
            Self::ServerFirst => ("passive/fin", Some("active/fin")),
            Self::ClientResets => ("reset_sent/linger_zero", Some("reset_received/peer_reset")),
            Self::ServerResets => ("reset_received/peer_reset", Some("reset_sent/unread_data")),
            Self::Refused => ("connect_failed/refused", None),
        }
    }
}

/// Makes `connections` connections, as many in each way, to the ports from `first` on, and counts in
/// `begun` how many it has begun. Its listeners are closed then.
pub fn run(route: Route<'_>, first: u16, connections: u64, begun: &AtomicU64) -> Verdicts {
    let threads = 4;
    let servers: Vec<_> = Way::ALL
        .into_iter()
        .zip(first..)
        .filter(|(way, _)| *way != Way::Refused)
        .map(|(way, port)| (way, route.listen(port)))
        .collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for (way, server) in &servers {
            for _ in 0..threads {
                scope.spawn(|| serve(*way, &server.listener, &over));
            }
        }
        let clients: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    route.client.enter();
                    drive(SocketAddr::new(route.address, first), begun, connections)
                })
            })
            .collect();
        let mut verdicts = Verdicts::new();
        for client in clients {
            for (key, count) in client.join().expect("a client thread ends") {
                *verdicts.entry(key).or_default() += count;
            }
        }
        over.store(true, Ordering::Release);
        for (_, server) in &servers {
            // Wakes the threads in accept().
            let _ = SockRef::from(&server.listener).shutdown(std::net::Shutdown::Both);
        }
        verdicts.insert(("listener", "listener_closed"), servers.len() as u64);
        verdicts
    })
}

fn drive(first: SocketAddr, begun: &AtomicU64, connections: u64) -> Verdicts {
    let mut verdicts = Verdicts::new();
    loop {
        let number = begun.fetch_add(1, Ordering::Relaxed);
        if number >= connections {
            return verdicts;
        }
        let place = (number % Way::ALL.len() as u64) as u16;
        let mut address = first;
        address.set_port(first.port() + place);
        let way = Way::ALL[usize::from(place)];
        end_in(way, address);
        let (client, server) = way.verdicts();
        *verdicts.entry(("client", client)).or_default() += 1;
        if let Some(server) = server {
            *verdicts.entry(("server", server)).or_default() += 1;
        }
    }
}

fn end_in(way: Way, address: SocketAddr) {
    if way == Way::Refused {
        let error = TcpStream::connect(address).expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        return;
    }
    let mut stream = TcpStream::connect(address).expect("connect");
    // One byte more than the server reads where it is to leave something.
    let said = [way as u8, b'!'];
    let said = if let Way::ServerResets = way {
        &said[..]
    } else {
        &said[..1]
    };
    stream.write_all(said).expect("say which way");
    let mut answer = [0];
    match way {
        Way::ClientFirst => {
            stream.read_exact(&mut answer).expect("an answer");
        }
        Way::ServerFirst => {
            assert_eq!(stream.read(&mut answer).expect("the end"), 0);
        }
        Way::ClientResets => {
            stream.read_exact(&mut answer).expect("an answer");
            reset_on_close(&stream);
        }
        Way::ServerResets => {
            let error = stream.read(&mut answer).expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        Way::Refused => {}
    }
}

fn serve(way: Way, listener: &TcpListener, over: &AtomicBool) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => answer(way, stream),
            Err(_) if over.load(Ordering::Acquire) => return,
            Err(error) => panic!("accept: {error}"),
        }
    }
}

fn answer(way: Way, mut stream: TcpStream) {
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("a question");
    match way {
        Way::ClientFirst => {
            stream.write_all(b"!").expect("answer");
            assert_eq!(stream.read(&mut byte).expect("the end"), 0);
        }
        Way::ClientResets => {
            stream.write_all(b"!").expect("answer");
            let error = stream.read(&mut byte).expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        Way::ServerFirst | Way::ServerResets | Way::Refused => {}
    }
}
