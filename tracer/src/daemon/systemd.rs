//! What systemd is told, where it asks for it. Elsewhere nothing is done.

use sd_notify::NotifyState;

/// The probes are attached, and what is served can be read.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The loop is alive, and how things are.
pub fn alive(status: &str) {
    tell(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// The configuration is read again.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("failed to read the clock for systemd: {error}"),
    }
}

/// It ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("failed to tell systemd: {error}");
    }
}
