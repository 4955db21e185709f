//! The peer's half of one connection: where both sequence numbers are, so that scripts need not
//! count. A segment of a script says nothing but how it differs from the one that is due.

use std::net::SocketAddr;

use crate::segment::{Flags, Segment};

/// The window that we offer unless a script says another.
const WINDOW: u16 = 65_535;

/// A sequence number as scripts write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// So far from the next one that is due: `+5`, `-1`.
    Relative(i32),
    /// Counted from the SYN, which is 0: `7`.
    Absolute(u32),
    /// Whatever it is: `any`.
    Any,
}

/// The number that is meant, counted from the first or from the next one; `None`: any.
fn resolve(position: Option<Position>, (first, next): (u32, u32)) -> Option<u32> {
    match position {
        None => Some(next),
        // Sequence numbers wrap around.
        Some(Position::Relative(by)) => Some(next.wrapping_add_signed(by)),
        Some(Position::Absolute(offset)) => Some(first.wrapping_add(offset)),
        Some(Position::Any) => None,
    }
}

/// A segment of a script, sent to the kernel or expected from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pub flags: Flags,
    /// Nothing said: where the next one is due, and the segment moves the number on.
    pub seq: Option<Position>,
    pub ack: Option<Position>,
    pub data: u32,
    pub window: Option<u16>,
    /// Sent: in a SYN, it offers time stamps. Expected: whether there are some is not looked at.
    pub timestamps: bool,
    /// Sent: so far from the clock of our time stamps.
    pub clock: i32,
    /// It was sent before: it does not move the numbers on.
    pub again: bool,
}

/// How far our numbers move on between two connections of one tuple.
const NEXT_INCARNATION: u32 = 1_000_000;

/// One connection, seen from the peer.
#[derive(Debug)]
pub struct Talk {
    pub peer: SocketAddr,
    /// The kernel's end, once it is known.
    pub local: Option<SocketAddr>,
    /// Our first and next sequence number.
    ours: (u32, u32),
    /// The kernel's.
    theirs: (u32, u32),
    /// Where our numbers begin if the kernel takes the SYN that we sent into a used tuple.
    reopening: Option<(u32, u32)>,
    used: bool,
    /// The last acknowledgement from the kernel.
    acknowledged: u32,
    timestamps: bool,
    clock: u32,
    echo: u32,
    sent: Vec<Segment>,
    heard: Vec<Segment>,
}

impl Talk {
    /// One that has not begun; the numbers of our half begin here.
    pub fn new(peer: SocketAddr, first: u32) -> Self {
        Self {
            peer,
            local: None,
            ours: (first, first),
            theirs: (0, 0),
            reopening: None,
            used: false,
            acknowledged: first,
            timestamps: false,
            clock: first,
            echo: 0,
            sent: Vec::new(),
            heard: Vec::new(),
        }
    }

    /// The segment that a line of the script sends.
    pub fn compose(&mut self, line: &Line) -> Result<Segment, String> {
        let local = self.local.ok_or("where the kernel's end is is not known")?;
        if line.again {
            let like = |sent: &&Segment| (sent.flags, sent.data) == (line.flags, line.data);
            let sent = *self
                .sent
                .iter()
                .rev()
                .find(like)
                .ok_or("no such segment was sent")?;
            return Ok(self.stamped(sent, line));
        }
        let seq = resolve(line.seq, self.ours);
        let ack = resolve(line.ack, self.theirs);
        let segment = Segment {
            from: self.peer,
            to: local,
            flags: line.flags,
            seq: seq.ok_or("a segment that is sent has a sequence number")?,
            ack: if line.flags.ack {
                ack.ok_or("a segment that is sent has an acknowledgement")?
            } else {
                0
            },
            window: line.window.unwrap_or(WINDOW),
            data: line.data,
            timestamps: None,
        };
        let after = segment.seq.wrapping_add(segment.length());
        if line.flags.syn {
            self.timestamps = line.timestamps;
            if self.used && !line.flags.ack {
                self.reopening = Some((segment.seq, after));
            } else {
                self.used = true;
                self.ours = (segment.seq, after);
            }
        } else if line.seq.is_none() {
            self.ours.1 = after;
        }
        let segment = self.stamped(segment, line);
        self.sent.push(segment);
        Ok(segment)
    }

    fn stamped(&mut self, segment: Segment, line: &Line) -> Segment {
        self.clock = self.clock.wrapping_add(1);
        let value = self.clock.wrapping_add_signed(line.clock);
        Segment {
            timestamps: self.timestamps.then_some((value, self.echo)),
            ..segment
        }
    }

    /// Holds a segment from the kernel to a line of the script.
    pub fn judge(&mut self, line: &Line, segment: &Segment) -> Result<(), String> {
        if segment.flags != line.flags || segment.data != line.data {
            return Err("other control bits or data".to_owned());
        }
        if line.again {
            if !self.is_repeat(segment) {
                return Err("it did not come before".to_owned());
            }
            return Ok(());
        }
        let mut ours = self.ours;
        if segment.flags.syn {
            if let Some(reopened) = self
                .reopening
                .filter(|reopened| segment.flags.ack && segment.ack == reopened.1)
            {
                self.reopening = None;
                ours = reopened;
            }
        } else {
            // A SYN says where the numbers begin.
            let due = resolve(line.seq, self.theirs);
            within("sequence number", segment.seq, due, self.theirs.1)?;
        }
        if segment.flags.ack {
            let due = resolve(line.ack, ours);
            within("acknowledgement", segment.ack, due, ours.1)?;
        }
        self.ours = ours;
        let after = segment.seq.wrapping_add(segment.length());
        if segment.flags.syn && !segment.flags.ack && self.used {
            // The kernel connects anew, from a tuple that we know.
            let first = self.ours.1.wrapping_add(NEXT_INCARNATION);
            self.ours = (first, first);
            self.used = false;
        }
        if segment.flags.syn {
            self.theirs = (segment.seq, after);
        } else if line.seq.is_none() && !segment.flags.rst {
            self.theirs.1 = after;
        }
        if let Some((value, _)) = segment.timestamps {
            self.echo = value;
        }
        if segment.flags.ack {
            self.acknowledged = segment.ack;
        }
        self.local = Some(segment.from);
        self.heard.push(*segment);
        Ok(())
    }

    /// Whether the kernel sent this before: it was not answered in time.
    fn is_repeat(&self, segment: &Segment) -> bool {
        self.heard.iter().any(|heard| {
            segment.length() > 0
                && (heard.seq, heard.flags, heard.data)
                    == (segment.seq, segment.flags, segment.data)
        })
    }

    /// Whether it may be passed over: the kernel sent it before, or had an ACK in store.
    pub fn passes_over(&mut self, segment: &Segment) -> bool {
        let ack_alone = Flags {
            ack: true,
            ..Flags::default()
        };
        // An ACK that is delayed comes or goes with the next segment, as the clock will have it.
        let delayed = (segment.flags, segment.data, segment.ack) == (ack_alone, 0, self.ours.1)
            && self.acknowledged != self.ours.1;
        if delayed {
            self.acknowledged = segment.ack;
        }
        delayed || self.is_repeat(segment)
    }

    /// The segment with its numbers counted from those that are due, for messages.
    pub fn describe(&self, segment: &Segment, from_kernel: bool) -> String {
        let (seq, ack) = if from_kernel {
            (self.theirs, self.ours)
        } else {
            (self.ours, self.theirs)
        };
        let relative = |number: u32, due: u32| number.wrapping_sub(due) as i32;
        format!(
            "{} {} seq={:+} ack={:+} data={}",
            if from_kernel { '>' } else { '<' },
            segment.flags,
            relative(segment.seq, seq.1),
            relative(segment.ack, ack.1),
            segment.data,
        )
    }
}

fn within(what: &str, number: u32, due: Option<u32>, next: u32) -> Result<(), String> {
    match due {
        Some(due) if due != number => Err(format!(
            "its {what} is {:+}, not {:+}, from the one that is due",
            number.wrapping_sub(next) as i32,
            due.wrapping_sub(next) as i32,
        )),
        _ => Ok(()),
    }
}
