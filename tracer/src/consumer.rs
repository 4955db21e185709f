//! Who takes in what the engine puts out: a writer of rows, a diagnosis.

use bytes::BytesMut;

use crate::engine::Totals;
use crate::output::{Loss, Summary};
use crate::pipeline::Opened;
use crate::record::holding::HoldingChange;
use crate::record::{Call, Record, TransitionRow};
use crate::stream::{AccountReading, Inventory, Meta, Name, NamespaceReading, Sweep};
use crate::time::{Timestamp, WallOffset};

/// How the account stands at one time.
#[derive(Clone, Copy, Debug)]
pub struct Books<'a> {
    /// The time.
    pub now: Timestamp,
    /// What the engine has counted.
    pub totals: &'a Totals,
    /// What the kernel side has counted.
    pub reading: &'a AccountReading,
    /// Events that arrived.
    pub received: u64,
    /// Events that no program was run for.
    pub missed: u64,
}

/// The end of the pipeline. Text for stdout is appended to `out`; what a consumer does not want it
/// leaves alone.
pub trait Consumer {
    /// Whether it wants [`Self::holding`].
    const WANTS_HOLDINGS: bool = false;

    /// Whether it wants [`Self::namespace`].
    const WANTS_READINGS: bool = false;

    /// Whether it wants any [`Self::transition`], [`Self::close`], [`Self::end`] or [`Self::call`].
    fn wants_rows(&self) -> bool {
        true
    }

    /// The most connections that are to be followed at once for it. A command that somebody runs and
    /// ends follows all: what it leaves out would have to be told of with every answer.
    fn most_connections(&self) -> usize {
        usize::MAX
    }

    /// Whether it wants [`Self::name`]: looking names up costs something with every event.
    fn wants_names(&self) -> bool {
        false
    }

    /// What comes first, once.
    fn meta(&mut self, meta: &Meta, started: Timestamp, wall: WallOffset, out: &mut BytesMut);

    /// A state change, where they are asked for.
    fn transition(&mut self, _row: &TransitionRow, _wall: WallOffset, _out: &mut BytesMut) {}

    /// A verdict. Whatever the record knows of its end is told by [`Self::end`].
    fn close(&mut self, record: &Record, wall: WallOffset, out: &mut BytesMut);

    /// A tuple is free again.
    fn end(&mut self, record: &Record, wall: WallOffset, out: &mut BytesMut);

    /// A verdict, and with it the tuple is free again: [`Self::close`] and [`Self::end`] in one.
    fn over(&mut self, record: &Record, wall: WallOffset, out: &mut BytesMut) {
        self.close(record, wall, out);
        self.end(record, wall, out);
    }

    /// A tuple is held otherwise than before.
    fn holding(&mut self, _change: &HoldingChange) {}

    /// A system call failed.
    fn call(&mut self, _call: &Call, _wall: WallOffset, _out: &mut BytesMut) {}

    /// What something is called.
    fn name(&mut self, _name: &Name) {}

    /// Which sockets a network namespace held.
    fn inventory(&mut self, _inventory: &Inventory) {}

    /// The settings and counters of a network namespace, and which openings had been seen by then.
    fn namespace(&mut self, _reading: &NamespaceReading, _opened: Opened) {}

    /// Events were lost, in the place where they are missing.
    fn loss(&mut self, loss: &Loss, wall: WallOffset, out: &mut BytesMut);

    /// What a look at all network namespaces found.
    fn sweep(&mut self, sweep: &Sweep, wall: WallOffset, out: &mut BytesMut);

    /// How the account stands: told about once a second.
    fn tick(&mut self, _books: &Books<'_>) {}

    /// Its configuration may have changed (SIGHUP).
    fn reload(&mut self) {}

    /// It has all that it wants: the run may end before its time.
    fn is_done(&self) -> bool {
        false
    }

    /// What comes last.
    fn summary(&mut self, summary: &Summary, out: &mut BytesMut);

    /// The terminal has another size, of `(width, height)`.
    fn resize(&mut self, _size: Option<(u16, u16)>) {}
}
