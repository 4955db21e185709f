//! What several JSON objects show alike: views that borrow and serialise. What was never seen is
//! null. Rows, of which there are many, are written by [`super::ndjson`] itself.

use serde::{Serialize, Serializer};
use tracer_common::tcp::Endpoint;

use crate::attribution::Container;
use crate::filter::until_nul;
use crate::time::{Timestamp, WallOffset};

/// A time stamp as RFC 3339 in UTC, to the nanosecond.
#[derive(Clone, Copy)]
pub(super) struct Moment(pub Timestamp, pub WallOffset);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match jiff::Timestamp::from_nanosecond(self.1.unix_nanoseconds(self.0)) {
            Ok(at) => serializer.collect_str(&format_args!("{at:.9}")),
            Err(_) => serializer.serialize_none(),
        }
    }
}

/// A 64-bit id as a string, since JavaScript and jq drop digits; 0 is none.
pub(super) struct Id(pub u64);

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            0 => serializer.serialize_none(),
            id => serializer.collect_str(&id),
        }
    }
}

/// A NUL-padded name; what is not UTF-8 in it is replaced.
pub(super) struct Name<'a>(pub &'a [u8; 16]);

impl Serialize for Name<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(until_nul(self.0)))
    }
}

/// A container.
#[derive(Serialize)]
pub(super) struct ContainerView<'a> {
    id: &'a str,
    runtime: Option<&'static str>,
    pod_uid: Option<&'a str>,
}

impl<'a> From<&'a Container> for ContainerView<'a> {
    fn from(container: &'a Container) -> Self {
        Self {
            id: &container.id,
            runtime: container.runtime.name(),
            pod_uid: container.pod_uid.as_deref(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct EndpointView {
    #[serde(serialize_with = "address")]
    address: Endpoint,
    port: Option<u16>,
}

fn address<S: Serializer>(end: &Endpoint, serializer: S) -> Result<S::Ok, S::Error> {
    match end.address.is_unspecified() {
        true => serializer.serialize_none(),
        false => serializer.collect_str(&end.address),
    }
}

impl From<Endpoint> for EndpointView {
    fn from(end: Endpoint) -> Self {
        Self {
            address: end,
            port: (end.port != 0).then_some(end.port),
        }
    }
}
