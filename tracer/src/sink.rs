//! Stdout, written by a thread of its own: a slow reader blocks neither signals nor, until the
//! queue is full, the ring.

mod descriptor;
mod outlet;

use std::io;
use std::os::fd::AsFd as _;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use descriptor::{Descriptor, Gathering};
pub use outlet::Outlet;

use crate::clock;
use crate::pace::Pace;

/// Chunks that may wait to be written: some 16 MiB at full load.
const QUEUE: usize = 64;
/// Chunks that are kept to be filled again.
const SPARE: usize = 16;
/// Small chunks that are written at once in a burst. To wake up for each, and to write it, costs more
/// than to make its lines.
const AT_ONCE: u32 = 16;
/// How long the last lines may take once the end was asked for.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The writing end.
#[derive(Debug)]
pub struct Sink {
    chunks: mpsc::Sender<BytesMut>,
    /// Chunks that have been written: their room is used again.
    written: mpsc::Receiver<BytesMut>,
    done: oneshot::Receiver<io::Result<()>>,
    thread: JoinHandle<()>,
}

impl Sink {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where there can be no more threads.
    pub fn stdout() -> io::Result<Self> {
        let (chunks, mut queue) = mpsc::channel::<BytesMut>(QUEUE);
        let (give_back, written) = mpsc::channel(SPARE);
        let (tell, done) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("stdout".to_owned())
            .spawn(move || {
                let stdout = io::stdout().lock();
                let mut stdout = Descriptor::new(stdout.as_fd());
                let mut result = Ok(());
                let mut chunks = Vec::new();
                let Gathering { enough, patience } = stdout.gathering();
                let mut pace = Pace::new(AT_ONCE, patience, clock::monotonic());
                while let Some(chunk) = queue.blocking_recv() {
                    if chunk.len() < enough && !pace.may(clock::monotonic()) {
                        thread::sleep(patience);
                        pace.may(clock::monotonic());
                    }
                    chunks.push(chunk);
                    while chunks.len() < QUEUE
                        && let Ok(chunk) = queue.try_recv()
                    {
                        chunks.push(chunk);
                    }
                    result = stdout.write_all(&chunks);
                    if result.is_err() {
                        break;
                    }
                    for mut chunk in chunks.drain(..) {
                        chunk.clear();
                        // Where there are enough already it is dropped.
                        let _ = give_back.try_send(chunk);
                    }
                }
                drop(queue);
                // Nobody waits for the result any more when the process is about to end.
                let _ = tell.send(result);
            })?;
        Ok(Self {
            chunks,
            written,
            done,
            thread,
        })
    }

    /// Hands over what `buffer` holds and leaves it empty. Waits while the queue is full; does
    /// nothing once stdout is closed. Cancel safe: until there is room the buffer keeps all.
    pub async fn send(&mut self, buffer: &mut BytesMut) {
        if !buffer.is_empty()
            // A closed queue is told by closed() and finish().
            && let Ok(room) = self.chunks.reserve().await
        {
            let spare = self.written.try_recv().unwrap_or_default();
            room.send(std::mem::replace(buffer, spare));
        }
    }

    /// The same at the end, when a reader that does not read must not keep us.
    pub async fn send_last(&mut self, buffer: &mut BytesMut) {
        // What finds no room now is told by finish().
        let _ = timeout(LAST_WORDS, self.send(buffer)).await;
    }

    /// Waits until stdout takes no more.
    pub async fn closed(&self) {
        self.chunks.closed().await;
    }

    /// Waits for what was handed over to be written. A closed pipe is a quiet end.
    ///
    /// # Errors
    /// Where stdout could not be written for another reason.
    pub async fn finish(self) -> io::Result<()> {
        let Self {
            chunks,
            done,
            thread,
            written: _,
        } = self;
        drop(chunks);
        match timeout(LAST_WORDS, done).await {
            Ok(Ok(Err(error))) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Ok(Ok(result)) => {
                // The thread has sent its result: it ends at once.
                let _ = thread.join();
                result
            }
            Ok(Err(_)) => Err(io::Error::other("the thread that writes stdout died")),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "nobody reads stdout",
            )),
        }
    }
}
