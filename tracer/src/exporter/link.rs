//! Requests to the collector, and what its answers mean.

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::fmt::rfc2822;
use prost::Message;
use rustls::{ClientConfig, RootCertStore};

use super::StartError;
use crate::clock;
use crate::config::agent::{Compression, Otlp};

/// The largest answer that is read: it tells what was rejected, and why.
const LARGEST_ANSWER: usize = 64 << 10;

/// The way to one collector.
pub(super) struct Link {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    metrics: Uri,
    logs: Uri,
    headers: HeaderMap,
    compression: Compression,
    timeout: Duration,
}

/// A message as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Body {
    bytes: Bytes,
    is_packed: bool,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was taken; the answer's body.
    Taken(Bytes),
    /// It may be taken later, and how much later the collector asks for.
    Later(String, Option<Duration>),
    /// It will never be taken.
    Refused(String),
}

impl Link {
    /// To the collector of `otlp`.
    ///
    /// # Errors
    /// Where no server could be believed: there are no certificate authorities.
    pub fn new(otlp: &Otlp) -> Result<Self, StartError> {
        let base = otlp.endpoint.uri();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = match base.scheme_str() {
            Some("https") => tls.with_native_roots().map_err(StartError::Authorities)?,
            _ => tls.with_root_certificates(RootCertStore::empty()),
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .build();
        let mut headers = HeaderMap::new();
        let ours = concat!("tracer/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(ours));
        headers.extend(otlp.headers.clone());
        // Whatever else is asked for, this is what is sent.
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        headers.insert(CONTENT_TYPE, protobuf);
        headers.remove(CONTENT_ENCODING);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            metrics: below(base, "/v1/metrics")?,
            logs: below(base, "/v1/logs")?,
            headers,
            compression: otlp.compression,
            timeout: otlp.timeout,
        })
    }

    /// Where metrics go.
    pub const fn metrics(&self) -> &Uri {
        &self.metrics
    }

    /// Where log records go.
    pub const fn logs(&self) -> &Uri {
        &self.logs
    }

    /// What is sent of a message.
    pub fn body(&self, message: &impl Message) -> Body {
        let plain = message.encode_to_vec();
        let packed = match self.compression {
            Compression::Gzip => pack(&plain).ok(),
            Compression::None => None,
        };
        Body {
            is_packed: packed.is_some(),
            bytes: packed.unwrap_or(plain).into(),
        }
    }

    /// Sends `body`, and waits for the answer no longer than is configured.
    pub async fn post(&self, uri: &Uri, body: Body) -> Answer {
        let mut request = Request::new(Full::new(body.bytes));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = self.headers.clone();
        if body.is_packed {
            let gzip = HeaderValue::from_static("gzip");
            request.headers_mut().insert(CONTENT_ENCODING, gzip);
        }
        let exchange = async {
            let (head, body) = self.client.request(request).await?.into_parts();
            // What cannot be read of it is not missed: the status says whether it was taken.
            let body = Limited::new(body, LARGEST_ANSWER).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            Ok::<_, hyper_util::client::legacy::Error>(Response::from_parts(head, body))
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok(response)) => answer(response),
            Ok(Err(error)) => Answer::Later(with_sources(&error), None),
            Err(_) => Answer::Later(format!("no answer within {:?}", self.timeout), None),
        }
    }
}

fn pack(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(plain)?;
    packed.finish()
}

/// As the protocol says it.
fn answer(response: Response<Bytes>) -> Answer {
    let status = response.status();
    match status {
        status if status.is_success() => Answer::Taken(response.into_body()),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let asked = response.headers().get(RETRY_AFTER);
            Answer::Later(status.to_string(), asked.and_then(wait))
        }
        _ => Answer::Refused(status.to_string()),
    }
}

/// `Retry-After`: seconds, or a date.
fn wait(value: &HeaderValue) -> Option<Duration> {
    let value = value.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = rfc2822::parse(value).ok()?.timestamp().as_nanosecond();
    let now = clock::wall_offset().unix_nanoseconds(clock::monotonic());
    Some(Duration::from_nanos(
        u64::try_from(until - now).unwrap_or(0),
    ))
}

/// `base` with `path` behind it.
fn below(base: &Uri, path: &str) -> Result<Uri, http::Error> {
    let mut parts = base.clone().into_parts();
    let path = format!("{}{path}", base.path().trim_end_matches('/'));
    parts.path_and_query = Some(PathAndQuery::try_from(path)?);
    Ok(Uri::from_parts(parts)?)
}

/// An error and all that led to it.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, retry_after: Option<&str>) -> Answer {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        if let Some(value) = retry_after {
            let value = HeaderValue::from_str(value).unwrap();
            response.headers_mut().insert(RETRY_AFTER, value);
        }
        answer(response)
    }

    #[test]
    fn only_what_the_protocol_calls_passing_is_tried_again() {
        for status in [429, 502, 503, 504] {
            assert!(matches!(answered(status, None), Answer::Later(_, None)));
        }
        for status in [301, 307, 400, 401, 404, 408, 413, 415, 500, 501, 505] {
            assert!(matches!(answered(status, None), Answer::Refused(_)));
        }
        for status in [200, 202, 204] {
            assert!(matches!(answered(status, None), Answer::Taken(_)));
        }
    }

    #[test]
    fn a_collector_asks_for_seconds_or_names_a_date() {
        let asked = |value| match answered(503, Some(value)) {
            Answer::Later(_, asked) => asked,
            other => panic!("{other:?}"),
        };
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let wait = asked("Fri, 31 Dec 2100 23:59:59 GMT").unwrap();
        assert!(wait > Duration::from_secs(1_000_000_000));
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("-1"), None);
    }

    #[test]
    fn the_paths_are_put_behind_the_base() {
        let below = |base: &str| {
            below(&base.parse().unwrap(), "/v1/logs")
                .unwrap()
                .to_string()
        };
        assert_eq!(below("http://c:4318"), "http://c:4318/v1/logs");
        assert_eq!(below("http://c:4318/"), "http://c:4318/v1/logs");
        assert_eq!(
            below("https://[::1]/opentelemetry/"),
            "https://[::1]/opentelemetry/v1/logs"
        );
    }
}
