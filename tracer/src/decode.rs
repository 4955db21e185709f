//! From the ring's bytes to [`Event`]s.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf as _, Bytes};
use tracer_common::event::{CloseFacts, Header, Kind, calls};
use tracer_common::tcp::{Endpoint, Flow, TcpState};

use crate::stream::{Body, Call, Event, FailedCall, Minisocket, Socket, Task};
use crate::time::Timestamp;

/// Why a record could not be decoded. The rest of the batch is still good where the length is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than a record of that kind has.
    #[error("a record of kind {kind} has {have} bytes, its fields need more")]
    Short {
        /// The kind's number.
        kind: u8,
        /// Bytes that it has.
        have: usize,
    },
    /// The length in the header is impossible; nothing behind it can be found.
    #[error("a record says that it has {len} bytes where {have} are left")]
    Length {
        /// What it says.
        len: u16,
        /// What is there.
        have: usize,
    },
    /// A kind of a later version.
    #[error("a record has the unknown kind {0}")]
    UnknownKind(u8),
    /// A number that is no TCP state.
    #[error("a record has the unknown TCP state {0}")]
    UnknownState(u8),
    /// A family that is neither 4 nor 6.
    #[error("a record has the unknown address family {0}")]
    UnknownFamily(u8),
    /// A system call of a later version.
    #[error("a record has the unknown system call {0}")]
    UnknownCall(u8),
}

const HEADER: usize = size_of::<Header>();

/// Takes the next record off `batch`; `None` at its end. After an error, the next call goes on with
/// the record behind the bad one; after [`DecodeError::Length`] the batch is empty.
pub fn next_event(batch: &mut Bytes) -> Option<Result<Event, DecodeError>> {
    let have = batch.len();
    if have == 0 {
        return None;
    }
    let len = batch
        .get(2..4)
        .map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    if usize::from(len) < HEADER || usize::from(len) > have {
        batch.clear();
        return Some(Err(DecodeError::Length { len, have }));
    }
    let result = event(&batch[..len.into()]);
    batch.advance(len.into());
    Some(result)
}

/// Takes the next records off `batch`, as many as `events` has room for, whose old content goes. What
/// cannot be decoded is told to `refuse`.
pub fn next_events(
    batch: &mut Bytes,
    events: &mut Vec<Event>,
    mut refuse: impl FnMut(DecodeError),
) {
    events.clear();
    while events.len() < events.capacity()
        && let Some(event) = next_event(batch)
    {
        match event {
            Ok(event) => events.push(event),
            Err(error) => refuse(error),
        }
    }
}

/// Decodes one whole record. All but what is rare is compiled into one function: a part that is put
/// together in a place of its own would be copied from there before its last field has arrived in
/// memory, and that wait costs more than all else.
#[inline(always)]
fn event(bytes: &[u8]) -> Result<Event, DecodeError> {
    let kind = bytes.first().copied().unwrap_or(0);
    let kind = Kind::from_number(kind).ok_or(DecodeError::UnknownKind(kind))?;
    let mut record = Record {
        rest: bytes,
        have: bytes.len(),
        kind,
    };
    let mut start = record.fields::<{ HEADER + 16 }>()?;
    let [_kind, family] = start.array();
    let _len = start.u16();
    let cpu = start.u16();
    let flags = start.u16();
    let seq = start.u32();
    let netns = start.u32();
    let at = Timestamp(start.u64());
    let netns_cookie = start.u64();
    let address = start.u64();
    let cookie = start.u64();
    let family = match family {
        4 => Family::V4,
        6 => Family::V6,
        0 if kind == Kind::Task => Family::None,
        other => return Err(DecodeError::UnknownFamily(other)),
    };
    let (flow, body) = match kind {
        Kind::Transition | Kind::Close => transition(record, family)?,
        Kind::Task => (UNKNOWN_FLOW, task(record)?),
        Kind::ResetReceived | Kind::ResetSent => reset(record, family)?,
        Kind::TimerStart
        | Kind::TimerCancel
        | Kind::TimerExpire
        | Kind::Segment
        | Kind::Schedule => minisocket(record, family)?,
        Kind::CallFailed => failed_call(record, family)?,
    };
    let socket = Socket {
        address,
        cookie,
        flow,
    };
    Ok(Event {
        at,
        cpu,
        seq,
        flags,
        netns,
        netns_cookie,
        socket,
        body,
    })
}

/// Which addresses a record bears.
#[derive(Clone, Copy)]
enum Family {
    None,
    V4,
    V6,
}

/// What has not been read of a record yet.
struct Record<'a> {
    rest: &'a [u8],
    /// Bytes of the whole.
    have: usize,
    kind: Kind,
}

impl<'a> Record<'a> {
    /// The next `N` bytes: the one place where the length is checked.
    #[inline(always)]
    fn fields<const N: usize>(&mut self) -> Result<Fields<'a, N>, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Short {
            kind: self.kind as u8,
            have: self.have,
        })?;
        self.rest = rest;
        Ok(Fields { bytes, at: 0 })
    }

    /// The next bytes as addresses, of these ports.
    #[inline(always)]
    fn flow(&mut self, family: Family, local: u16, peer: u16) -> Result<Flow, DecodeError> {
        let (local_address, peer_address) = match family {
            Family::V4 => {
                let mut both = self.fields::<8>()?;
                let [local, peer] = [both.array::<4>(), both.array()];
                (local.into(), peer.into())
            }
            Family::V6 => {
                let mut both = self.fields::<32>()?;
                let [local, peer] = [both.array::<16>(), both.array()];
                (local.into(), peer.into())
            }
            Family::None => return Ok(UNKNOWN_FLOW),
        };
        Ok(Flow {
            local: Endpoint {
                address: local_address,
                port: local,
            },
            peer: Endpoint {
                address: peer_address,
                port: peer,
            },
        })
    }
}

/// Fields that lie one behind the other, in the host's byte order. The length is known where this is
/// compiled, and so is where each field lies: reading one checks nothing.
struct Fields<'a, const N: usize> {
    bytes: &'a [u8; N],
    at: usize,
}

impl<const N: usize> Fields<'_, N> {
    #[inline(always)]
    fn array<const K: usize>(&mut self) -> [u8; K] {
        let mut array = [0; K];
        array.copy_from_slice(&self.bytes[self.at..self.at + K]);
        self.at += K;
        array
    }

    #[inline(always)]
    fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    #[inline(always)]
    fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.array())
    }

    #[inline(always)]
    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.array())
    }

    #[inline(always)]
    fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.array())
    }
}

#[inline(always)]
fn transition(mut record: Record<'_>, family: Family) -> Result<(Flow, Body), DecodeError> {
    let mut fields = record.fields::<8>()?;
    let from = state(fields.u8())?;
    let to = fields.u8();
    let detail = fields.u8();
    let _padding = fields.u8();
    let (local, peer) = (fields.u16(), fields.u16());
    let flow = record.flow(family, local, peer)?;
    let body = match record.kind {
        Kind::Close => Body::Close {
            from,
            facts: close_facts(record.fields()?),
        },
        _ => Body::Transition {
            from,
            to: state(to)?,
            detail,
        },
    };
    Ok((flow, body))
}

#[inline(always)]
fn close_facts(mut fields: Fields<'_, { size_of::<CloseFacts>() }>) -> CloseFacts {
    CloseFacts {
        error: fields.u16(),
        soft_error: fields.u16(),
        marks: fields.u16(),
        retransmits: fields.u8(),
        probes_out: fields.u8(),
        linger2: i32::from_ne_bytes(fields.array()),
        user_timeout_ms: fields.u32(),
        unread: fields.u32(),
        segs_out: fields.u32(),
        segs_in: fields.u32(),
        total_retransmits: fields.u32(),
        srtt_us: fields.u32(),
        min_rtt_us: fields.u32(),
        bytes_sent: fields.u64(),
        bytes_received: fields.u64(),
        cgroup: fields.u64(),
        uid: fields.u32(),
        shutdown: fields.u8(),
        padding: [0; 3],
    }
}

#[inline(always)]
fn task(mut record: Record<'_>) -> Result<Body, DecodeError> {
    let mut fields = record.fields::<56>()?;
    let pid = fields.u32();
    let tid = fields.u32();
    let uid = fields.u32();
    let from = state(fields.u8())?;
    let to = state(fields.u8())?;
    let _padding = fields.u16();
    Ok(Body::Task(Task {
        pid,
        tid,
        uid,
        cgroup: fields.u64(),
        from,
        to,
        comm: fields.array(),
        name: fields.array(),
    }))
}

#[inline(always)]
fn minisocket(mut record: Record<'_>, family: Family) -> Result<(Flow, Body), DecodeError> {
    let mut fields = record.fields::<32>()?;
    let expires = fields.u64();
    let jiffies = fields.u64();
    let entry_stamp_ms = fields.u32();
    let tid = fields.u32();
    let substate = state(fields.u8())?;
    let tcp_flags = fields.u8();
    let payload = fields.u16();
    let (local, peer) = (fields.u16(), fields.u16());
    let minisocket = Minisocket {
        substate,
        expires,
        jiffies,
        entry_stamp_ms,
        tid,
    };
    let body = match record.kind {
        Kind::TimerStart => Body::TimerStart(minisocket),
        Kind::TimerCancel => Body::TimerCancel(minisocket),
        Kind::TimerExpire => Body::TimerExpire(minisocket),
        Kind::Schedule => Body::Schedule(minisocket),
        _ => Body::Segment {
            minisocket,
            tcp_flags,
            payload,
        },
    };
    Ok((record.flow(family, local, peer)?, body))
}

#[inline(always)]
fn reset(mut record: Record<'_>, family: Family) -> Result<(Flow, Body), DecodeError> {
    let mut fields = record.fields::<16>()?;
    let state = fields.u8();
    let answers_segment = fields.u8() != 0;
    let _padding = fields.u16();
    let (local, peer) = (fields.u16(), fields.u16());
    let reason = fields.u32().checked_sub(1);
    let body = match record.kind {
        Kind::ResetReceived => Body::ResetReceived { state },
        _ => Body::ResetSent {
            state,
            answers_segment,
            reason,
        },
    };
    Ok((record.flow(family, local, peer)?, body))
}

fn failed_call(mut record: Record<'_>, family: Family) -> Result<(Flow, Body), DecodeError> {
    let mut fields = record.fields::<72>()?;
    let (pid, tid) = (fields.u32(), fields.u32());
    let errno = fields.u16();
    let call = match fields.u8() {
        calls::CONNECT => Call::Connect,
        calls::BIND => Call::Bind,
        calls::SOCKET => Call::Socket,
        calls::ACCEPT => Call::Accept,
        other => return Err(DecodeError::UnknownCall(other)),
    };
    let state = match fields.u8() {
        0 => None,
        number => Some(state(number)?),
    };
    let asked_family = fields.u8();
    let _padding = fields.u8();
    let asked_port = fields.u16();
    let (local, peer) = (fields.u16(), fields.u16());
    let _padding = fields.u32();
    let asked: [u8; 16] = fields.array();
    let asked: Option<IpAddr> = match asked_family {
        0 => None,
        4 => Some(Ipv4Addr::new(asked[0], asked[1], asked[2], asked[3]).into()),
        6 => Some(Ipv6Addr::from(asked).to_canonical()),
        other => return Err(DecodeError::UnknownFamily(other)),
    };
    let failed = FailedCall {
        call,
        errno,
        address: asked.map(|address| SocketAddr::new(address, asked_port)),
        state,
        pid,
        tid,
        comm: fields.array(),
        name: fields.array(),
    };
    Ok((record.flow(family, local, peer)?, Body::CallFailed(failed)))
}

const UNKNOWN_FLOW: Flow = {
    let unknown = Endpoint {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        port: 0,
    };
    Flow {
        local: unknown,
        peer: unknown,
    }
};

#[inline(always)]
fn state(number: u8) -> Result<TcpState, DecodeError> {
    TcpState::from_number(number).ok_or(DecodeError::UnknownState(number))
}

#[cfg(test)]
mod tests;
