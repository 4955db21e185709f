//! What crosses to the thread: a record and the names that it had.

use crate::attribution::Names;
use crate::record::{Record, Source};
use crate::time::WallOffset;

/// One connection whose tuple is free again, with the names that it had by then: a row of the
/// history.
///
/// It is made where the events come in, so it is a copy and no more: what follows from the cgroup's
/// path (unit, container, pod) is worked out where the row is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub(crate) record: Record,
    pub(crate) wall: WallOffset,
    pub(crate) cgroup: Option<Box<str>>,
    pub(crate) cgroup_source: Source,
    pub(crate) netns_name: Option<Box<str>>,
}

impl Row {
    /// The row of `record` as [`crate::consumer::Consumer::end`] or
    /// [`over`](crate::consumer::Consumer::over) tells it: one call a connection. Names are looked
    /// up now, since they are forgotten later.
    #[inline]
    #[must_use]
    pub fn of(record: &Record, wall: WallOffset, names: &Names) -> Self {
        let (group, cgroup_source) = names.group_and_source(record);
        Self {
            record: record.clone(),
            wall,
            cgroup: group.map(|group| group.path.as_str().into()),
            cgroup_source,
            netns_name: names.netns(record.netns).map(Into::into),
        }
    }

    /// When it ended, in nanoseconds since 1970 by the wall's clock: the date that it is filed
    /// under. Where the end was not seen, what was seen last counts.
    pub(super) fn filed_under(&self) -> Option<i128> {
        let record = &self.record;
        let last = record.ended_at.or(record.closed_at).or(record.opened_at)?;
        Some(self.wall.unix_nanoseconds(last))
    }
}
