//! A process of a scene: a server, or a client that connects again and again.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

/// What a process is to do.
#[derive(Clone, Debug, Args)]
pub struct Part {
    /// What it is called.
    #[arg(long)]
    pub name: String,
    /// Listen there.
    #[arg(long, conflicts_with = "connect")]
    pub listen: Option<SocketAddr>,
    /// Connect there.
    #[arg(long)]
    pub connect: Option<SocketAddr>,
    /// When it closes.
    #[arg(long, value_enum, default_value = "last")]
    pub close: Close,
    /// Connections to be made before it waits for `go`.
    #[arg(long, default_value_t = u64::MAX)]
    pub first: u64,
    /// The same a second; 0: as fast as can be.
    #[arg(long, default_value_t = 0)]
    pub first_rate: u64,
    /// Connections a second after `go`; 0: as fast as can be.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// How long a connection is kept before it is closed, milliseconds.
    #[arg(long, default_value_t = 0)]
    pub keep: u64,
    /// By how much that rate grows each second.
    #[arg(long, default_value_t = 0)]
    pub growth: u64,
}

/// When an end closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Close {
    /// Before the other end.
    First,
    /// After it.
    Last,
    /// Not at all.
    Never,
}

/// No process of a scene lives longer.
const AT_MOST: Duration = Duration::from_secs(240);

/// Plays the part until its stdin ends.
pub fn play(part: &Part) {
    let name = std::ffi::CString::new(part.name.as_str()).expect("a name without NUL");
    rustix::thread::set_name(&name).expect("set the process's name");
    thread::spawn(|| {
        thread::sleep(AT_MOST);
        std::process::exit(0);
    });
    match (part.listen, part.connect) {
        (Some(address), _) => serve(address, part.close),
        (None, Some(address)) => connect(address, part),
        (None, None) => panic!("neither --listen nor --connect"),
    }
}

fn say(words: &str) {
    // Nobody listens any more: the scene is over.
    if writeln!(io::stdout(), "{words}").is_err() {
        std::process::exit(0);
    }
}

/// The lines of stdin; the process ends with them.
fn orders() -> Receiver<String> {
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
    orders
}

fn serve(address: SocketAddr, close: Close) {
    let orders = orders();
    let listener = TcpListener::bind(address).expect("listen");
    let listener = Arc::new(listener);
    let kept = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..2 {
        let (listener, kept) = (Arc::clone(&listener), Arc::clone(&kept));
        thread::spawn(move || {
            // A client that resets or has gone is its own business.
            while let Ok((mut stream, _)) = listener.accept() {
                if stream.read_exact(&mut [0]).is_err() || stream.write_all(b"!").is_err() {
                    continue;
                }
                match close {
                    Close::First => {}
                    Close::Last => {
                        let _ = stream.read(&mut [0]);
                    }
                    Close::Never => kept.lock().expect("nobody panics").push(stream),
                }
            }
        });
    }
    say("ready");
    // Only the end of stdin is of interest.
    while orders.recv().is_ok() {}
}

/// What a client has done.
#[derive(Default)]
struct Tally {
    made: AtomicU64,
    no_port: AtomicU64,
    refused: AtomicU64,
    other: AtomicU64,
}

impl Tally {
    fn attempt(&self, address: SocketAddr, close: Close, kept: &mut Kept) -> bool {
        kept.close();
        match TcpStream::connect(address) {
            Ok(mut stream) => {
                self.made.fetch_add(1, SeqCst);
                let _ = stream
                    .write_all(b"?")
                    .and_then(|()| stream.read_exact(&mut [0]));
                if close == Close::Last {
                    let _ = stream.read(&mut [0]);
                }
                kept.keep(stream);
                true
            }
            Err(error) => {
                let count = match error.kind() {
                    ErrorKind::AddrNotAvailable => &self.no_port,
                    ErrorKind::ConnectionRefused => &self.refused,
                    _ => &self.other,
                };
                count.fetch_add(1, SeqCst);
                false
            }
        }
    }

    fn say(&self, what: &str) {
        let of = |count: &AtomicU64| count.swap(0, SeqCst);
        say(&format!(
            "{what} {{\"made\":{},\"no_port\":{},\"refused\":{},\"other\":{}}}",
            of(&self.made),
            of(&self.no_port),
            of(&self.refused),
            of(&self.other)
        ));
    }
}

/// Connections that are kept for a while.
struct Kept {
    streams: VecDeque<(Instant, TcpStream)>,
    lasting: Duration,
}

impl Kept {
    fn keep(&mut self, stream: TcpStream) {
        self.streams.push_back((Instant::now(), stream));
        self.close();
    }

    /// Closes those whose time is over.
    fn close(&mut self) {
        let streams = self.streams.iter();
        let over = streams.take_while(|(since, _)| since.elapsed() >= self.lasting);
        let over = over.count();
        self.streams.drain(..over);
    }
}

fn connect(address: SocketAddr, part: &Part) {
    let mut kept = Kept {
        streams: VecDeque::new(),
        lasting: Duration::from_millis(part.keep),
    };
    let orders = orders();
    let tally = Tally::default();
    let mut pace = Pace::new(part.first_rate, 0);
    for _ in 0..part.first {
        pace.wait();
        if !tally.attempt(address, part.close, &mut kept) {
            break;
        }
    }
    tally.say("ready");
    while let Ok(order) = orders.recv() {
        if order != "go" {
            continue;
        }
        let mut pace = Pace::new(part.rate, part.growth);
        while let Err(TryRecvError::Empty) = orders.try_recv() {
            kept.close();
            if !pace.wait_briefly() {
                continue;
            }
            tally.attempt(address, part.close, &mut kept);
        }
        tally.say("held");
    }
}

/// Evenly paced, at a rate that may grow.
struct Pace {
    started: Instant,
    rate: f64,
    growth: f64,
    done: u64,
}

impl Pace {
    fn new(rate: u64, growth: u64) -> Self {
        Self {
            started: Instant::now(),
            rate: rate as f64,
            growth: growth as f64,
            done: 0,
        }
    }

    /// How many are due by now.
    fn due(&self) -> u64 {
        let seconds = self.started.elapsed().as_secs_f64();
        match self.rate == 0.0 {
            true => u64::MAX,
            false => (self.rate * seconds + self.growth * seconds * seconds / 2.0) as u64,
        }
    }

    /// Waits until the next is due.
    fn wait(&mut self) {
        while !self.wait_briefly() {}
    }

    /// Whether the next is due, after a short wait at the most.
    fn wait_briefly(&mut self) -> bool {
        if self.due() <= self.done {
            thread::sleep(Duration::from_millis(1));
            return false;
        }
        self.done += 1;
        true
    }
}
