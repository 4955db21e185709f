//! A load that ends its connections in every way that two willing ends can: which one, the client's
//! first byte says. It counts what it does by role and by what the record must say of it.

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
#[derive(Clone, Copy)]
enum Way {
    ClientFirst = b'c' as isize,
    ServerFirst = b's' as isize,
    /// The client closes with SO_LINGER 0.
    ClientResets = b'r' as isize,
    /// The server closes and leaves data unread.
    ServerResets = b'u' as isize,
    /// Nobody listens.
    Refused,
}

const WAYS: [Way; 5] = [
    Way::ClientFirst,
    Way::ServerFirst,
    Way::ClientResets,
    Way::ServerResets,
    Way::Refused,
];

impl Way {
    /// What the client's record must say, and the server's where there is one.
    const fn verdicts(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::ClientFirst => ("active/fin", Some("passive/fin")),
            Self::ServerFirst => ("passive/fin", Some("active/fin")),
            Self::ClientResets => ("reset_sent/linger_zero", Some("reset_received/peer_reset")),
            Self::ServerResets => ("reset_received/peer_reset", Some("reset_sent/unread_data")),
            Self::Refused => ("connect_failed/refused", None),
        }
    }
}

/// Makes `connections` connections to these ports, as many in each way, and one more port of
/// which nobody listens. The listeners are closed then.
pub fn run(
    route: Route<'_>,
    ports: &[u16],
    nobody: u16,
    connections: u64,
    threads: usize,
) -> Verdicts {
    let servers: Vec<_> = ports.iter().map(|port| route.listen(*port)).collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.address()).collect();
    let refusing = SocketAddr::new(route.address, nobody);
    let next = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for server in &servers {
            for _ in 0..threads {
                scope.spawn(|| serve(&server.listener, &over));
            }
        }
        let clients: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    route.client.enter();
                    drive(&addresses, refusing, &next, connections)
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
        for server in &servers {
            // Wakes the threads in accept().
            let _ = SockRef::from(&server.listener).shutdown(std::net::Shutdown::Both);
        }
        verdicts
    })
}

fn drive(
    addresses: &[SocketAddr],
    refusing: SocketAddr,
    next: &AtomicU64,
    connections: u64,
) -> Verdicts {
    let mut verdicts = Verdicts::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= connections {
            return verdicts;
        }
        let number = usize::try_from(number).expect("few");
        let way = WAYS[number % WAYS.len()];
        let address = addresses[number / WAYS.len() % addresses.len()];
        end_in(way, address, refusing);
        let (client, server) = way.verdicts();
        *verdicts.entry(("client", client)).or_default() += 1;
        if let Some(server) = server {
            *verdicts.entry(("server", server)).or_default() += 1;
        }
    }
}

fn end_in(way: Way, address: SocketAddr, refusing: SocketAddr) {
    if let Way::Refused = way {
        let error = TcpStream::connect(refusing).expect_err("nobody listens");
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

fn serve(listener: &TcpListener, over: &AtomicBool) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => answer(stream),
            Err(_) if over.load(Ordering::Acquire) => return,
            Err(error) => panic!("accept: {error}"),
        }
    }
}

fn answer(mut stream: TcpStream) {
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("which way");
    match byte[0] {
        b'c' => {
            stream.write_all(b"!").expect("answer");
            assert_eq!(stream.read(&mut byte).expect("the end"), 0);
        }
        b'r' => {
            stream.write_all(b"!").expect("answer");
            let error = stream.read(&mut byte).expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        // 's' and 'u': closed at once.
        _ => {}
    }
}
