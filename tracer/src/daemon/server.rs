//! /metrics and /healthz, served by a thread of their own: whoever reads slowly, or a hundred at
//! once, takes nothing from the loop but processor time.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::sync::watch;

use super::Health;
use crate::metrics::Family;
use crate::output::prometheus::{self, Exposition};

/// What there is to read, as of the last second.
#[derive(Clone, Debug)]
pub struct Scrape {
    pub families: Arc<Vec<Family>>,
    pub health: Health,
}

/// A server that has its address already.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    pub fn new(listener: TcpListener) -> Self {
        Self { listener }
    }

    /// Begins to serve what `scrapes` holds.
    ///
    /// # Errors
    /// Where there can be no more threads, or the socket cannot be used.
    pub fn start(self, scrapes: watch::Receiver<Scrape>) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(health))
            .with_state(scrapes);
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            axum::serve(listener, router).await
        };
        thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                if let Err(error) = runtime.block_on(serve) {
                    tracing::error!("failed to serve /metrics: {error}");
                }
            })?;
        Ok(())
    }
}

async fn metrics(State(scrapes): State<watch::Receiver<Scrape>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT);
    let accept = accept.and_then(|value| value.to_str().ok());
    let exposition = Exposition::accepted(accept.unwrap_or_default());
    let families = Arc::clone(&scrapes.borrow().families);
    match prometheus::write(families, exposition) {
        Ok(text) => ([(header::CONTENT_TYPE, exposition.content_type())], text).into_response(),
        Err(error) => {
            tracing::error!("failed to write the metrics: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn health(State(scrapes): State<watch::Receiver<Scrape>>) -> Response {
    let health = scrapes.borrow().health.clone();
    let status = match health.healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(health)).into_response()
}
