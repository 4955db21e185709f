//! An OpenTelemetry collector as far as a sender can tell: it takes what is sent, and answers as it is
//! told to.

use std::collections::VecDeque;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric, number_data_point};
use prost::Message;
use tokio::sync::oneshot;

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// With this status, and what it asks for in `Retry-After`.
    Status(u16, Option<&'static str>),
    /// Not at all for this long.
    Silence(Duration),
    /// It is taken but for so many records, for a reason.
    Partly(i64, &'static str),
}

/// What came.
#[derive(Debug, Default)]
pub struct Inbox {
    pub metrics: Vec<ExportMetricsServiceRequest>,
    pub logs: Vec<ExportLogsServiceRequest>,
    /// Of every request, those that were not taken among them.
    pub heads: Vec<HeaderMap>,
    /// What the next requests are answered; then all are taken.
    pub answers: VecDeque<Answer>,
}

impl Inbox {
    /// All log records that were taken.
    pub fn records(&self) -> impl Iterator<Item = &LogRecord> {
        let resources = self.logs.iter().flat_map(|request| &request.resource_logs);
        let scopes = resources.flat_map(|resource| &resource.scope_logs);
        scopes.flat_map(|scope| &scope.log_records)
    }

    /// The metrics of the last request.
    pub fn newest(&self) -> impl Iterator<Item = &Metric> {
        let resources = self.metrics.last().into_iter();
        let resources = resources.flat_map(|request| &request.resource_metrics);
        let scopes = resources.flat_map(|resource| &resource.scope_metrics);
        scopes.flat_map(|scope| &scope.metrics)
    }

    /// The newest value of the metric with these attributes.
    pub fn value(&self, name: &str, attributes: &[(&str, &str)]) -> Option<f64> {
        let metric = self.newest().find(|metric| metric.name == name)?;
        let points = match metric.data.as_ref()? {
            metric::Data::Gauge(gauge) => &gauge.data_points,
            metric::Data::Sum(sum) => &sum.data_points,
            _ => return None,
        };
        let point = points.iter().find(|point| {
            let named = |(key, value): &(&str, &str)| {
                text(&point.attributes, key).as_deref() == Some(*value)
            };
            attributes.iter().all(named)
        })?;
        Some(match point.value? {
            number_data_point::Value::AsDouble(value) => value,
            number_data_point::Value::AsInt(value) => value as f64,
        })
    }
}

/// The attribute `key`, as text.
pub fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        any_value::Value::BoolValue(truth) => Some(truth.to_string()),
        other => Some(format!("{other:?}")),
    }
}

/// A collector, running.
pub struct Receiver {
    address: SocketAddr,
    inbox: Arc<Mutex<Inbox>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// One on a free port of this host.
    pub fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"))
    }

    /// One at `address`, where perhaps another one was.
    pub fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a listener");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("its address");
        let inbox = Arc::<Mutex<Inbox>>::default();
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&inbox);
        let thread = thread::spawn(move || serve(listener, shared, stopped));
        Self {
            address,
            inbox,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(|it| it.into_inner())
    }

    /// What the next requests are answered.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.inbox().answers.extend(answers);
    }

    /// Waits until what came is as `wanted`.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&Inbox) -> bool) {
        for _ in 0..1_000 {
            if wanted(&self.inbox()) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("{what} never came: {:#?}", self.inbox());
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: TcpListener, inbox: Arc<Mutex<Inbox>>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let router = Router::new()
        .route("/v1/metrics", post(metrics))
        .route("/v1/logs", post(logs))
        .with_state(inbox);
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let serving = async move { axum::serve(listener, router).await };
        tokio::select! {
            _ = serving => {}
            _ = stopped => {}
        }
    });
}

type Reply = (StatusCode, HeaderMap, Vec<u8>);

/// What becomes of a request.
enum Verdict {
    Taken(Option<ExportLogsPartialSuccess>),
    Turned(Reply),
}

async fn metrics(State(inbox): State<Arc<Mutex<Inbox>>>, head: HeaderMap, body: Bytes) -> Reply {
    match verdict(&inbox, &head).await {
        Verdict::Turned(reply) => reply,
        Verdict::Taken(_) => {
            let request: ExportMetricsServiceRequest = decode(&head, &body);
            inbox.lock().expect("the inbox").metrics.push(request);
            taken_with(&ExportMetricsServiceResponse::default())
        }
    }
}

async fn logs(State(inbox): State<Arc<Mutex<Inbox>>>, head: HeaderMap, body: Bytes) -> Reply {
    match verdict(&inbox, &head).await {
        Verdict::Turned(reply) => reply,
        Verdict::Taken(partial_success) => {
            let request: ExportLogsServiceRequest = decode(&head, &body);
            inbox.lock().expect("the inbox").logs.push(request);
            taken_with(&ExportLogsServiceResponse { partial_success })
        }
    }
}

async fn verdict(inbox: &Mutex<Inbox>, head: &HeaderMap) -> Verdict {
    let answer = {
        let mut inbox = inbox.lock().expect("the inbox");
        inbox.heads.push(head.clone());
        inbox.answers.pop_front()
    };
    let turned = |status: u16, head| {
        let status = StatusCode::from_u16(status).expect("a status");
        Verdict::Turned((status, head, Vec::new()))
    };
    match answer {
        None => Verdict::Taken(None),
        Some(Answer::Partly(rejected_log_records, message)) => {
            Verdict::Taken(Some(ExportLogsPartialSuccess {
                rejected_log_records,
                error_message: message.to_owned(),
            }))
        }
        Some(Answer::Silence(time)) => {
            tokio::time::sleep(time).await;
            turned(200, HeaderMap::new())
        }
        Some(Answer::Status(status, retry_after)) => {
            let wait = retry_after.map(|wait| wait.parse().expect("a value"));
            let wait = wait.map(|wait| (header::RETRY_AFTER, wait));
            turned(status, wait.into_iter().collect())
        }
    }
}

fn taken_with(message: &impl Message) -> Reply {
    let mut head = HeaderMap::new();
    let protobuf = "application/x-protobuf".parse().expect("a value");
    head.insert(header::CONTENT_TYPE, protobuf);
    (StatusCode::OK, head, message.encode_to_vec())
}

fn decode<M: Message + Default>(head: &HeaderMap, body: &[u8]) -> M {
    assert_eq!(head[header::CONTENT_TYPE], "application/x-protobuf");
    let mut plain = Vec::new();
    match head.get(header::CONTENT_ENCODING) {
        Some(encoding) => {
            assert_eq!(encoding, "gzip");
            flate2::read::GzDecoder::new(body)
                .read_to_end(&mut plain)
                .expect("gzip")
        }
        None => body.take(u64::MAX).read_to_end(&mut plain).expect("bytes"),
    };
    M::decode(&*plain).expect("a message")
}
