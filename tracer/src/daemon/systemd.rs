//! What systemd is told, where it asks for it. Elsewhere nothing is done.
//!
//! Its socket takes few messages: who sends to it waits while it is busy. So a thread of its own
//! sends, and what it cannot keep up with is dropped: the loop must not wait.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// How many messages wait at most.
const QUEUE: usize = 64;
/// How long the end waits for the last one.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The directory that the service keeps what it must know later in, where systemd made it one.
pub fn state_directory() -> Option<PathBuf> {
    let directories = std::env::var_os("STATE_DIRECTORY")?;
    // There may be several, with colons between them.
    std::env::split_paths(&directories).next()
}

/// The service manager that started us; the default: nobody.
#[derive(Debug, Default)]
pub struct Manager(Option<Line>);

#[derive(Debug)]
struct Line {
    queue: SyncSender<Message>,
    /// Ends when all has been sent.
    sent: Receiver<()>,
}

enum Message {
    Ready,
    Alive(String),
    Reloading,
    Stopping,
}

impl Manager {
    /// The one that the environment names, if any. To be called once no more than what is needed may
    /// be done: the thread that it starts may do as much for ever.
    pub fn of_environment() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self(None);
        }
        let (queue, messages) = sync_channel(QUEUE);
        let (done, sent) = sync_channel(0);
        let tell_all = move || {
            for message in messages {
                tell(&message);
            }
            drop(done);
        };
        let thread = thread::Builder::new().name("systemd".to_owned());
        if let Err(error) = thread.spawn(tell_all) {
            tracing::error!("failed to start the thread that tells systemd: {error}");
        }
        Self(Some(Line { queue, sent }))
    }

    /// The probes are attached, and what is served can be read.
    pub fn ready(&self) {
        self.tell(Message::Ready);
    }

    /// The loop is alive, and how things are.
    pub fn alive(&self, status: String) {
        self.tell(Message::Alive(status));
    }

    /// The configuration is read again.
    pub fn reloading(&self) {
        self.tell(Message::Reloading);
    }

    /// It ends. Waits for a moment until that has been told.
    pub fn stopping(&mut self) {
        self.tell(Message::Stopping);
        if let Some(Line { queue, sent }) = self.0.take() {
            drop(queue);
            let _ = sent.recv_timeout(LAST_WORDS);
        }
    }

    fn tell(&self, message: Message) {
        if let Some(Line { queue, .. }) = &self.0 {
            // Full: it has not listened for a minute.
            let _ = queue.try_send(message);
        }
    }
}

fn tell(message: &Message) {
    let told = match message {
        Message::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Message::Alive(status) => {
            sd_notify::notify(&[NotifyState::Watchdog, NotifyState::Status(status)])
        }
        Message::Reloading => NotifyState::monotonic_usec_now()
            .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
        Message::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    };
    if let Err(error) = told {
        tracing::warn!("failed to tell systemd: {error}");
    }
}
