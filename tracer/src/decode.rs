//! From the ring's bytes to [`Event`]s.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, Bytes};
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
    let (kind, family) = (batch[0], batch.get(1).copied().unwrap_or(0));
    let len = batch
        .get(2..4)
        .map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    if usize::from(len) < HEADER || usize::from(len) > have {
        batch.clear();
        return Some(Err(DecodeError::Length { len, have }));
    }
    let result = event(&mut &batch[..len.into()], kind, family);
    batch.advance(len.into());
    Some(result)
}

fn event(record: &mut impl Buf, kind: u8, family: u8) -> Result<Event, DecodeError> {
    let kind = Kind::from_number(kind).ok_or(DecodeError::UnknownKind(kind))?;
    let addresses = match family {
        0 if kind == Kind::Task => 0,
        4 => 8,
        6 => 32,
        other => return Err(DecodeError::UnknownFamily(other)),
    };
    let fields = HEADER
        + addresses
        + match kind {
            Kind::Transition => 24,
            Kind::Close => 24 + size_of::<CloseFacts>(),
            Kind::Task => 72,
            Kind::TimerStart
            | Kind::TimerCancel
            | Kind::TimerExpire
            | Kind::Segment
            | Kind::Schedule => 48,
            Kind::ResetReceived | Kind::ResetSent => 32,
            Kind::CallFailed => 88,
        };
    if record.remaining() < fields {
        return Err(DecodeError::Short {
            kind: kind as u8,
            have: record.remaining(),
        });
    }
    record.advance(4);
    let cpu = record.get_u16_ne();
    let flags = record.get_u16_ne();
    let seq = record.get_u32_ne();
    let netns = record.get_u32_ne();
    let at = Timestamp(record.get_u64_ne());
    let netns_cookie = record.get_u64_ne();
    let address = record.get_u64_ne();
    let cookie = record.get_u64_ne();
    let (flow, body) = match kind {
        Kind::Transition | Kind::Close => transition(record, kind, family)?,
        Kind::Task => (UNKNOWN_FLOW, task(record)?),
        Kind::ResetReceived | Kind::ResetSent => reset(record, kind, family),
        Kind::TimerStart
        | Kind::TimerCancel
        | Kind::TimerExpire
        | Kind::Segment
        | Kind::Schedule => minisocket(record, kind, family)?,
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

fn transition(record: &mut impl Buf, kind: Kind, family: u8) -> Result<(Flow, Body), DecodeError> {
    let from = state(record.get_u8())?;
    let to = record.get_u8();
    let detail = record.get_u8();
    record.advance(1);
    let flow = flow(record, family);
    if kind == Kind::Close {
        return Ok((
            flow,
            Body::Close {
                from,
                facts: close_facts(record),
            },
        ));
    }
    Ok((
        flow,
        Body::Transition {
            from,
            to: state(to)?,
            detail,
        },
    ))
}

fn close_facts(record: &mut impl Buf) -> CloseFacts {
    CloseFacts {
        error: record.get_u16_ne(),
        soft_error: record.get_u16_ne(),
        marks: record.get_u16_ne(),
        retransmits: record.get_u8(),
        probes_out: record.get_u8(),
        linger2: record.get_i32_ne(),
        user_timeout_ms: record.get_u32_ne(),
        unread: record.get_u32_ne(),
        segs_out: record.get_u32_ne(),
        segs_in: record.get_u32_ne(),
        total_retransmits: record.get_u32_ne(),
        srtt_us: record.get_u32_ne(),
        min_rtt_us: record.get_u32_ne(),
        bytes_sent: record.get_u64_ne(),
        bytes_received: record.get_u64_ne(),
        cgroup: record.get_u64_ne(),
        uid: record.get_u32_ne(),
        shutdown: record.get_u8(),
        padding: [0; 3],
    }
}

fn task(record: &mut impl Buf) -> Result<Body, DecodeError> {
    let pid = record.get_u32_ne();
    let tid = record.get_u32_ne();
    let uid = record.get_u32_ne();
    let from = state(record.get_u8())?;
    let to = state(record.get_u8())?;
    record.advance(2);
    let cgroup = record.get_u64_ne();
    let (mut comm, mut name) = ([0; 16], [0; 16]);
    record.copy_to_slice(&mut comm);
    record.copy_to_slice(&mut name);
    Ok(Body::Task(Task {
        pid,
        tid,
        uid,
        cgroup,
        from,
        to,
        comm,
        name,
    }))
}

fn minisocket(record: &mut impl Buf, kind: Kind, family: u8) -> Result<(Flow, Body), DecodeError> {
    let expires = record.get_u64_ne();
    let jiffies = record.get_u64_ne();
    let entry_stamp_ms = record.get_u32_ne();
    let tid = record.get_u32_ne();
    let substate = state(record.get_u8())?;
    let tcp_flags = record.get_u8();
    let payload = record.get_u16_ne();
    let minisocket = Minisocket {
        substate,
        expires,
        jiffies,
        entry_stamp_ms,
        tid,
    };
    let body = match kind {
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
    Ok((flow(record, family), body))
}

fn reset(record: &mut impl Buf, kind: Kind, family: u8) -> (Flow, Body) {
    let state = record.get_u8();
    let answers_segment = record.get_u8() != 0;
    record.advance(2);
    let (local, peer) = (record.get_u16_ne(), record.get_u16_ne());
    let reason = record.get_u32_ne().checked_sub(1);
    record.advance(4);
    let body = if kind == Kind::ResetReceived {
        Body::ResetReceived { state }
    } else {
        Body::ResetSent {
            state,
            answers_segment,
            reason,
        }
    };
    (addresses(record, family, local, peer), body)
}

fn failed_call(record: &mut impl Buf, family: u8) -> Result<(Flow, Body), DecodeError> {
    let (pid, tid) = (record.get_u32_ne(), record.get_u32_ne());
    let errno = record.get_u16_ne();
    let call = match record.get_u8() {
        calls::CONNECT => Call::Connect,
        calls::BIND => Call::Bind,
        calls::SOCKET => Call::Socket,
        calls::ACCEPT => Call::Accept,
        other => return Err(DecodeError::UnknownCall(other)),
    };
    let state = match record.get_u8() {
        0 => None,
        number => Some(state(number)?),
    };
    let asked_family = record.get_u8();
    record.advance(1);
    let asked_port = record.get_u16_ne();
    let (local, peer) = (record.get_u16_ne(), record.get_u16_ne());
    record.advance(4);
    let (mut asked, mut comm, mut name) = ([0; 16], [0; 16], [0; 16]);
    record.copy_to_slice(&mut asked);
    record.copy_to_slice(&mut comm);
    record.copy_to_slice(&mut name);
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
        comm,
        name,
    };
    Ok((
        addresses(record, family, local, peer),
        Body::CallFailed(failed),
    ))
}

/// Ports, then addresses.
fn flow(record: &mut impl Buf, family: u8) -> Flow {
    let (local, peer) = (record.get_u16_ne(), record.get_u16_ne());
    addresses(record, family, local, peer)
}

fn addresses(record: &mut impl Buf, family: u8, local: u16, peer: u16) -> Flow {
    let mut address = || -> IpAddr {
        if family == 6 {
            let mut octets = [0; 16];
            record.copy_to_slice(&mut octets);
            Ipv6Addr::from(octets).into()
        } else {
            let mut octets = [0; 4];
            record.copy_to_slice(&mut octets);
            Ipv4Addr::from(octets).into()
        }
    };
    let local = Endpoint {
        address: address(),
        port: local,
    };
    let peer = Endpoint {
        address: address(),
        port: peer,
    };
    Flow { local, peer }
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

fn state(number: u8) -> Result<TcpState, DecodeError> {
    TcpState::from_number(number).ok_or(DecodeError::UnknownState(number))
}

#[cfg(test)]
mod tests;
