//! What a tracer printed, as far as it has come and as a whole.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::ExitStatus;

use crate::kernel::Wall;
use crate::ndjson::{Call, Endpoint, Inventory, Line, Loss, Meta, Record, Summary, Transition};
use crate::witness::Hidden;

/// What it printed so far.
#[derive(Debug, Default)]
pub struct Lines {
    pub meta: Option<Meta>,
    /// Each with the time at which it was read; 0 if it was parsed afterwards.
    pub transitions: Vec<(Wall, Transition)>,
    /// Each with the time at which it was read; 0 if it was parsed afterwards.
    pub closes: Vec<(Wall, Record)>,
    pub ends: Vec<Record>,
    pub calls: Vec<Call>,
    pub losses: Vec<Loss>,
    pub inventories: Vec<Inventory>,
    pub summary: Option<Summary>,
    /// Lines that do not keep the contract.
    pub broken: Vec<String>,
    /// How many.
    pub read: u64,
    /// Bytes in the file that is to be parsed at the end.
    pub unread_bytes: u64,
    /// There will be no more.
    pub over: bool,
}

impl Lines {
    /// Takes in one more, read at this time.
    pub fn take(&mut self, line: &[u8], at: Wall) {
        self.read += 1;
        let first = self.read == 1;
        if self.summary.is_some() {
            self.broken
                .push("a line comes after the summary".to_owned());
        }
        match Line::parse(line) {
            Ok(Line::Meta(meta)) if first => self.meta = Some(meta),
            Ok(Line::Transition(transition)) => self.transitions.push((at, transition)),
            Ok(Line::Close(record)) => self.closes.push((at, record)),
            Ok(Line::End(record)) => self.ends.push(record),
            Ok(Line::Call(call)) => self.calls.push(call),
            Ok(Line::Loss(loss)) => self.losses.push(loss),
            Ok(Line::Inventory(inventory)) => self.inventories.push(inventory),
            Ok(Line::Summary(summary)) if self.summary.is_none() => self.summary = Some(summary),
            Ok(Line::Other) => {}
            Ok(line) => self.broken.push(format!("out of place: {line:?}")),
            Err(error) => self.broken.push(error),
        }
    }

    /// What they are, for the message of a test that waited in vain.
    pub fn describe(&self) -> String {
        let mut text = format!("{} lines were read. Broken: {:?}", self.read, self.broken);
        for record in self.verdicts().chain(&self.ends).take(20) {
            let _ = write!(
                text,
                "\n  {:?} -> {:?} in {}: {} by {}, {:?}, ended: {}, complete: {} {:?}",
                record.local,
                record.peer,
                record.netns,
                record.verdict(),
                record.close.initiator,
                record.path(),
                record.ended_at.is_some(),
                record.complete,
                record.incomplete_reasons,
            );
        }
        for call in self.calls.iter().take(20) {
            let _ = write!(text, "\n  {call:?}");
        }
        text
    }

    /// The close lines alone.
    pub fn verdicts(&self) -> impl Iterator<Item = &Record> {
        self.closes.iter().map(|(_, record)| record)
    }
}

/// One end of a connection, as records name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Side {
    pub netns: u32,
    pub local: Endpoint,
    pub peer: Endpoint,
}

impl Side {
    /// Whether the record is of this end.
    pub fn is(&self, record: &Record) -> bool {
        self.netns == record.netns && self.local == record.local && self.peer == record.peer
    }
}

/// A tracer's whole output.
pub struct Finished {
    pub lines: Lines,
    pub summary: Summary,
    pub status: ExitStatus,
    pub stderr: String,
}

impl Finished {
    /// Every event that the hooks met is accounted for.
    pub fn assert_account(&self) -> &Self {
        let Summary {
            hits,
            received,
            ring_lost,
            missed,
            ..
        } = self.summary;
        assert_eq!(
            hits,
            received + ring_lost + missed,
            "hits = received {received} + ring_lost {ring_lost} + missed {missed}"
        );
        self
    }

    /// Every event that the hooks met was received.
    pub fn assert_no_loss(&self) -> &Self {
        self.assert_account();
        let lost = (self.summary.ring_lost, self.summary.missed);
        assert_eq!(lost, (0, 0), "ring_lost, missed");
        assert!(self.lines.losses.is_empty(), "{:?}", self.lines.losses);
        self
    }

    /// No record shows `unknown` or is incomplete, but for sockets of whose events some were hidden.
    fn assert_all_known_but(&self, hidden: &Hidden) -> &Self {
        let records = || self.lines.verdicts().chain(&self.lines.ends);
        let bad: Vec<&Record> = records()
            .filter(|record| {
                !record.complete
                    || record.close.kind == "unknown"
                    || record.role == "unknown"
                    || record.time_wait_exit() == Some("unknown")
            })
            .collect();
        let sockets = |records: &[&Record]| -> usize {
            let names = records
                .iter()
                .map(|record| (record.netns, record.id.clone(), record.generation));
            names.collect::<BTreeSet<_>>().len()
        };
        let (killed, bad): (Vec<&Record>, Vec<&Record>) = bad.into_iter().partition(|record| {
            hidden.resets > 0 && record.complete && record.close.kind != "unknown"
        });
        assert!(
            sockets(&killed) as u64 <= hidden.resets,
            "{} ends are unknown, and {} RSTs were sent: {:#?}",
            killed.len(),
            hidden.resets,
            killed[0]
        );
        // A timer's event does not say whose it was.
        let unexplained: Vec<&Record> = bad
            .iter()
            .copied()
            .filter(|record| !hidden.is_about(record.local, record.peer))
            .collect();
        let few = sockets(&bad) as u64 <= hidden.events()
            && sockets(&unexplained) as u64 <= hidden.timers;
        assert!(
            few,
            "{} of {} records are unknown or incomplete, {} of them without a transition hidden, \
             the first: {:#?}",
            bad.len(),
            records().count(),
            unexplained.len(),
            unexplained.first().unwrap_or(&bad[0])
        );
        self
    }

    /// The usual end: exit code 0, nothing lost, nothing unknown.
    pub fn assert_clean(&self) -> &Self {
        self.assert_clean_but(&Hidden::default())
    }

    /// The same but for what no BPF program was run for. The tracer's own account is exact anyway.
    pub fn assert_clean_but(&self, hidden: &Hidden) -> &Self {
        assert!(self.status.success(), "{}; {}", self.status, self.stderr);
        self.assert_no_loss().assert_all_known_but(hidden)
    }
}
