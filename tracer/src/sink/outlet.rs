//! Where a consumer's text goes.

use std::future;
use std::io;

use bytes::BytesMut;

use super::Sink;

/// Stdout, or nowhere: a daemon's consumer writes no text.
#[derive(Debug)]
pub enum Outlet {
    /// To stdout.
    Stdout(Sink),
    /// What is written is dropped.
    Nowhere,
}

impl Outlet {
    /// As [`Sink::send`].
    pub async fn send(&mut self, buffer: &mut BytesMut) {
        match self {
            Self::Stdout(sink) => sink.send(buffer).await,
            Self::Nowhere => buffer.clear(),
        }
    }

    /// As [`Sink::send_last`].
    pub async fn send_last(&mut self, buffer: &mut BytesMut) {
        match self {
            Self::Stdout(sink) => sink.send_last(buffer).await,
            Self::Nowhere => buffer.clear(),
        }
    }

    /// As [`Sink::closed`].
    pub async fn closed(&self) {
        match self {
            Self::Stdout(sink) => sink.closed().await,
            Self::Nowhere => future::pending().await,
        }
    }

    /// As [`Sink::finish`].
    ///
    /// # Errors
    /// Where stdout could not be written for another reason than that it is closed.
    pub async fn finish(self) -> io::Result<()> {
        match self {
            Self::Stdout(sink) => sink.finish().await,
            Self::Nowhere => Ok(()),
        }
    }
}
