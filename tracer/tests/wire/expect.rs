//! What the records must say of a script: the lines after its `---`.
//!
//! ```text
//! [WHO:] close active/fin by local [FIELD=VALUE…]    the verdict
//! [WHO:] end [FIELD=VALUE…]                          the whole record, once the tuple is free
//! [WHO:] no end                                      there is none yet
//! listener: close listener_closed by local           of the script's listener
//! ```
//!
//! Fields are called as in the records, `time_wait.exit`; `null` is what was never there. The
//! states of `path` are joined by commas; `previous=WHO` is the connection that had the tuple
//! before. Where a tuple is used again, its lines are in the order of its connections. There must
//! be no other `close` line on a tuple.

use std::collections::HashMap;

use crate::kernel;
use crate::lines::Lines;
use crate::ndjson::{Endpoint, Record};
use crate::run::Play;

/// Which record is held to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Close,
    End,
    NoEnd,
}

/// One line.
#[derive(Debug)]
pub struct Expectation {
    number: usize,
    /// An index into the script's connections; `None`: its listener.
    who: Option<usize>,
    which: Which,
    verdict: Option<(String, String)>,
    fields: Vec<(String, String)>,
}

/// What a record is called: its namespace and the ends of its connection.
type Key = (u32, Endpoint, Endpoint);

/// The records of a whole run.
pub struct Records<'a> {
    closes: HashMap<Key, Vec<&'a Record>>,
    ends: HashMap<Key, Vec<&'a Record>>,
    sight: Sight,
}

/// What the kernel shows of the segments that minisockets handle.
#[derive(Clone, Copy)]
struct Sight {
    /// Each of them (Linux 6.11 and later).
    segments: bool,
    /// The RSTs that answer them (6.10 and later).
    resets: bool,
}

impl Sight {
    /// What a field is to be where a script says `value`: what cannot be seen is not claimed.
    fn due<'a>(self, record: &Record, name: &str, value: &'a str) -> &'a str {
        let in_minisocket = record.fin_wait2.as_ref().is_some_and(|it| it.in_minisocket);
        let is_seen = match (name, value) {
            ("time_wait.exit", "reset") => self.segments,
            ("fin_wait2.exit", "reset") => self.segments || !in_minisocket,
            ("fin_wait2.exit", "data") => self.resets || !in_minisocket,
            ("time_wait.fin_retransmits" | "time_wait.old_duplicates", _) if !self.segments => {
                return "null";
            }
            _ => true,
        };
        if is_seen { value } else { "unknown" }
    }
}

impl<'a> Records<'a> {
    /// Sorts those that came so far.
    pub fn of(lines: &'a Lines) -> Self {
        let sorted = |records: &mut dyn Iterator<Item = &'a Record>| {
            let mut sorted: HashMap<Key, Vec<&Record>> = HashMap::new();
            for record in records {
                let key = (record.netns, known(record.local), record.peer);
                sorted.entry(key).or_default().push(record);
            }
            sorted
        };
        Self {
            closes: sorted(&mut lines.verdicts()),
            ends: sorted(&mut lines.ends.iter()),
            sight: Sight {
                segments: lines.meta.as_ref().is_some_and(|it| it.has("free_segment")),
                resets: kernel::shows_resets_of_minisockets(),
            },
        }
    }
}

impl Expectation {
    /// Reads a line.
    pub fn parse(
        number: usize,
        who: Option<usize>,
        line: &str,
        connections: &[String],
    ) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (which, verdict, rest) = match words[..] {
            ["close", verdict, "by", initiator, ref rest @ ..] => {
                let verdict = (verdict.to_owned(), initiator.to_owned());
                (Which::Close, Some(verdict), rest)
            }
            ["end", ref rest @ ..] => (Which::End, None, rest),
            ["no", "end"] => (Which::NoEnd, None, &[][..]),
            _ => return Err("not what records are held to".to_owned()),
        };
        let mut fields = Vec::new();
        for word in rest {
            let (name, value) = word.split_once('=').ok_or("FIELD=VALUE")?;
            if name == "previous" {
                let known = value == "null" || connections.iter().any(|name| name == value);
                known.then_some(()).ok_or("no connection is called so")?;
            } else if !FIELDS.contains(&name) {
                return Err(format!("no field is called {name}"));
            }
            fields.push((name.to_owned(), value.to_owned()));
        }
        Ok(Self {
            number,
            who,
            which,
            verdict,
            fields,
        })
    }

    /// What is wrong with a record, in words.
    fn problems(&self, record: &Record, previous: Option<&Record>, sight: Sight) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some((verdict, initiator)) = &self.verdict {
            let said = (record.verdict(), record.close.initiator.clone());
            if said != (verdict.clone(), initiator.clone()) {
                problems.push(format!(
                    "{} by {}, not {verdict} by {initiator}",
                    said.0, said.1
                ));
            }
        }
        for (name, value) in &self.fields {
            if name == "previous" {
                let said = record.previous.as_ref();
                let said = said.map(|said| (said.id.as_str(), said.generation));
                let due = previous.map(|due| (due.id.as_str(), due.generation));
                if said != due {
                    problems.push(format!("previous is {said:?}, not {due:?}"));
                }
                continue;
            }
            let said = field(record, name);
            let value = sight.due(record, name, value);
            if said.as_deref().unwrap_or("null") != value {
                problems.push(format!(
                    "{name} is {}, not {value}",
                    said.as_deref().unwrap_or("null")
                ));
            }
        }
        problems
    }
}

const FIELDS: [&str; 20] = [
    "complete",
    "errno",
    "fin_wait2",
    "fin_wait2.exit",
    "fin_wait2.in_minisocket",
    "generation",
    "has_minisocket",
    "path",
    "role",
    "socket_family",
    "source_port_bound",
    "time_wait",
    "time_wait.entered_from",
    "time_wait.entry_precision",
    "time_wait.exit",
    "time_wait.fin_retransmits",
    "time_wait.late",
    "time_wait.old_duplicates",
    "time_wait.refreshes",
    "time_wait_skipped",
];

/// A field as scripts write it.
fn field(record: &Record, name: &str) -> Option<String> {
    let wait = record.time_wait.as_ref();
    let half = record.fin_wait2.as_ref();
    match name {
        "complete" => Some(record.complete.to_string()),
        "errno" => record.close.errno.clone(),
        "fin_wait2" => half.map(|_| "some".to_owned()),
        "fin_wait2.exit" => half?.exit.clone(),
        "fin_wait2.in_minisocket" => Some(half?.in_minisocket.to_string()),
        "generation" => Some(record.generation.to_string()),
        "has_minisocket" => Some(record.has_minisocket().to_string()),
        "path" => Some(record.path().join(",")),
        "role" => Some(record.role.clone()),
        "socket_family" => record.socket_family.clone(),
        "source_port_bound" => record.source_port_bound.map(|bound| bound.to_string()),
        "time_wait" => wait.map(|_| "some".to_owned()),
        "time_wait.entered_from" => wait?.entered_from.clone(),
        "time_wait.entry_precision" => Some(wait?.entry_precision.clone()),
        "time_wait.exit" => wait?.exit.clone(),
        "time_wait.fin_retransmits" => wait?.fin_retransmits.map(|count| count.to_string()),
        "time_wait.late" => Some(wait?.late.to_string()),
        "time_wait.old_duplicates" => wait?.old_duplicates.map(|count| count.to_string()),
        "time_wait.refreshes" => Some(wait?.refreshes.to_string()),
        "time_wait_skipped" => record.time_wait_skipped.clone(),
        other => unreachable!("{other} is not among the fields"),
    }
}

/// Holds the records to everything that a script says of them. Empty: all is as it says.
pub fn problems(play: &Play<'_>, netns: u32, records: &Records<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    // How many lines of each sort have been held to the records of a tuple.
    let mut used: HashMap<(Key, bool), usize> = HashMap::new();
    for line in &play.script.expectations {
        let key = key(play, netns, line.who);
        let ends = line.which != Which::Close;
        let sorted = if ends { &records.ends } else { &records.closes };
        let of_tuple = sorted.get(&key).map_or(&[][..], Vec::as_slice);
        let said =
            |problem: String| format!("{}.wire:{}: {problem}", play.script.name, line.number);
        if line.which == Which::NoEnd {
            if !of_tuple.is_empty() {
                problems.push(said("it has ended".to_owned()));
            }
            continue;
        }
        let next = used.entry((key, ends)).or_default();
        let Some(record) = of_tuple.get(*next) else {
            problems.push(said("there is no such record".to_owned()));
            continue;
        };
        let closes = records.closes.get(&key).map_or(&[][..], Vec::as_slice);
        let previous = next.checked_sub(1).and_then(|index| closes.get(index));
        *next += 1;
        let wrong = line.problems(record, previous.copied(), records.sight);
        if !wrong.is_empty() {
            problems.push(said(format!(
                "{} (path {}, errno {:?}, incomplete {:?}, fin_wait2 {:?}, time_wait {:?})",
                wrong.join("; "),
                record.path().join(","),
                record.close.errno,
                record.incomplete_reasons,
                record.fin_wait2,
                record.time_wait,
            )));
        }
    }
    for (key, due) in used
        .iter()
        .filter(|((_, ends), _)| !ends)
        .map(|((key, _), due)| (key, *due))
    {
        let closes = records.closes.get(key).map_or(0, Vec::len);
        if closes > due {
            problems.push(format!(
                "{}.wire: {closes} closes instead of {due}",
                play.script.name
            ));
        }
    }
    problems
}

/// An end without a port is known by nothing else.
fn known(end: Endpoint) -> Endpoint {
    Endpoint {
        address: end.address.filter(|_| end.port.is_some()),
        ..end
    }
}

fn key(play: &Play<'_>, netns: u32, who: Option<usize>) -> Key {
    let nobody = Endpoint {
        address: None,
        port: None,
    };
    match who {
        None => (netns, play.listener.into(), nobody),
        Some(who) => {
            let talk = &play.talks[who];
            (
                netns,
                talk.local.map_or(nobody, Into::into),
                talk.peer.into(),
            )
        }
    }
}
