//! The steps between the TCP states that Linux takes, and the check of what we are shown against
//! them.
//!
//! RFC 9293, figure 5. Linux leaves out LISTEN → SYN_SENT, adds the shortcuts of TCP Fast Open out
//! of SYN_RECV, and waits out TIME_WAIT (and often FIN_WAIT2) in a minisocket, so that the full
//! socket goes to CLOSE instead.
//!
//! ```text
//!                              +---------+ ---------\      active OPEN
//!                              |  CLOSED |            \    -----------
//!                              +---------+<---------\   \   create TCB
//!                                |     ^              \   \  snd SYN
//!                   passive OPEN |     |   CLOSE        \   \
//!                   ------------ |     | ----------       \   \
//!                    create TCB  |     | delete TCB         \   \
//!                                V     |                      \   \
//!            rcv RST (note 1)  +---------+            CLOSE    |    \
//!         -------------------->|  LISTEN |          ---------- |     |
//!        /                     +---------+          delete TCB |     |
//!       /           rcv SYN      |     |     SEND              |     |
//!      /           -----------   |     |    -------            |     V
//! +--------+      snd SYN,ACK  /       \   snd SYN          +--------+
//! |        |<-----------------           ------------------>|        |
//! |  SYN   |                    rcv SYN                     |  SYN   |
//! |  RCVD  |<-----------------------------------------------|  SENT  |
//! |        |                  snd SYN,ACK                   |        |
//! |        |------------------           -------------------|        |
//! +--------+   rcv ACK of SYN  \       /  rcv SYN,ACK       +--------+
//!    |         --------------   |     |   -----------
//!    |                x         |     |     snd ACK
//!    |                          V     V
//!    |  CLOSE                 +---------+
//!    | -------                |  ESTAB  |
//!    | snd FIN                +---------+
//!    |                 CLOSE    |     |    rcv FIN
//!    V                -------   |     |    -------
//! +---------+         snd FIN  /       \   snd ACK         +---------+
//! |  FIN    |<----------------          ------------------>|  CLOSE  |
//! | WAIT-1  |------------------                            |   WAIT  |
//! +---------+          rcv FIN  \                          +---------+
//!   | rcv ACK of FIN   -------   |                          CLOSE  |
//!   | --------------   snd ACK   |                         ------- |
//!   V        x                   V                         snd FIN V
//! +---------+               +---------+                    +---------+
//! |FINWAIT-2|               | CLOSING |                    | LAST-ACK|
//! +---------+               +---------+                    +---------+
//!   |              rcv ACK of FIN |                 rcv ACK of FIN |
//!   |  rcv FIN     -------------- |    Timeout=2MSL -------------- |
//!   |  -------            x       V    ------------        x       V
//!    \ snd ACK              +---------+delete TCB          +---------+
//!      -------------------->|TIME-WAIT|------------------->| CLOSED  |
//!                           +---------+                    +---------+
//! ```

use tracer_common::tcp::TcpState::{self, *};

/// Every step that the kernel can show, by the state before. The graph has no cycle but through
/// CLOSE, so a connection makes at most six stops, the last of which may be TIME_WAIT.
const STEPS: [(TcpState, &[TcpState]); 11] = [
    (Close, &[SynSent, Listen]),
    (Listen, &[SynRecv, Close]),
    (SynSent, &[Established, SynRecv, Close]),
    (SynRecv, &[Established, FinWait1, CloseWait, Close]),
    (Established, &[FinWait1, CloseWait, Close]),
    (FinWait1, &[FinWait2, Closing, Close]),
    (FinWait2, &[TimeWait, Close]),
    (Closing, &[TimeWait, Close]),
    (TimeWait, &[Close]),
    (CloseWait, &[LastAck, Close]),
    (LastAck, &[Close]),
];

/// A step that does not follow from what we knew: an event between was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Impossible {
    /// The state that we knew.
    pub known: TcpState,
    /// The state that the kernel says it left.
    pub from: TcpState,
    /// The state that it entered.
    pub to: TcpState,
}

/// Whether the kernel takes the step `from` → `to`.
pub(super) fn is_step(from: TcpState, to: TcpState) -> bool {
    STEPS
        .iter()
        .any(|(state, next)| *state == from && next.contains(&to))
}

/// Whether the step begins a connection or a listener.
pub(super) fn is_opening(from: TcpState, to: TcpState) -> bool {
    matches!(
        (from, to),
        (Close, SynSent) | (Close, Listen) | (Listen, SynRecv)
    )
}

/// Whether a system call can make the step, so that a task record may follow it.
pub(super) fn may_have_task(from: TcpState, to: TcpState) -> bool {
    matches!(
        (from, to),
        (Close, SynSent | Listen) | (Established | SynRecv, FinWait1) | (CloseWait, LastAck)
    ) || to == Close
}

/// Checks a step that the kernel shows against the state that we know (`None`: we know none).
/// Whatever the answer, the kernel's new state is the true one.
#[inline]
pub(super) fn check(
    known: Option<TcpState>,
    from: TcpState,
    to: TcpState,
) -> Result<(), Impossible> {
    let known = known.unwrap_or(from);
    if known == from && is_step(from, to) {
        Ok(())
    } else {
        Err(Impossible { known, from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table_is_as_reviewed() {
        let mut table = String::new();
        for from in TcpState::ALL {
            let next: Vec<_> = TcpState::ALL
                .into_iter()
                .filter(|to| is_step(from, *to))
                .map(TcpState::name)
                .collect();
            table.push_str(&format!("{from:<11} -> {}\n", next.join(", ")));
        }
        insta::assert_snapshot!(table, @r"
        ESTABLISHED -> FIN_WAIT1, CLOSE, CLOSE_WAIT
        SYN_SENT    -> ESTABLISHED, SYN_RECV, CLOSE
        SYN_RECV    -> ESTABLISHED, FIN_WAIT1, CLOSE, CLOSE_WAIT
        FIN_WAIT1   -> FIN_WAIT2, CLOSE, CLOSING
        FIN_WAIT2   -> TIME_WAIT, CLOSE
        TIME_WAIT   -> CLOSE
        CLOSE       -> SYN_SENT, LISTEN
        CLOSE_WAIT  -> CLOSE, LAST_ACK
        LAST_ACK    -> CLOSE
        LISTEN      -> SYN_RECV, CLOSE
        CLOSING     -> TIME_WAIT, CLOSE
        ");
    }

    #[test]
    fn every_state_has_exactly_one_row() {
        for state in TcpState::ALL {
            assert_eq!(STEPS.iter().filter(|(from, _)| *from == state).count(), 1);
        }
    }

    #[test]
    fn no_path_of_a_full_socket_makes_more_stops_than_a_timeline_holds() {
        /// Of the full socket: TIME_WAIT is the minisocket's.
        fn longest(from: TcpState) -> usize {
            STEPS
                .iter()
                .filter(|(state, _)| *state == from)
                .flat_map(|(_, next)| next.iter())
                .filter(|to| !matches!(to, Close | TimeWait))
                .map(|to| 1 + longest(*to))
                .max()
                .unwrap_or(0)
        }
        assert_eq!(longest(Close), super::super::timeline::Timeline::CAPACITY);
    }

    #[test]
    fn a_step_from_a_state_that_we_did_not_know_is_told_with_all_three() {
        assert_eq!(
            check(Some(Established), FinWait2, Close),
            Err(Impossible {
                known: Established,
                from: FinWait2,
                to: Close
            })
        );
        assert_eq!(check(None, FinWait2, Close), Ok(()));
        assert!(check(None, Established, SynSent).is_err());
    }
}
