//! The verdict and what came after it, in the few words that a table has room for.

use std::borrow::Cow;

use anstyle::{AnsiColor, Style};

use crate::record::{
    Call, Close, CloseCause as Cause, CloseKind as Kind, EntryPrecision, FinWait2, FinWait2Exit,
    Incomplete, Initiator, Process, Record, Role, TimeWait, TimeWaitExit,
};

use crate::stream;

use super::errno;
use super::text::{count, duration, name};

/// Whose name and number to show: who closed it here, else who opened it.
pub(super) fn who(record: &Record) -> String {
    [&record.closer, &record.opener]
        .into_iter()
        .find(|process| process.pid.is_some())
        .map_or_else(|| "?".to_owned(), process)
}

fn process(process: &Process) -> String {
    let mut name = process
        .name
        .or(process.comm)
        .map_or_else(|| "?".to_owned(), |bytes| name(&bytes));
    if let Some(pid) = process.pid {
        name.push('/');
        name.push_str(itoa::Buffer::new().format(pid));
    }
    name
}

/// `connect() to 10.0.0.9:80 failed: ENETUNREACH (curl/812)`.
pub(super) fn failed_call(call: &Call) -> String {
    let failed = &call.failed;
    let asked = failed.address.map(|address| match failed.call {
        stream::Call::Bind => format!(" of {address}"),
        _ => format!(" to {address}"),
    });
    let errno =
        errno::name(failed.errno).map_or_else(|| format!("errno {}", failed.errno), str::to_owned);
    format!(
        "{}(){} failed: {errno} ({}/{})",
        failed.call.name(),
        asked.unwrap_or_default(),
        name(&failed.name),
        failed.pid
    )
}

/// The role; the arrow says the same: it points at the end that was called.
pub(super) const fn role(role: Role) -> (&'static str, &'static str) {
    match role {
        Role::Client => ("client", "→"),
        Role::Server => ("server", "←"),
        Role::Listener => ("listen", " "),
        Role::Unknown => ("?", "-"),
    }
}

/// Who closed first.
pub(super) const fn by(initiator: Initiator) -> &'static str {
    match initiator {
        Initiator::Local => "local",
        Initiator::Peer => "peer",
        Initiator::Both => "both",
        Initiator::None => "-",
        Initiator::Unknown => "?",
    }
}

/// How it closed, and a colour that says no more than the words. A `?` after it: events were lost.
pub(super) fn how(record: &Record) -> (Cow<'static, str>, Style) {
    let mut text = cause(&record.close);
    let is_doubtful = record.incomplete.contains(Incomplete::TransitionLost);
    if is_doubtful && record.close.kind != Kind::Unknown {
        text.to_mut().push('?');
    }
    (text, color(record.close.kind))
}

fn cause(close: &Close) -> Cow<'static, str> {
    let known = match (close.kind, close.cause) {
        (Kind::Active | Kind::Passive | Kind::Simultaneous, Some(Cause::Fin)) => Some("FIN"),
        (Kind::ResetReceived, Some(Cause::PeerReset)) => Some("RST"),
        (Kind::ResetSent, Some(Cause::UnreadData)) => Some("RST: unread data"),
        (Kind::ResetSent, Some(Cause::LingerZero)) => Some("RST: linger 0"),
        (Kind::ResetSent, Some(Cause::DataAfterClose)) => Some("RST: late data"),
        (Kind::ResetSent, Some(Cause::Linger2)) => Some("RST: linger2 < 0"),
        (Kind::ResetSent, Some(Cause::Disconnect)) => Some("RST: disconnect"),
        (Kind::ResetSent, Some(Cause::Unaccepted)) => Some("RST: unaccepted"),
        (Kind::ResetSent, Some(Cause::OrphanOrMemory)) => Some("RST: orphans/mem."),
        (Kind::ResetSent, Some(Cause::Destroyed)) => Some("RST: destroyed"),
        (Kind::TimedOut, Some(Cause::Retransmission)) => Some("ACK timeout"),
        (Kind::TimedOut, Some(Cause::ZeroWindow)) => Some("window timeout"),
        (Kind::TimedOut, Some(Cause::Keepalive)) => Some("keepalive timeout"),
        (Kind::TimedOut, Some(Cause::UserTimeout)) => Some("user timeout"),
        (Kind::TimedOut, Some(Cause::FinWait2)) => Some("FIN_WAIT2 timeout"),
        (Kind::ConnectFailed, Some(Cause::Refused)) => Some("connect refused"),
        (Kind::ConnectFailed, Some(Cause::TimedOut)) => Some("connect timeout"),
        (Kind::ConnectFailed, Some(Cause::NoPort)) => Some("no free port"),
        (Kind::ConnectFailed, Some(Cause::TupleInUse)) => Some("tuple in use"),
        (Kind::ConnectFailed, Some(Cause::Unreachable)) => Some(match close.errno.map(i32::from) {
            Some(libc::EHOSTUNREACH) => "host unreachable",
            Some(libc::ENETUNREACH) => "net unreachable",
            _ => "unreachable",
        }),
        (Kind::ConnectFailed, Some(Cause::Abandoned)) => Some("connect abandoned"),
        (Kind::Aborted, Some(Cause::HandshakeAborted)) => Some("handshake aborted"),
        (Kind::Aborted, Some(Cause::Repair)) => Some("repair"),
        (Kind::Aborted, Some(Cause::NetnsExit)) => Some("netns exit"),
        (Kind::ListenerClosed, _) => Some("listener closed"),
        _ => None,
    };
    known.map_or_else(
        || match close.cause {
            Some(cause) => format!("{}: {cause}", close.kind).into(),
            None => close.kind.name().into(),
        },
        Cow::Borrowed,
    )
}

fn color(kind: Kind) -> Style {
    let color = match kind {
        Kind::ResetReceived | Kind::ResetSent => AnsiColor::Red,
        Kind::TimedOut | Kind::Aborted => AnsiColor::Yellow,
        Kind::ConnectFailed => AnsiColor::Magenta,
        Kind::Unknown => AnsiColor::Cyan,
        Kind::Active | Kind::Passive | Kind::Simultaneous | Kind::ListenerClosed => {
            return Style::new();
        }
    };
    color.on_default()
}

/// How long it lived: opening to CLOSE.
pub(super) fn age(record: &Record) -> String {
    match (record.opened_at, record.closed_at) {
        (Some(opened), Some(closed)) => duration(closed.since(opened)),
        _ => "?".to_owned(),
    }
}

/// Whether the tuple is held after CLOSE, so that an end follows the verdict.
pub(super) fn holds_its_tuple(record: &Record) -> bool {
    record.time_wait.is_some() || minisocket_fin_wait2(record).is_some()
}

fn minisocket_fin_wait2(record: &Record) -> Option<&FinWait2> {
    record.fin_wait2.as_ref().filter(|wait| wait.in_minisocket)
}

/// The TIME_WAIT column: what is running, or what was measured.
pub(super) fn time_wait(record: &Record) -> Cow<'static, str> {
    // An orderly close that we began ends in TIME_WAIT, whether or not we can see it.
    let is_due = matches!(record.close.kind, Kind::Active | Kind::Simultaneous);
    let is_hidden = [Incomplete::TimerProbeMissing, Incomplete::EndNotSeen]
        .into_iter()
        .any(|reason| record.incomplete.contains(reason));
    match (&record.time_wait, minisocket_fin_wait2(record)) {
        (Some(wait), _) if wait.exit.is_some() => measured(wait).into(),
        (Some(wait), _) => format!("{}s…", wait.nominal_ns / 1_000_000_000).into(),
        (None, Some(wait)) if wait.exit.is_none() => "FIN_WAIT2".into(),
        (None, _) if record.time_wait_skipped.is_some() => "overflow".into(),
        (None, _) if is_due && is_hidden => "?".into(),
        (None, _) => "-".into(),
    }
}

/// The last refresh may not be the entry, so the dwell is then the least that it can have been.
fn measured(wait: &TimeWait) -> String {
    let bound = match wait.entry_precision {
        EntryPrecision::LastRefresh => "≥",
        _ => "",
    };
    wait.dwell_ns.map_or_else(
        || "?".to_owned(),
        |dwell| format!("{bound}{}", duration(dwell)),
    )
}

/// How the tuple came free: `expired, 2 refreshes, FIN_WAIT2 158ms`.
pub(super) fn end(record: &Record) -> String {
    let fin_wait2 = minisocket_fin_wait2(record);
    let Some(wait) = &record.time_wait else {
        let exit = match fin_wait2.and_then(|wait| wait.exit) {
            Some(FinWait2Exit::TimedOut) => "FIN_WAIT2 timed out",
            Some(FinWait2Exit::Reset) => "FIN_WAIT2 reset",
            Some(FinWait2Exit::Data) => "FIN_WAIT2 ended by data",
            Some(FinWait2Exit::Destroyed) => "FIN_WAIT2 destroyed",
            Some(FinWait2Exit::Purged) => "FIN_WAIT2 purged",
            Some(FinWait2Exit::PeerFin | FinWait2Exit::Unknown) | None => "end not known",
        };
        return match fin_wait2.and_then(|wait| wait.dwell_ns) {
            Some(dwell) => format!("{exit}, {}", duration(dwell)),
            None => exit.to_owned(),
        };
    };
    let mut text = match wait.exit {
        Some(TimeWaitExit::Expired) if wait.late => "expired late",
        Some(TimeWaitExit::Expired) => "expired",
        Some(TimeWaitExit::ReusedByConnect) => "reused by connect",
        Some(TimeWaitExit::ReusedBySyn) => "reused by SYN",
        Some(TimeWaitExit::Reset) => "reset",
        Some(TimeWaitExit::Purged) => "purged with netns",
        Some(TimeWaitExit::Destroyed) => "destroyed",
        Some(TimeWaitExit::Unknown) | None => "end not known",
    }
    .to_owned();
    match wait.refreshes {
        0 => {}
        1 => text.push_str(", 1 refresh"),
        many => text.push_str(&format!(", {} refreshes", count(many.into()))),
    }
    if let Some(dwell) = fin_wait2.and_then(|wait| wait.dwell_ns) {
        text.push_str(&format!(", FIN_WAIT2 {}", duration(dwell)));
    }
    text
}
