//! Timers that are nobody's TIME_WAIT, and no TCP: two threads that wait for each other's datagram
//! with a time limit, which starts a timer and cancels it each time.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Runs it; returns how many datagrams went to and fro.
pub fn run(seconds: u64) -> Result<u64> {
    let (here, there) = UnixDatagram::pair().context("failed to make a pair of sockets")?;
    for end in [&here, &there] {
        end.set_read_timeout(Some(Duration::from_secs(1)))?;
    }
    // It ends with the other end of its socket, or its time limit.
    let echo = thread::spawn(move || -> io::Result<()> {
        let mut byte = [0];
        while there.recv(&mut byte)? > 0 {
            there.send(&byte)?;
        }
        Ok(())
    });
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0;
    while Instant::now() < deadline {
        here.send(&[1])?;
        here.recv(&mut [0])?;
        rounds += 1;
    }
    drop(here);
    if echo.join().is_err() {
        bail!("the echo has panicked");
    }
    Ok(rounds)
}
