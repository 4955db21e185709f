//! So many connections a second, evenly paced: connect, a request, the answer, the end.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{Timespec, epoll::Event};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use serde_json::{Value, json};

use crate::stage::Stage;

const THREADS: u64 = 2;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n";

/// A connection that begins later than this after it was due counts as late.
const LATE: Duration = Duration::from_millis(1);

/// What is overdue begins in bursts of so many: answers are waiting too.
const AT_ONCE: u32 = 16;

/// What stands for the timer among descriptors.
const TIMER: u64 = u64::MAX;

/// How long the last connections are waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// From connect() to the first byte of the answer, nanoseconds, in ascending order.
    latencies: Vec<u64>,
    begun: u64,
    failed: u64,
    late: u64,
    /// From the first connection to the last one's beginning, the longest of the threads'.
    took: Duration,
}

/// Runs it.
pub fn run(stage: &Stage, rate: u64, seconds: u64) -> Result<Outcome> {
    let threads = THREADS.min(rate);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let work = |first| {
            scope.spawn(move || {
                stage.pair.first.enter();
                // The rest of the division goes to the first thread.
                let share = rate / threads + if first == 0 { rate % threads } else { 0 };
                Driver::new(share, first)?.run(share * seconds)
            })
        };
        let running: Vec<_> = (0..threads).map(work).collect();
        running.into_iter().map(|it| it.join()).collect()
    });
    let mut sum = Outcome::default();
    for outcome in outcomes {
        match outcome {
            Ok(outcome) => sum.add(outcome?),
            Err(_) => bail!("a thread of the driver has panicked"),
        }
    }
    sum.latencies.sort_unstable();
    Ok(sum)
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.begun += other.begun;
        self.failed += other.failed;
        self.late += other.late;
        self.took = self.took.max(other.took);
    }

    fn quantile(&self, share: f64) -> u64 {
        let last = self.latencies.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        self.latencies.get(index).copied().unwrap_or(0)
    }

    /// For the answer.
    pub fn view(&self) -> Value {
        json!({
            "begun": self.begun, "answered": self.latencies.len(), "failed": self.failed,
            "late": self.late, "rate": self.begun as f64 / self.took.as_secs_f64(),
            "p50_ns": self.quantile(0.5), "p99_ns": self.quantile(0.99),
            "max_ns": self.quantile(1.0),
        })
    }
}

/// One thread's share.
struct Driver<S> {
    epoll: OwnedFd,
    timer: OwnedFd,
    interval: Duration,
    servers: S,
    /// By descriptor.
    open: Vec<Option<Connection>>,
    alive: usize,
    outcome: Outcome,
}

struct Connection {
    socket: OwnedFd,
    begun: Instant,
    asked: bool,
    answered: bool,
}

impl Driver<()> {
    fn new(rate: u64, first: u64) -> Result<Driver<impl Iterator<Item = SocketAddr>>> {
        let interval = Duration::from_secs(1) / u32::try_from(rate).context("too fast")?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        let first = usize::try_from(first)?;
        Ok(Driver {
            epoll,
            timer,
            interval,
            servers: Stage::servers().cycle().skip(first),
            open: Vec::new(),
            alive: 0,
            outcome: Outcome::default(),
        })
    }
}

impl<S: Iterator<Item = SocketAddr>> Driver<S> {
    fn run(mut self, count: u64) -> Result<Outcome> {
        let every = Timespec {
            tv_sec: i64::try_from(self.interval.as_secs())?,
            tv_nsec: self.interval.subsec_nanos().into(),
        };
        let every = Itimerspec {
            it_interval: every,
            it_value: every,
        };
        let started = Instant::now();
        // It fires when the next one is due, not between two.
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &every)?;
        let mut given_up = None;
        while self.outcome.begun < count || self.alive > 0 {
            if self.outcome.begun < count {
                self.begin_what_is_due(started, count)?;
                self.outcome.took = started.elapsed();
            } else if started.elapsed() > *given_up.get_or_insert(self.outcome.took + PATIENCE) {
                self.outcome.failed += self.alive as u64;
                break;
            }
            self.handle_events(self.outcome.begun == count || !self.is_due(started)?)?;
        }
        Ok(self.outcome)
    }

    fn begin_what_is_due(&mut self, started: Instant, count: u64) -> Result<()> {
        for _ in 0..AT_ONCE {
            if self.outcome.begun == count {
                return Ok(());
            }
            let due = self.interval * u32::try_from(self.outcome.begun)?;
            let now = started.elapsed();
            if due > now {
                return Ok(());
            }
            self.outcome.late += u64::from(now - due > LATE);
            self.outcome.begun += 1;
            if let Err(error) = self.begin() {
                if error.kind() == io::ErrorKind::AddrNotAvailable {
                    bail!("the client has no port left");
                }
                self.outcome.failed += 1;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        let server = self.servers.next().ok_or(io::ErrorKind::NotFound)?;
        let begun = Instant::now();
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )?;
        match connect(&socket, &server) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let descriptor = socket.as_raw_fd();
        let data = EventData::new_u64(u64::from(descriptor.unsigned_abs()));
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket, data, flags)?;
        let place = usize::try_from(descriptor).map_err(io::Error::other)?;
        if place >= self.open.len() {
            self.open.resize_with(place + 1, || None);
        }
        self.open[place] = Some(Connection {
            socket,
            begun,
            asked: false,
            answered: false,
        });
        self.alive += 1;
        Ok(())
    }

    /// Whether another one ought to have begun.
    fn is_due(&self, started: Instant) -> Result<bool> {
        Ok(self.interval * u32::try_from(self.outcome.begun)? <= started.elapsed())
    }

    fn handle_events(&mut self, may_wait: bool) -> Result<()> {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; 256];
        let longest = Timespec {
            tv_sec: 0,
            tv_nsec: if may_wait { 10_000_000 } else { 0 },
        };
        let ready = match epoll::wait(&self.epoll, &mut events, Some(&longest)) {
            Ok((ready, _)) => ready,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in ready {
            if event.data.u64() == TIMER {
                // It runs on only once it has been read.
                let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                continue;
            }
            let place = usize::try_from(event.data.u64())?;
            let Some(Some(connection)) = self.open.get_mut(place) else {
                continue;
            };
            let step = connection.step(event.flags, &mut self.outcome.latencies);
            if let Ok(false) = step {
                continue;
            }
            self.outcome.failed += u64::from(step.is_err());
            self.open[place] = None;
            self.alive -= 1;
        }
        Ok(())
    }
}

impl Connection {
    /// Does what the event allows; whether it is over.
    fn step(&mut self, ready: EventFlags, latencies: &mut Vec<u64>) -> io::Result<bool> {
        if !self.asked && ready.contains(EventFlags::OUT) {
            send(&self.socket, REQUEST, SendFlags::NOSIGNAL)?;
            self.asked = true;
        }
        if !ready.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
        {
            return Ok(false);
        }
        let mut buffer = [0; 1024];
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) if self.answered => return Ok(true),
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if self.answered => {}
                Ok(_) => {
                    self.answered = true;
                    let took = self.begun.elapsed().as_nanos();
                    latencies.push(u64::try_from(took).unwrap_or(u64::MAX));
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
