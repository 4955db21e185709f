//! What the engine gives, as the scenario files say it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tracer::engine::{Engine, Output};
use tracer::record::holding::{Holding, HoldingChange, Use};
use tracer::record::{Call, Process, Record, Source};
use tracer::time::Timestamp;
use tracer_common::tcp::TcpState;

/// Names of sockets by cookie.
pub type Names = BTreeMap<u64, String>;

/// Writes every output that is due.
pub fn drain(engine: &mut Engine, names: &Names, text: &mut String) {
    let name = |cookie: u64| names.get(&cookie).cloned().unwrap_or(format!("?{cookie}"));
    while let Some(output) = engine.poll() {
        match output {
            Output::Transition(row) => {
                let stay = row.for_ns.map_or("?".into(), seconds);
                write!(
                    text,
                    "row {} {}/{} {} {} -> {} after {stay}",
                    seconds(row.at.0),
                    name(row.cookie),
                    row.generation,
                    row.flow,
                    row.from,
                    row.to
                )
                .unwrap();
                writeln!(text, "{}", process(" by", &row.process)).unwrap();
            }
            Output::Close(record) => {
                close(text, &record, &name);
                if record
                    .time_wait
                    .is_some_and(|time_wait| time_wait.exit.is_some())
                    || record.ended_at.is_some()
                {
                    text.push_str(" BUT ALREADY ENDED");
                }
                text.push('\n');
            }
            Output::Over(record) => {
                close(text, &record, &name);
                text.push('\n');
                end(text, &record, &name);
            }
            Output::End(record) => end(text, &record, &name),
            Output::Holding(change) => holding(text, &change),
            Output::Call(call) => failed_call(text, &call),
        }
    }
}

fn failed_call(text: &mut String, call: &Call) {
    let failed = &call.failed;
    let asked = failed.address.map(|address| format!(" {address}"));
    let state = failed.state.map(|state| format!(" in {state}"));
    writeln!(
        text,
        "call {} {}{} errno {}{} by {}{}",
        seconds(call.at.0),
        failed.call.name(),
        asked.unwrap_or_default(),
        failed.errno,
        state.unwrap_or_default(),
        failed.tid,
        if call.has_record {
            ", in a record"
        } else {
            ", in no record"
        }
    )
    .unwrap();
}

fn holding(text: &mut String, change: &HoldingChange) {
    let held = |holding: &Option<Holding>| match holding {
        None => "free".to_owned(),
        Some(holding) => {
            let until = holding
                .ends_at
                .map(|at| format!(" until {}", seconds(at.0)));
            let owner = process(" for", &holding.owner.process);
            // Of others the states tell it.
            let since = holding.since.filter(|_| holding.by == Use::CloseWait);
            let since = since.map(|at| format!(" since {}", seconds(at.0)));
            format!(
                "{:?}:{}{}{}{owner}",
                holding.by,
                holding.port,
                since.unwrap_or_default(),
                until.unwrap_or_default()
            )
        }
    };
    let (at, was, is) = (seconds(change.at.0), held(&change.was), held(&change.is));
    let peer = change.flow.peer;
    writeln!(text, "hold {at} {:?} to {peer}: {was} -> {is}", change.side).unwrap();
}

/// Writes what was counted.
pub fn totals(engine: &Engine, output: &mut String) {
    let totals = engine.totals();
    writeln!(
        output,
        "totals: opened {} found {} closed {} vanished {} open {}; minisockets {} of {}; in TIME_WAIT {}; doubles {} impossible {} estab_resets {}",
        totals.opened,
        totals.found_open,
        totals.closed,
        totals.vanished,
        totals.open,
        totals.minisockets,
        totals.minisockets_seen + totals.minisockets_found,
        totals.in_time_wait,
        totals.doubles,
        totals.impossible,
        totals.estab_resets
    )
    .unwrap();
}

fn headline(record: &Record, name: &dyn Fn(u64) -> String) -> String {
    format!(
        "{}/{} {} {:?}",
        name(record.cookie),
        record.generation,
        record.flow,
        record.role
    )
}

fn verdict(record: &Record) -> String {
    let close = &record.close;
    let cause = close.cause.map_or("-".into(), |cause| format!("{cause:?}"));
    let errno = close
        .errno
        .map_or(String::new(), |errno| format!(" errno {errno}"));
    let evidence = close.evidence.iter().collect::<Vec<_>>().join("; ");
    format!(
        "{:?} {:?} {cause}{errno} ({evidence})",
        close.kind, close.initiator
    )
}

fn close(text: &mut String, record: &Record, name: &dyn Fn(u64) -> String) {
    write!(text, "close {} {}", headline(record, name), verdict(record)).unwrap();
}

fn end(text: &mut String, record: &Record, name: &dyn Fn(u64) -> String) {
    let close = &record.close;
    writeln!(text, "end {} {:?}", headline(record, name), close.kind).unwrap();
    let at = |at: Option<Timestamp>| at.map_or("-".into(), |at| seconds(at.0));
    let ns = |ns: Option<u64>| ns.map_or("-".into(), seconds);
    writeln!(
        text,
        "    opened {} established {} close began {} closed {} ended {}",
        at(record.opened_at),
        at(record.established_at),
        at(record.close_began_at),
        at(record.closed_at),
        at(record.ended_at)
    )
    .unwrap();
    let states: Vec<_> = record
        .states
        .iter()
        .map(|visit| format!("{} {}", visit.state, ns(visit.for_ns)))
        .collect();
    writeln!(text, "    states {}", states.join(", ")).unwrap();
    let mut extra = String::new();
    if let Some(handshake) = record.handshake_ns {
        write!(extra, " handshake {}", seconds(handshake)).unwrap();
    }
    if let Some(again) = record.syn_retransmits.filter(|again| *again > 0) {
        write!(extra, " SYNs again {again}").unwrap();
    }
    if record.source_port_bound == Some(true) {
        extra.push_str(" source port bound");
    }
    extra += &process(" opener", &record.opener);
    extra += &process(" closer", &record.closer);
    if let Some(previous) = record.previous {
        let (cookie, generation) = (name(previous.cookie), previous.generation);
        write!(
            extra,
            " previous {cookie}/{generation} {} before",
            seconds(previous.gap_ns)
        )
        .unwrap();
    }
    if !extra.is_empty() {
        writeln!(text, "   {extra}").unwrap();
    }
    if let Some(wait) = record.fin_wait2 {
        let place = if wait.in_minisocket {
            "minisocket"
        } else {
            "socket"
        };
        writeln!(
            text,
            "    FIN_WAIT2 began {} dwell {} in {place} exit {:?}",
            at(wait.began_at),
            ns(wait.dwell_ns),
            wait.exit
        )
        .unwrap();
    }
    if let Some(wait) = record.time_wait {
        let count = |count: Option<u32>| count.map_or("?".into(), |count| count.to_string());
        writeln!(
            text,
            "    TIME_WAIT entered {} from {} ({:?}) dwell {} nominal {} refreshes {} FINs again {} old data {} exit {:?}{}",
            at(wait.entered_at),
            wait.entered_from.map_or("?", TcpState::name),
            wait.entry_precision,
            ns(wait.dwell_ns),
            seconds(wait.nominal_ns),
            wait.refreshes,
            count(wait.fin_retransmits),
            count(wait.old_duplicates),
            wait.exit,
            if wait.late { " LATE" } else { "" }
        )
        .unwrap();
    }
    if let Some(skipped) = record.time_wait_skipped {
        writeln!(text, "    TIME_WAIT skipped: {skipped:?}").unwrap();
    }
    if !record.incomplete.is_empty() {
        writeln!(text, "    incomplete: {:?}", record.incomplete).unwrap();
    }
}

fn process(what: &str, process: &Process) -> String {
    match (process.tid, process.source) {
        (Some(tid), Source::Exact) => format!("{what} {tid}"),
        (Some(tid), source) => format!("{what} {tid} ({source:?})"),
        (None, source) => match process.pid {
            Some(pid) => format!("{what} process {pid} ({source:?})"),
            None => String::new(),
        },
    }
}

fn seconds(nanoseconds: u64) -> String {
    let text = format!(
        "{}.{:09}",
        nanoseconds / 1_000_000_000,
        nanoseconds % 1_000_000_000
    );
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
