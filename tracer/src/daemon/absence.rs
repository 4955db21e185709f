//! What the kernel counted while no agent ran: openings that none of our probes met.
//!
//! ```text
//! kernel's counters  ──●────────────●───────────────────●──────────────> time
//!                    reading     we stop             first round
//!                         ours after        nobody's        ours before
//! ```
//!
//! An agent that stops leaves in a file how the counters stood then: what its last whole round over
//! all namespaces read, and what it met itself after that. The next one takes that away from what it
//! reads first, and from that what it had met itself by then. To read all namespaces takes some
//! milliseconds: what opened in these is counted on one side or the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::metrics::{Family, Sample, Unit, Value};
use crate::pipeline::Opened;
use crate::stream::NamespaceReading;
use crate::time::Timestamp;

/// The file, in the directory that is kept. Engines pass over what begins with a dot.
const FILE: &str = ".tracer-standing.json";
/// How long a namespace is not read before it is taken for gone, nanoseconds.
const GONE: u64 = 60_000_000_000;

/// How the counters stood at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Standing {
    /// The boot: another one began to count anew.
    boot_id: String,
    /// Whether the agent came to an end of its own. Else it went on for a while.
    stopped: bool,
    /// The counters, by the namespaces' cookies.
    counters: BTreeMap<u64, Opened>,
    /// What had been met since they were read.
    met_since: Opened,
}

/// What nobody watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwatched {
    /// How many.
    pub opens: Opened,
    /// Since when.
    pub since: Since,
}

impl Unwatched {
    /// What is told of it in /metrics.
    pub fn family(self) -> Family {
        let Opened { clients, servers } = self.opens;
        let counts = [("client", clients), ("server", servers)];
        Family::new(
            "tracer.opens.unwatched",
            "Connections that the kernel counted before this agent watched, and since the last one \
             stopped, was killed, or the host started",
            Unit::None,
            counts.map(|(role, count)| Sample::of([("role", role.into())], Value::Counter(count))),
        )
    }
}

impl fmt::Display for Unwatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Opened { clients, servers } = self.opens;
        let since = match self.since {
            Since::Boot => "since the host started and before this agent did",
            Since::Stop => "since the last agent stopped",
            Since::Kill => "since the last agent was killed, some of which it may have met",
        };
        write!(
            f,
            "the kernel counted {clients} connections opened and {servers} accepted {since}"
        )
    }
}

/// Since when nobody watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Since the host started: no agent is known to have run.
    Boot,
    /// Since the last agent stopped.
    Stop,
    /// The last agent was killed: some of it may have been met by it.
    Kill,
}

/// Keeps the kernel's counters beside ours.
#[derive(Debug)]
pub struct Absence {
    /// Where the standing is kept, if anywhere.
    path: Option<PathBuf>,
    /// How it stood when the last agent stopped.
    before: Option<Standing>,
    boot_id: String,
    /// As they were read last, and when, by the namespaces' cookies.
    counters: BTreeMap<u64, (Timestamp, Opened)>,
    /// The namespaces that were read in the round under way.
    round: BTreeSet<u64>,
    /// What we had met when one was read last.
    met: Opened,
    /// The last round that is whole.
    whole: Option<Round>,
    unwatched: Option<Unwatched>,
    /// How often something was left.
    left: u64,
    /// Which of them was written last.
    written: Arc<Mutex<u64>>,
}

/// A round over all namespaces. What we met is not told by namespace, so only a whole one can be held
/// against it.
#[derive(Debug)]
struct Round {
    /// As they were read, by the namespaces' cookies.
    counters: BTreeMap<u64, Opened>,
    /// What we had met by its end.
    met: Opened,
}

impl Round {
    /// What the kernel had counted, all namespaces together.
    fn sum(&self) -> Opened {
        let counters = self.counters.values();
        counters.fold(Opened::default(), |sum, opens| sum.plus(*opens))
    }
}

/// What is left for the next agent.
#[derive(Debug)]
pub struct Left {
    path: PathBuf,
    standing: Standing,
    number: u64,
    written: Arc<Mutex<u64>>,
}

impl Left {
    /// Writes it, or says why not.
    pub fn keep(&self) {
        if let Err(error) = self.write() {
            tracing::warn!("failed to write how the kernel's counters stand: {error}");
        }
    }

    /// Writes it, in place of what was left before: on a disk that hangs, what is written in the
    /// background may come after what is left at the end, and is of no use then.
    fn write(&self) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *written > self.number {
            return Ok(());
        }
        let unfinished = self.path.with_extension("tmp");
        fs::write(&unfinished, serde_json::to_vec(&self.standing)?)?;
        fs::rename(&unfinished, &self.path)?;
        *written = self.number;
        Ok(())
    }
}

impl Absence {
    /// Reads how the counters stood, from the file in `directory`.
    ///
    /// # Errors
    /// Where the file is there and cannot be read: what was not watched then counts from the boot.
    pub fn begin(directory: Option<&Path>, boot_id: &str) -> (Self, io::Result<()>) {
        let path = directory.map(|directory| directory.join(FILE));
        let read = path.as_deref().map_or(Ok(None), read);
        let (before, result) = match read {
            Ok(before) => (before, Ok(())),
            Err(error) => (None, Err(error)),
        };
        let absence = Self {
            path,
            before: before.filter(|before| before.boot_id == boot_id),
            boot_id: boot_id.to_owned(),
            counters: BTreeMap::new(),
            round: BTreeSet::new(),
            met: Opened::default(),
            whole: None,
            unwatched: None,
            left: 0,
            written: Arc::default(),
        };
        (absence, result)
    }

    /// Takes in a namespace's counters, `met` being what we had met of all namespaces by then. Gives
    /// what nobody watched, once, when it is known.
    pub fn read(&mut self, reading: &NamespaceReading, met: Opened) -> Option<Unwatched> {
        let counters = &reading.counters;
        let (Some(clients), Some(servers)) = (counters.active_opens, counters.passive_opens) else {
            return None;
        };
        let opens = Opened { clients, servers };
        let cookie = reading.netns_cookie;
        let mut found = None;
        if !self.round.insert(cookie) {
            // Another round begins; what we had met by the end of the last was noted then.
            self.round = BTreeSet::from([cookie]);
            let round = self.end_round(reading.at);
            if self.whole.is_none() {
                found = Some(self.compare(&round));
            }
            self.whole = Some(round);
        }
        self.unwatched = self.unwatched.or(found);
        self.counters.insert(cookie, (reading.at, opens));
        self.met = met;
        found
    }

    /// What nobody watched; `None`: not known yet.
    pub const fn unwatched(&self) -> Option<Unwatched> {
        self.unwatched
    }

    /// What is to be left for the next agent, `met` being what we have met; `None`: nothing.
    /// `stopped`: no more is met.
    pub fn leave(&mut self, met: Opened, stopped: bool) -> Option<Left> {
        // Before all have been read once there is nothing that the next one could go by.
        let whole = self.whole.as_ref()?;
        let path = self.path.clone()?;
        self.left += 1;
        Some(Left {
            path,
            number: self.left,
            written: Arc::clone(&self.written),
            standing: Standing {
                boot_id: self.boot_id.clone(),
                stopped,
                counters: whole.counters.clone(),
                met_since: met.less(whole.met),
            },
        })
    }

    /// The round that was over at `now`.
    fn end_round(&mut self, now: Timestamp) -> Round {
        // What is no longer read is gone.
        self.counters.retain(|_, (at, _)| now.since(*at) < GONE);
        let counters = self.counters.iter();
        Round {
            counters: counters
                .map(|(cookie, (_, opens))| (*cookie, *opens))
                .collect(),
            met: self.met,
        }
    }

    fn compare(&self, first: &Round) -> Unwatched {
        let (now, met) = (first.sum(), first.met);
        let Some(before) = &self.before else {
            return Unwatched {
                opens: now.less(met),
                since: Since::Boot,
            };
        };
        // A namespace that is gone took its counters with it; a new one began at 0.
        let cookies = first.counters.keys();
        let known = cookies.filter_map(|cookie| before.counters.get(cookie));
        let then = known.fold(before.met_since, |sum, opens| sum.plus(*opens));
        Unwatched {
            opens: now.less(then).less(met),
            since: match before.stopped {
                true => Since::Stop,
                false => Since::Kill,
            },
        }
    }
}

fn read(path: &Path) -> io::Result<Option<Standing>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Counters;

    const fn opens(clients: u64, servers: u64) -> Opened {
        Opened { clients, servers }
    }

    fn reading(netns_cookie: u64, opens: Opened) -> NamespaceReading {
        NamespaceReading {
            netns_cookie,
            counters: Counters {
                active_opens: Some(opens.clients),
                passive_opens: Some(opens.servers),
                ..Counters::default()
            },
            ..NamespaceReading::default()
        }
    }

    fn begin(directory: &Path, boot: &str) -> Absence {
        let (absence, read) = Absence::begin(Some(directory), boot);
        read.expect("no file, or a good one");
        absence
    }

    fn leave(absence: &mut Absence, met: Opened, stopped: bool) {
        let left = absence.leave(met, stopped);
        left.expect("all was read once")
            .write()
            .expect("it is written");
    }

    #[test]
    fn what_came_between_two_agents_is_nobodys() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut first = begin(directory.path(), "boot");
        assert_eq!(first.read(&reading(1, opens(100, 50)), opens(7, 0)), None);
        assert_eq!(first.read(&reading(2, opens(10, 5)), opens(8, 1)), None);
        // A second round: of the 110 and 55 that the kernel had counted, 8 and 1 were ours.
        let unwatched = first.read(&reading(1, opens(200, 60)), opens(108, 11));
        assert_eq!(
            unwatched,
            Some(Unwatched {
                opens: opens(102, 54),
                since: Since::Boot
            })
        );
        assert_eq!(first.read(&reading(2, opens(10, 5)), opens(108, 11)), None);
        // 9 more before it stops.
        leave(&mut first, opens(117, 11), true);

        let mut second = begin(directory.path(), "boot");
        // 209 and 60 in the first, of which 4 and 0 are ours; the second is gone; a third is new.
        assert_eq!(second.read(&reading(1, opens(263, 61)), opens(3, 0)), None);
        assert_eq!(second.read(&reading(3, opens(6, 0)), opens(4, 0)), None);
        let unwatched = second.read(&reading(1, opens(264, 61)), opens(5, 0));
        let expected = Unwatched {
            opens: opens(263 + 6 - 209 - 4, 1),
            since: Since::Stop,
        };
        assert_eq!(unwatched, Some(expected));
        assert_eq!(second.unwatched(), Some(expected));
    }

    #[test]
    fn a_stop_within_a_round_counts_nothing_twice() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut first = begin(directory.path(), "boot");
        for _ in 0..2 {
            first.read(&reading(1, opens(100, 0)), opens(0, 0));
            first.read(&reading(2, opens(1_000, 0)), opens(0, 0));
        }
        // 500 open in the second, and it is not read again.
        first.read(&reading(1, opens(100, 0)), opens(500, 0));
        leave(&mut first, opens(500, 0), true);
        let mut second = begin(directory.path(), "boot");
        second.read(&reading(1, opens(100, 0)), opens(0, 0));
        second.read(&reading(2, opens(1_507, 0)), opens(0, 0));
        let unwatched = second.read(&reading(1, opens(100, 0)), opens(0, 0));
        assert_eq!(unwatched.map(|it| it.opens), Some(opens(7, 0)));
    }

    #[test]
    fn who_was_killed_left_what_it_kept_last() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut killed = begin(directory.path(), "boot");
        for _ in 0..2 {
            killed.read(&reading(1, opens(10, 0)), opens(0, 0));
        }
        leave(&mut killed, opens(0, 0), false);
        let mut next = begin(directory.path(), "boot");
        next.read(&reading(1, opens(15, 0)), opens(1, 0));
        let unwatched = next.read(&reading(1, opens(15, 0)), opens(1, 0));
        assert_eq!(
            unwatched,
            Some(Unwatched {
                opens: opens(4, 0),
                since: Since::Kill
            })
        );
    }

    #[test]
    fn what_was_left_before_does_not_come_in_place_of_what_was_left_after() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut agent = begin(directory.path(), "boot");
        for _ in 0..2 {
            agent.read(&reading(1, opens(10, 0)), opens(0, 0));
        }
        let mut leave = |stopped| {
            let left = agent.leave(opens(0, 0), stopped);
            left.expect("all was read once")
        };
        let (earlier, later) = (leave(false), leave(true));
        later.write().expect("it is written");
        earlier.write().expect("it need not be written");
        let standing = read(&directory.path().join(FILE)).expect("a whole file");
        assert!(standing.expect("a file").stopped);
    }

    #[test]
    fn another_boot_began_to_count_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut before = begin(directory.path(), "one");
        for _ in 0..2 {
            before.read(&reading(1, opens(1_000, 0)), opens(0, 0));
        }
        leave(&mut before, opens(0, 0), true);
        let mut after = begin(directory.path(), "another");
        after.read(&reading(1, opens(3, 0)), opens(1, 0));
        let unwatched = after.read(&reading(1, opens(4, 0)), opens(2, 0));
        assert_eq!(
            unwatched.map(|it| (it.opens, it.since)),
            Some((opens(2, 0), Since::Boot))
        );
    }

    #[test]
    fn a_file_that_is_broken_is_told_and_written_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join(FILE), "{").expect("it is written");
        let (mut absence, read) = Absence::begin(Some(directory.path()), "boot");
        assert!(read.is_err());
        for _ in 0..2 {
            absence.read(&reading(1, opens(1, 1)), opens(0, 0));
        }
        leave(&mut absence, opens(0, 0), true);
        begin(directory.path(), "boot");
    }

    #[test]
    fn nothing_is_kept_before_all_was_read_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut absence = begin(directory.path(), "boot");
        absence.read(&reading(1, opens(1, 1)), opens(0, 0));
        assert!(absence.leave(opens(0, 0), true).is_none());
    }
}
