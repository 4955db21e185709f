//! System calls that failed, and which of them a record tells too.

use tracer_common::tcp::TcpState;

use super::connection::Connection;
use super::{Engine, Output};
use crate::record::{Call, Role};
use crate::stream::{self, Event, FailedCall};

/// How long after its connection's CLOSE a connect() returns, at most, nanoseconds. It is
/// microseconds, but its thread may have to wait for a processor.
const RETURNS_WITHIN: u64 = 1_000_000_000;

impl Engine {
    /// connect() returns after its socket went to CLOSE, as a rule before the verdict: the record
    /// then has its errno. The verdict itself rests on what the socket held, and stays as it is.
    pub(super) fn on_call_failed(&mut self, event: &Event, failed: &FailedCall) {
        let has_record = failed.call == stream::Call::Connect && self.join(event, failed.errno);
        if !self.config.rows {
            return;
        }
        self.outputs.push(Output::Call(Box::new(Call {
            at: event.at,
            netns: event.netns,
            netns_cookie: event.netns_cookie,
            flow: event.socket.flow,
            failed: *failed,
            has_record,
        })));
    }

    /// Whether the socket has left CLOSE by this connect(). One connection is joined by one call:
    /// the next connect() of the socket may fail without leaving CLOSE.
    fn join(&mut self, event: &Event, errno: u16) -> bool {
        let (netns, cookie) = (event.netns_cookie, event.socket.cookie);
        if cookie == 0 {
            return false;
        }
        let held = self.table.by_cookie(netns, cookie, |_| true);
        if let Some(connection) = held.and_then(|id| self.table.connection_mut(id)) {
            if !is_connecting(connection) {
                return false;
            }
            let failed_call = &mut connection.late_mut().closing.failed_call;
            let joins = failed_call.is_none();
            failed_call.get_or_insert(errno);
            return joins;
        }
        self.ended
            .by_cookie_mut(netns, cookie)
            .filter(|ended| !ended.call_told && ended.closed_from == Some(TcpState::SynSent))
            .filter(|ended| {
                let closed_at = ended.ended_at;
                closed_at.is_some_and(|at| event.at.since(at) <= RETURNS_WITHIN)
            })
            .map(|ended| ended.call_told = true)
            .is_some()
    }
}

/// Its connect() has not been answered; where it still is in SYN_SENT, its CLOSE was lost.
fn is_connecting(connection: &Connection) -> bool {
    use TcpState::{Close, SynRecv, SynSent};
    connection.role == Role::Client
        && matches!(
            connection.last_step,
            Some((Close, SynSent) | (SynSent | SynRecv, Close))
        )
}
