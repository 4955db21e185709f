//! What sock_diag's answer says: netlink messages to [`Found`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, ErrorBuffer, NLM_F_DUMP_INTR, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NLMSG_OVERRUN, NetlinkBuffer, NlasIterator, Parseable, parse_i32, parse_u32,
};
use netlink_packet_sock_diag::constants::{AF_INET6, SOCK_DIAG_BY_FAMILY};
use netlink_packet_sock_diag::inet::{InetResponseHeader, SocketId, Timer};
use tracer_common::tcp::{Endpoint, Flow, TcpState};

use crate::stream::{Found, Holder};
use crate::time::Timestamp;

/// `idiag_expires` in `struct inet_diag_msg`: netlink-packet-sock-diag 0.5 drops it for minisockets.
const EXPIRES: std::ops::Range<usize> = 52..56;
/// Bytes of `struct inet_diag_msg`; attributes follow.
const MESSAGE: usize = 72;
/// `INET_DIAG_INFO`: a `struct tcp_info`.
const INFO: u16 = 2;
/// `tcpi_last_data_recv` and `tcpi_last_ack_recv` in it, milliseconds ago.
const LAST_HEARD: [std::ops::Range<usize>; 2] = [52..56, 56..60];
/// `INET_DIAG_SHUTDOWN`.
const SHUTDOWN: u16 = 8;

/// How far a batch has brought the dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// That was all.
    pub has_ended: bool,
    /// The kernel says that the walk was disturbed: something may be missing.
    pub is_disturbed: bool,
}

/// Why no more can be had of an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    /// The kernel refuses.
    #[error("sock_diag refuses: {0}")]
    Refused(io::Error),
    /// The kernel had to drop part of the answer.
    #[error("sock_diag's answer did not fit its queue")]
    Overrun,
    /// What came is not what sock_diag says.
    #[error("failed to read sock_diag's answer: {0}")]
    Unreadable(#[from] DecodeError),
}

/// Adds the sockets of `batch`, whole messages one behind the other, to `found`. The kernel wrote
/// them at `written`.
pub(super) fn read_batch(
    mut batch: &[u8],
    written: Timestamp,
    found: &mut Vec<Found>,
) -> Result<Progress, AnswerError> {
    let mut progress = Progress::default();
    while !batch.is_empty() && !progress.has_ended {
        let message = NetlinkBuffer::new_checked(batch)?;
        progress.is_disturbed |= message.flags() & NLM_F_DUMP_INTR != 0;
        let payload = message.payload();
        match message.message_type() {
            SOCK_DIAG_BY_FAMILY => found.extend(socket(payload, written)?),
            NLMSG_DONE => {
                // An empty one is a success too.
                let code = payload.get(..4).map_or(Ok(0), parse_i32)?;
                refused(code)?;
                progress.has_ended = true;
            }
            NLMSG_ERROR => refused(
                ErrorBuffer::new_checked(payload)?
                    .code()
                    .map_or(0, i32::from),
            )?,
            NLMSG_OVERRUN => return Err(AnswerError::Overrun),
            NLMSG_NOOP => {}
            other => {
                let text = format!("message type {other}");
                return Err(DecodeError::from(text).into());
            }
        }
        let length = message.length() as usize;
        let aligned = length.next_multiple_of(usize::from(NLMSG_ALIGNTO));
        batch = batch.get(aligned..).unwrap_or_default();
    }
    Ok(progress)
}

fn refused(code: i32) -> Result<(), AnswerError> {
    match code {
        0.. => Ok(()),
        errno => Err(AnswerError::Refused(io::Error::from_raw_os_error(-errno))),
    }
}

/// One `struct inet_diag_msg` with its attributes; `None` for what is no part of an inventory.
fn socket(payload: &[u8], written: Timestamp) -> Result<Option<Found>, DecodeError> {
    // The header alone: the attributes would cost twice as much and say nothing that is needed.
    let header = InetResponseHeader::parse(payload)?;
    let (cookie, state) = (cookie(&header.socket_id), header.state);
    let Some(state) = TcpState::from_number(state).filter(|_| cookie != 0) else {
        return Ok(None);
    };
    let holder = match (state, header.timer) {
        (substate, Some(Timer::TimeWait)) => Holder::Minisocket {
            substate,
            ends_at: written + Duration::from_millis(parse_u32(&payload[EXPIRES])?.into()),
        },
        (TcpState::Close, _) => return Ok(None),
        (TcpState::SynRecv, _) if !is_full_socket(payload)? => return Ok(None),
        (state, _) => Holder::Socket {
            state,
            // Before Linux 6.17 the owner is that of the descriptor's file.
            uid: (header.inode != 0 || header.uid != 0).then_some(header.uid),
            inode: header.inode,
            queued: header.recv_queue,
            limit: header.send_queue,
            silent_for: match state {
                TcpState::CloseWait => silent_for(payload)?,
                _ => None,
            },
        },
    };
    Ok(Some(Found {
        cookie,
        flow: flow(&header.socket_id),
        socket_is_v6: header.family == AF_INET6,
        holder,
    }))
}

/// How long ago the peer sent the last data or acknowledgement; a FIN is one. `None`: that was not
/// asked for.
fn silent_for(payload: &[u8]) -> Result<Option<Duration>, DecodeError> {
    for attribute in NlasIterator::new(payload.get(MESSAGE..).unwrap_or_default()) {
        let attribute = attribute?;
        if attribute.kind() == INFO {
            let info = attribute.value();
            let ago = |range: &std::ops::Range<usize>| parse_u32(info.get(range.clone())?).ok();
            let freshest = LAST_HEARD.iter().filter_map(ago).min();
            return Ok(freshest.map(|ago| Duration::from_millis(ago.into())));
        }
    }
    Ok(None)
}

/// Whether a socket in SYN_RECV is a full one: of the kernel's three writers of this message only
/// `inet_sk_diag_fill()` adds the attribute INET_DIAG_SHUTDOWN, and does so for each socket.
///
/// Source: `net/ipv4/inet_diag.c`, `inet_diag_msg_attrs_fill()` and `inet_req_diag_fill()`.
fn is_full_socket(payload: &[u8]) -> Result<bool, DecodeError> {
    for attribute in NlasIterator::new(payload.get(MESSAGE..).unwrap_or_default()) {
        if attribute?.kind() == SHUTDOWN {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Two words, the lower one first.
fn cookie(socket: &SocketId) -> u64 {
    let [a, b, c, d, e, f, g, h] = socket.cookie;
    let [low, high] = [[a, b, c, d], [e, f, g, h]].map(|word| u64::from(u32::from_ne_bytes(word)));
    high << 32 | low
}

/// As the probes give it: where one end is v4-mapped, both are IPv4.
fn flow(socket: &SocketId) -> Flow {
    let mut ends = [socket.source_address, socket.destination_address];
    let is_mapped = |end: &IpAddr| matches!(end, IpAddr::V6(end) if end.to_ipv4_mapped().is_some());
    if ends.iter().any(is_mapped) {
        ends = ends.map(|end| match end.to_canonical() {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv4Addr::UNSPECIFIED.into(),
            end => end,
        });
    }
    let [local, peer] = ends;
    Flow {
        local: Endpoint {
            address: local,
            port: socket.source_port,
        },
        peer: Endpoint {
            address: peer,
            port: socket.destination_port,
        },
    }
}

#[cfg(test)]
mod tests;
