//! /metrics and /healthz, served by a thread of their own: whoever reads slowly, or a hundred at
//! once, takes nothing from the loop but processor time.
//!
//! Nor does it take descriptors or memory without bound: a connection is for one request and has its
//! time, and where there are too many the oldest is closed, so that whoever comes next is answered.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time;

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
    limits: Limits,
}

impl Server {
    pub fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            limits: Limits::STANDARD,
        }
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
            Ok::<Infallible, io::Error>(serve(listener, router, self.limits).await)
        };
        thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                let Err(error) = runtime.block_on(serve);
                tracing::error!("failed to serve /metrics: {error}");
            })?;
        Ok(())
    }
}

/// What clients may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at once.
    connections: usize,
    /// How long a request's head may take.
    head: Duration,
    /// How long a connection may take, from its beginning to the last byte that is read of the
    /// answer.
    whole: Duration,
}

impl Limits {
    /// As the configuration's template says.
    const STANDARD: Self = Self {
        connections: 64,
        head: Duration::from_secs(5),
        whole: Duration::from_secs(30),
    };
    /// Bytes of a request's head.
    const HEAD: usize = 16 * 1024;
    /// How long nobody is accepted after that has failed: for want of descriptors, as a rule.
    const PAUSE: Duration = Duration::from_millis(100);
}

/// Serves whoever comes.
async fn serve(listener: tokio::net::TcpListener, router: Router, limits: Limits) -> Infallible {
    // The oldest first.
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("failed to accept a connection: {error}");
                time::sleep(Limits::PAUSE).await;
                continue;
            }
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= limits.connections
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
            // Its descriptor is closed before there is another.
            tokio::task::yield_now().await;
        }
        let answer = tokio::spawn(answer(stream, router.clone(), limits));
        connections.push_back(answer.abort_handle());
    }
}

/// Answers one request. What goes wrong is the client's concern.
async fn answer(stream: TcpStream, router: Router, limits: Limits) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .max_buf_size(Limits::HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match time::timeout(limits.whole, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a request failed: {error}"),
        Err(_) => tracing::debug!("a request took longer than {:?}", limits.whole),
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Sample, Unit, Value};

    /// Longer than any answer takes.
    const SOON: Duration = Duration::from_secs(10);

    /// A server of `count` samples.
    fn start(limits: Limits, count: usize) -> (SocketAddr, watch::Sender<Scrape>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let samples = (0..count).map(|number| {
            let label = ("number", number.to_string().into());
            Sample::of([label], Value::Gauge(1.0))
        });
        let family = Family::new("tracer_test", "A test", Unit::None, samples);
        let (scrapes, watched) = watch::channel(Scrape {
            families: Arc::new(vec![family]),
            health: Health::starting(),
        });
        let server = Server { listener, limits };
        server.start(watched).expect("a thread");
        (address, scrapes)
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream
    }

    fn get(address: SocketAddr) -> String {
        let mut stream = connect(address);
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// What is read until the server closes the connection; a reset is no more than that.
    fn read_to_end(stream: &mut TcpStream) -> usize {
        let mut bytes = [0; 65_536];
        let mut read = 0;
        loop {
            match stream.read(&mut bytes) {
                Ok(0) => return read,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return read,
                Err(error) => panic!("it is not closed: {error}"),
            }
        }
    }

    #[test]
    fn where_too_many_connect_the_oldest_are_closed_and_the_next_is_answered() {
        let limits = Limits {
            connections: 8,
            head: 10 * SOON,
            whole: 10 * SOON,
        };
        let (address, _scrapes) = start(limits, 1);
        let mut idle: Vec<_> = (0..100).map(|_| connect(address)).collect();
        let answer = get(address);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        for closed in idle.iter_mut().take(92) {
            assert_eq!(read_to_end(closed), 0);
        }
        let last = idle.last_mut().expect("the last");
        last.set_nonblocking(true).expect("a mode");
        let error = last.read(&mut [0]).expect_err("it is still there");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn who_takes_too_long_to_ask_is_closed() {
        let head = Duration::from_millis(500);
        let limits = Limits {
            head,
            ..Limits::STANDARD
        };
        let (address, _scrapes) = start(limits, 1);
        let mut silent = connect(address);
        let mut slow = connect(address);
        // A byte now and then, without end.
        let mut sent = 0;
        while slow.write_all(b"G").is_ok() {
            sent += 1;
            assert!(sent < 200, "it listens on");
            thread::sleep(head / 10);
        }
        assert_eq!(read_to_end(&mut silent), 0);
        assert!(get(address).starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn who_takes_too_long_to_read_is_closed() {
        let whole = Duration::from_millis(500);
        let limits = Limits {
            whole,
            ..Limits::STANDARD
        };
        // More than the socket's buffers hold.
        let (address, _scrapes) = start(limits, 1_000_000);
        let mut slow = connect(address);
        write!(slow, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
        thread::sleep(10 * whole);
        let read = read_to_end(&mut slow);
        assert!(read < 16_000_000, "all but {read} bytes of 30 millions");
    }

    #[test]
    fn a_connection_is_for_one_request() {
        let (address, _scrapes) = start(Limits::STANDARD, 1);
        let answer = get(address);
        assert!(
            answer.to_lowercase().contains("connection: close"),
            "{answer}"
        );
    }
}
