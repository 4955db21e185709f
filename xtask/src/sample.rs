//! A little traffic over loopback, so that `run` shows something on a quiet machine.

use std::{
    io::{Read as _, Result, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// The traffic ends by itself after an hour's worth.
const MOST: usize = 3600;
const PAUSE: Duration = Duration::from_secs(1);
/// No connection may hold the next one up.
const LIMIT: Duration = Duration::from_secs(1);

/// One loopback connection a second, each with a few bytes, until it is dropped.
pub struct Traffic {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    /// Listens on a free port of 127.0.0.1 and begins.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            for ending in Ending::ALL.into_iter().cycle().take(MOST) {
                thread::park_timeout(PAUSE);
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // One that fails is one less to see, and no reason to disturb the trace.
                let _ = connection(&listener, address, ending);
            }
        });
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// How a connection ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    ClientFirst,
    ServerFirst,
    /// The server closes with data unread: its kernel resets the connection.
    Reset,
}

impl Ending {
    const ALL: [Self; 3] = [Self::ClientFirst, Self::ServerFirst, Self::Reset];
}

fn connection(listener: &TcpListener, address: SocketAddr, ending: Ending) -> Result<()> {
    let mut client = TcpStream::connect_timeout(&address, LIMIT)?;
    let (mut server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(LIMIT))?;
        end.set_write_timeout(Some(LIMIT))?;
    }
    client.write_all(b"hello\n")?;
    match ending {
        Ending::ClientFirst => close_in_order(client, server),
        Ending::ServerFirst => {
            server.read_exact(&mut [0; 6])?;
            close_in_order(server, client)
        }
        Ending::Reset => {
            server.peek(&mut [0; 1])?;
            drop(server);
            client.read(&mut [0; 1]).map(drop)
        }
    }
}

/// `first` sends its FIN, `second` reads to the end of the stream and sends its own.
fn close_in_order(first: TcpStream, mut second: TcpStream) -> Result<()> {
    first.shutdown(Shutdown::Write)?;
    second.read_to_end(&mut Vec::new())?;
    drop(second);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn each_ending_is_what_it_says() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        for ending in [Ending::ClientFirst, Ending::ServerFirst] {
            connection(&listener, address, ending).unwrap();
        }
        let reset = connection(&listener, address, Ending::Reset).unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn dropping_the_traffic_stops_it_and_frees_the_port() {
        let traffic = Traffic::start().unwrap();
        let address = traffic.address();
        TcpStream::connect_timeout(&address, LIMIT).unwrap();
        drop(traffic);
        assert!(TcpStream::connect_timeout(&address, LIMIT).is_err());
    }
}
