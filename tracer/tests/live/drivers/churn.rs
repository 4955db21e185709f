//! A load whose clients close first: each connection asks one byte, gets one, and is closed by
//! the client; the server closes once it has read the end. It counts what it does.

use std::collections::BTreeMap;
use std::io::{Error, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::SockRef;

use super::{Route, Server};

/// What the load is to do.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Ends after so many connections,
    pub connections: u64,
    /// or after so long.
    pub lasting: Duration,
    /// So many threads connect, and as many accept.
    pub threads: usize,
}

/// What the load did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// connect() that succeeded; each was closed.
    pub connected: u64,
    /// accept() that succeeded; each was closed.
    pub accepted: u64,
    /// connect() that found no free port.
    pub no_port: u64,
    /// Anything else that failed, by its message.
    pub errors: BTreeMap<String, u64>,
    /// How long it took.
    pub took: Duration,
}

impl Tally {
    /// Connections a second.
    pub fn rate(&self) -> f64 {
        self.connected as f64 / self.took.as_secs_f64()
    }

    fn add(&mut self, other: Self) {
        self.connected += other.connected;
        self.accepted += other.accepted;
        self.no_port += other.no_port;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    fn failed(&mut self, what: &str, error: &Error) {
        *self.errors.entry(format!("{what}: {error}")).or_default() += 1;
    }
}

/// Runs the load to its end. The listener is closed then.
pub fn run(route: Route<'_>, port: u16, plan: Plan) -> Tally {
    let server = route.listen(port);
    // std listens with a backlog of 128, which four clients cannot fill.
    let address = server.address();
    let started = Instant::now();
    let begun = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let servers: Vec<_> = (0..plan.threads)
            .map(|_| scope.spawn(|| serve(&server, &over)))
            .collect();
        let clients: Vec<_> = (0..plan.threads)
            .map(|_| {
                scope.spawn(|| {
                    route.client.enter();
                    drive(address, &begun, plan, started)
                })
            })
            .collect();
        for client in clients {
            tally.add(client.join().expect("a client thread ends"));
        }
        tally.took = started.elapsed();
        over.store(true, Ordering::Release);
        // Wakes the threads in accept().
        let _ = SockRef::from(&server.listener).shutdown(std::net::Shutdown::Both);
        for server in servers {
            tally.add(server.join().expect("a server thread ends"));
        }
    });
    tally
}

fn drive(address: SocketAddr, begun: &AtomicU64, plan: Plan, started: Instant) -> Tally {
    let mut tally = Tally::default();
    while started.elapsed() < plan.lasting
        && begun.fetch_add(1, Ordering::Relaxed) < plan.connections
    {
        match TcpStream::connect(address) {
            Ok(mut stream) => {
                tally.connected += 1;
                let mut answer = [0];
                let talk = stream
                    .write_all(b"?")
                    .and_then(|()| stream.read_exact(&mut answer));
                if let Err(error) = talk {
                    tally.failed("client", &error);
                }
            }
            Err(error) if error.raw_os_error() == Some(Errno::ADDRNOTAVAIL.raw_os_error()) => {
                tally.no_port += 1;
                begun.fetch_sub(1, Ordering::Relaxed);
                // Every port is in use or too young to be reused.
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => tally.failed("connect", &error),
        }
    }
    tally
}

fn serve(server: &Server<'_>, over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    loop {
        match server.listener.accept() {
            Ok((mut stream, _)) => {
                tally.accepted += 1;
                let mut byte = [0];
                let talk = stream
                    .read_exact(&mut byte)
                    .and_then(|()| stream.write_all(b"!"))
                    .and_then(|()| stream.read(&mut byte));
                if let Err(error) = talk {
                    tally.failed("server", &error);
                }
            }
            Err(_) if over.load(Ordering::Acquire) => return tally,
            Err(error) => tally.failed("accept", &error),
        }
    }
}
