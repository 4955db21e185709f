//! Why a full socket came to CLOSE: the evidence, and the rules in the order in which they are
//! tried. Where none fits the verdict is `unknown`: nothing is guessed.

use tracer_common::event::{CloseFacts, marks};
use tracer_common::tcp::TcpState::{self, *};

use crate::record::{CloseCause as Cause, CloseKind as Kind, Initiator as By};

const ECONNREFUSED: u16 = libc::ECONNREFUSED as u16;
const ECONNABORTED: u16 = libc::ECONNABORTED as u16;
const ECONNRESET: u16 = libc::ECONNRESET as u16;
const EPIPE: u16 = libc::EPIPE as u16;
const ETIMEDOUT: u16 = libc::ETIMEDOUT as u16;

/// `sk_shutdown` with both directions shut down.
const SHUTDOWN_BOTH: u8 = 3;
/// `sk_shutdown`'s bit for the receiving direction.
const SHUTDOWN_RECEIVE: u8 = 1;

/// What is known of a close one millisecond after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// The state that was left.
    pub from: TcpState,
    /// What the socket held.
    pub facts: CloseFacts,
    /// Whether `facts` was seen: it is not where the CLOSE event itself was lost.
    pub facts_seen: bool,
    /// The socket sent the first SYN.
    pub client: bool,
    /// It has a local port.
    pub local_port: bool,
    /// Its minisocket's timer was started.
    pub timer_started: bool,
    /// Minisockets' timers can be seen at all.
    pub sees_timers: bool,
    /// Resets can be seen at all.
    pub sees_resets: bool,
    /// No record was lost around CLOSE.
    pub whole: bool,
    /// No record was lost since the state that was left had begun.
    pub whole_in_state: bool,
    /// A process held the socket's lock.
    pub owned: bool,
    /// The network namespace was being taken down.
    pub netns_dying: bool,
    /// `tcp_reset()` ran just before.
    pub reset_received: bool,
    /// An RST was sent in the state that was left, whenever and wherever.
    pub reset_sent_in_state: bool,
    /// An RST was sent just before.
    pub reset_sent_before: bool,
    /// An RST was sent just after.
    pub reset_sent_after: bool,
    /// That RST answered a segment.
    pub reset_answered: bool,
}

impl Evidence {
    fn has(&self, mark: u16) -> bool {
        self.facts.marks & mark != 0
    }

    fn dead(&self) -> bool {
        self.has(marks::DEAD)
    }

    /// No error ended it. With IP_RECVERR one that an ICMP message brought stays in the socket until
    /// somebody fetches it, and ends nothing once the connection is established.
    fn no_error(&self) -> bool {
        let error = self.facts.error;
        let ends_it = [ECONNRESET, EPIPE, ETIMEDOUT, ECONNABORTED].contains(&error);
        let left_over = !ends_it && !self.opening() && !self.ran_out();
        self.facts_seen && (error == 0 || left_over)
    }

    /// It was never established.
    fn opening(&self) -> bool {
        matches!(self.from, SynSent | SynRecv)
    }

    /// Something was sent again and again, and its end has an error of the way there.
    fn ran_out(&self) -> bool {
        self.facts.error == self.facts.soft_error
            && (self.facts.retransmits > 0 || self.facts.probes_out > 0)
    }

    /// Our FIN was acknowledged.
    fn fin_acked(&self) -> bool {
        self.has(marks::ALL_ACKED)
    }

    fn reset_sent(&self) -> bool {
        self.reset_sent_before || self.reset_sent_after
    }

    fn shut_down(&self) -> bool {
        self.facts.shutdown == SHUTDOWN_BOTH
    }

    fn linger_zero(&self) -> bool {
        self.has(marks::LINGER) && self.has(marks::LINGER_ZERO)
    }

    /// Nothing speaks against an exchange of FINs.
    fn orderly(&self) -> bool {
        self.no_error() && !self.reset_received && !self.reset_sent() && !self.has(marks::REPAIR)
    }

    /// A reset that was not seen was none.
    fn knows_resets(&self) -> bool {
        self.sees_resets && self.whole
    }

    /// The error is that of an answer that never came.
    fn gave_up(&self) -> bool {
        let error = self.facts.error;
        error != 0 && (error == ETIMEDOUT || error == self.facts.soft_error)
    }

    /// Both FINs may have come and been acknowledged.
    fn may_be_over(&self) -> bool {
        match self.from {
            FinWait2 => self.has(marks::DONE),
            Closing | LastAck => self.fin_acked(),
            _ => false,
        }
    }

    /// A minisocket was due and none was made, although we would have seen it.
    fn no_minisocket(&self) -> bool {
        self.sees_timers
            && self.sees_resets
            && self.whole_in_state
            && self.orderly()
            && self.fin_acked()
            && !self.reset_sent_in_state
            && self.facts.linger2 >= 0
            && (self.dead() || (self.has(marks::DONE) && !self.linger_zero()))
    }

    /// The half of a client's handshake that came before an answer to its SYN.
    fn connecting(&self) -> bool {
        self.from == SynSent || (self.from == SynRecv && self.client)
    }

    /// connect() failed before it sent anything.
    fn nothing_sent(&self) -> bool {
        self.from == SynSent && self.no_error() && self.facts.segs_out == 0
    }
}

/// One row of [`RULES`].
#[derive(Debug)]
pub(super) struct Rule {
    /// What happened, for those who read the table.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests alone name rules"))]
    pub name: &'static str,
    fits: fn(&Evidence) -> bool,
    /// The verdict's kind.
    pub kind: Kind,
    /// The verdict's initiator.
    pub initiator: By,
    /// The verdict's cause.
    pub cause: Option<Cause>,
    /// The task at the step to CLOSE is the one that closed.
    pub task_acts: bool,
    /// TIME_WAIT was due and left out.
    pub overflow: bool,
    /// A minisocket took over that cannot be seen.
    pub minisocket_unseen: bool,
    /// It also rests on there having been no reset.
    pub rests_on_no_reset: bool,
    /// What the verdict rests on.
    pub words: &'static [&'static str],
}

const fn rule(
    name: &'static str,
    fits: fn(&Evidence) -> bool,
    (kind, initiator, cause): (Kind, By, Option<Cause>),
    words: &'static [&'static str],
) -> Rule {
    Rule {
        name,
        fits,
        kind,
        initiator,
        cause,
        task_acts: false,
        overflow: false,
        minisocket_unseen: false,
        rests_on_no_reset: false,
        words,
    }
}

const fn acts(rule: Rule) -> Rule {
    Rule {
        task_acts: true,
        ..rule
    }
}

const fn overflow(rule: Rule) -> Rule {
    Rule {
        overflow: true,
        rests_on_no_reset: true,
        ..rule
    }
}

const fn no_reset(rule: Rule) -> Rule {
    Rule {
        rests_on_no_reset: true,
        ..rule
    }
}

const fn unseen_minisocket(rule: Rule) -> Rule {
    Rule {
        minisocket_unseen: true,
        ..rule
    }
}

const fn reset_sent(cause: Cause) -> (Kind, By, Option<Cause>) {
    (Kind::ResetSent, By::Local, Some(cause))
}

const fn timed_out(cause: Cause) -> (Kind, By, Option<Cause>) {
    (Kind::TimedOut, By::None, Some(cause))
}

const fn aborted(cause: Cause) -> (Kind, By, Option<Cause>) {
    (Kind::Aborted, By::None, Some(cause))
}

const fn failed(by: By, cause: Cause) -> (Kind, By, Option<Cause>) {
    (Kind::ConnectFailed, by, Some(cause))
}

const ACTIVE: (Kind, By, Option<Cause>) = (Kind::Active, By::Local, Some(Cause::Fin));
const PASSIVE: (Kind, By, Option<Cause>) = (Kind::Passive, By::Peer, Some(Cause::Fin));
const SIMULTANEOUS: (Kind, By, Option<Cause>) = (Kind::Simultaneous, By::Both, Some(Cause::Fin));
const PEER_RESET: (Kind, By, Option<Cause>) =
    (Kind::ResetReceived, By::Peer, Some(Cause::PeerReset));

/// The decision order: the first row that fits gives the verdict.
#[rustfmt::skip]
pub(super) static RULES: &[Rule] = &[
    // The state alone tells.
    acts(rule("listener closed", |e| e.from == Listen,
        (Kind::ListenerClosed, By::Local, None), &["it was a listener"])),
    no_reset(rule("netns exit", |e| e.netns_dying && e.orderly() && !e.timer_started,
        aborted(Cause::NetnsExit), &["its network namespace was taken down"])),
    no_reset(rule("passive close", |e| e.from == LastAck && e.orderly() && e.fin_acked(),
        PASSIVE, &["the peer's FIN came first", "our FIN was acknowledged"])),

    // A minisocket took over: an orderly close.
    rule("simultaneous close", |e| e.timer_started && e.from == Closing,
        SIMULTANEOUS, &["the FINs crossed", "a minisocket took over"]),
    rule("active close", |e| e.timer_started && (e.facts_seen || e.from == FinWait2),
        ACTIVE, &["our FIN was first", "a minisocket took over"]),
    unseen_minisocket(rule("simultaneous close, minisocket unseen",
        |e| !e.sees_timers && e.from == Closing && e.orderly() && e.facts.linger2 >= 0,
        SIMULTANEOUS, &["the FINs crossed", "minisockets cannot be seen"])),
    unseen_minisocket(rule("active close, minisocket unseen",
        |e| !e.sees_timers && e.from == FinWait2 && e.orderly() && e.facts.linger2 >= 0,
        ACTIVE, &["our FIN was first", "minisockets cannot be seen"])),

    // tcp_reset() ran.
    rule("data after close", |e| e.reset_received && e.reset_answered,
        reset_sent(Cause::DataAfterClose), &["a segment came after close()", "an RST answered it"]),
    rule("refused", |e| e.reset_received && e.from == SynSent,
        failed(By::Peer, Cause::Refused), &["an RST answered our SYN"]),
    // tcp_reset() runs for our own reset too, but only once we receive no more: then what it sent
    // must have been seen, or have been none.
    no_reset(rule("reset by the peer",
        |e| e.reset_received && (e.facts.shutdown & SHUTDOWN_RECEIVE == 0 || e.knows_resets()),
        PEER_RESET, &["an RST came"])),

    // The error tells.
    acts(rule("destroyed", |e| e.facts.error == ECONNABORTED,
        reset_sent(Cause::Destroyed), &["the error is ECONNABORTED"])),
    rule("connect timeout", |e| e.connecting() && e.facts.error == ETIMEDOUT,
        failed(By::None, Cause::TimedOut), &["the error is ETIMEDOUT", "nothing answered our SYN"]),
    no_reset(rule("unreachable",
        |e| e.connecting() && e.facts.error != 0
            && (e.facts.error != ECONNREFUSED || e.knows_resets()),
        failed(By::Peer, Cause::Unreachable), &["an error came without an RST"])),
    rule("refused or unreachable", |e| e.connecting() && e.facts.error != 0,
        (Kind::ConnectFailed, By::Peer, None), &["the error is ECONNREFUSED"]),
    rule("handshake failed", |e| e.from == SynRecv && e.facts.error != 0,
        aborted(Cause::HandshakeAborted), &["an error ended the handshake"]),
    rule("user timeout",
        |e| e.gave_up() && e.facts.user_timeout_ms != 0
            && (e.reset_sent_before || e.facts.probes_out > 0 || e.facts.retransmits > 0),
        timed_out(Cause::UserTimeout), &["TCP_USER_TIMEOUT is set", "the peer did not answer"]),
    rule("keepalive", |e| e.gave_up() && e.reset_sent_before && e.has(marks::KEEP_OPEN),
        timed_out(Cause::Keepalive), &["keepalive probes were not answered", "an RST went before"]),
    no_reset(rule("zero window",
        |e| e.gave_up() && e.facts.probes_out > 0 && (!e.has(marks::KEEP_OPEN) || e.knows_resets()),
        timed_out(Cause::ZeroWindow), &["window probes were not answered"])),
    rule("keepalive or zero window", |e| e.gave_up() && e.facts.probes_out > 0,
        (Kind::TimedOut, By::None, None), &["probes were not answered"]),
    rule("retransmission", |e| e.gave_up() && e.facts.retransmits > 0,
        timed_out(Cause::Retransmission), &["retransmissions were not answered"]),
    // Only tcp_reset() leaves these errors, and it ran for the peer's RST alone while we still
    // received: certain even where its own event was lost.
    rule("reset by the peer, told by the error",
        |e| (e.facts.error == ECONNRESET && e.facts.shutdown & SHUTDOWN_RECEIVE == 0)
            || (e.facts.error == EPIPE && e.from == CloseWait),
        PEER_RESET, &["the error is that of an RST"]),

    // No error: this side gave it up, by a system call or in the kernel.
    rule("repair", |e| e.no_error() && e.has(marks::REPAIR),
        aborted(Cause::Repair), &["TCP_REPAIR is on"]),
    acts(rule("no port", |e| e.nothing_sent() && !e.local_port,
        failed(By::Local, Cause::NoPort), &["no SYN was sent", "no local port was had"])),
    acts(rule("tuple in use", |e| e.nothing_sent() && e.has(marks::PORT_BOUND),
        failed(By::Local, Cause::TupleInUse), &["no SYN was sent", "the local port was bound"])),
    acts(rule("connect failed at once", |e| e.nothing_sent(),
        (Kind::ConnectFailed, By::Local, None), &["no SYN was sent"])),
    acts(rule("given up while connecting", |e| e.from == SynSent && e.no_error() && e.owned,
        failed(By::Local, Cause::Abandoned), &["it was closed or disconnected while connecting"])),
    rule("handshake aborted",
        |e| e.from == SynRecv && e.no_error() && e.has(marks::NO_SOCKET) && !e.dead(),
        aborted(Cause::HandshakeAborted), &["it was given up before it was established"]),
    acts(rule("unaccepted", |e| e.no_error() && e.has(marks::NO_SOCKET) && !e.dead(),
        reset_sent(Cause::Unaccepted), &["it was never accepted"])),
    // Before unread data: a half-closed socket whose FIN arrives may hold some.
    overflow(rule("simultaneous close, no minisocket", |e| e.from == Closing && e.no_minisocket(),
        SIMULTANEOUS, &["the FINs crossed", "no minisocket was made"])),
    overflow(rule("active close, no minisocket", |e| e.from == FinWait2 && e.no_minisocket(),
        ACTIVE, &["our FIN was first", "no minisocket was made"])),
    acts(rule("unread data", |e| e.no_error() && e.shut_down() && !e.dead() && e.facts.unread > 0,
        reset_sent(Cause::UnreadData), &["close() left data unread"])),
    acts(rule("linger zero", |e| e.no_error() && e.shut_down() && !e.dead() && e.linger_zero(),
        reset_sent(Cause::LingerZero), &["SO_LINGER is 0"])),
    // Of what else a process does to a socket that it holds nothing is left. An error that another
    // thread fetched before CLOSE came is left: a timer holds no lock for a process.
    acts(rule("disconnect",
        |e| e.no_error() && !e.dead() && e.owned && (!e.shut_down() || !e.may_be_over()),
        reset_sent(Cause::Disconnect), &["connect(AF_UNSPEC) disconnected it"])),

    // No process held the socket any more.
    rule("linger2", |e| e.no_error() && e.dead() && e.from == FinWait2 && e.facts.linger2 < 0,
        reset_sent(Cause::Linger2), &["TCP_LINGER2 is negative"]),
    rule("data after close, at the ACK of our FIN",
        |e| e.no_error() && e.dead() && e.from == FinWait2 && e.reset_answered,
        reset_sent(Cause::DataAfterClose), &["a segment came after close()", "an RST answered it"]),
    rule("FIN_WAIT2 timeout",
        |e| e.no_error() && e.dead() && e.from == FinWait2 && e.reset_sent_before,
        timed_out(Cause::FinWait2), &["the peer's FIN never came", "an RST went before"]),
    rule("orphan limit or memory", |e| e.no_error() && e.dead() && e.reset_sent(),
        reset_sent(Cause::OrphanOrMemory), &["nobody held it", "an RST was sent"]),
];

/// What is said where no rule fits.
static UNKNOWN: Rule = rule(
    "unknown",
    |_| true,
    (Kind::Unknown, By::Unknown, None),
    &["the evidence fits no rule"],
);

/// The verdict: the first rule that fits.
pub(super) fn decide(evidence: &Evidence) -> &'static Rule {
    RULES
        .iter()
        .find(|rule| (rule.fits)(evidence))
        .unwrap_or(&UNKNOWN)
}

/// The verdict on a close of which nothing was seen.
pub(super) fn unseen() -> &'static Rule {
    &UNKNOWN
}

/// The number of a rule, for those who keep it.
pub(super) fn number(rule: &'static Rule) -> u8 {
    let begin = RULES.as_ptr().addr();
    let place = std::ptr::from_ref(rule).addr().wrapping_sub(begin) / size_of::<Rule>();
    // The one that is not in the table lies elsewhere.
    place.min(RULES.len()) as u8
}

/// The rule with a number.
pub(super) fn numbered(number: u8) -> &'static Rule {
    RULES.get(usize::from(number)).unwrap_or(&UNKNOWN)
}

/// A FIN closed it while a process still held the socket: shutdown(), not close().
pub(super) fn is_half_close(evidence: &Evidence, rule: &Rule) -> bool {
    evidence.facts_seen
        && !evidence.dead()
        && matches!(rule.kind, Kind::Active | Kind::Passive | Kind::Simultaneous)
}

#[cfg(test)]
#[path = "close_tests.rs"]
mod tests;
